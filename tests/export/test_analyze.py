"""What is foretold before training is what the trained network's C has."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from dead_networks import dead_network
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import ds_spec, se_spec
from onnx import NodeProto
from onnx_models import model, node
from random_networks import random_images, random_tensors

from ndtool.arch import ArchSpec, count_macs, count_parameters
from ndtool.errors import InputError, UnsupportedError
from ndtool.export import analyze as analyzing
from ndtool.export.analyze import (
    MAX_PARAMETERS,
    analysis_csv,
    analyze,
    analyze_spec,
    compile_float,
    compile_spec,
    constant_count,
    describe_spec,
    is_too_large,
)
from ndtool.export.codegen.emit import emit_program
from ndtool.export.codegen.engine import Compiled, compile_graph
from ndtool.export.codegen.passes import SHAPE_PASSES
from ndtool.export.codegen.plan import ALIGN
from ndtool.export.fit import least_need
from ndtool.export.graph.from_onnx import read_onnx
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.export.int8.convert import ConvertOptions, convert
from ndtool.export.int8.ir import Graph
from ndtool.export.ranges import measure_ranges
from ndtool.models import MODELS, make_spec

CORE = "cortex-m4f"
SMALL = [
    ds_spec(),
    se_spec(),
    *(
        make_spec(name, width=0.35, size_px=32, in_channels=3, classes=7)
        for name in ("ds-cnn", "mbv2", "mbv2-tiny", "mbv3")
    ),
]


def converted(spec: ArchSpec, seed: int = 0) -> Graph:
    """The int8 graph of other weights, with ranges measured by onnxruntime."""
    data = write_onnx(spec, random_tensors(spec, seed))
    graph = read_onnx(data, where="test")
    names = [t.source for t in graph.tensors.values() if t.source and t.data is None]
    ranges = measure_ranges(data, random_images(spec, 4), names)
    return convert(graph, ranges, ConvertOptions()).graph


def shape_of(compiled: Compiled) -> list[tuple[object, ...]]:
    """All of a program but the values in its tables."""
    return [
        (call.kernel, call.title, call.macs, [len(table.data) for table in call.tables])
        for call in compiled.program.calls
    ]


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.model)
def test_the_plan_of_a_spec_is_that_of_any_of_its_networks(spec: ArchSpec) -> None:
    foretold, graph = compile_spec(spec), converted(spec)
    kept = compile_graph(graph, SHAPE_PASSES)
    assert foretold.plan == kept.plan
    assert shape_of(foretold) == shape_of(kept)
    made = compile_graph(graph)  # as codegen does it
    assert made.plan.total <= foretold.plan.total
    if not made.program.removed:
        assert made.plan == foretold.plan


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    name=st.sampled_from(sorted(MODELS)),
    width=st.sampled_from([0.1, 0.25, 0.5, 0.7]),
    size_px=st.integers(32, 80),
    in_channels=st.sampled_from([1, 3]),
    classes=st.integers(1, 40),
)
def test_no_size_depends_on_a_weight(
    name: str, width: float, size_px: int, in_channels: int, classes: int
) -> None:
    spec = make_spec(name, width=width, size_px=size_px, in_channels=in_channels, classes=classes)
    foretold = compile_spec(spec)
    graph = read_onnx(write_onnx(spec, random_tensors(spec)), where="test")
    ranges = {t.source: (-3.0, 7.0) for t in graph.tensors.values() if t.data is None}
    other = compile_graph(convert(graph, ranges, ConvertOptions()).graph, SHAPE_PASSES)
    assert (foretold.plan, shape_of(foretold)) == (other.plan, shape_of(other))
    least = least_need(spec)
    assert least.arena_bytes <= foretold.plan.total
    assert least.flash_bytes <= emit_program(foretold, prefix="m").weights_bytes


def test_with_dead_channels_it_is_an_upper_bound() -> None:
    """A smaller tensor may share its place less well, by less than one step of alignment."""
    removed = 0
    for seed in range(60):
        graph = dead_network(seed)
        above, exact = compile_graph(graph, SHAPE_PASSES), compile_graph(graph)
        removed += bool(exact.program.removed)
        assert exact.plan.total <= above.plan.total + ALIGN, seed
        bytes_of = [emit_program(c, prefix="m").weights_bytes for c in (exact, above)]
        assert bytes_of == sorted(bytes_of), seed
        macs = [sum(call.macs for call in c.program.calls) for c in (exact, above)]
        assert macs == sorted(macs), seed
    assert removed > 20


def test_an_analysis_adds_up() -> None:
    spec = make_spec("mbv3", width=0.35, size_px=64, in_channels=3, classes=10)
    found = analyze_spec(spec, core=CORE)
    text = emit_program(compile_spec(spec), prefix="m")
    assert found.what == describe_spec(spec) == "mbv3 width 0.35, 64x64x3, 10 classes"
    assert (found.params, found.macs) == (count_parameters(spec), count_macs(spec))
    assert sum(row.macs for row in found.layers) == found.macs
    assert sum(row.weights_bytes for row in found.layers) == text.weights_bytes
    assert found.cost.weights_bytes == text.weights_bytes < found.cost.flash_bytes
    assert sum(row.instructions for row in found.layers) == found.cost.instructions > found.macs / 2
    assert [row.index for row in found.layers] == list(range(len(found.layers)))
    assert found.peak.live_bytes <= found.arena_bytes < 2 * found.peak.live_bytes
    assert found.heaviest.tensor == "hidden.pre"
    assert found.ram_bytes == found.arena_bytes + 2048
    assert found.upper_bound


def test_no_two_layers_of_a_made_up_network_share_a_table() -> None:
    """A trained one's differ; what is equal by chance would make the flash too small."""
    for name in MODELS:
        spec = make_spec(name, width=0.35, size_px=64, in_channels=3, classes=10)
        tables = [t for call in compile_spec(spec).program.calls for t in call.tables]
        assert len({(table.ctype, table.data) for table in tables}) == len(tables), name


