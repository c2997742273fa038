"""A .tflite of unknown origin -> verified int8 graph.

Tensor numbers stay the file's. What the graph cannot hold (operators, types, options) is refused
by name, all of it at once; what the file has beside the graph (metadata, signatures, operator
versions) is `lint`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ndtool.console import visible
from ndtool.errors import UnsupportedError, raise_all
from ndtool.export.int8.ir import DType, Graph, Op, Tensor, TensorId
from ndtool.export.int8.rules.tensors import MAX_RANK
from ndtool.export.int8.spec import verify
from ndtool.export.tflite.boundary import find_boundary
from ndtool.export.tflite.operators import Refusal, convert_operator, operator_name
from ndtool.export.tflite.parse import FileModel, FileOp, FileTensor, parse_tflite
from ndtool.export.tflite.schema import enum_names, load_schema

MAX_ENDS: Final = 64  # inputs, and outputs: far above any network, and it bounds hostile files
_DTYPES: Final = {dtype.value: dtype for dtype in DType}
_REMEDIES: Final = {
    "tensor": "convert with int8 weights, activations, input and output",
    "operator": "export an int8 model of the operators in: ndtool codegen --list-ops",
    "batch": "convert with a fixed batch of 1; operators: ndtool codegen --list-ops",
    "subgraphs": "export a model of one graph, without control flow",
    "ends": "export a model of fewer inputs and outputs",
}
# What converters put in front of a reshape to find out the batch as the model runs.
_BATCH_OPERATORS: Final = frozenset({"SHAPE", "PACK"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadModel:
    """A file as an int8 graph, and what of the file the graph leaves out.

    `file_ops` has the number in the file of each op of the graph. `file_inputs` and `file_outputs`
    are the file's; where they are not the graph's, they are float, and the QUANTIZE or DEQUANTIZE
    between them and the graph is left out. The float tensors stay in `graph.tensors`, named by no
    operation and without meaning.
    """

    graph: Graph
    file_ops: tuple[int, ...]
    file_inputs: tuple[int, ...]
    file_outputs: tuple[int, ...]

    @property
    def has_float_ends(self) -> bool:
        """Whether the file itself takes or gives float."""
        ends = (self.graph.inputs, self.graph.outputs)
        return ends != (self.file_inputs, self.file_outputs)


def read_tflite(data: bytes, *, where: str = ".tflite file") -> Graph:
    """The graph of an int8 model: `read_model` for those who need no more."""
    return read_model(data, where=where).graph


def read_model(data: bytes, *, where: str = ".tflite file") -> ReadModel:
    """An int8 model; its graph has passed `spec.verify`.

    Raises:
        InputError: not a TFLite file, truncated or out of its own bounds.
        UnsupportedError: names every operator, tensor and attribute that cannot be taken.
    """
    model, problems = build_model(parse_tflite(data, where=where), where=where)
    raise_all(problems)
    verify(model.graph, where=where, file_ops=model.file_ops)
    return model


def build_model(model: FileModel, *, where: str) -> tuple[ReadModel, list[UnsupportedError]]:
    """The graph, and what of the file it could not take; with problems the graph is incomplete."""
    schema = load_schema()
    types = enum_names(schema.TensorType)
    problems: list[UnsupportedError] = []
    if model.subgraphs != 1:
        problems.append(_refusal(f"{model.subgraphs} subgraphs, not one", where, "subgraphs"))
    if max(len(model.inputs), len(model.outputs)) > MAX_ENDS:
        text = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs, at most {MAX_ENDS}"
        problems.append(_refusal(text, where, "ends"))
        empty = Graph(tensors=(), ops=(), inputs=(), outputs=())
        return ReadModel(graph=empty, file_ops=(), file_inputs=(), file_outputs=()), problems
    ends = find_boundary(schema, model)
    for i, tensor in enumerate(model.tensors):
        place = f"{where}, tensor {i} '{visible(tensor.name)}'"
        refused = _tensor_refusals(model, tensor, types, is_float_end=i in ends.floats)
        problems += [_refusal(text, place, "tensor") for text in refused]
    tensors = tuple(_tensor(model, tensor, types) for tensor in model.tensors)
    ops: list[Op] = []
    numbers: list[int] = []
    refusals: list[tuple[str, str, str]] = []  # operator, what, where
    for index, file_op in enumerate(model.ops):
        if index in ends.dropped:
            continue
        name = operator_name(schema, file_op)
        try:
            ops.append(convert_operator(schema, name, file_op, tensors))
            numbers.append(index)
        except Refusal as refusal:
            place = f"{where}, op {index} {visible(name)}{_output_name(file_op, tensors)}"
            refusals.append((name, str(refusal), place))
    open_batch = any(tensor.dynamic_batch for tensor in model.tensors)
    open_batch |= any(name in _BATCH_OPERATORS for name, _, _ in refusals)
    remedy = _REMEDIES["batch" if open_batch else "operator"]
    problems += [_refusal(what, place, "operator", remedy) for _, what, place in refusals]
    graph = Graph(
        tensors=tensors,
        ops=tuple(ops),
        inputs=tuple(map(TensorId, ends.inputs)),
        outputs=tuple(map(TensorId, ends.outputs)),
    )
    read = ReadModel(
        graph=graph,
        file_ops=tuple(numbers),
        file_inputs=model.inputs,
        file_outputs=model.outputs,
    )
    return read, problems


def _refusal(what: str, where: str, code: str, remedy: str = "") -> UnsupportedError:
    remedy = remedy or _REMEDIES[code]
    return UnsupportedError(what, where=where, remedy=remedy, code=f"tflite.{code}")


def _output_name(op: FileOp, tensors: tuple[Tensor, ...]) -> str:
    named = [o for o in op.outputs[:1] if 0 <= o < len(tensors)]
    return "".join(f", output tensor {o} '{visible(tensors[o].name)}'" for o in named)


def _tensor_refusals(
    model: FileModel, tensor: FileTensor, types: Mapping[int, str], *, is_float_end: bool
) -> list[str]:
    name = types.get(tensor.type_code, f"type {tensor.type_code}").lower()
    checks = (
        (is_float_end or name in _DTYPES, f"type {name}, not int8 or int32"),
        (len(tensor.shape) <= MAX_RANK, f"{len(tensor.shape)} dimensions, at most {MAX_RANK}"),
        (not tensor.variable, "a variable tensor"),
        (not tensor.sparse, "a sparse tensor"),
        (not tensor.custom_quantization, "a custom quantisation"),
        (not model.buffers[tensor.buffer].outside, "data outside the flatbuffer"),
    )
    return [text for good, text in checks if not good]


def _tensor(model: FileModel, tensor: FileTensor, types: Mapping[int, str]) -> Tensor:
    """As in the file, with TFLM's reading of what old converters left out."""
    name = types.get(tensor.type_code, "").lower()
    scales, zeros = tensor.scales, tensor.zero_points
    if not scales or not zeros:  # TFLM takes only both (micro_allocator.cc)
        scales, zeros = (), ()
    elif len(zeros) == 1:  # one for all scales
        zeros = zeros * len(scales)
    # a vector has only dimension 0, whatever old converters wrote for biases
    per_channel = len(scales) > 1 and len(tensor.shape) > 1
    return Tensor(
        name=tensor.name,
        shape=tensor.shape,
        dtype=_DTYPES.get(name, DType.INT8),
        scales=scales,
        zero_points=zeros,
        quantized_dim=tensor.quantized_dim if per_channel else 0,
        data=model.buffers[tensor.buffer].data or None,
    )
