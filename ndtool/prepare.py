"""From options to a run folder: data source, contract, architecture and name, all resolved.

What `train` needs before torch is loaded, and what refuses a folder that holds another training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, cast

from ndtool.arch import ArchSpec, lower, parse_spec
from ndtool.config import load_recorded, load_run_table, replace_table, table_text
from ndtool.console import csv_cell, info, visible, warn
from ndtool.contract import (
    Alpha,
    Contract,
    Fit,
    InputSpec,
    Normalize,
    Resize,
    mean_std_normalize,
    unit_normalize,
)
from ndtool.data import open_source
from ndtool.data.types import DataOptions, Source, SourceInfo, source_sha256
from ndtool.errors import ConfigError, InputError
from ndtool.models import make_spec
from ndtool.options import MAX_EXTENSIONS, TRAIN_BOUNDS, TrainOptions
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
    read_bounded,
    sha256_bounded,
    slug,
)
from ndtool.types import Augmentation, Recipe, Sha256, TeacherKind

TRAIN_VERSION: Final = 1  # of the train stage: raised when the same options give other weights
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Options that only some recipes read
_OF_RECIPES: Final[Mapping[str, frozenset[Recipe]]] = {
    **dict.fromkeys(
        (
            "student_loss",
            "surgery",
            "expand",
            "uncertainty",
            "teacher_start",
            "teacher_stop",
            "teacher_every",
        ),
        frozenset({Recipe.NETDISTILLER}),
    ),
    **dict.fromkeys(("teacher", "temperature"), frozenset({Recipe.KD, Recipe.NETDISTILLER})),
    "kd_weight": frozenset({Recipe.KD}),
    **dict.fromkeys(("freeze", "freeze_epochs"), frozenset({Recipe.PLAIN, Recipe.KD})),
}
# Options that change how a run is done, not what comes out of it
NOT_COMPARED: Final = (
    "device",
    "threads",
    "nproc",
    "loaders",
    "tensorboard",
    "cuda_graphs",
    "target",
    "boards",
)
_PLACE: Final = ("name", "out")
_EXTENSIONS: Final = "extend_epochs"  # may grow: `keep_extensions`
_NUMBERS: Final = re.compile(r"[0-9]{1,6}(,[0-9]{1,6})*")
_TEACHERS: Final = "checkpoint:FILE, onnx:FILE or torchvision:NAME:FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFile:
    """What --teacher names."""

    kind: TeacherKind
    network: str  # torchvision's name of it; "" of other kinds
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything a training needs; `options` has no None left that training reads."""

    run: RunDir
    options: TrainOptions
    spec: ArchSpec
    contract: Contract
    source: Source


def data_options(options: TrainOptions) -> DataOptions:
    """The part of the options that opening a source needs."""
    return DataOptions(
        max_pixels=options.max_pixels,
        skip_bad_files=options.bad_files == "skip",
        labels_file=options.labels,
    )


def prepare(options: TrainOptions, *, name: str, out: Path) -> Prepared:
    """Open the data and settle every default.

    Raises:
        DataError, ConfigError, ContractError: as the parts say.
    """
    check_teacher(options)
    if name and not _NAME.fullmatch(name):
        raise ConfigError(
            f"'{visible(name)}' is no name for a run",
            where="--name",
            remedy="use letters, digits, '.', '_' and '-'; the folder is --out",
            code="option.name",
        )
    for path in (options.data, options.init_from):
        if not path.isprintable():
            raise ConfigError(
                "the path holds bytes that are no text",
                where=visible(path),
                remedy="rename the file or folder",
                code="option.data-text",
            )
    source, contract = open_with_contract(options)
    info = source.info
    side = contract.input.height
    spec = make_spec(
        options.model,
        width=options.width,
        size_px=side,
        in_channels=contract.input.channels,
        classes=contract.num_classes,
        stem_stride=options.stem_stride,
        strides=options.strides,
    )
    last = next(layer for layer in lower(spec) if layer.name == "pool").hw_in
    if min(last) < 2:
        warn(
            "model.small-map",
            f"the last feature map is {last[0]}x{last[1]}: use a larger --resolution or smaller"
            " --strides",
        )
    resolved = resolve(options, info, contract)
    width = "" if options.width == 1.0 else f"-w{options.width:g}"
    default = f"{info.name}-{options.model}{width}-{side}-{options.recipe.value}"
    run = RunDir(out / (name or slug(default)))
    if options.init_from and _writes(run, checkpoint_file(options.init_from)):
        raise ConfigError(
            "the run would start from a file that it writes itself",
            where=f"--init-from {visible(options.init_from)}",
            remedy="use another --name for the new run",
            code="train.init-itself",
        )
    if options.teacher and _writes(run, read_teacher(options.teacher).path):
        raise ConfigError(
            "the run would learn from a file that it writes itself",
            where=f"--teacher {visible(options.teacher)}",
            remedy="use another --name for the new run",
            code="train.teacher-itself",
        )
    return Prepared(run=run, options=resolved, spec=spec, contract=contract, source=source)


