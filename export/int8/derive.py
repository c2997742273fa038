"""What follows from an op and its tensors: arrays, real multipliers, limits, windows.

Used by `spec` to judge a graph, by `reference` to run it and by the code generator, so that the
three can not differ. Constants must have the byte length that `spec` checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    PaddingKind,
    Pads,
    Pool2D,
    ResizeNearest,
    Tensor,
)
from ndtool.quant import fixed_point as fp
from ndtool.quant import kernels
from ndtool.quant.kernels import I8, I32, Limits, Window

Layer = Conv2D | DepthwiseConv2D | FullyConnected

# real bounds of the fused activations
ACTIVATION_BOUNDS: Final[dict[Activation, tuple[float | None, float | None]]] = {
    Activation.NONE: (None, None),
    Activation.RELU: (0.0, None),
    Activation.RELU_N1_TO_1: (-1.0, 1.0),
    Activation.RELU6: (0.0, 6.0),
}


def int8_values(tensor: Tensor) -> I8:
    """A constant int8 tensor as a read-only array of its shape."""
    assert tensor.data is not None
    return np.frombuffer(tensor.data, np.int8).reshape(tensor.shape)


def int32_values(tensor: Tensor) -> I32:
    """A constant int32 tensor as a read-only array of its shape."""
    assert tensor.data is not None
    values: I32 = np.frombuffer(tensor.data, "<i4").reshape(tensor.shape)
    return values


def activation_limits(act: Activation, out: Tensor) -> Limits:
    """int8 limits of a fused activation."""
    low, high = ACTIVATION_BOUNDS[act]
    return fp.activation_range(low, high, scale=out.scale, zero_point=out.zero_point)


def windows(graph: Graph, op: Conv2D | DepthwiseConv2D | Pool2D) -> tuple[Window, Window]:
    """How the op's kernel slides over rows and over columns."""
    if isinstance(op, Pool2D):
        kernel, dilation = op.kernel, (1, 1)
    else:
        _, kh, kw, _ = graph.tensor(op.weight).shape
        kernel, dilation = (kh, kw), op.dilation
    same = op.padding is PaddingKind.SAME
    pads = ((0, 0), (0, 0))
    if isinstance(op.padding, Pads):
        pads = ((op.padding.top, op.padding.bottom), (op.padding.left, op.padding.right))
    rows, columns = (Window(kernel[i], op.stride[i], dilation[i], same, pads[i]) for i in (0, 1))
    return rows, columns


def nearest_indices(graph: Graph, op: ResizeNearest) -> tuple[fp.I64, fp.I64]:
    """Which row, and which column, of the input each one of the output is."""
    sizes = zip(graph.tensor(op.x).shape[1:3], graph.tensor(op.out).shape[1:3], strict=True)
    rows, columns = (
        kernels.nearest_indices(
            size,
            out_size,
            align_corners=op.align_corners,
            half_pixel_centers=op.half_pixel_centers,
        )
        for size, out_size in sizes
    )
    return rows, columns


def dropped_axes(shape: tuple[int, ...], kept: tuple[int, ...]) -> tuple[int, ...] | None:
    """Axes of 1 without which `shape` is `kept`; None where it is something else."""
    dropped: list[int] = []
    position = 0
    for axis, n in enumerate(shape):
        if kept[position : position + 1] == (n,):
            position += 1
        elif n == 1:
            dropped.append(axis)
        else:
            return None
    return tuple(dropped) if position == len(kept) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceAxis:
    """What STRIDED_SLICE takes of one axis: `size` elements from `begin`, one each `stride`."""

    begin: int
    stride: int
    size: int


def slice_axis(
    n: int,
    begin: int,
    end: int,
    stride: int,
    *,
    from_first: bool = False,
    to_last: bool = False,
    shrink: bool = False,
) -> SliceAxis:
    """The elements of an axis of `n` that a STRIDED_SLICE with these numbers and masks takes.

    `stride` is not 0; nothing taken is a `size` of 0, which no kernel handles. A shrunk axis gives
    one element, and none for a negative stride: TFLM's kernel then leaves its output as it was.
    `StridedSliceStartForAxis` and `StridedSliceEndForAxis`, strided_slice_logic.h.
    """
    forward = stride > 0
    low, high = (0, n) if forward else (-1, n - 1)
    start = min(max(begin + n if begin < 0 else begin, low), high)
    if from_first:
        start = low if forward else high
    stop = min(max(end + n if end < 0 else end, low), high)
    if to_last:
        stop = high if forward else low
    if shrink:
        stop = min(start + 1, n) if forward else start
    size = max(0, -((start - stop) // stride))
    return SliceAxis(begin=start, stride=stride if size > 1 else 1, size=size)


def is_per_tensor_fc(graph: Graph, op: Layer) -> bool:
    """FULLY_CONNECTED with one weight scale: an older kernel, which checks the bias scale."""
    return isinstance(op, FullyConnected) and len(graph.tensor(op.weight).scales) == 1


def layer_reals(graph: Graph, op: Layer) -> fp.F64:
    """Real multipliers of a layer with weights: one for all, or one per output channel."""
    x, weight, out = (graph.tensor(t) for t in (op.x, op.weight, op.out))
    return fp.conv_real(x.scale, weight.scales, out.scale)


def layer_bounds(graph: Graph, op: Layer) -> fp.I64:
    """Largest magnitude of each output channel's accumulator, whatever the order of the sum."""
    weight = graph.tensor(op.weight)
    axis = 3 if isinstance(op, DepthwiseConv2D) else 0
    others = tuple(i for i in range(len(weight.shape)) if i != axis)
    total = np.abs(int8_values(weight).astype(np.int16)).sum(axis=others, dtype=np.int64)
    bounds: fp.I64 = total * fp.max_abs_offset(graph.tensor(op.x).zero_point)
    if op.bias is not None:
        bounds = bounds + np.abs(int32_values(graph.tensor(op.bias)).astype(np.int64))
    return bounds


def binary_reals(graph: Graph, op: Binary) -> tuple[float, ...]:
    """MUL's one real multiplier, or ADD's and SUB's three: of a, of b, of the result."""
    scales = (graph.tensor(op.a).scale, graph.tensor(op.b).scale, graph.tensor(op.out).scale)
    return (fp.mul_real(*scales),) if op.kind is BinaryKind.MUL else fp.add_reals(*scales)
