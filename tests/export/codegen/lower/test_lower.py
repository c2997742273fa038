"""Whole graphs as programs: aliases, ports, what passes removed."""

from pathlib import Path

import c_engine
import numpy as np
import pytest
from shared_models import shared_model
from single_op import Builder

from ndtool.export.codegen.engine import compile_graph
from ndtool.export.codegen.lower import lower
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.codegen.program import Removed
from ndtool.export.int8.ir import Graph, Op, Reshape, Squeeze, TensorId, Unary, UnaryKind
from ndtool.export.int8.reference import run_graph
from ndtool.export.tflite.reader import read_tflite

PARAMS = (1 / 128, 0)


def graph(b: Builder, ops: list[Op], x: TensorId, *outputs: TensorId) -> Graph:
    return Graph(tensors=tuple(b.tensors), ops=tuple(ops), inputs=(x,), outputs=outputs)


def tanh(b: Builder, x: TensorId) -> Unary:
    shape = b.tensors[x].shape
    return Unary(kind=UnaryKind.TANH, x=x, out=b.activation(shape, PARAMS))


def reshape(b: Builder, x: TensorId, *shape: int) -> Reshape:
    return Reshape(x=x, shape_id=None, out=b.activation(shape, PARAMS))


def test_aliases_lead_to_one_root() -> None:
    b = Builder()
    x = b.activation((1, 1, 2, 6), PARAMS)
    first = reshape(b, x, 1, 12)
    second = reshape(b, first.out, 1, 3, 1, 4)
    third = Squeeze(x=second.out, out=b.activation((1, 3, 4), PARAMS))
    last = tanh(b, third.out)
    program = lower(Passed(graph=graph(b, [first, second, third, last], x, last.out)))
    assert program.aliases == {first.out: x, second.out: x, third.out: x}
    (call,) = program.calls
    assert (call.op, call.reads, call.out) == (3, (third.out,), last.out)


def alias_graphs() -> dict[str, Graph]:
    made = {}
    b = Builder()
    x = b.activation((1, 2, 6), PARAMS)
    flat = reshape(b, x, 1, 12)
    made["only a RESHAPE"] = graph(b, [flat], x, flat.out)
    bent = tanh(b, x)
    made["an output that is the input"] = graph(b, [flat, bent], x, flat.out, bent.out)
    shaped = reshape(b, bent.out, 1, 12)
    made["two outputs in one place"] = graph(b, [bent, shaped], x, bent.out, shaped.out)
    after = tanh(b, shaped.out)
    made["an output that is read on"] = graph(b, [bent, shaped, after], x, shaped.out, after.out)
    made["one output twice"] = graph(b, [bent], x, bent.out, bent.out)
    return made


def test_outputs_that_share_a_place(tmp_path: Path) -> None:
    graphs = alias_graphs()
    engine = c_engine.build(list(graphs.values()), tmp_path, flags=c_engine.UBSAN)
    x = np.random.default_rng(0).integers(-128, 128, (3, 2, 6)).astype(np.int8)
    for k, (name, one) in enumerate(graphs.items()):
        for found, wanted in zip(engine.run(k, x), run_graph(one, x), strict=True):
            assert (found == wanted).all(), name


def test_what_passes_did_is_handed_on() -> None:
    b = Builder()
    x = b.activation((1, 2, 6), PARAMS)
    gone = b.activation((1, 9), PARAMS)
    op = tanh(b, x)
    removed = {op.out: Removed(live=(0, 1, 2, 3, 4, 9), constants={5: 1, 6: 1, 7: 1, 8: 1})}
    passed = Passed(graph=graph(b, [op], x, op.out), removed=removed, fused=frozenset({gone}))
    program = lower(passed)
    assert program.fused == {gone}
    assert program.removed == removed


@pytest.mark.parametrize(
    ("name", "kernels", "arena"),
    [
        ("person_detect", "average_pool depthwise fully_connected pointwise softmax", 40_000),
        ("kws", "average_pool conv depthwise fully_connected pointwise softmax", 11_000),
        ("vww_96", "average_pool conv depthwise fully_connected pointwise softmax", 50_000),
        ("resnet8", "average_pool conv conv_add fully_connected softmax", 36_000),
    ],
)
def test_published_models(name: str, kernels: str, arena: int) -> None:
    compiled = compile_graph(read_tflite(shared_model(name)))
    assert compiled.program.kernels == tuple(sorted(f"nd_{k}_s8" for k in kernels.split()))
    assert compiled.plan.total <= arena
