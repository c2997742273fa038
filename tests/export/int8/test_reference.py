"""The reference gives tflite_micro's bytes: random single operations, then whole models."""

import hashlib
import zlib

import numpy as np
import pytest
import single_op
from shared_models import shared_model
from tflm import TflmError, run_tflm

from ndtool.errors import InputError
from ndtool.export.int8 import spec
from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Conv2D,
    FullyConnected,
    Graph,
    PaddingKind,
    ResizeNearest,
    Softmax,
    Unary,
    UnaryKind,
    op_name,
)
from ndtool.export.int8.reference import run_graph, run_tensors
from ndtool.export.tflite.lint import MAX_SAFE_SOFTMAX
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite
from ndtool.quant import fixed_point as fp
from ndtool.quant import kernels

FAST_CASES = 40  # of each operation
SLOW_CASES = 600
# first 16 hex digits of the sha256 of tflite_micro's outputs for 20 inputs (default_rng(1))
MODEL_OUTPUTS = {
    "person_detect": "458b165415df0e5e",
    "kws": "41103df760fab03f",
    "vww_96": "02a45cbcb5f83be3",
    "resnet8": "08a867dc1f39d3ed",
}


def random_graph(name: str, number: int) -> Graph:
    return single_op.CASES[name](np.random.default_rng([zlib.crc32(name.encode()), number]))


def differing(graph: Graph, seed: int) -> int:
    """Output bytes in which the reference and tflite_micro differ."""
    inputs = single_op.inputs_for(graph, np.random.default_rng(seed))
    ours = run_graph(graph, *inputs)
    file = write_tflite(graph, description="test")
    theirs = run_tflm(file, *inputs, outputs=len(graph.outputs))
    pairs = zip(ours, theirs, strict=True)
    return sum(int((a != b.reshape(a.shape)).sum()) for a, b in pairs)


def check_cases(name: str, numbers: range) -> None:
    for number in numbers:
        graph = random_graph(name, number)
        assert spec.find_problems(graph) == []
        assert differing(graph, number) == 0, f"{name} case {number}: {graph.ops[0]}"


@pytest.mark.parametrize("name", single_op.CASES)
def test_single_operation_equals_tflite_micro(name: str) -> None:
    check_cases(name, range(FAST_CASES))


@pytest.mark.slow
@pytest.mark.parametrize("name", single_op.CASES)
def test_many_single_operations_equal_tflite_micro(name: str) -> None:
    check_cases(name, range(FAST_CASES, SLOW_CASES))


@pytest.mark.parametrize("name", single_op.CASES)
def test_cases_are_not_saturated_so_that_a_step_would_show(name: str) -> None:
    inner = 0  # outputs between the ends
    for number in range(FAST_CASES):
        graph = random_graph(name, number)
        inputs = single_op.inputs_for(graph, np.random.default_rng(number))
        out = run_graph(graph, *inputs)[0]
        inner += len(set(np.unique(out)) - {-128, 127})
    assert inner / FAST_CASES > 8


def single_rounding(x: fp.I64, requant: fp.Requant) -> fp.I64:
    """`MultiplyByQuantizedMultiplier` with TFLITE_SINGLE_ROUNDING=1 (quantisation, 1.3)."""
    right = 31 - requant.shift
    result: fp.I64 = (np.asarray(x, np.int64) * requant.multiplier + (1 << (right - 1))) >> right
    return result


@pytest.mark.parametrize("name", ["CONV_2D", "DEPTHWISE_CONV_2D", "MUL"])
def test_single_rounding_would_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "mbqm", single_rounding)
    assert any(differing(random_graph(name, n), n) for n in range(FAST_CASES))


def f32(value: float) -> float:
    return float(np.float32(value))


