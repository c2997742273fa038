"""ONNX operators with weights or a sliding window: Conv, Gemm, MatMul, pooling, Pad."""

from __future__ import annotations

import numpy as np

from ndtool.export.graph.fuse import NO_PADDING
from ndtool.export.graph.ir import Conv, FullyConnected, Mean, Pad, Padding, Pool
from ndtool.export.graph.onnx_constants import indices
from ndtool.export.graph.onnx_file import Node, malformed, unsupported
from ndtool.export.graph.onnx_reading import Reading
from ndtool.export.graph.onnx_windows import MAX_STEP, read_window


def read_conv(r: Reading, node: Node) -> None:
    """Conv, dense or depthwise; an absent bias becomes zeros."""
    x, (_, c_in, height, width) = r.image(node)
    weight = r.weights(node, 4)
    c_out, per_group, kh, kw = weight.shape
    group = node.integer("group", 1)
    if group < 1 or per_group * group != c_in or c_out < 1 or c_out % group:
        raise malformed("weights do not fit the input channels", where=node.where)
    if group not in (1, c_in):
        raise unsupported(
            f"convolution of {c_in} channels in {group} groups",
            where=node.where,
            remedy="use a dense or a depthwise convolution",
        )
    if (node.integers("kernel_shape") or (kh, kw)) != (kh, kw):
        raise malformed("kernel_shape is not that of the weights", where=node.where)
    window = read_window(node, (height, width), (kh, kw))
    bias = r.vector(node, 2, c_out) if node.input(2) else np.zeros(c_out)
    depthwise = group > 1
    # dense (c_out, kh, kw, c_in); depthwise (1, kh, kw, c_out), c_out = c_in_index * mult + k
    weight = weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    r.draft.ops.append(
        Conv(
            name=node.name,
            x=x,
            weight=r.draft.constant(f"{node.name}.weight", weight, source=node.input(1)),
            bias=r.draft.constant(f"{node.name}.bias", bias, source=node.input(2)),
            out=r.define(node.outputs[0], (1, c_out, *window.out_hw)),
            depthwise=depthwise,
            stride=window.stride,
            dilation=window.dilation,
            padding=window.padding,
        )
    )


def read_linear(r: Reading, node: Node) -> None:
    """Gemm, or MatMul by a constant matrix."""
    x = r.maybe_flat(node, 0)
    c_in = r.shapes[x][-1]
    if len(r.shapes[x]) != 2 or node.integer("transA", 0):
        raise unsupported(f"{node.op} of another than a (batch, c) tensor", where=node.where)
    weight = r.weights(node, 2) * node.number("alpha", 1.0)
    if not node.integer("transB", 0):
        weight = weight.T
    c_out = len(weight)  # (c_out, c_in)
    if weight.shape[1] != c_in or c_out < 1:
        raise malformed("weights do not fit the input", where=node.where)
    bias = np.zeros(c_out)
    given = r.floats(node, 2)
    if given is not None:
        if given.shape not in ((), (1,), (1, 1), (c_out,), (1, c_out)):
            raise malformed("bias has a wrong shape", where=node.where)
        bias = bias + given.reshape(-1) * node.number("beta", 1.0)
    if x in r.flat:
        # Columns from C,H,W order to our H,W,C order (quantisation, 3.2).
        weight = weight.reshape(c_out, *r.flat[x]).transpose(0, 2, 3, 1).reshape(c_out, c_in)
    r.draft.ops.append(
        FullyConnected(
            name=node.name,
            x=x,
            weight=r.draft.constant(f"{node.name}.weight", weight, source=node.input(1)),
            bias=r.draft.constant(f"{node.name}.bias", bias, source=node.input(2)),
            out=r.define(node.outputs[0], (1, c_out)),
        )
    )


def read_pool(r: Reading, node: Node) -> None:
    """MaxPool, AveragePool; an average over the whole image is a mean (quantisation, 3.2)."""
    x, (_, channels, height, width) = r.image(node)
    kernel = node.integers("kernel_shape") or ()
    if len(kernel) != 2:
        raise malformed("kernel_shape is not a pair", where=node.where)
    window = read_window(node, (height, width), (kernel[0], kernel[1]))
    pads = window.padding
    is_max = node.op == "MaxPool"
    if window.dilation != (1, 1):
        raise unsupported("pooling with dilation", where=node.where)
    if max(pads.top, pads.bottom) >= kernel[0] or max(pads.left, pads.right) >= kernel[1]:
        raise malformed("padding is not smaller than the kernel", where=node.where)
    if pads != NO_PADDING and not is_max and node.integer("count_include_pad", 0):
        raise unsupported(
            "AveragePool that counts its padding",
            where=node.where,
            remedy="use count_include_pad=False",
        )
    if not is_max and kernel == (height, width) and pads == NO_PADDING:
        _mean(r, node, keep_dims=True)
        return
    r.draft.ops.append(
        Pool(
            name=node.name,
            x=x,
            out=r.define(node.outputs[0], (1, channels, *window.out_hw)),
            is_max=is_max,
            kernel=window.kernel,
            stride=window.stride,
            padding=pads,
        )
    )


def read_global_average(r: Reading, node: Node) -> None:
    """GlobalAveragePool."""
    _mean(r, node, keep_dims=True)


def read_reduce_mean(r: Reading, node: Node) -> None:
    """Axes as attribute (opset < 18) or second input; only over height and width."""
    given = r.array(node, 1)
    axes = node.integers("axes") if given is None else indices(node, given)
    if axes is None or sorted(a % 4 for a in axes if -4 <= a < 4) != [2, 3] or len(axes) != 2:
        raise unsupported("ReduceMean over other axes than height and width", where=node.where)
    _mean(r, node, keep_dims=bool(node.integer("keepdims", 1)))


def _mean(r: Reading, node: Node, *, keep_dims: bool) -> None:
    x, (_, channels, _, _) = r.image(node)
    out = r.define(node.outputs[0], (1, channels, 1, 1) if keep_dims else (1, channels))
    r.draft.ops.append(Mean(name=node.name, x=x, out=out, keep_dims=keep_dims))


def read_pad(r: Reading, node: Node) -> None:
    """Zeros around the image; amounts and value as attributes (opset < 11) or as inputs."""
    x, (_, channels, height, width) = r.image(node)
    given, value, given_axes = r.array(node, 1), r.floats(node, 2), r.array(node, 3)
    pads = (node.integers("pads") if given is None else indices(node, given)) or ()
    axes = (0, 1, 2, 3) if given_axes is None else tuple(a % 4 for a in indices(node, given_axes))
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise malformed("bad paddings", where=node.where)
    before, after = [0] * 4, [0] * 4
    for position, axis in enumerate(axes):
        before[axis], after[axis] = pads[position], pads[position + len(axes)]
    filling = node.number("value", 0.0) if value is None else value.reshape(-1)
    if node.text("mode", "constant") != "constant" or np.any(filling != 0):
        raise unsupported("padding with something else than zeros", where=node.where)
    amounts = before + after
    if any(before[:2] + after[:2]) or not all(0 <= p <= MAX_STEP for p in amounts):
        raise unsupported("padding of other axes than height and width", where=node.where)
    if not any(amounts):
        r.alias[node.outputs[0]] = x
        return
    (top, left), (bottom, right) = before[2:], after[2:]
    size = (1, channels, height + top + bottom, width + left + right)
    r.draft.ops.append(
        Pad(
            name=node.name,
            x=x,
            out=r.define(node.outputs[0], size),
            padding=Padding(top=top, left=left, bottom=bottom, right=right),
        )
    )
