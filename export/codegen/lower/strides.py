"""Tensors as nested loops with steps: how kernels walk through them, with as few loops as will do.

All strides and steps are bytes, which are int8 elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loop:
    """`n` passes; each moves by `steps`, one for each tensor that is walked through."""

    n: int
    steps: tuple[int, ...]


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """The stride of each dimension."""
    strides = [1]
    for n in reversed(shape[1:]):
        strides.append(strides[-1] * n)
    return tuple(reversed(strides[: len(shape)]))


def broadcast_strides(shape: Sequence[int], out_shape: Sequence[int]) -> tuple[int, ...]:
    """An operand's step along each dimension of the output; 0 where it is repeated."""
    missing = len(out_shape) - len(shape)
    steps = (0 if n == 1 else step for n, step in zip(shape, row_major(shape), strict=True))
    return (*(0,) * missing, *steps)


def nest(loops: Sequence[Loop], depth: int) -> tuple[Loop, ...]:
    """The same walk in exactly `depth` loops, outermost first; empty ones do one pass.

    Loops of one pass are left out, and a loop is joined with the one inside it where the steps
    continue. `loops` has at least one loop, and needs no more than `depth`.
    """
    joined: list[Loop] = []
    for loop in loops:
        if loop.n == 1:
            continue
        if joined and joined[-1].steps == tuple(step * loop.n for step in loop.steps):
            joined[-1] = Loop(joined[-1].n * loop.n, loop.steps)
        else:
            joined.append(loop)
    assert len(joined) <= depth, f"{len(joined)} loops of {depth}"
    empty = Loop(1, (0,) * len(loops[0].steps))
    return (*(empty,) * (depth - len(joined)), *joined)
