"""The train stage: images in, checkpoints and history out.

Writes train/checkpoint.pt, best.pt, history.csv and train.log only; contract, labels, split and
manifest are the caller's. After a kill the last epoch's checkpoint is on disk, and `resume` gives
the bits of a run that was never stopped (CPU, same torch version).
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import torch

from ndtool import console
from ndtool.arch import ArchSpec
from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.data.types import Augment, Split
from ndtool.errors import ConfigError, DataError
from ndtool.machine import usable_cores
from ndtool.options import MAX_RATES, RATE_BOUNDS, TRAIN_BOUNDS, WORD_OF, TrainOptions
from ndtool.prepare import NOT_COMPARED
from ndtool.rundir import BEST, CHECKPOINT, HISTORY, TRAIN_LOG, RunDir, Value
from ndtool.training import checkpoint, collectives
from ndtool.training.augment import Normalizer
from ndtool.training.batches import Shuffled, to_device
from ndtool.training.checkpoint import Identity
from ndtool.training.loop import HISTORY_COLUMNS, HistoryRow, Progress, TrainState, fit
from ndtool.training.memory import kept_memory
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.method import Method
from ndtool.training.seeds import Use, generator
from ndtool.training.supernet import Supernet, copy_student
from ndtool.types import Sha256

MAX_DEFAULT_THREADS: Final = 4  # more gave nothing on nets this small


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What training gave; accuracies are fractions on the validation split."""

    epochs: int
    best_epoch: int
    best_val_accuracy: float
    last_val_accuracy: float
    teacher_val_accuracy: float | None  # at the last epoch; None without a teacher
    resumed_from: int  # epochs that a checkpoint brought; 0: none
    seconds: float  # of all epochs, those before a resume included
    images_per_s: float  # training and validation together, student and teacher
    threads: int
    files: tuple[str, ...]  # written into the run folder


def train(
    options: TrainOptions,
    run: RunDir,
    *,
    spec: ArchSpec,
    contract: Contract,
    train: Split,
    val: Split,
    resume: bool,
    progress: Progress,
) -> TrainResult:
    """Train `spec` and keep the epoch that is best on `val`.

    Args:
        options: resolved; epochs, crop_px and flip are set.
        resume: go on from the run's checkpoint where there is one.

    Raises:
        ConfigError: an option out of bounds, no such device, training diverged, or a resume with
            other options than the checkpoint's.
        DataError: a split that does not fit the contract, or is too small.
        InputError: the checkpoint to resume from is broken.
    """
    check_options(options)
    _check_splits(contract, train, val, options)
    device = find_device(options.device)
    method = METHODS[options.recipe](options, spec.classes)
    found = checkpoint.load(run / CHECKPOINT) if resume and run.has(CHECKPOINT) else None
    identity = Identity(
        spec=spec,
        contract=contract,
        options=plain_options(options),
        rates=method.rates,
        data=_data_sha256(train, val),
        torch=str(torch.__version__),  # a subclass of str otherwise
        threads=_threads(options) if found is None else found.identity.threads,
    )
    if found is None:
        state = _begin(spec, method, options, device)
    else:
        _check_resume(found.identity, identity)
        state = found.state(device)
        state.alone = _alone(spec, method, device)
    state.ends = _ends(options, state)
    resumed_from = state.epoch
    assert options.crop_px is not None
    assert options.flip is not None
    augment = Augment(crop_px=options.crop_px, flip=options.flip)

    def after_epoch(state: TrainState, best: bool) -> None:  # noqa: FBT001  (fit's callback)
        # best.pt first: a kill in between repeats this epoch, and writes the same best again.
        if best:
            checkpoint.save(run / BEST, state, identity)
        checkpoint.save(run / CHECKPOINT, state, identity)
        _write_history(run, state.history)

    _write_history(run, state.history)
    with _thread_count(identity.threads), kept_memory():
        fit(
            state,
            method,
            options=options,
            train=Shuffled(to_device(train, device), augment, options.seed),
            val=to_device(val, device),
            normalize=Normalizer(contract, device),
            external=None,
            progress=progress,
            after_epoch=after_epoch,
        )
    return _result(state, identity, resumed_from=resumed_from, images=len(train) + len(val))


