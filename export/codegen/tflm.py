"""What TensorFlow Lite Micro needs to run an int8 graph: operators, arena, oldest version.

Paths are of tensorflow/tflite-micro, in tensorflow/lite/micro; CMSIS-NN is the commit that it pins
(mcu.md, 1). Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ndtool.export.int8.ir import (
    Binary,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Mean,
    Op,
    Pad,
    Pool2D,
    Reshape,
    ResizeNearest,
    Softmax,
    Split,
    Squeeze,
    StridedSlice,
    Unary,
    op_name,
)

ALIGN: Final = 16  # of the arena and of every buffer in it
# An arena of exactly arena_used_bytes() fails: AllocateTensors takes 4 to 8 more (mcu.md, 1.3)
ALLOCATION_SLACK: Final = 16
_MVE_BLOCK: Final = 124  # CH_IN_BLOCK_MVE of CMSIS-NN's Include/arm_nnsupportfunctions.h

# op_name() -> method of MicroMutableOpResolver (micro_mutable_op_resolver.h)
ADD_METHODS: Final = {
    "ADD": "AddAdd",
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "CONCATENATION": "AddConcatenation",
    "CONV_2D": "AddConv2D",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "FULLY_CONNECTED": "AddFullyConnected",
    "HARD_SWISH": "AddHardSwish",
    "LEAKY_RELU": "AddLeakyRelu",
    "LOGISTIC": "AddLogistic",
    "MAX_POOL_2D": "AddMaxPool2D",
    "MEAN": "AddMean",
    "MUL": "AddMul",
    "PAD": "AddPad",
    "QUANTIZE": "AddQuantize",
    "RELU": "AddRelu",
    "RELU6": "AddRelu6",
    "RESHAPE": "AddReshape",
    "RESIZE_NEAREST_NEIGHBOR": "AddResizeNearestNeighbor",
    "SOFTMAX": "AddSoftmax",
    "SPLIT": "AddSplit",
    "SQUEEZE": "AddSqueeze",
    "STRIDED_SLICE": "AddStridedSlice",
    "SUB": "AddSub",
    "TANH": "AddTanh",
}


@dataclass(frozen=True, slots=True)
class TflmVersion:
    """A commit of tensorflow/tflite-micro (it has no releases)."""

    commit: str
    date: str


# The first sources of the repository; every method of ADD_METHODS is there.
FIRST: Final = TflmVersion("a37043f", "2021-04-09")
# Per-channel FULLY_CONNECTED refused since 71fba59 (2024-05-29, pull request 2602), silently wrong
# before; read since this commit (pull request 2673), reference and CMSIS-NN kernels.
PER_CHANNEL_FC: Final = TflmVersion("47b5450", "2024-09-27")


def used_operators(graph: Graph) -> tuple[str, ...]:
    """Names of the operators in `graph`, sorted, each once."""
    return tuple(sorted({op_name(op) for op in graph.ops}))


def has_per_channel_fc(graph: Graph) -> bool:
    """Whether a fully connected layer has more than one weight scale."""
    layers = (op for op in graph.ops if isinstance(op, FullyConnected))
    return any(len(graph.tensor(op.weight).scales) > 1 for op in layers)


def oldest_tflm(graph: Graph) -> TflmVersion:
    """The oldest TensorFlow Lite Micro that reads `graph`."""
    return PER_CHANNEL_FC if has_per_channel_fc(graph) else FIRST


def arena_bytes(graph: Graph, wheel_bytes: int) -> int:
    """An arena that is large enough on every core, CMSIS-NN included.

    `wheel_bytes` is what the x86-64 wheel of tflite_micro uses: with 64-bit pointers, so a little
    too much for a 32-bit core, but without CMSIS-NN's buffers (mcu.md, 1.3).
    """
    scratch = max((_scratch_bytes(graph, op) for op in graph.ops), default=0)
    sums = sum(_kernel_sum_bytes(graph, op) for op in graph.ops)
    return _round_up(wheel_bytes + scratch + sums + ALLOCATION_SLACK, ALIGN)


def _scratch_bytes(graph: Graph, op: Op) -> int:
    """CMSIS-NN's scratch while `op` runs, the largest over M3, M4/M7 and M55 (mcu.md, 3.2)."""
    match op:
        case Conv2D():
            return _conv_scratch(graph, op)
        case DepthwiseConv2D():
            return _depthwise_scratch(graph, op)
        case FullyConnected():
            if not _runs_as_conv(graph, op):
                return 0
            # multiplier and shift of each channel, and the 1x1 convolution's own buffer
            c_out, c_in = graph.tensor(op.weight).shape
            return 8 * c_out + 4 * c_in
        case Pool2D():  # arm_avgpool_s8_get_buffer_size_dsp
            return 0 if op.is_max else 4 * graph.tensor(op.out).shape[-1]
        case Binary() | Mean() | Softmax() | Unary():
            return 0
        case Pad() | Reshape() | Squeeze() | Split() | StridedSlice() | ResizeNearest() | Concat():
            return 0


def _conv_scratch(graph: Graph, op: Conv2D) -> int:
    """arm_convolve_get_buffer_sizes_s8.c; MVE's im2col is never smaller than the others'."""
    _, kh, kw, _ = graph.tensor(op.weight).shape
    c_in = graph.tensor(op.x).shape[-1]
    if (kh, kw) == (1, 1) and op.dilation == (1, 1):
        return 4 * c_in  # only with Arm Compiler 6; none with GCC
    return 4 * _round_up(kh * kw * c_in, 16)


def _depthwise_scratch(graph: Graph, op: DepthwiseConv2D) -> int:
    """arm_depthwise_conv_get_buffer_sizes_s8.c: the larger one of MVE's and DSP's."""
    _, kh, kw, c_out = graph.tensor(op.weight).shape
    c_in = graph.tensor(op.x).shape[-1]
    mve = dsp = 0
    if c_in == c_out and op.dilation == (1, 1):
        mve = 4 * _MVE_BLOCK * kh * kw
        dsp = 0 if (kh, kw) == (3, 3) else 2 * c_in * kh * kw
    if c_in == 1:  # run as a convolution, with a transposed copy of the weights
        mve = max(mve, 4 * _round_up(kh * kw, 16) + c_out * kh * kw)
    return max(mve, dsp)


def _kernel_sum_bytes(graph: Graph, op: Op) -> int:
    """What CMSIS-NN's FULLY_CONNECTED keeps on MVE for good: one int32 an output channel.

    kernels/cmsis_nn/fully_connected.cc, Prepare, with KERNELS_OPTIMIZED_FOR_SPEED.
    """
    if not isinstance(op, FullyConnected) or _runs_as_conv(graph, op):
        return 0
    return 4 * graph.tensor(op.weight).shape[0]


def _runs_as_conv(graph: Graph, op: FullyConnected) -> bool:
    """kernels/cmsis_nn/fully_connected.cc: is_conv_1x1_possible."""
    return len(graph.tensor(op.out).shape) > 2 and graph.tensor(op.weight).shape[1] % 4 == 0


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
