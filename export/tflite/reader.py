"""A .tflite of unknown origin -> verified int8 graph.

Tensor numbers stay the file's. What the graph cannot hold (operators, types, options) is refused
by name, all of it at once; what the file has beside the graph (metadata, signatures, operator
versions) is `lint`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from ndtool.console import visible
from ndtool.errors import UnsupportedError, raise_all
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    Mean,
    Op,
    Pad,
    PaddingKind,
    Pool2D,
    Reshape,
    Softmax,
    Tensor,
    TensorId,
    Unary,
    UnaryKind,
)
from ndtool.export.int8.spec import MAX_RANK, verify
from ndtool.export.tflite.flatbuffer import Table
from ndtool.export.tflite.parse import FileModel, FileOp, FileTensor, parse_tflite
from ndtool.export.tflite.schema import enum_names, load_schema

_DTYPES: Final = {dtype.value: dtype for dtype in DType}
_ACTIVATIONS: Final = {act.value: act for act in Activation}
_PADDINGS: Final = {kind.value: kind for kind in PaddingKind}
ABSENT: Final = -1  # number of an operand that is left out


def read_tflite(data: bytes, *, where: str = ".tflite file") -> Graph:
    """The graph of an int8 model; it has passed `spec.verify`.

    Raises:
        InputError: not a TFLite file, truncated or out of its own bounds.
        UnsupportedError: names every operator, tensor and attribute that cannot be taken.
    """
    model = parse_tflite(data, where=where)
    graph, problems = build_graph(model, where=where)
    raise_all(problems)
    verify(graph, where=where)
    return graph


def build_graph(model: FileModel, *, where: str) -> tuple[Graph, list[UnsupportedError]]:
    """The graph, and what of the file it could not take; with problems the graph is incomplete."""
    schema = load_schema()
    types = enum_names(schema.TensorType)
    problems = [
        _refusal(text, where=f"{where}, tensor {i} '{visible(tensor.name)}'", code="tensor")
        for i, tensor in enumerate(model.tensors)
        for text in _tensor_refusals(model, tensor, types)
    ]
    if model.subgraphs != 1:
        problems.append(_refusal(f"{model.subgraphs} subgraphs, not one", where, "subgraphs"))
    tensors = tuple(_tensor(model, tensor, types) for tensor in model.tensors)
    ops: list[Op] = []
    for index, file_op in enumerate(model.ops):
        name = operator_name(schema, file_op.opcode.builtin, file_op.opcode.custom)
        try:
            ops.append(_convert(schema, name, file_op, tensors))
        except _Refusal as refusal:
            place = f"{where}, op {index} {visible(name)}{_output_name(file_op, tensors)}"
            problems.append(_refusal(str(refusal), where=place, code="operator"))
    graph = Graph(
        tensors=tensors,
        ops=tuple(ops),
        inputs=tuple(map(TensorId, model.inputs)),
        outputs=tuple(map(TensorId, model.outputs)),
    )
    return graph, problems


def operator_name(schema: ModuleType, builtin: int, custom: str) -> str:
    """The operator's name in the schema; a custom one's own name."""
    if builtin == schema.BuiltinOperator.CUSTOM:
        return f"custom operator '{visible(custom)}'"
    return enum_names(schema.BuiltinOperator).get(builtin, f"operator {builtin}")


def _refusal(what: str, where: str, code: str) -> UnsupportedError:
    remedy = "export an int8 model of supported operations"
    return UnsupportedError(what, where=where, remedy=remedy, code=f"tflite.{code}")


def _output_name(op: FileOp, tensors: tuple[Tensor, ...]) -> str:
    named = [o for o in op.outputs[:1] if 0 <= o < len(tensors)]
    return "".join(f", output tensor {o} '{visible(tensors[o].name)}'" for o in named)


# ------------------------------------------------------------------------------------- tensors


def _tensor_refusals(model: FileModel, tensor: FileTensor, types: Mapping[int, str]) -> list[str]:
    name = types.get(tensor.type_code, f"type {tensor.type_code}").lower()
    checks = (
        (name in _DTYPES, f"type {name}, not int8 or int32"),
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


# ----------------------------------------------------------------------------------- operators


class _Refusal(Exception):
    """Why one operator cannot be taken."""


@dataclass(frozen=True, slots=True)
class _Source:
    """One operator of the file and what is needed to read it."""

    schema: ModuleType
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    out: TensorId
    options: Table

    def x(self, position: int = 0) -> TensorId:
        """The operand at `position`."""
        return TensorId(self.inputs[position])

    def optional(self, position: int) -> TensorId | None:
        """The operand at `position`, or None where it is left out."""
        if len(self.inputs) <= position or self.inputs[position] == ABSENT:
            return None
        return TensorId(self.inputs[position])

    def int32_constant(self, position: int, what: str) -> list[int]:
        """Values of a small int32 constant operand."""
        tensor = self.tensors[self.inputs[position]]
        if tensor.dtype is not DType.INT32 or tensor.data is None:
            raise _Refusal(f"{what} are not an int32 constant")
        limit = 2 * MAX_RANK
        if not 0 < tensor.elements <= limit or len(tensor.data) != 4 * tensor.elements:
            raise _Refusal(f"{what} are not 1 to {limit} values")
        return [int(v) for v in derive.int32_values(tensor).ravel()]

    def activation(self, slot: int) -> Activation:
        """The fused activation in option `slot`."""
        code = self.options.int8(slot)
        name = enum_names(self.schema.ActivationFunctionType).get(code, str(code))
        if name not in _ACTIVATIONS:
            raise _Refusal(f"fused activation {name}")
        return _ACTIVATIONS[name]

    def padding(self) -> PaddingKind:
        """The padding scheme: slot 0 of every operator that has one."""
        code = self.options.int8(0)
        name = enum_names(self.schema.Padding).get(code, "")
        if name not in _PADDINGS:
            raise _Refusal(f"padding {code}")
        return _PADDINGS[name]

    def pair(self, height_slot: int, width_slot: int, default: int = 0) -> tuple[int, int]:
        """(height, width) of two int32 options."""
        return self.options.int32(height_slot, default), self.options.int32(width_slot, default)


def _convert(schema: ModuleType, name: str, op: FileOp, tensors: tuple[Tensor, ...]) -> Op:
    if name not in _OPERATORS:
        raise _Refusal("this operator is not supported")
    rule = _OPERATORS[name]
    least, most = rule.inputs
    if not least <= len(op.inputs) <= most or len(op.outputs) != 1:
        raise _Refusal(f"{len(op.inputs)} inputs and {len(op.outputs)} outputs")
    numbers = range(len(tensors))
    if any(t not in numbers for t in (*op.inputs[:least], op.outputs[0])):
        raise _Refusal(f"tensors {list(op.inputs[:least])}, {op.outputs[0]} of {len(tensors)}")
    if any(t not in numbers and t != ABSENT for t in op.inputs[least:]):
        raise _Refusal(f"tensors {list(op.inputs[least : least + 8])} of {len(tensors)}")
    if op.options_type not in (0, getattr(schema.BuiltinOptions, rule.options, 0)):
        raise _Refusal("it has another operator's options")
    source = _Source(schema, tensors, op.inputs, TensorId(op.outputs[0]), op.options)
    return rule.convert(source)


# Slots below are the fields' positions in schema.fbs.


def _conv(source: _Source) -> Op:
    return Conv2D(
        x=source.x(),
        weight=source.x(1),
        bias=source.optional(2),
        out=source.out,
        padding=source.padding(),
        stride=source.pair(2, 1),
        act=source.activation(3),
        dilation=source.pair(5, 4, default=1),
    )


def _depthwise(source: _Source) -> Op:
    return DepthwiseConv2D(
        x=source.x(),
        weight=source.x(1),
        bias=source.optional(2),
        out=source.out,
        padding=source.padding(),
        stride=source.pair(2, 1),
        multiplier=source.options.int32(3),
        act=source.activation(4),
        dilation=source.pair(6, 5, default=1),
    )


def _fully_connected(source: _Source) -> Op:
    if source.options.int8(1) != source.schema.FullyConnectedOptionsWeightsFormat.DEFAULT:
        raise _Refusal("shuffled weights")
    return FullyConnected(
        x=source.x(),
        weight=source.x(1),
        bias=source.optional(2),
        out=source.out,
        act=source.activation(0),
        keep_num_dims=source.options.int8(2) != 0,
    )


def _binary(kind: BinaryKind) -> Callable[[_Source], Op]:
    def convert(source: _Source) -> Op:
        return Binary(
            kind=kind, a=source.x(), b=source.x(1), out=source.out, act=source.activation(0)
        )

    return convert


def _average_pool(source: _Source) -> Op:
    return _pool(source, is_max=False)


def _max_pool(source: _Source) -> Op:
    return _pool(source, is_max=True)


def _pool(source: _Source, *, is_max: bool) -> Op:
    return Pool2D(
        is_max=is_max,
        x=source.x(),
        out=source.out,
        padding=source.padding(),
        stride=source.pair(2, 1),
        kernel=source.pair(4, 3),
        act=source.activation(5),
    )


def _mean(source: _Source) -> Op:
    rank = len(source.tensors[source.x()].shape)
    axes = source.int32_constant(1, "axes")
    return Mean(
        x=source.x(),
        axes_id=source.x(1),
        out=source.out,
        axes=tuple(sorted({a + rank if a < 0 else a for a in axes})),
        keep_dims=source.options.int8(0) != 0,
    )


def _pad(source: _Source) -> Op:
    flat = source.int32_constant(1, "paddings")
    if len(flat) % 2:
        raise _Refusal(f"{len(flat)} paddings")
    pairs = tuple(zip(flat[::2], flat[1::2], strict=True))
    return Pad(x=source.x(), paddings_id=source.x(1), out=source.out, paddings=pairs)


def _reshape(source: _Source) -> Op:
    return Reshape(x=source.x(), shape_id=source.optional(1), out=source.out)


def _concat(source: _Source) -> Op:
    if source.activation(1) is not Activation.NONE:
        raise _Refusal("a fused activation, which TFLM refuses")
    axis, rank = source.options.int32(0), len(source.tensors[source.out].shape)
    return Concat(
        xs=tuple(map(TensorId, source.inputs)),
        out=source.out,
        axis=axis + rank if axis < 0 else axis,
    )


def _softmax(source: _Source) -> Op:
    return Softmax(x=source.x(), out=source.out, beta=source.options.float32(0))


def _leaky_relu(source: _Source) -> Op:
    alpha = source.options.float32(0)
    return Unary(kind=UnaryKind.LEAKY_RELU, x=source.x(), out=source.out, alpha=alpha)


def _unary(kind: UnaryKind) -> Callable[[_Source], Op]:
    return lambda source: Unary(kind=kind, x=source.x(), out=source.out)


@dataclass(frozen=True, slots=True)
class _Rule:
    """How one operator is read: least and most inputs, its options' type in the schema."""

    inputs: tuple[int, int]
    options: str
    convert: Callable[[_Source], Op]


