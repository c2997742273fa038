"""Reading back what was written, TensorFlow's habits, and bytes that nobody should trust."""

import random
import struct
import time
from collections.abc import Callable
from dataclasses import replace

import flatbuffers
import numpy as np
import pytest
import single_op
from ai_edge_litert import schema_py_generated as fb
from float_ends import packed, unpacked
from int8_network import network

from ndtool.errors import InputError, NdError, UnsupportedError
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import DType, FullyConnected, Graph, Reshape, StridedSlice
from ndtool.export.int8.reference import run_graph
from ndtool.export.tflite import flatbuffer
from ndtool.export.tflite.lint import lint
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite
from ndtool.types import Converter

Change = Callable[[fb.ModelT], object]


def as_written(graph: Graph) -> Graph:
    """The graph as the file keeps it: without bias scales that no kernel reads."""
    (op,) = graph.ops
    bias = getattr(op, "bias", None)
    if bias is None or (isinstance(op, FullyConnected) and derive.is_per_tensor_fc(graph, op)):
        return graph
    bare = replace(graph.tensor(bias), scales=(), zero_points=())
    tensors = tuple(bare if i == bias else t for i, t in enumerate(graph.tensors))
    return replace(graph, tensors=tensors)


@pytest.mark.parametrize("name", single_op.CASES)
def test_reading_gives_the_graph_that_was_written(name: str) -> None:
    for number in range(25):
        graph = single_op.CASES[name](np.random.default_rng([5, number]))
        assert read_tflite(write_tflite(graph, description="r")) == as_written(graph)


def changed(change: Change, graph: Graph | None = None) -> bytes:
    """A file after `change`, through the schema's own object API."""
    model = unpacked(graph or network())
    change(model)
    return packed(model)


def set_all(model: fb.ModelT, **fields: object) -> None:
    for tensor in model.subgraphs[0].tensors:
        for name, value in fields.items():
            setattr(tensor, name, value)


def habits_of_tensorflow(model: fb.ModelT) -> None:
    """Metadata, a signature, codes in both fields, one zero point, bias along dimension 3."""
    metadata = fb.MetadataT()
    metadata.name, metadata.buffer = "min_runtime_version", len(model.buffers)
    buffer = fb.BufferT()
    buffer.data = list(b"1.14.0")
    model.buffers.append(buffer)
    model.metadata = [metadata]
    entry = fb.TensorMapT()
    entry.name, entry.tensorIndex = "x", model.subgraphs[0].inputs[0]
    signature = fb.SignatureDefT()
    signature.signatureKey, signature.inputs, signature.outputs = "serving_default", [entry], []
    model.signatureDefs = [signature]
    for tensor in model.subgraphs[0].tensors:
        if tensor.quantization is not None and len(tensor.quantization.scale) > 1:
            tensor.quantization.zeroPoint = [0]
        tensor.shapeSignature = [-1, *tensor.shape[1:]]
        if tensor.type == fb.TensorType.INT32 and len(tensor.shape) == 1 and tensor.shape[0] == 6:
            tensor.quantization = fb.QuantizationParametersT()
            tensor.quantization.quantizedDimension = 3


def test_habits_of_other_converters_do_not_change_the_graph() -> None:
    plain = read_tflite(write_tflite(network(), description="original"))
    assert read_tflite(changed(habits_of_tensorflow)) == plain


def test_old_files_have_the_operator_code_in_the_old_field_only() -> None:
    def old(model: fb.ModelT) -> None:
        for code in model.operatorCodes:
            code.builtinCode = 0

    assert len(read_tflite(changed(old)).ops) == len(network().ops)


def test_reshape_without_its_second_input_takes_the_declared_shape() -> None:
    graph = next(
        g
        for n in range(20)
        if (g := single_op.reshape(np.random.default_rng(n))).ops[0].shape_id is not None
    )

    def shorten(model: fb.ModelT) -> None:
        model.subgraphs[0].operators[0].inputs = model.subgraphs[0].operators[0].inputs[:1]

    (op,) = read_tflite(changed(shorten, graph)).ops
    assert isinstance(op, Reshape)
    assert op.shape_id is None


# ------------------------------------------------------------------------------ what is refused


def opcode(builtin: int, custom: str | None = None) -> Change:
    def change(model: fb.ModelT) -> None:
        code = model.operatorCodes[0]
        code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
        code.customCode = custom

    return change


