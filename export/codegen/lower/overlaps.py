"""Where a convolution's output may lie over its input in the arena.

The kernels read what they need of a block (two output pixels, or a row of one channel) before they
write it. What is overwritten by then must be input that no later block reads; the functions here
find all start addresses for which that holds, from the order in which the kernels of
`firmware_templates/runtime` walk. Distances are bytes, output minus input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from ndtool.quant.fixed_point import I64

BLOCK: Final = 2  # output pixels that nd_conv_s8 and nd_pointwise_s8 form at a time
_CHUNK: Final = 2**16  # blocks looked at in one go: bounds the memory that a large image takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One image axis of a convolution: sizes and steps in pixels; `before` is its padding."""

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    before: int

    @property
    def span(self) -> int:
        """Pixels from the kernel's first tap to its last, both included."""
        return (self.kernel - 1) * self.dilation + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """In which order to form the blocks, and between which distances that is safe.

    None is no bound on that side.
    """

    down: bool
    low: int | None
    high: int | None


def best_walk(rows: Axis, columns: Axis, c_in: int, c_out: int) -> Walk:
    """The order that lets input and output share more; upwards where both are equal."""
    if rows.out * columns.out <= BLOCK:
        return Walk(down=False, low=None, high=None)  # all is read before anything is written
    high = min(
        int((reads - block * c_out).min()) for block, reads in _first_reads(rows, columns, c_in)
    )
    low = max(
        int((reads - block * c_out).max()) for block, reads in _last_reads(rows, columns, c_in)
    )
    in_bytes = rows.size * columns.size * c_in
    out_bytes = rows.out * columns.out * c_out

    def together(distance: int) -> int:
        return max(in_bytes, distance + out_bytes) - min(0, distance)

    if together(max(low, 0)) < together(min(high, 0)):
        return Walk(down=True, low=low, high=None)
    return Walk(down=False, low=None, high=high)


def _blocks(rows: Axis, columns: Axis) -> Iterator[I64]:
    """Numbers of the first pixels of all blocks but the first, in parts."""
    pixels = rows.out * columns.out
    for start in range(BLOCK, pixels, BLOCK * _CHUNK):
        yield np.arange(start, min(start + BLOCK * _CHUNK, pixels), BLOCK, dtype=np.int64)


def _first_reads(rows: Axis, columns: Axis, c_in: int) -> Iterator[tuple[I64, I64]]:
    """(pixel p, first input byte that p or a later pixel reads) for each block, walking up."""
    for block in _blocks(rows, columns):
        y, x = block // columns.out, block % columns.out
        top = np.maximum(y * rows.stride - rows.before, 0)
        left = np.maximum(x * columns.stride - columns.before, 0)
        own = top * columns.size + np.minimum(left, columns.size)
        # the next row of output begins again at the left, further down unless the top is padding
        below = np.maximum((y + 1) * rows.stride - rows.before, 0) * columns.size
        last = y + 1 == rows.out
        yield block, np.where(last, own, np.minimum(own, below)) * c_in


def _last_reads(rows: Axis, columns: Axis, c_in: int) -> Iterator[tuple[I64, I64]]:
    """(pixel p, end of the input bytes that pixels before p read) for each block, walking down."""
    for block in _blocks(rows, columns):
        y, x = (block - 1) // columns.out, (block - 1) % columns.out
        own = _end(rows, columns, y, x)
        above = _end(rows, columns, y - 1, np.full_like(x, columns.out - 1))
        yield block, np.where(y == 0, own, np.maximum(own, above)) * c_in


def _end(rows: Axis, columns: Axis, y: I64, x: I64) -> I64:
    """Pixel number after the last one that output pixel (y, x) reads."""
    bottom = np.minimum(y * rows.stride - rows.before + rows.span, rows.size)
    right = np.clip(x * columns.stride - columns.before + columns.span, 0, columns.size)
    end: I64 = np.maximum((bottom - 1) * columns.size + right, 0)
    return end


def depthwise_is_in_place(rows: Axis, columns: Axis, band: int) -> bool:
    """Whether nd_depthwise_s8 with multiplier 1 may write each channel over itself.

    When the band of output rows that ends with row y is written, image rows before
    `y * stride - before + max(span, stride)` are in scratch or never needed. Both sides grow
    linearly in y, so the first and the last band after which a row is gathered decide.
    """
    ahead = max(rows.span, rows.stride) - rows.before
    # the last y with a row of output after it and an image row left to gather
    last = min(rows.out - 2, (rows.size - 1 - ahead) // rows.stride)
    ends = (band - 1, (last + 1) // band * band - 1)
    return last < band - 1 or all(
        (y + 1) * columns.out <= (y * rows.stride + ahead) * columns.size for y in ends
    )
