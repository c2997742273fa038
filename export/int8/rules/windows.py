"""Rules of the operations that slide a window or reduce: pools and MEAN."""

from __future__ import annotations

from typing import Final

from ndtool.export.int8 import derive
from ndtool.export.int8.ir import Conv2D, DepthwiseConv2D, Graph, Mean, Pads, Pool2D
from ndtool.export.int8.rules.row import (
    ACTIVATION,
    EQUAL_PARAMS,
    MAX_MACS,
    OVERFLOW,
    Faults,
    Role,
    Row,
    Shape,
    activation_faults,
    equal_faults,
    int_list,
)
from ndtool.quant import fixed_point as fp

MAX_STEP: Final = 2**16  # pixels of a stride, a dilated kernel or a padding: indices stay in int32
MAX_WINDOW: Final = 2**23  # pixels of a pool's window: their sum stays in int32

# what `step_faults` demands
STRIDE: Final = (
    f"strides and the span of the dilated kernel are 1 to {MAX_STEP:,} pixels, dilations at least 1"
)
PADS: Final = f"explicit padding is 0 to {MAX_STEP:,} pixels a side"


def step_faults(graph: Graph, op: Conv2D | DepthwiseConv2D | Pool2D) -> Faults:
    """Strides, dilations and explicit padding are in bounds, so that no index leaves int32."""
    rows, columns = derive.windows(graph, op)
    for axis in (rows, columns):
        if not (1 <= axis.stride <= MAX_STEP and axis.dilation >= 1 and axis.span <= MAX_STEP):
            text = f"stride {axis.stride}, dilation {axis.dilation} of a kernel of {axis.kernel}"
            yield "op.stride", f"{text}: not in 1..{MAX_STEP} pixels"
    pads = op.padding
    if isinstance(pads, Pads):
        sides = (pads.top, pads.left, pads.bottom, pads.right)
        if not all(0 <= n <= MAX_STEP for n in sides):
            yield "op.pads", f"padding {list(sides)} is not of 0..{MAX_STEP} pixels"


def _pool_attributes(graph: Graph, op: Pool2D) -> Faults:
    x = graph.tensor(op.x)
    if len(x.shape) != 4:
        yield "op.rank", f"input {list(x.shape)} must be 4-D"
        return
    # a window above 2n - 1 sees nothing more; the bound keeps hostile files cheap
    if any(not 1 <= k < 2 * n for k, n in zip(op.kernel, x.shape[1:3], strict=True)):
        yield "op.kernel", f"kernel {list(op.kernel)} on {list(x.shape[1:3])} pixels"
    yield from step_faults(graph, op)


def _pool_shape(graph: Graph, op: Pool2D) -> Shape:
    _, height, width, channels = graph.tensor(op.x).shape
    rows, columns = derive.windows(graph, op)
    return (1, rows.output(height), columns.output(width), channels)


def _pool_arithmetic(graph: Graph, op: Pool2D) -> Faults:
    out = graph.tensor(op.out)
    yield from equal_faults(graph, (op.out,), op.x)
    yield from activation_faults(op.act, out)
    pixels = op.kernel[0] * op.kernel[1]
    if pixels > MAX_WINDOW:
        yield "op.kernel", f"a window of {pixels} pixels, at most {MAX_WINDOW}"
    steps = out.elements * pixels
    if steps > MAX_MACS:
        yield "op.macs", f"{steps} comparisons or additions, at most {MAX_MACS}"


def _mean_attributes(graph: Graph, op: Mean) -> Faults:
    x, axes = graph.tensor(op.x), graph.tensor(op.axes_id)
    rank = len(x.shape)
    ordered = bool(op.axes) and list(op.axes) == sorted(set(op.axes))
    if not ordered or op.axes[0] < 1 or op.axes[-1] >= rank:
        yield "op.axes", f"axes {list(op.axes)} of a rank {rank} tensor, batch excluded"
    elif {a % rank if -rank <= a < rank else None for a in int_list(axes)} != set(op.axes):
        yield "op.axes", f"axes {list(op.axes)}, but the file's are {int_list(axes)[:8]}"


def _mean_shape(graph: Graph, op: Mean) -> Shape:
    shape = graph.tensor(op.x).shape
    if op.keep_dims:
        return tuple(1 if i in op.axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in op.axes)


def _mean_arithmetic(graph: Graph, op: Mean) -> Faults:
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    count = x.elements // out.elements
    bound = count * fp.max_abs_offset(x.zero_point)
    if not fp.requant_fits(bound, fp.mean_requant(x.scale, out.scale, count)):
        yield "op.overflow", "the sum can leave 32 bits"


POOL: Final[Row[Pool2D]] = Row(
    rules={
        "op.rank": "x has 4 dimensions",
        "op.kernel": "along each axis of n pixels the window has 1 to 2n - 1, in all at most "
        f"{MAX_WINDOW:,}",
        "op.stride": STRIDE,
        "op.equal-params": EQUAL_PARAMS,
        "op.activation": ACTIVATION,
        "op.macs": f"at most {MAX_MACS:,} comparisons or additions",
    },
    operands=lambda op: ((op.x, Role.ACTIVATION),),
    attributes=_pool_attributes,
    shape=_pool_shape,
    arithmetic=_pool_arithmetic,
)
MEAN: Final[Row[Mean]] = Row(
    rules={
        "op.axes": "at least one axis, ascending, none the batch, those of the file's constant",
        "op.overflow": OVERFLOW,
    },
    operands=lambda op: ((op.x, Role.ACTIVATION), (op.axes_id, Role.INDEX)),
    attributes=_mean_attributes,
    shape=_mean_shape,
    arithmetic=_mean_arithmetic,
)
