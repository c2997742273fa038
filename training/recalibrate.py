"""The student's running statistics re-estimated from training images.

For NetAug (training-methods, section 2). Its networks share their weights and batch norms, so what
the student's layers see changes with every pass of another network; an average over past steps lags
behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import torch
from torch import Tensor

from ndtool.arch import lower, tensor_shapes
from ndtool.options import TrainOptions
from ndtool.training.build import BN_STATISTICS
from ndtool.training.images.augment import Normalizer
from ndtool.training.images.batches import TrainBatches
from ndtool.training.schedule import steps_per_epoch
from ndtool.training.supernet import Supernet

RECALIBRATION_IMAGES: Final = 16_000  # of all processes together


def recalibration_batches(
    train: TrainBatches, normalize: Normalizer, options: TrainOptions
) -> Iterator[Tensor]:
    """This process's share of the same augmented images every time, in batches as in training.

    As in a step, batch norm sees one part of an accumulated batch at a time.
    """
    size = options.batch_size // options.accumulate
    count = min(steps_per_epoch(len(train), size), max(1, RECALIBRATION_IMAGES // size))
    for pixels, _ in islice(train.epoch(0, size), count):
        yield normalize(pixels)


@torch.no_grad()
def recalibrate(net: Supernet, batches: Iterable[Tensor]) -> None:
    """Set the student's running statistics to the mean over `batches` of each one's own.

    Every batch (B, C, H, W) is normalised by itself and counts by its size. Variances are the
    biased ones, of B values and not B - 1.
    """
    statistics = net.student_statistics  # (S,)
    pixels = _pixels(net).to(statistics.device)  # (S,)
    total = torch.zeros_like(statistics, dtype=torch.float64)
    images = 0
    for batch in batches:
        statistics.zero_()
        net.student(batch, training=True, momentum=1.0)  # leaves the batch's own
        total += len(batch) * statistics * (1 - 1 / (len(batch) * pixels))
        images += len(batch)
    statistics.copy_(total / images)


def _pixels(net: Supernet) -> Tensor:
    """(S,) float64: pixels of a layer's map for each of its variances, infinity for the means."""
    layers = lower(net.student.spec)
    shapes = tensor_shapes(layers)
    areas = {layer.name: layer.hw_out[0] * layer.hw_out[1] for layer in layers}
    mean, variance = BN_STATISTICS
    parts = []
    for name in net.layout.statistics[-1]:
        own = name.endswith(variance)
        area = areas[name.removesuffix(f".{variance if own else mean}")]
        parts.append(torch.full(shapes[name], float(area) if own else torch.inf).double())
    return torch.cat(parts)
