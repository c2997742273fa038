"""resnet8, the image classifier of MLPerf Tiny (training-methods, 3.7)."""

from __future__ import annotations

from typing import Final

from ndtool.arch import Act, ArchSpec, Block, BlockKind, Head, Stem

FILTERS: Final = 16  # of the benchmark's reference model; each stack has twice as many as the last
KERAS_EPS: Final = 1e-3


def spec(
    *, width: float, size_px: int, in_channels: int, classes: int, strides: tuple[int, ...]
) -> ArchSpec:
    """Stem, three basic blocks, mean, linear; every convolution has a bias, as in Keras.

    Filters are rounded to an even number, not to eights as in MobileNets: the reference's other
    size, of 26 filters, is width 1.625.
    """
    filters = 2 * max(1, round(FILTERS / 2 * width))
    blocks = tuple(
        Block(
            kind=BlockKind.BASIC,
            kernel=3,
            stride=stride,
            mid=factor * filters,
            c_out=factor * filters,
            act=Act.RELU,
            act_out=Act.RELU,
            shortcut=True,
        )
        for factor, stride in zip((1, 2, 4), strides[1:], strict=True)
    )
    return ArchSpec(
        model="resnet8",
        width=width,
        height_px=size_px,
        width_px=size_px,
        in_channels=in_channels,
        classes=classes,
        stem=Stem(c_out=filters, kernel=3, stride=strides[0], act=Act.RELU),
        blocks=blocks,
        head=Head(),
        bn_eps=KERAS_EPS,
        conv_bias=True,
    )
