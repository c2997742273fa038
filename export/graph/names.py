"""One name for people: a tensor of the .tflite, in ONNX, and as a module of the torch network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ndtool.arch import LOGITS, ArchSpec, lower
from ndtool.export.graph.ir import FloatGraph
from ndtool.export.graph.to_onnx import OUTPUT

_PARTS: Final = (".weight", ".bias", ".pre")


def tensor_names(graph: FloatGraph, spec: ArchSpec | None) -> list[dict[str, str]]:
    """Rows of tensors.json in graph order, with keys `tflite`, `onnx`, `torch`.

    `tflite` is the name in our graph, which the converters keep. `onnx` is "" for a constant that
    the ONNX file does not hold (an absent bias), `torch` where no module is known: the input, and
    any network that is not ours (`spec` None).
    """
    modules = {layer.name for layer in lower(spec)} if spec is not None else set()
    return [
        {"tflite": tensor.name, "onnx": tensor.source, "torch": _module(tensor.name, modules)}
        for tensor in graph.tensors.values()
    ]


def _module(tensor: str, modules: Iterable[str]) -> str:
    name = LOGITS if tensor == OUTPUT else tensor
    for part in _PARTS:
        name = name.removesuffix(part)
    return name if name in modules else ""
