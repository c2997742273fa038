"""Rules of the operations that only move bytes: the output's parameters are the input's."""

from __future__ import annotations

from typing import Final

from ndtool.export.int8 import derive
from ndtool.export.int8.ir import (
    Concat,
    Graph,
    Pad,
    Reshape,
    ResizeNearest,
    Split,
    Squeeze,
    StridedSlice,
)
from ndtool.export.int8.rules.row import (
    EQUAL_PARAMS,
    Faults,
    Role,
    Row,
    Shape,
    equal_faults,
    int_list,
)
from ndtool.export.int8.rules.tensors import MAX_ELEMENTS

MAX_CONCAT: Final = 10  # mk/concatenation.cc
MAX_SLICE_RANK: Final = 4  # mk/strided_slice_common.cc
MAX_RESIZE: Final = 2**16  # pixels of an image's side: C keeps their numbers in uint16


def _pad_attributes(graph: Graph, op: Pad) -> Faults:
    rank = len(graph.tensor(op.x).shape)
    paddings = graph.tensor(op.paddings_id)
    flat = [n for pair in op.paddings for n in pair]
    if len(op.paddings) != rank or min(flat) < 0 or any(flat[:2]) or max(flat) > MAX_ELEMENTS:
        yield "op.paddings", f"paddings {flat[:10]} of a rank {rank} tensor"
    elif int_list(paddings) != flat:
        yield "op.paddings", f"paddings {flat}, but the file's are {int_list(paddings)[:10]}"


def _pad_shape(graph: Graph, op: Pad) -> Shape:
    x = graph.tensor(op.x).shape
    return tuple(a + n + b for n, (a, b) in zip(x, op.paddings, strict=True))


def _reshape_attributes(graph: Graph, op: Reshape) -> Faults:
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    if x.elements != out.elements:
        yield "op.shape", f"{list(x.shape)} cannot become {list(out.shape)}"
    elif op.shape_id is not None:
        wanted = int_list(graph.tensor(op.shape_id))
        known = [n for n in wanted if n != -1]
        fits = len(wanted) == len(out.shape) and len(wanted) - len(known) <= 1
        if not fits or any(n not in (-1, m) for n, m in zip(wanted, out.shape, strict=False)):
            yield "op.shape", f"gives shape {wanted[:8]}, declared {list(out.shape)}"


def _squeeze_attributes(graph: Graph, op: Squeeze) -> Faults:
    x, out = graph.tensor(op.x).shape, graph.tensor(op.out).shape
    if not derive.dropped_axes(x, out):  # no list of axes in the file means all that are 1
        yield "op.shape", f"{list(out)} is not {list(x)} without some dimensions of 1"


def _declared_shape(graph: Graph, op: Reshape | Squeeze) -> Shape:
    return graph.tensor(op.out).shape  # compared in the attributes: there is more than one


def _concat_attributes(graph: Graph, op: Concat) -> Faults:
    shapes = [graph.tensor(x).shape for x in op.xs]
    if not 1 <= len(shapes) <= MAX_CONCAT:
        yield "op.inputs", f"{len(shapes)} inputs, at most {MAX_CONCAT}"
    elif not 0 < op.axis < len(shapes[0]):
        yield "op.axes", f"axis {op.axis} of a rank {len(shapes[0])} tensor, batch excluded"
    elif len({(len(s), s[: op.axis], s[op.axis + 1 :]) for s in shapes}) != 1:
        yield "op.shape", f"shapes {[list(s) for s in shapes]} differ beside axis {op.axis}"


def _concat_shape(graph: Graph, op: Concat) -> Shape:
    shapes = [graph.tensor(x).shape for x in op.xs]
    total = sum(s[op.axis] for s in shapes)
    return (*shapes[0][: op.axis], total, *shapes[0][op.axis + 1 :])


def _split_attributes(graph: Graph, op: Split) -> Faults:
    shape, file_axes = graph.tensor(op.x).shape, int_list(graph.tensor(op.axis_id))
    rank, parts = len(shape), len(op.outs)
    if not 0 < op.axis < rank:
        yield "op.axes", f"axis {op.axis} of a rank {rank} tensor, batch excluded"
    elif file_axes not in ([op.axis], [op.axis - rank]):
        yield "op.axes", f"axis {op.axis}, but the file's is {file_axes[:8]}"
    elif not parts or shape[op.axis] % parts:
        yield "op.parts", f"{shape[op.axis]} elements of axis {op.axis} in {parts} equal parts"


