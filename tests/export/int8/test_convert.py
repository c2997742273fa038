"""The native converter: what it writes, refuses and warns of, and that the files are right."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from float_eval import evaluate
from float_graphs import NO_PADDING, Maker, images, measured_ranges, same_padding
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.errors import InputError, NdError, UnsupportedError
from ndtool.export.graph import ir as fg
from ndtool.export.graph.ir import BinaryKind, Fused, UnaryKind
from ndtool.export.int8 import ir as qg
from ndtool.export.int8.convert import Converted, ConvertOptions, convert, padding_kind
from ndtool.export.int8.ir import Activation, PaddingKind
from ndtool.export.int8.reference import run_graph, run_tensors
from ndtool.export.runners import run_int8
from ndtool.export.tflite.writer import write_tflite
from ndtool.quant import scales
from ndtool.quant.fixed_point import quantize_multiplier
from ndtool.types import FcScales, Runtime

PIXELS = (float(np.float32(1 / 255)), -128)
Ranges = dict[str, tuple[float, float]]


def options(graph: fg.FloatGraph, fc: FcScales = FcScales.PER_CHANNEL) -> ConvertOptions:
    return ConvertOptions(fc=fc, input=dict.fromkeys(graph.inputs, PIXELS))


def converted(
    graph: fg.FloatGraph, fc: FcScales = FcScales.PER_CHANNEL, **changed: tuple[float, float]
) -> Converted:
    """Converted with ranges measured on a few images; `changed` overrides some by tensor name."""
    ranges = measured_ranges(graph, images(graph, 6))
    ranges |= {graph.tensors[name].source: value for name, value in changed.items()}
    return convert(graph, ranges, options(graph, fc))


def by_name(made: Converted) -> dict[str, qg.Tensor]:
    return {tensor.name: tensor for tensor in made.graph.tensors}


def op_names(made: Converted) -> list[str]:
    return [qg.op_name(op) for op in made.graph.ops]


def params(tensor: qg.Tensor) -> tuple[float, int]:
    return tensor.scale, tensor.zero_point


# ---- whole networks against float, the reference and both runtimes


def plain_net() -> fg.FloatGraph:
    """Conv, depthwise with multiplier 2, pointwise, mean, FC on (1, c)."""
    m = Maker(1)
    x = m.conv(m.input(1, 9, 8, 3), 8, stride=(2, 2), act=Fused.RELU)
    x = m.conv(x, 16, depthwise=True, act=Fused.RELU6)
    x = m.conv(x, 8, (1, 1), act=Fused.RELU)
    m.fully_connected(m.mean(x, keep_dims=False), 5)
    return m.graph()


def squeeze_excite_net() -> fg.FloatGraph:
    """The gate is a convolution that saturates; hard-swish around it; FC on (1, 1, 1, c)."""
    m = Maker(2)
    x = m.unary(UnaryKind.HARD_SWISH, m.conv(m.input(1, 8, 8, 2), 8))
    squeezed = m.conv(m.mean(x, keep_dims=True), 4, (1, 1), act=Fused.RELU)
    gate = m.conv(squeezed, 8, (1, 1), act=Fused.CLIP_0_1, bias=np.linspace(-0.5, 1.5, 8))
    x = m.binary(BinaryKind.MUL, x, gate)
    x = m.unary(UnaryKind.HARD_SWISH, m.conv(x, 6, (1, 1)))
    m.fully_connected(m.mean(x, keep_dims=True), 4)
    return m.graph()


def residual_net() -> fg.FloatGraph:
    """Two residual sums, one with a fused ReLU, and a difference."""
    m = Maker(3)
    x = m.conv(m.input(1, 8, 8, 3), 6, act=Fused.RELU6)
    y = m.conv(m.conv(x, 12, (1, 1), act=Fused.RELU6), 6, (1, 1))
    x = m.binary(BinaryKind.ADD, x, y)
    x = m.binary(BinaryKind.ADD, m.conv(x, 6), x, act=Fused.RELU)
    m.binary(BinaryKind.SUB, m.conv(x, 6, act=Fused.CLIP_N1_1), x)
    return m.graph()


def moving_net() -> fg.FloatGraph:
    """Pools, PAD, RESHAPE and CONCATENATION: groups of equal parameters."""
    m = Maker(4)
    x = m.input(1, 8, 8, 3)
    a = m.pool(m.conv(x, 4, act=Fused.RELU), is_max=True)
    same = same_padding((1, 8, 8, 3), (3, 3), (2, 2), (1, 1))
    b = m.pool(m.conv(x, 4), (3, 3), padding=same, is_max=False)
    joined = m.concat(a, b)
    x = m.pad(joined, fg.Padding(top=1, left=0, bottom=0, right=2))
    x = m.conv(x, 4, padding=NO_PADDING, act=Fused.RELU)
    m.softmax(m.fully_connected(m.reshape(x, 1, math.prod(m.shape(x))), 5))
    return m.graph()


def flat_net() -> fg.FloatGraph:
    """FC reads an image as it lies; hidden layer with ReLU."""
    m = Maker(5)
    x = m.conv(m.input(1, 6, 6, 1), 3, (5, 3), stride=(2, 1), act=Fused.RELU)
    m.fully_connected(m.fully_connected(x, 7, act=Fused.RELU), 1)
    return m.graph()


def constants_net() -> fg.FloatGraph:
    """Constant operands on both sides, one number and one per channel."""
    m = Maker(6)
    x = m.conv(m.input(1, 5, 5, 2), 4)
    x = m.binary(BinaryKind.MUL, x, m.constant(np.array([0.5, 2.0, -1.0, 0.1])))
    x = m.binary(BinaryKind.SUB, m.constant(np.array(0.75)), x)
    x = m.binary(BinaryKind.ADD, m.constant(np.array([0.2])), x)
    m.binary(BinaryKind.MUL, x, x, act=Fused.RELU)
    return m.graph()


def unary_net() -> fg.FloatGraph:
    m = Maker(7)
    x = m.conv(m.input(1, 6, 6, 2), 4, dilation=(2, 1))
    x = m.unary(UnaryKind.LEAKY_RELU, x, alpha=0.2)
    a, b = m.unary(UnaryKind.LOGISTIC, x), m.unary(UnaryKind.TANH, x)
    c = m.unary(UnaryKind.RELU6, m.binary(BinaryKind.MUL, a, b))
    m.unary(UnaryKind.RELU, m.binary(BinaryKind.SUB, a, c))
    return m.graph()


def asymmetric_net() -> fg.FloatGraph:
    """PyTorch's symmetric padding at stride 2 on an even size: a PAD each."""
    m = Maker(8)
    one = fg.Padding(top=1, left=1, bottom=1, right=1)
    x = m.conv(m.input(1, 8, 8, 2), 4, stride=(2, 2), padding=one, act=Fused.RELU)
    x = m.conv(x, 4, stride=(2, 2), padding=one, depthwise=True, act=Fused.RELU)
    m.pool(m.conv(x, 3, act=Fused.RELU), (3, 3), padding=one, is_max=True)
    return m.graph()


