"""Channels that are constant for every input are removed, and what reads them adapted.

Trained networks have them: weight decay drives a channel's batch-norm scale to 0, a negative bias
and RELU do the rest (mcu-kernels, 6: 45 % of vww_96's multiplications). Interval analysis proves
the constants; nothing is removed by statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ndtool.export.codegen.passes.intervals import (
    Interval,
    Intervals,
    channel_count,
    dense_weight,
    tensor_intervals,
)
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.codegen.passes.removable import removable_channels
from ndtool.export.codegen.program import Removed
from ndtool.export.int8 import derive
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
    op_inputs,
    op_name,
    op_outputs,
)
from ndtool.quant.fixed_point import I64, INT32_MAX, Bools
from ndtool.quant.kernels import I8, I32

MAX_CHANNELS: Final = 2**18  # of all activations, ten times a large network's


def drop_dead_channels(passed: Passed) -> Passed:
    """The graph without channels that are proved constant, where every reader can do without.

    Runs once: the numbers in `removed` are the file's. A file with more than `MAX_CHANNELS` keeps
    them all, so that a crafted one takes no longer than a real one.
    """
    assert not passed.removed
    graph = passed.graph
    formed = (*graph.inputs, *(out for op in graph.ops for out in op_outputs(op)))
    if sum(channel_count(graph.tensor(t)) for t in formed) > MAX_CHANNELS:
        return passed
    known = tensor_intervals(graph)
    gone = removable_channels(graph, known)
    if not gone:
        return passed
    cut = Cut(graph=graph, known=known, gone=gone, tensors=list(graph.tensors))
    ops = tuple(cut_op(cut, op) for op in graph.ops)
    for tensor, which in gone.items():
        whole = graph.tensor(tensor)
        cut.tensors[tensor] = replace(whole, shape=(*whole.shape[:-1], int((~which).sum())))
    left = replace(graph, tensors=tuple(cut.tensors), ops=ops)
    removed = {t: _removed(known[t], which) for t, which in gone.items()}
    return replace(passed, graph=left, removed=removed)


def _removed(interval: Interval, gone: Bools) -> Removed:
    channels = np.flatnonzero(gone)
    values = interval.low[channels].tolist()
    return Removed(
        live=tuple(np.flatnonzero(~gone).tolist()),
        constants=dict(zip(channels.tolist(), values, strict=True)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The graph to be cut, what is known of it, which channels go; new constants are appended."""

    graph: Graph
    known: Intervals
    gone: Mapping[TensorId, Bools]
    tensors: list[Tensor]

    def live(self, tensor: TensorId) -> I64:
        """Numbers of the channels that are left."""
        channels = np.arange(channel_count(self.graph.tensor(tensor)))
        return channels[~self.gone[tensor]] if tensor in self.gone else channels

    def append(self, tensor: Tensor) -> TensorId:
        """The number of a new constant."""
        self.tensors.append(tensor)
        return TensorId(len(self.tensors) - 1)


def cut_op(cut: Cut, op: Op) -> Op:
    """`op` on the channels that are left; most operations take what they get."""
    if cut.gone.keys().isdisjoint((*op_inputs(op), *op_outputs(op))):
        return op
    match op:
        case Conv2D() | FullyConnected():
            return _cut_dense(cut, op)
        case DepthwiseConv2D():
            return _cut_depthwise(cut, op)
        case Binary():
            return replace(op, a=_cut_operand(cut, op, op.a), b=_cut_operand(cut, op, op.b))
        case Reshape():
            return replace(op, shape_id=None)  # the file's names the old size of the last axis
        case Concat() | Mean() | Pad() | Pool2D() | ResizeNearest() | Squeeze() | Unary():
            return op
        case Softmax() | Split() | StridedSlice():
            raise AssertionError(f"{op_name(op)} lost channels")


def _cut_dense(cut: Cut, op: Conv2D | FullyConnected) -> Conv2D | FullyConnected:
    weight, _ = dense_weight(cut.graph, op)
    live = cut.live(op.out)
    values = weight[live][..., cut.live(op.x)]
    if isinstance(op, FullyConnected):
        values = values.reshape(len(live), -1)
    bias = _cut_bias(cut, op, constant_sums(cut, op))
    return replace(op, weight=_cut_weight(cut, op, values), bias=bias)


def constant_sums(cut: Cut, op: Conv2D | FullyConnected) -> I64:
    """(c_out,): what the channels of x that go add to each accumulator, everywhere the same."""
    sums: I64 = np.zeros(channel_count(cut.graph.tensor(op.out)), np.int64)
    if op.x not in cut.gone:
        return sums
    weight, taps = dense_weight(cut.graph, op)
    gone = cut.gone[op.x]
    offsets = cut.known[op.x].low[gone] - cut.graph.tensor(op.x).zero_point
    # other taps have no weight, or the channel is the zero point: `needed_channels`
    everywhere = weight[:, taps.image & ~taps.border][..., gone]
    sums += np.einsum("otc,c->o", everywhere, offsets)
    return sums


def _cut_depthwise(cut: Cut, op: DepthwiseConv2D) -> DepthwiseConv2D:
    """An input channel goes with all its outputs: nothing is left to fold."""
    weight = derive.int8_values(cut.graph.tensor(op.weight))
    values = weight[..., cut.live(op.out)]
    no_sums = np.zeros(weight.shape[3], np.int64)
    return replace(op, weight=_cut_weight(cut, op, values), bias=_cut_bias(cut, op, no_sums))


def _cut_weight(cut: Cut, op: derive.Layer, values: I8) -> TensorId:
    old = cut.graph.tensor(op.weight)
    return cut.append(_with_values(old, values, cut.live(op.out), old.quantized_dim))


def _cut_bias(cut: Cut, op: derive.Layer, sums: I64) -> TensorId | None:
    """The biases of the outputs that are left, with `sums` added.

    Their magnitudes stay below the accumulator's bound, which `spec` has proved to fit int32: a
    product has only moved from the sum into the bias.
    """
    if op.bias is None:
        return None
    old = cut.graph.tensor(op.bias)
    live = cut.live(op.out)
    bias = (derive.int32_values(old).ravel() + sums)[live]
    assert np.abs(bias).max() <= INT32_MAX
    return cut.append(_with_values(old, bias.astype("<i4"), live, 0))


def _cut_operand(cut: Cut, op: Binary, operand: TensorId) -> TensorId:
    """A constant operand of one value a channel loses what its output loses."""
    old = cut.graph.tensor(operand)
    if old.data is None or op.out not in cut.gone or channel_count(old) == 1:
        return operand
    values = derive.int8_values(old)[..., cut.live(op.out)]
    return cut.append(_with_values(old, values, np.arange(0), 0))


def _with_values(old: Tensor, values: I8 | I32, live: I64, dim: int) -> Tensor:
    """A constant of new shape; of several scales, those of the channels `live`."""
    scales, zero_points = old.scales, old.zero_points
    if len(scales) > 1:
        scales = tuple(scales[i] for i in live)
        zero_points = tuple(zero_points[i] for i in live)
    return replace(
        old,
        shape=values.shape,
        scales=scales,
        zero_points=zero_points,
        quantized_dim=dim,
        data=values.tobytes(),
    )
