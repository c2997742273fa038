"""`ndtool train` as a stage: what is written before the first epoch, and what is recorded after."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from ndtool import console
from ndtool.data.types import Split
from ndtool.errors import InputError
from ndtool.prepare import Prepared, csv_cell, require_same_training, train_key, write_start
from ndtool.rundir import CHECKPOINT, MANIFEST, METRICS, SKIPPED, Value
from ndtool.training.loop import steps_per_epoch
from ndtool.training.train import TrainResult, train
from ndtool.types import Part

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

    Raises:
        InputError: the folder holds a training with other options; another process writes there.
    """
    run = prepared.run
    with run.lock():
        if not force:
            require_same_training(prepared)
        key = train_key(prepared)
        reason = "forced" if force else run.stale_reason(key)
        if reason is None:
            console.info("train: up to date")
            return _summary(run.manifest().stages["train"].figures)
        if force:
            for name in (CHECKPOINT, MANIFEST, METRICS):
                (run / name).unlink(missing_ok=True)
        found = run.has(CHECKPOINT)
        if resume and not found:
            console.info("train: no checkpoint yet, starting from the beginning")
        started = time.time()
        source = prepared.source
        for note in source.info.notes:
            console.info(f"data: {note}")
        files = write_start(prepared, given)
        images = source.load(Part.TRAIN, prepared.contract)
        validation = source.load(Part.VAL, prepared.contract)
        if source.skipped:
            rows = "".join(f"{csv_cell(i)},{csv_cell(why)}\n" for i, why in source.skipped)
            files.append(run.write_text(SKIPPED, f"path,reason\n{rows}"))
            console.warn("data.skipped", f"{len(source.skipped)} bad files skipped, see {SKIPPED}")
        result = _train(prepared, images, validation)
        run.record(
            key,
            files=(*files, *result.files),
            figures=_figures(result),
            packages=PACKAGES,
            seed=prepared.options.seed,
            started=started,
        )
        return _summary(run.manifest().stages["train"].figures)


def _train(prepared: Prepared, images: Split, validation: Split) -> TrainResult:
    options = prepared.options
    assert options.epochs is not None
    console.info(
        f"train: {options.model} width {options.width:g} on {len(images)} images,"
        f" {options.recipe.value}, {options.epochs} epochs, into {prepared.run.path}"
    )
    steps = options.epochs * steps_per_epoch(len(images), options.batch_size)
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


def _figures(result: TrainResult) -> dict[str, Value]:
    return {
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
