"""Every rule of the spec is broken once, by one change of a legal graph."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import single_op
from tflm import TflmError, run_tflm

from ndtool.errors import UnsupportedError
from ndtool.export.int8 import spec
from ndtool.export.int8.ir import DType, Graph, TensorId
from ndtool.export.tflite import writer

MODULE = Path(spec.__file__)
Change = Callable[[Graph], Graph]


def legal(name: str) -> Graph:
    """The first random case with a bias and, for layers, several scales."""
    for number in range(100):
        graph = single_op.CASES[name](np.random.default_rng([7, number]))
        op = graph.ops[0]
        if getattr(op, "bias", 0) is not None and single_op_is_rich(graph):
            return graph
    raise AssertionError(name)


def single_op_is_rich(graph: Graph) -> bool:
    op = graph.ops[0]
    if hasattr(op, "weight") and len(graph.tensor(op.weight).shape) == 4:
        return len(graph.tensor(op.weight).scales) > 2
    return getattr(op, "shape_id", 0) is not None and not getattr(op, "keep_num_dims", False)


def op(**fields: object) -> Change:
    """Change fields of the only operation."""
    return lambda graph: replace(graph, ops=(replace(graph.ops[0], **fields),))


def tensor(role: str, **fields: object) -> Change:
    """Change fields of the tensor that the operation's field `role` names."""

    def change(graph: Graph) -> Graph:
        index = getattr(graph.ops[0], role)
        made = [replace(t, **fields) if i == index else t for i, t in enumerate(graph.tensors)]
        return replace(graph, tensors=tuple(made))

    return change


def scale(role: str, value: float, zero: int | None = None) -> Change:
    def change(graph: Graph) -> Graph:
        old = graph.tensor(getattr(graph.ops[0], role))
        zeros = old.zero_points if zero is None else (zero,)
        return tensor(role, scales=(value,) * len(old.scales), zero_points=zeros)(graph)

    return change


def graph_fields(**fields: object) -> Change:
    return lambda graph: replace(graph, **fields)


def int32s(*values: int) -> bytes:
    return np.array(values, "<i4").tobytes()


def saturated(graph: Graph) -> Graph:
    """Biases of 2^31 - 1."""
    bias = graph.tensor(graph.ops[0].bias)
    return tensor("bias", data=int32s(*[2**31 - 1] * bias.elements))(graph)


