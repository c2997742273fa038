"""MobileNetV2 and mbv2-tiny (training-methods, 3.1 and 3.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ndtool.arch import Act, ArchSpec, Block, BlockKind, Head, Stem
from ndtool.models.rounding import div8

# expansion, channels, blocks
STAGES: Final = ((6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
HEAD: Final = 1280  # never scaled below
TINY_WIDTH: Final = 0.35  # mbv2-tiny at width 1.0 is the paper's net
TINY_HEAD_PER_CHANNEL: Final = 4  # 112 -> 448


def _spec(
    model: str,
    *,
    width: float,
    size_px: int,
    in_channels: int,
    classes: int,
    strides: tuple[int, ...],
    head: int,
) -> ArchSpec:
    c_in = div8(16 * width)
    blocks = [
        Block(
            kind=BlockKind.SEPARABLE, kernel=3, stride=strides[1], mid=0, c_out=c_in, act=Act.RELU6
        )
    ]
    for (ratio, channels, count), stride in zip(STAGES, (*strides[2:], 1), strict=True):
        c_out = div8(channels * width)
        for index in range(count):
            blocks.append(
                Block(
                    kind=BlockKind.INVERTED,
                    kernel=3,
                    stride=stride if index == 0 else 1,
                    mid=div8(ratio * c_in),
                    c_out=c_out,
                    act=Act.RELU6,
                    shortcut=index > 0,
                )
            )
            c_in = c_out
    return ArchSpec(
        model=model,
        width=width,
        height_px=size_px,
        width_px=size_px,
        in_channels=in_channels,
        classes=classes,
        stem=Stem(c_out=div8(32 * width), kernel=3, stride=strides[0], act=Act.RELU6),
        blocks=tuple(blocks),
        head=Head(conv=head, conv_act=Act.RELU6),
    )


def mbv2(
    *, width: float, size_px: int, in_channels: int, classes: int, strides: tuple[int, ...]
) -> ArchSpec:
    """MobileNetV2; its head keeps 1280 channels below width 1."""
    return _spec(
        "mbv2",
        width=width,
        size_px=size_px,
        in_channels=in_channels,
        classes=classes,
        strides=strides,
        head=max(div8(HEAD * width), HEAD),
    )


def mbv2_tiny(
    *, width: float, size_px: int, in_channels: int, classes: int, strides: tuple[int, ...]
) -> ArchSpec:
    """MobileNetV2 at .35 of `width` whose head is only four times its last block."""
    return replace(
        _spec(
            "mbv2-tiny",
            width=TINY_WIDTH * width,
            size_px=size_px,
            in_channels=in_channels,
            classes=classes,
            strides=strides,
            head=TINY_HEAD_PER_CHANNEL * div8(STAGES[-1][1] * TINY_WIDTH * width),
        ),
        width=width,
    )
