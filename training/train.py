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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Final

import torch

from ndtool import console
from ndtool.arch import ArchSpec
from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.data.folder import Listed
from ndtool.data.types import Split
from ndtool.errors import ConfigError, DataError
from ndtool.machine import Place, usable_cores
from ndtool.options import MAX_RATES, RATE_BOUNDS, TRAIN_BOUNDS, WORD_OF, TrainOptions
from ndtool.prepare import NOT_COMPARED, check_extensions, check_teacher, outer_files
from ndtool.rundir import BEST, CHECKPOINT, HISTORY, TRAIN_LOG, RunDir, Value
from ndtool.training import checkpoint, collectives
from ndtool.training.augment import Normalizer
from ndtool.training.batches import EvalBatches
from ndtool.training.checkpoint import Checkpoint, Identity
from ndtool.training.cost import step_ratio
from ndtool.training.external import open_teacher
from ndtool.training.loading import open_batches
from ndtool.training.loop import (
    HISTORY_COLUMNS,
    External,
    HistoryRow,
    Progress,
    TrainState,
    fit,
    top1,
)
from ndtool.training.memory import kept_memory
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.method import Method
from ndtool.training.schedule import make_schedule, run_ends
from ndtool.training.seeds import Use, generator
from ndtool.training.supernet import Supernet, copy_student
from ndtool.training.transfer import load_start, start_from
from ndtool.types import Augmentation, Freeze, Recipe, Sha256

