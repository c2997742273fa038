"""A float graph held against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from float_eval import evaluate
from onnx_models import F32, nhwc, run
from tolerances import LOGITS_ABS

from ndtool.export.graph import ir
from ndtool.export.graph.from_onnx import read_onnx


def random_input(data: bytes, seed: int = 3) -> F32:
    """One image for the model, standard deviation 2."""
    dims = onnx.ModelProto.FromString(data).graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value or 1 for dim in dims]
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def agree(data: bytes) -> ir.FloatGraph:
    """The graph, once every tensor of it equals the ONNX tensor that it names as its source."""
    graph = read_onnx(data, where="test.onnx")
    x = random_input(data)
    values = evaluate(graph, {graph.inputs[0]: nhwc(x)})
    computed = [t for t in graph.tensors.values() if t.data is None and t.name != graph.inputs[0]]
    expected = run(data, x, [t.source for t in computed])
    flattened = {op.out for op in graph.ops if isinstance(op, ir.Reshape)}
    for tensor, wanted in zip(computed, expected, strict=True):
        found, shown = values[tensor.name], nhwc(wanted)
        if tensor.name in flattened:  # the same values, H,W,C instead of C,H,W
            found, shown = np.sort(found, axis=None), np.sort(shown, axis=None)
        size = max(1.0, float(np.abs(shown).max()))  # hidden tensors may be far above 1
        np.testing.assert_allclose(
            found, shown, rtol=0, atol=LOGITS_ABS * size, err_msg=tensor.name
        )
    assert np.ptp(values[graph.outputs[0]]) > 0.01, "the model ignores its input"
    return graph


def kinds(graph: ir.FloatGraph) -> list[str]:
    """Class names of the operations, with the kind of unary and binary ones."""
    return [
        op.kind.value if isinstance(op, ir.Unary | ir.Binary) else type(op).__name__
        for op in graph.ops
    ]


def only(graph: ir.FloatGraph) -> Any:
    """The one operation of the graph."""
    (op,) = graph.ops
    return op
