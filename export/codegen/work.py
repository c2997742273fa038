"""What a kernel call has to do: how often each of its loops runs.

Read off the kernels in firmware_templates/runtime/, one function here for each of them. The counts
follow from shapes alone, but for the way the words and single bytes of a memcpy follow from
addresses: arenas and scratch begin at multiples of 16. What data decides (a clamp, the sign of a
shift) is not counted; `costs.toml` has averages of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np

from ndtool.export.codegen.program import Call, Read, Struct, Write
from ndtool.quant.fixed_point import I64

Work = dict[str, int]
Fields = Mapping[str, int]


def call_work(call: Call) -> Mapping[str, int]:
    """Name -> how often; `call` itself is 1. The names of a kernel are the same for every call."""
    assert call.kernel in _WORK, f"{call.kernel} has no entry in work.py"
    return MappingProxyType({"call": 1, **_WORK[call.kernel](call)})


def known_kernels() -> frozenset[str]:
    """Every kernel that `call_work` knows."""
    return frozenset(_WORK)


def _fields(call: Call, suffix: str = "_shape") -> Fields:
    """The numbers of the call's shape, by name."""
    (struct,) = (arg for arg in call.args if isinstance(arg, Struct) and arg.type.endswith(suffix))
    return dict(struct.fields)


