"""The float graph in float64: numpy, slow and obvious, the truth that int8 is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ndtool.export.graph import ir

F64 = NDArray[np.float64]

CLAMPS = {
    ir.Fused.NONE: (-np.inf, np.inf),
    ir.Fused.RELU: (0.0, np.inf),
    ir.Fused.RELU6: (0.0, 6.0),
    ir.Fused.CLIP_0_1: (0.0, 1.0),
    ir.Fused.CLIP_N1_1: (-1.0, 1.0),
}


def evaluate(graph: ir.FloatGraph, inputs: Mapping[str, NDArray[np.floating]]) -> dict[str, F64]:
    """Every tensor of the graph by name; inputs are (1, ...) arrays."""
    values = {
        name: tensor.data.astype(np.float64)
        for name, tensor in graph.tensors.items()
        if tensor.data is not None
    }
    values |= {name: np.asarray(value, np.float64) for name, value in inputs.items()}
    for op in graph.ops:
        out = evaluate_op(op, [values[name] for name in ir.op_inputs(op)])
        values[op.out] = out.reshape(graph.tensors[op.out].shape)
    return values


def evaluate_op(op: ir.FloatOp, given: list[F64]) -> F64:
    x = given[0]
    match op:
        case ir.Conv():
            return np.clip(convolve(op, *given), *CLAMPS[op.act])
        case ir.FullyConnected():
            return np.clip(x.reshape(1, -1) @ given[1].T + given[2], *CLAMPS[op.act])
        case ir.Mean():
            return x.mean(axis=(1, 2))
        case ir.Binary():
            a, b = given
            results = {
                ir.BinaryKind.ADD: a + b,
                ir.BinaryKind.SUB: a - b,
                ir.BinaryKind.MUL: a * b,
            }
            return np.clip(results[op.kind], *CLAMPS[op.act])
        case ir.Unary():
            return evaluate_unary(op, x)
        case ir.Pool():
            return pool(op, x)
        case ir.Pad():
            return surround(x, op.padding, 0.0)
        case ir.Reshape():
            return x
        case ir.Concat():
            return np.concatenate(given, axis=op.axis)
        case ir.Softmax():
            powers = np.exp(x - x.max())
            return powers / powers.sum()


def evaluate_unary(op: ir.Unary, x: F64) -> F64:
    match op.kind:
        case ir.UnaryKind.HARD_SWISH:
            return x * np.clip(x + 3, 0, 6) / 6
        case ir.UnaryKind.LOGISTIC:
            return 1 / (1 + np.exp(-x))
        case ir.UnaryKind.TANH:
            return np.tanh(x)
        case ir.UnaryKind.LEAKY_RELU:
            return np.where(x > 0, x, op.alpha * x)
        case ir.UnaryKind.RELU:
            return np.maximum(x, 0)
        case ir.UnaryKind.RELU6:
            return np.clip(x, 0, 6)


def surround(x: F64, pad: ir.Padding, fill: float) -> F64:
    around = ((0, 0), (pad.top, pad.bottom), (pad.left, pad.right), (0, 0))
    return np.pad(x, around, constant_values=fill)


def convolve(op: ir.Conv, x: F64, weight: F64, bias: F64) -> F64:
    _, kh, kw, _ = weight.shape
    x = surround(x, op.padding, 0.0)
    rows = (x.shape[1] - (kh - 1) * op.dilation[0] - 1) // op.stride[0] + 1
    columns = (x.shape[2] - (kw - 1) * op.dilation[1] - 1) // op.stride[1] + 1
    c_out = len(bias)
    out = np.zeros((1, rows, columns, c_out))
    for r in range(rows):
        for c in range(columns):
            top, left = r * op.stride[0], c * op.stride[1]
            patch = x[0, top:, left:][:: op.dilation[0], :: op.dilation[1]][:kh, :kw]
            for o in range(c_out):
                if op.depthwise:
                    source = o // (c_out // x.shape[3])
                    out[0, r, c, o] = (patch[:, :, source] * weight[0, :, :, o]).sum()
                else:
                    out[0, r, c, o] = (patch * weight[o]).sum()
    return out + bias


def pool(op: ir.Pool, x: F64) -> F64:
    """Padding counts neither in a maximum nor in an average: it is NaN here."""
    x = surround(x, op.padding, np.nan)
    rows = (x.shape[1] - op.kernel[0]) // op.stride[0] + 1
    columns = (x.shape[2] - op.kernel[1]) // op.stride[1] + 1
    out = np.zeros((1, rows, columns, x.shape[3]))
    for r in range(rows):
        for c in range(columns):
            top, left = r * op.stride[0], c * op.stride[1]
            patch = x[0, top : top + op.kernel[0], left : left + op.kernel[1]]
            summary = np.nanmax if op.is_max else np.nanmean
            out[0, r, c] = summary(patch, axis=(0, 1))
    return out
