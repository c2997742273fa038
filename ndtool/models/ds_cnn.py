"""ds-cnn: convolution, then depthwise-separable blocks, no residuals (training-methods, 3.6)."""

from __future__ import annotations

from typing import Final

from ndtool.arch import Act, ArchSpec, Block, BlockKind, Head, Stem
from ndtool.models.rounding import div8

CHANNELS: Final = (16, 32, 32, 64, 64)  # the `s` row: width 1.0


def spec(
    *, width: float, size_px: int, in_channels: int, classes: int, strides: tuple[int, ...]
) -> ArchSpec:
    """Stem to 16 channels, four separable blocks, mean, linear."""
    c0, *rest = (div8(c * width) for c in CHANNELS)
    blocks = tuple(
        Block(
            kind=BlockKind.SEPARABLE,
            kernel=3,
            stride=stride,
            mid=0,
            c_out=c,
            act=Act.RELU6,
            act_out=Act.RELU6,
        )
        for c, stride in zip(rest, strides[1:], strict=True)
    )
    return ArchSpec(
        model="ds-cnn",
        width=width,
        height_px=size_px,
        width_px=size_px,
        in_channels=in_channels,
        classes=classes,
        stem=Stem(c_out=c0, kernel=3, stride=strides[0], act=Act.RELU6),
        blocks=blocks,
        head=Head(),
    )
