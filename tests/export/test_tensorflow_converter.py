"""The second converter: its int8 files, run by tflite_micro, against the float graph."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from float_eval import evaluate
from float_graphs import Maker, measured_ranges
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndtool.contract import Contract, InputSpec, Resize, mean_std_normalize, unit_normalize
from ndtool.errors import ToolMissingError, UnsupportedError
from ndtool.export import tensorflow_converter
from ndtool.export.graph import ir
from ndtool.export.int8.convert import ConvertOptions, convert
from ndtool.export.int8.ir import FullyConnected, op_name
from ndtool.export.runners import run_int8
from ndtool.export.tensorflow_converter import (
    convert_with_tensorflow,
    input_ends,
    pin_range,
    save_graph,
)
from ndtool.export.tensorflow_worker import load_graph
from ndtool.export.tflite.lint import lint
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite
from ndtool.quant.pixels import input_quantization, normalize_pixels
from ndtool.types import Converter, FcScales, Runtime

F32 = NDArray[np.float32]
SIDE = 12

needs_tensorflow = pytest.mark.usefixtures("tensorflow", "tflite_micro")


def contract(*, imagenet: bool = False) -> Contract:
    norm = unit_normalize(3)
    if imagenet:
        norm = mean_std_normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Contract(
        input=InputSpec(height=SIDE, width=SIDE, channels=3, color="RGB"),
        resize=Resize(),
        normalize=norm,
        labels=tuple("abcdefgh"),
    )


def residual_net() -> ir.FloatGraph:
    """What our own families are made of: depthwise, residual, squeeze-excite, hard-swish."""
    m = Maker()
    x = m.conv(m.input(1, SIDE, SIDE, 3), 8, stride=(2, 2), act=ir.Fused.RELU6)
    y = m.conv(x, 8, depthwise=True, act=ir.Fused.RELU)
    x = m.binary(ir.BinaryKind.ADD, x, m.conv(y, 8, (1, 1)))
    x = m.unary(ir.UnaryKind.HARD_SWISH, m.conv(x, 16, (1, 1)))
    gate = m.conv(m.mean(x, keep_dims=True), 8, (1, 1), act=ir.Fused.RELU)
    gate = m.conv(gate, 16, (1, 1), act=ir.Fused.CLIP_0_1)
    x = m.binary(ir.BinaryKind.MUL, x, gate)
    m.fully_connected(m.mean(x, keep_dims=False), 8)
    return m.graph()


def odd_net() -> ir.FloatGraph:
    """What other people's networks bring as well."""
    m = Maker(seed=1)
    around = ir.Padding(top=2, left=2, bottom=2, right=2)  # not SAME at stride 2: a PAD
    x = m.input(1, SIDE, SIDE, 3)
    x = m.conv(x, 6, (5, 5), (2, 2), padding=around, act=ir.Fused.CLIP_N1_1)
    x = m.conv(x, 12, dilation=(2, 2), depthwise=True)  # multiplier 2
    x = m.unary(ir.UnaryKind.LEAKY_RELU, x, alpha=0.25)
    x = m.conv(x, 8, dilation=(2, 2), padding=ir.Padding(top=0, left=0, bottom=0, right=0))
    aside = ir.Padding(top=1, left=0, bottom=2, right=1)
    left = m.pool(m.pad(x, aside), (3, 3), (2, 2), is_max=True)
    right = m.pool(m.pad(x, aside), (3, 3), (2, 2), is_max=False)
    x = m.concat(left, right)
    shift = m.constant(0.3 * np.random.default_rng(2).standard_normal((1, 1, 1, 16)))
    x = m.binary(ir.BinaryKind.SUB, x, shift, ir.Fused.RELU)
    m.fully_connected(m.reshape(x, 1, math.prod(m.shape(x))), 8)
    return m.graph()


