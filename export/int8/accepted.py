"""Which float operations int8 TFLite has: shapes, constants and counts, before any number.

What a graph of our own readers never breaks is checked all the same: the network may be foreign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Final

import numpy as np

from ndtool.console import visible
from ndtool.errors import NdError
from ndtool.export.graph import ir as fg
from ndtool.export.int8.parameters import unsupported
from ndtool.export.int8.rules.movement import MAX_CONCAT
from ndtool.quant import scales
from ndtool.quant.kernels import Window

MAX_RANK: Final = 4


Shape = tuple[int, ...]


def unaccepted(graph: fg.FloatGraph) -> list[NdError]:
    """Every operation of `graph` that int8 TFLite does not have in this form, by name."""
    remedy = "change the network, or export it with fixed shapes"
    computed = {*graph.inputs, *(op.out for op in graph.ops)}
    problems: list[NdError] = [
        unsupported("output is computed by no operation", name, remedy, "convert.output")
        for name in graph.outputs
        if name not in computed
    ]
    problems += [
        unsupported(f"{type(op).__name__}: {what}", op.name, remedy, "convert.op")
        for op in graph.ops
        for what in _reasons(graph, op)
    ]
    return problems


def not_finite(graph: fg.FloatGraph) -> list[NdError]:
    """Constants with values that no scale can hold, by name (section 2, rule 3)."""
    what = f"holds NaN, infinite values or values beyond {scales.MAX_REAL:g}"
    remedy = "train again with a smaller learning rate, or mend the model"
    return [
        unsupported(what, name, remedy, "quant.not-finite")
        for name, tensor in graph.tensors.items()
        if tensor.data is not None and not bool(np.all(np.abs(tensor.data) <= scales.MAX_REAL))
    ]


def padded_shape(x: Shape, pad: fg.Padding) -> Shape:
    """Shape of the image `x` (1, h, w, c) with `pad` around it."""
    batch, height, width, channels = x
    return batch, height + pad.top + pad.bottom, width + pad.left + pad.right, channels


def _reasons(graph: fg.FloatGraph, op: fg.FloatOp) -> list[str]:
    """What is wrong with the shapes of `op` or with what it is given."""
    shapes = {name: graph.tensors[name].shape for name in (*fg.op_inputs(op), op.out)}
    constant = {name for name in shapes if graph.tensors[name].data is not None}
    if any(len(shape) > MAX_RANK for shape in shapes.values()):
        return [f"more than {MAX_RANK} dimensions"]
    if 0 in chain.from_iterable(shapes.values()):
        return ["a dimension is 0"]
    found: list[str] = []
    match op:
        case fg.Conv() | fg.FullyConnected():
            found = _conv(op, shapes) if isinstance(op, fg.Conv) else _fully_connected(op, shapes)
            needed = (op.weight, op.bias)
            found += [f"{visible(name)} is not constant" for name in needed if name not in constant]
            return [*found, "its input is constant"] if op.x in constant else found
        case fg.Binary():
            if {op.a, op.b} <= constant:
                return ["both operands are constant"]
            fits = _broadcast(shapes[op.a], shapes[op.b]) == shapes[op.out]
            return _unless(fits, shapes)
        case fg.Pool():
            found = _window(op, op.kernel, (1, 1), shapes)
        case fg.Mean():
            x = shapes[op.x]
            out = (1, 1, 1, x[-1]) if op.keep_dims else (1, x[-1])
            found = _unless(len(x) == MAX_RANK and shapes[op.out] == out, shapes)
        case fg.Pad():
            fits = len(shapes[op.x]) == MAX_RANK and min(_sides(op.padding)) >= 0
            found = _unless(
                fits and padded_shape(shapes[op.x], op.padding) == shapes[op.out], shapes
            )
        case fg.Reshape():
            found = _unless(math.prod(shapes[op.x]) == math.prod(shapes[op.out]), shapes)
        case fg.Concat():
            found = _unless(len(op.xs) <= MAX_CONCAT, shapes)
        case fg.Unary():
            finite = abs(op.alpha) <= scales.MAX_REAL  # False for NaN
            found = _unless(finite and shapes[op.x] == shapes[op.out], shapes)
        case fg.Softmax():
            found = _unless(shapes[op.x] == shapes[op.out], shapes)
    return [*found, "an operand is constant"] if constant else found


def _unless(fits: object, shapes: Mapping[str, Shape]) -> list[str]:
    *inputs, out = shapes.values()
    given = " and ".join(map(str, inputs)) or str(out)
    return [] if fits else [f"{given} cannot give {out}"]


def _conv(op: fg.Conv, shapes: Mapping[str, Shape]) -> list[str]:
    x, weight, out = shapes[op.x], shapes[op.weight], shapes[op.out]
    if not len(x) == len(weight) == len(out) == MAX_RANK:
        return [f"weights {weight} for an input {x}: only images and 2-D kernels"]
    c_out = weight[3] if op.depthwise else weight[0]
    fits = c_out % x[3] == 0 if op.depthwise else weight[3] == x[3]
    if not fits or c_out != out[3] or shapes[op.bias] != (c_out,):
        return [f"weights {weight} and bias {shapes[op.bias]} for an input {x}: groups?"]
    return _window(op, (weight[1], weight[2]), op.dilation, shapes)


def _fully_connected(op: fg.FullyConnected, shapes: Mapping[str, Shape]) -> list[str]:
    x, weight, bias = shapes[op.x], shapes[op.weight], shapes[op.bias]
    fits = len(weight) == 2 and weight[1] == math.prod(x) and bias == weight[:1]
    if fits and shapes[op.out] == (1, weight[0]):
        return []
    return [f"weights {weight} and bias {bias} for an input {x}, output {shapes[op.out]}"]


def _window(
    op: fg.Conv | fg.Pool,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    shapes: Mapping[str, Shape],
) -> list[str]:
    x, out = shapes[op.x], shapes[op.out]
    if not len(x) == len(out) == MAX_RANK:
        return [f"input {x}: only images"]
    if min(*kernel, *op.stride, *dilation) < 1 or min(_sides(op.padding)) < 0:
        return [f"kernel {kernel}, stride {op.stride}, dilation {dilation}, {op.padding}"]
    _, height, width, _ = padded_shape(x, op.padding)
    positions = (
        Window(kernel[0], op.stride[0], dilation[0], same=False).output(height),
        Window(kernel[1], op.stride[1], dilation[1], same=False).output(width),
    )
    if positions != out[1:3] or min(positions) < 1:
        return [f"an input {x} gives {positions} positions, the output is {out}"]
    return []


def _sides(pad: fg.Padding) -> tuple[int, int, int, int]:
    return pad.top, pad.left, pad.bottom, pad.right


def _broadcast(a: Shape, b: Shape) -> Shape | None:
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        return None
