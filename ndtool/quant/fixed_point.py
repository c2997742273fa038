"""Fixed-point arithmetic of TensorFlow Lite Micro's int8 kernels, double rounding, all exact.

The only place where a scale becomes a multiplier (quantisation, 1.2 to 1.4). Everything is
vectorised over int64, in which every intermediate value of the int32 kernels fits.

Scales are float32 values held in Python floats. Their products and quotients are formed in double,
left to right, as the machine code of the pinned tflite_micro does for every operation (sources
that round a product to float32 first give other bits in rare ties); the bounds of activations are
divided in float32. A shift is TFLM's: left is positive, value = multiplier * 2^(shift-31).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

INT8_MIN: Final = -128
INT8_MAX: Final = 127
INT16_MAX: Final = 2**15 - 1
INT32_MAX: Final = 2**31 - 1
MAX_SHIFT: Final = 30  # the largest left shift of an int32 that is not 0
ADD_LEFT_SHIFT: Final = 20  # ADD and SUB lift their operands by 2^20 (mk/add_common.cc)
SOFTMAX_INTEGER_BITS: Final = 5  # logits' differences in Q5.26 (kernels/internal/softmax.h)
GATE_INTEGER_BITS: Final = 4  # LOGISTIC and TANH in Q4.27 (mk/logistic_common.cc)


class Requant(NamedTuple):
    """real ~ multiplier * 2^(shift - 31), 0-d or one per output channel.

    |multiplier| is in [2^30, 2^31), or 0 for a factor too small to be held.
    """

    multiplier: I64
    shift: I64


class ScaleZero(NamedTuple):
    """Parameters of a per-tensor quantised tensor: real = scale * (q - zero_point)."""

    scale: float
    zero_point: int


def round_half_away(values: F64 | float) -> F64:
    """C's round(): ties away from zero, exact for every finite float64."""
    array = np.asarray(values, np.float64)
    whole = np.trunc(array)
    # array - whole is exact; adding .5 before cutting would round 0.49999999999999994 up
    rounded: F64 = whole + np.where(np.abs(array - whole) >= 0.5, np.copysign(1.0, array), 0.0)
    return rounded


def quantize_multiplier(real: float) -> tuple[int, int]:
    """Multiplier and shift of one finite factor: `quantize_multipliers` in Python integers."""
    multiplier, shift = quantize_multipliers(np.asarray(real, np.float64))
    return int(multiplier), int(shift)


