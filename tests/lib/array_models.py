"""Small models for the code generator: any bytes as the file, a one-op graph, random vectors."""

from __future__ import annotations

import hashlib

import numpy as np

from ndtool.contract import Contract, InputSpec, Normalize, Resize
from ndtool.export.codegen.array import ArrayModel
from ndtool.export.codegen.model import Golden
from ndtool.export.int8.ir import DType, Graph, Softmax, Tensor, TensorId
from ndtool.quant.pixels import input_quantization, quantize_pixels

HEIGHT, WIDTH = 16, 17  # 272 pixels: every value of 0..255 fits in one channel


def tiny_contract(normalize: Normalize, labels: tuple[str, ...] = ("daisy", "rose")) -> Contract:
    """16 x 17 pixels; as many channels as `normalize` has."""
    channels = len(normalize.mean)
    color = "RGB" if channels == 3 else "GRAY"
    spec = InputSpec(height=HEIGHT, width=WIDTH, channels=channels, color=color)
    return Contract(input=spec, resize=Resize(), normalize=normalize, labels=labels)


def tiny_graph(in_shape: tuple[int, ...], scale: float, zero_point: int, classes: int) -> Graph:
    """SOFTMAX of the whole input: enough for names, shapes and scales."""
    x = Tensor(
        name="x", shape=in_shape, dtype=DType.INT8, scales=(scale,), zero_points=(zero_point,)
    )
    y = Tensor(
        name="y", shape=(1, classes), dtype=DType.INT8, scales=(1 / 256,), zero_points=(-128,)
    )
    op = Softmax(x=TensorId(0), out=TensorId(1), beta=1.0)
    return Graph(tensors=(x, y), ops=(op,), inputs=(TensorId(0),), outputs=(TensorId(1),))


def tiny_model(
    contract: Contract | None, *, prefix: str = "nd_model", file_bytes: int = 1000
) -> ArrayModel:
    """Two golden vectors, a file of `file_bytes` arbitrary bytes."""
    rng = np.random.default_rng(1)
    if contract is None:
        shape: tuple[int, ...] = (1, 7)
        graph = tiny_graph(shape, 0.5, 83, 3)
        pixels = None
        inputs = rng.integers(-128, 128, (2, *shape[1:])).astype(np.int8)
        classes = 3
    else:
        spec = contract.input
        shape = (1, spec.height, spec.width, spec.channels)
        classes = contract.num_classes
        graph = tiny_graph(shape, *input_quantization(contract), classes)
        pixels = rng.integers(0, 256, (2, *shape[1:])).astype(np.uint8)
        inputs = quantize_pixels(pixels, contract)
    outputs = rng.integers(-128, 128, (2, classes)).astype(np.int8)
    return ArrayModel(
        tflite=hashlib.shake_256(b"model").digest(file_bytes),
        graph=graph,
        prefix=prefix,
        contract=contract,
        golden=Golden(
            pixels=pixels,
            inputs=inputs.reshape(2, -1),
            outputs=outputs,
            engine="engine 1.0",
            origin="random",
        ),
        arena_bytes=4096,
        tool_version="0.1.0",
    )
