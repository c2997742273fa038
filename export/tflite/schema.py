"""The TFLite schema: its generated module, and the facts that the schema does not state."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Final

from ndtool.errors import ToolMissingError, require

IDENTIFIER: Final = b"TFL3"
SCHEMA_VERSION: Final = 3
BUFFER_ALIGN: Final = 16  # of constants: TFLM on a Cortex-M reads int32 biases in place

# Operator versions for int8 that LiteRT accepts; TFLM does not look (quantisation, section 4).
OPERATOR_VERSION: Final[Mapping[str, int]] = {
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
    "SOFTMAX": 2,
    "SUB": 2,
    "TANH": 2,
}
FC_PER_CHANNEL_VERSION: Final = 12


def load_schema() -> ModuleType:
    """The generated schema classes: LiteRT's, or tflite_micro's copy of the same.

    Raises:
        ToolMissingError: neither package is installed.
    """
    try:
        return require("ai_edge_litert.schema_py_generated")
    except ToolMissingError:
        try:
            return require("tflite_micro.tensorflow.lite.micro.python.schema_py_generated")
        except ToolMissingError:
            pass
        raise


def enum_names(enum: object) -> dict[int, str]:
    """Value to name of one of the schema's enumerations."""
    return {v: k for k, v in vars(enum).items() if not k.startswith("_")}
