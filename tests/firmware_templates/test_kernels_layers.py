"""Kernels of layers with weights give tflite_micro's bytes, apart and wherever they may overlap.

Between the lowering and the kernels there is only ctypes (`kernel_calls`), so that a fault here is
theirs and not the generator's.
"""

import ctypes
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import kernel_calls
import numpy as np
import pytest
from host_tools import C99, CPP11, compile_ok
from kernel_calls import GUARD, RUNTIME, run_op
from layer_ops import KERNELS, LAYERS, calls_of, random_layer
from single_op import inputs_for
from tflm import run_tflm

from ndtool.export.codegen.program import Call
from ndtool.export.int8 import spec
from ndtool.export.int8.ir import Conv2D, DepthwiseConv2D, Graph, Pads, TensorId
from ndtool.export.int8.reference import run_graph
from ndtool.export.tflite.writer import write_tflite

FAST_CASES = 60
SLOW_CASES = 500


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("layers")
    return ctypes.CDLL(str(kernel_calls.build_kernels(folder, names=KERNELS)))


def oracle(graph: Graph, inputs: list[np.ndarray]) -> np.ndarray:
    """tflite_micro's bytes (n, elements); the reference's where no file can say the padding."""
    op = graph.ops[0]
    if isinstance(op, Conv2D | DepthwiseConv2D) and isinstance(op.padding, Pads):
        (answer,) = run_graph(graph, *inputs)
    else:
        (answer,) = run_tflm(write_tflite(graph, description="test"), *inputs)
    return answer.reshape(len(inputs[0]), -1)


def check_layer(library: ctypes.CDLL, graph: Graph, seed: int) -> None:
    assert spec.find_problems(graph) == []
    inputs = inputs_for(graph, np.random.default_rng(seed))
    wanted = oracle(graph, inputs)
    calls = calls_of(graph)
    (found,) = run_op(library, graph, inputs, calls=calls)
    assert (found == wanted).all(), graph.ops
    (call,) = calls
    for places in overlapping_places(graph, call):
        (found,) = run_op(library, graph, inputs, places, calls=calls)
        assert (found == wanted).all(), (graph.ops, places)


def overlapping_places(graph: Graph, call: Call) -> list[Mapping[TensorId, int]]:
    """Places at the ends of each rule and a little inside; every tensor's rules must hold."""
    found = []
    for x in {rule.x for rule in call.sharing}:
        rules = [rule for rule in call.sharing if rule.x == x]
        low = max((rule.low for rule in rules if rule.low is not None), default=None)
        high = min((rule.high for rule in rules if rule.high is not None), default=None)
        distances = {
            *((low, low + 3) if low is not None else ()),
            *((high, high - 3) if high is not None else ()),
            *((-1, 0, 2) if low is None and high is None else ()),
        }
        for distance in distances:
            if (low is None or low <= distance) and (high is None or distance <= high):
                found.append(places_at(graph, x, call.out, distance))
    return found


def places_at(graph: Graph, x: TensorId, out: TensorId, distance: int) -> Mapping[TensorId, int]:
    """`out` at `distance` from `x`, the other inputs above both."""
    base = GUARD + max(0, -distance)
    places = {x: base, out: base + distance}
    end = max(place + graph.tensor(t).elements for t, place in places.items()) + GUARD
    for tensor in graph.inputs:
        if tensor not in places:
            places[tensor] = end
            end += GUARD + graph.tensor(tensor).elements
    return places


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_tflite_micro(name: str, library: ctypes.CDLL) -> None:
    for number in range(FAST_CASES):
        check_layer(library, random_layer(name, number), number)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_many_layers_equal_tflite_micro(name: str, library: ctypes.CDLL) -> None:
    for number in range(FAST_CASES, SLOW_CASES):
        check_layer(library, random_layer(name, number), number)


def test_the_cases_reach_every_kernel_and_every_overlap() -> None:
    """What would make the tests above prove little."""
    seen: Counter[str] = Counter()
    shifts: set[int] = set()
    for name in LAYERS:
        for number in range(FAST_CASES):
            graph = random_layer(name, number)
            (call,) = calls_of(graph)
            seen[call.kernel] += 1
            seen["-128"] += int(-128 in table(call, "w"))
            shifts.update(table(call, "shift").tolist())
            for rule in call.sharing:
                seen[f"low {rule.low is not None}, high {rule.high is not None}"] += 1
            seen["an ADD over its own input"] += len(call.reads) > len(set(call.reads))
    called = set(KERNELS) - {"nd_gemm_s8", "nd_patch_s8"}
    assert all(seen[name] > 5 for name in called), seen
    assert seen["-128"] > 50
    assert {-31, -24, -23, -1, 0, 1, 8} <= shifts
    ends = (False, True)
    assert all(seen[f"low {low}, high {high}"] > 5 for low in ends for high in ends), seen
    assert seen["an ADD over its own input"] > 3


def table(call: Call, name: str) -> np.ndarray:
    (found,) = (t for t in call.tables if t.name == name)
    return np.frombuffer(found.data, np.int8 if found.ctype == "int8_t" else "<i4")


@pytest.mark.slow
def test_no_byte_outside_is_touched(tmp_path: Path) -> None:
    built = kernel_calls.build_kernels(tmp_path, kernel_calls.ASAN, KERNELS)
    assert kernel_calls.under_asan("layer_ops", built, 200, 200 * len(LAYERS)) == ""


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_compiles_alone_as_c_and_cpp(name: str, tmp_path: Path) -> None:
    for compiler in (C99, CPP11):
        compile_ok(compiler, [RUNTIME / f"{name}.c"], "-O2", "-c", "-o", "kernel.o", cwd=tmp_path)
