"""MCUNet: networks found by search for a kilobyte budget (training-methods, 3.4).

Lin et al., MCUNet, and its model zoo: `256kb` there is `mcunet-in2`, `320kb` is `mcunet-in3`, which
the NetDistiller paper's tables call MCUNet. Each block has a width and a kernel of its own; no 1x1
convolution stands between the last block and the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ndtool.arch import Act, ArchSpec, Block, BlockKind, Head, Stem
from ndtool.models.rounding import div8


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width; the first has the stage's stride, the others have a shortcut."""

    channels: int
    blocks: tuple[tuple[int, int], ...]  # expanded channels, kernel


@dataclass(frozen=True, slots=True)
class Table:
    """One network at width 1; the stride of its last stage is always 1."""

    stem: int
    first: int  # of the separable block
    stages: tuple[Stage, ...]


TABLES: Final = {
    "mcunet-256kb": Table(
        16,
        8,
        (
            Stage(16, ((24, 5), (96, 7), (80, 3), (80, 5))),
            Stage(24, ((80, 3), (144, 7), (144, 5))),
            Stage(40, ((96, 7), (200, 5))),
            Stage(48, ((200, 3), (240, 5), (192, 3))),
            Stage(96, ((288, 5), (384, 5), (288, 5), (384, 3))),
            Stage(160, ((480, 5),)),
        ),
    ),
    "mcunet-320kb": Table(
        16,
        8,
        (
            Stage(16, ((24, 7), (80, 3), (80, 7), (64, 5))),
            Stage(24, ((80, 5), (120, 5), (120, 5))),
            Stage(40, ((120, 3), (240, 7), (160, 5))),
            Stage(48, ((200, 5), (240, 7), (240, 3))),
            Stage(96, ((288, 3), (480, 7), (384, 3))),
            Stage(160, ((480, 7),)),
        ),
    ),
    "mcunet-512kb": Table(
        32,
        16,
        (
            Stage(24, ((48, 7), (120, 3), (96, 5))),
            Stage(40, ((120, 7), (160, 3), (160, 7))),
            Stage(80, ((120, 7), (240, 3), (240, 7))),
            Stage(96, ((320, 3), (288, 5), (288, 5))),
            Stage(192, ((384, 7), (576, 7), (576, 5))),
            Stage(320, ((768, 5),)),
        ),
    ),
    "mcunet-5fps": Table(
        16,
        8,
        (
            Stage(16, ((32, 3), (48, 3))),
            Stage(24, ((48, 7), (120, 3))),
            Stage(40, ((120, 3), (160, 7))),
            Stage(48, ((160, 5), (144, 3), (192, 3))),
            Stage(96, ((240, 7), (384, 5), (384, 5))),
            Stage(160, ((576, 3),)),
        ),
    ),
    "mcunet-10fps": Table(
        24,
        16,
        (
            Stage(16, ((64, 5), (48, 3), (64, 3))),
            Stage(24, ((80, 7), (96, 5), (120, 5))),
            Stage(48, ((120, 7), (192, 5))),
            Stage(56, ((240, 3), (224, 5), (280, 3))),
            Stage(112, ((336, 3), (448, 5))),
            Stage(192, ((672, 3),)),
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Mcunet:
    """Makes the specs of the network `model`, a name of `TABLES`."""

    model: str

    def __call__(
        self,
        *,
        width: float,
        size_px: int,
        in_channels: int,
        classes: int,
        strides: tuple[int, ...],
    ) -> ArchSpec:
        """Stem, separable block, stages, mean, linear.

        A width is ours, the papers have none: an expansion keeps its ratio to the block's input.
        """
        table = TABLES[self.model]
        before, c_in = table.first, div8(table.first * width)  # of the table, and with the width
        blocks = [
            Block(
                kind=BlockKind.SEPARABLE,
                kernel=3,
                stride=strides[1],
                mid=0,
                c_out=c_in,
                act=Act.RELU6,
            )
        ]
        for stage, stride in zip(table.stages, (*strides[2:], 1), strict=True):
            c_out = div8(stage.channels * width)
            for index, (mid, kernel) in enumerate(stage.blocks):
                blocks.append(
                    Block(
                        kind=BlockKind.INVERTED,
                        kernel=kernel,
                        stride=stride if index == 0 else 1,
                        mid=div8(mid * c_in / before),
                        c_out=c_out,
                        act=Act.RELU6,
                        shortcut=index > 0,
                    )
                )
                before, c_in = stage.channels, c_out
        return ArchSpec(
            model=self.model,
            width=width,
            height_px=size_px,
            width_px=size_px,
            in_channels=in_channels,
            classes=classes,
            stem=Stem(c_out=div8(table.stem * width), kernel=3, stride=strides[0], act=Act.RELU6),
            blocks=tuple(blocks),
            head=Head(),
        )
