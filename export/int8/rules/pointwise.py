"""Rules of the element-wise operations and of SOFTMAX."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from ndtool.export.int8 import derive
from ndtool.export.int8.ir import Binary, BinaryKind, Graph, Softmax, Tensor, Unary, UnaryKind
from ndtool.export.int8.rules.row import (
    ACTIVATION,
    EQUAL_PARAMS,
    FLOAT32,
    OVERFLOW,
    SIGNED_UNIT_PARAMS,
    UNIT_PARAMS,
    Faults,
    Role,
    Row,
    Shape,
    activation_faults,
    equal_faults,
    fixed_faults,
    float32_faults,
    requant_faults,
)
from ndtool.quant import fixed_point as fp

MAX_SOFTMAX: Final = 4095  # classes whose exponentials fit the 12 integer bits of their sum
MAX_HARD_SWISH_RIGHT: Final = 15  # gemmlowp's int16 mask has no more bits
MIN_GATE_REAL: Final = 2.0**-31  # LOGISTIC and TANH do not flush; a longer shift is undefined
MAX_GATE_REAL: Final = 2.0**30  # from there on their input radius is 0: even 0 would saturate


def _binary_attributes(graph: Graph, op: Binary) -> Faults:
    a, b = graph.tensor(op.a), graph.tensor(op.b)
    if a.data is not None and b.data is not None:
        yield "op.operand", "two constants"
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        yield "op.shape", f"shapes {list(a.shape)} and {list(b.shape)} do not broadcast"


def _binary_shape(graph: Graph, op: Binary) -> Shape:
    return np.broadcast_shapes(graph.tensor(op.a).shape, graph.tensor(op.b).shape)


def _binary_arithmetic(graph: Graph, op: Binary) -> Faults:
    a, b, out = (graph.tensor(t) for t in (op.a, op.b, op.out))
    yield from activation_faults(op.act, out)
    reals = derive.binary_reals(graph, op)
    if op.kind is BinaryKind.MUL:
        bound = fp.max_abs_offset(a.zero_point) * fp.max_abs_offset(b.zero_point)
        yield from requant_faults(reals[0], bound)
    # QuantizeMultiplierSmallerThanOneExp aborts the process unless 0 < real < 1 and shift <= 0
    elif not all(0 < r < 1 and fp.quantize_multiplier(r)[1] <= 0 for r in reals):
        text = f"output scale {out.scale:g} too small for inputs of {a.scale:g}, {b.scale:g}"
        yield "op.add-ratio", text


def _same_shape(graph: Graph, op: Unary | Softmax) -> Shape:
    return graph.tensor(op.x).shape


def _unary_arithmetic(graph: Graph, op: Unary) -> Faults:
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    reach = fp.max_abs_offset(x.zero_point)
    match op.kind:
        case UnaryKind.QUANTIZE | UnaryKind.RELU:
            yield from requant_faults(fp.rescale_real(x.scale, out.scale), reach)
        case UnaryKind.LEAKY_RELU:
            yield from requant_faults(fp.rescale_real(x.scale, out.scale), reach)
            yield from requant_faults(fp.leaky_relu_real(x.scale, op.alpha, out.scale), reach)
        case UnaryKind.RELU6:
            yield from equal_faults(graph, (op.out,), op.x)
            if fp.quantize_bound(6.0, x.scale, x.zero_point) > fp.INT8_MAX:
                yield "op.relu6", f"6 is outside int8 at scale {x.scale:g}"
        case UnaryKind.LOGISTIC:
            yield from _gate_faults(x, out, UNIT_PARAMS)
        case UnaryKind.TANH:
            yield from _gate_faults(x, out, SIGNED_UNIT_PARAMS)
        case UnaryKind.HARD_SWISH:
            yield from _hard_swish_faults(x, out)


def _gate_faults(x: Tensor, out: Tensor, wanted: fp.ScaleZero) -> Faults:
    yield from fixed_faults(out, wanted)
    if not MIN_GATE_REAL <= fp.gate_real(x.scale) < MAX_GATE_REAL:
        yield "op.input-scale", f"input scale {x.scale:g} is out of reach"


def _hard_swish_faults(x: Tensor, out: Tensor) -> Faults:
    reals = fp.hard_swish_reals(x.scale, out.scale)
    (_, of_output), (_, of_relu) = map(fp.quantize_multiplier, reals)
    if of_output > 0:
        text = f"output scale {out.scale:g} under 1/128 of the input's: TFLM refuses"
        yield "op.hard-swish", text
    elif of_output < -MAX_HARD_SWISH_RIGHT or not -MAX_HARD_SWISH_RIGHT <= of_relu <= fp.MAX_SHIFT:
        yield "op.hard-swish", f"scales {x.scale:g}, {out.scale:g} are out of 16-bit reach"


def _softmax_arithmetic(graph: Graph, op: Softmax) -> Faults:
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    yield from fixed_faults(out, UNIT_PARAMS)
    if x.shape[-1] > MAX_SOFTMAX:
        yield "op.softmax", f"{x.shape[-1]} classes, at most {MAX_SOFTMAX}"
    # PreprocessSoftmaxScaling aborts the process under 1
    if not (math.isfinite(op.beta) and fp.softmax_real(x.scale, op.beta) > 1):
        yield "op.softmax", f"input scale {x.scale:g} times beta {op.beta:g} is under 2^-26"


BINARY: Final[Row[Binary]] = Row(
    rules={
        "op.operand": "not both operands are constants",
        "op.shape": "the shapes of a and b broadcast, and the output has the shape they give",
        "op.activation": ACTIVATION,
        "op.overflow": f"MUL: {OVERFLOW}",
        "op.add-ratio": "ADD, SUB: the output's scale is above 2^-19 of the larger input scale",
    },
    operands=lambda op: ((op.a, Role.VALUE), (op.b, Role.VALUE)),
    attributes=_binary_attributes,
    shape=_binary_shape,
    arithmetic=_binary_arithmetic,
)
UNARY: Final[Row[Unary]] = Row(
    rules={
        "op.attribute": f"alpha {FLOAT32}",
        "op.overflow": f"QUANTIZE, RELU, LEAKY_RELU: {OVERFLOW}",
        "op.equal-params": f"RELU6: {EQUAL_PARAMS}",
        "op.relu6": "RELU6: on the scale, 6 is not above 127",
        "op.fixed-output": "LOGISTIC: the output has scale 1/256 and zero point -128; "
        "TANH: scale 1/128 and zero point 0",
        "op.input-scale": "LOGISTIC, TANH: the input's scale is at least 2^-58 and below 8",
        "op.hard-swish": "HARD_SWISH: the output's scale is not under 1/128 of the input's, and "
        f"no factor needs a shift of more than {MAX_HARD_SWISH_RIGHT} to the right or "
        f"{fp.MAX_SHIFT} to the left",
    },
    operands=lambda op: ((op.x, Role.ACTIVATION),),
    attributes=lambda graph, op: float32_faults("alpha", op.alpha),
    shape=_same_shape,
    arithmetic=_unary_arithmetic,
)
SOFTMAX: Final[Row[Softmax]] = Row(
    rules={
        "op.attribute": f"beta {FLOAT32}",
        "op.fixed-output": "the output has scale 1/256 and zero point -128",
        "op.softmax": f"at most {MAX_SOFTMAX:,} classes; beta times the input's scale is above "
        "2^-26",
    },
    operands=lambda op: ((op.x, Role.ACTIVATION),),
    attributes=lambda graph, op: float32_faults("beta", op.beta),
    shape=_same_shape,
    arithmetic=_softmax_arithmetic,
)
