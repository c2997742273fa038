"""ONNX operators that only name, reshape or join values."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ndtool.export.graph.draft import Shape
from ndtool.export.graph.ir import Concat, Reshape
from ndtool.export.graph.onnx_constants import indices
from ndtool.export.graph.onnx_file import Node, malformed, unsupported
from ndtool.export.graph.onnx_reading import Reading

_NHWC_AXIS: Final = {1: 3, 2: 1, 3: 2}  # NCHW axis -> NHWC axis


def read_shape(r: Reading, node: Node) -> None:
    """The fixed shape of a tensor, batch 1, as a constant."""
    given = r.constants.get(node.input(0))
    shape = r.shapes[r.maybe_flat(node, 0)] if given is None else given.shape
    start, end = node.integer("start", 0), node.integer("end", len(shape))
    r.constants[node.outputs[0]] = np.array(shape[start:end], np.int64)


def read_flatten(r: Reading, node: Node) -> None:
    """Flatten to (1, c * h * w)."""
    shape = r.shapes[r.maybe_flat(node, 0)]
    if node.integer("axis", 1) not in (1, 1 - len(shape)):
        raise unsupported("Flatten that joins the batch", where=node.where)
    _reshape_to(r, node, (1, math.prod(shape)))


def read_reshape(r: Reading, node: Node) -> None:
    """Reshape to a constant shape, with ONNX's 0 and -1."""
    shape = r.shapes[r.maybe_flat(node, 0)]
    given = r.array(node, 1)
    wanted = indices(node, given) if given is not None else node.integers("shape")
    if wanted is None or wanted.count(-1) > 1 or any(n < -1 for n in wanted):
        raise malformed("bad target shape", where=node.where)
    if not node.integer("allowzero", 0):
        if any(n == 0 and i >= len(shape) for i, n in enumerate(wanted)):
            raise malformed("bad target shape", where=node.where)
        wanted = tuple(shape[i] if n == 0 else n for i, n in enumerate(wanted))
    rest = math.prod(n for n in wanted if n != -1)
    if rest < 1 or math.prod(shape) % rest:
        raise malformed("the target shape does not fit", where=node.where)
    _reshape_to(r, node, tuple(math.prod(shape) // rest if n == -1 else n for n in wanted))


def read_squeeze(r: Reading, node: Node) -> None:
    """Squeeze of named axes."""
    shape = r.shapes[r.activation(node, 0)]
    axes = _axes(r, node, len(shape))
    if any(shape[axis] != 1 for axis in axes):
        raise malformed("Squeeze of an axis that is not 1", where=node.where)
    _reshape_to(r, node, tuple(n for axis, n in enumerate(shape) if axis not in axes))


def read_unsqueeze(r: Reading, node: Node) -> None:
    """Unsqueeze of named axes."""
    shape = r.shapes[r.activation(node, 0)]
    given = r.array(node, 1)
    count = len((indices(node, given) if given is not None else node.integers("axes")) or ())
    axes = _axes(r, node, len(shape) + count)
    kept = iter(shape)
    total = len(shape) + count
    _reshape_to(r, node, tuple(1 if axis in axes else next(kept) for axis in range(total)))


def _axes(r: Reading, node: Node, rank: int) -> tuple[int, ...]:
    """Axes of Squeeze and Unsqueeze: attribute (opset < 13) or second input."""
    given = r.array(node, 1)
    axes = node.integers("axes") if given is None else indices(node, given)
    if not axes or not all(-rank <= a < rank for a in axes):
        raise unsupported(f"{node.op} without valid axes", where=node.where)
    found = tuple(a % rank for a in axes)
    if len(set(found)) != len(found):
        raise malformed("an axis is named twice", where=node.where)
    return found


def _reshape_to(r: Reading, node: Node, new: Shape) -> None:
    """Between (1, c, h, w), (1, c * h * w) and (1, c, 1, 1): what keeps our order of elements."""
    x = r.maybe_flat(node, 0)
    old = r.shapes[x]
    if math.prod(new) != math.prod(old):
        raise malformed("the target shape does not fit", where=node.where)
    if new == old:
        r.alias[node.outputs[0]] = x
        return
    size = math.prod(old)
    flattens = new == (1, size) and len(old) == 4
    if not flattens and (new != (1, size, 1, 1) or x in r.flat):
        raise unsupported(f"{node.op} of {old} to {new}", where=node.where)
    out = r.define(node.outputs[0], new)
    if flattens and old[1] > 1 and old[2] * old[3] > 1:
        r.flat[out] = old[1:]
    r.draft.ops.append(Reshape(name=node.name, x=x, out=out))


def read_concat(r: Reading, node: Node) -> None:
    """Concat along any axis but the batch."""
    xs = tuple(r.activation(node, i) for i in range(len(node.inputs)))
    shapes = [r.shapes[x] for x in xs]
    rank = len(shapes[0]) if shapes else 0
    axis = node.integer("axis", 0)
    axis += rank if axis < 0 else 0
    if not 1 <= axis < rank:
        raise unsupported("Concat along the batch", where=node.where)
    first = shapes[0]
    if any(
        len(s) != rank or s[:axis] + s[axis + 1 :] != first[:axis] + first[axis + 1 :]
        for s in shapes
    ):
        raise malformed("Concat of shapes that do not fit", where=node.where)
    total = sum(s[axis] for s in shapes)
    out = r.define(node.outputs[0], (*first[:axis], total, *first[axis + 1 :]))
    own_axis = _NHWC_AXIS[axis] if rank == 4 else axis
    r.draft.ops.append(Concat(name=node.name, xs=xs, out=out, axis=own_axis))


def read_pass_on(r: Reading, node: Node) -> None:
    """Identity and its like: another name for the same tensor."""
    r.alias[node.outputs[0]] = r.maybe_flat(node, 0)


def read_dropout(r: Reading, node: Node) -> None:
    """Dropout in inference: the same tensor."""
    training = r.array(node, 2)
    if training is not None and training.any():
        raise unsupported("Dropout in training mode", where=node.where)
    read_pass_on(r, node)


def read_cast(r: Reading, node: Node) -> None:
    """Cast of the image's float32 to float32."""
    if node.integer("to", 0) != 1:
        raise unsupported("Cast to another type than float32", where=node.where)
    read_pass_on(r, node)
