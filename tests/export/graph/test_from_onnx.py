"""ONNX -> float graph: every dialect equals onnxruntime and becomes the operations wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from graph_checks import agree, kinds, only
from onnx_models import model, node

from ndtool.errors import UnsupportedError
from ndtool.export.graph import ir
from ndtool.export.graph.from_onnx import read_onnx

RNG = np.random.default_rng(7)
W = RNG.normal(0, 0.3, (4, 3, 3, 3))  # convolution of the 3 x 8 x 8 image
B = RNG.normal(0, 0.3, 4)
CONV = node("Conv", "x w b", "c", pads=[1, 1, 1, 1])
WEIGHTS = {"w": W, "b": B}
PER_CHANNEL = RNG.uniform(0.5, 1.5, (4, 1, 1))


# -- convolutions and paddings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [0, 1, 2, 1]},
        {"strides": [2, 1], "pads": [1, 1, 1, 1]},
        {"dilations": [2, 3]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [3, 3]},
        {"auto_pad": "VALID"},
        {"auto_pad": "NOTSET", "kernel_shape": [3, 3]},
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_convolution(attributes: dict[str, Any], size: tuple[int, int]) -> None:
    data = model([node("Conv", "x w b", "y", **attributes)], WEIGHTS, image=("batch", 3, *size))
    op = only(agree(data))
    assert isinstance(op, ir.Conv)
    assert not op.depthwise


def test_same_upper_gets_explicit_pads() -> None:
    data = model([node("Conv", "x w b", "y", auto_pad="SAME_UPPER", strides=[2, 2])], WEIGHTS)
    assert only(agree(data)).padding == ir.Padding(top=0, left=0, bottom=1, right=1)
    data = model([node("Conv", "x w b", "y", auto_pad="SAME_LOWER", strides=[2, 2])], WEIGHTS)
    assert only(agree(data)).padding == ir.Padding(top=1, left=1, bottom=0, right=0)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolution(multiplier: int) -> None:
    weight = RNG.normal(0, 1, (3 * multiplier, 1, 3, 3))
    graph = agree(model([node("Conv", "x w", "y", group=3)], {"w": weight}))
    op = only(graph)
    assert op.depthwise
    assert graph.tensors[op.weight].shape == (1, 3, 3, 3 * multiplier)
    bias = graph.tensors[op.bias].data
    assert bias is not None
    assert not bias.any(), "an absent bias is zeros"


def test_a_grey_image_makes_a_dense_convolution() -> None:
    weight = RNG.normal(0, 1, (5, 1, 3, 3))
    data = model([node("Conv", "x w", "y", group=1)], {"w": weight}, image=(1, 1, 8, 8))
    assert not only(agree(data)).depthwise


@pytest.mark.parametrize("opset", [10, 17, 18])
def test_pad_goes_into_the_convolutions_that_read_it(opset: int) -> None:
    pads = np.array([0, 0, 1, 0, 0, 0, 2, 1])
    if opset == 10:
        pad = node("Pad", "x", "p", pads=[int(p) for p in pads], value=0.0)
    elif opset == 17:
        pad = node("Pad", "x pads zero", "p", mode="constant")
    else:
        pads = np.array([1, 0, 2, 1])
        pad = node("Pad", "x pads zero axes", "p")
    constants = {"pads": pads, "zero": np.float32(0), "axes": np.array([2, -1]), **WEIGHTS}
    nodes = [
        pad,
        node("Conv", "p w b", "c"),
        node("Conv", "p w b", "d", pads=[1, 0, 1, 0]),
        node("GlobalAveragePool", "c", "e"),
        node("Add", "d e", "y"),
    ]
    graph = agree(model(nodes, constants, opset=opset))
    assert kinds(graph) == ["Conv", "Conv", "Mean", "add"]
    paddings = [op.padding for op in graph.ops if isinstance(op, ir.Conv)]
    assert paddings[0] == ir.Padding(top=1, left=0, bottom=2, right=1)
    assert paddings[1] == ir.Padding(top=2, left=0, bottom=3, right=1)


def test_a_pad_that_something_else_reads_stays() -> None:
    constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    nodes = [node("Pad", "x pads", "p"), node("MaxPool", "p", "y", kernel_shape=[2, 2])]
    assert kinds(agree(model(nodes, constants))) == ["Pad", "Pool"]


# -- batch norm and constants ----------------------------------------------------------------------

BN = {
    "gamma": RNG.uniform(0.5, 1.5, 4),
    "beta": RNG.normal(0, 1, 4),
    "mean": RNG.normal(0, 1, 4),
    "var": RNG.uniform(0.1, 2, 4),
}
BN_NODE = node("BatchNormalization", "c gamma beta mean var", "y", epsilon=1e-3)


def test_batch_norm_after_a_convolution_is_folded_in_float64() -> None:
    data = model([CONV, BN_NODE], {**WEIGHTS, **BN})
    graph = agree(data)
    op = only(graph)
    wide = {name: np.float32(value).astype(np.longdouble) for name, value in (BN | WEIGHTS).items()}
    scale = wide["gamma"] / np.sqrt(wide["var"] + np.float32(1e-3).astype(np.longdouble))
    weight = (wide["w"] * scale[:, None, None, None]).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(graph.tensors[op.weight].data, weight.astype(np.float32))
    assert op.out == "y"


def test_batch_norm_after_a_depthwise_convolution_and_a_linear_layer() -> None:
    depthwise = node("Conv", "c d", "e", group=4)
    nodes = [
        CONV,
        depthwise,
        node("BatchNormalization", "e gamma beta mean var", "f"),
        node("GlobalAveragePool", "f", "g"),
        node("Flatten", "g", "h"),
        node("Gemm", "h m", "i", transB=1),
        node("BatchNormalization", "i gamma beta mean var", "y"),
    ]
    constants = {"d": RNG.normal(0, 1, (4, 1, 3, 3)), "m": RNG.normal(0, 1, (4, 4))}
    graph = agree(model(nodes, constants | WEIGHTS | BN))
    assert kinds(graph) == ["Conv", "Conv", "Mean", "FullyConnected"]


def test_a_lone_batch_norm_is_one_depthwise_convolution() -> None:
    three = {name: value[:3] for name, value in BN.items()}
    nodes = [node("BatchNormalization", "x gamma beta mean var", "n"), node("Relu", "n", "y")]
    op = only(agree(model(nodes, three)))
    assert isinstance(op, ir.Conv)
    assert op.depthwise
    assert op.act is ir.Fused.RELU


def test_batch_norm_is_not_folded_when_the_convolution_has_another_reader() -> None:
    nodes = [
        CONV,
        node("BatchNormalization", "c gamma beta mean var", "n"),
        node("Add", "n c", "y"),
    ]
    graph = agree(model(nodes, {**WEIGHTS, **BN}))
    assert kinds(graph) == ["Conv", "Conv", "add"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("value", [np.float32(1.7), PER_CHANNEL, PER_CHANNEL[None]])
def test_constants_fold_into_the_convolution(op: str, *, left: bool, value: Any) -> None:
    inputs = "k c" if left else "c k"
    data = model([CONV, node(op, inputs, "y")], {**WEIGHTS, "k": value})
    if op == "Div" and left:
        with pytest.raises(UnsupportedError, match="division by an activation"):
            read_onnx(data, where="t")
    else:
        assert isinstance(only(agree(data)), ir.Conv)


@pytest.mark.parametrize(
    ("op", "expected"),
    [("Add", ["add"]), ("Sub", ["add"]), ("Mul", ["mul"]), ("Div", ["mul"])],
)
def test_a_constant_on_an_image_is_one_operation(op: str, expected: list[str]) -> None:
    data = model([node(op, "x k", "y")], {"k": PER_CHANNEL[:3]})
    assert kinds(agree(data)) == expected


def test_a_constant_minus_an_image_is_a_scale_and_a_shift() -> None:
    graph = agree(model([node("Sub", "k x", "y")], {"k": PER_CHANNEL[:3]}))
    assert isinstance(only(graph), ir.Conv)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", [(8, 8), (3, 1, 8), (1, 3, 8, 8), (8, 1)])
def test_a_constant_that_differs_between_pixels(op: str, shape: tuple[int, ...]) -> None:
    values = RNG.uniform(0.5, 1.5, shape)
    graph = agree(model([node(op, "x k", "y")], {"k": values}))
    (constant,) = [t for t in graph.tensors.values() if t.data is not None]
    assert constant.data is not None
    assert constant.data.ndim == 4


def test_identities_disappear() -> None:
    nodes = [
        node("Identity", "x", "i"),
        node("Dropout", "i", "d mask"),
        node("Cast", "d", "f", to=1),
        node("Mul", "f one", "g"),
        node("Clip", "g", "h"),
        node("Conv", "h w b", "c"),
        node("Identity", "c", "y"),
    ]
    graph = agree(model(nodes, {**WEIGHTS, "one": np.float32(1)}))
    assert kinds(graph) == ["Conv"]
    assert graph.outputs == ("c",)


def test_equal_initialisers_routed_through_identity() -> None:
    nodes = [node("Identity", "b", "bias"), node("Conv", "x w bias", "y")]
    assert kinds(agree(model(nodes, WEIGHTS))) == ["Conv"]


# -- linear layers and shapes ----------------------------------------------------------------------

M = RNG.normal(0, 0.2, (192, 5))  # (3 * 8 * 8, 5)
K = RNG.normal(0, 1, 5)
LINEAR = {"m": M, "mt": M.T, "k": K, "shape": np.array([0, -1]), "one": np.array([1])}


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Flatten", "x", "f"), node("Gemm", "f m k", "y")],
        [node("Flatten", "x", "f", axis=-3), node("Gemm", "f mt k", "y", transB=1)],
        [node("Flatten", "x", "f"), node("Gemm", "f mt", "y", transB=1)],
        [node("Flatten", "x", "f"), node("Gemm", "f m k", "y", alpha=0.5, beta=3.0)],
        [node("Reshape", "x shape", "f"), node("MatMul", "f m", "n"), node("Add", "n k", "y")],
        [node("Flatten", "x", "f"), node("Dropout", "f", "d"), node("Gemm", "d m k", "y")],
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Unsqueeze", "n first", "u"),
            node("Concat", "u rest", "t", axis=0),
            node("Reshape", "x t", "f"),
            node("Gemm", "f m k", "y"),
        ],
    ],
)
def test_flattening_permutes_the_columns_of_the_linear_layer(nodes: list[onnx.NodeProto]) -> None:
    constants = {"zero": np.array(0), "first": np.array([0]), "rest": np.array([-1]), **LINEAR}
    graph = agree(model(nodes, constants))
    assert kinds(graph) == ["Reshape", "FullyConnected"]
    assert graph.tensors[graph.ops[-1].out].shape == (1, 5)


HEADS: dict[str, tuple[list[onnx.NodeProto], int]] = {
    "global pool, flatten": (
        [node("GlobalAveragePool", "x", "p"), node("Flatten", "p", "f")],
        17,
    ),
    "mean by attribute": ([node("ReduceMean", "x", "f", axes=[2, 3], keepdims=0)], 17),
    "mean by input": ([node("ReduceMean", "x axes", "f", keepdims=0)], 18),
    "mean, negative axes": ([node("ReduceMean", "x", "f", axes=[-1, -2], keepdims=0)], 13),
    "mean, squeeze": (
        [node("ReduceMean", "x", "p", axes=[2, 3]), node("Squeeze", "p axes", "f")],
        17,
    ),
    "old squeeze": (
        [node("GlobalAveragePool", "x", "p"), node("Squeeze", "p", "f", axes=[2, 3])],
        11,
    ),
    "whole average, reshape": (
        [node("AveragePool", "x", "p", kernel_shape=[8, 8]), node("Reshape", "p shape", "f")],
        17,
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_mean_before_a_linear_layer_needs_no_reshape(name: str) -> None:
    nodes, opset = HEADS[name]
    constants = {
        "axes": np.array([2, 3]),
        "shape": np.array([1, 3]),
        "m": RNG.normal(0, 1, (3, 5)),
        "k": K,
    }
    graph = agree(model([*nodes, node("Gemm", "f m k", "y")], constants, opset=opset))
    assert kinds(graph) == ["Mean", "FullyConnected"]
    assert graph.tensors[graph.ops[0].out].shape == (1, 3)


def test_squeeze_and_excite_with_linear_layers() -> None:
    nodes = [
        node("GlobalAveragePool", "x", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f m", "g"),
        node("HardSigmoid", "g", "h", alpha=1 / 6),
        node("Unsqueeze", "h axes", "u"),
        node("Mul", "x u", "y"),
    ]
    constants = {"m": RNG.normal(0, 1, (3, 3)), "axes": np.array([2, 3])}
    graph = agree(model(nodes, constants))
    assert kinds(graph) == ["Mean", "FullyConnected", "Reshape", "mul"]


def test_a_mean_that_others_read_keeps_its_dimensions() -> None:
    nodes = [
        node("GlobalAveragePool", "x", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f m", "g"),
        node("Unsqueeze", "g axes", "u"),
        node("Add", "u p", "y"),
    ]
    constants = {"m": RNG.normal(0, 1, (3, 3)), "axes": np.array([2, 3])}
    graph = agree(model(nodes, constants))
    assert kinds(graph) == ["Mean", "FullyConnected", "Reshape", "add"]
    assert graph.tensors["p"].shape == (1, 1, 1, 3)


def test_a_flattened_pixel_that_others_read_stays() -> None:
    nodes = [
        node("Conv", "x w", "c"),
        node("Flatten", "c", "f"),
        node("Gemm", "f m", "g"),
        node("Add", "f g", "y"),
    ]
    constants = {"w": RNG.normal(0, 0.1, (4, 3, 8, 8)), "m": RNG.normal(0, 1, (4, 4))}
    graph = agree(model(nodes, constants))
    assert kinds(graph) == ["Conv", "Reshape", "FullyConnected", "add"]


def test_a_vector_of_one_pixel_is_read_by_the_linear_layer_as_it_is() -> None:
    nodes = [
        node("Conv", "x w", "c"),  # 8 x 8 kernel: one pixel is left
        node("Flatten", "c", "f"),
        node("Gemm", "f m", "y"),
    ]
    constants = {"w": RNG.normal(0, 0.1, (4, 3, 8, 8)), "m": RNG.normal(0, 1, (4, 5))}
    graph = agree(model(nodes, constants))
    assert kinds(graph) == ["Conv", "FullyConnected"]


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("MaxPool", {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        ("MaxPool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3]}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [2, 2], "count_include_pad": 1}),
    ],
)
def test_pooling(op: str, attributes: dict[str, Any]) -> None:
    assert kinds(agree(model([node(op, "x", "y", **attributes)]))) == ["Pool"]


@pytest.mark.parametrize(("axis", "own_axis"), [(1, 3), (2, 1), (3, 2), (-1, 2), (-3, 3)])
def test_concat_axes(axis: int, own_axis: int) -> None:
    graph = agree(model([node("Relu", "x", "r"), node("Concat", "x r", "y", axis=axis)]))
    concat = graph.ops[-1]
    assert isinstance(concat, ir.Concat)
    assert concat.axis == own_axis


@pytest.mark.parametrize("opset", [11, 17])
def test_softmax(opset: int) -> None:
    nodes = [
        node("GlobalAveragePool", "x", "p"),
        node("Flatten", "p", "f"),
        node("Softmax", "f", "y", axis=1),
    ]
    assert kinds(agree(model(nodes, opset=opset))) == ["Mean", "Softmax"]


def test_constant_arithmetic_of_exporters() -> None:
    """The chain that torch's exporter makes of F.pad, ending in Pad."""
    nodes = [
        node("ConstantOfShape", "four", "z", value=onnx.helper.make_tensor("", 7, [1], [0])),
        node("Concat", "lrtb z", "all", axis=0),
        node("Reshape", "all pairs", "r"),
        node("Slice", "r last first axis back", "s"),
        node("Transpose", "s", "t", perm=[1, 0]),
        node("Reshape", "t flat", "u"),
        node("Cast", "u", "v", to=7),
        node("Pad", "x v", "p"),
        node("Conv", "p w b", "y"),
    ]
    constants = {
        "four": np.array([4]),
        "lrtb": np.array([0, 1, 2, 3]),
        "pairs": np.array([-1, 2]),
        "last": np.array([-1]),
        "first": np.array([np.iinfo(np.int64).min + 1]),
        "axis": np.array([0]),
        "back": np.array([-1]),
        "flat": np.array([-1]),
        **WEIGHTS,
    }
    op = only(agree(model(nodes, constants)))
    assert op.padding == ir.Padding(top=2, left=0, bottom=3, right=1)


