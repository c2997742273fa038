"""The one training loop: steps, evaluation, history. Recipes supply passes and losses.

The loop sees training and validation images only; nothing here can read a test set. Everything
random follows from (seed, epoch) or (seed, step), so an epoch begun again gives the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch
from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.training import collectives
from ndtool.training.freeze import hold_frozen
from ndtool.training.graphs import Steps, make_steps
from ndtool.training.images.augment import Normalizer
from ndtool.training.images.batches import EvalBatches, TrainBatches
from ndtool.training.metrics import EpochFigures
from ndtool.training.recalibrate import recalibrate, recalibration_batches
from ndtool.training.recipes.method import Method, Targets
from ndtool.training.schedule import Moment, Schedule, make_schedule
from ndtool.training.step import CLIPPED, GRAD_NORM, Guard
from ndtool.training.supernet import Supernet, Width, copy_student

EVAL_BATCH: Final = 256
CHECK_EVERY: Final = 200  # steps between two looks at the guard, which wait for the device
HISTORY_COLUMNS: Final = (
    "epoch",
    "lr",
    "student_loss",
    "assistant_loss",
    "teacher_loss",
    "augmented_loss",
    "val_accuracy",
    "val_accuracy_teacher",
    "conflict_rate",
    "largest_c",
    "kl_share",
    GRAD_NORM,
    CLIPPED,
    "skipped_steps",
    "step_seconds",  # of the steps alone, evaluation not counted
    "cpu_seconds",  # of the same, processor time of this process
    "seconds",
)
TIME_COLUMNS: Final = ("step_seconds", "cpu_seconds", "seconds")  # all else follows from the seed
HistoryRow = dict[str, float | None]  # by HISTORY_COLUMNS; None: the recipe has no such figure
External = Callable[[Tensor], Tensor]  # uint8 images (B, H, W, C) -> an outer teacher's logits


class Progress(Protocol):
    """Who is told of each step; `ndtool.console.Progress` is one."""

    def update(self, done: int, note: str = "") -> None:
        """`done` steps of the whole run are finished; `note` is the epoch and its last result."""
        ...


@dataclass(slots=True, eq=False)
class TrainState:
    """All that a resumed run needs; buffers in the networks, the rest plain numbers.

    Between epochs `net` holds everything. Within one, steps without a teacher run on `alone`, the
    student in buffers of its own: nothing else of `net` moves, and such a step is bit for bit one
    of plain training (training-methods, 1.10).
    """

    net: Supernet
    alone: Supernet | None = None  # where some steps have no teacher
    ema: Supernet | None = None  # the student's moving average
    ends: tuple[int, ...] = ()  # epochs: where the run ends, and did end before it was extended
    epoch: int = 0  # epochs finished
    step: int = 0  # steps made, skipped ones included
    skipped_in_row: int = 0  # steps without a finite gradient up to now
    best_accuracy: float = -1.0  # of the student on the validation split
    best_epoch: int = 0
    best_sha256: str = ""  # of best.pt; empty where the last epoch is the best: it is a copy
    history: list[HistoryRow] = field(default_factory=list)
    _alone_is_newer: bool = False

    def network(self, *, taught: bool) -> Supernet:
        """The network of the next step, with the student as the last step left it."""
        if self.alone is None:
            return self.net
        if taught and self._alone_is_newer:
            copy_student(self.alone, self.net)
        elif not taught and not self._alone_is_newer:
            copy_student(self.net, self.alone)
        self._alone_is_newer = not taught
        return self.net if taught else self.alone

    @property
    def student(self) -> Width:
        """The student that is evaluated and kept; `net` must hold everything."""
        return self.net.student if self.ema is None else self.ema.student


def average_student(ema: Supernet, net: Supernet, *, decay: float, step: int) -> None:
    """Move the average towards the student of `net` after `step`, running statistics included.

    The decay rises to its value over the first steps, so that the average forgets the random
    weights it began with.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    ema.theta.lerp_(net.theta[net.student_index], weight)
    ema.statistics.lerp_(net.student_statistics, weight)


def accuracy(width: Width, data: EvalBatches, normalize: Normalizer) -> float:
    """`top1` with the network's own running statistics."""
    device = next(iter(width.tensors.values())).device
    return top1(lambda images: width(normalize(images), training=False), data, device)


