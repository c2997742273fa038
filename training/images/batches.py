"""Images batch by batch: uint8 (B, H, W, C) and labels (B,), on the device.

A global batch is a block of the epoch's permutation; each process takes its part of it
(training-methods, section 8).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ndtool.data.types import Augment, Split
from ndtool.training import collectives
from ndtool.training.images.augment import augment_batch, draw_epoch
from ndtool.training.schedule import steps_per_epoch
from ndtool.training.seeds import Use, generator

Batch = tuple[Tensor, Tensor]  # images (B, H, W, C) uint8, labels (B,) int64


class TrainBatches(Protocol):
    """The training part."""

    def __len__(self) -> int:
        """Number of samples, of all processes together."""
        ...

    def epoch(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """Shuffled and augmented; this process's share of `steps_per_epoch` global batches."""
        ...


class EvalBatches(Protocol):
    """A part to be evaluated."""

    def __len__(self) -> int:
        """Number of samples, of all processes together."""
        ...

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """As they are, each sample in one process once."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """A whole split on the device."""

    images: Tensor  # (N, H, W, C) uint8
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """See `EvalBatches`: every so-manieth batch, as many as there are processes."""
        rank, world = collectives.rank(), collectives.world()
        for start in range(rank * batch_size, len(self), world * batch_size):
            rows = slice(start, start + batch_size)
            yield self.images[rows], self.labels[rows]


@dataclass(frozen=True, slots=True, eq=False)
class Shuffled:
    """Training images that all lie on the device, augmented there a batch at a time."""

    data: Arrays
    augment: Augment
    seed: int

    def __len__(self) -> int:
        return len(self.data)

    def epoch(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """See `TrainBatches`."""
        data, device, count = self.data, self.data.labels.device, len(self.data)
        draws = draw_epoch(self.augment, count, seed=self.seed, epoch=epoch, device=device)
        order = epoch_order(count, seed=self.seed, epoch=epoch).to(device)
        for index in shares(order, batch_size):
            yield augment_batch(data.images, index, self.augment, draws), data.labels[index]


def epoch_order(samples: int, *, seed: int, epoch: int) -> Tensor:
    """(N,) sample numbers in the order of one epoch."""
    return torch.randperm(samples, generator=generator(seed, Use.ORDER, epoch))


def shares(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Of each global batch, a block of `order` (N,), this process's part."""
    for number in range(steps_per_epoch(len(order), batch_size)):
        yield collectives.share(order[number * batch_size : (number + 1) * batch_size])


def to_device(split: Split, device: torch.device | str) -> Arrays:
    """The split's arrays as tensors; without a copy where torch allows it."""
    images = split.images if split.images.flags.writeable else split.images.copy()
    labels = split.labels if split.labels.flags.writeable else split.labels.copy()
    return Arrays(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))
