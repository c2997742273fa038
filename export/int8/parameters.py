"""Which scale and zero point each activation of a float graph gets.

Ranges are data, made once from calibration images (quantisation, section 5); from there on this
is a pure function. Tensors whose bytes are only moved (pools, PAD, RESHAPE, CONCATENATION) must
share one scale and zero point (1.1): they form groups, found by union-find, that take the union of
their ranges. What an operation cannot work with is found here, all of it at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ndtool.console import visible
from ndtool.errors import InputError, NdError, UnsupportedError, raise_all
from ndtool.export.graph import ir
from ndtool.quant import scales
from ndtool.quant.scales import ScaleZero

Range = tuple[float, float]

BOUNDS: Final[Mapping[ir.Fused, Range]] = {
    ir.Fused.NONE: (-math.inf, math.inf),
    ir.Fused.RELU: (0.0, math.inf),
    ir.Fused.RELU6: (0.0, 6.0),
    ir.Fused.CLIP_0_1: (0.0, 1.0),
    ir.Fused.CLIP_N1_1: (-1.0, 1.0),
}
HARD_SWISH_LEAST: Final = -0.375  # its minimum, at -1.5 (rule 11)
WIDENING_TO_WARN: Final = 2.0  # one bit of resolution lost (1.1)
# From here on 15 * 2^27 / 2^shift is below 1, and LOGISTIC and TANH of zero are wrong (1.5).
GATE_INPUT_LIMIT: Final = 8.0
SETTLING_PASSES: Final = 3  # over the operations; two suffice unless groups reach back


@dataclass(frozen=True, slots=True)
class Parameters:
    """Scale and zero point by tensor name, constant operands included; what to tell the user."""

    of: Mapping[str, ScaleZero]
    warnings: tuple[str, ...]


def unsupported(what: str, tensor: str, remedy: str, code: str) -> UnsupportedError:
    """An UnsupportedError about the tensor or operation `tensor`."""
    return UnsupportedError(what, where=visible(tensor), remedy=remedy, code=code)


def assign_parameters(
    graph: ir.FloatGraph,
    ranges: Mapping[str, Range],
    pinned: Mapping[str, tuple[float, int]],
) -> Parameters:
    """Parameters of every activation and constant operand of `graph`.

    `ranges` is keyed by `FloatTensor.source`; `pinned` gives inputs what the contract fixes.

    Raises:
        InputError: a range is missing or upside down, or a pinned value is no scale.
        UnsupportedError: a range is not finite, or an operation cannot work with its parameters.
    """
    _check_pinned(graph, pinned)
    fixed = {name: ScaleZero(*pinned[name]) for name in graph.inputs if name in pinned}
    fixed |= {op.out: value for op in graph.ops if (value := _fixed_output(op)) is not None}
    observed = _ranges(graph, ranges, fixed)
    groups = _groups(graph)
    moved = {op.out for op in graph.ops if is_copy(op)}
    problems: list[NdError] = []
    warnings = [
        f"{visible(name)} is 0 for every calibration image; it gets the scale 1/256"
        for name, (low, high) in observed.items()
        if scales.is_dead(low, high) and graph.tensors[name].data is None
    ]
    by_group: dict[str, ScaleZero] = {}
    for root, members in groups.items():
        own = {name: observed[name] for name in members if name in observed}
        pins = {name: fixed[name] for name in members if name in fixed}
        if pins:
            by_group[root], found = _fixed_group(pins, own)
            problems += found
        else:
            by_group[root] = scales.tensor_params(
                min(low for low, _ in own.values()), max(high for _, high in own.values())
            )
            made = {name: own[name] for name in own if name not in moved}
            warnings += _widened(made, by_group[root])
    root_of = {name: root for root, members in groups.items() for name in members}
    frozen = {root_of[name] for name in fixed}
    warnings += _raise_to_least(graph, by_group, root_of, frozen)
    params = {name: by_group[root_of[name]] for name in graph.tensors if name in root_of}
    problems += _misfits(graph, params)
    raise_all(problems)
    return Parameters(params, (*warnings, *_lost_operands(graph, params)))


def range_key(tensor: ir.FloatTensor) -> str:
    """The name under which the range of `tensor` is kept."""
    return tensor.source or tensor.name


def is_copy(op: ir.FloatOp) -> bool:
    """Whether the operation only moves or compares bytes, so that all parameters must be equal."""
    return isinstance(op, ir.Pool | ir.Pad | ir.Reshape | ir.Concat)


def _fixed_output(op: ir.FloatOp) -> ScaleZero | None:
    match op:
        case ir.Softmax() | ir.Unary(kind=ir.UnaryKind.LOGISTIC):
            return scales.PROBABILITY
        case ir.Unary(kind=ir.UnaryKind.TANH):
            return scales.TANH
        case ir.Conv() | ir.FullyConnected() | ir.Binary() if op.act is ir.Fused.CLIP_0_1:
            return scales.UNIT
        case _:
            return None


def _output_bounds(op: ir.FloatOp) -> Range:
    match op:
        case ir.Conv() | ir.FullyConnected() | ir.Binary():
            return BOUNDS[op.act]
        case ir.Unary(kind=ir.UnaryKind.HARD_SWISH):
            return (HARD_SWISH_LEAST, math.inf)
        case ir.Unary(kind=ir.UnaryKind.RELU):
            return BOUNDS[ir.Fused.RELU]
        case ir.Unary(kind=ir.UnaryKind.RELU6):
            return BOUNDS[ir.Fused.RELU6]
        case _:
            return BOUNDS[ir.Fused.NONE]


# ---- ranges --------------------------------------------------------------------------------------


def _check_pinned(graph: ir.FloatGraph, pinned: Mapping[str, tuple[float, int]]) -> None:
    problems = [
        InputError(
            "the input's scale or zero point is none, or there is no such input",
            where=visible(name),
            remedy="take both from the contract",
            code="quant.bad-input",
        )
        for name, (scale, zero_point) in sorted(pinned.items())
        if name not in graph.inputs
        or not scales.FLOAT32_NORMAL <= scale <= scales.MAX_REAL
        or scale != scales.to_float32(scale)
        or not -128 <= zero_point <= 127
    ]
    raise_all(problems)


def _ranges(
    graph: ir.FloatGraph, ranges: Mapping[str, Range], fixed: Mapping[str, ScaleZero]
) -> dict[str, Range]:
    """Range after the fused clamp of each tensor that has one, in the graph's order.

    A tensor with fixed parameters needs none, and what a moving operation gives is within the
    range of what it reads.
    """
    bounds = dict.fromkeys(graph.inputs, BOUNDS[ir.Fused.NONE])
    bounds |= {op.out: _output_bounds(op) for op in graph.ops}
    moved = {op.out for op in graph.ops if is_copy(op)}
    found: dict[str, Range] = {}
    missing: list[NdError] = []
    bad: list[NdError] = []
    for name, bound in bounds.items():
        key = range_key(graph.tensors[name])
        if name in fixed or (name in moved and key not in ranges):
            continue
        if key not in ranges:
            missing.append(_bad_range("no activation range", key))
            continue
        low, high = ranges[key]
        if not (abs(low) <= scales.MAX_REAL and abs(high) <= scales.MAX_REAL):  # NaN included
            what = f"activation range is NaN, infinite or beyond {scales.MAX_REAL:g}"
            bad.append(unsupported(what, key, "train a network that stays finite", "quant.range"))
        elif low > high:
            missing.append(_bad_range("activation range is upside down", key))
        else:
            found[name] = scales.clamp_range(low, high, bound)
    raise_all(missing)
    for op in graph.ops:
        for name in ir.op_inputs(op) if isinstance(op, ir.Binary) else ():
            data = graph.tensors[name].data
            if data is not None:
                found[name] = (float(data.min(initial=0.0)), float(data.max(initial=0.0)))
    raise_all(bad)
    return found


def _bad_range(what: str, key: str) -> InputError:
    return InputError(
        what,
        where=f"ranges.json: {visible(key)}",
        remedy="make the ranges from this ONNX file again",
        code="quant.ranges",
    )


# ---- groups --------------------------------------------------------------------------------------


def _groups(graph: ir.FloatGraph) -> dict[str, list[str]]:
    """Tensors that must have equal parameters, by their first member; in the graph's order."""
    order = list(graph.inputs)
    for op in graph.ops:
        if isinstance(op, ir.Binary):
            order += [n for n in ir.op_inputs(op) if graph.tensors[n].data is not None]
        order.append(op.out)
    order = list(dict.fromkeys(order))
    parent = {name: name for name in order}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for op in graph.ops:
        for name in ir.op_inputs(op) if is_copy(op) else ():
            parent[root(op.out)] = root(name)
    groups: dict[str, list[str]] = {}
    for name in order:
        groups.setdefault(root(name), []).append(name)
    return groups