@torch.no_grad()
def top1(network: External, data: EvalBatches, device: torch.device) -> float:
    """Accuracy 0..1 of a function from images to logits; waits for the device once."""
    correct = torch.zeros((), dtype=torch.int64, device=device)
    for images, labels in data.ordered(EVAL_BATCH):
        correct += (network(images).argmax(1) == labels).sum()
    collectives.total_(correct)
    return int(correct) / len(data)


def fit(
    state: TrainState,
    method: Method,
    *,
    options: TrainOptions,
    train: TrainBatches,
    val: EvalBatches,
    normalize: Normalizer,
    external: External | None,
    progress: Progress,
    after_epoch: Callable[[TrainState, bool], None],
) -> None:
    """Train from `state.epoch` to the last epoch.

    Args:
        state: changed in place.
        options: resolved; epochs, crop_px and flip are set.
        external: the outer teacher, where the method has one.
        after_epoch: called with the state and whether this epoch is the best so far (by the
            student's validation accuracy; the earlier one wins a tie).

    Raises:
        ConfigError: training diverged.
        InputError: another process is gone, or has come to other weights.
    """
    schedule = make_schedule(options, len(train), state.ends)
    steps = make_steps(options, normalize)
    while state.epoch < state.ends[-1]:
        hold_frozen(state.net, options, state.epoch)
        rearranged = method.before_epoch is not None and method.before_epoch(
            state.net, Moment(state.step, schedule.ends[0])
        )
        if rearranged and state.ema is not None:
            copy_student(state.net, state.ema)  # an average over other channels means nothing
        started, cpu_started = time.perf_counter(), time.process_time()
        row, taught = _train_epoch(
            state,
            method,
            options=options,
            train=train,
            steps=steps,
            external=external,
            schedule=schedule,
            progress=progress,
        )
        row["step_seconds"] = round(time.perf_counter() - started, 3)
        row["cpu_seconds"] = round(time.process_time() - cpu_started, 3)
        state.epoch += 1
        net = state.network(taught=True)
        if method.augmented:
            evaluated = net if state.ema is None else state.ema
            recalibrate(evaluated, recalibration_batches(train, normalize, options))
        # Each process normalised its own part of the batches (training-methods, section 8). Held
        # statistics are the same everywhere, and the mean of three equal numbers need not be.
        if net.held is None:
            collectives.average_(net.statistics)
            if state.ema is not None:
                collectives.average_(state.ema.statistics)
        collectives.require_same_weights(net.theta)
        row["val_accuracy"] = score = accuracy(state.student, val, normalize)
        if net.teacher and taught:
            row["val_accuracy_teacher"] = accuracy(net.teacher, val, normalize)
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
    train: TrainBatches,
    steps: Steps,
    external: External | None,
    schedule: Schedule,
    progress: Progress,
) -> tuple[HistoryRow, bool]:
    """One pass over the training split; gives its figures, and whether any step had a teacher."""
    device = state.net.theta.device
    tallies = {
        taught: EpochFigures((*one.means, GRAD_NORM, CLIPPED), one.peaks, device)
        for taught, one in ((True, method), (False, method.alone))
        if one is not None
    }
    guard = Guard(state.skipped_in_row, options.max_skipped, device)
    note = f"epoch {state.epoch + 1}/{state.ends[-1]}"
    if state.history:
        note += f" val {100 * state.best_accuracy:.1f} %"
    lr, any_taught = 0.0, False
    for number, (pixels, labels) in enumerate(train.epoch(state.epoch, options.batch_size)):
        taught = method.alone is None or method.teaching.on(state.step, schedule.ends[0])
        any_taught |= taught
        active = method if method.alone is None or taught else method.alone
        net = state.network(taught=taught)
        soft = external(pixels) if external is not None and active.external else None
        lr = schedule.lr(state.step)
        moment = Moment(state.step, schedule.ends[0])
        figures, applied = steps(net, active, pixels, Targets(labels, soft), moment=moment, lr=lr)
        if state.ema is not None:
            average_student(state.ema, net, decay=options.ema, step=state.step)
        tallies[taught].add(figures, applied)
        guard.count(applied)
        if number % CHECK_EVERY == CHECK_EVERY - 1:
            guard.read(state.epoch + 1)
        state.step += 1
        progress.update(state.step, note)
    state.skipped_in_row, skipped = guard.read(state.epoch + 1)
    row: HistoryRow = {"lr": lr, "skipped_steps": float(skipped)}
    for taught in sorted(tallies):  # a loss that both kinds of step have is shown of the taught
        row |= {k: v for k, v in tallies[taught].read().items() if v is not None}
    return row, any_taught