@pytest.mark.parametrize("opset", range(11, 23))
def test_every_opset(opset: int) -> None:
    nodes = [
        CONV,
        node("Relu", "c", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("Gemm", "f m", "y"),
    ]
    agree(model(nodes, {**WEIGHTS, "m": RNG.normal(0, 1, (64, 5))}, opset=opset))


# -- names -----------------------------------------------------------------------------------------


def test_tensors_know_their_onnx_names() -> None:
    graph = agree(model([CONV, node("Relu", "c", "y")], WEIGHTS))
    assert {t.name: t.source for t in graph.tensors.values()} == {
        "x": "x",
        "conv_c.weight": "w",
        "conv_c.bias": "b",
        "y": "y",
    }


def test_names_are_unique_whatever_the_file_calls_its_nodes() -> None:
    first, second = CONV, node("Conv", "c v", "conv_c.weight")
    second.name = first.name
    data = model(
        [first, second], {**WEIGHTS, "v": RNG.normal(0, 1, (4, 4, 1, 1))}, output="conv_c.weight"
    )
    graph = read_onnx(data, where="onnxruntime refuses equal node names")
    assert len({op.name for op in graph.ops}) == 2
    assert graph.outputs == ("conv_c.weight",)
    assert graph.tensors["conv_c.weight"].data is None


def test_constants_are_read_only_float32() -> None:
    graph = agree(model([CONV, node("Relu", "c", "y")], WEIGHTS))
    for tensor in graph.tensors.values():
        if tensor.data is not None:
            assert tensor.data.dtype == np.float32
            assert not tensor.data.flags.writeable
