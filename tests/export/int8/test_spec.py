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
from ndtool.export.int8 import rules, spec
from ndtool.export.int8.ir import DType, Graph, Pads, Split, StridedSlice, TensorId
from ndtool.export.int8.rules import tensors
from ndtool.export.int8.rules.pointwise import MAX_SOFTMAX
from ndtool.export.int8.rules.tensors import MAX_ELEMENTS
from ndtool.export.tflite import writer

RULES = [Path(spec.__file__), *sorted(Path(rules.__file__).parent.glob("*.py"))]
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
    if isinstance(op, StridedSlice):
        return max(op.sizes) > 2
    if isinstance(op, Split):
        return len(op.outs) > 1
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
    ("op.operand", "CONV_2D", tensor("weight", scales=(), zero_points=(), quantized_dim=0)),
    (
        "op.weight-zero-point",
        "CONV_2D",
        tensor("weight", scales=(1.0,), zero_points=(3,), quantized_dim=0),
    ),
    ("op.weight-zero-point", "FULLY_CONNECTED", lambda g: with_weight_zero(g)),
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
    ("op.grouped", "CONV_2D", lambda g: grouped(g)),
    ("op.channels", "DEPTHWISE_CONV_2D", op(multiplier=9)),
    ("op.channels", "DEPTHWISE_CONV_2D", op(multiplier=0)),
    ("op.channels", "FULLY_CONNECTED", tensor("x", shape=(1, 997))),
    ("op.quantized-dim", "CONV_2D", lambda g: square_weight(g)),
    ("op.quantized-dim", "FULLY_CONNECTED per channel", lambda g: square_matrix(g)),
    ("op.bias", "FULLY_CONNECTED", tensor("bias", data=int32s(1), shape=(1,))),
    ("op.bias", "CONV_2D", tensor("bias", scales=(1.0,), zero_points=(0,))),
    ("op.bias-scale", "CONV_2D", scale("bias", F(1e30))),
    ("op.bias-scale", "FULLY_CONNECTED", scale("bias", F(0.3))),
    ("op.bias-scale", "FULLY_CONNECTED", lambda g: coarse_without_bias_scale(g)),
    ("op.stride", "CONV_2D", op(stride=(0, 1))),
    ("op.stride", "CONV_2D", op(dilation=(1, -1))),
    ("op.stride", "MAX_POOL_2D", op(stride=(1, 0))),
    ("op.stride", "CONV_2D", op(stride=(2**17, 1))),
    ("op.stride", "DEPTHWISE_CONV_2D", lambda g: dilated(g)),
    ("op.pads", "CONV_2D", op(padding=Pads(top=0, left=-1, bottom=0, right=0))),
    ("op.pads", "DEPTHWISE_CONV_2D", op(padding=Pads(top=0, left=0, bottom=0, right=2**17))),
    ("op.kernel", "MAX_POOL_2D", op(kernel=(1, 60))),
    ("op.kernel", "MAX_POOL_2D", op(kernel=(0, 1))),
    ("op.shape", "CONV_2D", op(stride=(9, 9))),
    ("op.shape", "RELU", tensor("out", shape=(1, 255))),
    ("op.shape", "ADD", lambda g: not_broadcast(g)),
    ("op.shape", "RESHAPE", tensor("out", shape=(1, 7777))),
    ("op.shape", "RESHAPE", lambda g: reshape_to(g, -1, -1)),
    ("op.shape", "RESHAPE", lambda g: reshape_to(g, 1, 2, 3)),
    ("op.shape", "PAD", tensor("out", shape=(1, 7777))),
    ("op.shape", "SQUEEZE", tensor("out", shape=(1, 7777))),
    ("op.shape", "SQUEEZE", lambda g: tensor("out", shape=g.tensor(g.ops[0].x).shape)(g)),
    ("op.shape", "SPLIT", lambda g: second_part(g, shape=(1, 7777))),
    ("op.shape", "STRIDED_SLICE", tensor("out", shape=(1, 7777))),
    ("op.shape", "RESIZE_NEAREST_NEIGHBOR", tensor("out", shape=(1, 7777))),
    ("op.size", "RESIZE_NEAREST_NEIGHBOR", tensor("size_id", data=int32s(0, 3))),
    ("op.size", "RESIZE_NEAREST_NEIGHBOR", tensor("size_id", data=int32s(3), shape=(1,))),
    ("op.rank", "RESIZE_NEAREST_NEIGHBOR", tensor("x", shape=(1, 9))),
    ("op.rank", "STRIDED_SLICE", tensor("x", shape=(1, 1, 1, 1, 9))),
    ("op.slice", "STRIDED_SLICE", op(begin=())),
    ("op.slice", "STRIDED_SLICE", lambda g: sliced(g, "begin", -1)),
    ("op.slice", "STRIDED_SLICE", lambda g: sliced(g, "strides", 0)),
    ("op.slice", "STRIDED_SLICE", lambda g: sliced(g, "strides", 77)),
    ("op.slice", "STRIDED_SLICE", lambda g: sliced(g, "sizes", 0)),
    ("op.slice", "STRIDED_SLICE", lambda g: sliced(g, "sizes", 77)),
    ("op.slice", "STRIDED_SLICE", lambda g: replace(g, ops=(single_with_stride(g.ops[0]),))),
    ("op.parts", "SPLIT", lambda g: one_more_element(g)),
    ("op.parts", "SPLIT", op(outs=())),
    ("op.axes", "SPLIT", op(axis=0)),
    ("op.axes", "SPLIT", lambda g: tensor("axis_id", data=int32s(77))(g)),
    ("graph.writer", "SPLIT", lambda g: op(outs=g.ops[0].outs[:1] * 2)(g)),
    ("op.equal-params", "SPLIT", lambda g: second_part(g, scales=(2.0,))),
    ("op.equal-params", "SQUEEZE", scale("out", 2.0)),
    ("op.equal-params", "STRIDED_SLICE", scale("out", 2.0)),
    ("op.equal-params", "RESIZE_NEAREST_NEIGHBOR", scale("out", 2.0)),
    ("op.shape", "CONCATENATION", tensor("out", shape=(1, 7777))),
    ("op.macs", "AVERAGE_POOL_2D", lambda g: huge_pool(g)),
    ("op.macs", "DEPTHWISE_CONV_2D", lambda g: huge_convolution(g)),
    ("op.macs", "FULLY_CONNECTED", lambda g: huge_matrix(g)),
    ("op.axes", "MEAN", op(axes=(0,))),
    ("op.axes", "MEAN", op(axes=(2, 1))),
    ("op.axes", "MEAN", op(axes=())),
    ("op.axes", "MEAN", op(axes=(4,))),
    ("op.axes", "MEAN", tensor("axes_id", data=int32s(9), shape=(1,))),
    ("op.shape", "CONCATENATION", lambda g: another_rank(g)),
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
    ("op.softmax", "SOFTMAX", lambda g: many_classes(g, MAX_SOFTMAX + 1)),
    ("op.attribute", "SOFTMAX", op(beta=0.1)),
    ("op.attribute", "LEAKY_RELU", op(alpha=float("nan"))),
    ("op.activation", "CONV_2D", lambda g: tiny_output(g)),
    ("op.activation", "FULLY_CONNECTED", lambda g: tiny_output(g)),
    ("op.activation", "MAX_POOL_2D", lambda g: tiny_pool(g)),
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


