"""ProxylessNAS mobile (training-methods, 3.5)."""

from __future__ import annotations

from typing import Final

from ndtool.arch import Act, ArchSpec, Block, BlockKind, Head, Stem
from ndtool.models.rounding import div8

# channels, then expansion and kernel of each block
STAGES: Final = (
    (32, ((3, 5), (3, 3))),
    (40, ((3, 7), (3, 3), (3, 5), (3, 5))),
    (80, ((6, 7), (3, 5), (3, 5), (3, 5))),
    (96, ((6, 5), (3, 5), (3, 5), (3, 5))),
    (192, ((6, 7), (6, 7), (3, 7), (3, 7))),
    (320, ((6, 7),)),
)
HEAD: Final = 1280  # never scaled below


def spec(
    *, width: float, size_px: int, in_channels: int, classes: int, strides: tuple[int, ...]
) -> ArchSpec:
    """Stem, one separable block, six stages, 1x1 head, linear.

    The first block of a stage has no shortcut, also where its ends are equal: at width .35 the
    stage of 96 channels is 32 -> 32 at stride 1.
    """
    c_in = div8(16 * width)
    blocks = [
        Block(
            kind=BlockKind.SEPARABLE, kernel=3, stride=strides[1], mid=0, c_out=c_in, act=Act.RELU6
        )
    ]
    for (channels, inner), stride in zip(STAGES, (*strides[2:], 1), strict=True):
        c_out = div8(channels * width)
        for index, (ratio, kernel) in enumerate(inner):
            blocks.append(
                Block(
                    kind=BlockKind.INVERTED,
                    kernel=kernel,
                    stride=stride if index == 0 else 1,
                    mid=div8(ratio * c_in),
                    c_out=c_out,
                    act=Act.RELU6,
                    shortcut=index > 0,
                )
            )
            c_in = c_out
    return ArchSpec(
        model="proxyless",
        width=width,
        height_px=size_px,
        width_px=size_px,
        in_channels=in_channels,
        classes=classes,
        stem=Stem(c_out=div8(32 * width), kernel=3, stride=strides[0], act=Act.RELU6),
        blocks=tuple(blocks),
        head=Head(conv=max(div8(HEAD * width), HEAD), conv_act=Act.RELU6),
    )
