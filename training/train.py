"""The train stage: images in, checkpoints and history out.

Writes train/checkpoint.pt, best.pt, history.csv and train.log only; contract, labels, split and
manifest are the caller's. After a kill the last epoch's checkpoint is on disk, and `resume` gives
the bits of a run that was never stopped (CPU, same torch version).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from ndtool import console
from ndtool.arch import ArchSpec
from ndtool.contract import Contract
from ndtool.data.folder import Listed
from ndtool.data.types import Split
from ndtool.files import sha256_bytes, write_atomic
from ndtool.options import TrainOptions
from ndtool.rundir import BEST, CHECKPOINT, HISTORY, TRAIN_LOG, RunDir
from ndtool.training import checkpoint, collectives
from ndtool.training.checkpoint import Identity
from ndtool.training.checks import check_graphs, check_options, check_splits
from ndtool.training.cost import step_ratio
from ndtool.training.devices import find_device, thread_count
from ndtool.training.images.augment import Normalizer
from ndtool.training.images.batches import EvalBatches
from ndtool.training.images.loading import open_batches
from ndtool.training.loop import External, HistoryRow, Progress, TrainState, fit, top1
from ndtool.training.memory import kept_memory
from ndtool.training.recipes import METHODS
from ndtool.training.records.history import write_history
from ndtool.training.schedule import make_schedule
from ndtool.training.start import (
    data_sha256,
    first_state,
    identity_of,
    load_checkpoint,
    resumed_state,
)
from ndtool.training.teachers.external import open_teacher

WEAK_TEACHER: Final = 1.5  # times the accuracy of guessing
Watch = Callable[[Sequence[HistoryRow]], None]


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
    threads: int  # of each process
    processes: int
    # Of a mean step to one of plain training; None where it is plain. A timing: no two are equal.
    step_ratio: float | None = field(compare=False)
    files: tuple[str, ...]  # written into the run folder


def train(
    options: TrainOptions,
    run: RunDir,
    *,
    spec: ArchSpec,
    contract: Contract,
    train: Split | Listed,
    val: Split | Listed,
    resume: bool,
    progress: Progress,
    watch: Watch | None = None,
) -> TrainResult:
    """Train `spec` and keep the epoch that is best on `val`.

    Args:
        options: resolved; epochs, crop_px and flip are set.
        train, val: decoded, or listed to be decoded by `options.loaders` processes meanwhile.
        resume: go on from the run's checkpoint where there is one.
        watch: is told the history up to now, before the first epoch and after each.

    Raises:
        ConfigError: an option out of bounds, no such device, training diverged, or a resume with
            other options than the checkpoint's.
        DataError: a split that does not fit the contract, or is too small.
        InputError: the checkpoint to resume from, or the external teacher, is broken.
    """
    check_options(options)
    check_splits(contract, train, val, options)
    device = find_device(options.device)
    check_graphs(options, device)
    method = METHODS[options.recipe](options, spec.classes)
    data = data_sha256(train, val)
    collectives.require_same({"pixels of the images": data})

    found = load_checkpoint(run) if resume else None
    identity = identity_of(options, method, spec=spec, contract=contract, data=data, found=found)
    threads = identity.threads
    teacher = None
    if options.teacher:
        teacher = open_teacher(options.teacher, contract, device, threads=threads)
    if found is None:
        state = first_state(spec, contract, method, options, device)
    else:
        state = resumed_state(found, identity, method, options, device)
    resumed_from = state.epoch

    def tell() -> None:
        write_history(run, state.history)
        if watch is not None:
            watch(state.history)

    def after_epoch(state: TrainState, best: bool) -> None:  # noqa: FBT001  (fit's callback)
        if collectives.rank() > 0:  # the first process writes
            return
        if best:
            state.best_sha256 = ""
        data = checkpoint.encode(state, identity)
        write_atomic(run / CHECKPOINT, data)
        if best:  # after a kill in between, `own_checkpoint` makes the copy
            write_atomic(run / BEST, data)
            state.best_sha256 = sha256_bytes(data)
        tell()

    if collectives.rank() == 0:
        tell()
    with (
        thread_count(threads),
        kept_memory(),
        open_batches(train, val, options=options, device=device) as (batches, validation),
    ):
        if teacher is not None and found is None:
            _judge_teacher(teacher, validation, contract.num_classes, device)
        normalize = Normalizer(contract, device)
        fit(
            state,
            method,
            options=options,
            train=batches,
            val=validation,
            normalize=normalize,
            external=teacher,
            progress=progress,
            after_epoch=after_epoch,
        )
        ratio = step_ratio(
            method,
            spec=spec,
            options=options,
            schedule=make_schedule(options, len(train), state.ends),
            images=min(options.batch_size, len(train)) // collectives.world(),
            normalize=normalize,
            external=teacher,
            device=device,
        )
    images = len(train) + len(val)
    return _result(state, identity, resumed_from=resumed_from, images=images, ratio=ratio)


def _judge_teacher(teacher: External, val: EvalBatches, classes: int, device: torch.device) -> None:
    """Tell the teacher's own accuracy: wrong pixels or classes in another order show here."""
    share = top1(teacher, val, device)
    console.info(f"teacher: validation accuracy {100 * share:.1f} %")
    if share <= WEAK_TEACHER / classes:
        console.warn(
            "train.weak-teacher",
            "the external teacher is hardly better than guessing on the validation images: check"
            " the order of its classes, and its pixels (--normalize)",
        )


def _result(
    state: TrainState, identity: Identity, *, resumed_from: int, images: int, ratio: float | None
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
        processes=identity.processes,
        step_ratio=ratio,
        files=(CHECKPOINT, BEST, HISTORY, TRAIN_LOG),
    )