def _begin(
    spec: ArchSpec, method: Method, options: TrainOptions, device: torch.device
) -> TrainState:
    """Fresh weights. A student that starts without its teacher starts as a plain one does."""
    init = generator(options.seed, Use.INIT)
    alone = _alone(spec, method, device)
    if alone is not None and method.teaching.start > 0:
        rest = generator(options.seed, Use.REMAINDER)
        net = Supernet(spec, rates=method.rates, generator=rest, device=device)
        copy_student(Supernet(spec, rates=(), generator=init, device=device), net)
    else:
        net = Supernet(spec, rates=method.rates, generator=init, device=device)
    ema = None
    if options.ema > 0:
        ema = Supernet(spec, rates=(), generator=None, device=device)
        copy_student(net, ema)
    return TrainState(net=net, alone=alone, ema=ema)


def _alone(spec: ArchSpec, method: Method, device: torch.device) -> Supernet | None:
    """Buffers for the steps without a teacher, where the method has any."""
    return Supernet(spec, rates=(), generator=None, device=device) if method.alone else None


def _ends(options: TrainOptions, state: TrainState) -> tuple[int, ...]:
    """Epochs at which the run ends, and did end before it was extended.

    Raises:
        ConfigError: the run was extended further before.
    """
    assert options.epochs is not None
    last = options.epochs + options.extend_epochs
    known = state.ends or (options.epochs,)
    if last < known[-1]:
        raise ConfigError(
            f"the checkpoint is of a run over {known[-1]} epochs, {last} are asked for",
            where="--extend-epochs",
            remedy=f"use {known[-1] - options.epochs} or more, or another --name",
            code="train.shorter",
        )
    return known if last == known[-1] else (*known, last)


def find_device(name: str) -> torch.device:
    """The device of auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: another word, or a GPU that is not there.
    """
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    index = int(number) if number.isascii() and number.isdecimal() and len(number) < 4 else 0
    if kind == "cuda" and name in ("cuda", f"cuda:{index}") and index < count:
        return torch.device("cuda", index)
    raise ConfigError(
        f"no device {visible(name)}, this machine has {count} CUDA devices that torch can use",
        where="--device",
        remedy="use auto or cpu",
        code="train.device",
    )


def plain_options(options: TrainOptions) -> dict[str, Value]:
    """The options as numbers and texts, for the checkpoint."""
    values = asdict(options).items()
    return {k: ",".join(map(str, v)) if isinstance(v, tuple) else _plain(v) for k, v in values}


def _plain(value: Value) -> Value:
    return str(value) if isinstance(value, str) else value  # an enum's text without its class


def check_options(options: TrainOptions) -> None:
    """Numbers of any origin within `TRAIN_BOUNDS`; names the first bad one as the user writes it.

    Raises:
        ConfigError: a value is out of bounds or not finite.
    """
    for field, (low, high) in TRAIN_BOUNDS.items():
        value = getattr(options, field)
        if not (math.isfinite(value) and low <= value <= high):
            raise ConfigError(
                f"{value} is out of bounds",
                where=f"--{WORD_OF.get(field, field).replace('_', '-')}",
                remedy=f"use {low} to {high}",
                code="train.option",
            )
    _check_together(options)


def _check_together(options: TrainOptions) -> None:
    """What the bounds of single options do not say."""
    low, high = RATE_BOUNDS
    rates, parts = options.expand, options.accumulate * collectives.world()
    distinct = len(set(rates)) == len(rates) and 1 <= len(rates) <= MAX_RATES
    bad = None
    if not distinct or not all(low <= rate <= high for rate in rates):
        text = ",".join(map(str, rates))
        bad = ("--expand", f"{text} are no widths", f"use 1 to {MAX_RATES} of {low} to {high}")
    elif options.teacher_stop < options.teacher_start:
        bad = ("--teacher-stop", "the teacher leaves before it joins", "use a later share")
    elif options.batch_size % parts or options.batch_size // parts < 2:
        bad = (
            "--batch-size",
            f"{options.batch_size} images cannot be split into {parts} parts of 2 or more",
            "use a multiple of --accumulate times the number of processes",
        )
    if bad:
        raise ConfigError(bad[1], where=bad[0], remedy=bad[2], code="train.option")


