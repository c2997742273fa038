"""The float graph of our own networks: equal to the ONNX file tensor by tensor, stable names."""

from __future__ import annotations

import numpy as np
import pytest
from graph_checks import agree, kinds
from random_networks import random_tensors, settled_tensors

from ndtool.arch import Act, ArchSpec, Head, LayerOp, lower
from ndtool.export.graph import ir
from ndtool.export.graph.from_spec import build_graph
from ndtool.export.graph.names import tensor_names
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.export.graph.weights import fold_tensors
from ndtool.models import make_spec


def spec_of(name: str, size_px: int, width: float = 0.35) -> ArchSpec:
    return make_spec(name, width=width, size_px=size_px, in_channels=3, classes=5)


SPECS = [
    pytest.param(spec_of("ds-cnn", 12), id="ds-cnn-12"),
    pytest.param(spec_of("ds-cnn", 13), id="ds-cnn-13"),
    pytest.param(spec_of("mbv2", 16, 0.1), id="mbv2-16", marks=pytest.mark.slow),
    pytest.param(spec_of("mbv3", 16, 0.1), id="mbv3-16", marks=pytest.mark.slow),
]
MBV3 = spec_of("mbv3", 32)


@pytest.mark.parametrize("spec", SPECS)
def test_every_tensor_equals_the_onnx_tensor_it_names(spec: ArchSpec) -> None:
    agree(write_onnx(spec, settled_tensors(spec)))


@pytest.mark.parametrize("name", ["ds-cnn", "mbv2", "mbv2-tiny", "mbv3"])
def test_one_operation_a_layer_in_order(name: str) -> None:
    spec = spec_of(name, 32)
    graph = build_graph(spec, random_tensors(spec))
    layers = lower(spec)
    assert [op.name for op in graph.ops if not isinstance(op, ir.Unary)] == [x.name for x in layers]
    swishes = [f"{x.name}.act" for x in layers if x.act is Act.HARD_SWISH]
    assert [op.name for op in graph.ops if isinstance(op, ir.Unary)] == swishes
    outs = {op.name: op.out for op in graph.ops}
    for layer in layers:
        last = outs[f"{layer.name}.act" if layer.act is Act.HARD_SWISH else layer.name]
        assert last == ("logits" if layer.name == "classifier" else layer.name)
        depth, (height, width) = layer.c_out, layer.hw_out
        vector = layer.op is LayerOp.LINEAR or layer.name == "pool"
        shape = (1, depth) if vector else (1, height, width, depth)
        assert graph.tensors[last].shape == shape
    assert (graph.inputs, graph.outputs) == (("input",), ("logits",))


def test_weights_are_the_folded_ones_in_tflite_layout() -> None:
    spec = spec_of("mbv3", 32)
    tensors = random_tensors(spec)
    graph, folded = build_graph(spec, tensors), fold_tensors(spec, tensors)
    for layer in lower(spec):
        if not layer.weight_shape:
            continue
        weight, bias = folded[f"{layer.name}.weight"], folded[f"{layer.name}.bias"]
        if layer.op is not LayerOp.LINEAR:
            order = (1, 2, 3, 0) if layer.op is LayerOp.DEPTHWISE else (0, 2, 3, 1)
            weight = weight.transpose(order)
        if layer.act is Act.HARD_SIGMOID:  # in float64, alpha as the file has it
            alpha = np.float64(np.float32(1 / 6))
            weight = (weight.astype(np.float64) * alpha).astype(np.float32)
            bias = (bias.astype(np.float64) * alpha + 0.5).astype(np.float32)
        np.testing.assert_array_equal(graph.tensors[f"{layer.name}.weight"].data, weight)
        np.testing.assert_array_equal(graph.tensors[f"{layer.name}.bias"].data, bias)


def test_fused_activations_of_mbv3() -> None:
    graph = build_graph(MBV3, random_tensors(MBV3))
    fused = {op.name: op.act for op in graph.ops if isinstance(op, ir.Conv)}
    assert fused["stem"] is ir.Fused.NONE, "hard-swish is an operation of its own"
    assert fused["blocks.1.expand"] is ir.Fused.RELU
    assert fused["blocks.4.se.gate"] is ir.Fused.CLIP_0_1
    assert fused["blocks.4.project"] is ir.Fused.NONE
    assert {"hard_swish", "mul", "add", "Mean", "FullyConnected"} <= set(kinds(graph))


def test_a_head_without_hidden_layer_or_convolution() -> None:
    spec = spec_of("ds-cnn", 12)
    assert spec.head == Head()
    assert kinds(build_graph(spec, random_tensors(spec)))[-2:] == ["Mean", "FullyConnected"]


def test_tensor_names_lead_from_tflite_to_torch() -> None:
    graph = build_graph(MBV3, random_tensors(MBV3))
    rows = {row["tflite"]: row for row in tensor_names(graph, MBV3)}
    assert list(rows) == list(graph.tensors)
    assert rows["input"] == {"tflite": "input", "onnx": "input", "torch": ""}
    assert rows["logits"] == {"tflite": "logits", "onnx": "logits", "torch": "classifier"}
    for name in ("stem.weight", "stem.bias", "stem.pre", "stem"):
        assert rows[name] == {"tflite": name, "onnx": name, "torch": "stem"}
    modules = {layer.name for layer in lower(MBV3)}
    assert {row["torch"] for row in rows.values()} == modules | {""}
    assert [n for n, row in rows.items() if not row["torch"]] == ["input"]


def test_a_network_that_is_not_ours_has_no_torch_names() -> None:
    graph = build_graph(MBV3, random_tensors(MBV3))
    assert {row["torch"] for row in tensor_names(graph, None)} == {""}
