"""What every data source gives."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ndtool.contract import Contract
from ndtool.types import Part, Sha256

U8 = NDArray[np.uint8]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Random crop after padding by `crop_px` zeros on each side, and a horizontal flip."""

    crop_px: int
    flip: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the samples of a part were before conversion and resizing; for `data inspect`."""

    width_px: tuple[int, int]  # smallest, largest; after EXIF orientation
    height_px: tuple[int, int]
    modes: Mapping[str, int]  # Pillow's mode -> samples
    rotated: int = 0  # samples turned by their EXIF orientation
    animated: int = 0  # samples of which only the first frame is used


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What is known of a source before any pixel is resized."""

    name: str  # for the run folder's name, e.g. "digits"
    labels: tuple[str, ...]
    channels: int  # 1 or 3: the contract's colour unless the user says otherwise
    resolution: int  # default side in pixels
    epochs: int  # default
    augment: Augment  # default
    counts: Mapping[Part, tuple[int, ...]]  # samples of each class, by part
    notes: tuple[str, ...] = ()  # what `train` should tell: skipped files, leaks, ...
    ignore: tuple[str, ...] = ()  # lines of .ndignore that were applied; for the manifest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Samples of one part, in evaluation order.

    images: (N, H, W, C) uint8, labels: (N,) int64, ids: source path or `part/index`,
    digests: sha256 of each sample's source bytes (file content, or the raw uint8 array).
    """

    images: U8
    labels: I64
    ids: tuple[str, ...]
    digests: tuple[Sha256, ...]
    facts: Facts | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a sample."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    def sha256(self) -> Sha256:
        """Evaluation-set hash, see `samples_sha256`."""
        return samples_sha256(self.digests, self.labels)


def samples_sha256(digests: Sequence[Sha256], labels: I64) -> Sha256:
    """Hash of samples with their labels: over `DIGEST LABEL` lines in order (users.md, 5.1)."""
    whole = hashlib.sha256()
    for digest, label in zip(digests, labels, strict=True):
        whole.update(f"{digest} {int(label)}\n".encode("ascii"))
    return Sha256(whole.hexdigest())


class Source(Protocol):
    """A data set that can be read through a contract."""

    info: SourceInfo

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(id, reason) of every sample left out so far under `skip_bad_files`."""
        ...

    def load(self, part: Part, contract: Contract) -> Split:
        """Pixels of one part, resized and coloured as the contract says; raises DataError."""
        ...

    def split_table(self) -> list[tuple[str, Sha256, Part]]:
        """(id, source hash, part) of every sample, for split.csv."""
        ...


def source_sha256(source: Source) -> Sha256:
    """Hash of what the source holds: labels, samples and their parts."""
    digest = hashlib.sha256("\n".join(source.info.labels).encode("utf-8", "surrogateescape"))
    for name, content, part in source.split_table():
        digest.update(f"\n{content} {part.value} ".encode("ascii"))
        digest.update(name.encode("utf-8", "surrogateescape"))
    return Sha256(digest.hexdigest())


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOptions:
    """Options of reading data; the same words as on the command line."""

    max_pixels: int = 64 * 1024 * 1024
    skip_bad_files: bool = False
    labels_file: str = ""
