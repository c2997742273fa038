"""MobileNetV3 large (training-methods, 3.3)."""

from __future__ import annotations

from typing import Final

from ndtool.arch import Act, ArchSpec, Block, BlockKind, Head, Stem
from ndtool.models.rounding import div8

# mids, kernel, activation, squeeze-excite, channels
STAGES: Final = (
    ((64, 72), 3, Act.RELU, False, 24),
    ((72, 120, 120), 5, Act.RELU, True, 40),
    ((240, 200, 184, 184), 3, Act.HARD_SWISH, False, 80),
    ((480, 672), 3, Act.HARD_SWISH, True, 112),
    ((672, 960, 960), 5, Act.HARD_SWISH, True, 160),
)
HEAD: Final = 960
HIDDEN: Final = 1280


def spec(
    *, width: float, size_px: int, in_channels: int, classes: int, strides: tuple[int, ...]
) -> ArchSpec:
    """Stem, one separable block with a shortcut, five stages, 1x1 head, hidden layer, linear."""
    c_in = div8(16 * width)
    blocks = [
        Block(
            kind=BlockKind.SEPARABLE,
            kernel=3,
            stride=strides[1],
            mid=0,
            c_out=c_in,
            act=Act.RELU,
            shortcut=strides[1] == 1,
        )
    ]
    for (mids, kernel, act, squeeze, channels), stride in zip(STAGES, strides[2:], strict=True):
        c_out = div8(channels * width)
        for index, wide in enumerate(mids):
            mid = div8(wide * width)
            blocks.append(
                Block(
                    kind=BlockKind.INVERTED,
                    kernel=kernel,
                    stride=stride if index == 0 else 1,
                    mid=mid,
                    c_out=c_out,
                    act=act,
                    se=max(div8(mid / 4), 16) if squeeze else 0,
                    shortcut=index > 0,
                )
            )
            c_in = c_out
    return ArchSpec(
        model="mbv3",
        width=width,
        height_px=size_px,
        width_px=size_px,
        in_channels=in_channels,
        classes=classes,
        stem=Stem(c_out=div8(16 * width), kernel=3, stride=strides[0], act=Act.HARD_SWISH),
        blocks=tuple(blocks),
        head=Head(
            conv=div8(HEAD * width),
            conv_act=Act.HARD_SWISH,
            hidden=max(div8(HIDDEN * width), HIDDEN),
            hidden_act=Act.HARD_SWISH,
        ),
    )
