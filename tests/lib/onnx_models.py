"""Small ONNX files made node by node, and their outputs by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

F32 = NDArray[np.float32]
IMAGE = ("batch", 3, 8, 8)


def node(op: str, inputs: str, out: str, **attributes: Any) -> onnx.NodeProto:
    """`inputs` and `out` are names joined by spaces; a `-` is an absent optional input."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, out.split(), name=f"{op.lower()}_{out}", **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any] | None = None,
    *,
    image: Sequence[str | int] = IMAGE,
    opset: int = 17,
    output: str = "y",
) -> bytes:
    """An ONNX file with input `x` and output `y`; float constants become float32."""
    initializers = []
    for name, value in (constants or {}).items():
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        initializers.append(onnx.numpy_helper.from_array(array, name))
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        initializers,
    )
    imports = [helper.make_opsetid("", opset)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=8)
    data: bytes = made.SerializeToString()
    return data


def run(data: bytes, x: F32, names: Sequence[str] | None = None) -> list[F32]:
    """Outputs, or the tensors `names`, of onnxruntime without graph optimisation."""
    proto = onnx.ModelProto.FromString(data)
    if names is not None:
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs: list[F32] = session.run(names, {session.get_inputs()[0].name: x})
    return outputs


def nhwc(values: F32) -> F32:
    """(n, c, h, w) -> (n, h, w, c); other ranks as they are."""
    return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values