MAX_DEFAULT_THREADS: Final = 4  # more gave nothing on nets this small
Watch = Callable[[Sequence[HistoryRow]], None]
WEAK_TEACHER: Final = 1.5  # times the accuracy of guessing


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
    _check_splits(contract, train, val, options)
    device = find_device(options.device)
    _check_graphs(options, device)
    method = METHODS[options.recipe](options, spec.classes)
    data = _data_sha256(train, val)
    collectives.require_same({"pixels of the images": data})
    found = _load_checkpoint(run) if resume else None
    threads = _threads(options)
    if found is not None and found.identity.processes == collectives.world():
        threads = found.identity.threads
    teacher = None
    if options.teacher:
        teacher = open_teacher(options.teacher, contract, device, threads=threads)
    identity = Identity(
        spec=spec,
        contract=contract,
        options=plain_options(options)
        | {f"{use}_sha256": digest for use, digest in outer_files(options).items()},
        rates=method.rates,
        augmented=method.augmented,
        data=data,
        torch=str(torch.__version__),  # a subclass of str otherwise
        threads=threads,
        processes=collectives.world(),
    )
    if found is None:
        state = _begin(spec, contract, method, options, device)
        buffers = (state.net.theta, state.net.statistics)
        averages = () if state.ema is None else (state.ema.theta, state.ema.statistics)
        collectives.copy_first_(*buffers, *averages)
    else:
        _check_resume(found.identity, identity)
        state = found.state(device)
        state.alone = _alone(spec, method, device)
    state.ends = _ends(options, state)
    resumed_from = state.epoch

    def after_epoch(state: TrainState, best: bool) -> None:  # noqa: FBT001  (fit's callback)
        if collectives.rank() > 0:  # the first process writes
            return
        # best.pt first: a kill in between repeats this epoch, and writes the same best again.
        if best:
            checkpoint.save(run / BEST, state, identity)
        checkpoint.save(run / CHECKPOINT, state, identity)
        tell()

    def tell() -> None:
        _write_history(run, state.history)
        if watch is not None:
            watch(state.history)

    if collectives.rank() == 0:
        tell()
    with (
        _thread_count(identity.threads),
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


def _load_checkpoint(run: RunDir) -> Checkpoint | None:
    """The run's checkpoint, as the first process finds it; only that one sees the folder."""
    mine = collectives.rank() == 0 and run.has(CHECKPOINT)
    return collectives.from_first(checkpoint.load(run / CHECKPOINT) if mine else None)


def _begin(
    spec: ArchSpec,
    contract: Contract,
    method: Method,
    options: TrainOptions,
    device: torch.device,
) -> TrainState:
    """Fresh weights, then those of `init_from` over them.

    A student that starts without its teacher starts as a plain one does.
    """
    init = generator(options.seed, Use.INIT)
    alone = _alone(spec, method, device)
    if alone is not None and method.teaching.start > 0:
        rest = generator(options.seed, Use.REMAINDER)
        net = Supernet(spec, rates=method.rates, generator=rest, device=device)
        copy_student(Supernet(spec, rates=(), generator=init, device=device), net)
    else:
        net = Supernet(
            spec, rates=method.rates, augmented=method.augmented, generator=init, device=device
        )
    if options.init_from:
        found = load_start(options.init_from, spec, contract)
        start_from(net, found, contract, name=options.init_from)
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
        ConfigError: the run was extended otherwise before.
    """
    ends = run_ends(options)
    known = state.ends or ends[:1]
    if ends[: len(known)] != known:
        raise ConfigError(
            f"the checkpoint is of a run that ends after {_listed(known)} epochs, this one after"
            f" {_listed(ends)}",
            where="--extend-epochs",
            remedy="give its extensions and more, or another --name",
            code="train.shorter",
        )
    return ends


def _listed(epochs: tuple[int, ...]) -> str:
    return ", then ".join(map(str, epochs))


def find_device(name: str, place: Place | None = None) -> torch.device:
    """The device of auto, cpu, cuda or cuda:N; of several processes each has a GPU of its own.

    Args:
        place: of this process, where it has not joined the others yet.

    Raises:
        ConfigError: another word, a GPU that is not there, or one for several processes.
    """
    _, _, number = name.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    place = place or collectives.place()
    index = int(number) if number.isascii() and number.isdecimal() and len(number) < 4 else 0
    known = name in ("auto", "cuda", f"cuda:{index}")
    what = f"no device {visible(name)}, this machine has {count} CUDA devices that torch can use"
    if known and place is not None and place.local_world > 1:
        many = 1 if number else count
        if place.local_world <= many:
            return torch.device("cuda", place.local_rank)
        what = f"{place.local_world} processes here need a GPU each, {visible(name)} gives {many}"
    elif known and index < count:
        return torch.device("cuda", index)
    raise ConfigError(what, where="--device", remedy="use auto or cpu", code="train.device")


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
    for name, (low, high) in TRAIN_BOUNDS.items():
        value = getattr(options, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise ConfigError(
                f"{value} is out of bounds",
                where=f"--{WORD_OF.get(name, name).replace('_', '-')}",
                remedy=f"use {low} to {high}",
                code="train.option",
            )
    check_extensions(options)
    check_teacher(options)
    _check_together(options)


def _check_together(options: TrainOptions) -> None:
    """What the bounds of single options do not say."""
    low, high = RATE_BOUNDS
    rates = options.expand
    # Before it is started, a training in several processes is only wanted.
    parts = options.accumulate * max(collectives.world(), options.nproc)
    distinct = len(set(rates)) == len(rates) and 1 <= len(rates) <= MAX_RATES
    bad = None
    if not distinct or not all(low <= rate <= high for rate in rates):
        text = ",".join(map(str, rates))
        bad = ("--expand", f"{text} are no widths", f"use 1 to {MAX_RATES} of {low} to {high}")
    elif options.freeze is not Freeze.NONE and options.recipe not in (Recipe.PLAIN, Recipe.KD):
        what = f"{options.recipe.value} trains wider networks on the weights that this would keep"
        bad = ("--freeze", what, "use --recipe plain or kd")
    elif options.freeze is not Freeze.NONE and not options.init_from:
        bad = ("--freeze", "fresh weights are not worth keeping", "name what to --init-from")
    elif options.freeze_epochs and options.freeze is Freeze.NONE:
        bad = ("--freeze-epochs", "nothing is frozen", "add --freeze backbone or norms")
    elif options.augment is Augmentation.RESIZED_CROP and not options.loaders:
        what = "resized-crop cuts the original pictures, anew in each epoch"
        bad = ("--augment", what, "add --loaders 4 to have them decoded while training")
    elif options.augment is Augmentation.RESIZED_CROP and options.crop_px:
        bad = ("--crop", "resized-crop cuts in a way of its own", "leave --crop out")
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


def _check_graphs(options: TrainOptions, device: torch.device) -> None:
    """A graph is of one GPU, and has the same passes in every step."""
    if not options.cuda_graphs:
        return
    bad = None
    if device.type != "cuda":
        bad = ("this run is not on a GPU", "leave it out, or use --device cuda")
    elif options.recipe is Recipe.NETAUG:
        bad = ("netaug draws other networks in every step", "leave it out")
    elif collectives.world() > 1:
        bad = ("several processes exchange gradients within a step", "leave it out")
    if bad:
        raise ConfigError(bad[0], where="--cuda-graphs", remedy=bad[1], code="train.graphs")


def _check_splits(
    contract: Contract, train: Split | Listed, val: Split | Listed, options: TrainOptions
) -> None:
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
        if split.shape != want or not labels_fit:
            raise DataError(
                f"the {name} images do not fit the contract",
                where=f"{name} split: {split.shape} pixels for {want}",
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
    if old.processes != new.processes:
        console.warn(
            "train.processes",
            f"the checkpoint is of another number of processes, {old.processes}, this is"
            f" {new.processes}: the weights will not equal those of an uninterrupted run",
        )


def _data_sha256(*splits: Split | Listed) -> Sha256:
    """Hash of the samples and labels that training reads, in order; no pixel is decoded for it."""
    digest = hashlib.sha256("\n".join(split.sha256() for split in splits).encode("ascii"))
    return Sha256(digest.hexdigest())


def _threads(options: TrainOptions) -> int:
    """Of this process; several on one machine share its cores."""
    place = collectives.place()
    cores = usable_cores() // (1 if place is None else place.local_world)
    return options.threads or max(1, min(cores, MAX_DEFAULT_THREADS))


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
