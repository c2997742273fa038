"""Rewriting a Draft: patterns named, paddings and affine maps folded, activations fused.

Each pass keeps what the network computes. An activation or affine map moves into its producer
only when nobody else reads the value in between (quantisation, 3.2).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Final, TypeGuard

import numpy as np

from ndtool.export.graph.draft import Affine, Clamp, Draft, DraftOp, HardSigmoid, drop_dead
from ndtool.export.graph.fold import apply_affine
from ndtool.export.graph.ir import (
    Binary,
    BinaryKind,
    Conv,
    FloatOp,
    FullyConnected,
    Fused,
    Mean,
    Pad,
    Padding,
    Reshape,
    Unary,
    UnaryKind,
)
from ndtool.export.graph.onnx_file import unsupported

NO_PADDING: Final = Padding(top=0, left=0, bottom=0, right=0)
_CLAMPS: Final = {
    (0.0, math.inf): Fused.RELU,
    (0.0, 6.0): Fused.RELU6,
    (0.0, 1.0): Fused.CLIP_0_1,
    (-1.0, 1.0): Fused.CLIP_N1_1,
}
_NEAR: Final = 1e-6  # constants such as 1/6 come in float32, rounded in different ways


def fuse(draft: Draft) -> None:
    """All passes, in order; afterwards only `FloatOp`s are left.

    Raises:
        UnsupportedError: an activation that no int8 operation computes.
    """
    drop_dead(draft)
    name_hard_swish(draft)
    drop_dead(draft)
    fold_pads(draft)
    fuse_into_producers(draft)
    drop_reshapes(draft)


def name_hard_swish(draft: Draft) -> None:
    """Hard-sigmoid and hard-swish out of their spellings (quantisation, 3.2 and 9).

    relu6(x + 3) / 6 is a hard-sigmoid; x * hard_sigmoid(x), x * relu6(x + 3) / 6 and
    (x / 6) * relu6(x + 3) are a hard-swish. What becomes unused is left to `drop_dead`.
    """
    made: dict[str, DraftOp] = {}  # producer by output, rewritten
    for index, op in enumerate(draft.ops):
        renamed = _hard(op, made)
        draft.ops[index] = renamed
        made[renamed.out] = renamed


def _hard(op: DraftOp, made: dict[str, DraftOp]) -> DraftOp:
    """`op` itself, or the HardSigmoid or HARD_SWISH that it completes."""
    if _is_affine(op, 1 / 6, 0):
        below = made.get(op.x)
        x = _relu6_of_plus_3(below, made)
        if x is not None:
            return HardSigmoid(name=op.name, x=x, out=op.out, alpha=1 / 6, beta=0.5)
        if isinstance(below, Binary) and below.kind is BinaryKind.MUL:
            for p, q in ((below.a, below.b), (below.b, below.a)):
                if _relu6_of_plus_3(made.get(q), made) == p:
                    return Unary(name=op.name, kind=UnaryKind.HARD_SWISH, x=p, out=op.out)
    elif isinstance(op, Binary) and op.kind is BinaryKind.MUL:
        for p, q in ((op.a, op.b), (op.b, op.a)):
            first, second = made.get(p), made.get(q)
            if _is_hard_sigmoid(second) and second.x == p:
                return Unary(name=op.name, kind=UnaryKind.HARD_SWISH, x=p, out=op.out)
            if _is_affine(first, 1 / 6, 0) and _relu6_of_plus_3(second, made) == first.x:
                return Unary(name=op.name, kind=UnaryKind.HARD_SWISH, x=first.x, out=op.out)
    return op


def _relu6_of_plus_3(op: DraftOp | None, made: dict[str, DraftOp]) -> str | None:
    """x where `op` gives relu6(x + 3)."""
    if isinstance(op, Clamp) and (op.lo, op.hi) == (0, 6):
        below = made.get(op.x)
        if _is_affine(below, 1, 3):
            return below.x
    return None


def _is_affine(op: DraftOp | None, scale: float, shift: float) -> TypeGuard[Affine]:
    return (
        isinstance(op, Affine)
        and bool(np.all(np.abs(op.scale - scale) <= _NEAR))
        and bool(np.all(np.abs(op.shift - shift) <= _NEAR))
    )


def _is_hard_sigmoid(op: DraftOp | None) -> TypeGuard[HardSigmoid]:
    """A hard-sigmoid with hard-swish's slope; ONNX's default of 0.2 is another function."""
    return (
        isinstance(op, HardSigmoid)
        and abs(op.alpha - 1 / 6) <= _NEAR
        and abs(op.beta - 0.5) <= _NEAR
    )


def fold_pads(draft: Draft) -> None:
    """Zero padding into the convolutions that read it; a Pad that others read too stays."""
    pads = {op.out: op for op in draft.ops if isinstance(op, Pad)}
    for index, op in enumerate(draft.ops):
        pad = pads.get(op.x) if isinstance(op, Conv) else None
        if pad is not None and isinstance(op, Conv):
            draft.ops[index] = replace(op, x=pad.x, padding=_sum(pad.padding, op.padding))
    drop_dead(draft)


def _sum(a: Padding, b: Padding) -> Padding:
    return Padding(
        top=a.top + b.top,
        left=a.left + b.left,
        bottom=a.bottom + b.bottom,
        right=a.right + b.right,
    )


def fuse_into_producers(draft: Draft) -> None:
    """Affine maps into weights, clamps into the operation before; the rest on their own."""
    uses = draft.uses()
    ops, draft.ops = draft.ops, []
    at: dict[str, int] = {}  # where a tensor is made in the new list
    for op in ops:
        target = _only_producer(op, draft, uses, at)
        merged = _merge(draft, target, op) if target is not None else None
        if target is not None and merged is not None:
            draft.ops[at[target.out]] = merged
            at[merged.out] = at[target.out]
        else:
            at[op.out] = len(draft.ops)
            draft.ops.append(_alone(draft, op))


def _only_producer(
    op: DraftOp, draft: Draft, uses: Counter[str], at: dict[str, int]
) -> DraftOp | None:
    """What makes the input of a map or clamp, if nobody else reads that input."""
    if isinstance(op, Affine | Clamp | HardSigmoid) and uses[op.x] == 1 and op.x in at:
        return draft.ops[at[op.x]]
    return None


def _merge(draft: Draft, target: DraftOp, op: DraftOp) -> FloatOp | None:
    """`target` with `op` inside, None where it does not fit."""
    if not isinstance(target, Conv | FullyConnected | Binary) or target.act is not Fused.NONE:
        return None
    match op:
        case Affine() if not isinstance(target, Binary):
            _scale_weights(draft, target, op)
            return replace(target, out=op.out)
        case HardSigmoid() if not isinstance(target, Binary):
            # Saturation then is the clamp: no further operation (quantisation, 3.2).
            _scale_weights(draft, target, _as_affine(draft, op))
            return replace(target, out=op.out, act=Fused.CLIP_0_1)
        case Clamp() if (op.lo, op.hi) in _CLAMPS:
            return replace(target, out=op.out, act=_CLAMPS[op.lo, op.hi])
        case _:
            return None


def _scale_weights(draft: Draft, target: Conv | FullyConnected, op: Affine) -> None:
    """Fold `op` into the weights of `target`, which no other operation shares."""
    depthwise = isinstance(target, Conv) and target.depthwise
    draft.constants[target.weight], draft.constants[target.bias] = apply_affine(
        draft.constants[target.weight],
        draft.constants[target.bias],
        op.scale,
        op.shift,
        axis=3 if depthwise else 0,
    )


def _as_affine(draft: Draft, op: HardSigmoid) -> Affine:
    """The part of a hard-sigmoid before its clamp."""
    ones = np.ones(draft.shapes[op.x][-1])
    return Affine(name=op.name, x=op.x, out=op.out, scale=op.alpha * ones, shift=op.beta * ones)


def _alone(draft: Draft, op: DraftOp) -> FloatOp:
    """`op` as an operation of its own."""
    match op:
        case Affine():
            return _lone_affine(draft, op)
        case HardSigmoid():
            return replace(_pointwise(draft, _as_affine(draft, op)), act=Fused.CLIP_0_1)
        case Clamp():
            return _lone_clamp(draft, op)
        case _:
            return op


def _lone_affine(draft: Draft, op: Affine) -> Binary | Conv:
    """One ADD or MUL by a constant where that is all, else a depthwise 1x1 convolution."""
    rank = len(draft.shapes[op.x])
    if np.all(op.scale == 1):
        kind, values = BinaryKind.ADD, op.shift
    elif np.all(op.shift == 0):
        kind, values = BinaryKind.MUL, op.scale
    else:
        return _pointwise(draft, op)
    constant = draft.constant(f"{op.name}.constant", values.reshape((1,) * (rank - 1) + (-1,)))
    return Binary(name=op.name, kind=kind, a=op.x, b=constant, out=op.out)


def _pointwise(draft: Draft, op: Affine) -> Conv:
    """scale * x + shift as a depthwise 1x1 convolution.

    MUL and ADD would need a tensor in between, which ONNX does not have (so it has no measured
    range) and which would be rounded to int8 once more; here every channel has its own scale.
    """
    if len(draft.shapes[op.x]) != 4:
        raise unsupported(
            f"{op.name}: a scale and shift of a vector that no linear layer can take in",
            where=draft.where,
        )
    return Conv(
        name=op.name,
        x=op.x,
        weight=draft.constant(f"{op.name}.weight", op.scale.reshape(1, 1, 1, -1)),
        bias=draft.constant(f"{op.name}.bias", op.shift),
        out=op.out,
        depthwise=True,
        stride=(1, 1),
        dilation=(1, 1),
        padding=NO_PADDING,
    )


def _lone_clamp(draft: Draft, op: Clamp) -> Unary:
    kinds = {Fused.RELU: UnaryKind.RELU, Fused.RELU6: UnaryKind.RELU6}
    kind = kinds.get(_CLAMPS.get((op.lo, op.hi), Fused.NONE))
    if kind is None:
        raise unsupported(
            f"{op.name}: Clip to {op.lo:g}..{op.hi:g} is not an int8 activation here",
            where=draft.where,
            remedy="use ReLU, ReLU6, or Clip to 0..1 or -1..1 right after a layer",
        )
    return Unary(name=op.name, kind=kind, x=op.x, out=op.out)


def drop_reshapes(draft: Draft) -> None:
    """(1, 1, 1, c) -> (1, c) costs nothing: a mean gives it directly, linear layers read either."""
    uses = draft.uses()
    linear = Counter(op.x for op in draft.ops if isinstance(op, FullyConnected))
    at = {op.out: index for index, op in enumerate(draft.ops)}
    instead: dict[str, str] = {}  # output of a dropped Reshape -> what its readers read
    for op in draft.ops.copy():
        if not isinstance(op, Reshape) or draft.shapes[op.x][:3] != (1, 1, 1):
            continue
        maker = draft.ops[at[op.x]] if op.x in at else None
        if isinstance(maker, Mean) and uses[op.x] == 1:
            draft.ops[at[op.x]] = replace(maker, out=op.out, keep_dims=False)
            instead[op.out] = op.out
        elif uses[op.out] == linear[op.out]:
            instead[op.out] = op.x
    draft.ops = [
        replace(op, x=instead.get(op.x, op.x)) if isinstance(op, FullyConnected) else op
        for op in draft.ops
        if not (isinstance(op, Reshape) and op.out in instead)
    ]
