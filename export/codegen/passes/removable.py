"""Which constant channels can go: what each operation asks of the channels it reads and writes.

An operation either links channels, which then go together or not at all, or holds some of them
back. What remains is a partition of all channels; a part goes when every channel of it is
constant and none is held back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ndtool.export.codegen.passes.intervals import Intervals, channel_count, dense_weight
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
    TensorId,
    Unary,
    op_inputs,
    op_outputs,
)
from ndtool.quant.fixed_point import I64, Bools


class Link(NamedTuple):
    """Channel `a_channels[i]` of `a` and `b_channels[i]` of `b` go together."""

    a: TensorId
    a_channels: I64
    b: TensorId
    b_channels: I64


def removable_channels(graph: Graph, known: Intervals) -> dict[TensorId, Bools]:
    """(channels,) of each activation that loses some: whether a channel goes.

    A graph's inputs and outputs lose none, and every activation keeps at least one.
    """
    counts = {t: len(interval.low) for t, interval in known.items()}
    if not any(interval.constant.any() for interval in known.values()):
        return {}
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]), strict=False))
    goes = np.concatenate([known[t].constant for t in counts])
    part_of = _parts(
        goes, [_numbered(link, starts) for op in graph.ops for link in links(graph, op)]
    )
    for tensor, held in held_back(graph, known):
        goes[starts[tensor] : starts[tensor] + counts[tensor]] &= ~held
    stays = np.zeros(len(goes), np.bool_)
    stays[part_of[~goes]] = True
    for tensor, start in starts.items():
        # one channel stays, and with it those that are linked to it
        if not stays[part_of[start : start + counts[tensor]]].any():
            stays[part_of[start]] = True
    gone = {t: ~stays[part_of[start : start + counts[t]]] for t, start in starts.items()}
    return {t: which for t, which in gone.items() if which.any()}


def _numbered(link: Link, starts: Mapping[TensorId, int]) -> tuple[I64, I64]:
    """Both ends as numbers among all channels of the graph."""
    return starts[link.a] + link.a_channels, starts[link.b] + link.b_channels


def _parts(constant: Bools, pairs: Sequence[tuple[I64, I64]]) -> I64:
    """(channels,): a number for the part of each channel, its root in a union-find forest.

    Pairs of two channels that are not constant decide nothing and are left out.
    """
    root = list(range(len(constant)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for a, b in pairs:
        matters = constant[a] | constant[b]
        for i, j in zip(a[matters].tolist(), b[matters].tolist(), strict=True):
            root[find(j)] = find(i)
    return np.array([find(i) for i in range(len(root))], np.int64)


# ------------------------------------------------------------------------ rules of the operations


def links(graph: Graph, op: Op) -> Iterator[Link]:
    """Channels that `op` ties together; a layer with dense weights ties none."""
    match op:
        case DepthwiseConv2D():
            outputs = np.arange(channel_count(graph.tensor(op.out)))
            yield Link(op.x, outputs // op.multiplier, op.out, outputs)
        case Pool2D() | Unary() | ResizeNearest() | Mean() | Pad():
            yield from _same_channels(graph, op.x, op.out)
        case Reshape() | Squeeze():
            yield from _regrouped(graph, op.x, op.out)
        case Binary():
            for operand in (op.a, op.b):
                # a constant is cut to fit, and one channel for all outputs fits any number
                if graph.tensor(operand).data is None:
                    yield from _same_channels(graph, operand, op.out)
        case Concat():
            yield from _joined(graph, op)
        case Conv2D() | FullyConnected() | Softmax() | Split() | StridedSlice():
            return


def _same_channels(graph: Graph, x: TensorId, out: TensorId) -> Iterator[Link]:
    channels = np.arange(channel_count(graph.tensor(out)))
    if channel_count(graph.tensor(x)) == len(channels):
        yield Link(x, channels, out, channels)


def _regrouped(graph: Graph, x: TensorId, out: TensorId) -> Iterator[Link]:
    """Bytes stay where they are: channel = byte index modulo the size of the last axis."""
    old, new = (channel_count(graph.tensor(t)) for t in (x, out))
    if _keeps_channels(old, new):
        index = np.arange(max(old, new))
        yield Link(x, index % old, out, index % new)


def _keeps_channels(old: int, new: int) -> bool:
    """Whether a last axis of `new` instead of `old` elements mixes no channels."""
    return new % old == 0 or old % new == 0


def _joined(graph: Graph, op: Concat) -> Iterator[Link]:
    along_channels = op.axis == len(graph.tensor(op.out).shape) - 1
    start = 0
    for x in op.xs:
        channels = np.arange(channel_count(graph.tensor(x)))
        yield Link(x, channels, op.out, channels + start)
        start += len(channels) if along_channels else 0


Held = tuple[TensorId, Bools]  # (channels,)


def held_back(graph: Graph, known: Intervals) -> Iterator[Held]:
    """Channels that may be constant and stay all the same."""
    yield from _whole(graph, *graph.inputs, *graph.outputs)
    for op in graph.ops:
        yield from held_by(graph, op, known)


def held_by(graph: Graph, op: Op, known: Intervals) -> Iterable[Held]:
    """Channels that `op` cannot do without."""
    match op:
        case Conv2D() | FullyConnected():
            return _held_by_layer(graph, op, known)
        case Softmax() | Split() | StridedSlice():
            return _all_of(graph, op)
        case Mean():
            return _all_of(graph, op) if len(graph.tensor(op.x).shape) - 1 in op.axes else ()
        case Pad():
            return _all_of(graph, op) if any(op.paddings[-1]) else ()
        case Reshape() | Squeeze():
            old, new = (channel_count(graph.tensor(t)) for t in (op.x, op.out))
            return () if _keeps_channels(old, new) else _all_of(graph, op)
        case Binary() | Concat() | DepthwiseConv2D() | Pool2D() | ResizeNearest() | Unary():
            return ()


def _whole(graph: Graph, *tensors: TensorId) -> Iterator[Held]:
    for tensor in tensors:
        if graph.tensor(tensor).data is None:
            yield tensor, np.ones(channel_count(graph.tensor(tensor)), np.bool_)


def _all_of(graph: Graph, op: Op) -> Iterator[Held]:
    return _whole(graph, *op_inputs(op), *op_outputs(op))


def _held_by_layer(graph: Graph, op: Conv2D | FullyConnected, known: Intervals) -> Iterator[Held]:
    is_zero = known[op.x].low == graph.tensor(op.x).zero_point
    yield op.x, needed_channels(graph, op) & ~is_zero
    bias = None if op.bias is None else graph.tensor(op.bias)
    if isinstance(op, FullyConnected) and bias is not None and not bias.scales:
        # legal with several weight scales; were one channel left, `spec` would want a bias scale
        yield from _whole(graph, op.out)


def needed_channels(graph: Graph, op: Conv2D | FullyConnected) -> Bools:
    """(channels of x,): where a constant that is not the zero point cannot go into the bias.

    It adds the same to every output position unless a tap with weight meets the image here and
    padding there, where it counts as the zero point. Without a bias it has no place at all.
    """
    weight, taps = dense_weight(graph, op)
    uneven = taps.image if op.bias is None else taps.image & taps.border
    needed: Bools = (weight[:, uneven] != 0).any(axis=(0, 1))
    return needed
