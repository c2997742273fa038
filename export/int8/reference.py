"""Runs an int8 graph: the bytes that TensorFlow Lite Micro computes, for many images at once.

The graph has passed `spec.verify`: shapes fit, nothing overflows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ndtool.errors import InputError
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import (
    Binary,
    BinaryKind,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Mean,
    Op,
    Pad,
    Pool2D,
    Reshape,
    ResizeNearest,
    SingleOutput,
    Softmax,
    Split,
    Squeeze,
    StridedSlice,
    TensorId,
    Unary,
    UnaryKind,
    op_inputs,
    op_outputs,
)
from ndtool.quant import fixed_point as fp
from ndtool.quant import kernels
from ndtool.quant.kernels import I8

Values = Mapping[TensorId, I8]


def run_graph(graph: Graph, *inputs: I8) -> list[I8]:
    """The graph's outputs for int8 `inputs`, one array (n, h, w, c) for each graph input.

    Raises:
        InputError: an array does not have the input's shape or type.
    """
    last_use = {t: i for i, op in enumerate(graph.ops) for t in op_inputs(op)}
    values = _input_values(graph, inputs)
    for index, op in enumerate(graph.ops):
        values.update(zip(op_outputs(op), run_op(graph, op, values), strict=True))
        for tensor in {*op_inputs(op), *op_outputs(op)} & values.keys():
            if last_use.get(tensor, index) == index and tensor not in graph.outputs:
                del values[tensor]
    return [values[tensor] for tensor in graph.outputs]


def run_tensors(graph: Graph, *inputs: I8) -> dict[TensorId, I8]:
    """Every activation of the graph, inputs included; otherwise as `run_graph`."""
    values = _input_values(graph, inputs)
    for op in graph.ops:
        values.update(zip(op_outputs(op), run_op(graph, op, values), strict=True))
    return values


def _input_values(graph: Graph, inputs: Sequence[I8]) -> dict[TensorId, I8]:
    wanted = [graph.tensor(t).shape[1:] for t in graph.inputs]
    given = [a.shape[1:] if a.ndim and a.dtype == np.int8 else None for a in inputs]
    if given != wanted or len({len(a) for a in inputs}) != 1:
        found = ", ".join(f"{a.dtype}{list(a.shape)}" for a in inputs)
        raise InputError(
            f"inputs {found} given, int8 {', '.join(str(['n', *s]) for s in wanted)} needed",
            where="input of the int8 model",
            remedy="quantise the images with the model's contract",
            code="int8.input-shape",
        )
    return dict(zip(graph.inputs, inputs, strict=True))


def run_op(graph: Graph, op: Op, values: Values) -> tuple[I8, ...]:
    """Each output of one op; `values` holds the activations it reads, batched."""
    if isinstance(op, Split):
        return tuple(np.split(values[op.x], len(op.outs), axis=op.axis))
    return (_run_single(graph, op, values),)


def _run_single(graph: Graph, op: SingleOutput, values: Values) -> I8:
    out = graph.tensor(op.out)
    match op:
        case Conv2D() | DepthwiseConv2D() | FullyConnected():
            return _run_layer(graph, op, values[op.x])
        case Binary():
            return _run_binary(graph, op, values)
        case Pool2D():
            rows, columns = derive.windows(graph, op)
            pool = kernels.max_pool2d if op.is_max else kernels.average_pool2d
            limits = derive.activation_limits(op.act, out)
            return pool(values[op.x], rows=rows, columns=columns, limits=limits)
        case Mean():
            x = graph.tensor(op.x)
            count = x.elements // out.elements
            return kernels.mean(
                values[op.x],
                op.axes,
                keep_dims=op.keep_dims,
                x_zero=x.zero_point,
                requant=fp.mean_requant(x.scale, out.scale, count),
                out_zero=out.zero_point,
            )
        case Pad():
            return kernels.pad(values[op.x], op.paddings, fill=out.zero_point)
        case Reshape() | Squeeze():
            return values[op.x].reshape(-1, *out.shape[1:])
        case StridedSlice():
            taken = kernels.strided_slice(values[op.x], op.begin, op.strides, op.sizes)
            return taken.reshape(-1, *out.shape[1:])
        case ResizeNearest():
            at_y, at_x = derive.nearest_indices(graph, op)
            return values[op.x][:, at_y[:, None], at_x]
        case Concat():
            return np.concatenate([values[x] for x in op.xs], axis=op.axis)
        case Softmax():
            real = fp.softmax_real(graph.tensor(op.x).scale, op.beta)
            return kernels.softmax(values[op.x], requant=fp.requant_of(real))
        case Unary():
            return unary_table(graph, op)[values[op.x].astype(np.int16) + 128]


def _run_layer(graph: Graph, op: derive.Layer, x: I8) -> I8:
    out = graph.tensor(op.out)
    weight = derive.int8_values(graph.tensor(op.weight))
    bias = None if op.bias is None else derive.int32_values(graph.tensor(op.bias))
    x_zero = graph.tensor(op.x).zero_point
    requant = fp.quantize_multipliers(derive.layer_reals(graph, op))
    limits = derive.activation_limits(op.act, out)
    if isinstance(op, FullyConnected):
        flat = x.reshape(*((-1,) if not op.keep_num_dims else x.shape[:-1]), weight.shape[1])
        return kernels.fully_connected(
            flat,
            weight,
            bias,
            x_zero=x_zero,
            requant=requant,
            out_zero=out.zero_point,
            limits=limits,
        )
    rows, columns = derive.windows(graph, op)
    run = kernels.conv2d if isinstance(op, Conv2D) else kernels.depthwise_conv2d
    return run(
        x,
        weight,
        bias,
        rows=rows,
        columns=columns,
        x_zero=x_zero,
        requant=requant,
        out_zero=out.zero_point,
        limits=limits,
    )


def _run_binary(graph: Graph, op: Binary, values: Values) -> I8:
    rank = len(graph.tensor(op.out).shape)
    left, right = (_operand(graph, t, values, rank) for t in (op.a, op.b))
    return binary_bytes(graph, op, left, right)


def binary_bytes(graph: Graph, op: Binary, left: I8, right: I8) -> I8:
    """ADD, SUB or MUL of bytes of its operands, of any shapes that broadcast."""
    a, b, out = (graph.tensor(t) for t in (op.a, op.b, op.out))
    limits = derive.activation_limits(op.act, out)
    requants = [fp.requant_of(real) for real in derive.binary_reals(graph, op)]
    if op.kind is BinaryKind.MUL:
        return kernels.mul(
            left,
            right,
            a_zero=a.zero_point,
            b_zero=b.zero_point,
            requant=requants[0],
            out_zero=out.zero_point,
            limits=limits,
        )
    of_a, of_b, of_result = requants
    return kernels.add(
        left,
        right,
        a_zero=a.zero_point,
        b_zero=b.zero_point,
        requants=(of_a, of_b, of_result),
        out_zero=out.zero_point,
        limits=limits,
        negate_b=op.kind is BinaryKind.SUB,
    )


def _operand(graph: Graph, tensor: TensorId, values: Values, rank: int) -> I8:
    """An operand of `rank` dimensions: ones go between the batch and the others."""
    found = graph.tensor(tensor)
    if found.data is not None:
        return derive.int8_values(found)
    value = values[tensor]
    return value.reshape(len(value), *(1,) * (rank - value.ndim), *value.shape[1:])


def unary_table(graph: Graph, op: Unary) -> I8:
    """int8 (256,): the output for each input -128..127."""
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    every = np.arange(-128, 128).astype(np.int8)
    match op.kind:
        case UnaryKind.HARD_SWISH:
            of_output, of_relu = fp.hard_swish_reals(x.scale, out.scale)
            return kernels.hard_swish(
                every,
                x_zero=x.zero_point,
                of_output=fp.requant_of(of_output),
                of_relu=fp.requant_of(of_relu),
                out_zero=out.zero_point,
            )
        case UnaryKind.LOGISTIC:
            requant = fp.requant_of(fp.gate_real(x.scale))
            return kernels.logistic(every, x_zero=x.zero_point, requant=requant)
        case UnaryKind.TANH:
            requant = fp.requant_of(fp.gate_real(x.scale))
            return kernels.tanh(every, x_zero=x.zero_point, requant=requant)
        case UnaryKind.LEAKY_RELU:
            return kernels.leaky_relu(
                every,
                x_zero=x.zero_point,
                of_positive=fp.requant_of(fp.rescale_real(x.scale, out.scale)),
                of_negative=fp.requant_of(fp.leaky_relu_real(x.scale, op.alpha, out.scale)),
                out_zero=out.zero_point,
            )
        case UnaryKind.RELU:
            return kernels.requantize(
                every,
                x_zero=x.zero_point,
                requant=fp.requant_of(fp.rescale_real(x.scale, out.scale)),
                out_zero=out.zero_point,
                limits=(out.zero_point, 127),
            )
        case UnaryKind.RELU6:
            six = fp.quantize_bound(6.0, x.scale, x.zero_point)
            return kernels.clamp(every, (x.zero_point, six))
        case UnaryKind.QUANTIZE:
            return kernels.requantize(
                every,
                x_zero=x.zero_point,
                requant=fp.requant_of(fp.rescale_real(x.scale, out.scale)),
                out_zero=out.zero_point,
            )