NETS: list[Callable[[], fg.FloatGraph]] = [
    plain_net,
    squeeze_excite_net,
    residual_net,
    moving_net,
    flat_net,
    constants_net,
    unary_net,
    asymmetric_net,
]


def file_and_outputs(
    graph: fg.FloatGraph, made: Converted
) -> tuple[bytes, np.ndarray, np.ndarray, np.ndarray]:
    """The file; int8 images; the reference's outputs; float outputs, each (n, k)."""
    samples = images(graph, 6)  # those of the ranges: nothing leaves them
    pixels = np.concatenate([np.rint(s * 255) - 128 for s in samples]).astype(np.int8)
    (exact,) = run_graph(made.graph, pixels)
    floats = [evaluate(graph, {graph.inputs[0]: s})[graph.outputs[0]] for s in samples]
    data = write_tflite(made.graph, description="test")
    return data, pixels, exact.reshape(len(pixels), -1), np.stack(floats).reshape(len(pixels), -1)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("fc", list(FcScales))
def test_a_network_is_near_float_and_the_same_in_tflite_micro(
    net: Callable[[], fg.FloatGraph], fc: FcScales
) -> None:
    graph = net()
    made = converted(graph, fc)
    data, pixels, exact, floats = file_and_outputs(graph, made)
    out = made.graph.tensor(made.graph.outputs[0])
    reals = (exact.astype(np.float64) - out.zero_point) * out.scale
    off = np.abs(reals - floats) / out.scale
    assert off.max() <= 4 and off.mean() <= 1
    got = run_int8(data, pixels, runtime=Runtime.TFLM, workers=1, progress=len_of)
    assert np.array_equal(got.outputs, exact)


@pytest.mark.parametrize("net", NETS)
def test_a_network_loads_in_litert(net: Callable[[], fg.FloatGraph]) -> None:
    graph = net()
    data, pixels, exact, _ = file_and_outputs(graph, converted(graph))
    got = run_int8(data, pixels, runtime=Runtime.LITERT, workers=1, progress=len_of)
    # its FULLY_CONNECTED can differ by a step (quantisation, 1.6)
    assert np.abs(got.outputs.astype(int) - exact).max() <= 1


def len_of(done: int) -> None:
    """Progress is nobody's business here."""


@pytest.mark.parametrize("net", NETS)
def test_only_int8_operations_and_every_tensor_used_and_named(
    net: Callable[[], fg.FloatGraph],
) -> None:
    graph = net()
    made = converted(graph)
    assert not set(op_names(made)) & {"QUANTIZE", "DEQUANTIZE", "TRANSPOSE"}
    used = {t for op in made.graph.ops for t in (*qg.op_inputs(op), op.out)}
    assert used == set(range(len(made.graph.tensors)))
    names = [tensor.name for tensor in made.graph.tensors]
    assert len(set(names)) == len(names)
    known = dict(made.names)
    assert set(known.values()) <= set(graph.tensors)
    activations = [made.graph.tensor(op.out).name for op in made.graph.ops]
    assert [known[name] for name in activations if "/padded" not in name] == [
        op.out for op in graph.ops
    ]
    assert all(tensor.name in known for tensor in made.graph.tensors if tensor.scales)


