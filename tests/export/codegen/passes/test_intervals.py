"""Intervals contain what the reference computes, and no more where one byte decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import single_op
from dead_networks import Net, dead_network, telling_images
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.export.codegen.passes.intervals import (
    Interval,
    accumulator,
    axis_taps,
    kernel_taps,
    regrouped,
    tensor_intervals,
)
from ndtool.export.int8.ir import Activation, Binary, BinaryKind, Pads, UnaryKind
from ndtool.export.int8.reference import run_graph, run_tensors
from ndtool.quant.kernels import Window


def interval(*ends: tuple[int, int]) -> Interval:
    low, high = zip(*ends, strict=True)
    return Interval(np.array(low, np.int64), np.array(high, np.int64))


def shown(found: Interval) -> list[tuple[int, int]]:
    return list(zip(found.low.tolist(), found.high.tolist(), strict=True))


@given(st.integers(0, 2**32))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_every_value_lies_in_its_interval(seed: int) -> None:
    graph = dead_network(seed)
    known = tensor_intervals(graph)
    for tensor, values in run_tensors(graph, telling_images(graph, seed)).items():
        assert (values >= known[tensor].low).all(), tensor
        assert (values <= known[tensor].high).all(), tensor


@pytest.mark.parametrize("kind", [kind.value for kind in UnaryKind])
@pytest.mark.parametrize("number", range(5))
def test_tables_give_the_exact_interval(kind: str, number: int) -> None:
    graph = single_op.CASES[kind](np.random.default_rng([4, number]))
    (out,) = run_graph(graph, np.arange(-128, 128).astype(np.int8).reshape(1, 256))
    assert set(shown(tensor_intervals(graph)[graph.outputs[0]])) == {(out.min(), out.max())}


@pytest.mark.parametrize("kind", BinaryKind)
@pytest.mark.parametrize("number", range(5))
def test_pairs_of_bytes_give_the_exact_interval(kind: BinaryKind, number: int) -> None:
    rng = np.random.default_rng([5, number])
    n = Net(number)
    a, b = (n.activation((1, 256, 256, 1), n.some()) for _ in range(2))
    out = n.activation((1, 256, 256, 1), (float(np.float32(rng.uniform(0.1, 2))), 0))
    graph = n.graph(n.push(Binary(kind=kind, a=a, b=b, out=out, act=Activation.NONE)))
    graph = replace(graph, inputs=(a, b))
    every = np.arange(-128, 128).astype(np.int8)
    left, right = np.meshgrid(every, every)
    (values,) = run_graph(graph, *(v.reshape(1, 256, 256, 1) for v in (left, right)))
    assert shown(tensor_intervals(graph)[out]) == [(values.min(), values.max())]


@given(
    st.integers(1, 9),
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 3),
    st.none() | st.tuples(st.integers(0, 4), st.integers(0, 4)),
)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_taps_are_those_of_the_window(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int] | None
) -> None:
    window = Window(kernel, stride, dilation, pads is None, pads or (0, 0))
    positions = window.output(size)
    if positions < 1:
        return
    before, _ = window.padding(size)
    pixels = [
        [o * stride + tap * dilation - before for o in range(positions)] for tap in range(kernel)
    ]
    taps = axis_taps(window, size)
    assert taps.image.tolist() == [any(0 <= p < size for p in row) for row in pixels]
    assert taps.border.tolist() == [any(not 0 <= p < size for p in row) for row in pixels]


def test_padding_counts_only_where_it_is() -> None:
    """One row of padding above: the first row of the kernel sees it, the second does not."""
    n = Net(0)
    x = n.activation((1, 2, 1, 1), (0.1, -100))
    weight = np.array([1, 10], np.int8).reshape(1, 2, 1, 1)
    n.layer(x, weight, [1000], padding=Pads(top=1, left=0, bottom=0, right=0))
    graph = n.graph(n.ops[0].out)
    taps = kernel_taps(graph, n.ops[0])
    assert (taps.image.ravel().tolist(), taps.border.ravel().tolist()) == (
        [True, True],
        [True, False],
    )
    sums = accumulator(graph, n.ops[0], interval((-90, -80)))
    assert shown(sums) == [(1000 + 0 + 100, 1000 + 20 + 200)]


@pytest.mark.parametrize(
    ("ends", "channels", "expected"),
    [
        ([(1, 2), (3, 4)], 2, [(1, 2), (3, 4)]),
        ([(1, 2), (3, 4)], 4, [(1, 2), (3, 4), (1, 2), (3, 4)]),
        ([(1, 2), (3, 4), (5, 6), (0, 3)], 2, [(1, 6), (0, 4)]),
        ([(1, 2), (3, 4)], 1, [(1, 4)]),
        ([(1, 2), (3, 4)], 3, [(1, 4)] * 3),
    ],
)
def test_regrouped_channels(
    ends: list[tuple[int, int]], channels: int, expected: list[tuple[int, int]]
) -> None:
    assert shown(regrouped(interval(*ends), channels)) == expected
