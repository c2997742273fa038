"""Which int8 values each channel of each activation can take, whatever the input image.

Channels are the last axis. An interval contains every value that the reference can give, and is
what it gives for some input only by luck: the pixels under a kernel count as independent.
Every operation's rounding is monotone (fixed_point: multipliers are >= 0), so that ends of an
accumulator's interval become ends of the output's (mcu-kernels, 4 and 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ndtool.export.int8 import derive, reference
from ndtool.export.int8.ir import (
    Binary,
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
    Softmax,
    Split,
    Squeeze,
    StridedSlice,
    Tensor,
    TensorId,
    Unary,
    op_outputs,
)
from ndtool.quant import fixed_point as fp
from ndtool.quant.fixed_point import I64, Bools
from ndtool.quant.kernels import I8, Limits, Window


class Interval(NamedTuple):
    """Least and largest value of each channel: (channels,), both ends included."""

    low: I64
    high: I64

    @property
    def constant(self) -> Bools:
        """(channels,): whether a channel has one value only."""
        single: Bools = self.low == self.high
        return single


Intervals = Mapping[TensorId, Interval]


def channel_count(tensor: Tensor) -> int:
    """Size of the last axis; 1 of a scalar."""
    return tensor.shape[-1] if tensor.shape else 1


def tensor_intervals(graph: Graph) -> dict[TensorId, Interval]:
    """The interval of every activation; graph inputs can be anything."""
    known = {t: anything(graph.tensor(t)) for t in graph.inputs}
    for op in graph.ops:
        for out in op_outputs(op):
            known[out] = op_interval(graph, op, out, known)
    return known


def anything(tensor: Tensor) -> Interval:
    """All of int8 in every channel."""
    channels = channel_count(tensor)
    low, high = (np.full(channels, end, np.int64) for end in (fp.INT8_MIN, fp.INT8_MAX))
    return Interval(low, high)


def op_interval(graph: Graph, op: Op, out: TensorId, known: Intervals) -> Interval:
    """The interval of `out`, which `op` writes; `known` has those of the activations it reads."""
    match op:
        case Conv2D() | DepthwiseConv2D() | FullyConnected():
            return layer_interval(graph, op, known[op.x])
        case Binary():
            return _binary_interval(graph, op, known)
        case Unary():
            return _table_interval(reference.unary_table(graph, op), known[op.x])
        case Pool2D():
            # a maximum or a rounded average lies between its pixels; padding is not counted
            return _clamped(known[op.x], derive.activation_limits(op.act, graph.tensor(out)))
        case Mean():
            return _mean_interval(graph, op, known[op.x])
        case Pad():
            return _pad_interval(graph, op, known[op.x])
        case Concat():
            return _concat_interval(graph, op, known)
        case Reshape() | Squeeze():
            return regrouped(known[op.x], channel_count(graph.tensor(out)))
        case ResizeNearest():
            return known[op.x]
        case Softmax() | Split() | StridedSlice():
            return anything(graph.tensor(out))


# ------------------------------------------------------------------------- layers with weights


class Taps(NamedTuple):
    """(kh, kw): whether a tap of the kernel reads a pixel, or padding, at some output position."""

    image: Bools
    border: Bools


def kernel_taps(graph: Graph, op: Conv2D | DepthwiseConv2D) -> Taps:
    """What each tap of a convolution's kernel meets."""
    _, height, width, _ = graph.tensor(op.x).shape
    rows, columns = derive.windows(graph, op)
    y, x = axis_taps(rows, height), axis_taps(columns, width)
    return Taps(
        image=y.image[:, None] & x.image[None, :],
        border=y.border[:, None] | x.border[None, :],
    )


