"""From options to all that a training needs: data source, contract, architecture, run folder.

Before torch is loaded. Whether the folder holds this training or another: `ndtool.identity`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from ndtool.arch import ArchSpec, lower
from ndtool.console import visible, warn
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
from ndtool.data.types import DataOptions, Source, SourceInfo
from ndtool.errors import ConfigError
from ndtool.models import make_spec
from ndtool.options import TrainOptions
from ndtool.rundir import RunDir, checkpoint_file, slug
from ndtool.teacher import check_teacher, read_teacher
from ndtool.types import Augmentation

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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
