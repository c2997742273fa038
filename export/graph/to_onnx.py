"""An ArchSpec and its weights written as ONNX with onnx's own helpers (design, 7).

Standard operators only: Conv, Relu, Clip, HardSigmoid, HardSwish, ReduceMean, Mul, Add, Gemm.
Opset 17, IR 8: the last pair in which ReduceMean has its axes as an attribute, so that every
number is in sight in a viewer; onnxruntime reads it since 1.12, and HardSwish is in since 14.
No exporter, doc string, version or time stamp in between: same weights, same bytes, everywhere.

Names: a layer's node and output tensor have the layer's name; where an activation follows, the
convolution's own output is `NAME.pre` and the activation's node `NAME.act`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ndtool.arch import INPUT, LOGITS, Act, ArchSpec, Layer, LayerOp, lower, same_padding
from ndtool.errors import require
from ndtool.export.graph.weights import fold_tensors

if TYPE_CHECKING:
    from onnx import NodeProto

OPSET: Final = 17
IR_VERSION: Final = 8
OUTPUT: Final = "logits"
BATCH: Final = "batch"
_SIXTH: Final = float(np.float32(1 / 6))  # torch's hard sigmoid; ONNX's own default is 0.2


def write_onnx(spec: ArchSpec, tensors: Mapping[str, NDArray[np.float32]]) -> bytes:
    """The network as an ONNX file: input (batch, c, h, w) float32, normalised; output logits.

    Args:
        tensors: by the names and shapes of `ndtool.arch.Layer`; batch norm is folded here.

    Raises:
        InputError: a tensor does not fit the spec.
        UnsupportedError: NaN or infinite weights.
    """
    onnx = require("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    folded = fold_tensors(spec, tensors)
    layers = lower(spec)
    weights = [onnx.numpy_helper.from_array(values, name) for name, values in folded.items()]
    if any(layer.act is Act.RELU6 for layer in layers):
        bounds = {"clip.min": np.float32(0), "clip.max": np.float32(6)}
        weights += [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in bounds.items()]
    image = (BATCH, spec.in_channels, spec.height_px, spec.width_px)
    shapes = [
        helper.make_tensor_value_info(_tensor(layer.name), float32, _shape(layer))
        for layer in layers
    ]
    graph = helper.make_graph(
        [node for layer in layers for node in _nodes(layer)],
        "ndtool",
        [helper.make_tensor_value_info(INPUT, float32, image)],
        shapes[-1:],
        weights,
        value_info=shapes[:-1],
    )
    model = helper.make_model(
        graph,
        producer_name="ndtool",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _tensor(layer_name: str) -> str:
    """Name of the tensor that a layer gives."""
    return OUTPUT if layer_name == LOGITS else layer_name


def _shape(layer: Layer) -> tuple[str | int, ...]:
    """NCHW shape of the layer's output."""
    if layer.op is LayerOp.LINEAR or (layer.op is LayerOp.MEAN and not layer.keep_dims):
        return (BATCH, layer.c_out)
    return (BATCH, layer.c_out, *layer.hw_out)


def _nodes(layer: Layer) -> list[NodeProto]:
    """The layer's node, and its activation's when it has one."""
    out = _tensor(layer.name)
    if layer.act is Act.NONE:
        return [_main_node(layer, out)]
    before = f"{layer.name}.pre"
    return [_main_node(layer, before), _activation_node(layer, before, out)]


def _main_node(layer: Layer, out: str) -> NodeProto:
    name = layer.name
    inputs = [_tensor(given) for given in layer.inputs]
    parameters = [*inputs, f"{name}.weight", f"{name}.bias"]
    match layer.op:
        case LayerOp.CONV | LayerOp.DEPTHWISE:
            (top, bottom), (left, right) = (
                same_padding(size, layer.kernel, layer.stride) for size in layer.hw_in
            )
            return _node(
                "Conv",
                parameters,
                out,
                name,
                group=layer.c_out if layer.op is LayerOp.DEPTHWISE else 1,
                kernel_shape=[layer.kernel] * 2,
                pads=[top, left, bottom, right],
                strides=[layer.stride] * 2,
            )
        case LayerOp.LINEAR:
            return _node("Gemm", parameters, out, name, transB=1)
        case LayerOp.MEAN:
            return _node("ReduceMean", inputs, out, name, axes=[2, 3], keepdims=layer.keep_dims)
        case LayerOp.ADD:
            return _node("Add", inputs, out, name)
        case LayerOp.MUL:
            return _node("Mul", inputs, out, name)


def _activation_node(layer: Layer, x: str, out: str) -> NodeProto:
    name = f"{layer.name}.act"
    match layer.act:
        case Act.RELU:
            return _node("Relu", [x], out, name)
        case Act.RELU6:
            return _node("Clip", [x, "clip.min", "clip.max"], out, name)
        case Act.HARD_SWISH:
            return _node("HardSwish", [x], out, name)
        case Act.HARD_SIGMOID:
            return _node("HardSigmoid", [x], out, name, alpha=_SIXTH, beta=0.5)
        case Act.NONE:
            raise AssertionError("a layer without activation has no activation node")


def _node(op: str, inputs: list[str], out: str, name: str, **attributes: Any) -> NodeProto:
    node: NodeProto = require("onnx").helper.make_node(op, inputs, [out], name, **attributes)
    return node
