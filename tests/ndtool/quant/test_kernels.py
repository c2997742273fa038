"""Kernels against slow obvious code and real arithmetic; `test_reference` has tflite_micro."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.export.int8.derive import slice_axis
from ndtool.quant import fixed_point as fp
from ndtool.quant import kernels
from ndtool.quant.kernels import NO_LIMITS, Window

EXACT = settings(derandomize=True, deadline=None, max_examples=100)
STEPS = (st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))  # kernel, stride, dilation
PADS = st.tuples(st.integers(0, 7), st.integers(0, 7))
NO_PADS = st.just((0, 0))  # else `builds` makes up numbers of any size
WINDOWS = st.builds(Window, *STEPS, st.booleans(), NO_PADS)
WINDOWS |= st.builds(Window, *STEPS, st.just(value=False), PADS)
EVERY = np.arange(-128, 128).astype(np.int8)


@EXACT
@given(WINDOWS, st.integers(1, 15))
def test_window_reads_exactly_the_pixels_inside(window: Window, size: int) -> None:
    if window.output(size) < 1:
        return
    before, after = window.padding(size)
    # SAME's odd pixel goes to the end
    assert 0 <= after - before <= 1 if window.same else (before, after) == window.pads
    wanted = {
        (tap, position, pixel)
        for position in range(window.output(size))
        for tap in range(window.kernel)
        if 0 <= (pixel := position * window.stride + tap * window.dilation - before) < size
    }
    found = set()
    for tap, at, pixels in window.taps(size):
        positions = range(window.output(size))[at]
        found |= {(tap, *pair) for pair in zip(positions, range(size)[pixels], strict=True)}
    assert found == wanted


@EXACT
@given(st.data(), st.integers(1, 9))
def test_a_slice_takes_what_pythons_takes(data: st.DataObject, n: int) -> None:
    begin, end = (data.draw(st.integers(-12, 12)) for _ in range(2))
    stride = data.draw(st.integers(-4, 4).filter(bool))
    first, last = (data.draw(st.booleans()) for _ in range(2))
    found = slice_axis(n, begin, end, stride, from_first=first, to_last=last)
    wanted = range(n)[slice(None if first else begin, None if last else end, stride)]
    assert [found.begin + i * found.stride for i in range(found.size)] == list(wanted)


def test_strided_slices_are_numpys() -> None:
    x = np.arange(2 * 5 * 4 * 3, dtype=np.int8).reshape(2, 5, 4, 3)
    out = kernels.strided_slice(x, (0, 4, 1, 0), (1, -2, 1, 2), (1, 3, 2, 2))
    assert np.array_equal(out, x[:, 4::-2, 1:3, ::2])


@pytest.mark.parametrize(
    ("size", "out_size", "align", "half", "expected"),
    [
        (3, 6, False, False, [0, 0, 1, 1, 2, 2]),
        (6, 3, False, False, [0, 2, 4]),
        (6, 3, False, True, [1, 3, 5]),
        (5, 3, True, False, [0, 2, 4]),
        (2, 4, True, False, [0, 0, 1, 1]),
        (4, 1, True, False, [0]),
        (4, 59, True, True, None),
    ],
)
def test_nearest_indices(
    size: int, out_size: int, expected: list[int] | None, *, align: bool, half: bool
) -> None:
    found = kernels.nearest_indices(
        size, out_size, align_corners=align, half_pixel_centers=half
    ).tolist()
    assert found == sorted(found) and found[0] >= 0 and found[-1] < size
    assert expected is None or found == expected


def test_same_padding_of_known_layers() -> None:
    # (kernel, stride, size) -> (output, before, after), TensorFlow's own figures
    known = {(3, 2, 96): (48, 0, 1), (3, 2, 97): (49, 1, 1), (10, 2, 49): (25, 4, 5)}
    for (kernel, stride, size), expected in known.items():
        window = Window(kernel, stride, 1, same=True)
        assert (window.output(size), *window.padding(size)) == expected


@pytest.mark.parametrize("x_zero", [-128, 0, 127])
def test_convolution_is_its_definition(x_zero: int) -> None:
    rng = np.random.default_rng(x_zero + 200)
    x = rng.integers(-128, 128, (2, 5, 4, 3)).astype(np.int8)
    weight = rng.integers(-128, 128, (4, 3, 2, 3)).astype(np.int8)
    bias = rng.integers(-(2**20), 2**20, 4).astype(np.int32)
    rows, columns = Window(3, 2, 1, same=True), Window(2, 1, 2, same=False)
    requant = fp.quantize_multipliers(np.array([1e-3, 2e-3, 5e-4, 2e-4]))
    out = kernels.conv2d(
        x,
        weight,
        bias,
        rows=rows,
        columns=columns,
        x_zero=x_zero,
        requant=requant,
        out_zero=5,
        limits=(-100, 110),
    )
    top = rows.padding(5)[0]
    for n, i, j, o in itertools.product(range(2), range(3), range(2), range(4)):
        acc = int(bias[o])
        for p, q, c in itertools.product(range(3), range(2), range(3)):
            y, z = 2 * i + p - top, j + 2 * q
            if 0 <= y < 5:
                acc += int(weight[o, p, q, c]) * (int(x[n, y, z, c]) - x_zero)
        one = fp.Requant(requant.multiplier[o], requant.shift[o])
        assert out[n, i, j, o] == np.clip(int(fp.mbqm(acc, one)) + 5, -100, 110)


def test_depthwise_channel_order_is_input_channel_times_multiplier_plus_k() -> None:
    x = np.array([[[[10, 20]]]], np.int8)
    weight = np.array([[[[1, 2, 3, 4]]]], np.int8)
    one = Window(1, 1, 1, same=True)
    out = kernels.depthwise_conv2d(
        x,
        weight,
        None,
        rows=one,
        columns=one,
        x_zero=0,
        requant=fp.requant_of(1.0),
        out_zero=0,
        limits=NO_LIMITS,
    )
    assert out.tolist() == [[[[10, 20, 60, 80]]]]


def test_extreme_sums_stay_exact() -> None:
    x = np.full((1, 60_000), -128, np.int8)
    weight = np.full((1, 60_000), -127, np.int8)
    out = kernels.fully_connected(
        x,
        weight,
        np.array([2**27 - 1], np.int32),
        x_zero=127,
        requant=fp.requant_of(2.0**-25),
        out_zero=0,
        limits=NO_LIMITS,
    )
    assert out.item() == round((60_000 * 127 * 255 + 2**27 - 1) / 2**25)


def test_average_pool_rounds_half_away_from_zero_without_padding() -> None:
    x = np.array([[1, 2], [-1, -2]], np.int8).reshape(1, 2, 2, 1)
    out = kernels.average_pool2d(
        x, rows=Window(1, 1, 1, same=True), columns=Window(2, 1, 1, same=True), limits=NO_LIMITS
    )
    assert out.ravel().tolist() == [2, 2, -2, -2]


def test_max_pool_ignores_padding() -> None:
    x = np.full((1, 3, 3, 1), -120, np.int8)
    window = Window(3, 2, 1, same=True)
    out = kernels.max_pool2d(x, rows=window, columns=window, limits=NO_LIMITS)
    assert set(out.ravel().tolist()) == {-120}


@pytest.mark.parametrize("zero", [-128, 0, 127])
@pytest.mark.parametrize("scale", [0.004, 0.05, 1.0])
def test_functions_of_one_byte_are_near_the_real_ones(scale: float, zero: int) -> None:
    real = scale * (EVERY.astype(float) - zero)
    gate = fp.requant_of(fp.gate_real(scale))
    logistic = kernels.logistic(EVERY, x_zero=zero, requant=gate)
    expected = np.clip(256 / (1 + np.exp(-real)) - 128, -128, 127)
    assert np.abs(logistic - expected).max() <= 0.51
    tanh = kernels.tanh(EVERY, x_zero=zero, requant=gate)
    assert np.abs(tanh - np.clip(128 * np.tanh(real), -128, 127)).max() <= 0.51
    out_scale = max(np.abs(real).max() / 127, scale / 100)
    of_output, of_relu = fp.hard_swish_reals(scale, out_scale)
    swish = kernels.hard_swish(
        EVERY,
        x_zero=zero,
        of_output=fp.requant_of(of_output),
        of_relu=fp.requant_of(of_relu),
        out_zero=0,
    )
    exact = np.clip(real * np.clip(real + 3, 0, 6) / 6 / out_scale, -128, 127)
    assert np.abs(swish - exact).max() <= 1.01


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_softmax_is_near_the_real_one(classes: int) -> None:
    rng = np.random.default_rng(classes)
    x = rng.integers(-128, 128, (20, classes)).astype(np.int8)
    out = kernels.softmax(x, requant=fp.requant_of(fp.softmax_real(0.1, 1.0)))
    power = np.exp(0.1 * (x.astype(float) - x.max(axis=1, keepdims=True)))
    expected = np.minimum(256 * power / power.sum(axis=1, keepdims=True) - 128, 127)
    assert np.abs(out - expected).max() <= 0.51


def test_negative_slope_rounds_before_its_sign() -> None:
    def leaky(alpha: float) -> np.ndarray:
        return kernels.leaky_relu(
            EVERY,
            x_zero=127,
            of_positive=fp.requant_of(1.0),
            of_negative=fp.requant_of(alpha),
            out_zero=0,
        ).astype(int)

    assert np.array_equal(leaky(0.25), -leaky(-0.25))
