"""The one int8 IR: made by the converter, read from a .tflite, used by lint, reference and codegen.

Tensors are numbered, as in a .tflite; op attributes are typed. Layouts are TFLite's: activations
NHWC, convolution weights (c_out, kh, kw, c_in), depthwise (1, kh, kw, c_in * multiplier), fully
connected (c_out, c_in).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

TensorId = NewType("TensorId", int)


class DType(StrEnum):
    """Element type of a tensor."""

    INT8 = "int8"
    INT32 = "int32"


class Activation(StrEnum):
    """Fused activation, TFLite's names."""

    NONE = "NONE"
    RELU = "RELU"
    RELU_N1_TO_1 = "RELU_N1_TO_1"
    RELU6 = "RELU6"


class PaddingKind(StrEnum):
    """TFLite's padding schemes."""

    SAME = "SAME"
    VALID = "VALID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pads:
    """Pixels of padding on each side, all >= 0: what passes make of a PAD; no file has it."""

    top: int
    left: int
    bottom: int
    right: int


Padding = PaddingKind | Pads


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor. real = scale * (q - zero_point).

    `scales` are float32 values: one per tensor, or one per index of `quantized_dim`; empty for
    int32 shape constants. `zero_points` has the same length. `data` is little-endian bytes of a
    constant, None for an activation.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    quantized_dim: int = 0
    data: bytes | None = None

    @property
    def scale(self) -> float:
        """The only scale of a per-tensor quantised tensor."""
        (scale,) = self.scales
        return scale

    @property
    def zero_point(self) -> int:
        """The only zero point of a per-tensor quantised tensor."""
        (zero_point,) = self.zero_points
        return zero_point

    @property
    def elements(self) -> int:
        """Number of elements."""
        total = 1
        for n in self.shape:
            total *= n
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Conv2D:
    """CONV_2D; `bias` is None only in foreign files."""

    x: TensorId
    weight: TensorId
    bias: TensorId | None
    out: TensorId
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding
    act: Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseConv2D:
    """DEPTHWISE_CONV_2D; output channel = input channel * multiplier + k."""

    x: TensorId
    weight: TensorId
    bias: TensorId | None
    out: TensorId
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding
    act: Activation
    multiplier: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FullyConnected:
    """FULLY_CONNECTED."""

    x: TensorId
    weight: TensorId
    bias: TensorId | None
    out: TensorId
    act: Activation
    keep_num_dims: bool


class BinaryKind(StrEnum):
    """Element-wise operations of two tensors."""

    ADD = "ADD"
    SUB = "SUB"
    MUL = "MUL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """ADD, SUB or MUL with broadcasting."""

    kind: BinaryKind
    a: TensorId
    b: TensorId
    out: TensorId
    act: Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool2D:
    """AVERAGE_POOL_2D or MAX_POOL_2D."""

    is_max: bool
    x: TensorId
    out: TensorId
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: PaddingKind
    act: Activation


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """MEAN over `axes`; `axes_id` is the int32 constant that holds them in the file."""

    x: TensorId
    axes_id: TensorId
    out: TensorId
    axes: tuple[int, ...]
    keep_dims: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pad:
    """PAD by int32 constant `paddings_id` of shape (rank, 2); fills the output's zero point."""

    x: TensorId
    paddings_id: TensorId
    out: TensorId
    paddings: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reshape:
    """RESHAPE; `shape_id` is the int32 constant, None where the file has only options."""

    x: TensorId
    shape_id: TensorId | None
    out: TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class Squeeze:
    """SQUEEZE: dimensions of 1 are left out; the bytes stay."""

    x: TensorId
    out: TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """SPLIT into equal parts along `axis`, never negative here; `axis_id` is its constant."""

    x: TensorId
    axis_id: TensorId
    outs: tuple[TensorId, ...]
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StridedSlice:
    """STRIDED_SLICE by constants: element `begin + i * stride`, i < size, of each dimension of x.

    The file's masks and negative or clipped bounds are gone: every index lies inside x. The
    output's shape is `sizes`, less some dimensions of 1 where the file shrinks axes. `constants`
    are the file's begin, end and strides.
    """

    x: TensorId
    constants: tuple[TensorId, TensorId, TensorId]
    out: TensorId
    begin: tuple[int, ...]
    strides: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeNearest:
    """RESIZE_NEAREST_NEIGHBOR to the size in the int32 constant `size_id`."""

    x: TensorId
    size_id: TensorId
    out: TensorId
    align_corners: bool
    half_pixel_centers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Concat:
    """CONCATENATION along `axis`, never negative here."""

    xs: tuple[TensorId, ...]
    out: TensorId
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """SOFTMAX over the last axis."""

    x: TensorId
    out: TensorId
    beta: float