def quantize_multipliers(real: F64) -> Requant:
    """Multiplier and shift of each finite factor; under 2^-32 both are 0 (flushed).

    `QuantizeMultiplier`, kernels/internal/quantization_util.cc.
    """
    fraction, shift = np.frexp(real)
    multiplier = round_half_away(fraction * 2.0**31).astype(np.int64)
    carried = np.abs(multiplier) == 2**31
    multiplier = np.where(carried, multiplier // 2, multiplier)
    shift = shift.astype(np.int64) + carried
    flushed = (shift < -31) | (multiplier == 0)
    return Requant(np.where(flushed, 0, multiplier), np.where(flushed, 0, shift))


def srdhm(a: I64 | int, b: I64 | int) -> I64:
    """High half of the doubled product: (a*b + 2^30) >> 31, ties towards +infinity.

    `SaturatingRoundingDoublingHighMul`, gemmlowp fixedpoint.h. Its sign-dependent nudge and
    truncating division give this for every product; it saturates for a = b = -2^31 only.
    """
    wide_a, wide_b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    high: I64 = (wide_a * wide_b + 2**30) >> 31
    return np.minimum(high, INT32_MAX)  # only a = b = -2^31 reaches 2^31


def rdpot(x: I64 | int, right: I64 | int) -> I64:
    """x / 2^right for right >= 0, ties away from zero: `RoundingDivideByPOT`, gemmlowp."""
    wide, n = np.asarray(x, np.int64), np.asarray(right, np.int64)
    mask = np.left_shift(np.int64(1), n) - 1
    quotient: I64 = (wide >> n) + ((wide & mask) > (mask >> 1) + (wide < 0))
    return quotient


def mbqm(x: I64 | int, requant: Requant) -> I64:
    """x * real in two rounding steps.

    `MultiplyByQuantizedMultiplier` without TFLITE_SINGLE_ROUNDING, kernels/internal/common.cc.
    The caller has proved by `requant_fits` that x * 2^shift stays in int32.
    """
    lifted = np.left_shift(np.asarray(x, np.int64), np.maximum(requant.shift, 0))
    return rdpot(srdhm(lifted, requant.multiplier), np.maximum(-requant.shift, 0))


def requant_fits(bound: I64 | int, requant: Requant) -> Bools:
    """Whether no |x| <= bound leaves int32 in `mbqm`, nor when a zero point is added after it.

    Overflow there is undefined behaviour in C (quantisation, 1.3 and section 2, rule 7). No
    kernel of ours takes a left shift above `MAX_SHIFT`.
    """
    capped = np.minimum(np.asarray(bound, np.int64), 2**31)
    lifted = np.left_shift(capped, np.clip(requant.shift, 0, MAX_SHIFT))
    scaled = srdhm(np.minimum(lifted, INT32_MAX), np.abs(requant.multiplier))
    fits: Bools = (requant.shift <= MAX_SHIFT) & (lifted <= INT32_MAX) & (scaled <= INT32_MAX - 128)
    return fits


def sat_shift_left(x: I64, left: int) -> I64:
    """x * 2^left limited to int32: gemmlowp's `SaturatingRoundingMultiplyByPOT`, positive part."""
    limited: I64 = np.clip(np.left_shift(x, left), -(2**31), INT32_MAX)
    return limited


def max_abs_offset(zero_point: int) -> int:
    """Largest |q - zero_point| of an int8 q."""
    return max(INT8_MAX - zero_point, zero_point - INT8_MIN)


def requant_of(real: float) -> Requant:
    """The 0-d `Requant` of one finite factor."""
    return quantize_multipliers(np.asarray(real, np.float64))


def activation_range(
    low: float | None, high: float | None, *, scale: float, zero_point: int
) -> tuple[int, int]:
    """int8 limits of a fused activation with real bounds; None is no bound.

    `CalculateActivationRangeQuantizedImpl`, kernels/kernel_util.cc: float32 division.
    """
    q_low = INT8_MIN if low is None else max(INT8_MIN, quantize_bound(low, scale, zero_point))
    q_high = INT8_MAX if high is None else min(INT8_MAX, quantize_bound(high, scale, zero_point))
    return q_low, q_high


def quantize_bound(real: float, scale: float, zero_point: int) -> int:
    """`real` as q, not limited to int8; TFLM's prepare fails where it leaves int32."""
    with np.errstate(over="ignore"):
        steps = float(np.float32(real) / np.float32(scale))
    if abs(steps) > INT32_MAX:
        return int(math.copysign(2**32, steps))
    return zero_point + int(round_half_away(steps))


# ------------------------------------------------ scales to real multipliers, one row an op (1.2)


def conv_real(s_in: float, s_weight: Sequence[float], s_out: float) -> F64:
    """CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED: one factor for each weight scale.

    `PopulateConvolutionQuantizationParams`, kernels/kernel_util.cc.
    """
    real: F64 = np.float64(s_in) * np.asarray(s_weight, np.float64) / np.float64(s_out)
    return real


def fully_connected_real(s_in: float, s_weight: float, s_out: float) -> float:
    """FULLY_CONNECTED with one weight scale: `GetQuantizedConvolutionMultipler`, kernel_util.cc."""
    return s_in * s_weight / s_out


def mul_real(s_a: float, s_b: float, s_out: float) -> float:
    """MUL: mk/mul_common.cc."""
    return s_a * s_b / s_out


def rescale_real(s_in: float, s_out: float) -> float:
    """QUANTIZE int8 to int8, RELU, LEAKY_RELU's positive side, and MEAN before its division."""
    return s_in / s_out


def leaky_relu_real(s_in: float, alpha: float, s_out: float) -> float:
    """LEAKY_RELU's negative side: mk/leaky_relu_common.cc."""
    return s_in * alpha / s_out


def add_reals(s_a: float, s_b: float, s_out: float) -> tuple[float, float, float]:
    """ADD and SUB: factors of a, b and the result; all must be < 1. mk/add_common.cc."""
    twice = 2.0 * max(s_a, s_b)
    return s_a / twice, s_b / twice, twice / (2.0**ADD_LEFT_SHIFT * s_out)


def hard_swish_reals(s_in: float, s_out: float) -> tuple[float, float]:
    """HARD_SWISH: factors of the output and of the inner relu. mk/hard_swish_common.cc."""
    high_resolution = s_in / 128.0
    return high_resolution / s_out, high_resolution / (3.0 / 32768.0)


def gate_real(s_in: float) -> float:
    """LOGISTIC and TANH: s_in in units of Q4.27. mk/logistic_common.cc, mk/tanh.cc."""
    return s_in * 2.0 ** (31 - GATE_INTEGER_BITS)


def softmax_real(s_in: float, beta: float) -> float:
    """SOFTMAX: beta * s_in in units of Q5.26, limited to int32; must be > 1.

    `PreprocessSoftmaxScaling`, kernels/internal/quantization_util.cc.
    """
    return min(beta * s_in * 2.0 ** (31 - SOFTMAX_INTEGER_BITS), 2.0**31 - 1.0)


def mean_requant(s_in: float, s_out: float, count: int) -> Requant:
    """MEAN of `count` elements: 1/count goes into the multiplier, truncated.

    `QuantizedMeanOrSum`, kernels/internal/reference/reduce.h.
    """
    multiplier, shift = quantize_multiplier(rescale_real(s_in, s_out))
    lift = min(count.bit_length() - 1, 32, 31 + shift)
    return Requant(np.asarray((multiplier << lift) // count), np.asarray(shift - lift))


def downscale_16(multiplier: I64) -> I64:
    """int32 multiplier as int16: `DownScaleInt32ToInt16Multiplier`, hard_swish.h."""
    rounded: I64 = np.where(multiplier >= 0x7FFF0000, INT16_MAX, (multiplier + 2**15) >> 16)
    return rounded


def input_radius(integer_bits: int, shift: int) -> int:
    """Largest input difference that a fixed-point function still tells from infinity.

    `CalculateInputRadius`, kernels/internal/quantization_util.cc.
    """
    return math.floor(math.ldexp((2**integer_bits - 1) * 2.0 ** (31 - integer_bits), -shift))