@pytest.mark.parametrize(("x_high", "out_high"), [(255.0, 4.0), (1.0, 255.0), (0.3, 0.3)])
def test_weights_of_any_size_are_right_in_tflite_micro(x_high: float, out_high: float) -> None:
    """Rules 4, 6 and 7: 300 depthwise channels, weights 1e-12..100, biases to 10, some dead."""
    rng = np.random.default_rng(11)
    channels = 300
    size = 10.0 ** rng.uniform(-12, 2, channels)
    size[::17] = 0.0
    m = Maker()
    x = m.input(1, 3, 3, channels)
    weight = rng.uniform(-1, 1, (1, 3, 3, channels)) * size
    bias = rng.uniform(-10, 10, channels) * (rng.random(channels) < 0.7)
    m.conv(x, channels, depthwise=True, padding=NO_PADDING, weight=weight, bias=bias)
    graph = m.graph()
    source = {name: graph.tensors[name].source for name in graph.tensors}
    out_name = graph.outputs[0]
    ranges = {source[x]: (0.0, x_high), source[out_name]: (-out_high, out_high)}
    made = convert(graph, ranges, ConvertOptions())
    pixels = rng.integers(-128, 128, (4, 3, 3, channels), np.int8)
    (exact,) = run_graph(made.graph, pixels)
    data = write_tflite(made.graph, description="test")
    got = run_int8(data, pixels, runtime=Runtime.TFLM, workers=1, progress=len_of)
    assert np.array_equal(got.outputs, exact.reshape(4, -1))
    (op,) = made.graph.ops
    assert isinstance(op, qg.DepthwiseConv2D) and op.bias is not None
    s_x, s_out = made.graph.tensor(op.x).scale, made.graph.tensor(op.out).scale
    s_w = np.array(made.graph.tensor(op.weight).scales)
    limits = scales.real_range(scales.ScaleZero(*params(made.graph.tensor(op.out))))
    for image, found in zip(pixels, exact, strict=True):
        reals = (image[None].astype(np.float64) + 128) * s_x
        want = np.clip(evaluate(graph, {x: reals})[out_name].ravel(), *limits)
        zero_point = made.graph.tensor(op.out).zero_point
        off = np.abs((found.ravel().astype(np.float64) - zero_point) * s_out - want)
        rounding = 0.5 * s_w * (reals.sum(axis=(0, 1, 2)) + s_x)  # of the weights, of the bias
        assert (off <= 1.001 * rounding + 0.51 * s_out).all()


# ---- determinism


def digest() -> str:
    """What a fresh process makes of every network, ranges in any order."""
    parts = []
    for net in NETS:
        graph = net()
        ranges = measured_ranges(graph, images(graph, 2))
        shuffled = {key: ranges[key] for key in sorted(ranges, key=hash)}
        made = convert(graph, shuffled, options(graph))
        parts.append(write_tflite(made.graph, description="test") + repr(made.warnings).encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.slow
def test_the_same_bytes_in_every_process() -> None:
    here, lib = Path(__file__).parent, Path(__file__).parents[2] / "lib"
    program = "import test_convert; test_convert.show_digest()"
    seen = set()
    for seed in ("0", "1"):
        environment = dict(os.environ, PYTHONHASHSEED=seed, PYTHONPATH=f"{here}:{lib}")
        done = subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            env=environment,
            timeout=100,
        )
        seen.add(done.stdout.decode().strip())
    assert seen == {digest()}


def show_digest() -> None:
    sys.stdout.write(digest() + "\n")


# ---- the input


def test_the_contract_pins_the_input() -> None:
    made = converted(plain_net())
    assert params(made.graph.tensor(made.graph.inputs[0])) == PIXELS


def test_without_a_contract_the_input_has_its_range() -> None:
    graph = plain_net()
    ranges = measured_ranges(graph, images(graph, 2))
    ranges[graph.tensors[graph.inputs[0]].source] = (-1.0, 3.0)
    made = convert(graph, ranges, ConvertOptions())
    assert params(made.graph.tensor(made.graph.inputs[0])) == scales.tensor_params(-1.0, 3.0)


@pytest.mark.parametrize(
    "pinned",
    [{"nobody": PIXELS}, {"x0": (0.1, 0)}, {"x0": (math.nan, 0)}, {"x0": (0.5, 128)},
     {"x0": (0.0, 0)}, {"x0": (-0.5, 0)}, {"x0": (math.inf, 0)}],
)  # fmt: skip
def test_a_pinned_input_must_exist_and_be_float32(pinned: dict[str, tuple[float, int]]) -> None:
    graph = plain_net()
    ranges = measured_ranges(graph, images(graph, 1))
    with pytest.raises(InputError) as caught:
        convert(graph, ranges, ConvertOptions(input=pinned))
    assert next(iter(pinned)) in caught.value.where


# ---- activations and saturation (rule 9)


