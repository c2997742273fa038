"""Every model to the end of the chain: ONNX equal to torch, C equal to tflite_micro, its arena."""

from __future__ import annotations

from pathlib import Path

import c_engine
import numpy as np
import pytest
import torch
from onnx_models import run
from random_networks import random_images, settled_tensors
from tflm import run_tflm
from tolerances import LOGITS_ABS

from ndtool.arch import ArchSpec, count_macs, expand, lower
from ndtool.export.analyze import analyze_spec, compile_spec
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.codegen.passes import SHAPE_PASSES
from ndtool.export.graph.from_onnx import read_onnx
from ndtool.export.graph.names import tensor_names
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.export.int8.convert import ConvertOptions, convert
from ndtool.export.int8.ir import op_outputs
from ndtool.export.ranges import measure_ranges
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite
from ndtool.models import MODELS, make_spec
from ndtool.training.build import Network

CLASSES = 10
# pixels: the variant for small images, and the papers' strides
SIZES = [pytest.param(name, px, id=f"{name}-{px}") for name in MODELS for px in (32, 64)]
SAMPLES = 6


def spec_of(name: str, size_px: int) -> ArchSpec:
    return make_spec(name, width=0.35, size_px=size_px, in_channels=3, classes=CLASSES)


@pytest.mark.slow
@pytest.mark.usefixtures("tflite_micro")
@pytest.mark.parametrize(("name", "size_px"), SIZES)
def test_the_chain(name: str, size_px: int, tmp_path: Path) -> None:
    spec = spec_of(name, size_px)
    tensors = settled_tensors(spec)
    images = random_images(spec, SAMPLES)

    data = write_onnx(spec, tensors)
    network = Network(spec)
    network.load_named({n: torch.from_numpy(values) for n, values in tensors.items()})
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images)).numpy()
    (logits,) = run(data, images)
    assert np.ptp(expected, axis=0).max() > 100 * LOGITS_ABS, "it ignores its input"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGITS_ABS)

    float_graph = read_onnx(data, where="test")
    names = [t.source for t in float_graph.tensors.values() if t.source and t.data is None]
    ranges = measure_ranges(data, images, names)
    tflite = write_tflite(convert(float_graph, ranges, ConvertOptions()).graph, description="test")
    graph = read_tflite(tflite)
    library = c_engine.build([graph], tmp_path / "c", flags=("-O1", *c_engine.UBSAN))
    pixels = np.rint(images.transpose(0, 2, 3, 1) * 255).astype(np.int16) - 128
    noise = np.random.default_rng(0).integers(-128, 128, pixels.shape)
    inputs = np.concatenate([pixels, noise]).astype(np.int8)
    layers = library.run_layers(0, inputs)
    formed = {t for op in graph.ops for t in op_outputs(op)}
    assert layers.keys() == formed - library.models[0].program.fused
    wanted = run_tflm(tflite, inputs, tensors=list(layers))
    assert library.differences(0, layers, wanted) == []
    (outputs,) = library.run(0, inputs)
    (reference,) = run_tflm(tflite, inputs)
    assert outputs.tobytes() == reference.tobytes()
    assert len({row.tobytes() for row in outputs}) > SAMPLES, "it ignores its input"

    foretold = analyze_spec(spec, core="cortex-m4f")
    assert foretold.macs == count_macs(spec)
    assert foretold.arena_bytes == compile_graph(graph, SHAPE_PASSES).plan.total
    header = (tmp_path / "c" / "m0.h").read_text()
    (arena,) = [int(x.split()[2]) for x in header.splitlines() if "_ARENA_BYTES" in x[:30]]
    removed = library.models[0].program.removed
    assert arena == foretold.arena_bytes if not removed else arena <= foretold.arena_bytes


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_has_a_name_in_torch(name: str) -> None:
    spec = spec_of(name, 32)
    rows = tensor_names(read_onnx(write_onnx(spec, settled_tensors(spec)), where="test"), spec)
    known = {layer.name for layer in lower(spec)}
    assert {row["torch"] for row in rows} - {""} == known
    assert [row["tflite"] for row in rows if not row["torch"]] == ["input"]


@pytest.mark.parametrize("name", ["resnet8", "mcunet-256kb", "proxyless"])
def test_a_teacher_is_a_network_like_any_other(name: str) -> None:
    """Three times as wide: it has ONNX and a plan, too."""
    spec = expand(spec_of(name, 32), 3)
    assert compile_spec(spec).plan.total > compile_spec(spec_of(name, 32)).plan.total


def test_resnet8_has_the_benchmarks_arena() -> None:
    """That of the published int8 file, whose sums are fused into convolutions as these are."""
    spec = make_spec("resnet8", width=1.0, size_px=32, in_channels=3, classes=10)
    compiled = compile_spec(spec)
    assert compiled.plan.total == 33_088
    kernels = [call.kernel for call in compiled.program.calls]
    assert kernels.count("nd_conv_add_s8") == 3 and "nd_add_s8" not in kernels
