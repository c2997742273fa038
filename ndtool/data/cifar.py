"""`cifar10:DIR` and `cifar100:DIR`: Krizhevsky 2009, the publisher's binary or Python version.

Binary: records of the label bytes, then 3,072 pixel bytes: 32x32 red, green, blue, row by row; of
CIFAR-100's two labels the second is the class, the first its superclass. Python: a pickled dict
with the same pixels as rows of `data`. Both give the same samples under the same ids.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ndtool.console import visible
from ndtool.data.arrays import ArraySource, Samples, cut_validation, make_samples, open_arrays
from ndtool.data.files import read_regular, require_memory
from ndtool.data.plain_pickle import Scalar, Value, read_plain_pickle
from ndtool.data.problems import data_error
from ndtool.data.types import I64, U8, Augment, DataOptions
from ndtool.errors import DataError
from ndtool.types import Part

SIDE: Final = 32
EPOCHS: Final = 100  # training-methods.md, 7
AUGMENT: Final = Augment(crop_px=4, flip=True)
_PIXELS: Final = 3 * SIDE * SIDE
_MAX_NAMES_BYTES: Final = 64 * 1024
_REMEDY: Final = "extract the publisher's archive again"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """How one archive names its files."""

    folder: str  # in the archive
    train: tuple[str, ...]
    test: str
    names: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dataset:
    """One of the two data sets."""

    name: str
    classes: int
    label_bytes: int  # before the pixels of a binary record; the last one is the class
    labels_key: str  # of the Python version
    names_key: str
    max_file_bytes: int
    binary: _Version
    python: _Version


_CIFAR10: Final = _Dataset(
    name="cifar10",
    classes=10,
    label_bytes=1,
    labels_key="labels",
    names_key="label_names",
    max_file_bytes=64 * 1024 * 1024,  # the publisher's: 31 MB
    binary=_Version(
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
    ),
    python=_Version(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{k}" for k in range(1, 6)),
        test="test_batch",
        names="batches.meta",
    ),
)
_CIFAR100: Final = _Dataset(
    name="cifar100",
    classes=100,
    label_bytes=2,
    labels_key="fine_labels",
    names_key="fine_label_names",
    max_file_bytes=192 * 1024 * 1024,  # the publisher's: 155 MB
    binary=_Version(
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
    ),
    python=_Version(folder="cifar-100-python", train=("train",), test="test", names="meta"),
)


def open_cifar10(folder: str, options: DataOptions) -> ArraySource:
    """CIFAR-10: train, validation (cut from train by pixel hash) and test.

    Args:
        folder: with the files of one version, or the folder that the archive was extracted in.

    Raises:
        DataError: no such files, or one is missing, damaged or does not match the others.
    """
    return _open(folder, options, _CIFAR10)


def open_cifar100(folder: str, options: DataOptions) -> ArraySource:
    """CIFAR-100 by its 100 classes; otherwise as `open_cifar10`."""
    return _open(folder, options, _CIFAR100)


def _open(folder: str, options: DataOptions, dataset: _Dataset) -> ArraySource:
    found = _find(folder, dataset)
    if found is None:
        raise _missing(folder, dataset)
    place, version = found
    read = _read_python if version is dataset.python else _read_binary
    train = _samples([read(f"{place}/{name}", dataset) for name in version.train], "train", place)
    test = _samples([read(f"{place}/{version.test}", dataset)], "test", place)
    return open_arrays(
        cut_validation(train) | {Part.TEST: test},
        _class_names(f"{place}/{version.names}", dataset, version),
        options,
        name=dataset.name,
        where=folder,
        resolution=SIDE,
        epochs=EPOCHS,
        augment=AUGMENT,
    )


def _find(folder: str, dataset: _Dataset) -> tuple[str, _Version] | None:
    """The folder with the files and their version; the binary one where there are both."""
    for version in (dataset.binary, dataset.python):
        for place in (folder, f"{folder}/{version.folder}"):
            # One file is enough: which of the others is missing is told by its name.
            names = (*version.train, version.test, version.names)
            if any(os.path.isfile(f"{place}/{name}") for name in names):  # noqa: PTH113  # any bytes
                return place, version
    return None


def _missing(folder: str, dataset: _Dataset) -> DataError:
    other = _CIFAR10 if dataset is _CIFAR100 else _CIFAR100
    if os.path.isfile(folder):  # noqa: PTH113  # any bytes
        remedy = "extract the archive with tar -xzf, and name the folder"
    elif _find(folder, other):
        remedy = f"did you mean {other.name}:{visible(folder)}?"
    else:
        remedy = (
            f"name the folder that holds {dataset.binary.folder} or {dataset.python.folder}, "
            "extracted from the publisher's archive"
        )
    return data_error(
        f"no files of {dataset.name}", where=folder, remedy=remedy, code="data.cifar-missing"
    )


def _read_binary(path: str, dataset: _Dataset) -> tuple[U8, I64]:
    """(N, 3072) pixels and (N,) labels of one file."""
    content = read_regular(path, where=path, limit=dataset.max_file_bytes)
    record = dataset.label_bytes + _PIXELS
    if len(content) % record:
        raise _bad(f"{len(content):,} bytes are not whole records of {record:,}", path)
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = records[:, dataset.label_bytes - 1].astype(np.int64)
    return _checked(records[:, dataset.label_bytes :], labels, path, dataset)


def _read_python(path: str, dataset: _Dataset) -> tuple[U8, I64]:
    """(N, 3072) pixels and (N,) labels of one file."""
    values = _unpickled(path, dataset)
    pixels, labels = values.get("data"), values.get(dataset.labels_key)
    if not isinstance(pixels, np.ndarray) or pixels.shape != (len(pixels), _PIXELS):
        raise _bad(f"data is not an array of N x {_PIXELS:,} bytes", path)
    if not isinstance(labels, list):
        raise _bad(f"{dataset.labels_key} is not a list", path)
    numbers = [label for label in labels if isinstance(label, int)]
    if len(numbers) != len(labels):
        raise _bad(f"{dataset.labels_key} is not a list of numbers", path)
    if len(numbers) != len(pixels):
        raise _bad(f"{len(numbers):,} labels for {len(pixels):,} images", path)
    return _checked(pixels, np.array(numbers, np.int64), path, dataset)


def _checked(pixels: U8, labels: I64, path: str, dataset: _Dataset) -> tuple[U8, I64]:
    if not len(labels):
        raise _bad("no samples", path)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= dataset.classes:
        raise data_error(
            f"label {low if low < 0 else high} is not between 0 and {dataset.classes - 1}",
            where=path,
            remedy=_REMEDY,
            code="data.label-range",
        )
    return pixels, labels


def _samples(files: Sequence[tuple[U8, I64]], name: str, where: str) -> Samples:
    """The files one after the other, pixels as (N, 32, 32, 3)."""
    count = sum(len(labels) for _, labels in files)
    require_memory(2 * count * _PIXELS, where=where)  # twice for a moment, here and when split
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    done = 0
    for pixels, _ in files:
        planes = pixels.reshape(-1, 3, SIDE, SIDE)
        images[done : done + len(planes)] = planes.transpose(0, 2, 3, 1)
        done += len(planes)
    return make_samples(images, np.concatenate([labels for _, labels in files]), name=name)


def _class_names(path: str, dataset: _Dataset, version: _Version) -> list[str]:
    """The classes in the order of their numbers."""
    names: Sequence[Scalar]
    if version is dataset.python:
        listed = _unpickled(path, dataset).get(dataset.names_key)
        names = listed if isinstance(listed, list) else ()
    else:
        content = read_regular(path, where=path, limit=_MAX_NAMES_BYTES)
        names = [line.strip() for line in content.splitlines() if line.strip()]
    texts = [_decoded(name) for name in names if isinstance(name, str | bytes)]
    if len(texts) != dataset.classes:
        raise _bad(f"{len(texts):,} class names, not {dataset.classes}", path)
    return texts


def _unpickled(path: str, dataset: _Dataset) -> dict[str, Value]:
    return read_plain_pickle(
        read_regular(path, where=path, limit=dataset.max_file_bytes), where=path
    )


def _decoded(name: str | bytes) -> str:
    """Bytes that are no UTF-8 stay visible as such, and are refused with the other names."""
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def _bad(what: str, path: str) -> DataError:
    return data_error(what, where=path, remedy=_REMEDY, code="data.cifar")
