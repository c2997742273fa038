"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED as kernel calls.

Tables are one per output channel, whatever the file has. The input's zero point is folded into
the bias, and padding is filled with it, so that kernels multiply raw bytes. No sum of a kernel
leaves int32: cut short anywhere, it is the sum for an image that is 0 from there on, and `spec` has
bounded the sums for every image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from ndtool.console import visible
from ndtool.errors import UnsupportedError
from ndtool.export.codegen.lower.elementwise import add_factors
from ndtool.export.codegen.lower.overlaps import (
    BLOCK,
    Axis,
    Walk,
    best_walk,
    depthwise_is_in_place,
)
from ndtool.export.codegen.lower.sums import Sum
from ndtool.export.codegen.lower.titles import window_title
from ndtool.export.codegen.program import Call, Read, Scratch, Sharing, Struct, Table, Write
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import (
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    op_name,
)
from ndtool.quant import fixed_point as fp
from ndtool.quant.kernels import I8

# Scratch that a depthwise convolution takes to work on many rows at a time; more where it must
BAND_SCRATCH: Final = 512
MAX_SCRATCH: Final = 2**30  # bytes: the kernel's indices stay in int32


def lower_conv(graph: Graph, op: Conv2D, index: int, fused: Sum | None = None) -> tuple[Call, ...]:
    """A convolution, with the ADD that reads its output where there is one to fuse."""
    rows, columns = _axes(graph, op)
    c_in, c_out = graph.tensor(op.x).shape[3], graph.tensor(op.out).shape[3]
    if _is_pixel(rows) and _is_pixel(columns):
        return _lower_matrix(graph, op, index, fused)
    walk = best_walk(rows, columns, c_in, c_out)
    shape = Struct(
        type="nd_conv_shape",
        fields=(
            *_window_fields(rows, columns, c_in, ("c_out", c_out)),
            ("down", int(walk.down)),
            ("in_zp", graph.tensor(op.x).zero_point),
            *_output_fields(graph, op),
        ),
    )
    title = f"{op_name(op)} {window_title(rows, columns)}"
    return (_block_call(graph, op, index, "nd_conv", title, shape, walk, fused),)