def _blocks(n: int) -> int:
    """Pairs that `n` things make, the last one half full where n is odd."""
    return -(-n // 2)


# -- memcpy and memset ---------------------------------------------------------------------------

ALIGNED: Final = 4  # bytes of a word; of addresses, only the remainder counts
MAX_AT_ONCE: Final = 2**16  # elements of an array: bounds the memory that a large image takes


def _copied(count: I64 | int, to: I64 | int, start: I64 | int, times: I64 | int = 1) -> Work:
    """memcpy of `count` bytes: words where both sides are aligned alike, else single bytes.

    `word_copy`: copies that have words.
    """
    n, at, source = (np.asarray(v, np.int64) for v in (count, to, start))
    words = np.where((at - source) % ALIGNED == 0, np.maximum(n - -at % ALIGNED, 0) // ALIGNED, 0)
    return {
        "word_copy": int(((words > 0) * times).sum()),
        "copied_word": int((words * times).sum()),
        "copied_byte": int(((n - ALIGNED * words) * times).sum()),
    }


def _filled(count: I64 | int, to: I64 | int) -> Work:
    """memset of `count` bytes: words but for the ends."""
    n, at = np.asarray(count, np.int64), np.asarray(to, np.int64)
    words = np.maximum(n - -at % ALIGNED, 0) // ALIGNED
    return {"filled_word": int(words.sum()), "filled_byte": int((n - ALIGNED * words).sum())}


def _copied_rows(
    count: int, loops: Sequence[tuple[int, int, int]], to: int = 0, start: int = 0
) -> Work:
    """memcpy of `count` bytes in each pass of nested loops (passes, step of to, step of start).

    Every fourth pass finds the same alignment.
    """
    at, source, times = np.array([to]), np.array([start]), np.array([1])
    for passes, to_step, start_step in loops:
        first = np.arange(min(passes, ALIGNED))
        at = (at[:, None] + first * to_step).reshape(-1)
        source = (source[:, None] + first * start_step).reshape(-1)
        times = (times[:, None] * ((passes - first + ALIGNED - 1) // ALIGNED)).reshape(-1)
    return _copied(count, at, source, times)


def _added(*parts: Work) -> Work:
    total: Work = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def _times(work: Work, factor: int) -> Work:
    return {name: count * factor for name, count in work.items()}


# -- products ------------------------------------------------------------------------------------


def _gemm(pixels: int, k: int, c_out: int) -> Work:
    """nd_gemm_s8.c on all blocks of two pixels: `product` is a pass of its innermost loop."""
    pairs = _blocks(pixels) * _blocks(c_out)
    return {"block": _blocks(pixels), "pair": pairs, "product": pairs * k}


def _pointwise(call: Call) -> Work:
    s = _fields(call)
    pixels, c_in = s["pixels"], s["c_in"]
    first = np.arange(0, pixels, 2)
    copies = _copied(np.minimum(pixels - first, 2) * c_in, 0, first * c_in)
    return _gemm(pixels, c_in, s["c_out"]) | copies


def _conv(call: Call) -> Work:
    s = _fields(call)
    k = s["kh"] * s["kw"] * s["c_in"]
    return _gemm(s["out_h"] * s["out_w"], k, s["c_out"]) | _patches(s, k)


def _patches(s: Fields, k: int) -> Work:
    """nd_patch_s8.c of every output pixel: rows of the kernel in one piece, or tap by tap."""
    pixels, chunk = s["out_h"] * s["out_w"], max(1, MAX_AT_ONCE // s["kh"])
    parts = (
        _patches_of(s, k, np.arange(first, min(first + chunk, pixels)))
        for first in range(0, pixels, chunk)
    )
    return {"patch": pixels} | _added(*parts)


def _patches_of(s: Fields, k: int, pixels: I64) -> Work:
    c_in, kw = s["c_in"], s["kw"]
    pixel, row = (a.reshape(-1) for a in np.meshgrid(pixels, np.arange(s["kh"]), indexing="ij"))
    y = pixel // s["out_w"] * s["stride_h"] - s["pad_top"] + row * s["dilation_h"]
    x = pixel % s["out_w"] * s["stride_w"] - s["pad_left"]
    to = pixel % 2 * k + row * kw * c_in
    inside = (y >= 0) & (y < s["in_h"])
    whole = inside & (s["dilation_w"] == 1)
    left = np.clip(-x, 0, kw)
    count = np.clip(s["in_w"] - x, left, kw) - left
    start = (y * s["in_w"] + x + left) * c_in
    work = _added(
        {"patch_row": int(whole.sum()), "patch_tap": int((~whole).sum()) * kw},
        _copied((count * c_in)[whole], (to + left * c_in)[whole], start[whole]),
        _filled((left * c_in)[whole], to[whole]),
        _filled(((kw - left - count) * c_in)[whole], (to + (left + count) * c_in)[whole]),
    )
    for j in range(kw) if not whole.all() else ():
        column = x + j * s["dilation_w"]
        taken = ~whole & inside & (column >= 0) & (column < s["in_w"])
        at, source = to + j * c_in, (y * s["in_w"] + column) * c_in
        work = _added(
            work,
            _copied(np.full(int(taken.sum()), c_in), at[taken], source[taken]),
            _filled(np.full(int((~whole & ~taken).sum()), c_in), at[~whole & ~taken]),
        )
    return work


def _with_sum(of_layer: Callable[[Call], Work]) -> Callable[[Call], Work]:
    """The same layer, then ADD of each output."""

    def work(call: Call) -> Work:
        s = _fields(call)
        pixels = s["pixels"] if "pixels" in s else s["out_h"] * s["out_w"]
        return of_layer(call) | {"sum": pixels * s["c_out"]}

    return work


def _fully_connected(call: Call) -> Work:
    s = _fields(call)
    return {"output": s["c_out"], "product": s["c_out"] * s["c_in"]}


def _depthwise(call: Call) -> Work:
    s = _fields(call)
    span_h, span_w = ((s[f"k{a}"] - 1) * s[f"dilation_{a}"] + 1 for a in "hw")
    width = (s["out_w"] - 1) * s["stride_w"] + span_w
    y = np.arange(0, s["out_h"], s["band"])
    needed = (np.minimum(s["band"], s["out_h"] - y) - 1) * s["stride_h"] + span_h
    step = s["band"] * s["stride_h"]
    after = np.maximum(needed - step, 0)  # rows kept for the next band
    kept = np.append(0, after[:-1])
    top = y * s["stride_h"] - s["pad_top"]
    rows = np.clip(top + needed, 0, s["in_h"]) - np.clip(top + kept, 0, s["in_h"])
    columns = min(s["pad_left"] + s["in_w"], width) - min(s["pad_left"], width)
    moved = [
        _times(_copied_rows(width, [(int(n), width, width)], start=step * width), int(times))
        for n, times in zip(*np.unique(after, return_counts=True), strict=True)
    ]
    channel = _added(
        {"band": len(y), "gathered_row": int(rows.sum()), "kept_row": int(after.sum())},
        {"gathered": int(rows.sum()) * columns},
        _filled((needed - kept) * width, kept * width),
        *moved,
    )
    c_out = s["c_in"] * s["multiplier"]
    lines, outputs = s["out_h"] * c_out, s["out_h"] * s["out_w"] * c_out
    is_3x3 = (s["kh"], s["kw"], span_h, span_w) == (3, 3, 3, 3)
    work = {"channel": s["c_in"], "pass": len(y) * c_out} | _times(channel, s["c_in"])
    return work | {
        "row_3x3": lines * is_3x3,
        "output_3x3": outputs * is_3x3,
        "row": lines * (not is_3x3),
        "output": outputs * (not is_3x3),
        "kernel_row": outputs * s["kh"] * (not is_3x3),
        "product": outputs * s["kh"] * s["kw"] * (not is_3x3),
    }


# -- windows -------------------------------------------------------------------------------------


def _pool(call: Call) -> Work:
    s = _fields(call)
    rows, columns = (
        _window_sizes(s[f"in_{a}"], s[f"out_{a}"], s[f"k{a}"], s[f"stride_{a}"], pad)
        for a, pad in (("h", s["pad_top"]), ("w", s["pad_left"]))
    )
    outputs = s["out_h"] * s["out_w"] * s["channels"]
    return {
        "window": s["out_h"] * s["out_w"],
        "output": outputs,
        "row": int(rows.sum()) * s["out_w"] * s["channels"],
        "value": int(rows.sum() * columns.sum()) * s["channels"],
    }


def _window_sizes(size: int, out: int, kernel: int, stride: int, pad: int) -> I64:
    """Pixels of each window along one axis that lie in the image."""
    first = np.arange(out, dtype=np.int64) * stride - pad
    sizes: I64 = np.clip(first + kernel, 0, size) - np.clip(first, 0, size)
    return sizes


def _mean(call: Call) -> Work:
    s = _fields(call)
    outputs = s["outer"] * s["inner"]
    rows = outputs * s["rows"]
    return {"outer": s["outer"], "output": outputs, "row": rows, "value": rows * s["columns"]}


# -- element by element --------------------------------------------------------------------------


def _binary(call: Call) -> Work:
    s = _fields(call)
    return {"row": s["rows"], "output": s["rows"] * s["n"]}


def _softmax(call: Call) -> Work:
    s = _fields(call)
    return {"row": s["rows"], "value": s["rows"] * s["n"]}


def _table(call: Call) -> Work:
    return {"value": _fields(call)["n"]}


# -- bytes that move -----------------------------------------------------------------------------


def _offsets(call: Call) -> tuple[int, int]:
    """Where in its tensor the call begins to write, and to read."""
    (to,) = (arg.offset for arg in call.args if isinstance(arg, Write))
    (start,) = (arg.offset for arg in call.args if isinstance(arg, Read))
    return to, start


def _copy(call: Call) -> Work:
    s = _fields(call)
    loops = [(s["rows"], s["out_step"], s["in_step"])]
    return {"row": s["rows"]} | _copied_rows(s["n"], loops, *_offsets(call))


def _pad(call: Call) -> Work:
    s = _fields(call)
    n, rows, planes = s["n"], s["rows"], s["planes"]
    loops = [
        (s["blocks"], s["block_step"], planes * rows * n),
        (planes, s["plane_step"], rows * n),
        (rows, s["row_step"], n),
    ]
    work = {"plane": s["blocks"] * planes, "row": s["blocks"] * planes * rows}
    return work | _copied_rows(n, loops, to=s["first"]) | _filled(s["bytes"], 0)


def _slice(call: Call) -> Work:
    s = _fields(call)
    n, rows = s["n"], s["rows"]
    loops = [(s["planes"], rows * n, s["plane_step"]), (rows, n, s["row_step"])]
    one_by_one = s["step"] != 1
    copies = _copied_rows(0 if one_by_one else n, loops, *_offsets(call))
    count = s["planes"] * rows
    return {
        "plane": s["planes"],
        "row": count * (not one_by_one),
        "strided_row": count * one_by_one,
        "value": count * n * one_by_one,
    } | copies


def _resize_nearest(call: Call) -> Work:
    s = _fields(call)
    n, out_w = s["channels"], s["out_w"]
    tables = {t.name: np.frombuffer(t.data, "<u2").astype(np.int64) for t in call.tables}
    rows = _alignments(np.arange(s["out_h"]) * out_w * n, tables["rows"] * s["in_row"])
    columns = _alignments(np.arange(out_w) * n, tables["columns"] * n)
    to, start = np.divmod(np.arange(ALIGNED**2), ALIGNED)
    copies = _copied(n, to[:, None] + to, start[:, None] + start, rows[:, None] * columns)
    return {"row": s["out_h"], "pixel": s["out_h"] * out_w} | copies


def _alignments(to: I64, start: I64) -> I64:
    """(16,): how many pairs have remainders (i // 4, i % 4)."""
    keys = to % ALIGNED * ALIGNED + start % ALIGNED
    return np.bincount(keys, minlength=ALIGNED**2).astype(np.int64)


_WORK: Final[Mapping[str, Callable[[Call], Work]]] = MappingProxyType(
    {
        "nd_add_s8": _binary,
        "nd_average_pool_s8": _pool,
        "nd_conv_add_s8": _with_sum(_conv),
        "nd_conv_s8": _conv,
        "nd_copy_s8": _copy,
        "nd_depthwise_s8": _depthwise,
        "nd_fully_connected_s8": _fully_connected,
        "nd_max_pool_s8": _pool,
        "nd_mean_s8": _mean,
        "nd_mul_s8": _binary,
        "nd_pad_s8": _pad,
        "nd_pointwise_add_s8": _with_sum(_pointwise),
        "nd_pointwise_s8": _pointwise,
        "nd_resize_nearest_s8": _resize_nearest,
        "nd_slice_s8": _slice,
        "nd_softmax_s8": _softmax,
        "nd_table_s8": _table,
    }
)
