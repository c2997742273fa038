"""Shapes, factors and sharing of element-wise calls; their bytes: test_kernels_other."""

import numpy as np
import pytest
from single_op import Builder

from ndtool.export.codegen.lower.elementwise import lower_binary, lower_unary
from ndtool.export.codegen.program import Call, Sharing, Struct, Table
from ndtool.export.int8.ir import Activation, Binary, BinaryKind, Graph, TensorId, Unary, UnaryKind

IMAGE = (1, 4, 5, 8)


def binary(
    kind: BinaryKind, left: tuple[int, ...], right: tuple[int, ...] | np.ndarray
) -> tuple[Graph, Binary]:
    b = Builder()
    a = b.activation(left, (0.5, 3))
    if isinstance(right, np.ndarray):
        second, shape, inputs = b.int8(right, (0.25,), zero=-4), right.shape, [a]
    else:
        second, shape = b.activation(right, (0.25, -4)), right
        inputs = [a, second]
    out = b.activation(np.broadcast_shapes(left, shape), (1.0, 5))
    op = Binary(kind=kind, a=a, b=second, out=out, act=Activation.RELU)
    return b.graph(op, *inputs), op


def fields(call: Call, name: str) -> dict[str, int]:
    (struct,) = (arg for arg in call.args if isinstance(arg, Struct) and arg.type == name)
    return dict(struct.fields)


def only_call(kind: BinaryKind, left: tuple[int, ...], right: tuple[int, ...]) -> Call:
    graph, op = binary(kind, left, right)
    (call,) = lower_binary(graph, op, 0)
    return call


def test_equal_shapes_are_one_row() -> None:
    shape = fields(only_call(BinaryKind.ADD, IMAGE, IMAGE), "nd_broadcast_shape")
    assert (shape["rows"], shape["n"], shape["a_step"], shape["b_step"]) == (1, 160, 1, 1)


def test_gate_of_channels_is_a_row_for_each_pixel() -> None:
    """Squeeze-excite: the innermost loop runs over the channels of both."""
    call = only_call(BinaryKind.MUL, IMAGE, (1, 1, 1, 8))
    shape = fields(call, "nd_broadcast_shape")
    assert (call.kernel, shape["rows"], shape["n"]) == ("nd_mul_s8", 20, 8)
    assert (shape["a_step"], shape["a_row"], shape["b_step"], shape["b_row"]) == (1, 8, 1, 0)


def test_scalar_is_one_row() -> None:
    shape = fields(only_call(BinaryKind.MUL, IMAGE, (1, 1, 1, 1)), "nd_broadcast_shape")
    assert (shape["rows"], shape["n"], shape["b_step"]) == (1, 160, 0)


@pytest.mark.parametrize("kind", BinaryKind)
def test_in_place_over_operands_that_are_not_repeated(kind: BinaryKind) -> None:
    a, b, out = TensorId(0), TensorId(1), TensorId(2)
    over_a, over_b = (Sharing(x=x, out=out, low=0, high=0) for x in (a, b))
    assert only_call(kind, IMAGE, IMAGE).sharing == (over_a, over_b)
    assert only_call(kind, IMAGE, (1, 1, 1, 8)).sharing == (over_a,)
    assert only_call(kind, (1, 1, 1, 8), IMAGE).sharing == (over_b,)
    assert only_call(kind, (1, 4, 5, 1), (1, 1, 1, 8)).sharing == ()


def test_one_tensor_twice_has_one_rule() -> None:
    graph, op = binary(BinaryKind.ADD, IMAGE, IMAGE)
    (call,) = lower_binary(graph, Binary(kind=op.kind, a=op.a, b=op.a, out=op.out, act=op.act), 0)
    assert call.sharing == (Sharing(x=op.a, out=op.out, low=0, high=0),)


@pytest.mark.parametrize("name", ["a", "b"])
def test_constant_is_a_table(name: str) -> None:
    values = np.arange(8, dtype=np.int8)
    graph, op = binary(BinaryKind.SUB, IMAGE, values)
    if name == "a":
        op = Binary(kind=op.kind, a=op.b, b=op.a, out=op.out, act=op.act)
    (call,) = lower_binary(graph, op, 0)
    (table,) = call.tables
    assert table == Table(name=name, ctype="int8_t", data=values.tobytes())
    assert call.args.index(table) == {"a": 2, "b": 3}[name]
    assert call.reads == (TensorId(0),)


def test_factors_of_add_and_sub() -> None:
    """The larger scale's factor is one half; SUB differs by its sign alone."""
    added = fields(only_call(BinaryKind.ADD, IMAGE, IMAGE), "nd_add_factors")
    assert added == {
        "a_zp": 3,
        "a_mult": 2**30,
        "a_right": 0,
        "b_zp": -4,
        "b_mult": 2**30,
        "b_right": 1,
        "b_sign": 1,
        "out_mult": 2**30,
        "out_right": 19,
        "out_zp": 5,
        "act_min": 5,
        "act_max": 127,
    }
    subtracted = fields(only_call(BinaryKind.SUB, IMAGE, IMAGE), "nd_add_factors")
    assert subtracted == {**added, "b_sign": -1}


def test_unary_is_a_table_in_place() -> None:
    b = Builder()
    x, out = b.activation(IMAGE, (0.1, 0)), b.activation(IMAGE, (0.1, 0))
    op = Unary(kind=UnaryKind.RELU6, x=x, out=out)
    (call,) = lower_unary(b.graph(op, x), op, 0)
    (table,) = call.tables
    assert np.frombuffer(table.data, np.int8).tolist() == np.clip(range(-128, 128), 0, 60).tolist()
    assert call.sharing == (Sharing(x=x, out=out, low=0, high=0),)
