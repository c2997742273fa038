"""The second converter: its int8 files, run by tflite_micro, against the float graph."""

import math
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from float_eval import evaluate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndtool.contract import Contract, InputSpec, Resize, mean_std_normalize, unit_normalize
from ndtool.errors import ToolMissingError, UnsupportedError
from ndtool.export import tensorflow_converter
from ndtool.export.graph import ir
from ndtool.export.runners import run_int8
from ndtool.export.tensorflow_converter import convert_with_tensorflow, pin_range, save_graph
from ndtool.export.tensorflow_worker import load_graph
from ndtool.quant.pixels import input_quantization
from ndtool.types import FcScales, Runtime

F32 = NDArray[np.float32]

needs_tensorflow = pytest.mark.skipif(
    find_spec("tensorflow") is None, reason="pip install 'ndtool[tensorflow]'"
)


def contract(side: int = 12, *, imagenet: bool = False) -> Contract:
    norm = unit_normalize(3)
    if imagenet:
        norm = mean_std_normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Contract(
        input=InputSpec(height=side, width=side, channels=3, color="RGB"),
        resize=Resize(),
        normalize=norm,
        labels=tuple("abcdefgh"),
    )


class Builder:
    """Float graph with random weights; every method returns the name of the tensor it made."""

    def __init__(self, side: int = 12, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors = {"input": ir.FloatTensor(name="input", shape=(1, side, side, 3))}
        self.ops: list[ir.FloatOp] = []

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def constant(self, *shape: int, size: float = 1.0) -> str:
        name = f"c{len(self.tensors)}"
        data = (size * self.rng.standard_normal(shape)).astype(np.float32)
        self.tensors[name] = ir.FloatTensor(name=name, shape=shape, data=data)
        return name

    def made(self, *shape: int) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = ir.FloatTensor(name=name, shape=shape)
        return name

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        pad: tuple[int, int] = (0, 0),
        act: ir.Fused = ir.Fused.NONE,
        depthwise: bool = False,
    ) -> str:
        """`pad`: before and after, on both axes."""
        _, h, w, c = self.shape(x)
        weight_shape = (1, kernel, kernel, channels) if depthwise else (channels, kernel, kernel, c)
        fan_in = kernel * kernel * (1 if depthwise else c)
        reach = (kernel - 1) * dilation + 1
        h, w = ((n + sum(pad) - reach) // stride + 1 for n in (h, w))
        op = ir.Conv(
            name=f"op{len(self.ops)}",
            x=x,
            weight=self.constant(*weight_shape, size=fan_in**-0.5),
            bias=self.constant(channels, size=0.2),
            out=self.made(1, h, w, channels),
            depthwise=depthwise,
            stride=(stride, stride),
            dilation=(dilation, dilation),
            padding=ir.Padding(top=pad[0], left=pad[0], bottom=pad[1], right=pad[1]),
            act=act,
        )
        self.ops.append(op)
        return op.out

    def fc(self, x: str, channels: int, act: ir.Fused = ir.Fused.NONE) -> str:
        c = self.shape(x)[-1]
        op = ir.FullyConnected(
            name=f"op{len(self.ops)}",
            x=x,
            weight=self.constant(channels, c, size=c**-0.5),
            bias=self.constant(channels, size=0.2),
            out=self.made(1, channels),
            act=act,
        )
        self.ops.append(op)
        return op.out

    def binary(self, kind: ir.BinaryKind, a: str, b: str, act: ir.Fused = ir.Fused.NONE) -> str:
        shape = np.broadcast_shapes(self.shape(a), self.shape(b))
        op = ir.Binary(
            name=f"op{len(self.ops)}", kind=kind, a=a, b=b, out=self.made(*shape), act=act
        )
        self.ops.append(op)
        return op.out

    def unary(self, kind: ir.UnaryKind, x: str, alpha: float = 0.0) -> str:
        op = ir.Unary(
            name=f"op{len(self.ops)}", kind=kind, x=x, out=self.made(*self.shape(x)), alpha=alpha
        )
        self.ops.append(op)
        return op.out

    def mean(self, x: str, *, keep_dims: bool) -> str:
        c = self.shape(x)[-1]
        out = self.made(1, 1, 1, c) if keep_dims else self.made(1, c)
        self.ops.append(ir.Mean(name=f"op{len(self.ops)}", x=x, out=out, keep_dims=keep_dims))
        return out

    def pool(self, x: str, *, is_max: bool, kernel: int, stride: int, pad: tuple[int, int]) -> str:
        _, h, w, c = self.shape(x)
        h, w = ((n + sum(pad) - kernel) // stride + 1 for n in (h, w))
        op = ir.Pool(
            name=f"op{len(self.ops)}",
            x=x,
            out=self.made(1, h, w, c),
            is_max=is_max,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=ir.Padding(top=pad[0], left=pad[0], bottom=pad[1], right=pad[1]),
        )
        self.ops.append(op)
        return op.out

    def pad(self, x: str) -> str:
        _, h, w, c = self.shape(x)
        op = ir.Pad(
            name=f"op{len(self.ops)}",
            x=x,
            out=self.made(1, h + 3, w + 1, c),
            padding=ir.Padding(top=1, left=0, bottom=2, right=1),
        )
        self.ops.append(op)
        return op.out

    def reshape(self, x: str, *shape: int) -> str:
        op = ir.Reshape(name=f"op{len(self.ops)}", x=x, out=self.made(*shape))
        self.ops.append(op)
        return op.out

    def concat(self, *xs: str) -> str:
        *shape, _ = self.shape(xs[0])
        out = self.made(*shape, sum(self.shape(x)[-1] for x in xs))
        self.ops.append(ir.Concat(name=f"op{len(self.ops)}", xs=xs, out=out, axis=3))
        return out

    def softmax(self, x: str) -> str:
        op = ir.Softmax(name=f"op{len(self.ops)}", x=x, out=self.made(*self.shape(x)))
        self.ops.append(op)
        return op.out

    def graph(self, out: str) -> ir.FloatGraph:
        return ir.FloatGraph(
            tensors=self.tensors, ops=tuple(self.ops), inputs=("input",), outputs=(out,)
        )


# --- graphs ---------------------------------------------------------------------------------------


def residual_net() -> ir.FloatGraph:
    """What our own families are made of: depthwise, residual, squeeze-excite, hard-swish."""
    b = Builder()
    x = b.conv("input", 8, 3, stride=2, pad=(0, 1), act=ir.Fused.RELU6)  # SAME at stride 2
    y = b.conv(x, 8, 3, pad=(1, 1), depthwise=True, act=ir.Fused.RELU)
    y = b.conv(y, 8)
    x = b.binary(ir.BinaryKind.ADD, x, y)
    x = b.unary(ir.UnaryKind.HARD_SWISH, b.conv(x, 16))
    gate = b.conv(b.mean(x, keep_dims=True), 8, act=ir.Fused.RELU)
    x = b.binary(ir.BinaryKind.MUL, x, b.conv(gate, 16, act=ir.Fused.CLIP_0_1))
    return b.graph(b.fc(b.mean(x, keep_dims=False), 8))


def odd_net() -> ir.FloatGraph:
    """What other people's networks bring as well."""
    b = Builder(seed=1)
    x = b.conv("input", 6, 5, stride=2, pad=(2, 2), act=ir.Fused.CLIP_N1_1)  # not SAME: PAD
    x = b.conv(x, 12, 3, dilation=2, pad=(2, 2), depthwise=True)  # multiplier 2, dilated
    x = b.unary(ir.UnaryKind.LEAKY_RELU, x, alpha=0.25)
    x = b.conv(x, 8, 3, dilation=2)
    left = b.pool(b.pad(x), is_max=True, kernel=3, stride=2, pad=(0, 0))  # 5x3 -> 2x1
    right = b.pool(b.pad(x), is_max=False, kernel=3, stride=2, pad=(0, 0))
    x = b.concat(left, right)
    x = b.binary(ir.BinaryKind.SUB, x, b.constant(1, 1, 1, 16, size=0.3), ir.Fused.RELU)
    return b.graph(b.fc(b.reshape(x, 1, math.prod(b.shape(x))), 8))


def images(side: int = 12, count: int = 60) -> F32:
    """Smooth random pictures in steps of 1/255, zeros and ones among them."""
    rng = np.random.default_rng(5)
    coarse = rng.integers(0, 256, (count, 4, 4, 3))
    fine = np.kron(coarse, np.ones((1, side // 4, side // 4, 1), np.int64))
    return (fine / np.float32(255)).astype(np.float32)


def evaluated(graph: ir.FloatGraph, x: F32) -> F32:
    """(N, K) outputs of the float graph by the slow reference."""
    rows = [evaluate(graph, {"input": image[None]})[graph.outputs[0]].ravel() for image in x]
    return np.stack(rows).astype(np.float32)


class Int8File:
    """An int8 .tflite as LiteRT describes it, run by tflite_micro."""

    def __init__(self, model: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        self.model = model
        self.interpreter = Interpreter(
            model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
        )
        self.scale, self.zero_point = self.interpreter.get_input_details()[0]["quantization"]

    def ops(self) -> list[str]:
        return [row["op_name"] for row in self.interpreter._get_ops_details()]

    def weight_scales(self, op: str) -> int:
        """Number of scales of the weights of the first `op`."""
        row = next(row for row in self.interpreter._get_ops_details() if row["op_name"] == op)
        tensors = {t["index"]: t for t in self.interpreter.get_tensor_details()}
        return len(tensors[row["inputs"][1]]["quantization_parameters"]["scales"])

    def outputs(self, x: F32) -> F32:
        """Real outputs (N, K) of float images (N, H, W, C)."""
        q = np.clip(np.round(x / self.scale) + self.zero_point, -128, 127).astype(np.int8)
        ran = run_int8(self.model, q, runtime=Runtime.TFLM, workers=1, progress=lambda done: None)
        scale, zero_point = self.interpreter.get_output_details()[0]["quantization"]
        reals: F32 = np.float32(scale) * (ran.outputs.astype(np.float32) - np.float32(zero_point))
        return reals


# --- the converter --------------------------------------------------------------------------------

RESIDUAL_OPS = (
    "CONV_2D DEPTHWISE_CONV_2D CONV_2D ADD CONV_2D HARD_SWISH MEAN CONV_2D CONV_2D MUL MUL MEAN "
    "FULLY_CONNECTED"
)
ODD_OPS = (
    "PAD CONV_2D DEPTHWISE_CONV_2D LEAKY_RELU CONV_2D PAD MAX_POOL_2D PAD AVERAGE_POOL_2D "
    "CONCATENATION SUB RESHAPE FULLY_CONNECTED"
)


@needs_tensorflow
@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "fc", "ops", "fc_scales"),
    [
        pytest.param(residual_net(), FcScales.PER_CHANNEL, RESIDUAL_OPS, 8, id="residual"),
        pytest.param(odd_net(), FcScales.PER_TENSOR, ODD_OPS, 1, id="odd"),
    ],
)
def test_int8_file_follows_the_float_graph(
    graph: ir.FloatGraph, fc: FcScales, ops: str, fc_scales: int
) -> None:
    x = images()
    made = Int8File(convert_with_tensorflow(graph, x, contract(), fc=fc))
    assert sorted(made.ops()) == sorted(ops.split())
    assert made.weight_scales("FULLY_CONNECTED") == fc_scales
    assert (np.float32(made.scale), made.zero_point) == (np.float32(1 / 255), -128)
    floats, reals = evaluated(graph, x), made.outputs(x)
    # A wrong layout, padding or activation differs by the size of the outputs themselves.
    assert np.abs(reals - floats).mean() < 0.06 * floats.std()


@needs_tensorflow
@pytest.mark.slow
def test_every_activation_keeps_its_meaning() -> None:
    b = Builder(seed=2)
    x = b.conv("input", 8, 3, pad=(1, 1))
    for kind in (ir.UnaryKind.TANH, ir.UnaryKind.LOGISTIC, ir.UnaryKind.RELU6, ir.UnaryKind.RELU):
        x = b.conv(b.unary(kind, x), 8)
    graph = b.graph(b.softmax(b.fc(b.mean(x, keep_dims=False), 8, ir.Fused.RELU6)))
    pixels = images()
    norm = contract(imagenet=True).normalize
    mean, std = np.array(norm.mean, np.float32), np.array(norm.std, np.float32)
    calibration = ((pixels - mean) / std).astype(np.float32)
    made = Int8File(
        convert_with_tensorflow(
            graph, calibration, contract(imagenet=True), fc=FcScales.PER_CHANNEL
        )
    )
    scale, zero_point = input_quantization(contract(imagenet=True))
    assert made.scale == pytest.approx(scale, rel=1e-6)
    assert made.zero_point == zero_point
    assert np.abs(made.outputs(calibration) - evaluated(graph, calibration)).max() < 0.03


@needs_tensorflow
@pytest.mark.slow
def test_a_failure_shows_what_tensorflow_said() -> None:
    b = Builder()
    graph = b.graph(b.reshape("input", 1, 7))  # 432 values do not become 7
    with pytest.raises(UnsupportedError) as caught:
        convert_with_tensorflow(graph, images(), contract(), fc=FcScales.PER_CHANNEL)
    assert caught.value.code == "tensorflow.failed"
    assert "Cannot reshape a tensor with 432 elements" in caught.value.what
    assert "\n" not in str(caught.value)


@needs_tensorflow
def test_a_slow_conversion_is_stopped() -> None:
    with pytest.raises(UnsupportedError, match="did not finish in 0 s"):
        convert_with_tensorflow(
            residual_net(), images(), contract(), fc=FcScales.PER_CHANNEL, timeout_s=0.2
        )


def test_missing_tensorflow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_converter, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ToolMissingError, match=r"ndtool\[tensorflow\]"):
        convert_with_tensorflow(residual_net(), images(), contract(), fc=FcScales.PER_CHANNEL)


def test_all_unsupported_ops_are_named_at_once() -> None:
    b = Builder()
    x = b.conv("input", 3, 3, depthwise=True)
    first = b.ops[-1]
    assert isinstance(first, ir.Conv)
    b.ops[-1] = replace(first, stride=(1, 2))
    x = b.conv(x, 3, 3, stride=2, dilation=2, depthwise=True)
    x = b.pool(x, is_max=True, kernel=2, stride=2, pad=(1, 1))
    with pytest.raises(UnsupportedError) as caught:
        convert_with_tensorflow(b.graph(x), images(), contract(), fc=FcScales.PER_CHANNEL)
    assert [e.where for e in (caught.value, *caught.value.more)] == ["op0", "op1", "op2"]


# --- what goes to the subprocess ------------------------------------------------------------------


@pytest.mark.parametrize("graph", [residual_net(), odd_net()], ids=["residual", "odd"])
def test_the_graph_arrives_as_it_was_sent(tmp_path: Path, graph: ir.FloatGraph) -> None:
    save_graph(graph, tmp_path)
    loaded = load_graph(tmp_path)
    assert loaded.ops == graph.ops
    assert all(type(op.act) is ir.Fused for op in loaded.ops if isinstance(op, ir.Conv))
    assert (loaded.inputs, loaded.outputs) == (graph.inputs, graph.outputs)
    assert list(loaded.tensors) == list(graph.tensors)
    for name, tensor in graph.tensors.items():
        assert loaded.tensors[name].shape == tensor.shape
        if tensor.data is None:
            assert loaded.tensors[name].data is None
        else:
            np.testing.assert_array_equal(loaded.tensors[name].data, tensor.data)


@given(
    st.lists(st.integers(0, 255), min_size=12, max_size=12),
    st.sampled_from([(0.0, 1.0), (-2.125, 2.625)]),
)
@settings(max_examples=50, derandomize=True, deadline=None)
def test_the_pinned_images_reach_both_ends(pixels: list[int], ends: tuple[float, float]) -> None:
    low, high = ends
    unit = np.array(pixels, np.float32).reshape(3, 2, 2, 1) / np.float32(255)
    x = (low + (high - low) * unit).astype(np.float32)
    pinned = pin_range(x, low, high)
    assert pinned.dtype == np.float32
    assert (pinned.min(), pinned.max()) == ends
    np.testing.assert_array_equal(pinned[:3], x)  # the sample itself stays
    assert len(pinned) == 3 + (x.min() > low) + (x.max() < high)
    for image in pinned[3:]:  # one pixel away from an image of the sample
        assert min(np.count_nonzero(image != old) for old in x) <= 1