F = single_op.f32
MUTANTS: list[tuple[str, str, Change]] = [
    ("tensor.range", "CONV_2D", op(x=TensorId(99))),
    ("tensor.range", "CONV_2D", graph_fields(inputs=(TensorId(-1),))),
    ("tensor.shape", "CONV_2D", tensor("x", shape=(1, 0, 4, 3))),
    ("tensor.shape", "CONV_2D", tensor("x", shape=(1, 2**14, 2**14, 3))),
    ("tensor.shape", "RELU", tensor("x", shape=(1, 1, 1, 1, 1, 256))),
    ("tensor.dtype", "RELU", tensor("x", dtype=DType.INT32)),
    ("tensor.batch", "RELU", tensor("x", shape=(256, 1))),
    ("tensor.batch", "RELU", tensor("out", shape=())),
    ("tensor.scale", "RELU", tensor("x", scales=(), zero_points=())),
    ("tensor.scale", "RELU", scale("x", 0.0)),
    ("tensor.scale", "RELU", scale("x", -1.0)),
    ("tensor.scale", "RELU", scale("x", float("nan"))),
    ("tensor.scale", "RELU", scale("x", float("inf"))),
    ("tensor.scale", "RELU", scale("x", 0.1)),  # not a float32
    ("tensor.scale", "CONV_2D", scale("weight", 1e60)),
    ("tensor.data", "CONV_2D", tensor("weight", data=b"\0")),
    ("tensor.data", "CONV_2D", tensor("bias", data=b"\0" * 5)),
    ("tensor.zero-point", "CONV_2D", tensor("weight", zero_points=(0,))),
    ("tensor.zero-point", "RELU", scale("x", 1.0, 128)),
    ("tensor.zero-point", "FULLY_CONNECTED", scale("bias", 1.0, 1)),
    ("tensor.quantized-dim", "CONV_2D", tensor("weight", quantized_dim=9)),
    (
        "tensor.quantized-dim",
        "CONV_2D",
        tensor("weight", scales=(1.0,) * 77, zero_points=(0,) * 77),
    ),
    ("graph.empty", "RELU", graph_fields(outputs=())),
    ("graph.empty", "RELU", graph_fields(ops=(), outputs=(TensorId(0),))),
    ("graph.input", "RELU", graph_fields(inputs=(TensorId(0), TensorId(0)))),
    ("graph.input", "CONV_2D", graph_fields(inputs=(TensorId(0), TensorId(1)))),
    ("graph.order", "RELU", lambda g: replace(g, inputs=(g.ops[0].out,))),
    ("graph.writer", "RELU", lambda g: replace(g, ops=g.ops * 2)),
    ("graph.writer", "RELU", lambda g: replace(g, ops=(replace(g.ops[0], out=g.inputs[0]),))),
    ("graph.output", "RELU", lambda g: replace(g, tensors=g.tensors * 2, outputs=(TensorId(3),))),
    ("graph.size", "RELU", lambda g: many_readers(g)),
    ("op.operand", "CONV_2D", lambda g: replace(g, ops=(replace(g.ops[0], weight=g.ops[0].bias),))),
    ("op.operand", "CONV_2D", tensor("weight", scales=(1.0,), zero_points=(3,), quantized_dim=0)),
    (
        "op.operand",
        "FULLY_CONNECTED",
        lambda g: replace(g, ops=(replace(g.ops[0], bias=g.ops[0].weight),)),
    ),
    ("op.operand", "MEAN", lambda g: replace(g, ops=(replace(g.ops[0], axes_id=g.ops[0].x),))),
    ("op.operand", "ADD", lambda g: constant_operands(g)),
    ("op.rank", "CONV_2D", tensor("x", shape=(1, 9))),
    ("op.rank", "AVERAGE_POOL_2D", tensor("x", shape=(1, 9))),
    ("op.rank", "FULLY_CONNECTED", lambda g: flat_weight(g)),
    ("op.channels", "CONV_2D", tensor("x", shape=(1, 3, 3, 77))),
    ("op.channels", "DEPTHWISE_CONV_2D", op(multiplier=9)),
    ("op.channels", "DEPTHWISE_CONV_2D", op(multiplier=0)),
    ("op.channels", "FULLY_CONNECTED", tensor("x", shape=(1, 997))),
    ("op.quantized-dim", "CONV_2D", lambda g: square_weight(g)),
    ("op.bias", "FULLY_CONNECTED", tensor("bias", data=int32s(1), shape=(1,))),
    ("op.bias", "CONV_2D", tensor("bias", scales=(1.0,), zero_points=(0,))),
    ("op.bias-scale", "FULLY_CONNECTED", scale("bias", F(0.3))),
    ("op.bias-scale", "FULLY_CONNECTED", lambda g: coarse_without_bias_scale(g)),
    ("op.stride", "CONV_2D", op(stride=(0, 1))),
    ("op.stride", "CONV_2D", op(dilation=(1, -1))),
    ("op.stride", "MAX_POOL_2D", op(stride=(1, 0))),
    ("op.kernel", "MAX_POOL_2D", op(kernel=(1, 60))),
    ("op.kernel", "MAX_POOL_2D", op(kernel=(0, 1))),
    ("op.shape", "CONV_2D", op(stride=(9, 9))),
    ("op.shape", "RELU", tensor("out", shape=(1, 255))),
    ("op.shape", "ADD", lambda g: not_broadcast(g)),
    ("op.shape", "RESHAPE", tensor("out", shape=(1, 7777))),
    ("op.shape", "RESHAPE", lambda g: reshape_to(g, -1, -1)),
    ("op.shape", "RESHAPE", lambda g: reshape_to(g, 1, 2, 3)),
    ("op.shape", "PAD", tensor("out", shape=(1, 7777))),
    ("op.shape", "CONCATENATION", tensor("out", shape=(1, 7777))),
    ("op.macs", "AVERAGE_POOL_2D", lambda g: huge_pool(g)),
    ("op.axes", "MEAN", op(axes=(0,))),
    ("op.axes", "MEAN", op(axes=(2, 1))),
    ("op.axes", "MEAN", op(axes=())),
    ("op.axes", "MEAN", op(axes=(4,))),
    ("op.axes", "MEAN", tensor("axes_id", data=int32s(9), shape=(1,))),
    ("op.axes", "CONCATENATION", op(axis=0)),
    ("op.axes", "CONCATENATION", op(axis=4)),
    (
        "op.inputs",
        "CONCATENATION",
        lambda g: replace(g, ops=(replace(g.ops[0], xs=g.inputs * 11),)),
    ),
    ("op.inputs", "CONCATENATION", op(xs=())),
    ("op.paddings", "PAD", op(paddings=((0, 0),))),
    ("op.paddings", "PAD", lambda g: padded(g, (1, 0))),
    ("op.paddings", "PAD", lambda g: padded(g, (0, 0), (-1, 0))),
    ("op.paddings", "PAD", lambda g: padded(g, (0, 0), (77, 0))),
    ("op.equal-params", "PAD", scale("out", 2.0)),
    ("op.equal-params", "MAX_POOL_2D", scale("out", 2.0)),
    ("op.equal-params", "AVERAGE_POOL_2D", scale("out", 2.0)),
    ("op.equal-params", "RESHAPE", scale("out", 2.0)),
    ("op.equal-params", "CONCATENATION", scale("out", 2.0)),
    ("op.equal-params", "RELU6", scale("out", 2.0)),
    ("op.fixed-output", "SOFTMAX", scale("out", 1 / 128)),
    ("op.fixed-output", "SOFTMAX", scale("out", 1 / 256, 0)),
    ("op.fixed-output", "LOGISTIC", scale("out", 1 / 128)),
    ("op.fixed-output", "TANH", scale("out", 1 / 256)),
    ("op.softmax", "SOFTMAX", scale("x", 2.0**-30)),
    ("op.softmax", "SOFTMAX", lambda g: many_classes(g, spec.MAX_SOFTMAX + 1)),
    ("op.attribute", "SOFTMAX", op(beta=0.1)),
    ("op.attribute", "LEAKY_RELU", op(alpha=float("nan"))),
    ("op.activation", "CONV_2D", lambda g: tiny_output(g)),
    ("op.overflow", "RELU", lambda g: scale("x", F(1e38))(scale("out", F(1e-38))(g))),
    ("op.input-scale", "LOGISTIC", scale("x", 2.0**-90)),
    ("op.input-scale", "TANH", scale("x", 8.0)),
    ("op.hard-swish", "HARD_SWISH", lambda g: scale("x", F(3e38))(scale("out", F(1e-38))(g))),
    ("op.overflow", "CONV_2D", saturated),
    ("op.overflow", "DEPTHWISE_CONV_2D", scale("out", F(1e-12))),
    ("op.overflow", "FULLY_CONNECTED per channel", saturated),
    ("op.overflow", "MUL", scale("out", F(1e-9))),
    ("op.overflow", "MEAN", scale("out", F(1e-20))),
    ("op.overflow", "QUANTIZE", scale("out", F(1e-20))),
    ("op.overflow", "RELU", scale("out", F(1e-20))),
    ("op.overflow", "LEAKY_RELU", scale("out", F(1e-20))),
    ("op.add-ratio", "ADD", scale("out", F(1e-12))),
    ("op.add-ratio", "SUB", scale("out", F(1e-12))),
    ("op.relu6", "RELU6", lambda g: scale("x", F(0.01))(scale("out", F(0.01))(g))),
    ("op.hard-swish", "HARD_SWISH", scale("out", F(1e-9))),
    ("op.hard-swish", "HARD_SWISH", lambda g: wide_output(g)),
]


