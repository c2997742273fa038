"""Rules of the layers with weights: CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED."""

from __future__ import annotations

from typing import Final

from ndtool.export.int8 import derive
from ndtool.export.int8.ir import Conv2D, DepthwiseConv2D, FullyConnected, Graph
from ndtool.export.int8.rules.row import (
    ACTIVATION,
    MAX_MACS,
    OVERFLOW,
    Faults,
    Operands,
    Role,
    Row,
    Shape,
    activation_faults,
    requant_faults,
)
from ndtool.export.int8.rules.windows import PADS, STRIDE, step_faults

MAX_FC_BIAS_ERROR: Final = 0.02  # of an output step: kernels/kernel_util.cc
BIAS_SCALE_TOLERANCE: Final = 1e-6  # relative, of s_in * s_weight


def _operands(op: derive.Layer) -> Operands:
    return ((op.x, Role.ACTIVATION), (op.weight, Role.WEIGHT), (op.bias, Role.BIAS))


def _conv_attributes(graph: Graph, op: Conv2D | DepthwiseConv2D) -> Faults:
    x, weight = graph.tensor(op.x), graph.tensor(op.weight)
    if len(x.shape) != 4 or len(weight.shape) != 4:
        yield "op.rank", f"input {list(x.shape)} and weight {list(weight.shape)} must be 4-D"
        return
    depthwise = isinstance(op, DepthwiseConv2D)
    c_in, c_out = x.shape[3], weight.shape[3 if depthwise else 0]
    if isinstance(op, DepthwiseConv2D):
        fits = weight.shape[0] == 1 and op.multiplier >= 1 and c_out == c_in * op.multiplier
    else:
        fits = weight.shape[3] == c_in
    if not fits and not depthwise and c_in % weight.shape[3] == 0:
        groups = c_in // weight.shape[3]
        yield "op.grouped", f"a convolution of {groups} groups of {weight.shape[3]} input channels"
    elif not fits:
        yield "op.channels", f"weight {list(weight.shape)} does not fit {c_in} input channels"
    yield from _channel_faults(graph, op, c_out, 3 if depthwise else 0)
    yield from step_faults(graph, op)


def _channel_faults(graph: Graph, op: derive.Layer, c_out: int, dim: int) -> Faults:
    """Symmetric weights; scales and biases are one per output channel.

    TFLM's per-channel kernels ignore a weight zero point without a word (mcu, 3.2).
    """
    weight = graph.tensor(op.weight)
    if any(weight.zero_points):
        zero = next(z for z in weight.zero_points if z)
        yield "op.weight-zero-point", f"weights with zero point {zero}, not 0"
    if len(weight.scales) > 1 and weight.quantized_dim != dim:
        yield "op.quantized-dim", f"weight scales along {weight.quantized_dim}, not {dim}"
    if op.bias is not None:
        bias = graph.tensor(op.bias)
        if bias.elements != c_out:
            yield "op.bias", f"{bias.elements} biases for {c_out} output channels"
        elif len(bias.scales) not in (0, len(weight.scales)):
            yield "op.bias", f"{len(bias.scales)} bias scales, {len(weight.scales)} weight scales"


def _conv_shape(graph: Graph, op: Conv2D | DepthwiseConv2D) -> Shape:
    _, height, width, _ = graph.tensor(op.x).shape
    rows, columns = derive.windows(graph, op)
    channels = graph.tensor(op.weight).shape[3 if isinstance(op, DepthwiseConv2D) else 0]
    return (1, rows.output(height), columns.output(width), channels)


def _fc_attributes(graph: Graph, op: FullyConnected) -> Faults:
    x, weight = graph.tensor(op.x), graph.tensor(op.weight)
    if len(weight.shape) != 2:
        yield "op.rank", f"weight {list(weight.shape)} must be 2-D"
        return
    c_out, c_in = weight.shape
    if x.elements % c_in or (op.keep_num_dims and x.shape[-1] != c_in):
        yield "op.channels", f"weight {list(weight.shape)} does not fit input {list(x.shape)}"
    yield from _channel_faults(graph, op, c_out, 0)


def _fc_shape(graph: Graph, op: FullyConnected) -> Shape:
    x, (c_out, c_in) = graph.tensor(op.x), graph.tensor(op.weight).shape
    if op.keep_num_dims:
        return (*x.shape[:-1], c_out)
    return (x.elements // c_in, c_out)


def _arithmetic(graph: Graph, op: derive.Layer) -> Faults:
    x, weight, out = (graph.tensor(t) for t in (op.x, op.weight, op.out))
    bounds = derive.layer_bounds(graph, op)
    macs = out.elements * weight.elements // len(bounds)
    if macs > MAX_MACS:
        yield "op.macs", f"{macs} multiply-accumulates, at most {MAX_MACS}"
    yield from activation_faults(op.act, out)
    yield from requant_faults(derive.layer_reals(graph, op), bounds)
    if op.bias is None:
        return
    wanted = [x.scale * s for s in weight.scales]
    written = graph.tensor(op.bias).scales
    for have, want in zip(written, wanted, strict=False):
        if abs(have - want) > BIAS_SCALE_TOLERANCE * want:
            yield "op.bias-scale", f"bias scale {have:g}, input times weight scale is {want:g}"
            return
    unchecked = written or not derive.is_per_tensor_fc(graph, op)
    if not unchecked and wanted[0] / out.scale > MAX_FC_BIAS_ERROR:
        yield "op.bias-scale", "one weight scale needs a bias scale: TFLM checks it"


_LAYER_RULES: Final = {
    "op.weight-zero-point": "every zero point of the weight is 0",
    "op.quantized-dim": "several weight scales lie along the output channels",
    "op.bias": "one bias for each output channel, with no scales or as many as the weight",
    "op.macs": f"at most {MAX_MACS:,} multiply-accumulates",
    "op.activation": ACTIVATION,
    "op.overflow": OVERFLOW,
}
_BIAS_SCALE: Final = (
    f"a bias scale is the input's times the weight's, to a relative {BIAS_SCALE_TOLERANCE:g}"
)
CONVOLUTION: Final[Row[Conv2D | DepthwiseConv2D]] = Row(
    rules={
        "op.rank": "x and weight have 4 dimensions",
        "op.channels": "CONV_2D: the weight is for the channels of x; DEPTHWISE_CONV_2D: "
        "it has `multiplier` filters, at least 1, for each of them",
        "op.grouped": "CONV_2D: the weight is for all channels of x, not for a group of them",
        "op.stride": STRIDE,
        "op.pads": PADS,
        "op.bias-scale": _BIAS_SCALE,
        **_LAYER_RULES,
    },
    operands=_operands,
    attributes=_conv_attributes,
    shape=_conv_shape,
    arithmetic=_arithmetic,
)
FULLY_CONNECTED: Final[Row[FullyConnected]] = Row(
    rules={
        "op.rank": "the weight has 2 dimensions",
        "op.channels": "the elements of x are whole rows of the weight; with `keep_num_dims` its "
        "last axis is one row",
        "op.bias-scale": f"{_BIAS_SCALE}; with one weight scale and a bias without scale, that "
        f"product is at most {MAX_FC_BIAS_ERROR:g} of the output's scale",
        **_LAYER_RULES,
    },
    operands=_operands,
    attributes=_fc_attributes,
    shape=_fc_shape,
    arithmetic=_arithmetic,
)
