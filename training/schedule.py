"""What follows from the number of a step: its learning rate, and whether a teacher takes part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ndtool.options import TrainOptions


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rate by step: linear warm-up to `peak`, then cosine to 0 (training-methods, 1.7).

    A run that is extended goes on with the cosine that the longer run would have had there: the
    rate jumps up from 0, and falls again. `ends` are the steps at which the run ends or did end
    before it was extended.
    """

    peak: float
    warmup_steps: int
    ends: tuple[int, ...]

    def lr(self, step: int) -> float:
        """Rate of step 0 .. ends[-1] - 1; it would be 0 at each end."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        end = next((end for end in self.ends if step < end), self.ends[-1])
        share = (step - self.warmup_steps) / (end - self.warmup_steps)
        return self.peak * 0.5 * (1 + math.cos(math.pi * share))


def run_ends(options: TrainOptions) -> tuple[int, ...]:
    """Epochs after which the run ends: without its extensions, then with each of them."""
    assert options.epochs is not None
    return (options.epochs, *(options.epochs + more for more in options.extend_epochs))


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Whole batches; a set smaller than one batch is one step."""
    return max(1, samples // batch_size)


def make_schedule(options: TrainOptions, samples: int, ends: Sequence[int]) -> Schedule:
    """The schedule of a run over `samples` training images; `ends` in epochs.

    The warm-up is a share of the run before it was extended.
    """
    a_epoch = steps_per_epoch(samples, options.batch_size)
    return Schedule(
        options.lr, round(options.warmup * ends[0] * a_epoch), tuple(e * a_epoch for e in ends)
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """A step by its number, and the length of its run before it was extended, in steps."""

    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class Teaching:
    """The steps in which the wider networks take part (training-methods, 1.10).

    start, stop: shares of the run before it was extended; `stop` 1 means to the very end.
    every: on each so-manieth step between the two.
    """

    start: float = 0.0
    stop: float = 1.0
    every: int = 1

    @property
    def always(self) -> bool:
        """Whether every step has all networks."""
        return self == ALWAYS

    def on(self, step: int, steps: int) -> bool:
        """Whether the wider networks take part in `step` of a run of `steps`."""
        first = round(self.start * steps)
        ended = self.stop < 1 and step >= round(self.stop * steps)
        return step >= first and not ended and (step - first) % self.every == 0

    def steps(self, steps: int, total: int) -> int:
        """How many of `total` steps have the wider networks; `steps` as for `on`."""
        first = round(self.start * steps)
        last = min(total, round(self.stop * steps)) if self.stop < 1 else total
        return len(range(first, last, self.every))


ALWAYS: Final = Teaching()
