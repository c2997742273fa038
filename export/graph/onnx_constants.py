"""Arithmetic on constants inside an ONNX file, done while reading.

Exporters compute shapes and paddings with nodes (Shape, Gather, Concat, ConstantOfShape, Slice,
Transpose, Cast ...) that depend on nothing but fixed sizes. They are folded here, with numpy as
the arithmetic and a bound on every result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from ndtool.errors import UnsupportedError
from ndtool.export.graph.onnx_file import Array, Node, malformed, unsupported

MAX_FOLDED: Final = 2**24  # elements of one folded constant: the largest weight is far below
MAX_INDICES: Final = 64

_CAST_TO: Final = {1: "<f4", 6: "<i4", 7: "<i8", 9: "|b1", 11: "<f8"}


def fold_constant(node: Node, inputs: Sequence[Array | None]) -> Array:
    """The value of a node whose inputs are all constant; None stands for an absent one.

    Raises:
        InputError: the node breaks ONNX's rules.
        UnsupportedError: the operator is not folded, or its result is too large.
    """
    rule = _RULES.get(node.op)
    if rule is None:
        raise unsupported(f"operator {node.op} on constants is not supported", where=node.where)
    try:
        with np.errstate(all="ignore"):
            result = rule(node, inputs)
    except (ValueError, IndexError, TypeError, OverflowError):
        # numpy's own complaint about shapes, axes or indices that do not fit each other
        raise malformed("constant arithmetic with wrong shapes", where=node.where) from None
    if result.size > MAX_FOLDED:
        raise _too_large(node)
    return result


def indices(node: Node, values: Array) -> tuple[int, ...]:
    """The integers of a constant that holds axes, a shape or paddings.

    Raises:
        InputError: not integers, or far more than any tensor has axes.
    """
    if values.dtype.kind != "i" or values.size > MAX_INDICES:
        raise malformed("a constant does not hold axes or sizes", where=node.where)
    return tuple(int(v) for v in values.reshape(-1))


def is_foldable(op: str) -> bool:
    """Whether `fold_constant` knows the operator."""
    return op in _RULES


def _too_large(node: Node) -> UnsupportedError:
    return unsupported(f"a constant of more than {MAX_FOLDED:,} elements", where=node.where)


def _given(inputs: Sequence[Array | None], index: int) -> Array:
    value = inputs[index]
    if value is None:
        raise ValueError("a required input is absent")
    return value


def _optional(inputs: Sequence[Array | None], index: int) -> Array | None:
    return inputs[index] if index < len(inputs) else None


def _axes(node: Node, inputs: Sequence[Array | None]) -> tuple[int, ...] | None:
    """Axes as attribute (opset < 13) or second input."""
    given = _optional(inputs, 1)
    return indices(node, given) if given is not None else node.integers("axes")


def _constant(node: Node, inputs: Sequence[Array | None]) -> Array:
    value = node.attributes.get("value")
    if isinstance(value, np.ndarray):
        return value
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in node.attributes:
            return np.asarray(node.attributes[name], dtype)
    raise unsupported("a Constant of this kind is not supported", where=node.where)


def _identity(node: Node, inputs: Sequence[Array | None]) -> Array:
    return _given(inputs, 0)


def _cast(node: Node, inputs: Sequence[Array | None]) -> Array:
    to = _CAST_TO.get(node.integer("to", 0))
    if to is None:
        raise unsupported("Cast to this type is not supported", where=node.where)
    return _given(inputs, 0).astype(to)


def _gather(node: Node, inputs: Sequence[Array | None]) -> Array:
    values, index = _given(inputs, 0), _given(inputs, 1)
    if values.ndim != 1:
        raise unsupported("Gather of other than a shape", where=node.where)
    return np.asarray([values[i] for i in indices(node, index)], values.dtype).reshape(index.shape)


def _concat(node: Node, inputs: Sequence[Array | None]) -> Array:
    parts = [_given(inputs, i) for i in range(len(inputs))]
    if sum(part.size for part in parts) > MAX_FOLDED:
        raise _too_large(node)
    return np.concatenate(parts, axis=node.integer("axis", 0))


def _unsqueeze(node: Node, inputs: Sequence[Array | None]) -> Array:
    axes = _axes(node, inputs)
    if axes is None or len(axes) > 8:
        raise ValueError("no axes")
    return np.expand_dims(_given(inputs, 0), axes)


def _squeeze(node: Node, inputs: Sequence[Array | None]) -> Array:
    return np.squeeze(_given(inputs, 0), _axes(node, inputs))


def _reshape(node: Node, inputs: Sequence[Array | None]) -> Array:
    values, shape = _given(inputs, 0), list(indices(node, _given(inputs, 1)))
    if not node.integer("allowzero", 0):
        shape = [values.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    return values.reshape(shape)


def _transpose(node: Node, inputs: Sequence[Array | None]) -> Array:
    return np.transpose(_given(inputs, 0), node.integers("perm"))


def _constant_of_shape(node: Node, inputs: Sequence[Array | None]) -> Array:
    shape = indices(node, _given(inputs, 0))
    if any(n < 0 for n in shape) or math.prod(shape) > MAX_FOLDED:
        raise _too_large(node)
    value = node.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise ValueError("the fill value is not one element")
    return np.full(shape, value.reshape(-1)[0])


def _slice(node: Node, inputs: Sequence[Array | None]) -> Array:
    """Slice by inputs (opset 10 and later) or by attributes."""
    values = _given(inputs, 0)
    if len(inputs) == 1:
        starts, ends = node.integers("starts"), node.integers("ends")
        axes, steps = node.integers("axes"), None
    else:
        starts, ends = indices(node, _given(inputs, 1)), indices(node, _given(inputs, 2))
        given_axes, given_steps = _optional(inputs, 3), _optional(inputs, 4)
        axes = indices(node, given_axes) if given_axes is not None else None
        steps = indices(node, given_steps) if given_steps is not None else None
    if starts is None or ends is None:
        raise ValueError("no bounds")
    if axes is None:
        axes = tuple(range(len(starts)))
    cut = [slice(None)] * values.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps or (1,) * len(starts), strict=True):
        # With a negative step an end below the first element means "through the first".
        stop = None if step < 0 and end < -values.shape[axis] else end
        cut[axis] = slice(start, stop, step)
    return values[tuple(cut)]


def _arithmetic(node: Node, inputs: Sequence[Array | None]) -> Array:
    a, b = _given(inputs, 0), _given(inputs, 1)
    if a.dtype != b.dtype or a.dtype.kind not in "if":
        raise ValueError("operands of different types")
    if math.prod(np.broadcast_shapes(a.shape, b.shape)) > MAX_FOLDED:
        raise _too_large(node)
    match node.op:
        case "Add":
            return np.asarray(a + b)
        case "Sub":
            return np.asarray(a - b)
        case "Mul":
            return np.asarray(a * b)
        case _:
            if a.dtype.kind == "f":
                return np.asarray(a / b)
            if not b.all():
                raise ValueError("division by zero")
            # ONNX divides integers towards zero, numpy towards minus infinity
            quotient = np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b)
            return np.asarray(quotient, dtype=a.dtype)


_RULES: Final[dict[str, Callable[[Node, Sequence[Array | None]], Array]]] = {
    "Add": _arithmetic,
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _arithmetic,
    "Gather": _gather,
    "Identity": _identity,
    "Mul": _arithmetic,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
