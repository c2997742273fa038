"""Loops and tables of operations that move bytes; their bytes: test_kernels_other."""

import numpy as np
import pytest
from single_op import Builder

from ndtool.export.codegen.lower.movement import (
    lower_concat,
    lower_pad,
    lower_resize_nearest,
    lower_split,
    lower_strided_slice,
)
from ndtool.export.codegen.program import Call, Read, Struct, Write
from ndtool.export.int8 import spec
from ndtool.export.int8.ir import Concat, Graph, Pad, ResizeNearest, Split, StridedSlice

SHARED = (0.1, -5)


def fields(call: Call) -> dict[str, int]:
    (struct,) = (arg for arg in call.args if isinstance(arg, Struct))
    return dict(struct.fields)


def offsets(call: Call) -> tuple[int, int]:
    """Bytes into what is read and into what is written."""
    (read,) = (arg.offset for arg in call.args if isinstance(arg, Read))
    (written,) = (arg.offset for arg in call.args if isinstance(arg, Write))
    return read, written


def concat(axis: int, *shapes: tuple[int, ...]) -> tuple[Call, ...]:
    b = Builder()
    xs = tuple(b.activation(shape, SHARED) for shape in shapes)
    total = list(shapes[0])
    total[axis] = sum(shape[axis] for shape in shapes)
    op = Concat(xs=xs, out=b.activation(total, SHARED), axis=axis)
    return lower_concat(b.graph(op, *xs), op, 0)


def test_concatenation_of_channels_copies_pixels() -> None:
    first, second = concat(3, (1, 4, 5, 2), (1, 4, 5, 3))
    assert fields(first) == {"rows": 20, "n": 2, "in_step": 2, "out_step": 5}
    assert fields(second) == {"rows": 20, "n": 3, "in_step": 3, "out_step": 5}
    assert (offsets(first), offsets(second)) == ((0, 0), (0, 2))
    assert first.title == "CONCATENATION 1 of 2"


def test_concatenation_along_the_outermost_axis_is_one_piece_each() -> None:
    for call, start in zip(concat(2, (1, 1, 3, 4), (1, 1, 2, 4)), (0, 12), strict=True):
        assert fields(call)["rows"] == 1
        assert offsets(call) == (0, start)


def test_split_is_one_copy_a_part() -> None:
    b = Builder()
    x = b.activation((1, 4, 6), SHARED)
    outs = tuple(b.activation((1, 4, 2), SHARED) for _ in range(3))
    op = Split(x=x, axis_id=b.int32(2), outs=outs, axis=2)
    graph = Graph(tensors=tuple(b.tensors), ops=(op,), inputs=(x,), outputs=outs)
    calls = lower_split(graph, op, 0)
    assert [call.out for call in calls] == list(outs)
    assert [offsets(call) for call in calls] == [(0, 0), (2, 0), (4, 0)]
    assert fields(calls[0]) == {"rows": 4, "n": 2, "in_step": 6, "out_step": 2}


def pad_fields(shape: tuple[int, ...], pairs: tuple[tuple[int, int], ...]) -> dict[str, int]:
    b = Builder()
    x = b.activation(shape, SHARED)
    out = [n + p + q for n, (p, q) in zip(shape, pairs, strict=True)]
    op = Pad(x=x, paddings_id=b.int32(pairs), out=b.activation(out, SHARED), paddings=pairs)
    (call,) = lower_pad(b.graph(op, x), op, 0)
    return fields(call)


def test_padded_image_is_copied_by_rows_of_pixels() -> None:
    found = pad_fields((1, 4, 5, 3), ((0, 0), (1, 1), (2, 0), (0, 0)))
    assert (found["n"], found["rows"], found["row_step"]) == (15, 4, 21)
    assert (found["first"], found["fill"], found["bytes"]) == (21 + 6, -5, 6 * 21)


def test_padded_axis_of_one_byte() -> None:
    found = pad_fields((1, 4, 1), ((0, 0), (0, 0), (1, 2)))
    assert (found["n"], found["rows"], found["row_step"], found["first"]) == (1, 4, 4, 1)


def test_pad_of_nothing_is_one_copy() -> None:
    found = pad_fields((1, 4, 5, 3), ((0, 0),) * 4)
    assert (found["n"], found["rows"], found["first"]) == (60, 1, 0)


def test_slice_that_reverses_rows() -> None:
    b = Builder()
    x = b.activation((1, 4, 5, 3), SHARED)
    op = StridedSlice(
        x=x,
        constants=(b.int32([0, 3, 0, 0]), b.int32([1, -5, 5, 3]), b.int32([1, -1, 1, 1])),
        out=b.activation((1, 4, 5, 3), SHARED),
        begin=(0, 3, 0, 0),
        strides=(1, -1, 1, 1),
        sizes=(1, 4, 5, 3),
    )
    (call,) = lower_strided_slice(b.graph(op, x), op, 0)
    assert offsets(call) == (45, 0)
    found = fields(call)
    assert (found["n"], found["step"], found["rows"], found["row_step"]) == (15, 1, 4, -15)


def resize_graph(shape: tuple[int, ...], size: tuple[int, int]) -> Graph:
    b = Builder()
    op = ResizeNearest(
        x=b.activation(shape, SHARED),
        size_id=b.int32(size),
        out=b.activation((1, *size, shape[3]), SHARED),
        align_corners=False,
        half_pixel_centers=False,
    )
    return b.graph(op, op.x)


def test_resize_reads_indices_from_tables() -> None:
    graph = resize_graph((1, 2, 3, 4), (4, 3))
    (op,) = graph.ops
    assert isinstance(op, ResizeNearest)
    (call,) = lower_resize_nearest(graph, op, 0)
    found = {table.name: np.frombuffer(table.data, "<u2").tolist() for table in call.tables}
    assert found == {"rows": [0, 0, 1, 1], "columns": [0, 1, 2]}
    assert fields(call) == {"in_row": 12, "out_h": 4, "out_w": 3, "channels": 4}


@pytest.mark.parametrize(
    ("shape", "size"), [((1, 1, 65537, 1), (1, 1)), ((1, 1, 1, 1), (1, 65537))]
)
def test_indices_beyond_uint16_are_refused(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    assert {p.rule for p in spec.find_problems(resize_graph(shape, size))} == {"op.size"}
    inside = tuple(min(n, 65536) for n in shape), (size[0], min(size[1], 65536))
    assert spec.find_problems(resize_graph(*inside)) == []
