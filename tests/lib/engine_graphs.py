"""Int8 graphs that show what a single operation does not: ports, aliases, parts, shared tables."""

from __future__ import annotations

import numpy as np
from single_op import Builder

from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Concat,
    FullyConnected,
    Graph,
    Op,
    Reshape,
    Softmax,
    TensorId,
    Unary,
    UnaryKind,
)


def _graph(b: Builder, ops: tuple[Op, ...], ins: list[TensorId], outs: list[TensorId]) -> Graph:
    return Graph(tensors=tuple(b.tensors), ops=ops, inputs=tuple(ins), outputs=tuple(outs))


def two_ports() -> Graph:
    """x (1, 2, 3, 4) and y (1, 24) -> ADD of both as (1, 24), and y through a table."""
    b = Builder()
    x, y = b.activation((1, 2, 3, 4), (0.5, -7)), b.activation((1, 24), (0.25, 3))
    flat = b.activation((1, 24), (0.5, -7))
    total, bent = b.activation((1, 24), (0.6, 0)), b.activation((1, 24), (0.25, 3))
    ops = (
        Reshape(x=x, shape_id=None, out=flat),
        Binary(kind=BinaryKind.ADD, a=flat, b=y, out=total, act=Activation.NONE),
        Unary(kind=UnaryKind.LEAKY_RELU, x=y, out=bent, alpha=0.125),
    )
    return _graph(b, ops, [x, y], [total, bent])


def many_layers(side: int = 16, *, seed: int = 0) -> Graph:
    """(1, side) -> two equal FULLY_CONNECTED, tables, CONCATENATION, RESHAPE, SOFTMAX."""
    rng, b = np.random.default_rng(seed), Builder()
    params = (0.5, 0)
    x = b.activation((1, side), params)
    weight = b.int8(rng.integers(-127, 128, (side, side)), (0.01,) * side)
    bias = b.int32(rng.integers(-999, 999, side), (0.5 * float(np.float32(0.01)),) * side)
    hidden = [b.activation((1, side), params) for _ in range(2)]
    bent = b.activation((1, side), params)
    joined = b.activation((1, 2 * side), params)
    shaped = b.activation((1, 2, side), params)
    out = b.activation((1, 2, side), (1 / 256, -128))

    def layer(source: TensorId, target: TensorId) -> FullyConnected:
        act = Activation.NONE
        return FullyConnected(
            x=source, weight=weight, bias=bias, out=target, act=act, keep_num_dims=False
        )

    ops = (
        layer(x, hidden[0]),
        layer(hidden[0], hidden[1]),
        Unary(kind=UnaryKind.LEAKY_RELU, x=hidden[1], out=bent, alpha=0.25),
        Concat(xs=(hidden[0], bent), out=joined, axis=1),
        Reshape(x=joined, shape_id=None, out=shaped),
        Softmax(x=shaped, out=out, beta=1.0),
    )
    return _graph(b, ops, [x], [out])


def no_calls() -> Graph:
    """(1, 2, 3) -> RESHAPE to (1, 6), which C has nothing to do for."""
    b, params = Builder(), (0.5, -7)
    x, out = b.activation((1, 2, 3), params), b.activation((1, 6), params)
    return _graph(b, (Reshape(x=x, shape_id=None, out=out),), [x], [out])
