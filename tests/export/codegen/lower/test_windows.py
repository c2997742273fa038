"""Sharing rules and loops of pools and means; their bytes: test_kernels_other."""

import numpy as np
import pytest
import wide_ops
from single_op import Builder

from ndtool.export.codegen.lower.windows import lower_mean, lower_pool
from ndtool.export.codegen.program import Call, Struct
from ndtool.export.int8 import derive, spec
from ndtool.export.int8.ir import Activation, Graph, Mean, PaddingKind, Pool2D
from ndtool.quant.kernels import Window

STRIDES = ((1, 1), (2, 2), (1, 3))


def pool_graph(
    shape: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: PaddingKind = PaddingKind.VALID,
) -> Graph:
    b = Builder()
    same = padding is PaddingKind.SAME
    out = [Window(kernel[i], stride[i], 1, same).output(shape[1 + i]) for i in (0, 1)]
    op = Pool2D(
        is_max=False,
        x=b.activation(shape, (0.1, 0)),
        out=b.activation((1, *out, shape[3]), (0.1, 0)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        act=Activation.NONE,
    )
    return b.graph(op, op.x)


def only_call(graph: Graph) -> Call:
    (op,) = graph.ops
    (call,) = lower_mean(graph, op, 0) if isinstance(op, Mean) else lower_pool(graph, op, 0)
    return call


def highest_start(graph: Graph) -> int:
    """The largest out - x at which no byte of x is written before it is read, by trying them all.

    In the order of the kernel: by pixels, then channels, a window's pixels being read for each.
    """
    (op,) = graph.ops
    assert isinstance(op, Pool2D)
    _, height, width, channels = graph.tensor(op.x).shape
    rows, columns = derive.windows(graph, op)
    last_read = np.full(height * width * channels, -1)
    time = 0
    for y in range(rows.output(height)):
        for x in range(columns.output(width)):
            for channel in range(channels):
                top, left = (
                    y * rows.stride - rows.padding(height)[0],
                    x * columns.stride - columns.padding(width)[0],
                )
                for row in range(max(0, top), min(height, top + rows.kernel)):
                    for column in range(max(0, left), min(width, left + columns.kernel)):
                        last_read[(row * width + column) * channels + channel] = time
                time += 1
    # output t is written after the reads of time t: at start + t must be nothing read later
    later = np.array([np.flatnonzero(last_read > t).min(initial=10**6) for t in range(time)])
    return int((later - 1 - np.arange(time)).min())


@pytest.mark.parametrize("number", range(60))
def test_pool_may_lie_as_high_as_reads_allow(number: int) -> None:
    graph = wide_ops.pool(np.random.default_rng([7, number]), is_max=number % 2 == 0)
    (rule,) = only_call(graph).sharing
    assert rule.low is None
    assert rule.high is not None
    highest = highest_start(graph)
    assert rule.high <= highest
    (op,) = graph.ops
    assert isinstance(op, Pool2D)
    # room the rule does not use: pixels between windows, and the first one if it has one channel
    gapless = all(k >= s for k, s in zip(op.kernel, op.stride, strict=True))
    if gapless and graph.tensor(op.x).shape[3] > 1:
        assert rule.high == highest


def test_title_says_what_is_not_usual() -> None:
    titles = [only_call(pool_graph((1, 9, 9, 2), (3, 2), stride)).title for stride in STRIDES]
    assert titles == [f"AVERAGE_POOL_2D 3x2{end}" for end in ("", " s2", " s1x3")]


def test_usual_pools_are_in_place() -> None:
    """Windows beside each other, and one window for all of the image."""
    for graph in (
        pool_graph((1, 8, 8, 16), (2, 2), (2, 2)),
        pool_graph((1, 3, 3, 9), (3, 3), (1, 1)),
    ):
        assert only_call(graph).sharing[0].high == 0


def test_padding_keeps_the_output_below_the_input() -> None:
    graph = pool_graph((1, 6, 6, 4), (3, 3), (1, 1), PaddingKind.SAME)
    assert only_call(graph).sharing[0].high == -4 * (6 + 1)


def test_window_that_could_overflow_is_refused() -> None:
    graph = pool_graph((1, 4096, 2049, 1), (4096, 2049), (1, 1))
    assert [problem.rule for problem in spec.find_problems(graph)] == ["op.kernel"]
    graph = pool_graph((1, 4096, 2048, 1), (4096, 2048), (1, 1))
    assert spec.find_problems(graph) == []


def mean_fields(shape: tuple[int, ...], axes: tuple[int, ...]) -> dict[str, int]:
    b = Builder()
    x = b.activation(shape, (0.1, 3))
    kept = [n for i, n in enumerate(shape) if i not in axes]
    op = Mean(
        x=x, axes_id=b.int32(axes), out=b.activation(kept, (0.1, 0)), axes=axes, keep_dims=False
    )
    (struct,) = (arg for arg in only_call(b.graph(op, x)).args if isinstance(arg, Struct))
    return dict(struct.fields)


def test_mean_of_an_image_is_one_loop_over_pixels() -> None:
    found = mean_fields((1, 4, 5, 8), (1, 2))
    assert (found["outer"], found["inner"], found["inner_step"]) == (1, 8, 1)
    assert (found["rows"], found["columns"], found["column_step"]) == (1, 20, 8)
    assert found["bias"] == -3 * 20


def test_mean_of_alternating_axes_needs_all_loops() -> None:
    found = mean_fields((1, 2, 3, 4, 5), (1, 3))
    assert [found[n] for n in ("outer", "inner", "rows", "columns")] == [3, 5, 2, 4]
    steps = [found[f"{n}_step"] for n in ("outer", "inner", "row", "column")]
    assert steps == [20, 1, 60, 5]
