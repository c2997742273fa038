"""What a recipe is made of; the loop knows nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.training.supernet import SharedSlice

Figures = Mapping[str, Tensor]  # 0-d device tensors by column of history.csv
Loss = Callable[[Tensor, Tensor, Sequence[Tensor]], tuple[Tensor, Figures]]
Combine = Callable[[Tensor, SharedSlice], Figures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """The passes of a step, widest network first, and how their gradients join.

    losses: one per network. Gets logits (N, K), labels (N,) int64 and the detached logits of the
        passes already made; gives the scalar to minimise and its figures.
    combine: adds a narrower network's gradient to the flat one in place; gives its figures.
    means, peaks: the figures that the functions give; an epoch shows their mean or largest value.
    """

    rates: tuple[int, ...]  # of the wider networks; () trains the student alone
    losses: tuple[Loss, ...]
    combine: Combine
    means: tuple[str, ...]
    peaks: tuple[str, ...] = ()


MethodOf = Callable[[TrainOptions, int], Method]  # options, number of classes
