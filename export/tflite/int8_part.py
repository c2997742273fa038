"""The part of a .tflite that computes on int8, as a file of its own."""

from __future__ import annotations

from dataclasses import replace

from ndtool.export.int8.ir import DType, Tensor
from ndtool.export.int8.rules.tensors import referenced
from ndtool.export.tflite.reader import read_model
from ndtool.export.tflite.writer import write_tflite


def int8_part(data: bytes, *, where: str = ".tflite file") -> bytes:
    """The file as it is; one with float inputs or outputs without its QUANTIZE and DEQUANTIZE.

    What a generated project ships and is compared with: its inputs and outputs are those of the C
    interface. Tensor numbers are the file's.

    Raises:
        As `read_model`; ToolMissingError: the extra `export` is not installed.
    """
    model = read_model(data, where=where)
    if not model.has_float_ends:
        return data
    graph, used = model.graph, set(referenced(model.graph))
    # TFLM gives arena to tensors that nothing uses: of those, one byte is left
    nothing = Tensor(name="", shape=(1,), dtype=DType.INT8)
    tensors = tuple(t if i in used else nothing for i, t in enumerate(graph.tensors))
    return write_tflite(replace(graph, tensors=tensors), description="int8 part")
