"""What the rules of one kind of operation are made of, and the faults that several share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, TypeVar

import numpy as np

from ndtool.export.int8 import derive
from ndtool.export.int8.ir import Activation, DType, Graph, Op, Tensor, TensorId
from ndtool.export.int8.rules.tensors import are_float32
from ndtool.quant import fixed_point as fp

Shape = tuple[int, ...]
Fault = tuple[str, str]  # rule, text
Faults = Iterator[Fault]
T = TypeVar("T", bound=Op)

MAX_MACS: Final = 2**31  # of one op
UNIT_PARAMS: Final = fp.ScaleZero(1 / 256, -128)  # SOFTMAX and LOGISTIC
SIGNED_UNIT_PARAMS: Final = fp.ScaleZero(1 / 128, 0)  # TANH


class Role(StrEnum):
    """What an operand must be."""

    ACTIVATION = "int8 activation, one scale"
    VALUE = "int8 activation or constant, one scale"
    WEIGHT = "int8 constant, one scale or one per output channel"
    BIAS = "int32 constant, zero points 0, or absent"
    INDEX = "int32 constant"


Operands = tuple[tuple[TensorId | None, Role], ...]

# what the faults below, which several operations share, demand
EQUAL_PARAMS: Final = "the output has the scale and zero point of the input: bytes are copied"
ACTIVATION: Final = (
    "the bounds of the fused activation, in steps of the output's scale, fit 32 bits"
)
OVERFLOW: Final = (
    "whatever the input, the accumulator fits 32 bits, also after the left shift of its multiplier"
)
FLOAT32: Final = "is a finite float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Generic[T]):
    """The rules of one kind of operation, each looked at only when those above it hold.

    `rules` says what each of them demands, by the slug that names it when it is broken: a line of
    docs/ir.md.
    """

    rules: Mapping[str, str]
    operands: Callable[[T], Operands]
    attributes: Callable[[Graph, T], Faults]  # ranks, channel counts, strides, axes
    shape: Callable[[Graph, T], Shape]  # of every output, from the inputs
    arithmetic: Callable[[Graph, T], Faults]  # scales, overflow


def plays(tensor: Tensor, role: Role) -> bool:
    """Whether a tensor is what `role` asks for; its own rules hold."""
    match role:
        case Role.ACTIVATION:
            return tensor.data is None
        case Role.VALUE:
            return tensor.dtype is DType.INT8 and len(tensor.scales) == 1
        case Role.WEIGHT:
            return tensor.data is not None and tensor.dtype is DType.INT8 and bool(tensor.scales)
        case Role.BIAS | Role.INDEX:
            return tensor.data is not None and tensor.dtype is DType.INT32


def params(tensor: Tensor) -> fp.ScaleZero:
    """The parameters of a tensor with one scale."""
    return fp.ScaleZero(tensor.scale, tensor.zero_point)


def int_list(tensor: Tensor) -> list[int]:
    """The values of an int32 constant."""
    return [int(v) for v in derive.int32_values(tensor).ravel()]


def requant_faults(real: fp.F64 | float, bound: fp.I64 | int) -> Faults:
    """No accumulator up to `bound` may leave int32 when multiplied by `real` (rules 7 and 8)."""
    fits = fp.requant_fits(bound, fp.quantize_multipliers(np.asarray(real, np.float64)))
    if not fits.all():
        which = f" (output channel {int(np.argmin(fits))})" if fits.size > 1 else ""
        yield "op.overflow", f"the accumulator can leave 32 bits{which}"


def activation_faults(act: Activation, out: Tensor) -> Faults:
    """The bounds of a fused activation have a place in int32."""
    for bound in derive.ACTIVATION_BOUNDS[act]:
        if bound is not None and abs(fp.quantize_bound(bound, out.scale, 0)) > fp.INT32_MAX:
            yield "op.activation", f"{act} has no place on a scale of {out.scale:g}"


def equal_faults(graph: Graph, outs: tuple[TensorId, ...], *xs: TensorId) -> Faults:
    """Bytes are copied: other parameters would change what they mean (quantisation, 1.1)."""
    for made in outs:
        out = params(graph.tensor(made))
        for x in xs:
            if (found := params(graph.tensor(x))) != out:
                text = f"input has {_shown(found)}, output {_shown(out)}: they must be equal"
                yield "op.equal-params", text


def fixed_faults(out: Tensor, wanted: fp.ScaleZero) -> Faults:
    """The kernel assumes these parameters of its output."""
    if params(out) != wanted:
        yield "op.fixed-output", f"output has {_shown(params(out))}, must have {_shown(wanted)}"


def _shown(found: fp.ScaleZero) -> str:
    return f"scale {found.scale:g} and zero point {found.zero_point}"


def float32_faults(name: str, value: float) -> Faults:
    """What the file cannot hold exactly would change on the way."""
    if not are_float32([value]):
        yield "op.attribute", f"{name} {value!r} is not a finite float32"