@pytest.mark.parametrize(
    ("act", "observed", "expected", "written"),
    [
        (Fused.NONE, (-2.0, 7.0), (-2.0, 7.0), Activation.NONE),
        (Fused.RELU, (0.0, 7.0), (0.0, 7.0), Activation.RELU),
        (Fused.RELU, (-0.5, 7.0), (0.0, 7.0), Activation.RELU),
        (Fused.RELU6, (0.0, 4.0), (0.0, 4.0), Activation.RELU6),
        (Fused.RELU6, (0.0, 9.0), (0.0, 6.0), Activation.RELU6),
        (Fused.CLIP_N1_1, (-3.0, 0.5), (-1.0, 0.5), Activation.RELU_N1_TO_1),
        (Fused.CLIP_0_1, (0.2, 0.3), (0.0, 1.0), Activation.NONE),
    ],
)
def test_the_range_is_that_of_the_output(act, observed, expected, written) -> None:
    m = Maker()
    out = m.conv(m.input(1, 4, 4, 1), 2, act=act)
    made = converted(m.graph(), **{out: observed})
    assert params(by_name(made)[out]) == scales.tensor_params(*expected)
    (op,) = made.graph.ops
    assert isinstance(op, qg.Conv2D) and op.act is written


def test_hard_sigmoid_is_a_saturating_convolution() -> None:
    """clip(x + .5) over a ramp that leaves [0, 1] on both sides: exact to half a step."""
    m = Maker()
    x = m.input(1, 1, 256, 1)
    gate = m.conv(x, 1, (1, 1), act=Fused.CLIP_0_1, weight=np.full((1, 1, 1, 1), 3.0),
                  bias=np.array([-1.0]))  # fmt: skip
    graph = m.graph()
    made = convert(graph, {}, options(graph))  # neither tensor needs a range
    assert params(by_name(made)[gate]) == PIXELS
    ramp = np.arange(-128, 128, dtype=np.int8).reshape(1, 1, 256, 1)
    (exact,) = run_graph(made.graph, ramp)
    want = np.clip(3.0 * np.arange(256) / 255 - 1.0, 0.0, 1.0)
    assert np.abs((exact.ravel() + 128.0) / 255 - want).max() <= 0.51 / 255
    assert exact.min() == -128 and exact.max() == 127


def test_a_separate_relu6_is_a_relu_that_saturates_at_6() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    out = m.unary(UnaryKind.RELU6, x)
    made = converted(m.graph(x, out), **{x: (-9.0, 9.0), out: (0.0, 9.0)})
    assert params(by_name(made)[out]) == scales.tensor_params(0.0, 6.0)
    assert op_names(made) == ["CONV_2D", "RELU"]


def test_fixed_outputs_need_no_range() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    outs = [m.unary(UnaryKind.LOGISTIC, x), m.unary(UnaryKind.TANH, x), m.softmax(x)]
    graph = m.graph(*outs)
    made = convert(graph, {graph.tensors[x].source: (-1.0, 1.0)}, options(graph))
    found = [params(by_name(made)[name]) for name in outs]
    assert found == [scales.PROBABILITY, scales.TANH, scales.PROBABILITY]


# ---- padding (3.1)

SIZES = st.integers(1, 12)
KERNELS = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 2))
PADS = st.tuples(*[st.integers(0, 3)] * 4)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(SIZES, SIZES, KERNELS, KERNELS, PADS, st.booleans())
def test_padding_is_same_or_valid_only_where_it_is(h, w, rows, columns, pads, exact) -> None:
    image = (1, h, w, 1)
    pad = fg.Padding(top=pads[0], left=pads[1], bottom=pads[2], right=pads[3])
    if exact:
        pad = same_padding(image, *zip(rows, columns, strict=True))
    kind = padding_kind(image, rows, columns, pad)
    assert kind is not None or not exact
    same = same_padding(image, *zip(rows, columns, strict=True))
    if kind is PaddingKind.SAME:
        assert pad == same
    elif kind is PaddingKind.VALID:
        assert pad == NO_PADDING
    else:
        assert pad not in (same, NO_PADDING)


@pytest.mark.parametrize(("size", "pads"), [(8, True), (9, False)])
def test_symmetric_padding_at_stride_2_needs_a_pad_on_even_sizes_only(size, pads) -> None:
    m = Maker()
    one = fg.Padding(top=1, left=1, bottom=1, right=1)
    m.conv(m.input(1, size, size, 1), 2, stride=(2, 2), padding=one)
    made = converted(m.graph())
    assert op_names(made) == (["PAD", "CONV_2D"] if pads else ["CONV_2D"])
    assert sum("PAD" in text for text in made.warnings) == pads
    if pads:
        padded = made.graph.tensor(made.graph.ops[0].out)
        assert params(padded) == PIXELS and padded.shape == (1, 10, 10, 1)


def test_max_pool_padding_is_a_pad_where_zero_is_the_least_value() -> None:
    one = fg.Padding(top=1, left=1, bottom=1, right=1)
    for act, good in ((Fused.RELU, True), (Fused.NONE, False)):
        m = Maker()
        x = m.conv(m.input(1, 8, 8, 1), 2, act=act)
        m.pool(x, (3, 3), padding=one, is_max=True)
        if good:
            assert op_names(converted(m.graph())) == ["CONV_2D", "PAD", "MAX_POOL_2D"]
        else:
            with pytest.raises(UnsupportedError, match="padding"):
                converted(m.graph())


