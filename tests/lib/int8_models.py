"""Int8 .tflite files of a few operations, written by our own writer."""

import numpy as np

from ndtool.export.int8.ir import (
    Activation,
    Conv2D,
    DType,
    FullyConnected,
    Graph,
    Mean,
    PaddingKind,
    Softmax,
    Tensor,
    TensorId,
)
from ndtool.export.tflite.writer import write_tflite


def f32(value: float) -> float:
    """As a .tflite stores it."""
    return float(np.float32(value))


def activation(name: str, shape: tuple[int, ...], scale: float, zero_point: int) -> Tensor:
    return Tensor(
        name=name,
        shape=shape,
        dtype=DType.INT8,
        scales=(f32(scale),),
        zero_points=(zero_point,),
    )


def constant(name: str, values: np.ndarray, scales: tuple[float, ...] = ()) -> Tensor:
    return Tensor(
        name=name,
        shape=values.shape,
        dtype=DType.INT8 if values.dtype == np.int8 else DType.INT32,
        scales=scales,
        zero_points=(0,) * len(scales),
        data=values.tobytes(),
    )


def tiny_model(classes: int = 3, side: int = 6) -> bytes:
    """(1, side, side, 1) -> CONV_2D 3x3 RELU -> MEAN -> FULLY_CONNECTED (1, classes)."""
    rng = np.random.default_rng(0)
    pixel, weight, hidden = map(f32, (1 / 255, 0.01, 0.05))
    tensors = (
        activation("input", (1, side, side, 1), pixel, -128),
        constant("conv/weight", rng.integers(-127, 128, (4, 3, 3, 1), np.int8), (weight,) * 4),
        constant("conv/bias", rng.integers(-9999, 9999, 4, np.int32), (f32(pixel * weight),) * 4),
        activation("conv", (1, side, side, 4), hidden, -128),
        constant("mean/axes", np.array([1, 2], np.int32)),
        activation("mean", (1, 4), hidden, -128),
        constant("fc/weight", rng.integers(-127, 128, (classes, 4), np.int8), (weight,) * classes),
        constant("fc/bias", np.zeros(classes, np.int32), (f32(hidden * weight),) * classes),
        activation("logits", (1, classes), 0.1, 3),
    )
    ids = [TensorId(i) for i in range(len(tensors))]
    ops = (
        Conv2D(
            x=ids[0],
            weight=ids[1],
            bias=ids[2],
            out=ids[3],
            stride=(1, 1),
            dilation=(1, 1),
            padding=PaddingKind.SAME,
            act=Activation.RELU,
        ),
        Mean(x=ids[3], axes_id=ids[4], out=ids[5], axes=(1, 2), keep_dims=False),
        FullyConnected(
            x=ids[5],
            weight=ids[6],
            bias=ids[7],
            out=ids[8],
            act=Activation.NONE,
            keep_num_dims=False,
        ),
    )
    graph = Graph(tensors=tensors, ops=ops, inputs=(ids[0],), outputs=(ids[8],))
    return write_tflite(graph, description="test")


def softmax_model() -> bytes:
    """(1, 1, 1, 4), scale .1 -> SOFTMAX."""
    x, out = TensorId(0), TensorId(1)
    tensors = (
        activation("input", (1, 1, 1, 4), 0.1, 0),
        activation("probabilities", (1, 1, 1, 4), 1 / 256, -128),
    )
    graph = Graph(
        tensors=tensors, ops=(Softmax(x=x, out=out, beta=1.0),), inputs=(x,), outputs=(out,)
    )
    return write_tflite(graph, description="test")


def aborting_model() -> bytes:
    """`softmax_model` with an input scale at which the reference kernels abort (stack, 1.5).

    Our writer refuses such a scale, so the bytes are edited.
    """
    model, before = softmax_model(), np.float32(0.1).tobytes()
    assert model.count(before) == 1
    return model.replace(before, np.float32(7.8e-9).tobytes())
