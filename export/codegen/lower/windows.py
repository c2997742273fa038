"""Pools and means as kernel calls."""

from __future__ import annotations

from ndtool.export.codegen.lower.strides import Loop, nest, row_major
from ndtool.export.codegen.lower.titles import window_title
from ndtool.export.codegen.program import Call, Read, Sharing, Struct, Write
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import Graph, Mean, Pool2D, op_name
from ndtool.quant import fixed_point as fp
from ndtool.quant.kernels import Window


def lower_pool(graph: Graph, op: Pool2D, index: int) -> tuple[Call, ...]:
    """AVERAGE_POOL_2D or MAX_POOL_2D; over its input where no later window reads there."""
    _, in_h, in_w, channels = graph.tensor(op.x).shape
    _, out_h, out_w, _ = graph.tensor(op.out).shape
    rows, columns = derive.windows(graph, op)
    low, high = derive.activation_limits(op.act, graph.tensor(op.out))
    shape = Struct(
        type="nd_pool_shape",
        fields=(
            ("in_h", in_h),
            ("in_w", in_w),
            ("channels", channels),
            ("out_h", out_h),
            ("out_w", out_w),
            ("kh", rows.kernel),
            ("kw", columns.kernel),
            ("stride_h", rows.stride),
            ("stride_w", columns.stride),
            ("pad_top", rows.padding(in_h)[0]),
            ("pad_left", columns.padding(in_w)[0]),
            ("act_min", low),
            ("act_max", high),
        ),
    )
    lead = _least_lead(rows, in_h, in_w, out_w) + _least_lead(columns, in_w, 1, 1)
    return (
        Call(
            kernel="nd_max_pool_s8" if op.is_max else "nd_average_pool_s8",
            op=index,
            title=f"{op_name(op)} {window_title(rows, columns)}",
            args=(shape, Read(tensor=op.x), Write(tensor=op.out)),
            sharing=(Sharing(x=op.x, out=op.out, low=None, high=channels * lead),),
        ),
    )


def _least_lead(window: Window, size: int, in_step: int, out_step: int) -> int:
    """Least distance, in pixels, from an output to the first input that its window reads.

    Both from their tensor's start, along one axis of `size` pixels; rows and columns add up.
    Outputs are formed in ascending order and no window begins before the one before it begins, or,
    at the end of a row, before the next row's first. So where the output lies no further than this
    above the input, no byte is written that is read later.
    """
    before, _ = window.padding(size)
    # the first input stands still while the window leaves the padding, then moves as fast as the
    # output at least: the distance is least at the turn, on either side of it
    last = window.output(size) - 1
    turn = (min(before // window.stride, last), min(-(-before // window.stride), last))
    return min(max(0, o * window.stride - before) * in_step - o * out_step for o in turn)


def lower_mean(graph: Graph, op: Mean, index: int) -> tuple[Call, ...]:
    """MEAN: two loops over what is kept, two over what is averaged, the least for any axes."""
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    loops = [Loop(n, (step,)) for n, step in zip(x.shape, row_major(x.shape), strict=True)]
    outer, inner = nest([loop for i, loop in enumerate(loops) if i not in op.axes], 2)
    rows, columns = nest([loops[axis] for axis in op.axes], 2)
    count = rows.n * columns.n
    requant = fp.mean_requant(x.scale, out.scale, count)
    shape = Struct(
        type="nd_mean_shape",
        fields=(
            ("outer", outer.n),
            ("inner", inner.n),
            ("outer_step", outer.steps[0]),
            ("inner_step", inner.steps[0]),
            ("rows", rows.n),
            ("columns", columns.n),
            ("row_step", rows.steps[0]),
            ("column_step", columns.steps[0]),
            ("bias", -x.zero_point * count),
            ("mult", int(requant.multiplier)),
            ("shift", int(requant.shift)),
            ("out_zp", out.zero_point),
        ),
    )
    return (
        Call(
            kernel="nd_mean_s8",
            op=index,
            title=f"MEAN of {count}",
            args=(shape, Read(tensor=op.x), Write(tensor=op.out)),
            # an output's inputs never begin below its own place, and none before them is read again
            sharing=(Sharing(x=op.x, out=op.out, low=None, high=0),),
        ),
    )
