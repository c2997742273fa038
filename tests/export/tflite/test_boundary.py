"""Float inputs and outputs: dropped where QUANTIZE or DEQUANTIZE is all that touches them."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import single_op
from ai_edge_litert import schema_py_generated as fb
from float_ends import (
    OP,
    add_float_inputs,
    add_float_outputs,
    float_like,
    operator,
    packed,
    unpacked,
    with_float_ends,
)
from int8_network import network
from tflm import run_tflm

from ndtool.errors import UnsupportedError
from ndtool.export.int8.ir import Graph, Tensor
from ndtool.export.int8.reference import run_graph
from ndtool.export.tflite.int8_part import int8_part
from ndtool.export.tflite.reader import read_model, read_tflite
from ndtool.export.tflite.writer import write_tflite

Change = Callable[[fb.ModelT], object]


def two_by_two() -> Graph:
    """ADD of two inputs, and one of them is an output too."""
    numbers = (np.random.default_rng(seed) for seed in range(100))
    graph = next(g for g in map(single_op.CASES["ADD"], numbers) if len(g.inputs) == 2)
    return replace(graph, outputs=(*graph.outputs, graph.inputs[1]))


def real(values: np.ndarray, tensor: Tensor) -> np.ndarray:
    return ((values.astype(np.float32) - tensor.zero_point) * np.float32(tensor.scale)).astype("f4")


@pytest.mark.parametrize("graph", [network(), two_by_two()], ids=["one", "several"])
def test_the_graph_is_the_int8_part_and_computes_what_the_whole_file_does(graph: Graph) -> None:
    data = with_float_ends(graph)
    model = read_model(data)
    assert model.has_float_ends
    assert (model.graph.inputs, model.graph.outputs) == (graph.inputs, graph.outputs)
    assert model.graph.ops == graph.ops
    assert model.file_ops == tuple(range(len(graph.inputs), len(graph.inputs) + len(graph.ops)))

    inputs = single_op.inputs_for(graph, np.random.default_rng(1), images=5)
    floats = [real(x, graph.tensor(t)) for t, x in zip(graph.inputs, inputs, strict=True)]
    theirs = run_tflm(data, *floats, outputs=len(graph.outputs))
    for tensor, ours, found in zip(
        graph.outputs, run_graph(model.graph, *inputs), theirs, strict=True
    ):
        assert found.dtype == np.float32
        assert np.array_equal(real(ours, graph.tensor(tensor)), found.reshape(ours.shape))


def test_the_int8_part_as_a_file_takes_and_gives_int8() -> None:
    graph = network()
    part = int8_part(with_float_ends(graph))
    x = single_op.inputs_for(graph, np.random.default_rng(1), images=5)
    assert np.array_equal(run_tflm(part, *x)[0], run_graph(graph, *x)[0])
    assert not read_model(part).has_float_ends
    assert read_tflite(part).ops == graph.ops
    # what is left of the float tensors does not cost arena
    assert {t.elements for t in read_tflite(part).tensors[len(graph.tensors) :]} == {1}


def test_an_int8_file_is_its_own_int8_part() -> None:
    data = write_tflite(network(), description="as it is")
    assert int8_part(data) is data
    assert not read_model(data).has_float_ends


@pytest.mark.parametrize("change", [add_float_inputs, add_float_outputs])
def test_one_float_end_is_enough(change: Change) -> None:
    model = unpacked(network())
    change(model)
    found = read_model(packed(model))
    assert found.has_float_ends
    assert found.graph.ops == network().ops


def test_an_input_that_several_read_becomes_several() -> None:
    """One float image for two branches: each has its own int8 input."""
    b = single_op.Builder()
    left, right = (b.activation((1, 4), (0.5, 0)) for _ in range(2))
    op = single_op.Concat(xs=(left, right), out=b.activation((1, 8), (0.5, 0)), axis=1)
    graph = b.graph(op, left, right)
    model = unpacked(graph)
    add_float_inputs(model)
    first = model.subgraphs[0].inputs[0]
    model.subgraphs[0].operators[0].inputs = [first]
    model.subgraphs[0].inputs = [first]
    model.subgraphs[0].tensors[-1].type = fb.TensorType.INT8  # the other one is not used
    assert set(read_tflite(packed(model)).inputs) == {left, right}


def lines(data: bytes) -> list[str]:
    with pytest.raises(UnsupportedError) as caught:
        read_tflite(data, where="their.tflite")
    return [str(e) for e in (caught.value, *caught.value.more)]


def ended(change: Change) -> bytes:
    model = unpacked(network())
    add_float_inputs(model)
    add_float_outputs(model)
    change(model)
    return packed(model)


def other_reader(model: fb.ModelT) -> None:
    """The float input goes into an ADD as well."""
    graph = model.subgraphs[0]
    made = operator(model, OP.ADD, graph.inputs[0], float_like(model, 0))
    graph.operators.append(made)


def read_again(model: fb.ModelT) -> None:
    """The float output is quantised again inside the network."""
    graph = model.subgraphs[0]
    graph.operators.append(operator(model, OP.QUANTIZE, graph.outputs[0], float_like(model, 0)))


def float_in_the_middle(model: fb.ModelT) -> None:
    graph = model.subgraphs[0]
    entry = graph.operators[1].inputs[0]
    middle = float_like(model, entry)
    graph.operators.insert(1, operator(model, OP.DEQUANTIZE, entry, middle))


def passed_through(model: fb.ModelT) -> None:
    graph = model.subgraphs[0]
    graph.outputs = [*graph.outputs, graph.inputs[0]]


def named_twice(model: fb.ModelT) -> None:
    graph = model.subgraphs[0]
    graph.inputs = [*graph.inputs, *graph.inputs]


def other_shape(model: fb.ModelT) -> None:
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shape = [1, 3, 8, 8]


def first_end(**fields: object) -> Change:
    def change(model: fb.ModelT) -> None:
        for name, value in fields.items():
            setattr(model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]], name, value)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_reader, "type float32, not int8 or int32 (their.tflite, tensor 21 'float 0')"),
        (read_again, "type float32, not int8 or int32 (their.tflite, tensor 22 'float 20')"),
        (float_in_the_middle, "type float32, not int8 or int32 (their.tflite, tensor 23"),
        (float_in_the_middle, "op 1 DEQUANTIZE, output tensor 23 'float 0'"),
        (passed_through, "tensor 21 'float 0'"),
        (named_twice, "a graph input is a constant or is named twice (their.tflite, tensor 0"),
        (other_shape, "tensor 21 'float 0'"),
        (first_end(type=fb.TensorType.UINT8), "type uint8, not int8 or int32 (their.tflite, tens"),
        (first_end(type=fb.TensorType.FLOAT16), "type float16, not int8 or int32"),
        (first_end(isVariable=True), "a variable tensor (their.tflite, tensor 21"),
    ],
)
def test_any_other_float_tensor_is_refused_by_name(change: Change, words: str) -> None:
    found = lines(ended(change))
    assert any(words in line for line in found), found


def test_errors_after_a_dropped_operator_have_the_files_numbers() -> None:
    def stride(model: fb.ModelT) -> None:
        model.subgraphs[0].operators[1].builtinOptions.strideH = 0

    (line,) = lines(ended(stride))
    assert "op 1 CONV_2D" in line and "stride 0" in line
