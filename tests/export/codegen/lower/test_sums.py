"""Which ADD goes into which convolution."""

import numpy as np
import pytest
from single_op import Builder

from ndtool.export.codegen.lower import lower
from ndtool.export.codegen.lower.sums import find_sums
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Conv2D,
    Graph,
    Op,
    PaddingKind,
    TensorId,
    Unary,
    UnaryKind,
)

SHAPE = (1, 4, 4, 3)
Net = tuple[Builder, list[Op]]


def new_net() -> tuple[Builder, TensorId]:
    b = Builder()
    return b, b.activation(SHAPE, (0.1, 0))


def conv(b: Builder, x: TensorId) -> Conv2D:
    weight = b.int8(np.arange(9).reshape(3, 1, 1, 3) - 4, (0.01, 0.02, 0.03))
    return Conv2D(
        x=x,
        weight=weight,
        bias=None,
        out=b.activation(SHAPE, (0.1, 3)),
        stride=(1, 1),
        dilation=(1, 1),
        padding=PaddingKind.SAME,
        act=Activation.RELU,
    )


def binary(
    b: Builder, left: TensorId, right: TensorId, kind: BinaryKind = BinaryKind.ADD
) -> Binary:
    out = b.activation(SHAPE, (0.2, -5))
    return Binary(kind=kind, a=left, b=right, out=out, act=Activation.NONE)


def graph(b: Builder, ops: list[Op], x: TensorId, *outputs: TensorId) -> Graph:
    return Graph(tensors=tuple(b.tensors), ops=tuple(ops), inputs=(x,), outputs=outputs)


@pytest.mark.parametrize("order", ["conv + x", "x + conv"])
def test_residual_block(order: str) -> None:
    b, x = new_net()
    layer = conv(b, x)
    add = binary(b, x, layer.out) if order == "x + conv" else binary(b, layer.out, x)
    net = graph(b, [layer, add], x, add.out)
    (found,) = find_sums(net).values()
    assert (found.index, found.made, found.other) == (1, layer.out, x)
    program = lower(Passed(graph=net))
    (call,) = program.calls
    assert (call.op, call.out, call.title) == (1, add.out, "CONV_2D 1x1 + ADD")
    assert program.fused == {layer.out}


def test_later_of_two_convolutions() -> None:
    b, x = new_net()
    first, second = conv(b, x), conv(b, x)
    add = binary(b, second.out, first.out)
    found = find_sums(graph(b, [first, second, add], x, add.out))
    assert {index: s.made for index, s in found.items()} == {1: second.out}


def test_both_sums_of_a_chain() -> None:
    b, x = new_net()
    first = conv(b, x)
    one = binary(b, x, first.out)
    second = conv(b, one.out)
    two = binary(b, second.out, one.out)
    found = find_sums(graph(b, [first, one, second, two], x, two.out))
    assert {index: s.index for index, s in found.items()} == {0: 1, 2: 3}


def no_fusion_cases() -> dict[str, Graph]:
    cases = {}
    b, x = new_net()
    layer = conv(b, x)
    add = binary(b, layer.out, x)
    cases["output of the graph"] = graph(b, [layer, add], x, add.out, layer.out)
    other = Unary(kind=UnaryKind.TANH, x=layer.out, out=b.activation(SHAPE, (1 / 128, 0)))
    cases["another reader"] = graph(b, [layer, add, other], x, add.out, other.out)
    twice = binary(b, layer.out, layer.out)
    cases["both operands"] = graph(b, [layer, twice], x, twice.out)
    sub = binary(b, layer.out, x, BinaryKind.SUB)
    cases["SUB"] = graph(b, [layer, sub], x, sub.out)
    constant = binary(b, layer.out, b.int8(np.zeros(SHAPE), (0.1,)))
    cases["a constant"] = graph(b, [layer, constant], x, constant.out)
    row = b.activation((1, 1, 1, 3), (0.1, 0))
    spread = binary(b, layer.out, row)
    net = graph(b, [layer, spread], x, spread.out)
    cases["a broadcast"] = Graph(
        tensors=net.tensors, ops=net.ops, inputs=(x, row), outputs=net.outputs
    )
    late = Unary(kind=UnaryKind.TANH, x=x, out=b.activation(SHAPE, (1 / 128, 0)))
    after = binary(b, layer.out, late.out)
    cases["the other one is formed later"] = graph(b, [layer, late, after], x, after.out)
    return cases


NO_FUSION = no_fusion_cases()


@pytest.mark.parametrize("name", NO_FUSION)
def test_not_fused(name: str) -> None:
    assert find_sums(NO_FUSION[name]) == {}
    assert not any("+ ADD" in c.title for c in lower(Passed(graph=NO_FUSION[name])).calls)