def near_tie(name: str, number: int) -> Graph:
    """A case whose scales give ties, so that the last bit of a real multiplier shows."""
    rng = np.random.default_rng([21, number])
    b, (s_in, s_w) = single_op.Builder(), (f32(10 ** rng.uniform(-3, 0)) for _ in range(2))
    half = int(rng.integers(1, 100)) + 0.5
    if name == "FULLY_CONNECTED":  # biases at ties; a step there is 2^-17 of an output step
        s_out, channels = f32(s_in * s_w * 2 ** rng.uniform(17, 20)), 64
        bias = np.round((rng.integers(-100, 100, channels) + 0.5) / (s_in * s_w / s_out))
        x = b.activation((1, 1), (s_in, 0))
        op = FullyConnected(
            x=x,
            weight=b.int8(np.zeros((channels, 1)), [s_w]),
            bias=b.int32(bias + rng.integers(-8, 9, channels), [s_in * s_w]),
            out=b.activation((1, channels), (s_out, 0)),
            act=Activation.NONE,
            keep_num_dims=False,
        )
        return b.graph(op, x)
    if name == "RELU6 clamp":  # of a convolution
        s_out = np.float32(6 / half)
        s_out = f32(np.nextafter(s_out, np.float32(rng.integers(0, 2) * 9)))
        x = b.activation((1, 1, 1, 1), (s_out, 0))
        op = Conv2D(
            x=x,
            weight=b.int8(np.full((1, 1, 1, 1), 127), [1.0]),
            bias=b.int32([0]),
            out=b.activation((1, 1, 1, 1), (s_out, 0)),
            stride=(1, 1),
            dilation=(1, 1),
            padding=PaddingKind.SAME,
            act=Activation.RELU6,
        )
        return b.graph(op, x)
    alpha = f32(rng.uniform(-1.5, 1.5)) if name == "LEAKY_RELU" else 0.0
    factor = s_in * abs(alpha or 1.0)
    x = b.activation((1, 256), (s_in, 127 if alpha else -128))
    out = b.activation((1, 256), (factor * int(rng.integers(1, 255)) / half, 0))
    return b.graph(Unary(kind=UnaryKind(name), x=x, out=out, alpha=alpha), x)


def divided(a: float, b: float) -> float:
    return float(np.float32(a) / np.float32(b))


# the same products with one more rounding, as TFLM's older sources have them
OTHER_PRECISION = {
    "FULLY_CONNECTED": ("conv_real", lambda a, b, c: np.array([f32(a * b[0]) / c])),
    "RELU": ("rescale_real", divided),
    "QUANTIZE": ("rescale_real", divided),
    "LEAKY_RELU": ("leaky_relu_real", lambda a, alpha, c: divided(f32(a * alpha), c)),
    "RELU6 clamp": ("quantize_bound", lambda v, s, z: z + int(fp.round_half_away(v / s))),
}


