"""Model families by name. Tables only; each family is one file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ndtool.arch import ArchSpec, check_spec
from ndtool.errors import ConfigError
from ndtool.models import ds_cnn, mbv2, mbv3


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
    strides: tuple[int, ...]  # stem, then the stages
    small_strides: tuple[int, ...]  # the same for inputs of 32x32 and less (training-methods, 7)


_ALL: Final = (
    Model(
        name="ds-cnn",
        build=ds_cnn.spec,
        summary="depthwise-separable CNN without residuals",
        resolution=32,
        strides=(2, 1, 2, 1, 1),
        small_strides=(2, 1, 2, 1, 1),
    ),
    Model(
        name="mbv2",
        build=mbv2.mbv2,
        summary="MobileNetV2",
        resolution=160,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="mbv2-tiny",
        build=mbv2.mbv2_tiny,
        summary="MobileNetV2 .35 with a 448-channel head (width 1 is the paper's)",
        resolution=144,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
    Model(
        name="mbv3",
        build=mbv3.spec,
        summary="MobileNetV3 large: hard-swish, squeeze-excite",
        resolution=160,
        strides=(2, 1, 2, 2, 2, 1, 2),
        small_strides=(1, 1, 1, 2, 2, 1, 2),
    ),
)
MODELS: Final[Mapping[str, Model]] = {model.name: model for model in _ALL}
SMALL_PX: Final = 48  # up to this side the small strides are the default


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
    """The ArchSpec of model `name`.

    Args:
        width: factor on every width, rounded by the family's rule.
        size_px: side of the square input.
        stem_stride, strides: instead of the model's own; `strides` has one entry per stage.

    Raises:
        ConfigError: no such model, a width out of (0, 8], wrong strides, a final map below 1x1.
    """
    model = MODELS.get(name)
    if model is None:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"no model named {name!r}",
            where="--model",
            remedy=f"{hint}see ndtool models",
            code="model.unknown",
        )
    if not (math.isfinite(width) and 0 < width <= 8):
        raise ConfigError(
            f"width {width} is out of bounds",
            where="--width",
            remedy="use a factor above 0, at most 8, such as 0.35",
            code="model.width",
        )
    own = model.small_strides if size_px <= SMALL_PX else model.strides
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
