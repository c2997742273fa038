"""The pixel quantiser: exact for u8/255, within half a step for any mean and standard deviation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.contract import (
    Contract,
    InputSpec,
    Normalize,
    Resize,
    mean_std_normalize,
    unit_normalize,
)
from ndtool.quant.pixels import (
    input_quantization,
    normalize_pixels,
    pixel_table,
    quantize_pixels,
)


def contract(normalize: Normalize) -> Contract:
    channels = len(normalize.mean)
    color = "RGB" if channels == 3 else "GRAY"
    spec = InputSpec(height=4, width=4, channels=channels, color=color)
    return Contract(input=spec, resize=Resize(), normalize=normalize, labels=("a", "b"))


@pytest.mark.parametrize("channels", [1, 3])
def test_u8_255_is_pixel_minus_128(channels: int) -> None:
    made = contract(unit_normalize(channels))
    assert input_quantization(made) == (float(np.float32(1 / 255)), -128)
    assert np.array_equal(pixel_table(made), np.tile(np.arange(-128, 128), (channels, 1)))


MEANS = st.tuples(*[st.floats(-1, 2)] * 3)
STDS = st.tuples(*[st.floats(0.01, 10)] * 3)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(MEANS, STDS)
def test_table_is_within_half_a_step_of_the_float_value(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    made = contract(mean_std_normalize(mean, std))
    scale, zero_point = input_quantization(made)
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    real = normalize_pixels(pixels, made).astype(np.float64)
    back = (quantize_pixels(pixels, made).astype(np.float64) - zero_point) * scale
    # half a step, half a step more where the nudged zero point cuts an end, and float32's error
    assert np.abs(back - real).max() <= scale * 1.001 + 1e-4
    assert np.abs(back - real)[64:192].max() <= scale * 0.501 + 1e-4


def test_channels_use_their_own_row() -> None:
    made = contract(mean_std_normalize((0.0, 0.5, 0.25), (1.0, 0.5, 2.0)))
    pixel = np.array([[10, 20, 30]], np.uint8)
    table = pixel_table(made)
    assert quantize_pixels(pixel, made).tolist() == [[table[0, 10], table[1, 20], table[2, 30]]]