def test_average_pool_with_other_padding_is_refused() -> None:
    m = Maker()
    x = m.conv(m.input(1, 8, 8, 1), 2, act=Fused.RELU)
    m.pool(x, (3, 3), padding=fg.Padding(top=1, left=1, bottom=1, right=1), is_max=False)
    with pytest.raises(UnsupportedError) as caught:
        converted(m.graph())
    assert caught.value.code == "convert.padding" and "op/pool" in caught.value.where


# ---- groups (1.1)


def test_a_group_shares_the_union_of_its_ranges() -> None:
    m = Maker()
    x = m.input(1, 8, 8, 1)
    a, b = m.conv(x, 2, act=Fused.RELU), m.conv(x, 3)
    pooled = m.pool(a, is_max=True)
    other = m.pool(b, is_max=False)
    joined = m.concat(pooled, other)
    flat = m.reshape(joined, 1, 80)
    alone = m.conv(b, 2)
    made = converted(m.graph(flat, alone), **{a: (0.0, 5.0), b: (-1.0, 2.0)})
    tensors = by_name(made)
    want = scales.tensor_params(-1.0, 5.0)
    assert [params(tensors[n]) for n in (a, b, pooled, other, joined, flat)] == [want] * 6
    assert params(tensors[alone]) != want


def test_a_member_that_loses_more_than_a_bit_is_named() -> None:
    m = Maker()
    x = m.input(1, 4, 4, 1)
    a, b = m.conv(x, 2), m.conv(x, 2)
    m.concat(a, b)
    made = converted(m.graph(), **{a: (-1.0, 1.0), b: (-9.0, 9.0), "concat7": (-9.0, 9.0)})
    assert [text for text in made.warnings if "coarser" in text] == [
        f"{a} is 9.0 times coarser: it is joined to others"
    ]


def test_a_moving_operation_needs_no_range_of_its_own() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    y = m.reshape(m.pool(x, is_max=True), 1, 8)
    graph = m.graph()
    made = convert(graph, {graph.tensors[x].source: (-1.0, 1.0)}, options(graph))
    assert params(by_name(made)[y]) == scales.tensor_params(-1.0, 1.0)


def test_a_fixed_range_is_not_widened_but_refused() -> None:
    m = Maker()
    x = m.input(1, 4, 4, 1)
    gate = m.conv(x, 2, act=Fused.CLIP_0_1)
    wide = m.conv(x, 2)
    m.concat(gate, wide)
    with pytest.raises(UnsupportedError) as caught:
        converted(m.graph(), **{wide: (-4.0, 4.0)})
    assert caught.value.code == "quant.group" and wide in caught.value.where
    narrow = converted(m.graph(), **{wide: (0.1, 0.9), "concat7": (0.0, 1.0)})
    assert params(by_name(narrow)[wide]) == PIXELS


def test_two_different_fixed_ranges_are_refused() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    m.concat(m.unary(UnaryKind.LOGISTIC, x), m.unary(UnaryKind.TANH, x))
    with pytest.raises(UnsupportedError) as caught:
        converted(m.graph())
    assert caught.value.code == "quant.group"


def test_a_clamp_by_saturation_is_not_lost_in_a_group() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    clamped = m.unary(UnaryKind.RELU6, x)
    m.concat(clamped, x)
    with pytest.raises(UnsupportedError, match="clamp at 6"):
        converted(m.graph(), **{x: (-9.0, 9.0)})


# ---- weights


@pytest.mark.parametrize("depthwise", [False, True])
def test_weights_have_the_layout_and_the_axis_of_tflite(depthwise: bool) -> None:  # noqa: FBT001
    m = Maker()
    out = m.conv(m.input(1, 5, 5, 3), 6, (3, 2), depthwise=depthwise)
    graph = m.graph()
    made = converted(graph)
    (op,) = made.graph.ops
    assert isinstance(op, qg.DepthwiseConv2D if depthwise else qg.Conv2D)
    weight = made.graph.tensor(op.weight)
    data = graph.tensors[weight.name].data
    assert data is not None and weight.shape == data.shape
    assert weight.quantized_dim == (3 if depthwise else 0) and len(weight.scales) == 6
    axes = (0, 1, 2) if depthwise else (1, 2, 3)
    s_w = np.array(weight.scales)
    assert s_w == pytest.approx(np.abs(data).max(axis=axes) / 127, rel=1e-7)
    assert weight.data is not None
    values = np.frombuffer(weight.data, np.int8).reshape(weight.shape)
    steps = s_w if depthwise else s_w[:, None, None, None]
    assert np.abs(values * steps - data).max() <= s_w.max() * 0.5001
    if depthwise:
        assert isinstance(op, qg.DepthwiseConv2D) and op.multiplier == 2
    assert op.bias is not None and made.graph.tensor(op.bias).shape == (6,)
    assert made.graph.tensor(op.out).name == out


@pytest.mark.parametrize(("fc", "count"), [(FcScales.PER_CHANNEL, 5), (FcScales.PER_TENSOR, 1)])
def test_fully_connected_scales(fc: FcScales, count: int) -> None:
    made = converted(plain_net(), fc)
    op = made.graph.ops[-1]
    assert isinstance(op, qg.FullyConnected) and not op.keep_num_dims and op.bias is not None
    weight, bias = made.graph.tensor(op.weight), made.graph.tensor(op.bias)
    assert len(weight.scales) == len(bias.scales) == count
    x = made.graph.tensor(op.x)
    assert bias.scales == tuple(float(np.float32(x.scale * s)) for s in weight.scales)


