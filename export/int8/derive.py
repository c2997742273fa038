"""What follows from an op and its tensors: arrays, real multipliers, limits, windows.

Used by `spec` to judge a graph, by `reference` to run it and by the code generator, so that the
three can not differ. Constants must have the byte length that `spec` checks.
"""

from __future__ import annotations

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
    Tensor,
)
from ndtool.quant import fixed_point as fp
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
