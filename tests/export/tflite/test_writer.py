"""Files: deterministic, aligned, shared vectors, and loaded by both runtimes."""

from dataclasses import replace

import numpy as np
import pytest
import single_op
from host_tools import require_package
from int8_network import network
from tflm import run_tflm

from ndtool.errors import ToolMissingError, UnsupportedError
from ndtool.export.int8.ir import DType, Graph, Pads, StridedSlice
from ndtool.export.int8.reference import run_graph
from ndtool.export.tflite import schema
from ndtool.export.tflite.parse import parse_tflite
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite


def images(graph: Graph, count: int = 4) -> np.ndarray:
    (x,) = single_op.inputs_for(graph, np.random.default_rng(2), images=count)
    return x


@pytest.mark.parametrize("fc_scales", [1, 5])
def test_whole_network_equals_tflite_micro(fc_scales: int) -> None:
    graph = network(fc_scales)
    (ours,) = run_graph(graph, x := images(graph, 20))
    assert np.array_equal(run_tflm(write_tflite(graph, description="n"), x)[0], ours)
    assert len(np.unique(ours)) > 20


def litert_outputs(data: bytes, *inputs: np.ndarray) -> np.ndarray:
    require_package("ai_edge_litert")
    from ai_edge_litert import interpreter as litert

    interpreter = litert.Interpreter(
        model_content=data,
        num_threads=1,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
    )
    interpreter.allocate_tensors()
    outputs = []
    for image in zip(*inputs, strict=True):
        for detail, x in zip(interpreter.get_input_details(), image, strict=True):
            interpreter.set_tensor(detail["index"], x[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(outputs)


# LiteRT 2.3 rounds FULLY_CONNECTED otherwise (quantisation, 1.6)
LITERT_STEPS = {"FULLY_CONNECTED": 1, "FULLY_CONNECTED per channel": 1}


@pytest.mark.parametrize("name", single_op.CASES)
def test_litert_loads_every_operation(name: str) -> None:
    loaded = 0
    for number in range(12):
        graph = single_op.CASES[name](np.random.default_rng([3, number]))
        if getattr(graph.ops[0], "bias", 0) is None:
            continue  # LiteRT refuses or crashes
        inputs = single_op.inputs_for(graph, np.random.default_rng(number))
        ours = run_graph(graph, *inputs)[0]
        theirs = litert_outputs(write_tflite(graph, description="l"), *inputs)
        steps = np.abs(ours.astype(int) - theirs.reshape(ours.shape)).max()
        assert steps <= LITERT_STEPS.get(name, 0)
        loaded += 1
    assert loaded >= 8


def test_same_graph_same_bytes() -> None:
    assert write_tflite(network(), description="a") == write_tflite(network(), description="a")
    assert write_tflite(network(), description="a") != write_tflite(network(), description="b")


def test_constants_are_aligned_and_the_first_buffer_is_empty() -> None:
    model = parse_tflite(write_tflite(network(), description=""), where="test")
    assert model.buffers[0].data == b""
    assert len(model.buffers) == 8
    assert all(b.start % 16 == 0 and b.data for b in model.buffers[1:])


def test_equal_constants_share_a_buffer() -> None:
    model = parse_tflite(write_tflite(network(), description=""), where="test")
    datas = [b.data for b in model.buffers]
    assert len(datas) == len(set(datas))
    axes = [t.buffer for t in model.tensors if t.type_code == 2 and t.shape == (2,)]
    assert len(axes) == 2
    assert len(set(axes)) == 1


@pytest.mark.parametrize("fc_scales", [1, 5])
def test_bias_scales_are_written_only_where_a_kernel_reads_them(fc_scales: int) -> None:
    back = read_tflite(write_tflite(network(fc_scales), description=""))
    scaled = [t.shape for t in back.tensors if t.dtype is DType.INT32 and t.scales]
    assert scaled == ([(5,)] if fc_scales == 1 else [])


def test_operator_codes_are_listed_once_with_litert_versions() -> None:
    model = parse_tflite(write_tflite(network(), description="who"), where="test")
    assert model.description == "who"
    assert len(set(model.opcodes)) == len(model.opcodes)
    versions = {o.builtin: o.version for o in model.opcodes}
    assert (versions[3], versions[9], versions[117]) == (3, 12, 1)
    per_tensor = parse_tflite(write_tflite(network(1), description=""), where="test")
    assert {o.builtin: o.version for o in per_tensor.opcodes}[9] == 4


def test_overhead_of_a_wide_network_stays_small() -> None:
    """Vectors are shared: about 8 bytes a channel of each distinct count, 300 an operation."""
    graph = network()
    wide = sum(len(t.data) for t in graph.tensors if t.data is not None)
    scales = sum(4 * len(t.scales) for t in graph.tensors if t.dtype is DType.INT8)
    size = len(write_tflite(graph, description=""))
    assert size - wide - scales < 300 * len(graph.ops) + 1500


def test_illegal_graphs_are_not_written() -> None:
    graph = network()
    with pytest.raises(UnsupportedError, match="read before any operation wrote it"):
        write_tflite(replace(graph, ops=graph.ops[::-1]), description="")


def test_what_only_passes_make_is_not_written() -> None:
    graph = network()
    padded = replace(graph.ops[0], padding=Pads(top=1, left=0, bottom=1, right=0))
    out = replace(graph.tensor(padded.out), shape=(1, 4, 3, 6))
    tensors = (*graph.tensors[: padded.out], out, *graph.tensors[padded.out + 1 :])
    cut = Graph(tensors=tensors, ops=(padded,), inputs=graph.inputs, outputs=(padded.out,))
    with pytest.raises(UnsupportedError, match="explicit padding") as caught:
        write_tflite(cut, description="")
    assert "op 0 CONV_2D" in str(caught.value)

    b = single_op.Builder()
    x = b.activation((1, 5), (1, 0))
    op = StridedSlice(
        x=x,
        constants=(b.int32([0, 0]), b.int32([1, 3]), b.int32([1, 1])),
        out=b.activation((1, 2), (1, 0)),
        begin=(0, 1),
        strides=(1, 1),
        sizes=(1, 2),
    )
    with pytest.raises(UnsupportedError, match="other constants"):
        write_tflite(b.graph(op, x), description="")


def test_tflite_micros_schema_writes_the_same_file(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write_tflite(network(), description="")
    require = schema.require

    def without_litert(module: str) -> object:
        if module.startswith("ai_edge_litert"):
            raise ToolMissingError(module, install="")
        return require(module)

    monkeypatch.setattr(schema, "require", without_litert)
    assert schema.load_schema().__name__.startswith("tflite_micro")
    assert write_tflite(network(), description="") == expected


def test_no_schema_at_all_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(module: str) -> object:
        raise ToolMissingError(module, install="pip install 'ndtool[export]'")

    monkeypatch.setattr(schema, "require", nothing)
    with pytest.raises(ToolMissingError, match="ai_edge_litert"):
        schema.load_schema()
