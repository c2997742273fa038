"""Kernels without weights give tflite_micro's bytes: random operations, each lowered and run alone.

Between the lowering and the kernels there is only ctypes (`kernel_calls`), so that a fault here is
theirs and not the generator's. Where a call says that its output may lie over an input, it does.
"""

import ctypes
import subprocess
from pathlib import Path

import c_engine
import kernel_calls
import numpy as np
import pytest
from host_tools import C99, CPP11, compile_ok, require_tool
from kernel_calls import CASES, GUARD, KERNELS, RUNTIME, lower_only_op, random_graph, run_op
from single_op import Builder, inputs_for
from tflm import run_tflm

from ndtool.export.int8 import spec
from ndtool.export.int8.ir import Graph, Softmax, TensorId
from ndtool.export.int8.reference import run_graph
from ndtool.export.tflite.lint import MAX_SAFE_SOFTMAX
from ndtool.export.tflite.writer import write_tflite

ROOT = Path(__file__).parents[2]
FAST_CASES = 40
SLOW_CASES = 160


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(kernel_calls.build_kernels(tmp_path_factory.mktemp("kernels"))))


def check_case(library: ctypes.CDLL, graph: Graph, seed: int) -> None:
    """The only operation gives tflite_micro's bytes, apart and in every place that it may share."""
    assert spec.find_problems(graph) == []
    inputs = inputs_for(graph, np.random.default_rng(seed))
    model = write_tflite(graph, description="test")
    answer = run_tflm(model, *inputs, outputs=len(graph.outputs))
    wanted = [y.reshape(len(inputs[0]), -1) for y in answer]
    for found, y in zip(run_op(library, graph, inputs), wanted, strict=True):
        assert (found == y).all(), graph.ops
    for rule in (rule for call in lower_only_op(graph) for rule in call.sharing):
        for distance in {rule.low, rule.high} - {None}:
            places = shared_places(graph, rule.x, rule.out, distance)
            (found,) = run_op(library, graph, inputs, places)
            assert (found == wanted[0]).all(), (graph.ops, rule)


def shared_places(graph: Graph, x: TensorId, out: TensorId, distance: int) -> dict[TensorId, int]:
    """`out` at `distance` from `x`, the other inputs above both."""
    base = GUARD + max(0, -distance)
    places = {x: base, out: base + distance}
    end = max(place + graph.tensor(t).elements for t, place in places.items())
    for tensor in graph.inputs:
        if tensor not in places:
            places[tensor] = end + GUARD
            end += GUARD + graph.tensor(tensor).elements
    return places


@pytest.mark.parametrize("name", CASES)
def test_single_operation_equals_tflite_micro(name: str, library: ctypes.CDLL) -> None:
    for number in range(FAST_CASES):
        check_case(library, random_graph(name, number), number)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_single_operations_equal_tflite_micro(name: str, library: ctypes.CDLL) -> None:
    for number in range(FAST_CASES, SLOW_CASES):
        check_case(library, random_graph(name, number), number)


def softmax_graph(classes: int, scale: float) -> Graph:
    b = Builder()
    x = b.activation((1, classes), (scale, 0))
    out = b.activation((1, classes), (1 / 256, -128))
    return b.graph(Softmax(x=x, out=out, beta=1.0), x)


@pytest.mark.parametrize("classes", [1, 2, 255, 256, MAX_SAFE_SOFTMAX])
@pytest.mark.parametrize("scale", [2e-8, 0.1])
def test_softmax_of_equal_logits(classes: int, scale: float, library: ctypes.CDLL) -> None:
    """The sum is a power of two or next to one: the reciprocal's ends."""
    graph = softmax_graph(classes, scale)
    for logit in (-128, 0, 127):
        x = np.full((1, classes), logit, np.int8)
        (wanted,) = run_tflm(write_tflite(graph, description="test"), x)
        (found,) = run_op(library, graph, [x])
        assert (found == wanted.reshape(1, -1)).all()


@pytest.mark.parametrize("classes", [MAX_SAFE_SOFTMAX + 1, 513, 1000, 2048, 4095])
def test_softmax_of_many_classes(classes: int, library: ctypes.CDLL) -> None:
    """Equal logits make tflite_micro abort from 512 classes on: the shift it asserts is 32.

    Ours gives what the shift means, 0; other logits give tflite_micro's bytes as ever.
    """
    flat = np.zeros((1, classes), np.int8)
    steep = np.random.default_rng(classes).integers(-128, 128, (1, classes)).astype(np.int8)
    for graph in (softmax_graph(classes, scale) for scale in (1e-4, 0.01, 0.1, 1.0)):
        for x in (flat, steep):
            assert (run_op(library, graph, [x])[0] == run_graph(graph, x)[0]).all()
    (found,) = run_op(library, graph, [steep])
    (wanted,) = run_tflm(write_tflite(graph, description="test"), steep)
    assert (found == wanted.reshape(1, -1)).all()
    assert run_op(library, graph, [flat])[0].tolist() == [[-128] * classes]


def test_reciprocal_of_softmax_over_all_sums(library: ctypes.CDLL) -> None:
    """Two classes at every difference, for scales that give some 50,000 different sums."""
    b = Builder()
    shape = (1, 256, 2)
    x = b.activation(shape, (0.1, 0))
    out = b.activation(shape, (1 / 256, -128))
    pairs = np.stack([np.full(256, 127), np.arange(-128, 128)], axis=1).astype(np.int8)[None]
    for beta in np.geomspace(0.01, 3, 200, dtype=np.float32):
        graph = b.graph(Softmax(x=x, out=out, beta=float(beta)), x)
        (wanted,) = run_graph(graph, pairs)
        assert (run_op(library, graph, [pairs])[0] == wanted.reshape(1, -1)).all(), beta


@pytest.mark.slow
def test_no_byte_outside_is_touched(tmp_path: Path) -> None:
    assert kernel_calls.check_heap(tmp_path, cases=60) == ""


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_compiles_alone_as_c_and_cpp(name: str, tmp_path: Path) -> None:
    for compiler in (C99, CPP11):
        compile_ok(compiler, [RUNTIME / f"{name}.c"], "-O2", "-c", "-o", "kernel.o", cwd=tmp_path)


def test_layout_is_clang_format_s() -> None:
    formatter = require_tool("clang-format")
    headers = [RUNTIME / name for name in ("nd_add.h", "nd_broadcast.h", "nd_pool.h")]
    files = [RUNTIME / f"{name}.{end}" for name in KERNELS for end in "ch"] + headers
    done = subprocess.run(
        [formatter, "--dry-run", "-Werror", *map(str, files)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_generated_c_gives_the_same(tmp_path: Path) -> None:
    """The same through planner and generator: outputs in the arena, over their inputs or not."""
    graphs = {
        f"{name} {number}": random_graph(name, number)
        for name in CASES
        if name.endswith(", wide")
        for number in range(1000, 1002)
    }
    engine = c_engine.build(list(graphs.values()), tmp_path, flags=c_engine.UBSAN)
    for k, (name, graph) in enumerate(graphs.items()):
        inputs = inputs_for(graph, np.random.default_rng(k))
        model = write_tflite(graph, description="test")
        wanted = run_tflm(model, *inputs, outputs=len(graph.outputs))
        for found, y in zip(engine.run(k, *inputs), wanted, strict=True):
            assert (found.reshape(y.shape) == y).all(), name
