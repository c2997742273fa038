"""What a pixel becomes: float for training and ONNX, int8 for the microcontroller.

The only place where the contract's normalisation is computed. With `u8/255` the int8 value is
`pixel - 128` for all 256 values; any other normalisation is a 256-entry table per channel
(design, section 4; quantisation, section 2, rule 2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ndtool.contract import Contract
from ndtool.quant.fixed_point import round_half_away

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]


def normalize_pixels(images: U8, contract: Contract) -> F32:
    """uint8 (..., C) -> float32 (..., C): (pixel / 255 - mean[c]) / std[c]."""
    unit = images.astype(np.float32) / np.float32(255)
    if contract.normalize.kind == "u8/255":
        return unit
    mean = np.asarray(contract.normalize.mean, np.float32)
    std = np.asarray(contract.normalize.std, np.float32)
    normalized: F32 = (unit - mean) / std
    return normalized


def input_quantization(contract: Contract) -> tuple[float, int]:
    """(scale, zero point) of the int8 input, from the contract alone; scale is a float32 value."""
    low, high = contract.normalize.range
    scale = float(np.float32((high - low) / 255.0))
    zero_point = round_half_away(-128.0 - low / scale)
    return scale, int(np.clip(zero_point, -128, 127))


def pixel_table(contract: Contract) -> I8:
    """int8 (C, 256): the quantised value of every pixel value, per channel."""
    scale, zero_point = input_quantization(contract)
    pixels = np.arange(256, dtype=np.float64)[None, :] / 255.0
    mean = np.asarray(contract.normalize.mean, np.float64)[:, None]
    std = np.asarray(contract.normalize.std, np.float64)[:, None]
    quantized = round_half_away((pixels - mean) / std / scale) + zero_point
    table: I8 = np.clip(quantized, -128, 127).astype(np.int8)
    return table


def quantize_pixels(images: U8, contract: Contract) -> I8:
    """uint8 (..., C) -> int8 (..., C) by `pixel_table`."""
    table = pixel_table(contract)
    quantized: I8 = table[np.arange(table.shape[0]), images]
    return quantized
