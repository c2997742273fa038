"""ONNX operators that map element by element: batch norm, arithmetic, activations, Softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from ndtool.export.graph.draft import Affine, Clamp, HardSigmoid
from ndtool.export.graph.fold import F64, batch_norm_affine
from ndtool.export.graph.ir import Binary, BinaryKind, Softmax, Unary, UnaryKind
from ndtool.export.graph.onnx_file import Node, malformed, unsupported
from ndtool.export.graph.onnx_reading import TO_NHWC, Reading

_KINDS: Final = {"Add": BinaryKind.ADD, "Sub": BinaryKind.SUB, "Mul": BinaryKind.MUL}
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)  # some exporters' "no bound"


def read_batch_norm(r: Reading, node: Node) -> None:
    """BatchNormalization in inference: a scale and shift per channel."""
    x = r.activation(node, 0)
    channels = r.shapes[x][1]
    if node.integer("training_mode", 0) or not node.integer("spatial", 1):
        raise unsupported("BatchNormalization in training mode", where=node.where)
    gamma, beta, mean, variance = (r.vector(node, i, channels) for i in (1, 2, 3, 4))
    eps = node.number("epsilon", 1e-5)
    _affine(r, node, x, *batch_norm_affine(gamma, beta, mean, variance, eps=eps))


def _affine(r: Reading, node: Node, x: str, scale: F64, shift: F64) -> None:
    """out = scale * x + shift per channel; nothing where that is x itself."""
    if np.all(scale == 1) and np.all(shift == 0):
        r.alias[node.outputs[0]] = x
        return
    out = r.define(node.outputs[0], r.shapes[x])
    r.draft.ops.append(Affine(name=node.name, x=x, out=out, scale=scale, shift=shift))


def read_binary(r: Reading, node: Node) -> None:
    """Add, Sub, Mul, Div of two activations, or of one and a constant."""
    if len(node.inputs) != 2:
        raise malformed(f"{node.op} needs two inputs", where=node.where)
    for index in (0, 1):
        if node.input(index) in r.constants:
            _binary_with_constant(r, node, index)
            return
    a, b = r.activation(node, 0), r.activation(node, 1)
    kind = _KINDS.get(node.op)
    if kind is None:
        raise unsupported("division by an activation", where=node.where)
    sizes = r.shapes[a], r.shapes[b]
    pairs = list(zip(*sizes, strict=False))
    if len(sizes[0]) != len(sizes[1]) or not all(m == n or 1 in (m, n) for m, n in pairs):
        raise unsupported(f"{node.op} of shapes {sizes[0]} and {sizes[1]}", where=node.where)
    out = r.define(node.outputs[0], tuple(max(pair) for pair in pairs))
    r.draft.ops.append(Binary(name=node.name, kind=kind, a=a, b=b, out=out))


def _binary_with_constant(r: Reading, node: Node, index: int) -> None:
    """A per-channel map where the constant is one number or one a channel."""
    x = r.activation(node, 1 - index)
    shape = r.shapes[x]
    values = r.floats(node, index)
    assert values is not None, "the caller has seen it"
    fits = values.ndim <= len(shape)
    values = values.reshape((1,) * (len(shape) - values.ndim) + values.shape) if fits else values
    if not fits or not all(m in (1, n) for m, n in zip(values.shape, shape, strict=True)):
        raise unsupported(
            f"{node.op} of shapes {shape} and {values.shape}, a constant", where=node.where
        )
    if node.op == "Div":
        if index == 0:
            raise unsupported("division by an activation", where=node.where)
        with np.errstate(divide="ignore"):
            values = 1 / values  # infinite for 0, refused with the weights it reaches
    if values.size != values.shape[1]:
        _binary_with_image(r, node, x, values, index)
        return
    vector = np.broadcast_to(values.reshape(-1), (shape[1],))
    one, zero = np.ones(shape[1]), np.zeros(shape[1])
    match node.op, index:
        case "Add", _:
            _affine(r, node, x, one, vector)
        case "Sub", 0:
            _affine(r, node, x, -one, vector)
        case "Sub", _:
            _affine(r, node, x, one, -vector)
        case _:
            _affine(r, node, x, vector, zero)


def _binary_with_image(r: Reading, node: Node, x: str, values: F64, index: int) -> None:
    """A constant that differs from pixel to pixel, NCHW (rank 4 since it has more than c)."""
    constant = r.draft.constant(
        f"{node.name}.constant", values.transpose(TO_NHWC), source=node.input(index)
    )
    pair = (constant, x) if index == 0 else (x, constant)
    kind = _KINDS.get(node.op, BinaryKind.MUL)  # Div: its reciprocal is in `values`
    out = r.define(node.outputs[0], r.shapes[x])
    r.draft.ops.append(Binary(name=node.name, kind=kind, a=pair[0], b=pair[1], out=out))


def read_clip(r: Reading, node: Node) -> None:
    """Bounds as attributes (opset < 11), else as inputs."""
    bounds = []
    for index, (name, absent) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        given = r.array(node, index)  # an infinite bound is a missing one
        if given is not None and (given.size != 1 or np.isnan(given).any()):
            raise malformed(f"{name} of Clip is not a number", where=node.where)
        bound = absent
        if given is not None:
            bound = float(given.reshape(-1)[0])
        elif name in node.attributes:
            bound = node.number(name, 0.0)
        bounds.append(absent if abs(bound) >= _FLOAT32_MAX else bound)
    _clamp(r, node, *bounds)


def read_relu(r: Reading, node: Node) -> None:
    """Relu."""
    _clamp(r, node, 0.0, math.inf)


def _clamp(r: Reading, node: Node, lo: float, hi: float) -> None:
    x = r.activation(node, 0)
    if (lo, hi) == (-math.inf, math.inf):
        r.alias[node.outputs[0]] = x
        return
    out = r.define(node.outputs[0], r.shapes[x])
    r.draft.ops.append(Clamp(name=node.name, x=x, out=out, lo=lo, hi=hi))


def read_hard_sigmoid(r: Reading, node: Node) -> None:
    """HardSigmoid with its own slope."""
    x = r.activation(node, 0)
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)  # ONNX's defaults
    out = r.define(node.outputs[0], r.shapes[x])
    r.draft.ops.append(HardSigmoid(name=node.name, x=x, out=out, alpha=alpha, beta=beta))


def read_unary(kind: UnaryKind, *, alpha: float = 0.0) -> Callable[[Reading, Node], None]:
    """Reader of an operator with one input and, for LEAKY_RELU, a slope."""

    def read(r: Reading, node: Node) -> None:
        x = r.activation(node, 0)
        out = r.define(node.outputs[0], r.shapes[x])
        slope = node.number("alpha", alpha) if kind is UnaryKind.LEAKY_RELU else 0.0
        r.draft.ops.append(Unary(name=node.name, kind=kind, x=x, out=out, alpha=slope))

    return read


def read_softmax(r: Reading, node: Node) -> None:
    """Over the channels only. Before opset 13 everything from `axis` on was one axis."""
    x = r.activation(node, 0)
    shape = r.shapes[x]
    old = r.file.opset < 13
    axis = node.integer("axis", 1 if old else -1) % len(shape)
    if axis != 1 or (old and shape[2:] not in ((), (1, 1))):
        raise unsupported("Softmax over another axis than the channels", where=node.where)
    out = r.define(node.outputs[0], shape)
    r.draft.ops.append(Softmax(name=node.name, x=x, out=out))
