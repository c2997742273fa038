"""Gives an int8 .tflite float inputs and outputs, as converters that are not told otherwise do."""

import flatbuffers
from ai_edge_litert import schema_py_generated as fb

from ndtool.export.int8.ir import Graph
from ndtool.export.tflite.writer import write_tflite

OP = fb.BuiltinOperator


def packed(model: fb.ModelT) -> bytes:
    """The file of an object-API model."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def unpacked(graph: Graph) -> fb.ModelT:
    """The object-API model of a graph."""
    return fb.ModelT.InitFromPackedBuf(write_tflite(graph, description="original"), 0)


def float_like(model: fb.ModelT, tensor: int) -> int:
    """A new float tensor of that one's shape."""
    made = fb.TensorT()
    made.name, made.type = f"float {tensor}", fb.TensorType.FLOAT32
    made.shape = model.subgraphs[0].tensors[tensor].shape
    model.subgraphs[0].tensors.append(made)
    return len(model.subgraphs[0].tensors) - 1


def operator(model: fb.ModelT, builtin: int, x: int, out: int) -> fb.OperatorT:
    """A new operator of one input and one output, which is not in the graph yet."""
    code = fb.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = 1
    model.operatorCodes.append(code)
    made = fb.OperatorT()
    made.opcodeIndex = len(model.operatorCodes) - 1
    made.inputs, made.outputs = [x], [out]
    return made


def add_float_inputs(model: fb.ModelT) -> None:
    """A QUANTIZE before each input."""
    graph, floats = model.subgraphs[0], []
    for tensor in graph.inputs:
        floats.append(float_like(model, tensor))
        graph.operators.insert(0, operator(model, OP.QUANTIZE, floats[-1], tensor))
    graph.inputs = floats


def add_float_outputs(model: fb.ModelT) -> None:
    """A DEQUANTIZE after each output."""
    graph, floats = model.subgraphs[0], []
    for tensor in graph.outputs:
        floats.append(float_like(model, tensor))
        graph.operators.append(operator(model, OP.DEQUANTIZE, tensor, floats[-1]))
    graph.outputs = floats


def with_float_ends(graph: Graph) -> bytes:
    """The file of `graph` with float inputs and outputs."""
    model = unpacked(graph)
    add_float_inputs(model)
    add_float_outputs(model)
    return packed(model)