def images(count: int = 60) -> F32:
    """Smooth random pictures in steps of 1/255."""
    coarse = np.random.default_rng(5).integers(0, 256, (count, 4, 4, 3))
    fine = np.kron(coarse, np.ones((1, SIDE // 4, SIDE // 4, 1), np.int64))
    return (fine / np.float32(255)).astype(np.float32)


def evaluated(graph: ir.FloatGraph, x: F32) -> F32:
    """(N, K) outputs of the float graph by the slow reference."""
    (source,), (out,) = graph.inputs, graph.outputs
    rows = [evaluate(graph, {source: image[None]})[out].ravel() for image in x]
    return np.stack(rows).astype(np.float32)


def real_outputs(model: bytes, x: F32) -> F32:
    """Outputs (N, K) in real numbers of tflite_micro for float images (N, H, W, C)."""
    graph = read_tflite(model)
    fed, given = graph.tensor(graph.inputs[0]), graph.tensor(graph.outputs[0])
    q = np.clip(np.round(x / fed.scale) + fed.zero_point, -128, 127).astype(np.int8)
    ran = run_int8(model, q, runtime=Runtime.TFLM, workers=1, progress=lambda done: None)
    reals: F32 = np.float32(given.scale) * (ran.outputs.astype(np.float32) - given.zero_point)
    return reals


def lint_errors(model: bytes, pixels: Contract) -> list[str]:
    """What is wrong with the file; constants must lie at multiples of 4 bytes, if not of 16."""
    tensors = read_tflite(model).tensors
    assert all(model.index(t.data) % 4 == 0 for t in tensors if t.data and len(t.data) > 8)
    findings = lint(model, pixels, converter=Converter.TENSORFLOW)
    return [f.text for f in findings if f.severity == "error"]


# --- the converter --------------------------------------------------------------------------------

RESIDUAL_OPS = (
    "CONV_2D DEPTHWISE_CONV_2D CONV_2D ADD CONV_2D HARD_SWISH MEAN CONV_2D CONV_2D MUL MUL MEAN "
    "FULLY_CONNECTED"
)
# Both pools have the same padded input, which TensorFlow makes once.
ODD_OPS = (
    "PAD CONV_2D DEPTHWISE_CONV_2D LEAKY_RELU CONV_2D PAD MAX_POOL_2D AVERAGE_POOL_2D "
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
    model = convert_with_tensorflow(graph, x, contract(), fc=fc)
    made = read_tflite(model)
    assert sorted(map(op_name, made.ops)) == sorted(ops.split())
    dense = made.ops[-1]
    assert isinstance(dense, FullyConnected)
    assert len(made.tensor(dense.weight).scales) == fc_scales
    assert lint_errors(model, contract()) == []
    floats, reals = evaluated(graph, x), real_outputs(model, x)
    # A wrong layout, padding or activation differs by the size of the outputs themselves.
    assert np.abs(reals - floats).mean() < 0.06 * floats.std()


@needs_tensorflow
@pytest.mark.slow
def test_every_activation_keeps_its_meaning() -> None:
    m = Maker(seed=2)
    x = m.conv(m.input(1, SIDE, SIDE, 3), 8)
    for kind in (ir.UnaryKind.TANH, ir.UnaryKind.LOGISTIC, ir.UnaryKind.RELU6, ir.UnaryKind.RELU):
        x = m.conv(m.unary(kind, x), 8, (1, 1))
    m.softmax(m.fully_connected(m.mean(x, keep_dims=False), 8, ir.Fused.RELU6))
    graph = m.graph()
    pixels = np.round(images() * 255).astype(np.uint8)
    calibration = normalize_pixels(pixels, contract(imagenet=True))
    model = convert_with_tensorflow(
        graph, calibration, contract(imagenet=True), fc=FcScales.PER_CHANNEL
    )
    assert lint_errors(model, contract(imagenet=True)) == []
    assert np.abs(real_outputs(model, calibration) - evaluated(graph, calibration)).max() < 0.03


@needs_tensorflow
@pytest.mark.slow
def test_min_max_gives_the_integers_of_the_native_converter() -> None:
    """No residual here: TensorFlow measures an ADD's ranges in another way (quantisation, 6)."""
    m = Maker(seed=3)
    x = m.conv(m.input(1, SIDE, SIDE, 3), 8, stride=(2, 2), act=ir.Fused.RELU)
    x = m.conv(x, 8, depthwise=True, act=ir.Fused.RELU)
    x = m.conv(x, 16, (1, 1), act=ir.Fused.RELU)
    m.fully_connected(m.mean(x, keep_dims=False), 8)
    graph, x_float = m.graph(), images()
    ranges = measured_ranges(graph, [image[None] for image in x_float])
    pinned = {graph.inputs[0]: input_quantization(contract())}
    native = write_tflite(
        convert(graph, ranges, ConvertOptions(input=pinned)).graph, description=""
    )
    theirs = convert_with_tensorflow(graph, x_float, contract(), fc=FcScales.PER_CHANNEL)

    def constants(model: bytes) -> set[tuple[tuple[int, ...], bytes]]:
        tensors = read_tflite(model).tensors
        return {(t.shape, t.data) for t in tensors if t.data is not None}

    assert constants(native) == constants(theirs)
    np.testing.assert_allclose(
        real_outputs(native, x_float), real_outputs(theirs, x_float), rtol=1e-5, atol=1e-6
    )


@needs_tensorflow
@pytest.mark.slow
def test_a_failure_shows_what_tensorflow_said() -> None:
    m = Maker()
    m.reshape(m.input(1, SIDE, SIDE, 3), 1, 7)  # 432 values do not become 7
    graph = m.graph()
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
    with pytest.raises(ToolMissingError, match=r"\[tensorflow\]"):
        convert_with_tensorflow(residual_net(), images(), contract(), fc=FcScales.PER_CHANNEL)


def test_all_unsupported_ops_are_named_at_once() -> None:
    m = Maker()
    x = m.conv(m.input(1, SIDE, SIDE, 3), 3, stride=(1, 2), depthwise=True)
    x = m.conv(x, 3, stride=(2, 2), dilation=(2, 2), depthwise=True)
    m.pool(x, padding=ir.Padding(top=1, left=1, bottom=1, right=1), is_max=True)
    graph = m.graph()
    with pytest.raises(UnsupportedError) as caught:
        convert_with_tensorflow(graph, images(), contract(), fc=FcScales.PER_CHANNEL)
    named = [error.where for error in (caught.value, *caught.value.more)]
    assert named == [op.name for op in graph.ops]


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


@given(st.lists(st.integers(0, 255), min_size=12, max_size=12), st.booleans())
@settings(max_examples=50, derandomize=True, deadline=None)
def test_the_pinned_images_reach_both_ends(pixels: list[int], imagenet: bool) -> None:  # noqa: FBT001 (hypothesis)
    wanted = contract(imagenet=imagenet)
    x = normalize_pixels(np.array(pixels, np.uint8).reshape(2, 2, 1, 3), wanted)
    pinned = pin_range(x, wanted)
    assert pinned.dtype == np.float32
    np.testing.assert_allclose((pinned.min(), pinned.max()), wanted.normalize.range, rtol=3e-7)
    np.testing.assert_allclose(pinned[:2], x, rtol=3e-7)  # the sample itself stays
    assert len(pinned) <= 4
    for image in pinned[2:]:  # one value away from an image of the sample
        assert min(np.count_nonzero(image != old) for old in pinned[:2]) == 1


def test_a_sample_with_black_and_white_is_not_changed() -> None:
    x = images()
    x[3, 0, 0, 0], x[7, 5, 5, 2] = 0.0, 1.0
    np.testing.assert_array_equal(pin_range(x, contract()), x)


@given(
    st.lists(st.floats(0.0, 1.0, width=32), min_size=3, max_size=3),
    st.lists(st.floats(0.0625, 2.0, width=32), min_size=3, max_size=3),
)
@example(
    [0.0, 0.2580447793006897, 0.05000000074505806], [1.0, 1.3349483013153076, 0.39917775988578796]
)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_the_ends_give_the_scale_of_the_contract(mean: list[float], std: list[float]) -> None:
    wanted = replace(contract(), normalize=mean_std_normalize(mean, std))
    low, high = input_ends(wanted)
    quotient = (np.float32(high) - np.float32(low)) / np.float32(255)  # as TensorFlow computes it
    scale = np.float32(input_quantization(wanted)[0])
    reachable = any(
        d / np.float32(255) == scale
        for d in np.float32(scale * 255)
        + np.arange(-2, 3, dtype=np.float32) * np.spacing(scale * 255)
    )
    assert abs(quotient - scale) <= (0 if reachable else np.spacing(scale))
    assert [float(np.float32(end)) for end in (low, high)] == [low, high]
    assert (low, high) == pytest.approx(wanted.normalize.range, rel=1e-6)