def _check_splits(contract: Contract, train: Split, val: Split, options: TrainOptions) -> None:
    want = (contract.input.height, contract.input.width, contract.input.channels)
    # A set smaller than a batch is one step of its own; only whole batches come in parts.
    split_up = options.accumulate * collectives.world() > 1
    enough = options.batch_size if split_up else 2
    for name, split, least in (("training", train, enough), ("validation", val, 1)):
        if len(split) < least:
            raise DataError(
                f"{len(split)} {name} images, at least {least} needed",
                where=f"{name} split",
                remedy="add images, or check the split",
                code="train.too-few",
            )
        classes = range(contract.num_classes)
        labels_fit = int(split.labels.min()) in classes and int(split.labels.max()) in classes
        if split.images.shape[1:] != want or not labels_fit:
            raise DataError(
                f"the {name} images do not fit the contract",
                where=f"{name} split: {split.images.shape[1:]} pixels for {want}",
                remedy="load them through the run's contract.json",
                code="train.split",
            )


def _check_resume(old: Identity, new: Identity) -> None:
    """A resumed run is the same run; another torch version only gives a warning."""
    keys = sorted({*old.options, *new.options} - {*NOT_COMPARED, "extend_epochs"})
    differing = [k for k in keys if old.options.get(k) != new.options.get(k)]
    differing += [
        k for k in ("spec", "contract", "rates", "data") if getattr(old, k) != getattr(new, k)
    ]
    if differing:
        raise ConfigError(
            f"the checkpoint is of another training: {', '.join(map(visible, differing))} differ",
            where=CHECKPOINT,
            remedy="use the run's own options, another --name, or --force to train anew",
            code="train.resume",
        )
    if old.torch != new.torch:
        console.warn(
            "train.torch-version",
            f"the checkpoint is of torch {visible(old.torch)}, this is {new.torch}:"
            " the weights will not equal those of an uninterrupted run",
        )


def _data_sha256(*splits: Split) -> Sha256:
    """Hash of the pixels and labels that training reads, in order."""
    digest = hashlib.sha256()
    for split in splits:
        digest.update(f"{split.images.shape}".encode("ascii"))
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(split.labels.astype("<i8").data)
    return Sha256(digest.hexdigest())


def _threads(options: TrainOptions) -> int:
    return options.threads or min(usable_cores(), MAX_DEFAULT_THREADS)


@contextmanager
def _thread_count(threads: int) -> Iterator[None]:
    """Sums are split by thread, so the count is part of the result (stack, section 6)."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_history(run: RunDir, rows: Sequence[HistoryRow]) -> None:
    """history.csv and train.log, both whole, so that a resume leaves no line twice."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(HISTORY_COLUMNS)
    writer.writerows(["" if v is None else f"{v:.8g}" for v in row.values()] for row in rows)
    run.write_text(HISTORY, table.getvalue())
    run.write_text(TRAIN_LOG, "".join(f"{epoch_line(row)}\n" for row in rows))


def epoch_line(row: HistoryRow) -> str:
    """One epoch for people: accuracies in percent."""
    parts = [f"epoch {row['epoch']:.0f}"]
    for column, name in (("student_loss", "loss"), ("teacher_loss", "teacher loss")):
        if row[column] is not None:
            parts.append(f"{name} {row[column]:.4f}")
    parts.append(f"val {100 * (row['val_accuracy'] or 0.0):.2f} %")
    if row["val_accuracy_teacher"] is not None:
        parts.append(f"teacher {100 * row['val_accuracy_teacher']:.2f} %")
    parts.append(f"{row['seconds']:.1f} s")
    return "  ".join(parts)


def _result(
    state: TrainState, identity: Identity, *, resumed_from: int, images: int
) -> TrainResult:
    last = state.history[-1]
    seconds = sum(row["seconds"] or 0.0 for row in state.history)
    return TrainResult(
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        best_val_accuracy=state.best_accuracy,
        last_val_accuracy=last["val_accuracy"] or 0.0,
        teacher_val_accuracy=last["val_accuracy_teacher"],
        resumed_from=resumed_from,
        seconds=seconds,
        images_per_s=images * state.epoch / seconds if seconds else 0.0,
        threads=identity.threads,
        files=(CHECKPOINT, BEST, HISTORY, TRAIN_LOG),
    )