def test_equal_tables_count_once() -> None:
    nodes = [node("Tanh", "x", "h"), node("Tanh", "x", "g"), node("Add", "h g", "y")]
    data = model(nodes, image=(1, 3, 8, 8))
    compiled = compile_float(read_onnx(data, where="test"), where="test")
    found = analyze(compiled, what="x", params=None, upper_bound=True, core=CORE)
    whole = sum(len(table.data) for call in compiled.program.calls for table in call.tables)
    once = sum(row.weights_bytes for row in found.layers)
    assert once == found.cost.weights_bytes == whole - 256
    assert [row.weights_bytes for row in found.layers][:2] == [256, 0]


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "size_px"), [(8.0, 32), (0.35, 4096)], ids=["parameters", "activations"]
)
def test_too_large_networks_are_refused_before_a_weight_is_made(
    width: float, size_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec("mbv2", width=width, size_px=size_px, in_channels=3, classes=10)
    monkeypatch.setattr(analyzing, "build_graph", None)
    assert is_too_large(spec)
    with pytest.raises(InputError, match="far too large") as caught:
        compile_spec(spec)
    assert caught.value.code == "analyze.too-large" and spec.model in caught.value.where


def test_the_largest_image_counts_as_an_activation() -> None:
    fits, above = (
        make_spec("ds-cnn", width=0.1, size_px=side, in_channels=3, classes=2)
        for side in (2364, 2366)  # 3 * 2364**2 is just below 2**24, and above every layer's map
    )
    assert is_too_large(above) and not is_too_large(fits)
    assert compile_spec(fits).plan.total >= 3 * 2364**2


def test_too_many_constants_of_a_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = model([node("Conv", "x w", "y")], {"w": np.ones((8, 3, 1, 1))}, image=(1, 3, 8, 8))
    graph = read_onnx(data, where="big.onnx")
    monkeypatch.setattr(analyzing, "MAX_PARAMETERS", constant_count(graph))
    compile_float(graph, where="big.onnx")
    monkeypatch.setattr(analyzing, "MAX_PARAMETERS", constant_count(graph) - 1)
    with pytest.raises(InputError, match="far too large"):
        compile_float(graph, where="big.onnx")
    assert constant_count(graph) < MAX_PARAMETERS


def test_weights_that_no_int8_can_hold_are_refused_though_they_are_not_used() -> None:
    data = model([node("Conv", "x w", "y")], {"w": np.full((8, 3, 1, 1), 1e38)}, image=(1, 3, 8, 8))
    with pytest.raises(UnsupportedError) as caught:
        compile_float(read_onnx(data, where="test"), where="test")
    assert caught.value.code == "quant.not-finite"


def test_the_values_of_a_foreign_file_do_not_matter() -> None:
    """A constant of 1e4 would, with ranges that nobody measured, leave the kernels' multipliers."""
    nodes = [node("Conv", "x w", "h"), node("Mul", "h k", "y")]
    sizes = []
    for factor in (1e-6, 1.0, 1e4):
        data = model(
            nodes,
            {"w": factor * np.ones((8, 3, 3, 3)), "k": np.array([factor])},
            image=(1, 3, 8, 8),
        )
        sizes.append(compile_float(read_onnx(data, where="test"), where="test").plan.total)
    assert len(set(sizes)) == 1


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Tanh", "x", "h"), node("MaxPool", "h", "y", kernel_shape=[2, 2])],
        [node("Sigmoid", "x", "h"), node("AveragePool", "h", "y", kernel_shape=[2, 2])],
        [node("Tanh", "x", "h"), node("Concat", "h x", "y", axis=1)],
        [node("Clip", "x lo hi", "h"), node("MaxPool", "h", "y", kernel_shape=[2, 2])],
        [node("Softmax", "x", "h", axis=1), node("Pad", "h pads", "y")],
    ],
    ids=["tanh pool", "sigmoid pool", "tanh concat", "relu6 pool", "softmax pad"],
)
def test_made_up_ranges_refuse_nothing_that_measured_ones_let_through(
    nodes: list[NodeProto],
) -> None:
    """Tensors that share a scale with one of a fixed range, as pools and joins make them."""
    constants = {"lo": np.float32(0), "hi": np.float32(6), "pads": np.array([0, 0, 0, 0] * 2)}
    used = {name for made in nodes for name in made.input}
    data = model(nodes, {name: constants[name] for name in used & set(constants)})
    graph = read_onnx(data, where="test")
    foretold = compile_float(graph, where="test")
    names = [t.source for t in graph.tensors.values() if t.source and t.data is None]
    images = np.random.default_rng(0).random((4, 3, 8, 8), np.float32)
    ranges = measure_ranges(data, images, names)
    made = compile_graph(convert(graph, ranges, ConvertOptions()).graph, SHAPE_PASSES)
    assert foretold.plan == made.plan


# ---- output and imports --------------------------------------------------------------------------


def test_the_csv_is_read_back_and_starts_no_formula() -> None:
    found = analyze_spec(ds_spec(), core=CORE)
    hostile = tuple(replace(row, tensor='=1+1,"\n\x1b') for row in found.layers)
    rows = list(csv.DictReader(io.StringIO(analysis_csv(replace(found, layers=hostile)))))
    assert [int(row["macs"]) for row in rows] == [row.macs for row in found.layers]
    assert [int(row["weights_bytes"]) for row in rows] == [r.weights_bytes for r in found.layers]
    assert {row["tensor"] for row in rows} == {"'=1+1,\"\\x0a\\x1b"}
    assert [row["layer"] for row in rows if row["peak"]] == [str(found.peak.index)]


def test_neither_torch_nor_an_interpreter_is_loaded() -> None:
    script = (
        "import sys\n"
        "from ndtool.cli.main import main\n"
        "code = main(['analyze', 'ds-cnn', '--target', 'nucleo-f446re', '-q'])\n"
        "heavy = {'torch', 'onnxruntime', 'tensorflow', 'tflite_micro', 'sklearn', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
