"""The TFLite schema: its generated module, and the facts that the schema does not state."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from ndtool.errors import ToolMissingError, require

IDENTIFIER: Final = b"TFL3"
SCHEMA_VERSION: Final = 3
BUFFER_ALIGN: Final = 16  # of constants: TFLM on a Cortex-M reads int32 biases in place


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