_OPERATORS: Final[Mapping[str, _Rule]] = {
    "CONV_2D": _Rule((2, 3), "Conv2DOptions", _conv),
    "DEPTHWISE_CONV_2D": _Rule((2, 3), "DepthwiseConv2DOptions", _depthwise),
    "FULLY_CONNECTED": _Rule((2, 3), "FullyConnectedOptions", _fully_connected),
    "ADD": _Rule((2, 2), "AddOptions", _binary(BinaryKind.ADD)),
    "SUB": _Rule((2, 2), "SubOptions", _binary(BinaryKind.SUB)),
    "MUL": _Rule((2, 2), "MulOptions", _binary(BinaryKind.MUL)),
    "AVERAGE_POOL_2D": _Rule((1, 1), "Pool2DOptions", _average_pool),
    "MAX_POOL_2D": _Rule((1, 1), "Pool2DOptions", _max_pool),
    "MEAN": _Rule((2, 2), "ReducerOptions", _mean),
    "PAD": _Rule((2, 2), "PadOptions", _pad),
    "RESHAPE": _Rule((1, 2), "ReshapeOptions", _reshape),
    "CONCATENATION": _Rule((1, 10), "ConcatenationOptions", _concat),
    "SOFTMAX": _Rule((1, 1), "SoftmaxOptions", _softmax),
    "LEAKY_RELU": _Rule((1, 1), "LeakyReluOptions", _leaky_relu),
    "HARD_SWISH": _Rule((1, 1), "HardSwishOptions", _unary(UnaryKind.HARD_SWISH)),
    "LOGISTIC": _Rule((1, 1), "", _unary(UnaryKind.LOGISTIC)),
    "TANH": _Rule((1, 1), "", _unary(UnaryKind.TANH)),
    "RELU": _Rule((1, 1), "", _unary(UnaryKind.RELU)),
    "RELU6": _Rule((1, 1), "", _unary(UnaryKind.RELU6)),
    "QUANTIZE": _Rule((1, 1), "QuantizeOptions", _unary(UnaryKind.QUANTIZE)),
}
