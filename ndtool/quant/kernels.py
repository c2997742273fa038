"""The integer-exact forward of every int8 operation: the same bytes as TensorFlow Lite Micro.

Plain functions over batched NHWC int8 arrays and integers: multipliers, shifts, zero points and
int8 limits, as a C kernel gets them; `fixed_point` makes these from scales. `x_` in a comment is
x minus its zero point. Each docstring names the TFLM source, below
tensorflow/lite/kernels/internal/reference (formulas: quantisation, 1.5).

Nothing here checks for int32 overflow: `export.int8.spec` has proved that there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ndtool.quant.fixed_point import (
    ADD_LEFT_SHIFT,
    F64,
    GATE_INTEGER_BITS,
    I64,
    INT8_MAX,
    INT8_MIN,
    INT16_MAX,
    INT32_MAX,
    SOFTMAX_INTEGER_BITS,
    Requant,
    downscale_16,
    input_radius,
    mbqm,
    rdpot,
    round_half_away,
    sat_shift_left,
    srdhm,
)

I8 = NDArray[np.int8]
I32 = NDArray[np.int32]
Limits = tuple[int, int]  # least and largest q of the fused activation
NO_LIMITS: Limits = (INT8_MIN, INT8_MAX)


class Window(NamedTuple):
    """How a kernel slides over one image axis.

    `same` is TFLite's SAME padding; else `pads` pixels are added before and after, none for VALID.
    """

    kernel: int
    stride: int
    dilation: int
    same: bool
    pads: tuple[int, int] = (0, 0)

    def output(self, size: int) -> int:
        """Number of positions on an axis of `size` pixels; not positive where none fits."""
        if self.same:
            return -(-size // self.stride)
        return (size + sum(self.pads) - self.span) // self.stride + 1

    def padding(self, size: int) -> tuple[int, int]:
        """Pixels added before and after; SAME's odd one goes to the end."""
        if not self.same:
            return self.pads
        total = max((self.output(size) - 1) * self.stride + self.span - size, 0)
        return total // 2, total - total // 2

    @property
    def span(self) -> int:
        """Pixels from the first to the last tap, both included."""
        return (self.kernel - 1) * self.dilation + 1

    def taps(self, size: int) -> Iterator[tuple[int, slice, slice]]:
        """(tap, positions where it lies inside the image, the pixels it reads there)."""
        before, _ = self.padding(size)
        positions = self.output(size)
        for tap in range(self.kernel):
            start = tap * self.dilation - before  # pixel read at position 0
            first = max(0, -(start // self.stride))  # least o with start + o*stride >= 0
            last = min(positions - 1, (size - 1 - start) // self.stride)
            if first <= last:
                low, high = start + first * self.stride, start + last * self.stride
                yield tap, slice(first, last + 1), slice(low, high + 1, self.stride)


def clamp8(values: I64, limits: Limits = NO_LIMITS) -> I8:
    """`values` limited and cast."""
    clamped: I8 = np.clip(values, limits[0], limits[1]).astype(np.int8)
    return clamped


def _finish(acc: I64, bias: I32 | None, requant: Requant, zero_point: int, limits: Limits) -> I8:
    total = acc if bias is None else acc + bias
    return clamp8(mbqm(total, requant) + zero_point, limits)


# ----------------------------------------------------------- convolutions and fully connected


def conv2d(
    x: I8,
    weight: I8,
    bias: I32 | None,
    *,
    rows: Window,
    columns: Window,
    x_zero: int,
    requant: Requant,
    out_zero: int,
    limits: Limits,
) -> I8:
    """CONV_2D: x (n, h, w, c_in), weight (c_out, kh, kw, c_in) -> (n, oh, ow, c_out).

    integer_ops/conv.h. The sums run in float64, in which they are exact (below 2^53).
    """
    c_out, kh, kw, c_in = weight.shape
    n, height, width, _ = x.shape
    shape = (n, rows.output(height), columns.output(width))
    x_: F64 = x.astype(np.float64) - x_zero
    # outside the image x_ is 0: the patches start as zeros
    patches = np.zeros((*shape, kh, kw, c_in))
    for i, at_y, from_y in rows.taps(height):
        for j, at_x, from_x in columns.taps(width):
            patches[:, at_y, at_x, i, j] = x_[:, from_y, from_x]
    columns_ = weight.reshape(c_out, -1).astype(np.float64).T
    acc = (patches.reshape(-1, kh * kw * c_in) @ columns_).astype(np.int64)
    return _finish(acc.reshape(*shape, c_out), bias, requant, out_zero, limits)


def depthwise_conv2d(
    x: I8,
    weight: I8,
    bias: I32 | None,
    *,
    rows: Window,
    columns: Window,
    x_zero: int,
    requant: Requant,
    out_zero: int,
    limits: Limits,
) -> I8:
    """DEPTHWISE_CONV_2D: weight (1, kh, kw, c_in * m); output channel = c * m + k.

    integer_ops/depthwise_conv.h.
    """
    n, height, width, c_in = x.shape
    c_out = weight.shape[3]
    acc = np.zeros((n, rows.output(height), columns.output(width), c_out), np.int32)
    x_ = np.repeat(x.astype(np.int32) - np.int32(x_zero), c_out // c_in, axis=3)
    taps = weight[0].astype(np.int32)
    for i, at_y, from_y in rows.taps(height):
        for j, at_x, from_x in columns.taps(width):
            acc[:, at_y, at_x] += x_[:, from_y, from_x] * taps[i, j]
    return _finish(acc.astype(np.int64), bias, requant, out_zero, limits)


def fully_connected(
    x: I8,
    weight: I8,
    bias: I32 | None,
    *,
    x_zero: int,
    requant: Requant,
    out_zero: int,
    limits: Limits,
) -> I8:
    """FULLY_CONNECTED: x (..., c_in), weight (c_out, c_in) -> (..., c_out).

    integer_ops/fully_connected.h; exact float64 sums as in `conv2d`.
    """
    x_: F64 = x.astype(np.float64) - x_zero
    acc = (x_ @ weight.astype(np.float64).T).astype(np.int64)
    return _finish(acc, bias, requant, out_zero, limits)


# ------------------------------------------------------------------- two tensors, broadcasting


def add(
    a: I8,
    b: I8,
    *,
    a_zero: int,
    b_zero: int,
    requants: tuple[Requant, Requant, Requant],
    out_zero: int,
    limits: Limits,
    negate_b: bool = False,
) -> I8:
    """ADD, or SUB with `negate_b`; `requants` of a, b and their sum, all with shift <= 0.

    integer_ops/add.h.
    """
    of_a, of_b, of_sum = requants
    lifted_a = (a.astype(np.int64) - a_zero) << ADD_LEFT_SHIFT
    lifted_b = (b.astype(np.int64) - b_zero) << ADD_LEFT_SHIFT
    scaled_a, scaled_b = mbqm(lifted_a, of_a), mbqm(lifted_b, of_b)
    total = scaled_a - scaled_b if negate_b else scaled_a + scaled_b
    return clamp8(mbqm(total, of_sum) + out_zero, limits)


def mul(
    a: I8, b: I8, *, a_zero: int, b_zero: int, requant: Requant, out_zero: int, limits: Limits
) -> I8:
    """MUL: integer_ops/mul.h."""
    product = (a.astype(np.int64) - a_zero) * (b.astype(np.int64) - b_zero)
    return clamp8(mbqm(product, requant) + out_zero, limits)


# ----------------------------------------------------------------------- reductions and pools


def mean(
    x: I8, axes: tuple[int, ...], *, keep_dims: bool, x_zero: int, requant: Requant, out_zero: int
) -> I8:
    """MEAN over `axes`; `requant` is `fixed_point.mean_requant`'s.

    `QuantizedMeanOrSum`, reduce.h.
    """
    total = x.sum(axis=axes, dtype=np.int64, keepdims=keep_dims)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return clamp8(mbqm(total - x_zero * count, requant) + out_zero)


def average_pool2d(x: I8, *, rows: Window, columns: Window, limits: Limits) -> I8:
    """AVERAGE_POOL_2D: pixels outside the image are not counted; ties away from q = 0.

    integer_ops/pooling.h. Rounds raw q, whatever the zero point.
    """
    n, height, width, channels = x.shape
    shape = (n, rows.output(height), columns.output(width), channels)
    acc = np.zeros(shape, np.int64)
    count = np.zeros((1, shape[1], shape[2], 1), np.int64)
    for _, at_y, from_y in rows.taps(height):
        for _, at_x, from_x in columns.taps(width):
            acc[:, at_y, at_x] += x[:, from_y, from_x]
            count[:, at_y, at_x] += 1
    # C's division truncates: of magnitudes, then the sign
    magnitude = (np.abs(acc) + count // 2) // count
    return clamp8(np.where(acc < 0, -magnitude, magnitude), limits)


def max_pool2d(x: I8, *, rows: Window, columns: Window, limits: Limits) -> I8:
    """MAX_POOL_2D over the pixels inside the image: integer_ops/pooling.h."""
    n, height, width, channels = x.shape
    shape = (n, rows.output(height), columns.output(width), channels)
    largest = np.full(shape, INT8_MIN, np.int8)
    for _, at_y, from_y in rows.taps(height):
        for _, at_x, from_x in columns.taps(width):
            part = largest[:, at_y, at_x]
            np.maximum(part, x[:, from_y, from_x], out=part)
    return clamp8(largest.astype(np.int64), limits)


def pad(x: I8, paddings: tuple[tuple[int, int], ...], *, fill: int) -> I8:
    """PAD: `fill` is the output's zero point (mk/pad_common.cc)."""
    return np.pad(x, paddings, constant_values=fill)


def strided_slice(
    x: I8, begin: tuple[int, ...], strides: tuple[int, ...], sizes: tuple[int, ...]
) -> I8:
    """STRIDED_SLICE: `sizes` elements from `begin`, one each `strides`; the batch stays whole."""
    at = [
        np.arange(first, first + size * stride, stride)
        for first, stride, size in zip(begin[1:], strides[1:], sizes[1:], strict=True)
    ]
    return x[np.ix_(np.arange(len(x)), *at)]


def nearest_indices(
    size: int, out_size: int, *, align_corners: bool, half_pixel_centers: bool
) -> I64:
    """(out_size,): the index along an axis of `size` that RESIZE_NEAREST_NEIGHBOR reads.

    `GetNearestNeighbor`, resize_nearest_neighbor.h: float32 throughout.
    """
    corners = align_corners and out_size > 1
    lengths = (size - 1, out_size - 1) if corners else (size, out_size)
    scale = np.float32(lengths[0]) / np.float32(lengths[1])
    offset = np.float32(0.5 if half_pixel_centers else 0.0)
    at = (np.arange(out_size, dtype=np.float32) + offset) * scale
    whole = round_half_away(at.astype(np.float64)) if align_corners else np.floor(at)
    indices: I64 = np.minimum(whole, size - 1).astype(np.int64)
    return indices


# -------------------------------------------------- exponential family, gemmlowp's fixed point

# gemmlowp `exp_on_negative_values`: exp(-2^k) in Q0.31 for k = -2..4
_EXP_OF_BIT = {
    -2: 1672461947,
    -1: 1302514674,
    0: 790015084,
    1: 290630308,
    2: 39332535,
    3: 720401,
    4: 242,
}
_EXP_MINUS_EIGHTH = 1895147668  # Q0.31
_ONE_THIRD = 715827883  # Q0.31
_48_17THS = 1515870810  # Q2.29, Newton's first guess
_MINUS_32_17THS = -1010580540  # Q2.29


def _exp_negative(a: I64, integer_bits: int) -> I64:
    """exp(a), a <= 0 with `integer_bits` integer bits -> Q0.31.

    gemmlowp: a Taylor series on [-1/4, 0), then one factor for each higher bit of -a.
    """
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    in_quarter = (a & (quarter - 1)) - quarter
    x = (in_quarter << integer_bits) + (1 << 28)  # around -1/8
    x2 = srdhm(x, x)
    x3, x4 = srdhm(x2, x), srdhm(x2, x2)
    tail = rdpot(srdhm(rdpot(x4, 2) + x3, _ONE_THIRD) + x2, 1)
    result = _EXP_MINUS_EIGHTH + srdhm(_EXP_MINUS_EIGHTH, x + tail)
    remainder = in_quarter - a
    for exponent, factor in _EXP_OF_BIT.items():
        if exponent < integer_bits:
            bit = remainder & (1 << (fraction_bits + exponent))
            result = np.where(bit != 0, srdhm(result, factor), result)
    return np.where(a == 0, INT32_MAX, result)


def _reciprocal_of_one_plus(a: I64) -> I64:
    """2 / (1 + a) in Q2.29 for a in [0, 1), Q0.31.

    gemmlowp `one_over_one_plus_x_for_x_in_0_1`, before its last shift: three Newton steps.
    """
    half = (a + INT32_MAX + 1) // 2  # RoundingHalfSum(a, 1); both are >= 0
    x = _48_17THS + srdhm(half, _MINUS_32_17THS)
    for _ in range(3):
        x = x + sat_shift_left(srdhm(x, (1 << 29) - srdhm(half, x)), 2)
    return x


def softmax_exponentials(requant: Requant) -> I64:
    """int64 (256,), Q0.31: exp of minus a difference of q, 0..255; 0 where it is not counted.

    `requant` is of `fixed_point.softmax_real`. softmax.h.
    """
    multiplier, shift = requant
    difference = np.arange(256, dtype=np.int64)
    counted = difference <= input_radius(SOFTMAX_INTEGER_BITS, int(shift))
    scaled = srdhm(np.where(counted, -difference, 0) << shift, multiplier)  # Q5.26
    return np.where(counted, _exp_negative(scaled, SOFTMAX_INTEGER_BITS), 0)


def softmax(x: I8, *, requant: Requant) -> I8:
    """SOFTMAX over the last axis; out has scale 1/256 and zero point -128. softmax.h."""
    wide = x.astype(np.int64)
    exp = softmax_exponentials(requant)[wide.max(axis=-1, keepdims=True) - wide]
    total = rdpot(exp, 12).sum(axis=-1, keepdims=True)  # Q12.19
    leading_zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    fraction = ((total << leading_zeros) & 0xFFFFFFFF) - 2**31  # total = 2^k * (1 + fraction)
    reciprocal = sat_shift_left(_reciprocal_of_one_plus(fraction), 1)
    return clamp8(rdpot(srdhm(reciprocal, exp), 12 - leading_zeros + 31 - 8) + INT8_MIN)


def logistic(x: I8, *, x_zero: int, requant: Requant) -> I8:
    """LOGISTIC; out has scale 1/256 and zero point -128. integer_ops/logistic.h."""
    x_, q, radius = _gate_input(x, x_zero, requant)
    positive = sat_shift_left(_reciprocal_of_one_plus(_exp_negative(-np.abs(q), 4)), 1)
    unit = np.where(q == 0, 1 << 30, np.where(q > 0, positive, INT32_MAX - positive))
    y = rdpot(unit, 23) + INT8_MIN
    return clamp8(np.where(x_ <= -radius, INT8_MIN, np.where(x_ >= radius, INT8_MAX, y)))


def tanh(x: I8, *, x_zero: int, requant: Requant) -> I8:
    """TANH; out has scale 1/128 and zero point 0. integer_ops/tanh.h."""
    x_, q, radius = _gate_input(x, x_zero, requant)
    # (1 - e) / (1 + e) = 2 / (1 + e) - 1 with e = exp(-2|x|): one integer bit more doubles x
    exp = _exp_negative(-np.abs(q), GATE_INTEGER_BITS + 1)
    size = sat_shift_left(_reciprocal_of_one_plus(exp) - (1 << 29), 2)
    y = rdpot(np.where(q == 0, 0, np.where(q < 0, -size, size)), 24)
    return clamp8(np.where(x_ <= -radius, INT8_MIN, np.where(x_ >= radius, INT8_MAX, y)))


def _gate_input(x: I8, x_zero: int, requant: Requant) -> tuple[I64, I64, int]:
    """x_, x_ in Q4.27 (0 where it saturates), and the radius at which it does."""
    radius = input_radius(GATE_INTEGER_BITS, int(requant.shift))
    x_ = x.astype(np.int64) - x_zero
    inside = np.where(np.abs(x_) < radius, x_, 0)
    return x_, mbqm(inside, requant), radius


# ----------------------------------------------------------------------- one tensor, pointwise


def _srdhm16(a: I64, b: I64) -> I64:
    """`SaturatingRoundingDoublingHighMul` on int16, gemmlowp."""
    high: I64 = (a * b + (1 << 14)) >> 15
    return np.minimum(high, INT16_MAX)


def _sat16(x: I64) -> I64:
    saturated: I64 = np.clip(x, -(2**15), INT16_MAX)
    return saturated


def hard_swish(x: I8, *, x_zero: int, of_output: Requant, of_relu: Requant, out_zero: int) -> I8:
    """HARD_SWISH in int16: hard_swish.h. `of_output` has shift <= 0."""
    relu_shift = int(of_relu.shift)
    high = (x.astype(np.int64) - x_zero) << 7
    output = _srdhm16(high, downscale_16(of_output.multiplier))
    # x / 3 saturated to [-1, 1]; the last bit of a left shift comes after the product
    gate = _sat16(high << (relu_shift - 1)) if relu_shift > 0 else high
    gate = _srdhm16(gate, downscale_16(of_relu.multiplier))
    gate = _sat16(gate << 1) if relu_shift > 0 else rdpot(gate, -relu_shift)
    gate = (gate + 2**15) >> 1  # (x / 3 + 1) / 2
    product = gate * output
    y = np.where(product < 0, -(-product >> 15), product >> 15)  # towards zero
    return clamp8(rdpot(y, -of_output.shift) + out_zero)


def leaky_relu(
    x: I8, *, x_zero: int, of_positive: Requant, of_negative: Requant, out_zero: int
) -> I8:
    """LEAKY_RELU: leaky_relu.h. A negative slope's sign is applied after the rounding."""
    x_ = x.astype(np.int64) - x_zero
    size = Requant(np.abs(of_negative.multiplier), of_negative.shift)
    negative = mbqm(x_, size) * np.sign(of_negative.multiplier)
    return clamp8(np.where(x_ >= 0, mbqm(x_, of_positive), negative) + out_zero)


def requantize(
    x: I8, *, x_zero: int, requant: Requant, out_zero: int, limits: Limits = NO_LIMITS
) -> I8:
    """QUANTIZE int8 to int8 (requantize.h), and RELU with limits (mk/activations.cc)."""
    return clamp8(mbqm(x.astype(np.int64) - x_zero, requant) + out_zero, limits)


def clamp(x: I8, limits: Limits) -> I8:
    """RELU6 as an op of its own: raw q, parameters unchanged (mk/activations.cc)."""
    return clamp8(x.astype(np.int64), limits)
