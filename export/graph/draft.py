"""The float graph while it is being made: float64 constants, activations not yet fused.

`from_onnx` fills a Draft node by node, `fuse` rewrites its operations, `finish` freezes it.
Everything is NHWC already; a tensor has one producer, and operations stand in execution order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ndtool.export.graph.fold import F64, to_float32
from ndtool.export.graph.ir import FloatGraph, FloatOp, FloatTensor, op_inputs

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affine:
    """out = scale * x + shift over the last axis; both (c,). Batch norm, constant add, mul, ..."""

    name: str
    x: str
    out: str
    scale: F64
    shift: F64


@dataclass(frozen=True, slots=True, kw_only=True)
class Clamp:
    """out = min(max(x, lo), hi); the bounds may be infinite."""

    name: str
    x: str
    out: str
    lo: float
    hi: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HardSigmoid:
    """out = min(max(alpha * x + beta, 0), 1)."""

    name: str
    x: str
    out: str
    alpha: float
    beta: float


DraftOp = FloatOp | Affine | Clamp | HardSigmoid


class UniqueNames:
    """Gives out names, each once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = Counter(taken)

    def __call__(self, name: str) -> str:
        """`name`, or `name_1`, `name_2`, ... when it is taken."""
        fresh = name
        while fresh in self._taken:
            fresh = f"{name}_{self._taken[name]}"
            self._taken[name] += 1
        self._taken[fresh] = 1
        return fresh


@dataclass(slots=True, eq=False, kw_only=True)
class Draft:
    """`shapes` are of activations, NHWC or (1, c); `sources` are ONNX names of constants.

    `names` knows the names of all activations, so that a constant never gets one of them.
    """

    where: str
    input: str
    output: str
    names: UniqueNames
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, F64] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    ops: list[DraftOp] = field(default_factory=list)

    def constant(self, name: str, values: F64, *, source: str = "") -> str:
        """Keep `values` under a name made unique; `source` is their ONNX tensor."""
        key = self.names(name)
        self.constants[key] = values
        self.sources[key] = source
        return key

    def uses(self) -> Counter[str]:
        """How often each tensor is read; being the model's output counts as once."""
        return Counter([self.output, *(x for op in self.ops for x in draft_inputs(op))])


def draft_inputs(op: DraftOp) -> tuple[str, ...]:
    """Names of the tensors that `op` reads."""
    match op:
        case Affine() | Clamp() | HardSigmoid():
            return (op.x,)
        case _:
            return op_inputs(op)


def drop_dead(draft: Draft) -> None:
    """Remove operations that the output does not depend on."""
    needed = {draft.output}
    kept: list[DraftOp] = []
    for op in reversed(draft.ops):
        if op.out in needed:
            needed.update(draft_inputs(op))
            kept.append(op)
    draft.ops = kept[::-1]


def finish(draft: Draft) -> FloatGraph:
    """The frozen graph; constants are rounded to float32 here, once.

    Raises:
        UnsupportedError: a constant is NaN, infinite or above float32; names the tensor.
    """
    tensors = {draft.input: FloatTensor(draft.input, draft.shapes[draft.input], None, draft.input)}
    ops: list[FloatOp] = []
    for op in draft.ops:
        assert not isinstance(op, Affine | Clamp | HardSigmoid), "fuse leaves none of these"
        ops.append(op)
        for name in (*op_inputs(op), op.out):
            if name in tensors:
                continue
            if name in draft.constants:
                data = to_float32(draft.constants[name], name=name, where=draft.where)
                tensors[name] = FloatTensor(name, data.shape, data, draft.sources[name])
            else:
                tensors[name] = FloatTensor(name, draft.shapes[name], None, name)
    return FloatGraph(tensors, tuple(ops), (draft.input,), (draft.output,))