def lower_depthwise(graph: Graph, op: DepthwiseConv2D, index: int) -> tuple[Call, ...]:
    """A depthwise convolution, in place where no row is overwritten before it is read.

    Raises:
        UnsupportedError: the dilated kernel needs more scratch than 32-bit indices reach.
    """
    rows, columns = _axes(graph, op)
    width = (columns.out - 1) * columns.stride + columns.span
    band = max(1, min(rows.out, (BAND_SCRATCH // width - rows.span) // rows.stride + 1))
    scratch = ((band - 1) * rows.stride + rows.span) * width
    if scratch > MAX_SCRATCH:
        name = visible(graph.tensor(op.out).name)
        raise UnsupportedError(
            f"{scratch} bytes of scratch are needed, at most {MAX_SCRATCH}",
            where=f"op {index} {op_name(op)}, tensor {op.out} '{name}'",
            remedy="use a smaller kernel or dilation",
            code="codegen.scratch",
        )
    weight = derive.int8_values(graph.tensor(op.weight))[0]  # (kh, kw, c_out)
    shape = Struct(
        type="nd_depthwise_shape",
        fields=(
            *_window_fields(
                rows, columns, graph.tensor(op.x).shape[3], ("multiplier", op.multiplier)
            ),
            ("band", band),
            ("in_zp", graph.tensor(op.x).zero_point),
            *_output_fields(graph, op),
        ),
    )
    in_place = op.multiplier == 1 and depthwise_is_in_place(rows, columns, band)
    return (
        Call(
            kernel="nd_depthwise_s8",
            op=index,
            title=f"{op_name(op)} {window_title(rows, columns)}",
            args=(
                shape,
                Read(tensor=op.x),
                *_tables(graph, op, np.moveaxis(weight, 2, 0)),
                Scratch(size=scratch),
                Write(tensor=op.out),
            ),
            sharing=(Sharing(x=op.x, out=op.out, low=0, high=0),) if in_place else (),
            macs=graph.tensor(op.out).elements * rows.kernel * columns.kernel,
        ),
    )


def lower_fully_connected(graph: Graph, op: FullyConnected, index: int) -> tuple[Call, ...]:
    """A fully connected layer."""
    return _lower_matrix(graph, op, index, None)


# ---- calls ----


def _lower_matrix(
    graph: Graph, op: Conv2D | FullyConnected, index: int, fused: Sum | None
) -> tuple[Call, ...]:
    """One matrix of weights times a vector, or times that of each pixel."""
    weight = derive.int8_values(graph.tensor(op.weight))
    c_out, c_in = weight.shape[0], weight.shape[-1]
    pixels = graph.tensor(op.out).elements // c_out
    title = op_name(op) if isinstance(op, FullyConnected) else f"{op_name(op)} 1x1"
    if pixels == 1 and fused is None:
        shape = Struct(
            type="nd_fully_connected_shape",
            fields=(("c_in", c_in), ("c_out", c_out), *_output_fields(graph, op)),
        )
        return (
            Call(
                kernel="nd_fully_connected_s8",
                op=index,
                title=title,
                args=(shape, Read(tensor=op.x), *_tables(graph, op, weight), Write(tensor=op.out)),
                macs=c_in * c_out,
            ),
        )
    line = Axis(size=pixels, out=pixels, kernel=1, stride=1, dilation=1, before=0)
    walk = best_walk(line, replace(line, size=1, out=1), c_in, c_out)
    shape = Struct(
        type="nd_pointwise_shape",
        fields=(
            ("pixels", pixels),
            ("c_in", c_in),
            ("c_out", c_out),
            ("down", int(walk.down)),
            *_output_fields(graph, op),
        ),
    )
    return (_block_call(graph, op, index, "nd_pointwise", title, shape, walk, fused),)


def _block_call(
    graph: Graph,
    op: Conv2D | FullyConnected,
    index: int,
    kernel: str,
    title: str,
    shape: Struct,
    walk: Walk,
    fused: Sum | None,
) -> Call:
    """A call of a kernel that forms BLOCK pixels at a time, or of its twin with an ADD."""
    weight = derive.int8_values(graph.tensor(op.weight))
    c_out = weight.shape[0]
    k = weight.size // c_out
    x, tables = Read(tensor=op.x), _tables(graph, op, weight)
    macs = graph.tensor(op.out).elements * k
    if fused is None:
        return Call(
            kernel=f"{kernel}_s8",
            op=index,
            title=title,
            args=(shape, x, *tables, Scratch(size=BLOCK * k), Write(tensor=op.out)),
            sharing=(Sharing(x=op.x, out=op.out, low=walk.low, high=walk.high),),
            macs=macs,
        )
    out = fused.op.out
    return Call(
        kernel=f"{kernel}_add_s8",
        op=fused.index,
        title=f"{title} + ADD",
        args=(
            shape,
            add_factors(graph, replace(fused.op, a=fused.made, b=fused.other)),
            x,
            *tables,
            Read(tensor=fused.other),
            Scratch(size=BLOCK * (k + c_out)),
            Write(tensor=out),
        ),
        sharing=(
            Sharing(x=op.x, out=out, low=walk.low, high=walk.high),
            Sharing(x=fused.other, out=out, low=0, high=0),
        ),
        macs=macs,
    )


# ---- shapes ----


def _axes(graph: Graph, op: Conv2D | DepthwiseConv2D) -> tuple[Axis, Axis]:
    """Rows and columns; steps that are never taken are 1, however large the file has them."""
    sizes, outs = graph.tensor(op.x).shape[1:3], graph.tensor(op.out).shape[1:3]
    rows, columns = (
        Axis(
            size=size,
            out=out,
            kernel=window.kernel,
            stride=1 if out == 1 else window.stride,
            dilation=1 if window.kernel == 1 else window.dilation,
            before=window.padding(size)[0],
        )
        for window, size, out in zip(derive.windows(graph, op), sizes, outs, strict=True)
    )
    return rows, columns


def _is_pixel(axis: Axis) -> bool:
    """Whether each output is of the one pixel with its number."""
    return axis.kernel == 1 and axis.stride == 1 and axis.before == 0 and axis.out == axis.size


def _window_fields(
    rows: Axis, columns: Axis, c_in: int, channels: tuple[str, int]
) -> tuple[tuple[str, int], ...]:
    return (
        ("in_h", rows.size),
        ("in_w", columns.size),
        ("c_in", c_in),
        ("out_h", rows.out),
        ("out_w", columns.out),
        channels,
        ("kh", rows.kernel),
        ("kw", columns.kernel),
        ("stride_h", rows.stride),
        ("stride_w", columns.stride),
        ("dilation_h", rows.dilation),
        ("dilation_w", columns.dilation),
        ("pad_top", rows.before),
        ("pad_left", columns.before),
    )


# ---- numbers ----


def _output_fields(graph: Graph, op: derive.Layer) -> tuple[tuple[str, int], ...]:
    out = graph.tensor(op.out)
    low, high = derive.activation_limits(op.act, out)
    return ("out_zp", out.zero_point), ("act_min", low), ("act_max", high)


def _tables(graph: Graph, op: derive.Layer, weight: I8) -> tuple[Table, ...]:
    """Weights (output channel first), folded bias, multiplier and shift of each output channel."""
    c_out = weight.shape[0]
    sums = weight.reshape(c_out, -1).sum(axis=1, dtype=np.int64)
    bias = -graph.tensor(op.x).zero_point * sums
    if op.bias is not None:
        bias = bias + derive.int32_values(graph.tensor(op.bias)).reshape(-1)
    assert int(np.abs(bias).max()) < 2**31, "the sum for an image of zeros, bounded by spec"
    requant = fp.quantize_multipliers(derive.layer_reals(graph, op))
    mult, shift = (np.broadcast_to(values, (c_out,)) for values in requant)
    return (
        Table(name="w", ctype="int8_t", data=weight.tobytes()),
        Table(name="bias", ctype="int32_t", data=bias.astype("<i4").tobytes()),
        Table(name="mult", ctype="int32_t", data=mult.astype("<i4").tobytes()),
        Table(name="shift", ctype="int8_t", data=shift.astype(np.int8).tobytes()),
    )
