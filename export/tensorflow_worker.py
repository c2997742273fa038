"""TFLiteConverter in a process of its own: `python -m ndtool.export.tensorflow_worker FOLDER FC`.

Reads FOLDER/graph.json, weights.npz and calibration.npy, writes FOLDER/model.tflite. The graph is
walked with tf.nn on constants inside a tf.Module: batch 1 and no Keras, so that no SHAPE, PACK or
READ_VARIABLE appears (quantisation, 9; stack, 1.7). Nothing is pickled.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ndtool.errors import require
from ndtool.export.graph import ir
from ndtool.export.int8.convert import padding_kind
from ndtool.export.int8.ir import PaddingKind
from ndtool.types import FcScales

F32 = NDArray[np.float32]

OP_CLASSES: Final[Mapping[str, type[ir.FloatOp]]] = {
    cls.__name__: cls
    for cls in (
        ir.Conv,
        ir.FullyConnected,
        ir.Mean,
        ir.Binary,
        ir.Unary,
        ir.Pool,
        ir.Pad,
        ir.Reshape,
        ir.Concat,
        ir.Softmax,
    )
}


def pool_padding(graph: ir.FloatGraph, op: ir.Pool) -> PaddingKind | None:
    """Name of the pool's padding; None where TensorFlow has none for it."""
    rows, columns = zip(op.kernel, op.stride, (1, 1), strict=True)
    return padding_kind(graph.tensors[op.x].shape, rows, columns, op.padding)


def load_graph(folder: Path) -> ir.FloatGraph:
    """The graph that `tensorflow_converter.save_graph` wrote."""
    import pydantic

    document = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
    with np.load(folder / "weights.npz", allow_pickle=False) as weights:
        tensors = {
            row["name"]: ir.FloatTensor(
                name=row["name"],
                shape=tuple(row["shape"]),
                data=None if row["weight"] is None else weights[row["weight"]],
            )
            for row in document["tensors"]
        }
    ops = tuple(
        pydantic.TypeAdapter(OP_CLASSES[row["kind"]]).validate_json(json.dumps(row["fields"]))
        for row in document["ops"]
    )
    return ir.FloatGraph(
        tensors=tensors,
        ops=ops,
        inputs=tuple(document["inputs"]),
        outputs=tuple(document["outputs"]),
    )