def _fixed_group(
    pins: Mapping[str, ScaleZero], own: Mapping[str, Range]
) -> tuple[ScaleZero, list[NdError]]:
    """The parameters that pinned members impose, and the members that they do not suit."""
    first, params = next(iter(pins.items()))
    remedy = "do not join them by a concatenation"
    problems: list[NdError] = [
        unsupported(f"scale differs from that of {visible(first)}", name, remedy, "quant.group")
        for name, other in pins.items()
        if other != params
    ]
    least, most = scales.real_range(params)
    problems += [
        unsupported(
            f"exceeds the fixed range of {visible(first)}: {low:.4g} to {high:.4g}",
            name,
            remedy,
            "quant.group",
        )
        for name, (low, high) in own.items()
        if low < least - params.scale or high > most + params.scale
    ]
    return params, problems


def _widened(own: Mapping[str, Range], params: ScaleZero) -> list[str]:
    """A warning for each member that lost more than a bit to the others' ranges."""
    warnings = []
    for name, (low, high) in own.items():
        alone = scales.tensor_params(low, high).scale
        if not scales.is_dead(low, high) and params.scale > WIDENING_TO_WARN * alone:
            ratio = params.scale / alone
            warnings.append(f"{visible(name)} is {ratio:.1f} times coarser: it is joined to others")
    return warnings


