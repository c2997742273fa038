"""A step recorded once as a CUDA graph and then replayed: no launch of single kernels any more.

A tiny network's step is hundreds of kernels of a few microseconds, and the host is slower at
launching them than the GPU at running them. A replay has the same kernels in the same order, so
the weights are those of the single launches. What changes from step to step (pixels, labels, soft
labels, learning rate) is copied into fixed tensors before the replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.training.images.augment import Normalizer
from ndtool.training.recipes.method import Figures, Method, Targets
from ndtool.training.schedule import Moment
from ndtool.training.step import train_step
from ndtool.training.supernet import Supernet

T = TypeVar("T")
WARM_UP: Final = 3  # runs before recording, so that cuDNN has chosen and memory is there
# Records a function without arguments: gives what repeats it, and the results of the recording,
# which every repetition overwrites.
Record = Callable[[Callable[[], T]], tuple[Callable[[], None], T]]


def record_cuda(work: Callable[[], T]) -> tuple[Callable[[], None], T]:
    """`work` as a CUDA graph; it is run WARM_UP times before."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # untyped in torch
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = work()
    return graph.replay, results


@dataclass(frozen=True, slots=True, eq=False)
class _Recorded:
    pixels: Tensor
    targets: Targets
    lr: Tensor  # 0-d
    replay: Callable[[], None]
    results: tuple[Figures, Tensor]


@dataclass(frozen=True, slots=True)
class SingleSteps:
    """Each kernel launched by itself."""

    options: TrainOptions
    normalize: Normalizer

    def __call__(
        self,
        net: Supernet,
        method: Method,
        pixels: Tensor,
        targets: Targets,
        *,
        moment: Moment,
        lr: float,
    ) -> tuple[Figures, Tensor]:
        """One step on pixels (B, H, W, C) uint8; gives what `train_step` gives."""
        images = self.normalize(pixels)
        return train_step(net, method, images, targets, moment=moment, lr=lr, options=self.options)


class GraphedSteps:
    """`train_step` from pixels on, one graph for each network that a run's steps are made on.

    One more where some of its tensors are held for the first epochs (`Supernet.hold`).
    """

    def __init__(
        self,
        options: TrainOptions,
        normalize: Normalizer,
        record: Record[tuple[Figures, Tensor]] = record_cuda,
    ) -> None:
        self._options = options
        self._normalize = normalize
        self._record = record
        self._recorded: dict[tuple[int, bool], _Recorded] = {}

    def __call__(
        self,
        net: Supernet,
        method: Method,
        pixels: Tensor,
        targets: Targets,
        *,
        moment: Moment,
        lr: float,
    ) -> tuple[Figures, Tensor]:
        """As `SingleSteps`; the results are valid until the next step."""
        key = (id(net), net.held is not None)
        if key not in self._recorded:
            self._recorded[key] = self._make(net, method, pixels, targets, moment, lr)
        made = self._recorded[key]
        made.pixels.copy_(pixels)
        made.targets.labels.copy_(targets.labels)
        if made.targets.external is not None and targets.external is not None:
            made.targets.external.copy_(targets.external)
        made.lr.fill_(lr)
        made.replay()
        return made.results

    def _make(
        self,
        net: Supernet,
        method: Method,
        pixels: Tensor,
        targets: Targets,
        moment: Moment,
        lr: float,
    ) -> _Recorded:
        """Record the step; what the runs before the recording changed is put back.

        Every step is recorded as the one at `moment`: a method whose passes differ from step to
        step cannot be replayed.
        """
        before = [tensor.clone() for tensor in (net.theta, net.momentum, net.statistics)]
        held = pixels.clone()
        soft = None if targets.external is None else targets.external.clone()
        aims = Targets(targets.labels.clone(), soft)
        rate = torch.full((), lr, device=pixels.device)

        def work() -> tuple[Figures, Tensor]:
            return train_step(
                net,
                method,
                self._normalize(held),
                aims,
                moment=moment,
                lr=rate,
                options=self._options,
            )

        replay, results = self._record(work)
        for tensor, old in zip((net.theta, net.momentum, net.statistics), before, strict=True):
            tensor.copy_(old)
        return _Recorded(held, aims, rate, replay, results)


Steps = SingleSteps | GraphedSteps


def make_steps(options: TrainOptions, normalize: Normalizer) -> Steps:
    """How the steps of a run are made."""
    return (GraphedSteps if options.cuda_graphs else SingleSteps)(options, normalize)
