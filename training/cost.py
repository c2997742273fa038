"""What a step of a recipe costs: in steps of plain training of the same student.

A recipe is fairly held against plain training that ran as long, not against as many epochs
(training-methods, section 9.2). Measured on networks of its own and made-up pixels: nothing of a
run is read or changed. The step alone counts: where a run waits for its images, it is closer to
plain training than this says.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

import torch

from ndtool.arch import ArchSpec
from ndtool.options import TrainOptions
from ndtool.training import collectives
from ndtool.training.freeze import hold_frozen
from ndtool.training.graphs import make_steps
from ndtool.training.images.augment import Normalizer
from ndtool.training.loop import External
from ndtool.training.recipes import plain
from ndtool.training.recipes.method import Method, Targets
from ndtool.training.schedule import Moment, Schedule, run_ends
from ndtool.training.supernet import Supernet
from ndtool.types import Recipe

MOST_PAIRS: Final = 12
GOLDEN: Final = 0.618034  # multiples of it spread evenly over 0..1, however many there are
BUDGET_S: Final = 0.7  # of all pairs but the first two


def step_ratio(
    method: Method,
    *,
    spec: ArchSpec,
    options: TrainOptions,
    schedule: Schedule,
    images: int,
    normalize: Normalizer,
    external: External | None,
    device: torch.device,
) -> float | None:
    """Mean cost of a step of the run, in plain steps; None where the run is plain training.

    From pairs of a plain step and one of `method`, made in turns, so that whatever else the machine
    does meets both; in processor time on a CPU. Steps without wider networks count 1.

    Args:
        images: of one step in this process.
        external: the outer teacher, where the method has one.
    """
    if options.recipe is Recipe.PLAIN:
        return None
    rng = torch.Generator().manual_seed(0)
    shape = (images, spec.height_px, spec.width_px, spec.in_channels)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng).to(device)
    labels = torch.randint(0, spec.classes, (images,), generator=rng).to(device)
    steps, total = schedule.ends[0], schedule.ends[-1]
    epochs = run_ends(options)[-1]
    launch = make_steps(options, normalize)

    def steps_of(one: Method) -> Callable[[int], None]:
        net = Supernet(spec, rates=one.rates, augmented=one.augmented, generator=rng, device=device)

        def make(pair: int) -> None:
            soft = external(pixels) if external is not None and one.external else None
            targets = Targets(labels, soft)
            # All over the run: the networks that a recipe draws change with its course.
            course = pair * GOLDEN % 1
            moment = Moment(int(total * course), steps)
            hold_frozen(net, options, int(epochs * course))
            # A rate of 0 keeps the weights: the cost is the same, and nothing can diverge.
            launch(net, one, pixels, targets, moment=moment, lr=0.0)

        return make

    ours, theirs = steps_of(method), steps_of(plain.method(options, spec.classes))
    share = method.teaching.steps(steps, total) / total if method.alone is not None else 1.0
    return 1 + share * (_ratio(ours, theirs, device) - 1)


def _ratio(
    ours: Callable[[int], None], theirs: Callable[[int], None], device: torch.device
) -> float:
    """Ratio of the costs of the two, the mean of the middle half of the pairs."""

    def pair(number: int) -> float:
        return _seconds(lambda: ours(number), device) / _seconds(lambda: theirs(number), device)

    pair(0)  # memory and the choice of kernels
    started = time.perf_counter()
    ratios = [pair(1)]
    took = torch.full((), time.perf_counter() - started, device=device)
    collectives.average_(took)  # all processes make the same steps: each waits for the others
    more = min(MOST_PAIRS - 1, int(BUDGET_S / max(float(took), 1e-3)))
    ratios = sorted(ratios + [pair(2 + number) for number in range(more)])
    outer = len(ratios) // 4
    return statistics.mean(ratios[outer : len(ratios) - outer])


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Processor time of this process on a CPU, else the time until the device is done."""
    if device.type == "cpu":
        started = time.process_time()
        work()
        return max(time.process_time() - started, 1e-9)
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started