def test_per_tensor_warns_when_a_bias_coarsens_all_weights() -> None:
    m = Maker()
    weight, bias = np.full((2, 4), 1e-9), np.array([0.0, 3.0])
    m.fully_connected(m.mean(m.input(1, 4, 4, 4), keep_dims=False), 2, weight=weight, bias=bias)
    graph = m.graph()
    assert any("coarser" in text for text in converted(graph, FcScales.PER_TENSOR).warnings)
    assert not converted(graph).warnings


def test_one_output_channel_is_per_tensor_for_the_kernel() -> None:
    """A single scale is read as "per tensor": its products are rounded to float32 (1.2)."""
    m = Maker()
    weight, bias = np.full((1, 4), 0.3), np.array([50_000.0])
    x = m.mean(m.input(1, 4, 4, 4), keep_dims=False)
    out = m.fully_connected(x, 1, weight=weight, bias=bias)
    graph = m.graph()
    ranges = {x: (0.0, 0.9), out: (0.0, 60_000.0)}
    files = {write_tflite(converted(graph, fc, **ranges).graph, description="") for fc in FcScales}
    assert len(files) == 1


def test_one_weight_shared_by_two_layers_is_quantised_for_each() -> None:
    m = Maker()
    x = m.input(1, 4, 4, 2)
    a = m.conv(x, 2, (1, 1), act=Fused.RELU)
    m.conv(a, 2, (1, 1))
    first, second = m.ops
    assert isinstance(first, fg.Conv) and isinstance(second, fg.Conv)
    m.ops[1] = replace(second, weight=first.weight, bias=first.bias)
    made = converted(m.graph())
    names = [tensor.name for tensor in made.graph.tensors]
    assert [n for n in names if n.startswith(first.weight)] == [first.weight, f"{first.weight}_2"]
    assert dict(made.names)[f"{first.weight}_2"] == first.weight


def test_index_tensors_are_written_once() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 2), 2)
    for _ in range(3):
        x = m.conv(m.binary(BinaryKind.MUL, x, m.mean(x, keep_dims=True)), 2)
    made = converted(m.graph())
    assert sum(t.dtype is qg.DType.INT32 and not t.scales for t in made.graph.tensors) == 1


# ---- dead tensors, wide and narrow ones


def test_a_dead_tensor_is_named_and_harmless() -> None:
    m = Maker()
    dead = m.conv(m.input(1, 4, 4, 1), 2, act=Fused.RELU, bias=np.array([-90.0, -90.0]))
    m.conv(dead, 3)
    made = converted(m.graph())
    assert params(by_name(made)[dead]) == (1 / 256, -128)
    assert [text for text in made.warnings if dead in text and "is 0" in text]


def test_constant_operands_hold_zero() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    for values in ([3.0, 4.0], [-3.0, -4.0], [0.0, 0.0]):
        x = m.binary(BinaryKind.ADD, x, m.constant(np.array(values)))
    made = converted(m.graph())
    held = [t for t in made.graph.tensors if t.name.startswith("constant") and len(t.shape) == 1]
    found = {params(t) for t in held if t.dtype is qg.DType.INT8}
    assert found == {
        scales.tensor_params(0.0, 4.0),
        scales.tensor_params(-4.0, 0.0),
        (1 / 256, -128),
    }


def test_rule_10_a_tiny_sum_is_widened_and_a_lost_operand_named() -> None:
    m = Maker()
    x = m.input(1, 4, 4, 1)
    a, b = m.conv(x, 2), m.conv(x, 2)
    out = m.binary(BinaryKind.ADD, a, b)
    made = converted(m.graph(), **{a: (-1e4, 1e4), b: (-1.0, 1.0), out: (-1e-6, 1e-6)})
    tensors = by_name(made)
    assert tensors[out].scale > tensors[a].scale / 2**19
    assert any(f"range of {out} is widened" in text for text in made.warnings)
    assert any("10000 times smaller" in text for text in made.warnings)


@pytest.mark.parametrize(
    ("kind", "alpha", "x_range", "out_range"),
    [
        (UnaryKind.LEAKY_RELU, 1e6, (-1.0, 1.0), (-1.0, 1.0)),
        (UnaryKind.RELU, 0.0, (-1e6, 1e6), (0.0, 1.0)),
        (UnaryKind.HARD_SWISH, 0.0, (-1e-8, 1e-8), (-1e-8, 1e-8)),
        (UnaryKind.HARD_SWISH, 0.0, (-1.0, 1.0), (-0.375, 1e5)),
        (UnaryKind.LOGISTIC, 0.0, (-1e-25, 1e-25), (0.0, 1.0)),
        (UnaryKind.TANH, 0.0, (-1e-25, 1e-25), (-1.0, 1.0)),
    ],
)
def test_scales_far_apart_are_brought_within_reach(kind, alpha, x_range, out_range) -> None:
    """`convert` verifies its graph; a multiplier out of reach would be refused there."""
    m = Maker()
    size = min(1.0, x_range[1])  # weights that can give this range
    x = m.conv(m.input(1, 4, 4, 1), 2, weight=np.full((2, 3, 3, 1), size), bias=np.zeros(2))
    out = m.unary(kind, x, alpha)
    made = converted(m.graph(), **{x: x_range, out: out_range})
    assert any("is widened" in text for text in made.warnings)


