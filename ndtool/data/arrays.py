"""Sources that hold their pixels as arrays: digits, npz, fashion-mnist, cifar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.data.files import require_memory
from ndtool.data.image import resize
from ndtool.data.labels import check_labels, label_numbers, reordered
from ndtool.data.splits import (
    count_classes,
    digest,
    repeat_notes,
    require_all_classes,
    training_part_of,
)
from ndtool.data.types import I64, U8, Augment, DataOptions, Facts, SourceInfo, Split
from ndtool.types import Part, Sha256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Samples:
    """Raw samples: images (N, H, W, C) uint8, labels (N,) int64, digests of the raw arrays."""

    images: U8
    labels: I64
    ids: tuple[str, ...]
    digests: tuple[Sha256, ...]

    def take(self, rows: Sequence[int]) -> Samples:
        """The samples at these indices, in this order."""
        chosen = np.asarray(rows, dtype=np.int64)
        return Samples(
            images=self.images[chosen],
            labels=self.labels[chosen],
            ids=tuple(self.ids[i] for i in rows),
            digests=tuple(self.digests[i] for i in rows),
        )


def make_samples(images: U8, labels: I64, *, name: str) -> Samples:
    """Samples with ids `NAME/index`, hashed."""
    return Samples(
        images=images,
        labels=labels,
        ids=tuple(f"{name}/{index}" for index in range(len(images))),
        digests=tuple(digest(image.tobytes()) for image in images),
    )


def cut_validation(train: Samples) -> dict[Part, Samples]:
    """Training and validation part of a training set that comes without one (design, 9)."""
    parts = [training_part_of(sha256) for sha256 in train.digests]
    return {
        part: train.take([i for i, p in enumerate(parts) if p is part])
        for part in (Part.TRAIN, Part.VAL)
    }


class ArraySource:
    """A source whose samples are in memory; `open_arrays` makes it."""

    def __init__(self, info: SourceInfo, parts: Mapping[Part, Samples], where: str) -> None:
        self.info = info
        self.skipped: tuple[tuple[str, str], ...] = ()  # arrays have no bad files
        self._parts = parts
        self._where = where

    def load(self, part: Part, contract: Contract) -> Split:
        """Pixels of one part through the contract; raises DataError."""
        samples = self._parts[part]
        numbers = label_numbers(self.info.labels, contract.labels, where=self._where)
        spec = contract.input
        count, height, width, channels = samples.images.shape
        require_memory(count * spec.height * spec.width * spec.channels, where=self._where)
        return Split(
            images=resize(samples.images, contract),
            labels=numbers[samples.labels],
            ids=samples.ids,
            digests=samples.digests,
            facts=Facts(
                width_px=(width, width),
                height_px=(height, height),
                modes={"L" if channels == 1 else "RGB": count},
            ),
        )

    def split_table(self) -> list[tuple[str, Sha256, Part]]:
        """(id, hash of the raw array, part) of every sample."""
        return [
            (id_, sha256, part)
            for part, samples in self._parts.items()
            for id_, sha256 in zip(samples.ids, samples.digests, strict=True)
        ]


def open_arrays(
    parts: Mapping[Part, Samples],
    labels: Sequence[str],
    options: DataOptions,
    *,
    name: str,
    where: str,
    resolution: int,
    epochs: int,
    augment: Augment,
) -> ArraySource:
    """Arrays as a source. Labels keep their order unless the options name a labels file.

    Args:
        parts: train, val and test; all images of one shape; labels are indices into `labels`.
        where: the data as the user named it.

    Raises:
        DataError: unusable class names, or a class that some part does not have.
    """
    check_labels(labels, where=where)
    if options.labels_file:
        order = reordered(labels, options.labels_file, where=where)
        numbers = label_numbers(labels, order, where=where)
        parts = {
            part: Samples(images=s.images, labels=numbers[s.labels], ids=s.ids, digests=s.digests)
            for part, s in parts.items()
        }
        labels = order
    counts = count_classes(
        ((part, int(k)) for part, s in parts.items() for k in s.labels), len(labels)
    )
    require_all_classes(labels, counts, where=where, given=True)
    info = SourceInfo(
        name=name,
        labels=tuple(labels),
        channels=parts[Part.TRAIN].images.shape[3],
        resolution=resolution,
        epochs=epochs,
        augment=augment,
        counts=counts,
        notes=repeat_notes((d, part) for part, s in parts.items() for d in s.digests),
    )
    return ArraySource(info, parts, visible(where))
