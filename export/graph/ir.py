"""The float graph: few operations, explicit NHWC shapes, typed attributes.

NHWC is a property of these shapes, not a TRANSPOSE: ONNX's NCHW is turned once when a file is read
(quantisation, 3.2). Tensors are named; the batch dimension is 1. Constants carry their values.

Layouts: convolution weights (c_out, kh, kw, c_in), depthwise (1, kh, kw, c_in * multiplier) with
output channel = c_in_index * multiplier + k, fully connected (c_out, c_in), biases (c_out,).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


class Fused(StrEnum):
    """Activation computed inside a Conv, Depthwise or FullyConnected.

    CLIP has bounds (lo, hi) other than ReLU's and ReLU6's; HARD_SIGMOID is
    clip(alpha * x + beta, 0, 1) with the op's `alpha`, `beta` already folded into its weights and
    bias, so that only the clamp to [0, 1] is left.
    """

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"
    CLIP_0_1 = "clip_0_1"  # hard sigmoid's clamp
    CLIP_N1_1 = "clip_n1_1"


@dataclass(frozen=True, slots=True, eq=False)
class FloatTensor:
    """`data` is None for an activation; a constant's array is read-only float32.

    `source` is the name of the ONNX tensor whose range describes this one (the output of the
    fused activation, not the one before it).
    """

    name: str
    shape: tuple[int, ...]
    data: F32 | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """Zeros in pixels around the input."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv:
    """2-D convolution, dense or depthwise, bias and activation included."""

    name: str
    x: str
    weight: str
    bias: str
    out: str
    depthwise: bool
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding
    act: Fused = Fused.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class FullyConnected:
    """out = x @ weight.T + bias; x is (1, c_in) or (1, 1, 1, c_in)."""

    name: str
    x: str
    weight: str
    bias: str
    out: str
    act: Fused = Fused.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """Mean over height and width; out is (1, c) or, with keep_dims, (1, 1, 1, c)."""

    name: str
    x: str
    out: str
    keep_dims: bool


class BinaryKind(StrEnum):
    """Element-wise operation of two tensors, NumPy broadcasting."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """out = act(a KIND b); one of the two may be a constant."""

    name: str
    kind: BinaryKind
    a: str
    b: str
    out: str
    act: Fused = Fused.NONE


class UnaryKind(StrEnum):
    """Element-wise operation of one tensor."""

    HARD_SWISH = "hard_swish"
    LOGISTIC = "logistic"
    TANH = "tanh"
    LEAKY_RELU = "leaky_relu"
    RELU = "relu"  # only where it could not be fused
    RELU6 = "relu6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """out = KIND(x); `alpha` is LEAKY_RELU's slope."""

    name: str
    kind: UnaryKind
    x: str
    out: str
    alpha: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Max or average pooling; padding is never counted in an average."""

    name: str
    x: str
    out: str
    is_max: bool
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """Zeros around the image where no convolution could take them."""

    name: str
    x: str
    out: str
    padding: Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    """Same values, other shape (the output tensor's)."""

    name: str
    x: str
    out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat:
    """Join along `axis` (NHWC)."""

    name: str
    xs: tuple[str, ...]
    out: str
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """Softmax over the last axis."""

    name: str
    x: str
    out: str


FloatOp = Conv | FullyConnected | Mean | Binary | Unary | Pool | Pad | Reshape | Concat | Softmax


def op_inputs(op: FloatOp) -> tuple[str, ...]:
    """Names of the tensors that `op` reads, constants included, in its own order."""
    match op:
        case Conv() | FullyConnected():
            return (op.x, op.weight, op.bias)
        case Binary():
            return (op.a, op.b)
        case Concat():
            return op.xs
        case Mean() | Unary() | Pool() | Pad() | Reshape() | Softmax():
            return (op.x,)


@dataclass(frozen=True, slots=True, eq=False)
class FloatGraph:
    """Operations in execution order over named tensors."""

    tensors: dict[str, FloatTensor]
    ops: tuple[FloatOp, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