@pytest.mark.parametrize("act", [Fused.RELU6, Fused.CLIP_N1_1])
def test_a_clamp_has_a_place_on_a_tiny_scale(act: Fused) -> None:
    m = Maker()
    out = m.conv(m.input(1, 4, 4, 1), 2, act=act)
    made = converted(m.graph(), **{out: (0.0, 1e-8)})
    assert by_name(made)[out].scale == 2.0**-28


def test_a_scale_that_is_raised_late_reaches_what_was_looked_at_before() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    mean = m.mean(x, keep_dims=False)
    wide = m.unary(UnaryKind.HARD_SWISH, x)
    graph = m.graph(mean, wide)
    made = converted(graph, **{x: (-1.0, 1.0), mean: (-1e-4, 1e-4), wide: (-0.375, 1e7)})
    tensors = by_name(made)
    assert tensors[x].scale > tensors[wide].scale / 512 * 0.999
    assert tensors[x].scale / tensors[mean].scale < 2**15


def test_a_fixed_output_cannot_be_widened_but_is_refused() -> None:
    m = Maker()
    x = m.input(1, 4, 4, 1)
    a, b = m.conv(x, 2), m.conv(x, 2)
    out = m.binary(BinaryKind.ADD, a, b, act=Fused.CLIP_0_1)
    converted(m.graph(), **{a: (-1e5, 1e5)})
    with pytest.raises(UnsupportedError) as caught:
        converted(m.graph(), **{a: (-1e6, 1e6)})
    assert caught.value.code == "quant.scale" and caught.value.where == out


def test_rule_11_a_tiny_hard_swish_output_is_widened() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    out = m.unary(UnaryKind.HARD_SWISH, x)
    made = converted(m.graph(), **{x: (-100.0, 1.0), out: (-5.0, 0.001)})
    tensors = by_name(made)
    low, _ = scales.tensor_params(-0.375, 0.001)
    assert tensors[out].scale == pytest.approx(max(low, tensors[x].scale / 128), rel=1e-6)
    assert tensors[out].scale > tensors[x].scale / 128


def test_rule_4_a_mean_far_narrower_than_its_input_is_widened() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    out = m.mean(x, keep_dims=False)
    made = converted(m.graph(), **{x: (-1e9, 1e9), out: (-1e-3, 1e-3)})
    tensors = by_name(made)
    assert tensors[x].scale / tensors[out].scale < 2**15


def test_rule_4_a_product_far_under_its_operands_is_widened() -> None:
    m = Maker()
    x = m.input(1, 4, 4, 1)
    a, b = m.conv(x, 2), m.conv(x, 2)
    out = m.binary(BinaryKind.MUL, a, b)
    made = converted(m.graph(), **{a: (-100.0, 1.0), b: (-100.0, 1.0), out: (0.0, 1e-4)})
    tensors = by_name(made)
    real = tensors[a].scale * tensors[b].scale / tensors[out].scale
    assert quantize_multiplier(real)[1] <= 15


def test_rule_7_a_channel_that_cannot_fit_is_refused_by_name() -> None:
    m = Maker()
    weight = np.full((1, 3, 3, 2), 1.0)
    weight[..., 1] = 1e7
    out = m.conv(m.input(1, 4, 4, 2), 2, depthwise=True, weight=weight)
    with pytest.raises(UnsupportedError) as caught:
        converted(m.graph(), **{out: (0.0, 1e-3)})
    assert caught.value.code == "quant.overflow" and f"op/{out}" in caught.value.where
    assert "first: 1" in caught.value.what


def test_a_logistic_input_is_not_too_wide() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    m.unary(UnaryKind.LOGISTIC, x)
    converted(m.graph(), **{x: (-500.0, 500.0)})
    with pytest.raises(UnsupportedError, match="too wide"):
        converted(m.graph(), **{x: (-2000.0, 2000.0)})


# ---- what is refused


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e19])
def test_constants_that_are_not_finite_are_refused_all_at_once(value: float) -> None:
    m = Maker()
    weight = np.ones((2, 3, 3, 1))
    weight[1, 2, 2, 0] = value
    x = m.conv(m.input(1, 4, 4, 1), 2, weight=weight)
    m.conv(x, 1, bias=np.array([value]))
    m.binary(BinaryKind.MUL, x, m.constant(np.array(value)))
    graph = m.graph()
    with pytest.raises(UnsupportedError) as caught:
        convert(graph, {}, options(graph))
    found = [caught.value, *caught.value.more]
    constants = [(name, t.data) for name, t in graph.tensors.items() if t.data is not None]
    bad = [name for name, data in constants if not np.abs(data).max() <= 1e18]
    assert [problem.where for problem in found] == bad and len(bad) == 3
    assert {problem.exit_code for problem in found} == {5}


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (0.0, math.inf), (0.0, math.nan), (-1e19, 1.0)])
def test_ranges_that_are_not_finite_are_refused(bad: tuple[float, float]) -> None:
    m = Maker()
    out = m.conv(m.input(1, 4, 4, 1), 2)
    with pytest.raises(UnsupportedError) as caught:
        converted(m.graph(), **{out: bad})
    assert out in caught.value.where


