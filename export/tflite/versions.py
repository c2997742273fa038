"""Which version of each operator an int8 file needs; TFLM does not look (quantisation, section 4).

tensorflow/lite/tools/versioning/op_version.cc: LiteRT refuses versions that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ndtool.export.int8 import derive
from ndtool.export.int8.ir import FullyConnected, Graph, Op, ResizeNearest, op_name

_VERSION: Final[Mapping[str, int]] = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "HARD_SWISH": 1,
    "LEAKY_RELU": 2,
    "LOGISTIC": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MUL": 2,
    "PAD": 2,
    "QUANTIZE": 2,
    "RELU": 2,
    "RELU6": 2,
    "RESHAPE": 1,
    "RESIZE_NEAREST_NEIGHBOR": 2,
    "SOFTMAX": 2,
    "SPLIT": 2,
    "SQUEEZE": 1,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "TANH": 2,
}
_FC_PER_CHANNEL: Final = 12
_RESIZE_CENTERS: Final = 3  # with align_corners or half_pixel_centers


def operator_version(graph: Graph, op: Op) -> int:
    """The least version that `op` of `graph` needs."""
    if isinstance(op, FullyConnected) and not derive.is_per_tensor_fc(graph, op):
        return _FC_PER_CHANNEL
    if isinstance(op, ResizeNearest) and (op.align_corners or op.half_pixel_centers):
        return _RESIZE_CENTERS
    return _VERSION[op_name(op)]
