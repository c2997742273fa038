"""The one training loop: schedule, step, evaluation, history. Recipes supply losses and gradients.

The loop sees training and validation arrays only; nothing here can read a test set. Everything
random follows from (seed, epoch), so an epoch begun again gives the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch
from torch import Tensor

from ndtool.data.types import Augment, Split
from ndtool.errors import ConfigError
from ndtool.options import TrainOptions
from ndtool.training.augment import Normalizer, augment_batch, draw_epoch
from ndtool.training.metrics import EpochFigures
from ndtool.training.recipes.method import Figures, Method
from ndtool.training.seeds import Use, generator
from ndtool.training.supernet import Supernet, Width

EVAL_BATCH: Final = 256
MAX_SKIPPED: Final = 20  # steps in a row without a finite gradient that end a run
GRAD_NORM: Final = "grad_norm"
CLIPPED: Final = "clipped_share"
HISTORY_COLUMNS: Final = (
    "epoch",
    "lr",
    "student_loss",
    "teacher_loss",
    "val_accuracy",
    "val_accuracy_teacher",
    "conflict_rate",
    "largest_c",
    "kl_share",
    GRAD_NORM,
    CLIPPED,
    "skipped_steps",
    "seconds",
)
HistoryRow = dict[str, float | None]  # by HISTORY_COLUMNS; None: the recipe has no such figure


class Progress(Protocol):
    """Who is told of each step; `ndtool.console.Progress` is one."""

    def update(self, done: int, note: str = "") -> None:
        """`done` steps of the whole run are finished; `note` is the epoch and its last result."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """A split on the device."""

    images: Tensor  # (N, H, W, C) uint8
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)


def to_device(split: Split, device: torch.device | str) -> Arrays:
    """The split's arrays as tensors; without a copy where torch allows it."""
    images = split.images if split.images.flags.writeable else split.images.copy()
    labels = split.labels if split.labels.flags.writeable else split.labels.copy()
    return Arrays(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))


@dataclass(slots=True, eq=False)
class TrainState:
    """All that a resumed run needs; buffers in `net`, the rest plain numbers."""

    net: Supernet
    epoch: int = 0  # epochs finished
    step: int = 0  # steps made, skipped ones included
    skipped_in_row: int = 0  # steps without a finite gradient up to now
    best_accuracy: float = -1.0  # of the student on the validation split
    best_epoch: int = 0
    history: list[HistoryRow] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate by step: linear warm-up to `peak`, then cosine to 0 (training-methods, 1.7)."""

    peak: float
    warmup_steps: int
    total_steps: int

    def lr(self, step: int) -> float:
        """Rate of step 0 .. total_steps - 1; it would be 0 at total_steps."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return self.peak * 0.5 * (1 + math.cos(math.pi * share))


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Whole batches; a set smaller than one batch is one step."""
    return max(1, samples // batch_size)


def make_schedule(options: TrainOptions, samples: int) -> Schedule:
    """The schedule of a whole run over `samples` training images."""
    assert options.epochs is not None
    total = options.epochs * steps_per_epoch(samples, options.batch_size)
    return Schedule(options.lr, round(options.warmup * total), total)


class Guard:
    """Counts steps without a finite gradient, on the device (training-methods, 1.8)."""

    def __init__(self, in_row: int, device: torch.device | str) -> None:
        self._in_row = torch.full((), in_row, dtype=torch.int64, device=device)
        self._longest = torch.zeros((), dtype=torch.int64, device=device)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)

    def count(self, applied: Tensor) -> None:
        """Note one step; `applied` is a 0-d bool tensor."""
        self._in_row = torch.where(applied, 0, self._in_row + 1)
        self._longest = torch.maximum(self._longest, self._in_row)
        self._skipped += ~applied

    def read(self, epoch: int) -> tuple[int, int]:
        """(steps skipped in a row up to now, steps skipped since the start); waits for the device.

        Raises:
            ConfigError: MAX_SKIPPED steps in a row were skipped.
        """
        in_row, longest, skipped = torch.stack(
            (self._in_row, self._longest, self._skipped)
        ).tolist()
        if longest >= MAX_SKIPPED:
            raise ConfigError(
                f"training diverged: {longest} steps in a row had a loss or gradient that is not"
                " finite",
                where=f"epoch {epoch}",
                remedy="use a smaller --lr, or clip harder with --clip-norm",
                code="train.diverged",
            )
        return in_row, skipped


def train_step(
    net: Supernet,
    method: Method,
    images: Tensor,
    labels: Tensor,
    *,
    lr: float,
    options: TrainOptions,
) -> tuple[Figures, Tensor]:
    """One step (training-methods, 1.5) on images (B, C, H, W); never waits for the device.

    Gives the step's figures and whether it was applied (0-d bool): a step whose loss or gradient
    is not finite leaves weights, momentum and running statistics as they were.
    """
    net.zero_grad()
    statistics = net.statistics.clone()
    figures: dict[str, Tensor] = {}

    # Forward and backward of each network, the widest (teacher) first: the narrower ones learn
    # from its detached logits (1.2). Its activations are gone before the next pass starts.
    made: list[Tensor] = []
    for width, loss_of in zip(net.widths, method.losses, strict=True):
        logits = width(images, training=True)  # (B, K)
        loss, more = loss_of(logits, labels, made)
        torch.autograd.backward(loss)  # into the flat buffers
        made.append(logits.detach())
        figures |= more

    # Join the gradients on the shared slice: sum or surgery (1.3). A data-parallel run would
    # reduce the buffers before this: projection is not linear.
    for width in net.widths:
        if width.slice is not None:
            figures |= method.combine(net.grad, width.slice)

    # Clip what will be applied; skip where anything is not finite (1.5, 1.8).
    norm = torch.linalg.vector_norm(net.grad)
    applied = torch.stack([norm, *figures.values()]).isfinite().all()
    figures[GRAD_NORM] = norm
    figures[CLIPPED] = torch.zeros_like(norm)
    if options.clip_norm > 0:
        net.grad.mul_((options.clip_norm / (norm + 1e-6)).clamp_max(1.0))
        figures[CLIPPED] = (norm > options.clip_norm).float()

    sgd_nesterov(net, lr=lr, options=options, applied=applied)
    torch.where(applied, net.statistics, statistics, out=net.statistics)
    return figures, applied


def sgd_nesterov(net: Supernet, *, lr: float, options: TrainOptions, applied: Tensor) -> None:
    """g += wd theta (shared weights only); v = mu v + g; theta -= lr (g + mu v); flat kernels.

    Where `applied` is false nothing moves: momentum is kept by a factor of 1, theta by a rate of
    0, and the gradient is replaced, since 0 times NaN is NaN.
    """
    grad, momentum, theta = net.grad, net.momentum, net.theta
    decayed = net.layout.decayed
    grad[:decayed].add_(theta[:decayed], alpha=options.weight_decay)
    grad.masked_fill_(~applied, 0.0)
    momentum.mul_(torch.where(applied, options.momentum, 1.0)).add_(grad)
    grad.add_(momentum, alpha=options.momentum)
    theta.addcmul_(grad, torch.where(applied, -lr, 0.0))


@torch.no_grad()
def accuracy(width: Width, data: Arrays, normalize: Normalizer) -> float:
    """Top-1 accuracy 0..1 with the network's own running statistics; waits for the device once."""
    correct = torch.zeros((), dtype=torch.int64, device=data.labels.device)
    for start in range(0, len(data), EVAL_BATCH):
        batch = slice(start, start + EVAL_BATCH)
        logits = width(normalize(data.images[batch]), training=False)  # (B, K)
        correct += (logits.argmax(1) == data.labels[batch]).sum()
    return int(correct) / len(data)