def test_missing_ranges_are_named_all_at_once() -> None:
    graph = residual_net()
    with pytest.raises(InputError) as caught:
        convert(graph, {}, options(graph))
    found = [caught.value, *caught.value.more]
    assert [p.where for p in found] == [f"ranges.json: onnx/{op.out}" for op in graph.ops]


def test_a_range_upside_down_is_refused() -> None:
    m = Maker()
    out = m.conv(m.input(1, 4, 4, 1), 2)
    with pytest.raises(InputError, match="upside down"):
        converted(m.graph(), **{out: (2.0, 1.0)})


def broken(change: Callable[[Maker, str], object]) -> fg.FloatGraph:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 4), 4)
    change(m, x)
    return m.graph()


def grouped(m: Maker, x: str) -> None:
    m.conv(x, 4)
    op = m.ops[-1]
    assert isinstance(op, fg.Conv)
    m.ops[-1] = replace(op, weight=m.constant(np.ones((4, 3, 3, 2))))


def eleven(m: Maker, x: str) -> None:
    m.concat(*[x] * 11)


def dynamic_weights(m: Maker, x: str) -> None:
    m.conv(x, 4)
    op = m.ops[-1]
    assert isinstance(op, fg.Conv)
    m.ops[-1] = replace(op, weight=x)


def two_constants(m: Maker, x: str) -> None:
    m.binary(BinaryKind.ADD, m.constant(np.ones(4)), m.constant(np.ones(4)))


def constant_pool(m: Maker, x: str) -> None:
    m.pool(m.constant(np.ones((1, 4, 4, 4))), is_max=True)


def wrong_size(m: Maker, x: str) -> None:
    m.conv(x, 4)
    m.tensors[m.ops[-1].out] = fg.FloatTensor(m.ops[-1].out, (1, 3, 4, 4))


def five_dimensions(m: Maker, x: str) -> None:
    m.reshape(x, 1, 2, 2, 4, 4)


def stride_zero(m: Maker, x: str) -> None:
    m.conv(x, 4)
    op = m.ops[-1]
    assert isinstance(op, fg.Conv)
    m.ops[-1] = replace(op, stride=(0, 1))


def bad_slope(m: Maker, x: str) -> None:
    m.unary(UnaryKind.LEAKY_RELU, x, alpha=math.nan)


def wrong_columns(m: Maker, x: str) -> None:
    m.fully_connected(x, 4, weight=np.ones((4, 63)))


def empty(m: Maker, x: str) -> None:
    m.tensors["x0"] = fg.FloatTensor("x0", (1, 4, 4, 0))


@pytest.mark.parametrize(
    "change",
    [grouped, eleven, dynamic_weights, two_constants, constant_pool, wrong_size, five_dimensions,
     stride_zero, bad_slope, wrong_columns, empty],
)  # fmt: skip
def test_what_int8_tflite_does_not_have_is_refused_by_name(change) -> None:
    graph = broken(change)
    with pytest.raises(UnsupportedError) as caught:
        convert(graph, {}, options(graph))
    assert caught.value.code == "convert.op" and caught.value.where.startswith("op/")


def test_an_output_that_nothing_computes_is_refused() -> None:
    m = Maker()
    x = m.conv(m.input(1, 4, 4, 1), 2)
    lost = m.constant(np.ones(3))
    with pytest.raises(UnsupportedError) as caught:
        converted(m.graph(x, lost))
    assert caught.value.where == lost


def test_foreign_names_are_made_visible() -> None:
    m = Maker()
    m.conv(m.input(1, 4, 4, 1), 2)
    graph = m.graph()
    out = graph.outputs[0]
    graph.tensors[out] = replace(graph.tensors[out], source="bad\x1b[31m\nname")
    with pytest.raises(NdError) as caught:
        convert(graph, {}, options(graph))
    assert "\x1b" not in str(caught.value) and "\n" not in str(caught.value)


# ---- any range whatever: what comes out loads, or it is refused


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.sampled_from(NETS),
    st.lists(
        st.tuples(st.integers(-100, 59), st.integers(-100, 59), st.booleans()),
        min_size=20,
        max_size=20,
    ),
)
def test_any_ranges_give_a_legal_graph_or_a_refusal(net, exponents) -> None:
    """`convert` verifies what it made: a bug of the converter is an `int8.` refusal."""
    graph = net()
    ranges = {}
    for (low, high, signed), tensor in zip(
        exponents * 3, [t for t in graph.tensors.values() if t.data is None], strict=False
    ):
        ranges[tensor.source] = (-(2.0**low) if signed else 0.0, 2.0**high)
    refused, made = "", None
    try:
        made = convert(graph, ranges, options(graph))
    except UnsupportedError as error:
        refused = error.code
    assert not refused.startswith("int8.")
    if made is not None:
        shape = made.graph.tensor(made.graph.inputs[0]).shape
        assert run_tensors(made.graph, np.full(shape, 127, np.int8))
