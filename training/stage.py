"""`ndtool train` as a stage: what is written before the first epoch, and what is recorded after.

torch is loaded only when there is something to train.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ndtool import console
from ndtool.data.types import Split
from ndtool.errors import InputError, require
from ndtool.prepare import (
    Prepared,
    require_run_folder,
    require_same_training,
    train_key,
    write_start,
)
from ndtool.rundir import CHECKPOINT, MANIFEST, SKIPPED, StageOutput, Value, run_stage
from ndtool.types import Part

if TYPE_CHECKING:
    from ndtool.training.train import TrainResult

PACKAGES = ("torch", "numpy", "scikit-learn", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """What the command tells of a training, done now or before."""

    epochs: int
    best_epoch: int
    best_accuracy: float  # of the student on the validation part, 0..1


def train_stage(
    prepared: Prepared, given: Mapping[str, str], *, force: bool, resume: bool
) -> TrainSummary:
    """Train unless it is done; an unfinished training of the same options is gone on with.

    Args:
        given: where each option came from, for config.toml.
        resume: the user asked to go on: say so when there is nothing to go on from.

    Raises:
        InputError: the folder holds a training with other options; another process writes there.
        DataError, ConfigError: the images or options cannot be used; nothing is written.
    """
    run = prepared.run
    with run.lock():
        require_run_folder(run)
        if not force:
            require_same_training(prepared)
        key = train_key(prepared)
        if resume and not run.has(CHECKPOINT):
            console.info("train: no checkpoint yet, starting from the beginning")

        def work() -> StageOutput:
            return _train(prepared, given, force=force)

        seed = prepared.options.seed
        run_stage(run, key, work, force=force, packages=PACKAGES, seed=seed)
        return _summary(run.manifest().stages[key.stage].figures)


def _train(prepared: Prepared, given: Mapping[str, str], *, force: bool) -> StageOutput:
    require("torch")
    from ndtool.training.train import check_options

    check_options(prepared.options)
    run, source = prepared.run, prepared.source
    images = source.load(Part.TRAIN, prepared.contract)
    validation = source.load(Part.VAL, prepared.contract)
    # Not looked at, only decoded: a bad test image must not be found after hours of training.
    source.load(Part.TEST, prepared.contract)
    # Only now is anything of an earlier training touched.
    run.forget("train")
    if force:
        (run / CHECKPOINT).unlink(missing_ok=True)
    for note in source.info.notes:
        console.info(f"data: {note}")
    files = write_start(prepared, given)
    if source.skipped:
        rows = "".join(
            f"{console.csv_cell(i)},{console.csv_cell(why)}\n" for i, why in source.skipped
        )
        files.append(run.write_text(SKIPPED, f"path,reason\n{rows}"))
        console.warn("data.skipped", f"{len(source.skipped)} bad files skipped, see {SKIPPED}")
    result = _fit(prepared, images, validation)
    return StageOutput(files=(*files, *result.files), figures=_figures(prepared, result))


def _fit(prepared: Prepared, images: Split, validation: Split) -> TrainResult:
    from ndtool.training.schedule import steps_per_epoch
    from ndtool.training.train import train

    options = prepared.options
    assert options.epochs is not None
    epochs = options.epochs + options.extend_epochs
    place = console.visible(str(prepared.run.path))
    console.info(
        f"train: {options.model} width {options.width:g} on {len(images)} images,"
        f" {options.recipe.value}, {epochs} epochs, into {place}"
    )
    if prepared.run.has(CHECKPOINT):
        console.info("train: going on from the last checkpoint")
    console.set_resume_hint(
        f"last checkpoint {prepared.run / CHECKPOINT}; repeat the command to go on"
    )
    steps = epochs * steps_per_epoch(len(images), options.batch_size)
    with console.progress("train", steps) as bar:
        return train(
            options,
            prepared.run,
            spec=prepared.spec,
            contract=prepared.contract,
            train=images,
            val=validation,
            resume=True,
            progress=bar,
        )


def _figures(prepared: Prepared, result: TrainResult) -> dict[str, Value]:
    return {
        "contract_sha256": prepared.contract.sha256(),
        "accuracy_val": result.best_val_accuracy,
        "accuracy_val_teacher": result.teacher_val_accuracy,
        "train_epochs": result.epochs,
        "train_best_epoch": result.best_epoch,
        "train_seconds": round(result.seconds, 1),
        "train_threads": result.threads,
    }


def _summary(figures: Mapping[str, Value]) -> TrainSummary:
    epochs, best, accuracy = (
        figures.get(k) for k in ("train_epochs", "train_best_epoch", "accuracy_val")
    )
    if not (isinstance(epochs, int) and isinstance(best, int) and isinstance(accuracy, float)):
        raise InputError(
            "the manifest's row of train is not whole",
            where=MANIFEST,
            remedy="train again with --force",
            code="run.manifest",
        )
    return TrainSummary(epochs=epochs, best_epoch=best, best_accuracy=accuracy)