def fit(
    state: TrainState,
    method: Method,
    *,
    options: TrainOptions,
    train: Arrays,
    val: Arrays,
    normalize: Normalizer,
    progress: Progress,
    after_epoch: Callable[[TrainState, bool], None],
) -> None:
    """Train from `state.epoch` to the last epoch.

    Args:
        state: changed in place.
        options: resolved; epochs, crop_px and flip are set.
        after_epoch: called with the state and whether this epoch is the best so far (by the
            student's validation accuracy; the earlier one wins a tie).

    Raises:
        ConfigError: training diverged.
    """
    assert options.epochs is not None
    schedule = make_schedule(options, len(train))
    while state.epoch < options.epochs:
        started = time.perf_counter()
        row = _train_epoch(
            state,
            method,
            options=options,
            train=train,
            normalize=normalize,
            schedule=schedule,
            progress=progress,
        )
        state.epoch += 1
        teacher = state.net.teacher
        row["val_accuracy"] = score = accuracy(state.net.student, val, normalize)
        row["val_accuracy_teacher"] = accuracy(teacher, val, normalize) if teacher else None
        row["epoch"] = state.epoch
        row["seconds"] = round(time.perf_counter() - started, 3)
        state.history.append({column: row.get(column) for column in HISTORY_COLUMNS})
        best = score > state.best_accuracy
        if best:
            state.best_accuracy, state.best_epoch = score, state.epoch
        after_epoch(state, best)


def _train_epoch(
    state: TrainState,
    method: Method,
    *,
    options: TrainOptions,
    train: Arrays,
    normalize: Normalizer,
    schedule: Schedule,
    progress: Progress,
) -> HistoryRow:
    """One pass over the training split; gives its figures."""
    assert options.crop_px is not None
    assert options.flip is not None
    device, epoch = train.labels.device, state.epoch
    augment = Augment(crop_px=options.crop_px, flip=options.flip)
    draws = draw_epoch(augment, len(train), seed=options.seed, epoch=epoch, device=device)
    shuffle = generator(options.seed, Use.ORDER, epoch)
    order = torch.randperm(len(train), generator=shuffle).to(device)
    figures = EpochFigures((*method.means, GRAD_NORM, CLIPPED), method.peaks, device)
    guard = Guard(state.skipped_in_row, device)
    note = f"epoch {epoch + 1}/{options.epochs}"
    if state.history:
        note += f" val {100 * state.best_accuracy:.1f} %"
    lr = 0.0
    for number in range(steps_per_epoch(len(train), options.batch_size)):
        index = order[number * options.batch_size : (number + 1) * options.batch_size]  # (B,)
        lr = schedule.lr(state.step)
        images = normalize(augment_batch(train.images, index, augment, draws))
        step_figures, applied = train_step(
            state.net, method, images, train.labels[index], lr=lr, options=options
        )
        figures.add(step_figures, applied)
        guard.count(applied)
        state.step += 1
        progress.update(state.step, note)
    state.skipped_in_row, skipped = guard.read(epoch + 1)
    return figures.read() | {"lr": lr, "skipped_steps": float(skipped)}
