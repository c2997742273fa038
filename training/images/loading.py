"""Batches for training and validation: from memory, or decoded by other processes meanwhile.

A streamed batch has the pixels, and with `crop` the augmentation, of one from memory, bit for bit:
the same decoder, the same draws by sample number, the same cut on the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ndtool.data.folder import Listed
from ndtool.data.readers import CHUNK, Plain, Read, Readers, chunks_of
from ndtool.data.types import U8, Augment, Split
from ndtool.options import TrainOptions
from ndtool.training import collectives
from ndtool.training.images.augment import crop_and_flip, draw_epoch
from ndtool.training.images.batches import (
    Batch,
    EvalBatches,
    Shuffled,
    TrainBatches,
    epoch_order,
    shares,
    to_device,
)
from ndtool.training.images.resized_crop import ResizedCrop
from ndtool.types import Augmentation


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """A part whose files are decoded each time they are needed."""

    part: Listed
    labels: Tensor  # (N,) int64, on the device
    readers: Readers

    def __len__(self) -> int:
        return len(self.part)

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """See `EvalBatches`: every so-manieth batch, as many as there are processes."""
        rank, world = collectives.rank(), collectives.world()
        starts = range(rank * batch_size, len(self), world * batch_size)
        blocks = [range(start, min(start + batch_size, len(self))) for start in starts]
        images = self.images(Plain(self.part.decoder), blocks, epoch=0)
        for start, pixels in zip(starts, images, strict=True):
            yield pixels, self.labels[start : start + batch_size]

    def images(
        self, read: Read, blocks: Sequence[Sequence[int]], *, epoch: int
    ) -> Iterator[Tensor]:
        """For each block of sample numbers its images (B, H, W, C) uint8, on the device."""
        files, device = self.part.files, self.labels.device
        chunks = (c for block in blocks for c in chunks_of(files, block, epoch=epoch))
        two_batches = 2 * math.ceil(max(map(len, blocks), default=0) / CHUNK)
        with closing(self.readers.pixels(read, chunks, ahead=two_batches)) as pixels:
            for block in blocks:
                batch = torch.empty(
                    (len(block), *read.shape), dtype=torch.uint8, pin_memory=device.type == "cuda"
                )
                fill(batch.numpy(), pixels)
                yield batch.to(device, non_blocking=True)


def fill(batch: U8, pixels: Iterator[U8]) -> None:
    """Put the next images into `batch` (B, H, W, C), whose end falls on one of theirs."""
    filled = 0
    while filled < len(batch):
        some = next(pixels)
        batch[filled : filled + len(some)] = some
        filled += len(some)


@dataclass(frozen=True, slots=True, eq=False)
class StreamedShuffled:
    """Training images that are decoded as they are needed, and then augmented on the device."""

    data: Streamed
    read: Read
    augment: Augment | None  # None: `read` varies them already
    seed: int

    def __len__(self) -> int:
        return len(self.data)

    def epoch(self, epoch: int, batch_size: int) -> Iterator[Batch]:
        """See `TrainBatches`."""
        labels, count = self.data.labels, len(self)
        order = epoch_order(count, seed=self.seed, epoch=epoch)
        blocks = [index.tolist() for index in shares(order, batch_size)]
        draws = None
        if self.augment is not None:
            draws = draw_epoch(
                self.augment, count, seed=self.seed, epoch=epoch, device=labels.device
            )
        images = self.data.images(self.read, blocks, epoch=epoch)
        for index, pixels in zip(shares(order.to(labels.device), batch_size), images, strict=True):
            if self.augment is None or draws is None:
                yield pixels, labels[index]
            else:
                yield crop_and_flip(pixels, self.augment, draws.of(index)), labels[index]


@contextmanager
def open_batches(
    train: Split | Listed, val: Split | Listed, *, options: TrainOptions, device: torch.device
) -> Iterator[tuple[TrainBatches, EvalBatches]]:
    """Both parts as batches on the device; the processes that decode end with it.

    Args:
        train: listed where the augmentation needs the original pictures.
        options: resolved: crop_px and flip are set.
    """
    assert options.crop_px is not None and options.flip is not None
    crop = Augment(crop_px=options.crop_px, flip=options.flip)
    windows = options.augment is Augmentation.RESIZED_CROP
    with ExitStack() as stack:
        if isinstance(train, Listed) or isinstance(val, Listed):
            preload = [ResizedCrop.__module__] if windows else []
            readers = stack.enter_context(Readers(max(1, options.loaders), preload=preload))

        def streamed(part: Listed) -> Streamed:
            return Streamed(part, torch.from_numpy(part.labels).to(device), readers)

        batches: TrainBatches
        if isinstance(train, Split):
            assert not windows, "settled by the caller"
            batches = Shuffled(to_device(train, device), crop, options.seed)
        elif windows:
            read = ResizedCrop(decoder=train.decoder, flip=options.flip, seed=options.seed)
            batches = StreamedShuffled(streamed(train), read, None, options.seed)
        else:
            batches = StreamedShuffled(streamed(train), Plain(train.decoder), crop, options.seed)
        yield batches, to_device(val, device) if isinstance(val, Split) else streamed(val)
