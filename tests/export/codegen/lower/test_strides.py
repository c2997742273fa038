"""Loops: the same walk, in fewer of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.export.codegen.lower.strides import Loop, broadcast_strides, nest, row_major

PAIRS = st.tuples(st.integers(-6, 6), st.integers(-6, 6))
LOOPS = st.lists(st.tuples(st.integers(1, 4), PAIRS), min_size=1, max_size=4)


def walk(loops: list[Loop] | tuple[Loop, ...]) -> list[tuple[int, ...]]:
    """Where each tensor is at each pass of the innermost loop."""
    passes = itertools.product(*(range(loop.n) for loop in loops))
    tensors = range(len(loops[0].steps))
    return [
        tuple(sum(i * loop.steps[t] for i, loop in zip(at, loops, strict=True)) for t in tensors)
        for at in passes
    ]


@given(LOOPS)
@settings(derandomize=True, deadline=None, max_examples=200)
def test_nesting_keeps_the_walk(rows: list[tuple[int, tuple[int, int]]]) -> None:
    loops = [Loop(n, steps) for n, steps in rows]
    nested = nest(loops, 4)
    assert len(nested) == 4
    assert walk(nested) == walk(loops)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_a_whole_tensor_is_one_loop(shape: list[int]) -> None:
    loops = [Loop(n, (step,)) for n, step in zip(shape, row_major(shape), strict=True)]
    (loop,) = nest(loops, 1)
    assert loop.n == np.prod(shape)


def test_too_many_loops_are_a_fault_of_ours() -> None:
    with pytest.raises(AssertionError, match="2 loops of 1"):
        nest([Loop(2, (9,)), Loop(2, (1,))], 1)


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=100)
def test_broadcast_strides_are_numpy_s(data: st.DataObject) -> None:
    out = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    kept = data.draw(st.integers(0, len(out)))
    shape = [data.draw(st.sampled_from([1, n])) for n in out[len(out) - kept :]]
    strides = np.broadcast_to(np.zeros(shape, np.int8), out).strides
    found = broadcast_strides(shape, out)
    # the step along a dimension of one element is never taken
    assert [s for s, n in zip(found, out, strict=True) if n > 1] == [
        s for s, n in zip(strides, out, strict=True) if n > 1
    ]
