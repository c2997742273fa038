"""What a recipe is made of; the loop knows nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.training.schedule import ALWAYS, Moment, Teaching
from ndtool.training.supernet import SharedSlice, Supernet, Width

Figures = Mapping[str, Tensor]  # 0-d device tensors by column of history.csv


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What the samples of a batch should become."""

    labels: Tensor  # (N,) int64
    external: Tensor | None = None  # (N, K) logits of the external teacher

    def part(self, rows: slice) -> Targets:
        """Those of a part of the batch."""
        return Targets(self.labels[rows], None if self.external is None else self.external[rows])


# Gets logits (N, K), the targets and the detached logits of the passes already made; gives the
# scalar to minimise and its figures.
Loss = Callable[[Tensor, Targets, Sequence[Tensor]], tuple[Tensor, Figures]]
# Adds a narrower network's gradient to the flat one in place; gives its figures.
Combine = Callable[[Tensor, SharedSlice], Figures]


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """Forward and backward of one network."""

    width: Width
    loss: Loss


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Method:
    """The passes of a step and how their gradients join.

    passes: of one step, by its place in the run. The widest network comes first: the narrower ones
        learn from its logits, and its activations are gone before theirs exist.
    means, peaks: the figures that the functions give; an epoch shows their mean or largest value.
    teaching, alone: the steps in which the wider networks take part, and the method of the others;
        None where there are none.
    external: whether the losses read `Targets.external`.
    augmented: whether the passes draw networks wider than the student (`Supernet.between`). They
        share its batch norms, whose statistics are then re-estimated before each evaluation.
    before_epoch: may rearrange the networks; gives whether the student is another one since.
    """

    rates: tuple[int, ...]  # of the wider networks, widest first; () trains the student alone
    passes: Callable[[Supernet, Moment], Sequence[Pass]]
    combine: Combine
    means: tuple[str, ...]
    peaks: tuple[str, ...] = ()
    teaching: Teaching = ALWAYS
    alone: Method | None = None
    external: bool = False
    augmented: bool = False
    before_epoch: Callable[[Supernet, Moment], bool] | None = None


MethodOf = Callable[[TrainOptions, int], Method]  # options, number of classes
