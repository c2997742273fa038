"""`ndtool train` as a stage: what is written before the first epoch, and what is recorded after.

torch is loaded only when there is something to train.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ndtool import console
from ndtool.data.files import require_memory
from ndtool.data.folder import FolderSource, Listed
from ndtool.data.types import Split
from ndtool.errors import ConfigError, InputError, require
from ndtool.identity import (
    keep_extensions,
    require_run_folder,
    require_same_training,
    train_key,
    write_start,
)
from ndtool.machine import Place
from ndtool.options import TrainOptions
from ndtool.prepare import Prepared
from ndtool.rundir import (
    BEST,
    CHECKPOINT,
    CURVES,
    MANIFEST,
    SKIPPED,
    TENSORBOARD,
    RunDir,
    StageOutput,
    Value,
    package_versions,
    run_stage,
)
from ndtool.types import Part

if TYPE_CHECKING:
    from ndtool.training.loop import HistoryRow
    from ndtool.training.train import TrainResult, Watch

# Decoded once, and not anew in each epoch, where it takes no more
KEPT_VALIDATION_BYTES = 256 * 1024**2
PACKAGES = ("torch", "numpy", "scikit-learn", "pillow", "matplotlib")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """What the command tells of a training, done now or before."""

    epochs: int
    best_epoch: int
    best_accuracy: float  # of the student on the validation part, 0..1
    step_ratio: float | None  # cost of a step in plain steps; None: it was plain training


def train_stage(
    prepared: Prepared,
    given: Mapping[str, str],
    *,
    force: bool,
    resume: bool,
    place: Place | None = None,
) -> TrainSummary:
    """Train unless it is done; an unfinished training of the same options is gone on with.

    Args:
        given: where each option came from, for config.toml.
        resume: the user asked to go on: say so when there is nothing to go on from.
        place: of this process among several that have joined each other; only the first of them
            reads or writes the run folder.

    Raises:
        InputError: the folder holds a training with other options; another process writes there;
            the processes are not of one training, or one of them is gone.
        DataError, ConfigError: the images or options cannot be used; nothing is written.
    """
    if place is None:
        return _keep_books(prepared, given, force=force, resume=resume, tell=lambda _: None)
    from ndtool.training import collectives

    collectives.require_same(_facts(prepared))
    made: TrainSummary | None = None
    if place.rank == 0:
        tell = collectives.from_first
        made = _keep_books(prepared, given, force=force, resume=resume, tell=tell)
    else:
        options = collectives.from_first(cast("TrainOptions | None", None))
        if options is not None:
            _take_part(replace(prepared, options=options), force=force)
    summary = collectives.from_first(made)
    assert summary is not None
    return summary


def is_trained(prepared: Prepared, *, force: bool) -> bool:
    """Whether `train_stage` would have nothing to do."""
    if force:
        return False
    with console.muted():
        kept, _ = keep_extensions(prepared, {})
    return kept.run.stale_reason(train_key(kept)) is None


def summary_of(run: RunDir) -> TrainSummary:
    """What the run's manifest tells of its training.

    Raises:
        InputError: it does not.
    """
    row = run.manifest().stages.get("train")
    return _summary({} if row is None else row.figures)


def _facts(prepared: Prepared) -> dict[str, str]:
    """What all processes of a training must have alike, by the words of a user."""
    key = train_key(prepared)
    options = {f"option {name}": str(value) for name, value in key.options.items()}
    packages = package_versions(PACKAGES)
    versions = {name: packages.get(name, "") for name in ("ndtool", "torch", "pillow")}
    return {**options, **key.sources, "network": prepared.spec.to_json(), **versions}


def _keep_books(
    prepared: Prepared,
    given: Mapping[str, str],
    *,
    force: bool,
    resume: bool,
    tell: Callable[[TrainOptions | None], object],
) -> TrainSummary:
    """The stage with its lock and its row in the manifest.

    Args:
        tell: is told, once, what to train; None: nothing.
    """
    run = prepared.run
    with run.lock():
        require_run_folder(run)
        if not force:
            require_same_training(prepared)
            prepared, given = keep_extensions(prepared, given)
        key = train_key(prepared)
        if resume and not run.has(CHECKPOINT):
            console.info("train: no checkpoint yet, starting from the beginning")

        def work() -> StageOutput:
            tell(prepared.options)
            return _train(prepared, given, force=force)

        seed = prepared.options.seed
        if not run_stage(run, key, work, force=force, packages=PACKAGES, seed=seed):
            tell(None)
        return summary_of(run)


def _train(prepared: Prepared, given: Mapping[str, str], *, force: bool) -> StageOutput:
    images, validation = _read(prepared, force=force)
    # Only now is anything of an earlier training touched.
    files = _begin_run(prepared, given, force=force)
    result = _fit(prepared, images, validation, force=force)
    pictures = [name for name in (CURVES, TENSORBOARD) if prepared.run.has(name)]
    written = (*files, *result.files, *pictures)
    return StageOutput(files=written, figures=_figures(prepared, result))


def _take_part(prepared: Prepared, *, force: bool) -> None:
    """The part of a process that is not the first."""
    images, validation = _read(prepared, force=force)
    _fit(prepared, images, validation, force=force)


def _read(prepared: Prepared, *, force: bool) -> tuple[Split | Listed, Split | Listed]:
    """The training and the validation part, and all else that must be good before it begins."""
    require("torch")
    require("matplotlib")  # not found missing after hours of training
    from ndtool.training import collectives
    from ndtool.training.checks import check_graphs, check_options, check_splits
    from ndtool.training.devices import find_device
    from ndtool.training.start import own_checkpoint
    from ndtool.training.teachers.external import open_teacher
    from ndtool.training.transfer import load_start

    check_options(prepared.options)
    device = find_device(prepared.options.device)
    check_graphs(prepared.options, device)
    if collectives.rank() == 0 and not force:
        own_checkpoint(prepared.run)
    if prepared.options.teacher:  # tried before any image is decoded
        open_teacher(prepared.options.teacher, prepared.contract, device, threads=1)
    if prepared.options.init_from and (force or not prepared.run.has(CHECKPOINT)):
        load_start(prepared.options.init_from, prepared.spec, prepared.contract)
    images, validation = open_parts(prepared)
    check_splits(prepared.contract, images, validation, prepared.options)
    return images, validation


def _begin_run(prepared: Prepared, given: Mapping[str, str], *, force: bool) -> list[str]:
    """Write what is known before the first epoch, in the place of an earlier training."""
    run, source = prepared.run, prepared.source
    run.forget("train")
    if force:
        for name in (CHECKPOINT, BEST, TENSORBOARD):
            (run / name).unlink(missing_ok=True)
    for note in source.info.notes:
        console.info(f"data: {note}")
    files = write_start(prepared, given)
    if source.skipped:
        rows = "".join(
            f"{console.csv_cell(i)},{console.csv_cell(why)}\n" for i, why in source.skipped
        )
        files.append(run.write_text(SKIPPED, f"path,reason\n{rows}"))
        console.warn("data.skipped", f"{len(source.skipped)} bad files skipped, see {SKIPPED}")
    return files


def open_parts(prepared: Prepared) -> tuple[Split | Listed, Split | Listed]:
    """Training and validation part: decoded, or with --loaders listed to be decoded meanwhile.

    The test part is not looked at, only decoded: a bad image of it must not be found after hours of
    training. Bad files of a training part that is only listed are found when they are drawn, or
    here where they are to be skipped: the samples must be settled before their order is drawn.

    Raises:
        ConfigError: --loaders with data that is in memory already.
        DataError: images that cannot be used, or do not fit into memory.
    """
    from ndtool.training import collectives

    source, contract, options = prepared.source, prepared.contract, prepared.options
    pixel_bytes = contract.input.height * contract.input.width * contract.input.channels
    part_bytes = {part: pixel_bytes * sum(source.info.counts[part]) for part in Part}
    if not isinstance(source, FolderSource):
        if options.loaders:
            raise ConfigError(
                "only the images of a folder are decoded while training",
                where=f"--loaders {options.loaders} with --data {console.visible(options.data)}",
                remedy="leave --loaders out",
                code="train.loaders",
            )
        return source.load(Part.TRAIN, contract), source.load(Part.VAL, contract)
    if not options.loaders:
        place = collectives.place()
        copies = 1 if place is None else place.local_world  # each process has its own
        require_memory(
            copies * (part_bytes[Part.TRAIN] + part_bytes[Part.VAL]),
            where=options.data,
            remedy="use --loaders 4 to have them decoded while training",
        )
        parts = source.load(Part.TRAIN, contract), source.load(Part.VAL, contract)
        source.check(Part.TEST, contract)
        return parts
    if options.bad_files == "skip":
        source.check(Part.TRAIN, contract)
    images = source.listed(Part.TRAIN, contract)
    validation: Split | Listed
    if part_bytes[Part.VAL] <= KEPT_VALIDATION_BYTES:
        validation = source.load(Part.VAL, contract)
    else:
        source.check(Part.VAL, contract)
        validation = source.listed(Part.VAL, contract)
    source.check(Part.TEST, contract)
    return images, validation


def _fit(
    prepared: Prepared, images: Split | Listed, validation: Split | Listed, *, force: bool
) -> TrainResult:
    from ndtool.training import collectives
    from ndtool.training.schedule import run_ends, steps_per_epoch
    from ndtool.training.train import train

    options = prepared.options
    epochs = run_ends(options)[-1]
    place = console.visible(str(prepared.run.path))
    console.info(
        f"train: {options.model} width {options.width:g} on {len(images)} images,"
        f" {options.recipe.value}, {epochs} epochs, into {place}"
    )
    if prepared.run.has(CHECKPOINT):
        console.info("train: going on from the last checkpoint")
    console.set_resume_hint(resume_hint(prepared.run, force=force))
    steps = epochs * steps_per_epoch(len(images), options.batch_size)
    scalars = collectives.rank() == 0 and (options.tensorboard or prepared.run.has(TENSORBOARD))
    with _watching(prepared.run, scalars=scalars) as watch, console.progress("train", steps) as bar:
        return train(
            options,
            prepared.run,
            spec=prepared.spec,
            contract=prepared.contract,
            train=images,
            val=validation,
            resume=True,
            progress=bar,
            watch=watch,
        )


def resume_hint(run: RunDir, *, force: bool) -> str:
    """How an interrupted training is gone on with."""
    how = "without --force to go on: with it, all begins anew" if force else "to go on"
    return f"last checkpoint {run / CHECKPOINT}; repeat the command {how}"


@contextmanager
def _watching(run: RunDir, *, scalars: bool) -> Iterator[Watch]:
    """Tell each epoch with -v, draw the curves at the end, in whatever way it comes.

    And keep TensorBoard's `scalars`.
    """
    from ndtool.training.records.curves import draw_curves
    from ndtool.training.records.history import epoch_line
    from ndtool.training.records.tensorboard import open_events

    rows: list[HistoryRow] = []
    begun = False
    with ExitStack() as stack:
        events = stack.enter_context(open_events(run / TENSORBOARD)) if scalars else None

        def watch(history: Sequence[HistoryRow]) -> None:
            nonlocal begun
            if begun:  # the first call brings what a resumed run begins with
                console.detail(epoch_line(history[-1]))
            begun = True
            rows[:] = history
            if events is not None:
                events.update(history)

        try:
            yield watch
        finally:
            if rows:
                run.write_bytes(CURVES, draw_curves(rows))


def _figures(prepared: Prepared, result: TrainResult) -> dict[str, Value]:
    return {
        "contract_sha256": prepared.contract.sha256(),
        "accuracy_val": result.best_val_accuracy,
        "accuracy_val_teacher": result.teacher_val_accuracy,
        "train_epochs": result.epochs,
        "train_best_epoch": result.best_epoch,
        "train_seconds": round(result.seconds, 1),
        "train_threads": result.threads,
        "train_processes": result.processes,
        "train_step_ratio": None if result.step_ratio is None else round(result.step_ratio, 3),
    }


def _summary(figures: Mapping[str, Value]) -> TrainSummary:
    epochs, best, accuracy, ratio = (
        figures.get(key)
        for key in ("train_epochs", "train_best_epoch", "accuracy_val", "train_step_ratio")
    )
    if not (
        isinstance(epochs, int)
        and isinstance(best, int)
        and isinstance(accuracy, float)
        and (ratio is None or isinstance(ratio, float))
    ):
        raise InputError(
            "the manifest's row of train is not whole",
            where=MANIFEST,
            remedy="train again with --force",
            code="run.manifest",
        )
    return TrainSummary(epochs=epochs, best_epoch=best, best_accuracy=accuracy, step_ratio=ratio)
