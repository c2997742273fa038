"""A training and its run folder: what makes it the same training, and what is recorded of it.

What a run depends on is known before torch is loaded. A folder that holds another training is
refused; one that holds this training keeps the extensions that it was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Final

from ndtool.arch import ArchSpec, parse_spec
from ndtool.config import load_recorded, load_run_table, write_config
from ndtool.console import csv_cell, info, visible
from ndtool.data.types import source_sha256
from ndtool.errors import ConfigError, InputError
from ndtool.files import (
    read_bounded,
    sha256_bounded,
)
from ndtool.options import MAX_EXTENSIONS, NOT_COMPARED, TRAIN_BOUNDS, TrainOptions, is_read
from ndtool.prepare import Prepared
from ndtool.rundir import (
    CHECKPOINT,
    CONFIG,
    CONTRACT,
    LABELS,
    LOCK,
    MANIFEST,
    MAX_CHECKPOINT_BYTES,
    SPEC,
    SPLIT,
    RunDir,
    StageKey,
    Value,
    checkpoint_file,
)
from ndtool.teacher import read_teacher
from ndtool.types import Sha256

TRAIN_VERSION: Final = 1  # of the train stage: raised when the same options give other weights
_PLACE: Final = ("name", "out")
_EXTENSIONS: Final = "extend_epochs"  # may grow: `keep_extensions`
_NUMBERS: Final = re.compile(r"[0-9]{1,6}(,[0-9]{1,6})*")


def settings(options: TrainOptions) -> dict[str, Value]:
    """The options that decide a training's result, as plain values for the manifest."""
    plain: dict[str, Value] = {}
    for key, value in asdict(options).items():
        unset = value is None or value == ()
        if unset or key in NOT_COMPARED or not is_read(key, options):
            continue
        plain[key] = _plain(value)
    return plain


def _plain(value: object) -> Value:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    assert isinstance(value, str | int | float)
    return str(value) if isinstance(value, str) else value  # an enum's text without its class


def outer_files(options: TrainOptions) -> dict[str, Sha256]:
    """Hashes of the files that a training reads beside its images, by their use.

    Raises:
        ConfigError, InputError: one is missing, or no file that could be read.
    """
    found = {}
    if options.init_from:
        path = checkpoint_file(options.init_from)
        found["init"] = sha256_bounded(path, MAX_CHECKPOINT_BYTES)
    if options.teacher:
        path = read_teacher(options.teacher).path
        found["teacher"] = sha256_bounded(path, MAX_CHECKPOINT_BYTES)
    return found


def train_key(prepared: Prepared) -> StageKey:
    """What a training depends on."""
    ignore = prepared.source.info.ignore
    sources = {
        "data": source_sha256(prepared.source),
        "contract": prepared.contract.sha256(),
        **outer_files(prepared.options),
    }
    return StageKey(
        stage="train",
        version=TRAIN_VERSION,
        options=settings(prepared.options) | ({"ndignore": "\n".join(ignore)} if ignore else {}),
        sources=sources,
    )


def require_run_folder(run: RunDir) -> None:
    """Refuse a folder that holds something else than a run.

    Raises:
        InputError: it has files, and none of them is ours.
    """
    is_run = any(run.has(name) for name in (CONFIG, CONTRACT, MANIFEST))
    if not is_run and any(path.name != LOCK for path in run.path.iterdir()):
        raise InputError(
            "the folder holds something else than a run",
            where=visible(str(run.path)),
            remedy="choose another --name or --out",
            code="run.not-ours",
        )


def require_trainable_config(path: Path) -> None:
    """Refuse to repeat, by its config.toml, a run that was imported: it has nothing to train.

    Raises:
        ConfigError: names the commands that go on with it.
    """
    run = RunDir(path.parent)
    if path.name == CONFIG and "import" in run.manifest().stages:
        raise ConfigError(
            "this run holds an imported ONNX file, there is nothing to train",
            where=visible(str(path)),
            remedy="use ndtool export --onnx, then codegen and check",
            code="config.imported",
        )


def require_same_training(prepared: Prepared) -> None:
    """Refuse a folder that holds a training with other options or of another network.

    The same options give another network when the user's own model has been edited since.

    Raises:
        InputError: names the options that differ and how to go on.
    """
    run = prepared.run
    if not _was_trained(run):
        return
    stored = load_run_table(run / CONFIG, "train")
    mine = settings(prepared.options)
    differing = [
        f"{key} {stored.get(key, 'unset')} -> {mine.get(key, 'unset')}"
        for key in sorted({*stored, *mine} - {*NOT_COMPARED, *_PLACE, _EXTENSIONS})
        if stored.get(key) != mine.get(key)
    ]
    if not differing and run.has(SPEC) and _spec_of(run) != prepared.spec:
        differing = [f"the network that {prepared.options.model} gives has changed"]
    if differing:
        raise InputError(
            f"this folder holds a training with other options: {'; '.join(differing)}",
            where=str(prepared.run.path),
            remedy="choose another --name, or --force to replace it",
            code="run.other-training",
        )


