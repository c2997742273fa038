"""Damaged ONNX files: a graph or an NdError, never anything else, and quickly."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
import onnx
import pytest
from onnx_models import model, node
from random_networks import random_tensors

from ndtool.arch import Head
from ndtool.errors import NdError
from ndtool.export.graph.from_onnx import read_onnx
from ndtool.export.graph.ir import FloatGraph
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.models import make_spec

COUNT: Final = 1000
MAX_S: Final = 1.0  # for one file; they take milliseconds


def own_network() -> bytes:
    """The first blocks of mbv3: every operator that we write, few weights."""
    whole = make_spec("mbv3", width=0.05, size_px=32, in_channels=3, classes=3)
    spec = replace(whole, blocks=whole.blocks[:6], head=Head())
    return write_onnx(spec, random_tensors(spec))


def many_dialects() -> bytes:
    nodes = [
        node("Shape", "x", "s"),
        node("Slice", "s zero one", "n"),
        node("Concat", "n rest", "t", axis=0),
        node("Pad", "x pads", "p"),
        node("Conv", "p w b", "c", strides=[2, 2], dilations=[1, 1]),
        node("BatchNormalization", "c b b b b", "d", epsilon=1e-3),
        node("Clip", "d", "e", min=0.0, max=6.0),
        node("AveragePool", "e", "f", kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
        node("Concat", "f f", "g", axis=1),
        node("Reshape", "g t", "h"),
        node("Gemm", "h m", "y", transB=1, alpha=0.5),
    ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "rest": np.array([-1]),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "w": np.full((2, 3, 3, 3), 0.1),
        "b": np.array([0.5, 1.0]),
        "m": np.full((3, 64), 0.1),
    }
    return model(nodes, constants, opset=11)


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """A truncation, or some bytes changed, dropped or doubled, mostly outside the weights."""
    if rng.random() < 0.1:
        return data[: rng.integers(len(data))]
    array = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(array)))
        match rng.integers(4):
            case 0:
                array[at] = int(rng.integers(256))
            case 1:
                array[at] ^= 1 << int(rng.integers(8))
            case 2:
                del array[at : at + int(rng.integers(1, 9))]
            case _:
                array[at:at] = array[at : at + int(rng.integers(1, 9))]
    return bytes(array)


def outcome(data: bytes) -> str:
    began = time.perf_counter()
    try:
        graph = read_onnx(data, where="fuzz")
    except NdError as error:
        result = error.code
    else:
        assert isinstance(graph, FloatGraph)
        result = "read"
    assert time.perf_counter() - began < MAX_S
    return result


@pytest.mark.slow
@pytest.mark.parametrize("make", [own_network, many_dialects])
def test_damaged_bytes(make: Callable[[], bytes]) -> None:
    data = make()
    assert outcome(data) == "read"
    rng = np.random.default_rng(2024)
    results = Counter(outcome(damage(data, rng)) for _ in range(COUNT))
    assert min(results["read"], results["onnx.malformed"]) > 20, results


@pytest.mark.slow
def test_damaged_structure() -> None:
    """Valid protobuf with wrong numbers and names: past the parser, into every operator."""
    rng = np.random.default_rng(2025)
    numbers = (-(2**63), -5, -1, 0, 1, 2, 3, 4, 7, 64, 2**31, 2**62)
    data = many_dialects()
    results: Counter[str] = Counter()
    for _ in range(COUNT):
        proto = onnx.ModelProto.FromString(data)
        graph = proto.graph
        victim = graph.node[rng.integers(len(graph.node))]
        tensors = [t for t in graph.initializer if t.data_type == onnx.TensorProto.INT64]
        number = numbers[rng.integers(len(numbers))]
        match rng.integers(7):
            case 0 if victim.attribute:
                attribute = victim.attribute[rng.integers(len(victim.attribute))]
                if attribute.ints:
                    attribute.ints[rng.integers(len(attribute.ints))] = number
                attribute.i = number
            case 1 if victim.attribute:
                kinds = onnx.AttributeProto.AttributeType.values()
                victim.attribute[0].type = kinds[rng.integers(len(kinds))]
            case 2:
                tensor = tensors[rng.integers(len(tensors))]
                values = onnx.numpy_helper.to_array(tensor).copy()
                values[rng.integers(len(values))] = number
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
            case 3:
                names = [t.name for t in graph.initializer] + [n.output[0] for n in graph.node]
                names += ["x", "", "nowhere"]
                victim.input[rng.integers(len(victim.input))] = names[rng.integers(len(names))]
            case 4:
                ops = [n.op_type for n in graph.node] + ["Softmax", "Squeeze", "Mul", "Relu"]
                victim.op_type = ops[rng.integers(len(ops))]
            case 5:
                shape = graph.input[0].type.tensor_type.shape.dim
                shape[rng.integers(4)].dim_value = number
            case _:
                del victim.input[rng.integers(len(victim.input)) :]
        results[outcome(proto.SerializeToString())] += 1
    assert min(results["read"], results["onnx.malformed"], results["onnx.unsupported"]) > 20, (
        results
    )
