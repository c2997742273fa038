"""Fixed-point arithmetic against exact Python integers and the definitions in gemmlowp's words."""

import math
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ndtool.quant import fixed_point as fp

EXACT = settings(derandomize=True, deadline=None, max_examples=200)
INT32 = st.integers(-(2**31), 2**31 - 1)
REAL = st.floats(2.0**-40, 2.0**20)
SCALES = st.floats(2.0**-20, 2.0**10, width=32)


@EXACT
@given(st.floats(-1e17, 1e17))
@example(0.49999999999999994)
@example(-0.5)
@example(2.0**52 + 1)
def test_round_half_away_is_c_round(value: float) -> None:
    assert int(fp.round_half_away(value)) == int(Decimal(value).to_integral(ROUND_HALF_UP))


@EXACT
@given(REAL)
@example(1.0)
@example(0.5)
@example(1 - 2.0**-40)  # the mantissa rounds up to 2^31
@example(2.0**-32)
@example(2.0**-33)
def test_multiplier_is_the_nearest_31_bit_number(real: float) -> None:
    multiplier, shift = fp.quantize_multiplier(real)
    if (multiplier, shift) == (0, 0):
        assert real < 2.0**-32
        return
    assert 2**30 <= multiplier < 2**31
    assert shift >= -31
    error = abs(Fraction(multiplier) * Fraction(2) ** (shift - 31) - Fraction(real))
    assert error <= Fraction(2) ** (shift - 32)


def test_multipliers_of_an_array_and_of_its_elements_are_equal() -> None:
    reals = np.array([0.0, -0.3, 1.0, 2.0**-40, 1 - 2.0**-40, 1234.5])
    multipliers, shifts = fp.quantize_multipliers(reals)
    for i, real in enumerate(reals.tolist()):
        assert fp.quantize_multiplier(real) == (multipliers[i], shifts[i])


def gemmlowp_srdhm(a: int, b: int) -> int:
    if a == b == -(2**31):
        return 2**31 - 1
    product = a * b
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    return abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)  # C division


@EXACT
@given(INT32, INT32)
@example(-(2**31), -(2**31))
@example(-(2**31), 2**31 - 1)
@example(1, 2**30)
@example(-1, 2**30)
def test_srdhm_is_gemmlowps(a: int, b: int) -> None:
    assert int(fp.srdhm(a, b)) == gemmlowp_srdhm(a, b)


@EXACT
@given(INT32, st.integers(0, 31))
@example(-1, 1)
@example(1, 1)
@example(-(2**31), 31)
def test_rdpot_rounds_half_away(x: int, right: int) -> None:
    exact = Decimal(x) / Decimal(2**right)
    assert int(fp.rdpot(x, right)) == int(exact.to_integral(ROUND_HALF_UP))


@EXACT
@given(st.integers(-(2**24), 2**24), st.floats(2.0**-20, 2.0**6))
def test_mbqm_rounds_twice(x: int, real: float) -> None:
    multiplier, shift = fp.quantize_multiplier(real)
    high = gemmlowp_srdhm(x << max(shift, 0), multiplier)
    exact = Decimal(high) / Decimal(2 ** max(-shift, 0))
    assert int(fp.mbqm(x, fp.requant_of(real))) == int(exact.to_integral(ROUND_HALF_UP))


@EXACT
@given(st.integers(0, 2**40), st.floats(2.0**-40, 2.0**40))
@example(2**31 - 1, 1.0 - 2.0**-31)  # 2^31 - 2 and a zero point leave int32
@example(2**31, 2.0**-20)
@example(1, 2.0**30)
@example(0, 2.0**29)
@example(0, 2.0**31)
def test_requant_fits_exactly_where_no_int32_overflows(bound: int, real: float) -> None:
    multiplier, shift = fp.quantize_multiplier(real)
    lifted = bound << max(shift, 0)
    limit = 2**31 - 1
    expected = shift <= 30 and lifted <= limit and gemmlowp_srdhm(lifted, multiplier) <= limit - 128
    assert bool(fp.requant_fits(bound, fp.requant_of(real))) == expected


@EXACT
@given(SCALES, st.integers(-128, 127))
def test_activation_limits_hold_the_bounds(scale: float, zero: int) -> None:
    low, high = fp.activation_range(0.0, 6.0, scale=scale, zero_point=zero)
    assert low == zero
    assert low <= high <= 127
    six = np.float32(6) / np.float32(scale)
    assert high == min(127, zero + int(Decimal(float(six)).to_integral(ROUND_HALF_UP)))
    assert fp.activation_range(None, None, scale=scale, zero_point=zero) == (-128, 127)


def test_a_bound_beyond_int32_saturates() -> None:
    assert fp.quantize_bound(6.0, 1e-12, 3) > 2**31
    assert fp.activation_range(-1.0, 1.0, scale=1e-12, zero_point=3) == (-128, 127)


@EXACT
@given(SCALES, SCALES, st.integers(1, 10_000))
def test_mean_multiplier_is_the_quotient_by_the_count(s_in: float, s_out: float, n: int) -> None:
    multiplier, shift = (int(v) for v in fp.mean_requant(s_in, s_out, n))
    exact = Fraction(s_in) / Fraction(s_out) / n
    if multiplier:
        value = Fraction(multiplier) * Fraction(2) ** (shift - 31)
        assert abs(value / exact - 1) < Fraction(1, 2**28)
        assert shift >= -31


@pytest.mark.parametrize(
    ("multiplier", "expected"),
    [(2**30, 2**14), (0x7FFF0000, 32767), (2**31 - 1, 32767), (2**30 + 2**15, 2**14 + 1)],
)
def test_16_bit_multipliers_round_and_saturate(multiplier: int, expected: int) -> None:
    assert int(fp.downscale_16(np.asarray(multiplier))) == expected


@pytest.mark.parametrize(("bits", "shift"), [(4, 0), (4, 20), (5, 10), (5, 31), (4, 40)])
def test_input_radius_is_the_floor(bits: int, shift: int) -> None:
    expected = math.floor(Fraction((2**bits - 1) * 2 ** (31 - bits)) / 2**shift)
    assert fp.input_radius(bits, shift) == expected