def with_weight_zero(graph: Graph) -> Graph:
    scales = graph.tensor(graph.ops[0].weight).scales
    return tensor("weight", zero_points=(1,) * len(scales))(graph)


def grouped(graph: Graph) -> Graph:
    """Three times the input channels that the weights have."""
    shape = graph.tensor(graph.ops[0].x).shape
    return tensor("x", shape=(*shape[:3], 3 * shape[3]))(graph)


def dilated(graph: Graph) -> Graph:
    """A kernel of two rows that lie too far apart."""
    count = graph.tensor(graph.ops[0].weight).shape[3]
    wider = tensor("weight", shape=(1, 2, 1, count), data=bytes(2 * count))(graph)
    return op(dilation=(2**16, 1))(wider)


def second_part(graph: Graph, **fields: object) -> Graph:
    """Change the last output of a SPLIT of several."""
    last = graph.ops[0].outs[-1]
    made = [replace(t, **fields) if i == last else t for i, t in enumerate(graph.tensors)]
    return replace(graph, tensors=tuple(made))


def one_more_element(graph: Graph) -> Graph:
    """Of the axis that is split into several."""
    found = graph.ops[0]
    shape = list(graph.tensor(found.x).shape)
    shape[found.axis] += 1
    return tensor("x", shape=tuple(shape))(graph)


def sliced(graph: Graph, role: str, value: int) -> Graph:
    """Another number for the axis of which most is taken."""
    numbers = list(getattr(graph.ops[0], role))
    sizes = graph.ops[0].sizes
    numbers[sizes.index(max(sizes))] = value
    return op(**{role: tuple(numbers)})(graph)


def single_with_stride(found: StridedSlice) -> StridedSlice:
    return replace(found, strides=(2, *found.strides[1:]))


def many_readers(graph: Graph) -> Graph:
    wide = replace(graph.tensors[0], shape=(1, MAX_ELEMENTS))
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


