"""Operations that only move bytes, as kernel calls. Their output never overlaps an input."""

from __future__ import annotations

import math

from ndtool.export.codegen.lower.strides import Loop, nest, row_major
from ndtool.export.codegen.program import Call, Read, Struct, Table, Write
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import Concat, Graph, Pad, ResizeNearest, Split, StridedSlice, TensorId
from ndtool.quant.fixed_point import I64


def lower_pad(graph: Graph, op: Pad, index: int) -> tuple[Call, ...]:
    """All of the output is filled, then the input is copied into it row by row."""
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    out_steps = row_major(out.shape)
    pairs = zip(row_major(x.shape), out_steps, strict=True)
    loops = [Loop(n, pair) for n, pair in zip(x.shape, pairs, strict=True)]
    blocks, planes, rows, row = nest(loops, 4)
    if row.steps != (1, 1):  # the last axis has one byte, with padding beside it: that is a row
        blocks, planes, rows = nest(loops, 3)
        row = Loop(1, (1, 1))
    shape = Struct(
        type="nd_pad_shape",
        fields=(
            ("bytes", out.elements),
            ("fill", out.zero_point),
            ("first", sum(p * step for (p, _), step in zip(op.paddings, out_steps, strict=True))),
            ("n", row.n),
            ("rows", rows.n),
            ("planes", planes.n),
            ("blocks", blocks.n),
            ("row_step", rows.steps[1]),
            ("plane_step", planes.steps[1]),
            ("block_step", blocks.steps[1]),
        ),
    )
    args = (shape, Read(tensor=op.x), Write(tensor=op.out))
    return (Call(kernel="nd_pad_s8", op=index, title="PAD", args=args),)


def lower_concat(graph: Graph, op: Concat, index: int) -> tuple[Call, ...]:
    """One copy for each input: of one piece where the axis is the outermost that is not 1."""
    calls: list[Call] = []
    offset = 0
    for number, x in enumerate(op.xs, start=1):
        call = Call(
            kernel="nd_copy_s8",
            op=index,
            title=f"CONCATENATION {number} of {len(op.xs)}",
            args=(
                _copy_shape(graph, x, op.axis, x, op.out),
                Read(tensor=x),
                Write(tensor=op.out, offset=offset),
            ),
        )
        calls.append(call)
        offset += _row_bytes(graph, x, op.axis)
    return tuple(calls)


def lower_split(graph: Graph, op: Split, index: int) -> tuple[Call, ...]:
    """One copy for each part."""
    calls: list[Call] = []
    offset = 0
    for number, out in enumerate(op.outs, start=1):
        call = Call(
            kernel="nd_copy_s8",
            op=index,
            title=f"SPLIT {number} of {len(op.outs)}",
            args=(
                _copy_shape(graph, out, op.axis, op.x, out),
                Read(tensor=op.x, offset=offset),
                Write(tensor=out),
            ),
        )
        calls.append(call)
        offset += _row_bytes(graph, out, op.axis)
    return tuple(calls)


def _copy_shape(graph: Graph, part: TensorId, axis: int, x: TensorId, out: TensorId) -> Struct:
    """The rows of `part`, which is all of `x` or all of `out`, beside others along `axis`."""
    return Struct(
        type="nd_copy_shape",
        fields=(
            ("rows", math.prod(graph.tensor(part).shape[:axis])),
            ("n", _row_bytes(graph, part, axis)),
            ("in_step", _row_bytes(graph, x, axis)),
            ("out_step", _row_bytes(graph, out, axis)),
        ),
    )


def _row_bytes(graph: Graph, tensor: TensorId, axis: int) -> int:
    """Bytes that lie together for one index of all dimensions before `axis`."""
    return math.prod(graph.tensor(tensor).shape[axis:])


def lower_strided_slice(graph: Graph, op: StridedSlice, index: int) -> tuple[Call, ...]:
    """Three loops with steps of any sign, from the first element taken."""
    steps = row_major(graph.tensor(op.x).shape)
    taken = zip(op.sizes, op.strides, steps, strict=True)
    planes, rows, row = nest([Loop(n, (stride * step,)) for n, stride, step in taken], 3)
    shape = Struct(
        type="nd_slice_shape",
        fields=(
            ("n", row.n),
            ("rows", rows.n),
            ("planes", planes.n),
            ("step", row.steps[0]),
            ("row_step", rows.steps[0]),
            ("plane_step", planes.steps[0]),
        ),
    )
    first = sum(begin * step for begin, step in zip(op.begin, steps, strict=True))
    args = (shape, Read(tensor=op.x, offset=first), Write(tensor=op.out))
    return (Call(kernel="nd_slice_s8", op=index, title="STRIDED_SLICE", args=args),)


def lower_resize_nearest(graph: Graph, op: ResizeNearest, index: int) -> tuple[Call, ...]:
    """Copies of pixels, chosen by two tables of indices: no float is left to C."""
    _, _, in_w, channels = graph.tensor(op.x).shape
    _, out_h, out_w, _ = graph.tensor(op.out).shape
    rows, columns = derive.nearest_indices(graph, op)
    shape = Struct(
        type="nd_resize_nearest_shape",
        fields=(
            ("in_row", in_w * channels),
            ("out_h", out_h),
            ("out_w", out_w),
            ("channels", channels),
        ),
    )
    return (
        Call(
            kernel="nd_resize_nearest_s8",
            op=index,
            title=f"RESIZE_NEAREST_NEIGHBOR to {out_h}x{out_w}",
            args=(
                shape,
                Read(tensor=op.x),
                _index_table("rows", rows),
                _index_table("columns", columns),
                Write(tensor=op.out),
            ),
        ),
    )


def _index_table(name: str, indices: I64) -> Table:
    """Pixels of one axis; `int8.rules` bounds an axis to what uint16 holds."""
    return Table(name=name, ctype="uint16_t", data=indices.astype("<u2").tobytes())