@pytest.mark.parametrize("name", OTHER_PRECISION)
def test_real_multipliers_have_the_oracles_precision(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [near_tie(name, number) for number in range(80)]
    assert sum(differing(graph, n) for n, graph in enumerate(cases)) == 0
    monkeypatch.setattr(fp, *OTHER_PRECISION[name])
    assert sum(differing(graph, n) for n, graph in enumerate(cases)) > 0


@pytest.mark.parametrize(
    ("x", "out"),
    [
        ((0.0014735099393874407, 0), (0.000614628370385617, 0)),
        ((0.012246177531778812, 87), (0.004844186827540398, 107)),
    ],
)
def test_hard_swish_divides_in_double(x: tuple[float, int], out: tuple[float, int]) -> None:
    """A quotient rounded to float32 first gives another 16-bit multiplier here."""
    b = single_op.Builder()
    entry = b.activation((1, 256), x)
    op = Unary(kind=UnaryKind.HARD_SWISH, x=entry, out=b.activation((1, 256), out))
    assert differing(b.graph(op, entry), 0) == 0


@pytest.mark.parametrize(
    "scales",
    [
        (0.034639645367860794, 0.06661470234394073, 0.044409800320863724),
        (0.028465261682868004, 0.031881093978881836, 0.015940546989440918),
    ],
)
@pytest.mark.parametrize("kind", [BinaryKind.ADD, BinaryKind.SUB])
def test_sums_divide_in_double(kind: BinaryKind, scales: tuple[float, float, float]) -> None:
    """mk/sub_common.cc divides in float32; the wheel's machine code does not (200 of 65,536)."""
    b = single_op.Builder()
    x, y, out = (b.activation((1, 256, 256), (scale, 0)) for scale in scales)
    graph = b.graph(Binary(kind=kind, a=x, b=y, out=out, act=Activation.NONE), x, y)
    every = np.broadcast_to(np.arange(-128, 128).astype(np.int8), (1, 256, 256))
    ours = run_graph(graph, every, every.transpose(0, 2, 1))[0]
    file = write_tflite(graph, description="")
    theirs = run_tflm(file, every, np.ascontiguousarray(every.transpose(0, 2, 1)))[0]
    assert np.array_equal(ours, theirs)


def resize(size: int, out_size: int, *, align: bool, half: bool) -> Graph:
    b = single_op.Builder()
    x = b.activation((1, 1, size, 1), (1, 0))
    op = ResizeNearest(
        x=x,
        size_id=b.int32([1, out_size]),
        out=b.activation((1, 1, out_size, 1), (1, 0)),
        align_corners=align,
        half_pixel_centers=half,
    )
    return b.graph(op, x)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_resize_multiplies_in_float32(*, align: bool, half: bool) -> None:
    """Where a product in double, of float32 or double factors, has another whole part."""
    telling = 0
    rng = np.random.default_rng([align, half])
    while telling < 40:
        size, out_size = int(rng.integers(2, 128)), int(rng.integers(2, 400))
        lengths = (size - 1, out_size - 1) if align else (size, out_size)
        at = (np.arange(out_size) + (0.5 if half else 0)) * (lengths[0] / lengths[1])
        wide = np.minimum(np.floor(at + (0.5 if align else 0)), size - 1)
        graph = resize(size, out_size, align=align, half=half)
        x = np.arange(size).astype(np.int8).reshape(1, 1, size, 1)
        (ours,) = run_graph(graph, x)
        if np.array_equal(ours.ravel(), wide):
            continue
        telling += 1
        assert np.array_equal(ours, run_tflm(write_tflite(graph, description=""), x)[0])


@pytest.mark.parametrize("name", single_op.CASES)
def test_images_of_a_batch_do_not_meet(name: str) -> None:
    graph = random_graph(name, 1)
    inputs = single_op.inputs_for(graph, np.random.default_rng(5), images=3)
    together = run_graph(graph, *inputs)[0]
    alone = [run_graph(graph, *(x[i : i + 1] for x in inputs))[0] for i in range(len(inputs[0]))]
    assert np.array_equal(together, np.concatenate(alone))


def flat_softmax(classes: int) -> tuple[Graph, np.ndarray]:
    b = single_op.Builder()
    x = b.activation((1, classes), (0.1, 0))
    out = b.activation((1, classes), (1 / 256, -128))
    return b.graph(Softmax(x=x, out=out, beta=1.0), x), np.zeros((1, classes), np.int8)


def test_equal_logits_of_many_classes() -> None:
    """Up to 511 classes as TFLM; above, where TFLM aborts, the same continued."""
    graph, x = flat_softmax(MAX_SAFE_SOFTMAX)
    (ours,) = run_graph(graph, x)
    assert np.array_equal(ours, run_tflm(write_tflite(graph, description=""), x)[0])
    assert set(ours.ravel()) == {-127}  # 256 / 511 rounded up

    graph, x = flat_softmax(MAX_SAFE_SOFTMAX + 1)
    with pytest.raises(TflmError, match="aborted"):
        run_tflm(write_tflite(graph, description=""), x)
    assert set(run_graph(graph, x)[0].ravel()) <= {-128, -127}


@pytest.mark.parametrize("name", MODEL_OUTPUTS)
def test_whole_models_equal_tflite_micro_in_every_tensor(name: str) -> None:
    data = shared_model(name)
    graph = read_tflite(data)
    (entry,) = graph.inputs
    rng = np.random.default_rng(1)
    x = rng.integers(-128, 128, (20, *graph.tensor(entry).shape[1:])).astype(np.int8)
    (outputs,) = run_graph(graph, x)
    assert hashlib.sha256(outputs.tobytes()).hexdigest()[:16] == MODEL_OUTPUTS[name]

    values = run_tensors(graph, x[:1])
    numbers = [op.out for op in graph.ops]
    assert set(numbers) | {entry} == set(values)
    for op, theirs in zip(graph.ops, run_tflm(data, x[:1], tensors=numbers), strict=True):
        ours = values[op.out]
        assert np.array_equal(ours, theirs.reshape(ours.shape)), op_name(op)


def test_outputs_are_kept_and_others_freed() -> None:
    graph = random_graph("RELU", 0)
    (x,) = single_op.inputs_for(graph, np.random.default_rng(0))
    both = Graph(
        tensors=graph.tensors,
        ops=graph.ops,
        inputs=graph.inputs,
        outputs=(graph.inputs[0], graph.ops[0].out),
    )
    outputs = run_graph(both, x)
    assert np.array_equal(outputs[0], x)
    assert np.array_equal(outputs[1], run_graph(graph, x)[0])


@pytest.mark.parametrize(
    "inputs",
    [
        (),
        (np.zeros((1, 256), np.int16),),
        (np.zeros((1, 255), np.int8),),
        (np.zeros(256, np.int8),),
        (np.zeros((), np.int8),),
        (np.zeros((1, 256), np.int8), np.zeros((1, 256), np.int8)),
    ],
)
def test_wrong_inputs_are_refused(inputs: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(InputError, match="int8 \\['n', 256\\] needed"):
        run_graph(random_graph("RELU", 0), *inputs)