def square_matrix(graph: Graph) -> Graph:
    """As many inputs as outputs, and the scales along the inputs."""
    c_out, _ = graph.tensor(graph.ops[0].weight).shape
    data = bytes(c_out * c_out)
    wider = tensor("weight", shape=(c_out, c_out), data=data, quantized_dim=1)(graph)
    return tensor("x", shape=(1, c_out))(wider)


def coarse_without_bias_scale(graph: Graph) -> Graph:
    bare = tensor("bias", scales=(), zero_points=(), data=bytes(4 * graph.tensors[2].elements))
    product = graph.tensor(graph.ops[0].x).scale * graph.tensor(graph.ops[0].weight).scale
    return scale("out", F(product / 0.021))(bare(graph))


def reshape_to(graph: Graph, *shape: int) -> Graph:
    return tensor("shape_id", data=int32s(*shape), shape=(len(shape),))(graph)


def another_rank(graph: Graph) -> Graph:
    """(1, 2, 3) and (1, 2) along axis 2: what lies beside that axis is the same."""
    first, last = (replace(graph.tensors[0], shape=s) for s in ((1, 2, 3), (1, 2)))
    a, b, out = map(TensorId, range(3))
    joined = replace(graph.ops[0], xs=(a, b), out=out, axis=2)
    return Graph(tensors=(first, last, first), ops=(joined,), inputs=(a, b), outputs=(out,))


def padded(graph: Graph, *pairs: tuple[int, int]) -> Graph:
    rest = graph.ops[0].paddings[len(pairs) :]
    return op(paddings=(*pairs, *rest))(graph)


def huge_pool(graph: Graph) -> Graph:
    shape = (1, 2**10, 2**10, 4)
    bigger = tensor("x", shape=shape)(tensor("out", shape=shape)(graph))
    return op(kernel=(2**10, 2**10), stride=(1, 1), padding=single_op.PaddingKind.SAME)(bigger)


def huge_convolution(graph: Graph) -> Graph:
    """A kernel of 31 by 31 pixels over an image of as many elements as may be."""
    channels = graph.tensor(graph.ops[0].weight).shape[3]
    side = int((MAX_ELEMENTS // channels) ** 0.5)
    image = (1, side, side, channels)
    wider = tensor("weight", shape=(1, 31, 31, channels), data=bytes(31 * 31 * channels))(graph)
    same = op(multiplier=1, stride=(1, 1), dilation=(1, 1), padding=single_op.PaddingKind.SAME)
    return same(tensor("x", shape=image)(tensor("out", shape=image)(wider)))


def huge_matrix(graph: Graph) -> Graph:
    """1024 inputs and outputs for as many rows as may be."""
    rows = (1, MAX_ELEMENTS // 1024, 1024)
    biased = tensor("bias", shape=(1024,), data=bytes(4 * 1024))(graph)
    square = tensor("weight", shape=(1024, 1024), data=bytes(1024 * 1024))(biased)
    return op(keep_num_dims=True)(tensor("x", shape=rows)(tensor("out", shape=rows)(square)))


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


def tiny_pool(graph: Graph) -> Graph:
    """RELU6's bound leaves int32."""
    bounded = op(act=single_op.Activation.RELU6)(graph)
    return scale("x", F(1e-10))(scale("out", F(1e-10))(bounded))


@pytest.mark.parametrize(("rule", "name", "change"), MUTANTS)
def test_each_broken_rule_is_named(rule: str, name: str, change: Change) -> None:
    graph = legal(name)
    assert spec.find_problems(graph) == []
    assert rule in {p.rule for p in spec.find_problems(change(graph))}


def test_every_rule_has_a_mutant() -> None:
    named = set(
        re.findall(r'"((?:tensor|graph|op)\.[a-z0-9-]+)"', "".join(p.read_text() for p in RULES))
    )
    assert named == {rule for rule, _, _ in MUTANTS}


def test_the_rules_that_are_written_are_those_that_are_enforced() -> None:
    """docs/ir.md is printed from them: each row's own, and no other."""
    written = {(row, rule) for row in map(id, spec.SPEC.values()) for rule in spec.OP_RULES}
    written |= {(id(row), rule) for row in spec.SPEC.values() for rule in row.rules}
    enforced = {
        (id(spec.SPEC[type(graph.ops[problem.op])]), problem.rule)
        for graph in (change(legal(name)) for _, name, change in MUTANTS)
        for problem in spec.find_problems(graph)
        if problem.op is not None and problem.rule.startswith("op.")
    }
    assert enforced <= written
    common = {(row, rule) for row, rule in written if rule in spec.OP_RULES}
    assert written - common <= enforced
    others = {rule for rule, _, _ in MUTANTS if not rule.startswith("op.")}
    assert others == set(tensors.RULES)


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
