"""Model families by name. Tables only; each family is one file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ndtool.arch import ArchSpec, check_spec
from ndtool.console import visible
from ndtool.errors import ConfigError
from ndtool.models import ds_cnn, mbv2, mbv3, proxyless, resnet8
from ndtool.models.mcunet import Mcunet
from ndtool.models.own import is_own_model, load_own_spec


class Family(Protocol):
    """Makes the spec of one family; `strides` are (stem, then one per stage)."""

    def __call__(
        self,
        *,
        width: float,
        size_px: int,
        in_channels: int,
        classes: int,
        strides: tuple[int, ...],
    ) -> ArchSpec: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A name users type."""

    name: str
    build: Family
    summary: str
    resolution: int  # the papers' or, for ours, the usual one
    classes: int  # of the papers' tables
    strides: tuple[int, ...]  # stem, then the stages
    small_strides: tuple[int, ...]  # the same for small images (training-methods, 7)


_ALL: Final = (
    Model(
        name="ds-cnn",
        build=ds_cnn.spec,
        summary="depthwise-separable CNN without residuals",
        resolution=32,
        classes=10,
        strides=(2, 1, 2, 1, 1),
        small_strides=(2, 1, 2, 1, 1),
    ),
    Model(
        name="mbv2",
        build=mbv2.mbv2,
        summary="MobileNetV2",
        resolution=160,
        classes=1000,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="mbv2-tiny",
        build=mbv2.mbv2_tiny,
        summary="MobileNetV2 .35 with a 448-channel head (width 1 is the paper's)",
        resolution=144,
        classes=1000,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="mbv3",
        build=mbv3.spec,
        summary="MobileNetV3 large: hard-swish, squeeze-excite",
        resolution=160,
        classes=1000,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="proxyless",
        build=proxyless.spec,
        summary="ProxylessNAS mobile",
        resolution=160,
        classes=1000,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="mcunet-256kb",
        build=Mcunet("mcunet-256kb"),
        summary="MCUNet for 256 kB of RAM",
        resolution=160,
        classes=1000,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="mcunet-320kb",
        build=Mcunet("mcunet-320kb"),
        summary="MCUNet for 320 kB of RAM; the NetDistiller paper's MCUNet",
        resolution=176,
        classes=1000,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="mcunet-512kb",
        build=Mcunet("mcunet-512kb"),
        summary="MCUNet for 512 kB of RAM",
        resolution=160,
        classes=1000,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="mcunet-5fps",
        build=Mcunet("mcunet-5fps"),
        summary="MCUNet for 5 images a second",
        resolution=96,
        classes=1000,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="mcunet-10fps",
        build=Mcunet("mcunet-10fps"),
        summary="MCUNet for 10 images a second",
        resolution=48,
        classes=1000,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="resnet8",
        build=resnet8.spec,
        summary="MLPerf Tiny's image classifier",
        resolution=32,
        classes=10,
        strides=(1, 1, 2, 2),
        small_strides=(1, 1, 2, 2),
    ),
)
MODELS: Final[Mapping[str, Model]] = {model.name: model for model in _ALL}
# Up to this side the small strides are the default, but never for a model's own resolution.
SMALL_PX: Final = 48


def make_spec(
    name: str,
    *,
    width: float,
    size_px: int,
    in_channels: int,
    classes: int,
    stem_stride: int | None = None,
    strides: tuple[int, ...] | None = None,
) -> ArchSpec:
    """The ArchSpec of model `name`: one of ours, or the user's own as MODULE:FUNCTION.

    The user's own is imported and run, see `load_own_spec` for where `name` may come from.

    Args:
        width: factor on every width, rounded by the family's rule.
        size_px: side of the square input.
        stem_stride, strides: instead of the model's own; `strides` has one entry per stage.

    Raises:
        ConfigError: no such model, a width out of (0, 8], wrong strides, a final map below 1x1.
        InputError: the user's own network cannot be built.
    """
    model = MODELS.get(name)
    if model is None and not is_own_model(name):
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"no model named '{visible(name)}'",
            where="--model",
            remedy=f"{hint}see ndtool models; your own is MODULE:FUNCTION",
            code="model.unknown",
        )
    if not (math.isfinite(width) and 0 < width <= 8):
        raise ConfigError(
            f"width {width} is out of bounds",
            where="--width",
            remedy="use a factor above 0, at most 8, such as 0.35",
            code="model.width",
        )
    if model is None:
        if stem_stride is not None or strides is not None:
            raise ConfigError(
                "the strides of your own model are its own",
                where="--stem-stride, --strides",
                remedy="leave them out",
                code="model.strides",
            )
        return load_own_spec(
            name, width=width, size_px=size_px, in_channels=in_channels, classes=classes
        )
    small = size_px <= SMALL_PX and size_px < model.resolution
    own = model.small_strides if small else model.strides
    stages = own[1:] if strides is None else strides
    every = (own[0] if stem_stride is None else stem_stride, *stages)
    if len(every) != len(own) or any(s not in (1, 2) for s in every):
        raise ConfigError(
            f"strides {','.join(map(str, every[1:]))} do not fit {name}",
            where="--stem-stride, --strides",
            remedy=f"give {len(own) - 1} strides of 1 or 2, such as {','.join(map(str, own[1:]))}",
            code="model.strides",
        )
    total = math.prod(every)
    if size_px < total:
        raise ConfigError(
            f"an input of {size_px} px shrinks below 1x1 at a total stride of {total}",
            where="--resolution",
            remedy=f"use at least {total} px, or smaller --strides",
            code="model.resolution",
        )
    spec = model.build(
        width=width, size_px=size_px, in_channels=in_channels, classes=classes, strides=every
    )
    return check_spec(spec, where=f"--model {name}")