# ---- what operations can work with ---------------------------------------------------------------


def _least_scales(op: ir.FloatOp, params: Mapping[str, ScaleZero]) -> Iterator[tuple[str, float]]:
    """(tensor, the least scale that `op` works with), section 2, rules 4, 10, 11, 12."""
    match op:
        case ir.Conv() | ir.FullyConnected():
            yield op.out, _least_clamped(op.act)
        case ir.Binary(kind=ir.BinaryKind.MUL):
            yield op.out, _least_clamped(op.act)
            yield op.out, scales.least_scale_mul(params[op.a].scale, params[op.b].scale)
        case ir.Binary():
            yield op.out, _least_clamped(op.act)
            yield op.out, scales.least_scale_add(params[op.a].scale, params[op.b].scale)
        case ir.Mean() | ir.Unary(kind=ir.UnaryKind.RELU | ir.UnaryKind.RELU6):
            yield op.out, scales.least_scale_rescaled(params[op.x].scale)
        case ir.Unary(kind=ir.UnaryKind.LEAKY_RELU):
            steepest = max(1.0, abs(op.alpha))
            yield op.out, scales.least_scale_rescaled(params[op.x].scale * steepest)
        case ir.Unary(kind=ir.UnaryKind.HARD_SWISH):
            yield op.x, scales.least_scale_hard_swish_input(params[op.out].scale)
            yield op.out, scales.least_scale_hard_swish(params[op.x].scale)
        case ir.Unary():
            yield op.x, scales.LEAST_SCALE_GATE_INPUT
        case ir.Softmax():
            yield op.x, scales.LEAST_SCALE_SOFTMAX_INPUT
        case _:
            return


def _least_clamped(act: ir.Fused) -> float:
    bounded = act in (ir.Fused.RELU6, ir.Fused.CLIP_N1_1)
    return scales.LEAST_SCALE_CLAMPED if bounded else 0.0


def _raise_to_least(
    graph: ir.FloatGraph,
    by_group: dict[str, ScaleZero],
    root_of: Mapping[str, str],
    frozen: set[str],
) -> list[str]:
    """Widen groups, in the graph's order, until every operation can work; `by_group` is changed.

    What does not settle, because a group reaches back over its own producer, is left to `_misfits`.
    """
    widened: dict[str, str] = {}  # tensor -> the operation that asked for it
    for _ in range(SETTLING_PASSES):
        for op in graph.ops:
            touched = [name for name in (*ir.op_inputs(op), op.out) if name in root_of]
            params = {name: by_group[root_of[name]] for name in touched}
            for name, least in _least_scales(op, params):
                root = root_of[name]
                if by_group[root].scale < least and root not in frozen:
                    by_group[root] = scales.at_least(by_group[root], least)
                    widened.setdefault(name, op.name)
    return [
        f"range of {visible(name)} is widened: {visible(op)} needs a larger scale"
        for name, op in widened.items()
    ]


def _misfits(graph: ir.FloatGraph, params: Mapping[str, ScaleZero]) -> list[NdError]:
    """Operations that their parameters make wrong, each with its reason."""
    remedy = "look at the range of this tensor: it is far from those around it"
    problems: list[NdError] = []
    for op in graph.ops:
        for name, least in _least_scales(op, params):
            if params[name].scale < least:
                what = f"scale {params[name].scale:.4g} is too small for {visible(op.name)}"
                problems.append(unsupported(what, name, remedy, "quant.scale"))
        match op:
            case ir.Unary(kind=ir.UnaryKind.LOGISTIC | ir.UnaryKind.TANH):
                if params[op.x].scale >= GATE_INPUT_LIMIT:
                    what = f"range is too wide for {op.kind.value} ({visible(op.name)})"
                    problems.append(unsupported(what, op.x, remedy, "quant.scale"))
            case ir.Unary(kind=ir.UnaryKind.RELU6):
                if scales.real_range(params[op.out])[1] > 6.0 + params[op.out].scale:
                    what = "the clamp at 6 is lost: this tensor is joined to wider ones"
                    fuse = "put the ReLU6 behind a convolution of its own"
                    problems.append(unsupported(what, op.out, fuse, "quant.group"))
            case _:
                pass
    problems += [
        unsupported(f"range goes beyond {scales.MAX_REAL:g}", name, remedy, "quant.scale")
        for name, value in params.items()
        if value.scale > scales.MAX_REAL / 64  # (hi - lo) / 255 of any range that was let in
    ]
    return problems


def _lost_operands(graph: ir.FloatGraph, params: Mapping[str, ScaleZero]) -> list[str]:
    """Rule 10: a sum whose smaller operand loses 12 bits or more."""
    warnings = []
    for op in graph.ops:
        if isinstance(op, ir.Binary) and op.kind is not ir.BinaryKind.MUL:
            small, large = sorted((params[op.a].scale, params[op.b].scale))
            if large >= scales.ADD_LOSES_BITS * small:
                what = f"{large / small:.0f} times smaller than the other"
                warnings.append(f"{visible(op.name)}: one operand is {what} and is mostly lost")
    return warnings
