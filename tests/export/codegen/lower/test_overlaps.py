"""Bounds of shared memory against the order of reads and writes, step by step."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.export.codegen.lower.overlaps import (
    BLOCK,
    Axis,
    best_walk,
    depthwise_is_in_place,
)

FAR = 10**9


@st.composite
def axes(draw: st.DrawFn, *, padded: bool = True) -> Axis:
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 3)) if kernel > 1 else 1
    size = draw(st.integers(1, 8))
    before, after = (draw(st.integers(0, 4 if padded else 0)) for _ in range(2))
    span = (kernel - 1) * dilation + 1
    if not padded:
        size = max(size, span)
    elif size + before + after < span:
        after = span - size - before
    out = (size + before + after - span) // stride + 1
    return Axis(size=size, out=out, kernel=kernel, stride=stride, dilation=dilation, before=before)


def pixels_read(rows: Axis, columns: Axis, number: int) -> set[int]:
    """Image pixels under the kernel at output pixel `number`."""
    y, x = divmod(number, columns.out)
    return {
        row * columns.size + column
        for i in range(rows.kernel)
        for j in range(columns.kernel)
        for row in [y * rows.stride - rows.before + i * rows.dilation]
        for column in [x * columns.stride - columns.before + j * columns.dilation]
        if 0 <= row < rows.size and 0 <= column < columns.size
    }


def true_bounds(rows: Axis, columns: Axis, c_in: int, c_out: int, *, down: bool) -> tuple[int, int]:
    """(lowest, highest) distance at which no block overwrites what a later one reads.

    Upwards only the highest counts: a bound from above; downwards only the lowest.
    """
    pixels = rows.out * columns.out
    blocks = [range(p, min(p + BLOCK, pixels)) for p in range(0, pixels, BLOCK)]
    if down:
        blocks.reverse()
    low, high = -FAR, FAR
    for k in range(len(blocks) - 1):
        written = [p for block in blocks[: k + 1] for p in block]
        later = [
            p for block in blocks[k + 1 :] for n in block for p in pixels_read(rows, columns, n)
        ]
        if later:
            high = min(high, min(later) * c_in - (max(written) + 1) * c_out)
            low = max(low, (max(later) + 1) * c_in - min(written) * c_out)
    return low, high


@settings(derandomize=True, deadline=None, max_examples=150)
@given(axes(), axes(), st.integers(1, 5), st.integers(1, 5))
def test_walk_is_safe(rows: Axis, columns: Axis, c_in: int, c_out: int) -> None:
    walk = best_walk(rows, columns, c_in, c_out)
    if rows.out * columns.out <= BLOCK:
        assert (walk.low, walk.high) == (None, None)
        return
    low, high = true_bounds(rows, columns, c_in, c_out, down=walk.down)
    assert (walk.low is None) != (walk.high is None)
    assert walk.low is None or (walk.down and walk.low >= low)
    assert walk.high is None or (not walk.down and walk.high <= high)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(axes(padded=False), axes(padded=False), st.integers(1, 5), st.integers(1, 5))
def test_walk_is_exact_without_padding(rows: Axis, columns: Axis, c_in: int, c_out: int) -> None:
    """Where no window begins outside or leaves its first or last tap out of the image."""
    walk = best_walk(rows, columns, c_in, c_out)
    if rows.out * columns.out > BLOCK:
        low, high = true_bounds(rows, columns, c_in, c_out, down=walk.down)
        assert (walk.low, walk.high) == ((low, None) if walk.down else (None, high))


def line(pixels: int, out: int | None = None) -> Axis:
    return Axis(size=pixels, out=out or pixels, kernel=1, stride=1, dilation=1, before=0)


def test_pointwise_is_in_place_both_ways() -> None:
    """nd_pointwise_s8.c's own figures."""
    shrinks = best_walk(line(9), line(1), 16, 6)
    grows = best_walk(line(9), line(1), 6, 16)
    assert (shrinks.down, shrinks.high) == (False, 2 * (16 - 6))
    assert max(9 * 6, grows.low + 9 * 16 if grows.low is not None else 0, 9 * 16) == 9 * 16
    same = best_walk(line(9), line(1), 8, 8)
    assert (same.down, same.low, same.high) == (False, None, 0)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(axes(), axes(), st.integers(1, 9))
def test_depthwise_in_place_is_safe(rows: Axis, columns: Axis, band: int) -> None:
    band = min(band, rows.out)
    assert not depthwise_is_in_place(rows, columns, band) or overwrites_nothing(rows, columns, band)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(axes(), axes())
def test_depthwise_of_one_band_is_in_place(rows: Axis, columns: Axis) -> None:
    assert depthwise_is_in_place(rows, columns, rows.out)


def overwrites_nothing(rows: Axis, columns: Axis, band: int) -> bool:
    """nd_depthwise_s8.c's order: rows gathered for a band, then the band written."""
    gathered: set[int] = set()
    written = 0
    for y in range(0, rows.out, band):
        last = min(y + band, rows.out) - 1
        top = y * rows.stride - rows.before
        needed = set(range(top, last * rows.stride - rows.before + rows.span)) - gathered
        if any(0 <= row < rows.size and row * columns.size < written for row in needed):
            return False
        gathered |= needed
        written = (last + 1) * columns.out
    return True


def test_depthwise_layers_of_real_networks_are_in_place() -> None:
    def same(size: int, stride: int) -> Axis:
        out = -(-size // stride)
        before = max((out - 1) * stride + 3 - size, 0) // 2
        return Axis(size=size, out=out, kernel=3, stride=stride, dilation=1, before=before)

    for size in (3, 6, 7, 12, 14, 24, 48, 49, 112):
        for stride in (1, 2):
            axis = same(size, stride)
            assert depthwise_is_in_place(axis, axis, 1)
            assert depthwise_is_in_place(axis, axis, min(3, axis.out))
