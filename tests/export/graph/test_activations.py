"""Activations in ONNX: fused, named, or left alone; every spelling equal to onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph_checks import agree, kinds, only
from onnx_models import model, node

from ndtool.export.graph import ir

RNG = np.random.default_rng(7)
W = RNG.normal(0, 0.3, (4, 3, 3, 3))  # convolution of the 3 x 8 x 8 image
B = RNG.normal(0, 0.3, 4)
CONV = node("Conv", "x w b", "c", pads=[1, 1, 1, 1])
WEIGHTS = {"w": W, "b": B}
NUMBERS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "three": np.float32(3),
    "six": np.float32(6),
    "sixth": np.float32(1 / 6),
    "minus": np.float32(-1),
    "huge": np.finfo(np.float32).max,
}


ACTIVATIONS: dict[str, tuple[list[onnx.NodeProto], ir.Fused, int]] = {
    "relu": ([node("Relu", "c", "y")], ir.Fused.RELU, 17),
    "clip inputs": ([node("Clip", "c zero six", "y")], ir.Fused.RELU6, 17),
    "clip attributes": ([node("Clip", "c", "y", min=0.0, max=6.0)], ir.Fused.RELU6, 10),
    "clip min only": ([node("Clip", "c zero", "y")], ir.Fused.RELU, 13),
    "clip max is float32's": ([node("Clip", "c zero huge", "y")], ir.Fused.RELU, 13),
    "clip 0 1": ([node("Clip", "c zero one", "y")], ir.Fused.CLIP_0_1, 17),
    "clip -1 1": ([node("Clip", "c minus one", "y")], ir.Fused.CLIP_N1_1, 17),
    "hard sigmoid": (
        [node("HardSigmoid", "c", "y", alpha=1 / 6, beta=0.5)],
        ir.Fused.CLIP_0_1,
        17,
    ),
    "hard sigmoid by default": ([node("HardSigmoid", "c", "y")], ir.Fused.CLIP_0_1, 17),
    "hard sigmoid spelled out": (
        [
            node("Add", "c three", "d"),
            node("Clip", "d zero six", "e"),
            node("Div", "e six", "y"),
        ],
        ir.Fused.CLIP_0_1,
        17,
    ),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_fused(name: str) -> None:
    nodes, fused, opset = ACTIVATIONS[name]
    op = only(agree(model([CONV, *nodes], {**WEIGHTS, **NUMBERS}, opset=opset)))
    assert (op.act, op.out) == (fused, "y")


def test_clip_bounds_from_constant_nodes() -> None:
    nodes = [
        CONV,
        node("Constant", "", "lo", value=onnx.numpy_helper.from_array(np.array(0, np.float32))),
        node("Constant", "", "hi", value_float=6.0),
        node("Clip", "c lo hi", "y"),
    ]
    assert only(agree(model(nodes, WEIGHTS))).act is ir.Fused.RELU6


@pytest.mark.parametrize("op", ["Relu", "HardSigmoid"])
def test_an_activation_is_not_fused_when_the_value_before_it_is_read(op: str) -> None:
    graph = agree(model([CONV, node(op, "c", "r"), node("Mul", "r c", "y")], WEIGHTS))
    first = graph.ops[0]
    assert isinstance(first, ir.Conv)
    assert (first.act, first.out) == (ir.Fused.NONE, "c")
    assert len(graph.ops) == 3


def test_an_activation_of_the_output_itself_is_not_lost() -> None:
    """The convolution's value is the output; the ReLU beside it is dead."""
    data = model([CONV, node("Relu", "c", "r")], WEIGHTS, output="c")
    op = only(agree(data))
    assert (op.act, op.out) == (ir.Fused.NONE, "c")


def test_activation_of_an_addition() -> None:
    nodes = [CONV, node("Conv", "x w b", "d", pads=[1, 1, 1, 1]), node("Add", "c d", "e")]
    nodes.append(node("Relu", "e", "y"))
    assert agree(model(nodes, WEIGHTS)).ops[-1].act is ir.Fused.RELU  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ([node("Relu", "x", "y")], "relu"),
        ([node("Clip", "x zero six", "y")], "relu6"),
        ([node("Sigmoid", "x", "y")], "logistic"),
        ([node("Tanh", "x", "y")], "tanh"),
        ([node("LeakyRelu", "x", "y")], "leaky_relu"),
        ([node("LeakyRelu", "x", "y", alpha=0.3)], "leaky_relu"),
        ([node("HardSwish", "x", "y")], "hard_swish"),
        ([node("HardSigmoid", "x", "h", alpha=1 / 6), node("Mul", "x h", "y")], "hard_swish"),
        ([node("HardSigmoid", "x", "h", alpha=1 / 6), node("Mul", "h x", "y")], "hard_swish"),
        (
            [
                node("Add", "x three", "a"),
                node("Clip", "a zero six", "b"),
                node("Mul", "x b", "d"),
                node("Div", "d six", "y"),
            ],
            "hard_swish",
        ),
        (
            [
                node("Add", "three x", "a"),
                node("Clip", "a zero six", "b"),
                node("Mul", "b sixth", "d"),
                node("Mul", "d x", "y"),
            ],
            "hard_swish",
        ),
        (
            [
                node("Add", "x three", "a"),
                node("Clip", "a zero six", "b"),
                node("Div", "x six", "d"),
                node("Mul", "d b", "y"),
            ],
            "hard_swish",
        ),
    ],
)
def test_an_activation_of_its_own(nodes: list[onnx.NodeProto], kind: str) -> None:
    assert kinds(agree(model(nodes, NUMBERS))) == [kind]


def test_hard_swish_after_a_convolution_keeps_the_value_between() -> None:
    graph = agree(model([CONV, node("HardSwish", "c", "y")], WEIGHTS))
    assert kinds(graph) == ["Conv", "hard_swish"]
    assert graph.ops[0].out == "c"


def test_a_hard_sigmoid_of_another_slope_is_no_hard_swish() -> None:
    nodes = [node("HardSigmoid", "x", "h", alpha=0.2), node("Mul", "x h", "y")]
    assert kinds(agree(model(nodes))) == ["Conv", "mul"]


def test_relu6_of_another_tensor_is_no_hard_swish() -> None:
    nodes = [
        CONV,
        node("Relu", "c", "r"),
        node("HardSigmoid", "c", "h", alpha=1 / 6),
        node("Mul", "r h", "y"),
    ]
    assert "hard_swish" not in kinds(agree(model(nodes, WEIGHTS)))