def many_readers(graph: Graph) -> Graph:
    wide = replace(graph.tensors[0], shape=(1, spec.MAX_ELEMENTS))
    return replace(graph, tensors=(wide, wide), ops=graph.ops * 5)


def constant_operands(graph: Graph) -> Graph:
    found = graph.tensor(graph.ops[0].a)
    data = bytes(found.elements)
    constant = (replace(found, data=data), graph.tensor(graph.ops[0].out), graph.tensors[0])
    changed = replace(graph.ops[0], a=TensorId(0), b=TensorId(0), out=TensorId(1))
    return Graph(tensors=constant, ops=(changed,), inputs=(TensorId(2),), outputs=(TensorId(1),))


def not_broadcast(graph: Graph) -> Graph:
    a = replace(graph.tensor(graph.ops[0].a), shape=(1, 4, 1, 3), data=None)
    b = replace(graph.tensor(graph.ops[0].b), shape=(1, 1, 1, 2), data=None)
    changed = replace(graph.ops[0], a=TensorId(0), b=TensorId(1), out=TensorId(2))
    inputs = (TensorId(0), TensorId(1))
    return Graph(tensors=(a, b, a), ops=(changed,), inputs=inputs, outputs=(TensorId(2),))


def wide_output(graph: Graph) -> Graph:
    """The output's shift to the right is 16, more than an int16 has."""
    return scale("out", F(graph.tensor(graph.ops[0].x).scale * 2**9.5))(graph)


def flat_weight(graph: Graph) -> Graph:
    weight = graph.tensor(graph.ops[0].weight)
    return tensor("weight", shape=(weight.elements,))(graph)