def _split_shape(graph: Graph, op: Split) -> Shape:
    shape = graph.tensor(op.x).shape
    return (*shape[: op.axis], shape[op.axis] // len(op.outs), *shape[op.axis + 1 :])


def _slice_attributes(graph: Graph, op: StridedSlice) -> Faults:
    shape = graph.tensor(op.x).shape
    if len(shape) > MAX_SLICE_RANK:
        yield "op.rank", f"input {list(shape)}, at most {MAX_SLICE_RANK} dimensions"
        return
    if {len(shape)} != {len(op.begin), len(op.strides), len(op.sizes)}:
        yield "op.slice", f"{len(op.begin)} indices for a rank {len(shape)} tensor"
        return
    for axis, n in enumerate(shape):
        begin, stride, size = op.begin[axis], op.strides[axis], op.sizes[axis]
        last = begin + (size - 1) * stride
        # a single element has no stride: a large one would only make indices leave int32
        normal = stride == 1 if size == 1 else stride != 0
        if not (size >= 1 and normal and 0 <= begin < n and 0 <= last < n):
            text = f"{size} elements from {begin} by {stride} of axis {axis} of {list(shape)}"
            yield "op.slice", text


def _slice_shape(graph: Graph, op: StridedSlice) -> Shape:
    """`sizes`, or what the file made of them by shrinking axes."""
    declared = graph.tensor(op.out).shape
    return op.sizes if derive.dropped_axes(op.sizes, declared) is None else declared


def _resize_attributes(graph: Graph, op: ResizeNearest) -> Faults:
    x, size = graph.tensor(op.x), graph.tensor(op.size_id)
    if len(x.shape) != 4:
        yield "op.rank", f"input {list(x.shape)} must be 4-D"
    elif max(x.shape[1:3]) > MAX_RESIZE:
        yield "op.size", f"an image of {list(x.shape[1:3])} pixels, at most {MAX_RESIZE} a side"
    if size.shape != (2,) or not 1 <= min(int_list(size)) <= max(int_list(size)) <= MAX_RESIZE:
        yield "op.size", f"a size of {int_list(size)[:8]}, not (height, width) of 1..{MAX_RESIZE}"


def _resize_shape(graph: Graph, op: ResizeNearest) -> Shape:
    height, width = int_list(graph.tensor(op.size_id))
    return (1, height, width, graph.tensor(op.x).shape[3])


PAD: Final[Row[Pad]] = Row(
    rules={
        "op.paddings": "two numbers for each dimension, those of the file's constant: "
        f"0 to {MAX_ELEMENTS:,}, and 0 for the batch",
        "op.equal-params": EQUAL_PARAMS,
    },
    operands=lambda op: ((op.x, Role.ACTIVATION), (op.paddings_id, Role.INDEX)),
    attributes=_pad_attributes,
    shape=_pad_shape,
    arithmetic=lambda graph, op: equal_faults(graph, (op.out,), op.x),
)
RESHAPE: Final[Row[Reshape]] = Row(
    rules={
        "op.shape": "the output has as many elements as x; where the file has a constant for its "
        "shape, it is that one, with one -1 at most",
        "op.equal-params": EQUAL_PARAMS,
    },
    operands=lambda op: ((op.x, Role.ACTIVATION), (op.shape_id, Role.INDEX)),
    attributes=_reshape_attributes,
    shape=_declared_shape,
    arithmetic=lambda graph, op: equal_faults(graph, (op.out,), op.x),
)
SQUEEZE: Final[Row[Squeeze]] = Row(
    rules={
        "op.shape": "the output has the shape of x without one or more dimensions of 1",
        "op.equal-params": EQUAL_PARAMS,
    },
    operands=lambda op: ((op.x, Role.ACTIVATION),),
    attributes=_squeeze_attributes,
    shape=_declared_shape,
    arithmetic=lambda graph, op: equal_faults(graph, (op.out,), op.x),
)
CONCAT: Final[Row[Concat]] = Row(
    rules={
        "op.inputs": f"1 to {MAX_CONCAT} inputs",
        "op.axes": "an axis of the inputs that is not the batch",
        "op.shape": "all dimensions of the inputs but the axis are equal",
        "op.equal-params": EQUAL_PARAMS,
    },
    operands=lambda op: tuple((x, Role.ACTIVATION) for x in op.xs),
    attributes=_concat_attributes,
    shape=_concat_shape,
    arithmetic=lambda graph, op: equal_faults(graph, (op.out,), *op.xs),
)
SPLIT: Final[Row[Split]] = Row(
    rules={
        "op.axes": "an axis of x that is not the batch, that of the file's constant",
        "op.parts": "the axis can be divided into as many equal parts as there are outputs",
        "op.equal-params": EQUAL_PARAMS,
    },
    operands=lambda op: ((op.axis_id, Role.INDEX), (op.x, Role.ACTIVATION)),
    attributes=_split_attributes,
    shape=_split_shape,
    arithmetic=lambda graph, op: equal_faults(graph, op.outs, op.x),
)
STRIDED_SLICE: Final[Row[StridedSlice]] = Row(
    rules={
        "op.rank": f"x has at most {MAX_SLICE_RANK} dimensions",
        "op.slice": "of each dimension at least one element is taken, each inside x; the stride is "
        "not 0, and 1 where one element is taken",
        "op.equal-params": EQUAL_PARAMS,
    },
    operands=lambda op: ((op.x, Role.ACTIVATION), *((c, Role.INDEX) for c in op.constants)),
    attributes=_slice_attributes,
    shape=_slice_shape,
    arithmetic=lambda graph, op: equal_faults(graph, (op.out,), op.x),
)
RESIZE_NEAREST: Final[Row[ResizeNearest]] = Row(
    rules={
        "op.rank": "x has 4 dimensions",
        "op.size": f"the image has at most {MAX_RESIZE:,} pixels a side, before and after",
        "op.equal-params": EQUAL_PARAMS,
    },
    operands=lambda op: ((op.x, Role.ACTIVATION), (op.size_id, Role.INDEX)),
    attributes=_resize_attributes,
    shape=_resize_shape,
    arithmetic=lambda graph, op: equal_faults(graph, (op.out,), op.x),
)
