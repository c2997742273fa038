"""The float graph of one of our own networks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ndtool.arch import ArchSpec
from ndtool.export.graph.from_onnx import read_onnx
from ndtool.export.graph.ir import FloatGraph
from ndtool.export.graph.to_onnx import write_onnx


def build_graph(spec: ArchSpec, tensors: Mapping[str, NDArray[np.float32]]) -> FloatGraph:
    """What the rest of the chain reads out of this network's ONNX file.

    There is one way only, through the file's bytes: a graph from a spec and a graph from a run
    folder cannot differ.

    Raises:
        InputError: a tensor is missing, unknown or of another shape.
        UnsupportedError: NaN or infinite weights.
    """
    return read_onnx(write_onnx(spec, tensors), where=f"model {spec.model}")