def _writes(run: RunDir, path: Path) -> bool:
    """Whether `path` lies in the run folder, through links too."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(run.path))


def resolve(options: TrainOptions, info: SourceInfo, contract: Contract) -> TrainOptions:
    """The options with every default that depends on the data filled in."""
    side = contract.input.height
    scaled_crop = round(info.augment.crop_px * side / info.resolution)
    if options.augment is Augmentation.RESIZED_CROP:
        scaled_crop = 0  # it cuts in a way of its own
    return replace(
        options,
        resolution=side,
        epochs=options.epochs if options.epochs is not None else info.epochs,
        crop_px=options.crop_px if options.crop_px is not None else scaled_crop,
        flip=options.flip if options.flip is not None else info.augment.flip,
        gray=contract.input.channels == 1,
    )


def open_with_contract(options: TrainOptions) -> tuple[Source, Contract]:
    """A data source and the contract that training with these options would use."""
    source = open_source(options.data, data_options(options))
    return source, make_contract(options, source)


def make_contract(options: TrainOptions, source: Source) -> Contract:
    """The contract of this data and these options (design, section 4)."""
    info = source.info
    channels = info.channels if options.gray is None else (1 if options.gray else 3)
    side = options.resolution if options.resolution is not None else info.resolution
    return Contract(
        input=InputSpec(
            height=side, width=side, channels=channels, color="RGB" if channels == 3 else "GRAY"
        ),
        resize=Resize(fit=cast("Fit", options.fit)),
        normalize=_normalize(options.normalize, channels),
        labels=info.labels,
        alpha=cast("Alpha", options.alpha),
    )


def _normalize(kind: str, channels: int) -> Normalize:
    if kind == "u8/255":
        return unit_normalize(channels)
    if channels != 3:
        raise ConfigError(
            "the ImageNet normalisation is for three channels",
            where="--normalize imagenet",
            remedy="use --normalize u8/255, or --rgb",
            code="option.normalize",
        )
    return mean_std_normalize(IMAGENET_MEAN, IMAGENET_STD)


def check_teacher(options: TrainOptions) -> None:
    """A recipe that learns from an external teacher has one, and no other is given one.

    Raises:
        ConfigError: the two do not go together, or --teacher names nothing of its kinds.
    """
    recipe = options.recipe
    if options.teacher and recipe not in _OF_RECIPES["teacher"]:
        raise ConfigError(
            f"--recipe {recipe.value} learns from no external teacher",
            where="--teacher",
            remedy="use --recipe kd or netdistiller, or leave --teacher out",
            code="option.teacher",
        )
    if options.teacher:
        read_teacher(options.teacher)
    elif recipe is Recipe.KD:
        raise ConfigError(
            "--recipe kd needs a teacher",
            where="--recipe",
            remedy=f"name one with --teacher: {_TEACHERS}",
            code="option.teacher",
        )


def read_teacher(text: str) -> TeacherFile:
    """The parts of --teacher; of a run folder, the file is its best checkpoint.

    Raises:
        ConfigError: no such kind, or a part is missing.
    """
    word, _, rest = text.partition(":")
    kind = next((kind for kind in TeacherKind if kind.value == word), None)
    network, file = "", rest
    if kind is TeacherKind.TORCHVISION:
        network, _, file = rest.partition(":")
    whole = bool(file) and bool(network) == (kind is TeacherKind.TORCHVISION)
    if kind is None or not whole or not text.isprintable():
        raise ConfigError(
            f"'{visible(text)}' names no teacher",
            where="--teacher",
            remedy=f"use {_TEACHERS}",
            code="option.teacher",
        )
    path = checkpoint_file(file) if kind is TeacherKind.CHECKPOINT else Path(file)
    return TeacherFile(kind=kind, network=network, path=path)


def teacher_sha256(text: str) -> Sha256:
    """Hash of the file that --teacher names.

    Raises:
        ConfigError, InputError: there is none that could be one.
    """
    return sha256_bounded(read_teacher(text).path, MAX_CHECKPOINT_BYTES)


def settings(options: TrainOptions) -> dict[str, Value]:
    """The options that decide a training's result, as plain values for the manifest."""
    plain: dict[str, Value] = {}
    for key, value in asdict(options).items():
        if key in NOT_COMPARED or value is None or value == ():
            continue
        if options.recipe not in _OF_RECIPES.get(key, (options.recipe,)):
            continue
        plain[key] = ",".join(map(str, value)) if isinstance(value, tuple) else value
    return plain


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
        found["teacher"] = teacher_sha256(options.teacher)
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


def _spec_of(run: RunDir) -> ArchSpec:
    text = read_bounded(run / SPEC).decode("utf-8", "replace")
    return parse_spec(text, where=visible(str(run / SPEC)))


def write_config(
    run: RunDir, verb: str, values: Mapping[str, object], given: Mapping[str, str]
) -> None:
    """Put the table of `verb` into config.toml: each value with its origin as a comment."""
    path = run / CONFIG
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = {key: (value, given.get(key, "default")) for key, value in values.items()}
    run.write_text(CONFIG, replace_table(old, verb, table_text(verb, rows)))


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