def options(**fields: object) -> Change:
    def change(model: fb.ModelT) -> None:
        for name, value in fields.items():
            setattr(model.subgraphs[0].operators[0].builtinOptions, name, value)

    return change


def operator(**fields: object) -> Change:
    def change(model: fb.ModelT) -> None:
        for name, value in fields.items():
            setattr(model.subgraphs[0].operators[0], name, value)

    return change


def first_tensor(**fields: object) -> Change:
    def change(model: fb.ModelT) -> None:
        for name, value in fields.items():
            setattr(model.subgraphs[0].tensors[0], name, value)

    return change


def second_subgraph(model: fb.ModelT) -> None:
    model.subgraphs.append(model.subgraphs[0])


def outside(model: fb.ModelT) -> None:
    model.buffers[1].offset, model.buffers[1].size = 64, 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (opcode(fb.BuiltinOperator.TRANSPOSE), "op 0 TRANSPOSE"),
        (opcode(fb.BuiltinOperator.CUSTOM, "FlexErf\x07"), "custom operator 'FlexErf\\x07'"),
        (opcode(9999), "op 0 operator 9999"),
        (operator(inputs=[0]), "1 inputs and 1 outputs"),
        (operator(outputs=[]), "3 inputs and 0 outputs"),
        (operator(inputs=[0, 1, 4000]), "tensors [4000] of"),
        (operator(inputs=[0, -7, 2]), "tensors [0, -7], 3 of"),
        (operator(inputs=[0, -1, 2]), "tensors [0, -1], 3 of"),
        (operator(builtinOptionsType=fb.BuiltinOptions.PadOptions), "another operator's options"),
        (options(fusedActivationFunction=fb.ActivationFunctionType.TANH), "activation TANH"),
        (options(fusedActivationFunction=99), "activation 99"),
        (options(padding=7), "padding 7"),
        (options(strideH=0), "stride 0, dilation 1 of a kernel of 3"),
        (first_tensor(type=fb.TensorType.FLOAT32), "type float32, not int8 or int32"),
        (first_tensor(type=fb.TensorType.INT64), "type int64, not int8 or int32"),
        (first_tensor(type=77), "type type 77"),
        (first_tensor(shape=[1] * 6), "6 dimensions"),
        (first_tensor(shape=[1, -1, 8, 3]), "shape [1, -1, 8, 3]"),
        (first_tensor(isVariable=True), "a variable tensor"),
        (first_tensor(sparsity=fb.SparsityParametersT()), "a sparse tensor"),
        (second_subgraph, "2 subgraphs"),
        (outside, "data outside the flatbuffer"),
    ],
)
def test_what_the_graph_cannot_hold_is_refused_by_name(change: Change, words: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_tflite(changed(change), where="their.tflite")
    lines = [str(e) for e in (caught.value, *caught.value.more)]
    assert any(words in line for line in lines), lines
    assert all("their.tflite" in line for line in lines)


def test_all_unsupported_parts_are_named_at_once() -> None:
    def floats(model: fb.ModelT) -> None:
        set_all(model, type=fb.TensorType.FLOAT32)
        opcode(fb.BuiltinOperator.SQRT)(model)

    with pytest.raises(UnsupportedError) as caught:
        read_tflite(changed(floats))
    codes = [e.code for e in (caught.value, *caught.value.more)]
    assert codes.count("tflite.tensor") == len(network().tensors)
    assert codes.count("tflite.operator") >= 1
    assert "type float32" in caught.value.what


def dynamic_batch(model: fb.ModelT) -> None:
    model.subgraphs[0].tensors[0].shapeSignature = [-1, 8, 8, 3]
    opcode(fb.BuiltinOperator.SQRT)(model)


def dynamic_height(model: fb.ModelT) -> None:
    model.subgraphs[0].tensors[0].shapeSignature = [1, -1, 8, 3]
    opcode(fb.BuiltinOperator.SQRT)(model)


EXPORT, FIX_BATCH = "export an int8 model", "convert with a fixed batch of 1"


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (opcode(fb.BuiltinOperator.SQRT), EXPORT),
        (dynamic_height, EXPORT),
        (dynamic_batch, FIX_BATCH),
        (opcode(fb.BuiltinOperator.SHAPE), FIX_BATCH),
        (opcode(fb.BuiltinOperator.PACK), FIX_BATCH),
    ],
)
def test_a_refused_operator_comes_with_a_remedy(change: Change, remedy: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_tflite(changed(change))
    found = [e for e in (caught.value, *caught.value.more) if e.code == "tflite.operator"]
    assert found
    assert all("ndtool codegen --list-ops" in e.remedy for e in found)
    assert all(e.remedy.startswith(remedy) for e in found)


def constant(position: int, *values: int) -> Change:
    """Another int32 constant as operand `position` of the only operator."""

    def change(model: fb.ModelT) -> None:
        graph = model.subgraphs[0]
        tensor, buffer = fb.TensorT(), fb.BufferT()
        tensor.name, tensor.shape, tensor.type = "new", [len(values)], fb.TensorType.INT32
        tensor.buffer = len(model.buffers)
        buffer.data = list(np.array(values, "<i4").tobytes())
        model.buffers.append(buffer)
        graph.tensors.append(tensor)
        operands = list(graph.operators[0].inputs)
        operands[position] = len(graph.tensors) - 1
        graph.operators[0].inputs = operands

    return change


def shape_of(role: str, shape: list[int]) -> Change:
    """Another shape for the first input or output of the only operator."""

    def change(model: fb.ModelT) -> None:
        numbers = getattr(model.subgraphs[0].operators[0], role)
        model.subgraphs[0].tensors[numbers[0]].shape = shape

    return change


def both(*changes: Change) -> Change:
    def change(model: fb.ModelT) -> None:
        for each in changes:
            each(model)

    return change


def long_shape(model: fb.ModelT) -> None:
    """The product of the paddings' shape has two million digits."""
    paddings = model.subgraphs[0].operators[0].inputs[1]
    model.subgraphs[0].tensors[paddings].shape = np.full(250_000, 2**31 - 1, np.int32)


def example(name: str) -> Graph:
    """A case of rank 4, of two parts, without shrunk axes."""
    for number in range(1000):
        graph = single_op.CASES[name](np.random.default_rng([9, number]))
        op = graph.ops[0]
        parts = len(getattr(op, "outs", (0, 0)))
        plain = not isinstance(op, StridedSlice) or len(graph.tensor(op.out).shape) == 4
        if len(graph.tensor(op.x).shape) == 4 and parts == 2 and plain:
            return graph
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("SQUEEZE", options(squeezeDims=[4]), "dimensions [4] of"),
        ("SQUEEZE", options(squeezeDims=[-5]), "dimensions [-5] of"),
        ("SQUEEZE", options(squeezeDims=[0] * 6), "are not all 1"),
        ("SQUEEZE", both(shape_of("inputs", [1, 2, 1, 3]), options(squeezeDims=[1])), "not all 1"),
        ("SQUEEZE", options(squeezeDims=[]), "gives shape"),
        ("SPLIT", options(numSplits=3), "2 outputs, the options say 3"),
        ("SPLIT", operator(outputs=[]), "2 inputs and 0 outputs"),
        ("SPLIT", operator(outputs=[0] * 300), "2 inputs and 300 outputs"),
        ("SPLIT", operator(outputs=[2, 400]), "2, 400 of 4"),
        ("SPLIT", constant(0, 1, 2), "2 axes, not one"),
        ("SPLIT", constant(0, 7), "axis 7 of a rank 4 tensor"),
        ("SPLIT", constant(0, 0), "axis 0 of a rank 4 tensor, batch excluded"),
        ("SPLIT", operator(inputs=[0, 0]), "axes are not an int32 constant"),
        ("STRIDED_SLICE", options(ellipsisMask=1), "an ellipsis or new-axis mask"),
        ("STRIDED_SLICE", options(newAxisMask=2), "an ellipsis or new-axis mask"),
        ("STRIDED_SLICE", options(offset=True), "ends relative to begins"),
        ("STRIDED_SLICE", constant(1, 0, 0), "2 begins, 4 ends and 4 strides for 4 dimensions"),
        ("STRIDED_SLICE", constant(3, 1, 1, 0, 1), "a stride of 0"),
        ("STRIDED_SLICE", constant(1, 0, 99, 0, 0), "nothing is taken of dimension"),
        (
            "STRIDED_SLICE",
            both(constant(3, 1, 1, 1, -1), options(shrinkAxisMask=8)),
            "nothing is taken of dimension 3",
        ),
        (
            "STRIDED_SLICE",
            both(
                *(constant(i, *values) for i, values in ((1, [0] * 4), (2, [1] * 4), (3, [1] * 4))),
                options(shrinkAxisMask=2),
            ),
            "gives shape [1, 1, 1], declared",
        ),
        ("STRIDED_SLICE", operator(inputs=[0, 0, 0, 0]), "begins are not an int32 constant"),
        ("RESIZE_NEAREST_NEIGHBOR", constant(1, 3), "a size of [3], not (height, width)"),
        ("RESIZE_NEAREST_NEIGHBOR", constant(1, 3, -1), "a size of [3, -1], not"),
        ("RESIZE_NEAREST_NEIGHBOR", constant(1, 41, 41), "gives shape [1, 41, 41"),
        ("RESIZE_NEAREST_NEIGHBOR", operator(inputs=[0, 0]), "not an int32 constant"),
        ("PAD", long_shape, "paddings are not 1 to 10 values"),
    ],
)
def test_what_operators_that_move_bytes_cannot_do(name: str, change: Change, words: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_tflite(changed(change, example(name)), where="their.tflite")
    lines = [str(e) for e in (caught.value, *caught.value.more)]
    assert any(words in line and "op 0" in line for line in lines), lines


def test_masks_are_resolved_when_a_slice_is_read() -> None:
    """x[:, -2:, ::-1, 1] of (1, 5, 4, 3)."""
    b = single_op.Builder()
    x = b.activation((1, 5, 4, 3), (1, 0))
    plain = StridedSlice(
        x=x,
        constants=(b.int32([7, -2, 9, 1]), b.int32([0, 1, 7, 0]), b.int32([1, 1, -1, 5])),
        out=b.activation((1, 2, 4), (1, 0)),
        begin=(0, 3, 3, 1),
        strides=(1, 1, -1, 1),
        sizes=(1, 2, 4, 1),
    )
    graph = b.graph(plain, x)
    masks = unpacked(graph).subgraphs[0].operators[0].builtinOptions
    assert (masks.beginMask, masks.endMask, masks.shrinkAxisMask) == (0b0001, 0b0111, 0b1000)
    assert read_tflite(write_tflite(graph, description="")) == graph
    data = np.arange(60).astype(np.int8).reshape(1, 5, 4, 3)
    assert np.array_equal(run_graph(graph, data)[0], data[:, -2:, ::-1, 1])


def test_too_many_ends_are_refused() -> None:
    def many(model: fb.ModelT) -> None:
        model.subgraphs[0].outputs = np.zeros(1_000_000, np.int32)

    with pytest.raises(UnsupportedError, match="1 inputs and 1000000 outputs, at most 64"):
        read_tflite(changed(many))


def grouped(model: fb.ModelT) -> None:
    """Twice the input channels that the weights have."""
    entry = model.subgraphs[0].tensors[0]
    entry.shape = [*entry.shape[:3], 2 * entry.shape[3]]


def weight_zero_point(model: fb.ModelT) -> None:
    found = model.subgraphs[0].tensors[1].quantization
    found.zeroPoint = [3] * len(found.scale)


@pytest.mark.parametrize(
    ("change", "words", "remedy"),
    [
        (grouped, "a convolution of 2 groups of 3 input channels", "use SPLIT, one CONV_2D"),
        (weight_zero_point, "weights with zero point 3, not 0", "symmetric weights"),
    ],
)
def test_what_tflm_computes_otherwise_is_refused_with_a_remedy(
    change: Change, words: str, remedy: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_tflite(changed(change), where="their.tflite")
    lines = [str(e) for e in (caught.value, *caught.value.more)]
    assert any(words in line and "op 0 CONV_2D" in line and remedy in line for line in lines), lines


def metadata_without_paddings(graph: Graph) -> Change:
    def change(model: fb.ModelT) -> None:
        model.subgraphs[0].tensors[graph.ops[0].paddings_id].buffer = 0

    return change


def test_paddings_and_axes_must_be_constants() -> None:
    graph = single_op.pad(np.random.default_rng(0))
    with pytest.raises(UnsupportedError, match="paddings are not an int32 constant"):
        read_tflite(changed(metadata_without_paddings(graph), graph))


# -------------------------------------------------------------------------------- hostile bytes


GOOD = write_tflite(network(), description="good")


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0" * 64, GOOD[:8], b"PK\x03\x04" + GOOD[4:]])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        read_tflite(data, where="x.tflite")
    assert caught.value.code == "tflite.malformed"


def test_every_truncation_is_refused_or_harmless() -> None:
    for size in range(0, len(GOOD), 7):
        with pytest.raises(InputError):
            read_tflite(GOOD[:size])


def judge(data: bytes) -> bool:
    """Read and lint: a legal graph is run, anything else must be an NdError."""
    try:
        lint(data, None, converter=Converter.NATIVE)
        graph = read_tflite(data)
    except NdError:
        return False
    if max(t.elements for t in graph.tensors) < 100_000:
        inputs = [np.zeros(graph.tensor(t).shape, np.int8) for t in graph.inputs]
        run_graph(graph, *inputs)
    return True


EXTREMES = (0, 1, 2, 4, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(rnd: random.Random) -> bytes:
    data = bytearray(GOOD)
    for _ in range(rnd.choice([1, 1, 2, 5])):
        at = rnd.randrange(len(data))
        if rnd.random() < 0.5:
            data[at] = rnd.randrange(256)
        else:
            at = at // 4 * 4
            word = rnd.choice(EXTREMES) if rnd.random() < 0.7 else rnd.randrange(len(data))
            data[at : at + 4] = struct.pack("<I", word)[: len(data) - at]
    return bytes(data[: rnd.randrange(len(data))] if rnd.random() < 0.1 else data)


@pytest.mark.parametrize("part", range(8))
def test_mutated_files_give_a_graph_or_an_error_of_ours(part: int) -> None:
    rnd = random.Random(part)
    outcomes = [judge(mutated(rnd)) for _ in range(250)]
    assert 20 < sum(outcomes) < 230


def test_a_vector_named_a_thousand_times_does_not_multiply() -> None:
    """Every tensor table of the file is the same one, with 100,000 scales."""

    def many(model: fb.ModelT) -> None:
        big = model.subgraphs[0].tensors[1].quantization
        big.scale, big.zeroPoint = [1.0] * 100_000, [0] * 100_000

    data = bytearray(changed(many))
    root = struct.unpack_from("<I", data, 0)[0]
    table = flatbuffer.Table(flatbuffer.FlatBuffer(bytes(data), "test"), root)
    (graph,) = table.tables(2, 1)
    start, count = graph.vector(0, 4) or (0, 0)
    big = start + 4 + struct.unpack_from("<I", data, start + 4)[0]
    for i in range(count):  # all tensors become that one
        struct.pack_into("<I", data, start + 4 * i, big - (start + 4 * i))
    data += bytes(4 * 16_000)
    before = time.process_time()
    with pytest.raises(NdError):
        read_tflite(bytes(data))
    assert time.process_time() - before < 5


def test_lists_of_tables_are_bounded() -> None:
    buffer = flatbuffers.Builder(1024)
    fb.BufferStart(buffer)
    one = fb.BufferEnd(buffer)
    fb.ModelStartBuffersVector(buffer, 20_000)
    for _ in range(20_000):
        buffer.PrependUOffsetTRelative(one)
    buffers = buffer.EndVector()
    fb.SubGraphStart(buffer)
    graph = fb.SubGraphEnd(buffer)
    fb.ModelStartSubgraphsVector(buffer, 1)
    buffer.PrependUOffsetTRelative(graph)
    graphs = buffer.EndVector()
    fb.ModelStart(buffer)
    fb.ModelAddVersion(buffer, 3)
    fb.ModelAddSubgraphs(buffer, graphs)
    fb.ModelAddBuffers(buffer, buffers)
    buffer.Finish(fb.ModelEnd(buffer), file_identifier=b"TFL3")
    with pytest.raises(InputError, match="20000 tables in one vector"):
        read_tflite(bytes(buffer.Output()))


def test_files_beyond_any_microcontroller_are_refused_unread() -> None:
    with pytest.raises(InputError, match="at most"):
        flatbuffer.FlatBuffer(bytes(flatbuffer.MAX_FILE_BYTES + 1), "big")


def test_names_that_are_not_text_are_read() -> None:
    data = changed(first_tensor(name="\ud800".encode("utf-8", "surrogatepass")))
    assert read_tflite(data).tensors[0].dtype is DType.INT8