def _was_trained(run: RunDir) -> bool:
    """Whether something was; a refused attempt must not bar the next one."""
    return run.has(CHECKPOINT) or "train" in run.manifest().stages


def _spec_of(run: RunDir) -> ArchSpec:
    text = read_bounded(run / SPEC).decode("utf-8", "replace")
    return parse_spec(text, where=visible(str(run / SPEC)))


def keep_extensions(
    prepared: Prepared, given: Mapping[str, str]
) -> tuple[Prepared, Mapping[str, str]]:
    """The training with all by which its run was extended, and where each option came from.

    Without --extend-epochs a run keeps its own extensions; a larger number is one more. So the
    options of a run, and with them its config.toml, always give its weights again.

    Raises:
        ConfigError: fewer epochs than the run has been given already.
    """
    options, run = prepared.options, prepared.run
    check_extensions(options)
    known, origin = _recorded_extensions(run) if _was_trained(run) else ((), "")
    wanted = options.extend_epochs
    if not known:
        return prepared, given
    if wanted and wanted[-1] < known[-1]:
        raise ConfigError(
            f"this run was extended by {known[-1]} epochs before, now by {wanted[-1]}",
            where="--extend-epochs",
            remedy=f"use {known[-1]} or more, or another --name",
            code="train.shorter",
        )
    if not wanted:
        info(f"train: extend_epochs {known[-1]} of this run")
        given = {**given, _EXTENSIONS: origin}
    joined = (*known, *(more for more in wanted if more > known[-1]))
    kept = replace(prepared, options=replace(options, extend_epochs=joined))
    check_extensions(kept.options)
    return kept, given


def _recorded_extensions(run: RunDir) -> tuple[tuple[int, ...], str]:
    """Those of the run's config.toml, and where they came from; none and "" where it has none."""
    found = load_recorded(run / CONFIG, "train", (_EXTENSIONS,))
    if not found:
        return (), ""
    value, origin = found[_EXTENSIONS]
    whole = type(value) in (str, int) and _NUMBERS.fullmatch(str(value))
    known = tuple(int(part) for part in str(value).split(",")) if whole else ()
    if not known or not _is_rising(known):
        raise ConfigError(
            f"{visible(str(value))} is no number of further epochs",
            where=f"{visible(str(run / CONFIG))}: train.{_EXTENSIONS}",
            remedy="mend that line, or --force to train anew",
            code="config.value",
        )
    return known, origin


def _is_rising(more: tuple[int, ...]) -> bool:
    return all(a < b for a, b in pairwise((0, *more)))


def check_extensions(options: TrainOptions) -> None:
    """Refuse extensions that do not follow each other.

    Raises:
        ConfigError: not rising, too many of them, or too long.
    """
    more = options.extend_epochs
    longest = int(TRAIN_BOUNDS["epochs"][1]) - (options.epochs or 0)
    if not _is_rising(more) or len(more) > MAX_EXTENSIONS or (more and more[-1] > longest):
        raise ConfigError(
            f"{visible(','.join(map(str, more)))} is no number of further epochs",
            where="--extend-epochs",
            remedy=f"use 1 to {longest}; of a run extended several times, rising numbers",
            code="train.option",
        )


def write_start(prepared: Prepared, given: Mapping[str, str]) -> list[str]:
    """Contract, labels, architecture and split, written before the first epoch; their names.

    Args:
        given: where each option came from: `flag`, `file`; the others are defaults.
    """
    run = prepared.run
    how = {key: getattr(prepared.options, key) for key in NOT_COMPARED}
    place = {"name": run.path.name, "out": str(run.path.parent)}
    write_config(run, "train", settings(prepared.options) | how | place, given)
    rows = ["path,sha256,split"]
    for name, digest, part in prepared.source.split_table():
        rows.append(f"{csv_cell(name)},{digest},{part.value}")
    return [
        run.write_text(CONTRACT, prepared.contract.to_file_text()),
        run.write_bytes(LABELS, prepared.contract.labels_file()),
        run.write_text(SPEC, prepared.spec.to_json() + "\n"),
        run.write_bytes(SPLIT, ("\n".join(rows) + "\n").encode("utf-8", "surrogateescape")),
    ]
