"""From float ranges, weights and biases to int8 numbers: the rules of quantisation, section 2.

Rule numbers in the docstrings are that section's. Everything is computed in float64 by
correctly rounded operations only (+ - * /), ties round away from zero, and a result is cast once
to float32: the same numbers on every machine. No floats are summed; sums are of integers.

x is a layer's input, out its output, s a scale, z a zero point: real = s * (q - z).
A layer's weights are `rows`: float32 (c_out, n), one row per output channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndtool.quant.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    conv_real,
    fully_connected_real,
    max_abs_offset,
    quantize_multipliers,
    requant_fits,
    round_half_away,
)

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_REAL: Final = 1e18  # magnitude above which products of scales leave float32
DEAD_WIDTH: Final = 1e-30  # a range narrower than this carries nothing (rule 3)
MAX_WEIGHT: Final = 127  # -128 is never written (1.1)
MAX_BIAS: Final = 2**30  # leaves as much for the products (rule 6)
MIN_MULTIPLIER: Final = 2.0**-24  # rule 4
MAX_MULTIPLIER: Final = 2.0**15  # rule 4
ADD_LOSES_BITS: Final = 2.0**12  # ratio of two operands' scales to warn at (rule 10)
FLOAT32_NORMAL: Final = 2.0**-126  # the smallest float32 with all its bits
RAISE_STEP: Final = 17 / 16  # rule 7: small enough to find a place inside a power of two


class ScaleZero(NamedTuple):
    """Parameters of an int8 tensor: real = scale * (q - zero_point); scale is a float32 value."""

    scale: float
    zero_point: int


def to_float32(value: float) -> float:
    """`value` rounded once to float32."""
    return float(np.float32(value))


def float32_above(value: float) -> float:
    """A float32 above `value >= 0`, at most two steps away."""
    return float(np.nextafter(np.float32(value), np.float32(np.inf)))


PROBABILITY: Final = ScaleZero(1 / 256, -128)  # what SOFTMAX and LOGISTIC must give (1.1)
TANH: Final = ScaleZero(1 / 128, 0)  # what TANH must give (1.1)
UNIT: Final = ScaleZero(to_float32(1 / 255), -128)  # [0, 1]: saturation is the clamp (rule 9)
DEAD: Final = ScaleZero(1 / 256, -128)  # rule 3


# ---- activations ---------------------------------------------------------------------------------


def is_dead(low: float, high: float) -> bool:
    """Rule 3: the tensor never held anything but zero; such a scale would be subnormal or 0."""
    return max(high, 0.0) - min(low, 0.0) < DEAD_WIDTH


def tensor_params(low: float, high: float) -> ScaleZero:
    """Rules 1 and 3: zero is exactly representable, each end moves by at most half a step.

    `low <= high`, both finite and at most `MAX_REAL` in magnitude.
    """
    if is_dead(low, high):
        return DEAD
    low, high = min(low, 0.0), max(high, 0.0)
    scale = to_float32((high - low) / 255.0)
    zero_point = int(round_half_away(INT8_MIN - low / scale))
    return ScaleZero(scale, min(max(zero_point, INT8_MIN), INT8_MAX))


def real_range(params: ScaleZero) -> tuple[float, float]:
    """What -128 and 127 stand for."""
    low = params.scale * (INT8_MIN - params.zero_point)
    return low, params.scale * (INT8_MAX - params.zero_point)


def clamp_range(low: float, high: float, bounds: tuple[float, float]) -> tuple[float, float]:
    """Rule 9: the range of a tensor after a clamp to `bounds`, which hold zero.

    With the range at the bounds, int8 saturation is exactly that clamp.
    """
    return max(low, bounds[0]), min(high, bounds[1])


def at_least(params: ScaleZero, scale: float) -> ScaleZero:
    """The same zero point and a wider range where `scale` asks for one."""
    return ScaleZero(max(params.scale, scale), params.zero_point)


def quantize_values(values: F32, params: ScaleZero) -> I8:
    """int8 of an activation or of a constant operand, saturated."""
    steps = round_half_away(values.astype(np.float64) / params.scale) + params.zero_point
    quantized: I8 = np.clip(steps, INT8_MIN, INT8_MAX).astype(np.int8)
    return quantized


# ---- the least output scale an operation can work with ------------------------------------------


def least_scale_rescaled(scale: float) -> float:
    """Rule 4 for MEAN, RELU and LEAKY_RELU, whose multiplier is s / s_out."""
    return float32_above(scale / MAX_MULTIPLIER)


def least_scale_mul(a: float, b: float) -> float:
    """Rule 4 for MUL: (127 + 128)^2 products shifted left by 15 still fit 31 bits."""
    return float32_above(a * b / MAX_MULTIPLIER)


def least_scale_add(a: float, b: float) -> float:
    """Rule 10: TFLM aborts unless s_out > 2 max(s_a, s_b) / 2^20 (mk/add_common.cc)."""
    return float32_above(max(a, b) / 2.0**19)


def least_scale_hard_swish(scale: float) -> float:
    """Rule 11: HARD_SWISH needs s_out > s_in / 128 (hard_swish_common.cc refuses otherwise)."""
    return float32_above(scale / 128.0)


def least_scale_hard_swish_input(out_scale: float) -> float:
    """HARD_SWISH shifts 16-bit numbers right by 15 at most (1.5)."""
    return float32_above(max(out_scale * 2.0**-9, 2.0**-22))


LEAST_SCALE_SOFTMAX_INPUT: Final = float32_above(2.0**-26)  # 1.2: its multiplier is above 1
LEAST_SCALE_GATE_INPUT: Final = 2.0**-57  # LOGISTIC and TANH: under 2^-58 the shift is undefined
LEAST_SCALE_CLAMPED: Final = 2.0**-28  # RELU6 and RELU_N1_TO_1: 6 / s must fit 32 bits (1.4)


# ---- weights and biases --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class LayerNumbers:
    """What a convolution or fully connected layer holds in the file.

    `weight` (c_out, n) in [-127, 127]; `bias` (c_out,), at most 2^30 in magnitude; the scales are
    one per channel, or one. `coarsened`: channels with weights that rule 6 made coarser than their
    own size asks for; `raised`: channels with which rule 7 did so; `overflowing`: channels that no
    scale saves: these numbers must not be used.
    """

    weight: I8
    bias: I32
    weight_scales: tuple[float, ...]
    bias_scales: tuple[float, ...]
    coarsened: tuple[int, ...]
    raised: tuple[int, ...]
    overflowing: tuple[int, ...]


def weight_scales(rows: F32) -> F32:
    """Rule 5: s_w[c] = max|w| / 127; 0 for a dead channel."""
    largest = np.max(np.abs(rows.astype(np.float64)), axis=1, initial=0.0)
    scales: F32 = (largest / MAX_WEIGHT).astype(np.float32)
    return scales


def least_weight_scales(bias: F32, x_scale: float, out_scale: float) -> F64:
    """Rule 6: the bias stays under 2^30 and the multiplier above 2^-24 (rule 4).

    Also keeps s_w and s_x * s_w normal float32 values: they are written to the file.
    """
    for_bias = np.abs(bias.astype(np.float64)) / (MAX_BIAS * x_scale)
    for_multiplier = MIN_MULTIPLIER * out_scale / x_scale
    for_file = FLOAT32_NORMAL / min(x_scale, 1.0)
    return np.maximum(for_bias, max(for_multiplier, for_file))


def raise_scales(scales: F32, least: F64) -> F32:
    """Rule 6: `scales`, or a float32 above `least` where that is larger."""
    above = np.nextafter(least.astype(np.float32), np.float32(np.inf))
    raised: F32 = np.where(scales.astype(np.float64) < least, above, scales)
    return raised


def quantize_weights(rows: F32, scales: F32) -> I8:
    """Rule 5: a float64 division (a float32 reciprocal gives other integers), half away."""
    steps = round_half_away(rows.astype(np.float64) / scales.astype(np.float64)[:, None])
    quantized: I8 = np.clip(steps, -MAX_WEIGHT, MAX_WEIGHT).astype(np.int8)
    return quantized


def quantize_bias(bias: F32, steps: F64) -> I32:
    """int32 of a bias whose unit is `steps` = s_x * s_w; rule 6 keeps it under 2^30."""
    quantized: I32 = round_half_away(bias.astype(np.float64) / steps).astype(np.int32)
    return quantized


def accumulator_bounds(weight: I8, bias: I32, zero_point: int) -> I64:
    """Rules 7 and 8: the largest magnitude any partial sum of a channel can have, (c_out,)."""
    total = np.sum(np.abs(weight.astype(np.int64)), axis=1)
    bounds: I64 = total * max_abs_offset(zero_point) + np.abs(bias.astype(np.int64))
    return bounds


def quantize_per_channel(rows: F32, bias: F32, *, x: ScaleZero, out: ScaleZero) -> LayerNumbers:
    """Rules 4 to 8 with one weight scale per output channel."""
    layer = _Layer(rows, bias, x, out, one_scale=False)
    own = weight_scales(rows)
    scales = raise_scales(own, least_weight_scales(bias, x.scale, out.scale))
    coarsened = _indices((scales > own) & (own > 0))
    raised, overflowing = [], []
    for channel in layer.overflowing(scales):
        one = slice(channel, channel + 1)
        fitted = _Layer(rows[one], bias[one], x, out, one_scale=False).fit(scales[channel])
        if fitted is None:
            overflowing.append(channel)
        else:
            scales[channel] = fitted
            raised.append(channel)
    return layer.numbers(scales, coarsened, tuple(raised), tuple(overflowing))


def quantize_per_tensor(rows: F32, bias: F32, *, x: ScaleZero, out: ScaleZero) -> LayerNumbers:
    """Rules 4 to 8 with one weight scale for all channels: the largest that any of them needs."""
    layer = _Layer(rows, bias, x, out, one_scale=True)
    own = weight_scales(rows).max()
    needed = raise_scales(weight_scales(rows), least_weight_scales(bias, x.scale, out.scale))
    scales = np.full(len(rows), needed.max(), np.float32)
    coarsened = _indices(needed == needed.max()) if needed.max() > own > 0 else ()
    raised: tuple[int, ...] = ()
    overflowing = layer.overflowing(scales)
    if overflowing:
        fitted = layer.fit(needed.max())
        if fitted is not None:
            scales[:] = fitted
            raised, overflowing = overflowing, ()
    return layer.numbers(scales, coarsened, raised, overflowing)


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """A layer before its weight scales are known; `one_scale`: the kernel reads one only."""

    rows: F32
    bias: F32
    x: ScaleZero
    out: ScaleZero
    one_scale: bool

    def steps(self, scales: F32) -> F64:
        """s_x * s_w (c_out,): the one-scale kernel rounds the product to float32 (1.2)."""
        products: F64 = scales.astype(np.float64) * self.x.scale
        return products.astype(np.float32).astype(np.float64) if self.one_scale else products

    def reals(self, scales: F32) -> F64:
        """Real multipliers (c_out,)."""
        if self.one_scale:
            real = fully_connected_real(self.x.scale, float(scales[0]), self.out.scale)
            return np.full(len(scales), real)
        return conv_real(self.x.scale, scales.tolist(), self.out.scale)

    def overflowing(self, scales: F32) -> tuple[int, ...]:
        """Rules 7 and 8: channels whose accumulator can leave int32, left shift included."""
        weight = quantize_weights(self.rows, scales)
        bias = quantize_bias(self.bias, self.steps(scales))
        bounds = accumulator_bounds(weight, bias, self.x.zero_point)
        return _indices(~requant_fits(bounds, quantize_multipliers(self.reals(scales))))

    def fit(self, scale: np.float32) -> np.float32 | None:
        """Rule 7: a scale near the least one above `scale` at which no channel overflows.

        A larger scale makes the sums smaller. Once the multiplier is above 1 it makes the left
        shift larger as well, and only the place inside a power of two helps: a channel that still
        overflows when its weights have no bits left reaches some 2^30 output steps, and no scale
        is right for it.
        """
        largest = np.abs(self.rows).max(initial=0.0)
        while scale < largest:
            scale = np.float32(float(scale) * RAISE_STEP)
            if not self.overflowing(np.full(len(self.rows), scale, np.float32)):
                return scale
        return None

    def numbers(
        self,
        scales: F32,
        coarsened: tuple[int, ...],
        raised: tuple[int, ...],
        overflowing: tuple[int, ...],
    ) -> LayerNumbers:
        """Everything the file holds, with these scales."""
        steps = self.steps(scales)
        written = slice(1) if self.one_scale else slice(None)
        return LayerNumbers(
            weight=quantize_weights(self.rows, scales),
            bias=quantize_bias(self.bias, steps),
            weight_scales=tuple(scales[written].tolist()),
            bias_scales=tuple(steps[written].astype(np.float32).tolist()),
            coarsened=coarsened,
            raised=raised,
            overflowing=overflowing,
        )


def _indices(mask: Bools) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(mask))