def square_weight(graph: Graph) -> Graph:
    """As many columns of the kernel as output channels, and the scales along them."""
    c_out, _, _, c_in = graph.tensor(graph.ops[0].weight).shape
    shape = (c_out, 1, c_out, c_in)
    data = bytes(c_out * c_out * c_in)
    return tensor("weight", shape=shape, data=data, quantized_dim=2)(graph)


def coarse_without_bias_scale(graph: Graph) -> Graph:
    bare = tensor("bias", scales=(), zero_points=(), data=bytes(4 * graph.tensors[2].elements))
    product = graph.tensor(graph.ops[0].x).scale * graph.tensor(graph.ops[0].weight).scale
    return scale("out", F(product / 0.021))(bare(graph))


def reshape_to(graph: Graph, *shape: int) -> Graph:
    return tensor("shape_id", data=int32s(*shape), shape=(len(shape),))(graph)


def padded(graph: Graph, *pairs: tuple[int, int]) -> Graph:
    rest = graph.ops[0].paddings[len(pairs) :]
    return op(paddings=(*pairs, *rest))(graph)


def huge_pool(graph: Graph) -> Graph:
    shape = (1, 2**10, 2**10, 4)
    bigger = tensor("x", shape=shape)(tensor("out", shape=shape)(graph))
    return op(kernel=(2**10, 2**10), stride=(1, 1), padding=single_op.PaddingKind.SAME)(bigger)


def many_classes(graph: Graph, classes: int) -> Graph:
    return tensor("x", shape=(1, classes))(tensor("out", shape=(1, classes))(graph))


def tiny_output(graph: Graph) -> Graph:
    """RELU6's bound leaves int32; weights and biases of 0 keep the accumulator in."""
    sizes = {
        role: graph.tensor(getattr(graph.ops[0], role)).elements for role in ("weight", "bias")
    }
    empty = tensor("weight", data=bytes(sizes["weight"]))(graph)
    empty = tensor("bias", data=bytes(4 * sizes["bias"]))(empty)
    return op(act=single_op.Activation.RELU6)(scale("out", F(1e-10))(empty))


@pytest.mark.parametrize(("rule", "name", "change"), MUTANTS)
def test_each_broken_rule_is_named(rule: str, name: str, change: Change) -> None:
    graph = legal(name)
    assert spec.find_problems(graph) == []
    assert rule in {p.rule for p in spec.find_problems(change(graph))}


def test_every_rule_has_a_mutant() -> None:
    named = set(re.findall(r'"((?:tensor|graph|op)\.[a-z0-9-]+)"', MODULE.read_text()))
    assert named == {rule for rule, _, _ in MUTANTS}


def test_every_kind_of_operation_has_a_row() -> None:
    assert {type(single_op.CASES[n](np.random.default_rng(0)).ops[0]) for n in single_op.CASES} == {
        *spec.SPEC
    }


def test_verify_names_all_offenders_at_once() -> None:
    broken = scale("out", -1.0)(scale("x", 0.0)(legal("RELU")))
    with pytest.raises(UnsupportedError) as caught:
        spec.verify(broken, where="a.tflite")
    assert caught.value.exit_code == 5
    assert len(caught.value.more) == 1
    assert str(caught.value).startswith("a scale that is not a finite float32 above 0 (a.tflite,")


def test_names_from_outside_are_made_visible() -> None:
    broken = tensor("x", name="a\x1b[2Jb", scales=(0.0,))(legal("RELU"))
    with pytest.raises(UnsupportedError) as caught:
        spec.verify(broken)
    assert "a\\x1b[2Jb" in str(caught.value)


# Rules that TFLM enforces itself: it must refuse, or abort, exactly there.
TFLM_REFUSES = {
    "op.add-ratio": {"ADD", "SUB"},
    "op.fixed-output": {"SOFTMAX"},
    "op.bias-scale": {"FULLY_CONNECTED"},
    "op.activation": {"CONV_2D"},
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param("HARD_SWISH", scale("out", F(1e-9)), id="hard-swish"),
        pytest.param("SOFTMAX", scale("x", 2.0**-30), id="softmax"),
    ]
    + [
        pytest.param(*mutant[1:], id=f"{mutant[0]}-{mutant[1]}-{i}")
        for i, mutant in enumerate(MUTANTS)
        if mutant[1] in TFLM_REFUSES.get(mutant[0], ())
    ],
)
def test_tflite_micro_refuses_too(
    name: str, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "verify", lambda graph: None)
    graph = change(legal(name))
    inputs = single_op.inputs_for(graph, np.random.default_rng(0))
    with pytest.raises(TflmError):
        run_tflm(writer.write_tflite(graph, description="broken"), *inputs)
