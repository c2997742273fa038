"""One operator of a file -> one operation of the int8 graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from ndtool.console import visible
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
    Mean,
    Op,
    Pad,
    PaddingKind,
    Pool2D,
    Reshape,
    ResizeNearest,
    Softmax,
    Split,
    Squeeze,
    StridedSlice,
    Tensor,
    TensorId,
    Unary,
    UnaryKind,
)
from ndtool.export.int8.rules.movement import MAX_CONCAT
from ndtool.export.int8.rules.tensors import MAX_RANK
from ndtool.export.tflite.flatbuffer import Table
from ndtool.export.tflite.parse import FileOp
from ndtool.export.tflite.schema import enum_names

ABSENT: Final = -1  # number of an operand that is left out
MAX_PARTS: Final = 256  # of a SPLIT: far above any network, and it bounds hostile files
_ACTIVATIONS: Final = {act.value: act for act in Activation}
_PADDINGS: Final = {kind.value: kind for kind in PaddingKind}


class Refusal(Exception):
    """Why one operator cannot be taken."""


def operator_name(schema: ModuleType, op: FileOp) -> str:
    """The operator's name in the schema; a custom one's own name."""
    builtin = op.opcode.builtin
    if builtin == schema.BuiltinOperator.CUSTOM:
        return f"custom operator '{visible(op.opcode.custom)}'"
    return enum_names(schema.BuiltinOperator).get(builtin, f"operator {builtin}")


@dataclass(frozen=True, slots=True)
class _Source:
    """One operator of the file and what is needed to read it."""

    schema: ModuleType
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outs: tuple[TensorId, ...]
    options: Table

    @property
    def out(self) -> TensorId:
        """The only output of most operators."""
        return self.outs[0]

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
            raise Refusal(f"{what} are not an int32 constant")
        limit = 2 * MAX_RANK
        # a long hostile shape would make a product of millions of digits
        size = tensor.elements if len(tensor.shape) <= MAX_RANK else 0
        if not 0 < size <= limit or len(tensor.data) != 4 * size:
            raise Refusal(f"{what} are not 1 to {limit} values")
        return [int(v) for v in derive.int32_values(tensor).ravel()]

    def activation(self, slot: int) -> Activation:
        """The fused activation in option `slot`."""
        code = self.options.int8(slot)
        name = enum_names(self.schema.ActivationFunctionType).get(code, str(code))
        if name not in _ACTIVATIONS:
            raise Refusal(f"fused activation {name}")
        return _ACTIVATIONS[name]

    def padding(self) -> PaddingKind:
        """The padding scheme: slot 0 of every operator that has one."""
        code = self.options.int8(0)
        name = enum_names(self.schema.Padding).get(code, "")
        if name not in _PADDINGS:
            raise Refusal(f"padding {code}")
        return _PADDINGS[name]

    def pair(self, height_slot: int, width_slot: int, default: int = 0) -> tuple[int, int]:
        """(height, width) of two int32 options."""
        return self.options.int32(height_slot, default), self.options.int32(width_slot, default)


def convert_operator(schema: ModuleType, name: str, op: FileOp, tensors: tuple[Tensor, ...]) -> Op:
    """The operation that `op`, called `name`, is.

    Raises:
        Refusal: it is not supported, or its operands or options are not.
    """
    if name not in _OPERATORS:
        raise Refusal("this operator is not supported")
    rule = _OPERATORS[name]
    (least, most), (fewest, limit) = rule.inputs, rule.outputs
    if not least <= len(op.inputs) <= most or not fewest <= len(op.outputs) <= limit:
        raise Refusal(f"{len(op.inputs)} inputs and {len(op.outputs)} outputs")
    numbers = range(len(tensors))
    if any(t not in numbers for t in (*op.inputs[:least], *op.outputs)):
        listed = ", ".join(str(t) for t in op.outputs[:8])
        raise Refusal(f"tensors {list(op.inputs[:least])}, {listed} of {len(tensors)}")
    if any(t not in numbers and t != ABSENT for t in op.inputs[least:]):
        raise Refusal(f"tensors {list(op.inputs[least : least + 8])} of {len(tensors)}")
    if op.options_type not in (0, getattr(schema.BuiltinOptions, rule.options, 0)):
        raise Refusal("it has another operator's options")
    outs = tuple(map(TensorId, op.outputs))
    return rule.convert(_Source(schema, tensors, op.inputs, outs, op.options))


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
        raise Refusal("shuffled weights")
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
        raise Refusal(f"{len(flat)} paddings")
    pairs = tuple(zip(flat[::2], flat[1::2], strict=True))
    return Pad(x=source.x(), paddings_id=source.x(1), out=source.out, paddings=pairs)


def _reshape(source: _Source) -> Op:
    return Reshape(x=source.x(), shape_id=source.optional(1), out=source.out)


def _squeeze(source: _Source) -> Op:
    """Which dimensions go is said by the output's shape; what the options say must agree."""
    shape, out = (source.tensors[t].shape for t in (source.x(), source.out))
    listed = source.options.int32s(0) or ()
    rank = len(shape)
    if len(listed) > MAX_RANK or any(not -rank <= a < rank or shape[a] != 1 for a in listed):
        raise Refusal(f"dimensions {list(listed[:8])} of {list(shape[:8])} are not all 1")
    gone = {a % rank for a in listed} or {a for a, n in enumerate(shape) if n == 1}
    made = tuple(n for a, n in enumerate(shape) if a not in gone)
    if made != out:
        raise Refusal(f"gives shape {list(made[:8])}, declared {list(out[:8])}")
    return Squeeze(x=source.x(), out=source.out)


