"""What read_onnx refuses: unsupported, malformed and hostile files, each with its words."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx_models import IMAGE, model, node

from ndtool.errors import InputError, UnsupportedError
from ndtool.export.graph.from_onnx import read_onnx

RNG = np.random.default_rng(7)
W = RNG.normal(0, 0.3, (4, 3, 3, 3))  # convolution of the 3 x 8 x 8 image
B = RNG.normal(0, 0.3, 4)
CONV = node("Conv", "x w b", "c", pads=[1, 1, 1, 1])
WEIGHTS = {"w": W, "b": B}
M = RNG.normal(0, 0.2, (192, 5))  # (3 * 8 * 8, 5)
K = RNG.normal(0, 1, 5)
LINEAR = {"m": M, "mt": M.T, "k": K, "shape": np.array([0, -1]), "one": np.array([1])}


NUMBERS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "three": np.float32(3),
    "six": np.float32(6),
    "sixth": np.float32(1 / 6),
    "minus": np.float32(-1),
    "huge": np.finfo(np.float32).max,
}


def test_all_unsupported_operators_are_told_at_once() -> None:
    nodes = [
        node("Erf", "x", "a"),
        node("Conv", "a w b", "c"),
        node("Elu", "c", "d"),
        node("Relu", "x", "e"),
        node("Softplus", "e", "f"),
        node("Add", "d f", "y"),
    ]
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(model(nodes, WEIGHTS), where="m.onnx")
    problems = [caught.value, *caught.value.more]
    assert [p.where for p in problems] == [
        "m.onnx: node 0 Erf erf_a",
        "m.onnx: node 2 Elu elu_d",
        "m.onnx: node 4 Softplus softplus_f",
    ]
    assert caught.value.exit_code == 5


GROUPED = {"g": RNG.normal(0, 1, (4, 2, 1, 1))}
UNSUPPORTED: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "grouped": ([CONV, node("Conv", "c g", "y", group=2)], "in 2 groups"),
    "clip": ([node("Clip", "x minus two", "y")], "Clip to -1..2"),
    "average counts padding": (
        [node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)],
        "counts its padding",
    ),
    "ceil": ([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], "ceil"),
    "transpose": ([node("Transpose", "x", "y", perm=[0, 2, 3, 1])], "Transpose of an activation"),
    "batch concat": ([node("Concat", "x x", "y", axis=0)], "along the batch"),
    "softmax over space": ([node("Softmax", "x", "y", axis=3)], "another axis"),
    "flatten then add": (
        [node("Flatten", "x", "f"), node("Relu", "f", "r"), node("Gemm", "r m", "y")],
        "flattened image is read",
    ),
    "flattened output": ([node("Flatten", "x", "y")], "flattened image, not logits"),
    "reflect": ([node("Pad", "x pads", "y", mode="reflect")], "something else than zeros"),
    "mean of channels": ([node("ReduceMean", "x", "y", axes=[1])], "other axes"),
    "weights computed": ([CONV, node("Conv", "x c", "y")], "is not constant"),
    "training": (
        [node("BatchNormalization", "x n n n n", "y", training_mode=1)],
        "training mode",
    ),
    "unequal ranks": (
        [node("ReduceMean", "x", "f", axes=[2, 3], keepdims=0), node("Mul", "f x", "y")],
        "of shapes",
    ),
    "indices": (
        [node("MaxPool", "x", "p i", kernel_shape=[2, 2]), node("Add", "p i", "y")],
        "second output",
    ),
    "NaN": ([node("Conv", "x nan", "y")], "tensor nan holds NaN"),
    "division by zero": ([CONV, node("Div", "c zero", "y")], "holds NaN or infinite"),
    "bad variance": ([node("BatchNormalization", "x n n n m3", "y")], "holds NaN or infinite"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported(name: str) -> None:
    nodes, words = UNSUPPORTED[name]
    constants = {
        "two": np.float32(2),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "n": np.ones(3),
        "m3": -np.ones(3),
        "nan": np.full((4, 3, 1, 1), np.nan),
        **(NUMBERS | LINEAR | GROUPED | WEIGHTS),
    }
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(model(nodes, constants), where="m.onnx")
    assert words in caught.value.what


def test_softmax_of_an_old_opset_joins_all_axes_from_its_own() -> None:
    """Before opset 13 axis 1 of an image meant channels and pixels together."""
    nodes = [node("Softmax", "x", "y", axis=1)]
    read_onnx(model(nodes, opset=13), where="m.onnx")
    with pytest.raises(UnsupportedError, match="another axis"):
        read_onnx(model(nodes, opset=12), where="m.onnx")


MALFORMED: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "not computed": ([node("Relu", "nowhere", "y")], "nowhere is not computed yet"),
    "out of order": ([node("Relu", "c", "y"), CONV], "c is not computed yet"),
    "twice": ([CONV, node("Relu", "x", "c"), node("Relu", "c", "y")], "computed twice"),
    "no output": ([node("Relu", "x", "z")], "not computed from its input"),
    "channels": ([CONV, node("Conv", "c w", "y")], "do not fit the input channels"),
    "kernel shape": ([node("Conv", "x w", "y", kernel_shape=[5, 5])], "not that of the weights"),
    "stride 0": ([node("Conv", "x w", "y", strides=[0, 1])], "strides out of bounds"),
    "stride type": ([node("Conv", "x w", "y", strides="two")], "strides has a wrong type"),
    "huge pad": ([node("Conv", "x w", "y", pads=[2**40, 0, 0, 0])], "pads out of bounds"),
    "too small": ([node("Conv", "x w", "y", dilations=[9, 9])], "larger than its padded input"),
    "bias": ([node("Conv", "x w k", "y")], "not a vector of 4"),
    "gemm": ([node("Flatten", "x", "f"), node("Gemm", "f sq", "y")], "do not fit the input"),
    "reshape": ([node("Reshape", "x seven", "y")], "does not fit"),
    "no input": ([node("Relu", "-", "y")], "input 0 is absent"),
    "no inputs": ([node("Shape", "", "s"), node("Relu", "x", "y")], "input 0 is absent"),
    "no outputs": ([node("Relu", "x", ""), node("Relu", "x", "y")], "without its first output"),
    "pad counts": ([node("Pad", "x seven", "y")], "bad paddings"),
    "constant arithmetic": ([node("Add", "k b", "z"), node("Relu", "x", "y")], "wrong shapes"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name: str) -> None:
    nodes, words = MALFORMED[name]
    constants = {"seven": np.array([7]), "sq": np.ones((5, 5)), **LINEAR, **WEIGHTS}
    with pytest.raises(InputError) as caught:
        read_onnx(model(nodes, constants), where="m.onnx")
    assert words in caught.value.what


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (("batch", 3, "height", "width"), "not fixed"),
        ((8, 3, 8, 8), "not one image"),
        (("batch", 8, 8, 3), "grey or RGB"),
        (("batch", 16, 8, 8), "grey or RGB"),
        (("batch", 3, 8), "not one image"),
    ],
)
def test_other_inputs_are_refused(shape: tuple[str | int, ...], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        read_onnx(model([node("Relu", "x", "y")], image=shape), where="m.onnx")


def edited(**changes: Any) -> bytes:
    """A valid model after `changes` by name."""
    proto = onnx.ModelProto.FromString(model([CONV, node("Relu", "c", "y")], WEIGHTS))
    graph = proto.graph
    value = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, IMAGE)
    if "second_input" in changes:
        graph.input.append(value)
    if "second_output" in changes:
        graph.output.append(value)
    if "opset" in changes:
        proto.opset_import[0].version = changes["opset"]
    if "domain" in changes:
        graph.node[1].domain = changes["domain"]
    if "half" in changes:
        graph.initializer[0].data_type = onnx.TensorProto.FLOAT16
    if "dims" in changes:
        graph.initializer[0].dims[0] = changes["dims"]
    if "external" in changes:
        onnx.external_data_helper.set_external_data(graph.initializer[0], "/etc/passwd")
    if "external_constant" in changes:
        tensor = onnx.numpy_helper.from_array(np.zeros(2, np.float32))
        onnx.external_data_helper.set_external_data(tensor, "/etc/passwd")
        graph.node.append(onnx.helper.make_node("Constant", [], ["k"], value=tensor))
    if "function" in changes:
        proto.functions.add().name = "f"
    data: bytes = proto.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", InputError, "not an ONNX file"),
        (b"\x08\x08", InputError, "not an ONNX file"),
        (b"\xff" * 100, InputError, "not an ONNX file"),
        (b"PK\x03\x04" + bytes(100), InputError, "not an ONNX file"),
        (edited(second_input=1), UnsupportedError, "2 inputs"),
        (edited(second_output=1), UnsupportedError, "2 outputs"),
        (edited(opset=99), UnsupportedError, "opset 99"),
        (edited(opset=5), UnsupportedError, "opset 5"),
        (edited(domain="com.microsoft"), UnsupportedError, "domain com.microsoft"),
        (edited(half=1), UnsupportedError, "element type 10"),
        (edited(dims=5), InputError, "disagree"),
        (edited(dims=-1), InputError, "dimensions"),
        (edited(dims=2**60), InputError, "dimensions"),
        (edited(external=1), InputError, "another file"),
        (edited(external_constant=1), InputError, "another file"),
        (edited(function=1), UnsupportedError, "functions"),
    ],
)
def test_files_that_are_not_read(data: bytes, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        read_onnx(data, where="m.onnx")


def test_hostile_names_are_escaped() -> None:
    bad = node("Erf", "x", "y")
    bad.name = "\x1b[31m\u202e" + "n" * 1000
    with pytest.raises(UnsupportedError) as caught:
        read_onnx(model([bad]), where="m.onnx")
    assert "\x1b" not in caught.value.where
    assert len(caught.value.where) < 300


def test_names_that_are_not_text_are_refused() -> None:
    data = model([node("Erf", "x", "y")]).replace(b"erf_y", b"\xff\xfe_y!")
    with pytest.raises(InputError, match="UTF-8"):
        read_onnx(data, where="m.onnx")


def test_a_small_file_cannot_ask_for_much_memory() -> None:
    nodes = [
        node("ConstantOfShape", "big", "z"),
        *(node("Add", f"{'z' if i == 0 else f'z{i}'} z", f"z{i + 1}") for i in range(50)),
        node("Relu", "x", "y"),
    ]
    with pytest.raises(InputError, match="constants come to more than"):
        read_onnx(model(nodes, {"big": np.array([2**22])}), where="m.onnx")
    for size in (2**40, -1):
        with pytest.raises(UnsupportedError, match="constant of more than"):
            read_onnx(model(nodes[:1], {"big": np.array([size])}), where="m.onnx")