class Walk:
    """One pass over the graph in TensorFlow; `values` holds every tensor made so far."""

    def __init__(self, tf: Any, graph: ir.FloatGraph, x: Any) -> None:
        self.tf, self.graph = tf, graph
        self.values: dict[str, Any] = {graph.inputs[0]: x}

    def result(self) -> Any:
        """The graph's only output."""
        for op in self.graph.ops:
            value = self._op(op)
            shape = self.graph.tensors[op.out].shape
            self.values[op.out] = value if value.shape == shape else self.tf.reshape(value, shape)
        return self.values[self.graph.outputs[0]]

    def _value(self, name: str) -> Any:
        data = self.graph.tensors[name].data
        return self.values[name] if data is None else self.tf.constant(data)

    def _constant(self, name: str) -> F32:
        data = self.graph.tensors[name].data
        assert data is not None, name
        return data

    def _op(self, op: ir.FloatOp) -> Any:
        tf = self.tf
        match op:
            case ir.Conv():
                return self._conv(op)
            case ir.FullyConnected():
                weight = self._constant(op.weight)  # (c_out, c_in)
                x = tf.reshape(self._value(op.x), (1, weight.shape[1]))
                sums = tf.nn.bias_add(tf.matmul(x, weight.T), self._constant(op.bias))
                return self._activate(sums, op.act)
            case ir.Mean():
                return tf.reduce_mean(self._value(op.x), (1, 2), keepdims=op.keep_dims)
            case ir.Binary():
                calls = {
                    ir.BinaryKind.ADD: tf.add,
                    ir.BinaryKind.SUB: tf.subtract,
                    ir.BinaryKind.MUL: tf.multiply,
                }
                return self._activate(calls[op.kind](self._value(op.a), self._value(op.b)), op.act)
            case ir.Unary():
                return self._unary(op)
            case ir.Pool():
                pool = tf.nn.max_pool2d if op.is_max else tf.nn.avg_pool2d
                scheme = pool_padding(self.graph, op)
                assert scheme is not None, op.name
                return pool(self._value(op.x), op.kernel, op.stride, scheme.value)
            case ir.Pad():
                return self._pad(self._value(op.x), op.padding)
            case ir.Reshape():
                return tf.reshape(self._value(op.x), self.graph.tensors[op.out].shape)
            case ir.Concat():
                return tf.concat([self._value(x) for x in op.xs], op.axis)
            case ir.Softmax():
                return tf.nn.softmax(self._value(op.x))

    def _conv(self, op: ir.Conv) -> Any:
        tf = self.tf
        x, weight = self._value(op.x), self._constant(op.weight)  # (c_out, kh, kw, c_in)
        kernel = (weight.shape[1], weight.shape[2])
        rows, columns = zip(kernel, op.stride, op.dilation, strict=True)
        scheme = padding_kind(tuple(x.shape), rows, columns, op.padding)
        if scheme is None:
            x, scheme = self._pad(x, op.padding), PaddingKind.VALID
        strides = (1, *op.stride, 1)
        if op.depthwise:
            hwcm = weight.reshape(*kernel, x.shape[3], -1)  # (kh, kw, c_in, multiplier)
            sums = tf.nn.depthwise_conv2d(x, hwcm, strides, scheme.value, dilations=op.dilation)
        else:
            hwio = weight.transpose(1, 2, 3, 0)
            sums = tf.nn.conv2d(x, hwio, strides, scheme.value, dilations=op.dilation)
        return self._activate(tf.nn.bias_add(sums, self._constant(op.bias)), op.act)

    def _pad(self, x: Any, padding: ir.Padding) -> Any:
        rows, columns = (padding.top, padding.bottom), (padding.left, padding.right)
        return self.tf.pad(x, ((0, 0), rows, columns, (0, 0)))

    def _activate(self, x: Any, act: ir.Fused) -> Any:
        tf = self.tf
        match act:
            case ir.Fused.NONE:
                return x
            case ir.Fused.RELU:
                return tf.nn.relu(x)
            case ir.Fused.RELU6:
                return tf.nn.relu6(x)
            case ir.Fused.CLIP_0_1:
                # The 6 goes into the weights and RELU6 is fused; clip_by_value(x, 0, 1) would
                # become MINIMUM on the unclamped range and an own RELU.
                return tf.nn.relu6(x * 6.0) * (1.0 / 6.0)
            case ir.Fused.CLIP_N1_1:
                return tf.clip_by_value(x, -1.0, 1.0)  # fused as RELU_N1_TO_1

    def _unary(self, op: ir.Unary) -> Any:
        tf, x = self.tf, self._value(op.x)
        match op.kind:
            case ir.UnaryKind.HARD_SWISH:
                return x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)  # one HARD_SWISH in the file
            case ir.UnaryKind.LOGISTIC:
                return tf.sigmoid(x)
            case ir.UnaryKind.TANH:
                return tf.tanh(x)
            case ir.UnaryKind.LEAKY_RELU:
                return tf.nn.leaky_relu(x, op.alpha)
            case ir.UnaryKind.RELU:
                return tf.nn.relu(x)
            case ir.UnaryKind.RELU6:
                return tf.nn.relu6(x)


def convert(graph: ir.FloatGraph, calibration: F32, fc: FcScales) -> bytes:
    """Full-integer .tflite of `graph`; calibration: (N, H, W, C), one image a step."""
    tf = require("tensorflow")
    (name,) = graph.inputs
    shape = graph.tensors[name].shape
    module = tf.Module()
    signature = [tf.TensorSpec(shape, tf.float32, name="input")]
    function = tf.function(
        lambda x: Walk(tf, graph, x).result(), input_signature=signature, autograph=False
    )

    def images() -> Iterator[list[F32]]:
        for image in calibration:
            yield [image[None]]

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], module
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    # The only switch for one scale a dense layer, which old TFLM releases need (quantisation, 9).
    converter._experimental_disable_per_channel_quantization_for_dense_layers = (
        fc is FcScales.PER_TENSOR
    )
    model: bytes = converter.convert()
    return model


def main(argv: list[str]) -> None:
    """See the module's first lines."""
    name, fc = argv
    folder = Path(name)
    calibration = np.load(folder / "calibration.npy", allow_pickle=False)
    (folder / "model.tflite").write_bytes(convert(load_graph(folder), calibration, FcScales(fc)))


if __name__ == "__main__":
    main(sys.argv[1:])