def _split(source: _Source) -> Op:
    rank = len(source.tensors[source.x(1)].shape)
    axes = source.int32_constant(0, "axes")
    if len(axes) != 1:
        raise Refusal(f"{len(axes)} axes, not one")
    parts = source.options.int32(0)
    if parts not in (0, len(source.outs)):
        raise Refusal(f"{len(source.outs)} outputs, the options say {parts}")
    axis = axes[0] + rank if axes[0] < 0 else axes[0]
    return Split(x=source.x(1), axis_id=source.x(0), outs=source.outs, axis=axis)


def _strided_slice(source: _Source) -> Op:
    """The masks resolved as TFLM's kernel does; what it would leave unwritten is refused."""
    begin_mask, end_mask, ellipsis, new_axis, shrink = map(source.options.int32, range(5))
    if ellipsis or new_axis:
        raise Refusal("an ellipsis or new-axis mask, which TFLM ignores")
    if source.options.int8(5):
        raise Refusal("ends relative to begins, which TFLM ignores")
    shape = source.tensors[source.x()].shape
    names = ("begins", "ends", "strides")
    begins, ends, strides = (source.int32_constant(i, n) for i, n in enumerate(names, start=1))
    if {len(begins), len(ends), len(strides)} != {len(shape)}:
        counts = f"{len(begins)} begins, {len(ends)} ends and {len(strides)} strides"
        raise Refusal(f"{counts} for {len(shape)} dimensions: TFLM reads one for each")
    if 0 in strides:
        raise Refusal("a stride of 0")
    axes = [
        derive.slice_axis(
            n,
            begins[i],
            ends[i],
            strides[i],
            from_first=bool(begin_mask >> i & 1),
            to_last=bool(end_mask >> i & 1),
            shrink=bool(shrink >> i & 1),
        )
        for i, n in enumerate(shape)
    ]
    for i, axis in enumerate(axes):
        if axis.size < 1:
            raise Refusal(f"nothing is taken of dimension {i} of {list(shape)}")
    declared = source.tensors[source.out].shape
    made = tuple(axis.size for i, axis in enumerate(axes) if not shrink >> i & 1)
    if made != declared:
        raise Refusal(f"gives shape {list(made)}, declared {list(declared[:8])}")
    return StridedSlice(
        x=source.x(),
        constants=(source.x(1), source.x(2), source.x(3)),
        out=source.out,
        begin=tuple(axis.begin for axis in axes),
        strides=tuple(axis.stride for axis in axes),
        sizes=tuple(axis.size for axis in axes),
    )


def _resize_nearest(source: _Source) -> Op:
    return ResizeNearest(
        x=source.x(),
        size_id=source.x(1),
        out=source.out,
        align_corners=source.options.int8(0) != 0,
        half_pixel_centers=source.options.int8(1) != 0,
    )


def _concat(source: _Source) -> Op:
    if source.activation(1) is not Activation.NONE:
        raise Refusal("a fused activation, which TFLM refuses")
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
    """How one operator is read: least and most operands, its options' type in the schema."""

    inputs: tuple[int, int]
    options: str
    convert: Callable[[_Source], Op]
    outputs: tuple[int, int] = (1, 1)


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
    "SQUEEZE": _Rule((1, 1), "SqueezeOptions", _squeeze),
    "SPLIT": _Rule((2, 2), "SplitOptions", _split, outputs=(1, MAX_PARTS)),
    "STRIDED_SLICE": _Rule((4, 4), "StridedSliceOptions", _strided_slice),
    "RESIZE_NEAREST_NEIGHBOR": _Rule((2, 2), "ResizeNearestNeighborOptions", _resize_nearest),
    "CONCATENATION": _Rule((1, MAX_CONCAT), "ConcatenationOptions", _concat),
    "SOFTMAX": _Rule((1, 1), "SoftmaxOptions", _softmax),
    "LEAKY_RELU": _Rule((1, 1), "LeakyReluOptions", _leaky_relu),
    "HARD_SWISH": _Rule((1, 1), "HardSwishOptions", _unary(UnaryKind.HARD_SWISH)),
    "LOGISTIC": _Rule((1, 1), "", _unary(UnaryKind.LOGISTIC)),
    "TANH": _Rule((1, 1), "", _unary(UnaryKind.TANH)),
    "RELU": _Rule((1, 1), "", _unary(UnaryKind.RELU)),
    "RELU6": _Rule((1, 1), "", _unary(UnaryKind.RELU6)),
    "QUANTIZE": _Rule((1, 1), "QuantizeOptions", _unary(UnaryKind.QUANTIZE)),
}