class UnaryKind(StrEnum):
    """Element-wise operations of one tensor."""

    HARD_SWISH = "HARD_SWISH"
    LOGISTIC = "LOGISTIC"
    TANH = "TANH"
    LEAKY_RELU = "LEAKY_RELU"
    RELU = "RELU"
    RELU6 = "RELU6"
    QUANTIZE = "QUANTIZE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary:
    """One int8 byte in, one out; `alpha` is LEAKY_RELU's slope."""

    kind: UnaryKind
    x: TensorId
    out: TensorId
    alpha: float = 0.0


SingleOutput = (
    Conv2D
    | DepthwiseConv2D
    | FullyConnected
    | Binary
    | Pool2D
    | Mean
    | Pad
    | Reshape
    | Squeeze
    | StridedSlice
    | ResizeNearest
    | Concat
    | Softmax
    | Unary
)
Op = SingleOutput | Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Operations in execution order; `inputs` and `outputs` are activations."""

    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    inputs: tuple[TensorId, ...]
    outputs: tuple[TensorId, ...]

    def tensor(self, index: TensorId) -> Tensor:
        """The tensor of that number."""
        return self.tensors[index]


def op_name(op: Op) -> str:
    """TFLite's builtin operator name."""
    match op:
        case Conv2D():
            return "CONV_2D"
        case DepthwiseConv2D():
            return "DEPTHWISE_CONV_2D"
        case FullyConnected():
            return "FULLY_CONNECTED"
        case Binary():
            return op.kind.value
        case Pool2D():
            return "MAX_POOL_2D" if op.is_max else "AVERAGE_POOL_2D"
        case Mean():
            return "MEAN"
        case Pad():
            return "PAD"
        case Reshape():
            return "RESHAPE"
        case Squeeze():
            return "SQUEEZE"
        case Split():
            return "SPLIT"
        case StridedSlice():
            return "STRIDED_SLICE"
        case ResizeNearest():
            return "RESIZE_NEAREST_NEIGHBOR"
        case Concat():
            return "CONCATENATION"
        case Softmax():
            return "SOFTMAX"
        case Unary():
            return op.kind.value


def op_inputs(op: Op) -> tuple[TensorId, ...]:
    """Tensors the op reads, in TFLite's order; an absent bias or shape is left out."""
    match op:
        case Conv2D() | DepthwiseConv2D() | FullyConnected():
            return (op.x, op.weight) if op.bias is None else (op.x, op.weight, op.bias)
        case Binary():
            return (op.a, op.b)
        case Mean():
            return (op.x, op.axes_id)
        case Pad():
            return (op.x, op.paddings_id)
        case Reshape():
            return (op.x,) if op.shape_id is None else (op.x, op.shape_id)
        case Concat():
            return op.xs
        case Split():
            return (op.axis_id, op.x)
        case StridedSlice():
            return (op.x, *op.constants)
        case ResizeNearest():
            return (op.x, op.size_id)
        case Pool2D() | Softmax() | Squeeze() | Unary():
            return (op.x,)


def op_outputs(op: Op) -> tuple[TensorId, ...]:
    """Tensors the op writes: one, or a SPLIT's parts."""
    return op.outs if isinstance(op, Split) else (op.out,)
