"""Section 2 of quantisation.md, one test or more for each rule."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ndtool.quant import scales
from ndtool.quant.fixed_point import (
    add_reals,
    conv_real,
    fully_connected_real,
    hard_swish_reals,
    mul_real,
    quantize_multiplier,
    rescale_real,
    softmax_real,
)
from ndtool.quant.scales import ScaleZero

many = settings(derandomize=True, deadline=None, max_examples=100)
ENDS = st.floats(-1e18, 1e18)
SCALES = st.floats(2.0**-30, 2.0**20, width=32)
ZEROS = st.integers(-128, 127)


def is_float32(value: float) -> bool:
    return float(np.float32(value)) == value


# ---- rule 1


@many
@given(ENDS, ENDS)
@example(-1.0, 1e-20)
@example(-3.0, -2.0)
@example(0.1, 0.2)
@example(-1e-30, 1e-31)
def test_rule_1_zero_is_exact_and_the_range_is_covered_within_half_a_step(a: float, b: float):
    low, high = sorted((a, b))
    params = scales.tensor_params(low, high)
    assert is_float32(params.scale) and params.scale > 0
    assert isinstance(params.zero_point, int)
    assert -128 <= params.zero_point <= 127  # so that zero is a grid point
    got_low, got_high = scales.real_range(params)
    half = params.scale * (0.5 + 255 * 2.0**-24)  # and the rounding of the scale itself
    assert got_low - half <= min(low, 0.0) and max(high, 0.0) <= got_high + half


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero_point"),
    [
        (0.0, 1.0, 1 / 255, -128),
        (0.0, 6.0, 6 / 255, -128),
        (-1.0, 0.0, 1 / 255, 127),
        (-1.0, 1.0, 2 / 255, -1),  # -128 + 127.499999: the scale is rounded before
        (2.0, 3.0, 3 / 255, -128),  # zero is taken in
        (-3.0, -2.0, 3 / 255, 127),
    ],
)
def test_rule_1_values(low: float, high: float, scale: float, zero_point: int) -> None:
    assert scales.tensor_params(low, high) == (float(np.float32(scale)), zero_point)


# ---- rule 3


@pytest.mark.parametrize("width", [0.0, 1e-40, 1e-31, 9.9e-31])
def test_rule_3_a_dead_tensor_gets_a_scale_of_its_own(width: float) -> None:
    assert scales.is_dead(0.0, width) and scales.is_dead(-width, 0.0)
    assert scales.tensor_params(0.0, width) == (1 / 256, -128)


def test_rule_3_a_constant_or_a_narrow_tensor_is_not_dead() -> None:
    assert not scales.is_dead(5.0, 5.0)
    assert not scales.is_dead(0.0, 1e-29)
    assert scales.tensor_params(0.0, 1e-29).scale >= scales.FLOAT32_NORMAL


# ---- rule 9


@pytest.mark.parametrize(
    ("observed", "bounds", "clamped"),
    [
        ((-2.0, 9.0), (0.0, 6.0), (0.0, 6.0)),
        ((0.0, 4.5), (0.0, 6.0), (0.0, 4.5)),  # the observed maximum, not the bound
        ((-0.3, 5.0), (0.0, math.inf), (0.0, 5.0)),
        ((-5.0, 0.5), (-1.0, 1.0), (-1.0, 0.5)),
    ],
)
def test_rule_9_a_range_is_that_of_the_clamped_tensor(observed, bounds, clamped) -> None:
    assert scales.clamp_range(*observed, bounds) == clamped


def test_rule_9_saturation_at_the_unit_range_is_the_clamp() -> None:
    assert scales.tensor_params(0.0, 1.0) == scales.UNIT
    values = np.array([-3.0, -0.001, 0.0, 0.5, 1.0, 1.001, 7.0], np.float32)
    clipped = scales.quantize_values(np.clip(values, 0, 1), scales.UNIT)
    assert scales.quantize_values(values, scales.UNIT).tolist() == clipped.tolist()
    assert clipped.tolist() == [-128, -128, -128, -1, 127, 127, 127]


# ---- rules 4, 10, 11, 12: the least scales


@many
@given(SCALES, SCALES)
def test_rule_10_neither_add_nor_sub_aborts(a: float, b: float) -> None:
    least = scales.least_scale_add(a, b)
    assert is_float32(least)
    assert all(r < 1 and quantize_multiplier(r)[1] <= 0 for r in add_reals(a, b, least))
    too_small = float(np.float32(max(a, b) / 2.0**19))
    assert quantize_multiplier(add_reals(a, b, too_small)[2])[1] > 0


@many
@given(SCALES)
def test_rule_11_hard_swish_has_no_left_shift(x: float) -> None:
    least = scales.least_scale_hard_swish(x)
    assert quantize_multiplier(hard_swish_reals(x, least)[0])[1] <= 0
    assert quantize_multiplier(hard_swish_reals(x, float(np.float32(x / 128)))[0])[1] > 0


@many
@given(SCALES)
def test_hard_swish_shifts_right_by_15_at_most(out: float) -> None:
    least = scales.least_scale_hard_swish_input(out)
    of_output, of_relu = hard_swish_reals(least, out)
    assert quantize_multiplier(of_output)[1] >= -15
    assert quantize_multiplier(of_relu)[1] >= -15


@many
@given(SCALES, SCALES, ZEROS, ZEROS)
def test_rule_4_products_and_means_cannot_overflow(a: float, b: float, za: int, zb: int) -> None:
    _, shift = quantize_multiplier(mul_real(a, b, scales.least_scale_mul(a, b)))
    assert (255 * 255) << max(shift, 0) < 2**31
    real = rescale_real(a, scales.least_scale_rescaled(a))
    assert real < scales.MAX_MULTIPLIER
    assert 255 << max(quantize_multiplier(real)[1], 0) < 2**31


def test_rule_12_softmax_has_a_multiplier_above_one() -> None:
    assert softmax_real(scales.LEAST_SCALE_SOFTMAX_INPUT, 1.0) > 1.0


def test_at_least_keeps_zero_and_covers_more() -> None:
    params = ScaleZero(0.5, 17)
    assert scales.at_least(params, 0.25) == params
    assert scales.at_least(params, 2.0) == (2.0, 17)


# ---- rule 5

WEIGHTS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12)


@many
@given(WEIGHTS)
def test_rule_5_weights_are_within_half_a_step_and_never_minus_128(values: list[float]) -> None:
    rows = np.array([values], np.float32)
    (scale,) = own = scales.weight_scales(rows)
    if scale < scales.FLOAT32_NORMAL:
        return  # rule 6 takes over
    quantized = scales.quantize_weights(rows, own)
    assert np.abs(quantized.astype(int)).max() == 127  # the largest uses the whole grid
    error = np.abs(quantized * np.float64(scale) - rows.astype(np.float64))
    assert error.max() <= float(scale) * (0.5 + 127 * 2.0**-23)


def test_rule_5_ties_go_away_from_zero() -> None:
    rows = np.array([[127.0, 0.5, -0.5, 1.5, -2.5, 0.49999997]], np.float32)
    quantized = scales.quantize_weights(rows, scales.weight_scales(rows))
    assert quantized.tolist() == [[127, 1, -1, 2, -3, 0]]


def test_rule_5_divides_and_does_not_multiply_by_a_reciprocal() -> None:
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(64, 4096)).astype(np.float32)
    own = scales.weight_scales(rows)
    quantized = scales.quantize_weights(rows, own)
    exact = rows.astype(np.longdouble) / own.astype(np.longdouble)[:, None]
    away = np.trunc(exact + np.copysign(np.longdouble(0.5), exact))
    assert np.array_equal(quantized, np.clip(away, -127, 127))
    tie = np.array([[127 * 3.0, 1.5, 4.5]], np.float32)  # 1.5 / 3 and 4.5 / 3: exact ties
    assert scales.quantize_weights(tie, scales.weight_scales(tie)).tolist() == [[127, 1, 2]]


# ---- rule 6


def layer(
    rows: list[list[float]],
    bias: list[float],
    x: ScaleZero,
    out: ScaleZero,
    *,
    per_tensor: bool = False,
) -> scales.LayerNumbers:
    quantize = scales.quantize_per_tensor if per_tensor else scales.quantize_per_channel
    return quantize(np.array(rows, np.float32), np.array(bias, np.float32), x=x, out=out)


X, OUT = ScaleZero(1 / 256, -128), ScaleZero(1 / 64, -10)


def test_rule_6_a_dead_channel_gives_its_bias() -> None:
    made = layer([[0.0, 0.0], [1.0, -1.0]], [3.0, 0.0], X, OUT)
    assert made.weight.tolist() == [[0, 0], [127, -127]]
    assert made.bias[0] <= 2**30
    (real, _) = conv_real(X.scale, made.weight_scales, OUT.scale)
    assert made.bias[0] * real * OUT.scale == pytest.approx(3.0, rel=1e-6)
    assert made.coarsened == made.raised == made.overflowing == ()


def test_rule_6_a_dead_channel_without_bias_is_zero() -> None:
    made = layer([[0.0, 0.0]], [0.0], X, OUT)
    assert made.weight.tolist() == [[0, 0]] and made.bias.tolist() == [0]
    assert made.weight_scales[0] >= scales.MIN_MULTIPLIER * OUT.scale / X.scale


def test_rule_6_a_near_dead_channel_loses_its_weights_and_keeps_its_bias() -> None:
    made = layer([[1e-12, -1e-12]], [2.0], X, OUT)
    assert made.weight.tolist() == [[0, 0]]
    assert made.coarsened == (0,)
    assert 2**29 <= made.bias[0] <= 2**30
    assert made.bias[0] * made.bias_scales[0] == pytest.approx(2.0, rel=1e-6)


def test_rule_6_per_tensor_takes_the_largest_need_and_says_which_channel() -> None:
    made = layer([[1e-9], [1e-12]], [0.0, 4.0], X, OUT, per_tensor=True)
    assert made.coarsened == (1,)
    assert len(made.weight_scales) == len(made.bias_scales) == 1
    assert abs(int(made.bias[1])) <= 2**30
    calm = layer([[1e-3], [1.0]], [0.0, 4.0], X, OUT, per_tensor=True)
    assert calm.coarsened == () and calm.weight.tolist() == [[0], [127]]


# ---- rules 6, 7 and 8 together, for all inputs

EXTREME = st.integers(-40, 10).flatmap(
    lambda e: st.lists(st.floats(-1, 1).map(lambda m: m * 2.0**e), min_size=9, max_size=9)
)
LAYERS = st.lists(EXTREME, min_size=1, max_size=4)
PARAMS = st.tuples(st.floats(2.0**-10, 1, width=32), ZEROS).map(lambda t: ScaleZero(*t))


@pytest.mark.parametrize("per_tensor", [False, True])
@many
@given(LAYERS, st.lists(st.floats(-10, 10), min_size=4, max_size=4), PARAMS, PARAMS)
def test_rules_4_6_7_8_hold_for_every_layer(per_tensor, rows, bias, x, out) -> None:
    made = layer(rows, bias[: len(rows)], x, out, per_tensor=per_tensor)
    assert np.abs(made.weight.astype(int)).max() <= 127
    assert np.abs(made.bias.astype(np.int64)).max() <= 2**30
    assert all(is_float32(s) and s >= scales.FLOAT32_NORMAL for s in made.weight_scales)
    assert all(is_float32(s) and s >= scales.FLOAT32_NORMAL for s in made.bias_scales)
    for channel, row in enumerate(made.weight.tolist()):
        s_w = made.weight_scales[0 if per_tensor else channel]
        if per_tensor:
            real = fully_connected_real(x.scale, s_w, out.scale)
        else:
            real = x.scale * s_w / out.scale
        assert real >= scales.MIN_MULTIPLIER * (1 - 1e-6)
        if channel in made.overflowing:
            continue
        # an independent proof in Python integers: the worst input, the worst order of the sum
        reach = max(127 - x.zero_point, 128 + x.zero_point)
        worst = sum(abs(q) for q in row) * reach + abs(int(made.bias[channel]))
        _, shift = quantize_multiplier(real)
        assert worst << max(shift, 0) < 2**31


@many
@given(LAYERS, st.lists(st.floats(-10, 10), min_size=4, max_size=4), PARAMS, PARAMS)
def test_a_layer_is_within_rounding_of_its_float_value(rows, bias, x, out) -> None:
    """sum|w| times a step of s_w is all that a channel may be wrong by, before the output."""
    made = layer(rows, bias[: len(rows)], x, out)
    q = np.arange(-128, 127, 29)[:9]
    real_x = (q - x.zero_point) * x.scale
    for channel, row in enumerate(rows):
        if channel in made.overflowing:
            continue
        step = x.scale * made.weight_scales[channel]
        acc = int((made.weight[channel].astype(int) * (q - x.zero_point)).sum())
        got = (acc + int(made.bias[channel])) * step
        want = float(np.float32(row).astype(np.float64) @ real_x) + float(np.float32(bias[channel]))
        bound = 0.5 * (step + made.weight_scales[channel] * np.abs(real_x).sum())
        assert abs(got - want) <= bound * (1 + 1e-3) + 1e-12


# ---- rule 7


def test_rule_7_a_large_multiplier_is_legal() -> None:
    made = layer([[500.0] * 9], [0.0], ScaleZero(1.0, 0), ScaleZero(2.0**-6, 0))
    (real,) = conv_real(1.0, made.weight_scales, 2.0**-6)
    assert quantize_multiplier(real)[1] == 8
    assert made.raised == made.overflowing == ()


def test_rule_7_a_scale_is_raised_inside_its_power_of_two() -> None:
    x, out = ScaleZero(1.0, -128), ScaleZero(1e-3, 0)
    rows = [[540.0] * 9, [1.0] * 9]
    plain = scales.weight_scales(np.array(rows, np.float32))
    shift = quantize_multiplier(float(conv_real(1.0, plain.tolist(), 1e-3)[0]))[1]
    assert 127 * 9 * 255 << shift >= 2**31  # what would overflow
    made = layer(rows, [0.0, 0.0], x, out)
    assert made.raised == (0,) and made.overflowing == ()
    assert plain[0] < made.weight_scales[0] <= plain[0] * 2
    assert 64 <= made.weight[0, 0] < 127  # less than a bit of resolution is paid
    assert made.weight_scales[1] == plain[1]


def test_rule_7_what_no_scale_saves_is_named() -> None:
    made = layer([[1e6] * 9, [1.0] * 9], [0.0, 0.0], ScaleZero(1.0, -128), ScaleZero(1e-3, 0))
    assert made.overflowing == (0,)


def test_rule_7_per_tensor_raises_the_one_scale() -> None:
    x, out = ScaleZero(1.0, -128), ScaleZero(1e-3, 0)
    made = layer([[540.0] * 9, [1.0] * 9], [0.0, 0.0], x, out, per_tensor=True)
    assert made.raised == (0,) and made.overflowing == ()
    assert len(made.weight_scales) == 1


# ---- rule 8


def test_rule_8_many_products_are_proved_with_the_real_weights() -> None:
    n = 70_000  # 127 * 255 * n > 2^31
    x, out = ScaleZero(1 / 255, -128), ScaleZero(1.0, 0)
    made = layer([[1.0] * n, [1.0] + [1e-3] * (n - 1)], [0.0, 0.0], x, out)
    assert made.raised == (0,)
    assert int(np.abs(made.weight[0].astype(np.int64)).sum()) * 255 < 2**31
    assert made.weight[1, 0] == 127  # small weights: no need


# ---- biases


def test_bias_steps_are_float64_per_channel_and_float32_for_one_scale() -> None:
    x, out = ScaleZero(float(np.float32(0.1)), 0), ScaleZero(0.5, 0)
    rows, bias = [[float(np.float32(0.3))]], [123456.0]  # some 5e8 steps
    per_channel = layer(rows, bias, x, out)
    per_tensor = layer(rows, bias, x, out, per_tensor=True)
    step = x.scale * per_channel.weight_scales[0]
    assert per_tensor.bias_scales[0] == float(np.float32(step)) != step
    assert per_channel.bias.tolist() == [round(123456.0 / step)]
    assert per_tensor.bias.tolist() == [round(123456.0 / float(np.float32(step)))]
    assert per_channel.bias.tolist() != per_tensor.bias.tolist()


def test_fixed_outputs() -> None:
    assert scales.PROBABILITY == (1 / 256, -128)
    assert scales.TANH == (1 / 128, 0)
    assert (float(np.float32(1 / 255)), -128) == scales.UNIT