def axis_taps(window: Window, size: int) -> Taps:
    """(kernel,): the same along one axis of `size` pixels."""
    before, _ = window.padding(size)
    last = window.output(size) - 1
    start = np.arange(window.kernel) * window.dilation - before  # pixel read at position 0
    first_inside = np.maximum(0, -(start // window.stride))  # least position not before pixel 0
    return Taps(
        image=(first_inside <= last) & (start + first_inside * window.stride < size),
        border=(start < 0) | (start + last * window.stride >= size),
    )


def dense_weight(graph: Graph, op: Conv2D | FullyConnected) -> tuple[I8, Taps]:
    """Weights as (c_out, kh, kw, channels of x), and the taps.

    A FULLY_CONNECTED layer is a kernel of one row without padding: a row of its weight is one
    pixel with `keep_num_dims`, else the whole input, since the batch is 1.
    """
    weight = derive.int8_values(graph.tensor(op.weight))
    if isinstance(op, Conv2D):
        return weight, kernel_taps(graph, op)
    weight = weight.reshape(len(weight), 1, -1, channel_count(graph.tensor(op.x)))
    every = np.ones(weight.shape[1:3], np.bool_)
    return weight, Taps(image=every, border=~every)


def layer_interval(graph: Graph, op: derive.Layer, x: Interval) -> Interval:
    """Output of a layer: its accumulator's interval, requantised and clamped."""
    sums = accumulator(graph, op, x)
    requant = fp.quantize_multipliers(derive.layer_reals(graph, op))
    out = graph.tensor(op.out)
    ends = Interval(*(fp.mbqm(end, requant) + out.zero_point for end in sums))
    return _clamped(ends, derive.activation_limits(op.act, out))


def accumulator(graph: Graph, op: derive.Layer, x: Interval) -> Interval:
    """(c_out,): what bias + sum of w * (x - zero point) can be, over all output positions."""
    if isinstance(op, DepthwiseConv2D):
        weight = derive.int8_values(graph.tensor(op.weight))[0]
        taps = kernel_taps(graph, op)
        x = Interval(*(np.repeat(end, op.multiplier) for end in x))
        axes = "yxo,yxo->o"
    else:
        weight, taps = dense_weight(graph, op)
        axes = "oyxc,yxc->o"
    seen = tap_offsets(x, graph.tensor(op.x).zero_point, taps)
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    bias = 0 if op.bias is None else derive.int32_values(graph.tensor(op.bias)).ravel()
    return Interval(
        bias + np.einsum(axes, positive, seen.low) + np.einsum(axes, negative, seen.high),
        bias + np.einsum(axes, positive, seen.high) + np.einsum(axes, negative, seen.low),
    )


def tap_offsets(x: Interval, zero_point: int, taps: Taps) -> Interval:
    """(kh, kw, channels): x - zero_point as each tap sees it; padding is 0."""
    low, high = x.low - zero_point, x.high - zero_point
    border, image = taps.border[:, :, None], taps.image[:, :, None]
    low = np.where(border, np.minimum(low, 0), low)
    high = np.where(border, np.maximum(high, 0), high)
    return Interval(np.where(image, low, 0), np.where(image, high, 0))


# ------------------------------------------------------------------------------ other operations


def _clamped(ends: Interval, limits: Limits) -> Interval:
    return Interval(*(np.clip(end, *limits) for end in ends))


def regrouped(x: Interval, channels: int) -> Interval:
    """Intervals of the same bytes when the last axis has `channels` elements.

    Several channels per old one, or the other way round, keep their places; else they mix.
    """
    old = len(x.low)
    if channels % old == 0:
        return Interval(*(np.tile(end, channels // old) for end in x))
    if old % channels == 0:
        low, high = (end.reshape(-1, channels) for end in x)
        return Interval(low.min(axis=0), high.max(axis=0))
    return mixed(x, channels)


def _table_interval(table: I8, x: Interval) -> Interval:
    """Extremes of a table over each interval: not every table is monotone."""
    rows = [table[low + 128 : high + 129] for low, high in zip(*x, strict=True)]
    low, high = [row.min() for row in rows], [row.max() for row in rows]
    return Interval(np.array(low, np.int64), np.array(high, np.int64))


def _binary_interval(graph: Graph, op: Binary, known: Intervals) -> Interval:
    """Each kind is monotone in one operand while the other stays: the extremes are at corners."""
    a, b = (_operand_interval(graph, t, known) for t in (op.a, op.b))
    corners = [reference.binary_bytes(graph, op, _bytes(p), _bytes(q)) for p in a for q in b]
    return Interval(
        np.minimum.reduce(corners).astype(np.int64), np.maximum.reduce(corners).astype(np.int64)
    )


def _operand_interval(graph: Graph, operand: TensorId, known: Intervals) -> Interval:
    tensor = graph.tensor(operand)
    if tensor.data is None:
        return known[operand]
    values = derive.int8_values(tensor).reshape(-1, channel_count(tensor)).astype(np.int64)
    return Interval(values.min(axis=0), values.max(axis=0))


def _bytes(end: I64) -> I8:
    narrow: I8 = end.astype(np.int8)
    return narrow


def mixed(x: Interval, channels: int) -> Interval:
    """The interval of every channel of `x` together, for each of `channels` that depend on all."""
    return Interval(np.full(channels, x.low.min()), np.full(channels, x.high.max()))


def _mean_interval(graph: Graph, op: Mean, x: Interval) -> Interval:
    whole, out = graph.tensor(op.x), graph.tensor(op.out)
    count = whole.elements // out.elements
    requant = fp.mean_requant(whole.scale, out.scale, count)
    if len(whole.shape) - 1 in op.axes:
        x = mixed(x, channel_count(out))
    sums = (count * (end - whole.zero_point) for end in x)
    ends = Interval(*(fp.mbqm(total, requant) + out.zero_point for total in sums))
    return _clamped(ends, (fp.INT8_MIN, fp.INT8_MAX))


def _pad_interval(graph: Graph, op: Pad, x: Interval) -> Interval:
    out = graph.tensor(op.out)
    if any(op.paddings[-1]):
        x = mixed(x, channel_count(out))
    if not any(n for pair in op.paddings for n in pair):
        return x
    return Interval(np.minimum(x.low, out.zero_point), np.maximum(x.high, out.zero_point))


def _concat_interval(graph: Graph, op: Concat, known: Intervals) -> Interval:
    lows, highs = zip(*(known[x] for x in op.xs), strict=True)
    if op.axis == len(graph.tensor(op.out).shape) - 1:
        return Interval(np.concatenate(lows), np.concatenate(highs))
    return Interval(np.minimum.reduce(lows), np.maximum.reduce(highs))
