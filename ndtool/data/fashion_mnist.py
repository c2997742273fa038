"""`fashion-mnist:DIR`: the publisher's four idx.gz files (Xiao, Rasul, Vollgraf 2017).

idx: big-endian u32 magic (2051 images, 2049 labels), count, for images rows and columns, then u8.
No more is decompressed than the header promises.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from typing import Final

import numpy as np

from ndtool.data.arrays import ArraySource, cut_validation, make_samples, open_arrays
from ndtool.data.files import open_regular, require_memory
from ndtool.data.problems import data_error
from ndtool.data.types import I64, U8, Augment, DataOptions
from ndtool.errors import DataError
from ndtool.types import Part

LABELS: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE: Final = 28
EPOCHS: Final = 20
AUGMENT: Final = Augment(crop_px=2, flip=True)
MAX_SAMPLES: Final = 5_000_000
_IMAGES_MAGIC: Final = 2051
_LABELS_MAGIC: Final = 2049
_REMEDY: Final = "fetch the publisher's file again"


def open_fashion_mnist(folder: str, options: DataOptions) -> ArraySource:
    """Train, validation (cut from train by pixel hash) and test.

    Raises:
        DataError: a file is missing, damaged, not idx, or does not match its companion.
    """
    train = make_samples(*_read_pair(folder, "train"), name="train")
    test = make_samples(*_read_pair(folder, "t10k"), name="test")
    return open_arrays(
        cut_validation(train) | {Part.TEST: test},
        LABELS,
        options,
        name="fashion-mnist",
        where=folder,
        resolution=SIDE,
        epochs=EPOCHS,
        augment=AUGMENT,
    )


def _read_pair(folder: str, stem: str) -> tuple[U8, I64]:
    """(N, 28, 28, 1) images and (N,) labels of one part."""
    images_path = f"{folder}/{stem}-images-idx3-ubyte.gz"
    labels_path = f"{folder}/{stem}-labels-idx1-ubyte.gz"
    images = _read_idx(images_path, magic=_IMAGES_MAGIC, item=(SIDE, SIDE))
    labels = _read_idx(labels_path, magic=_LABELS_MAGIC, item=())
    if len(images) != len(labels):
        raise data_error(
            f"{len(labels):,} labels for {len(images):,} images",
            where=labels_path,
            remedy=_REMEDY,
            code="data.idx-count",
        )
    if labels.size and labels.max() >= len(LABELS):
        raise data_error(
            f"label {labels.max()} is not between 0 and {len(LABELS) - 1}",
            where=labels_path,
            remedy=_REMEDY,
            code="data.label-range",
        )
    return images[..., None], labels.astype(np.int64)


def _read_idx(path: str, *, magic: int, item: tuple[int, ...]) -> U8:
    """The file's array, (N, *item) uint8."""
    header = struct.Struct(f">{2 + len(item)}I")
    with open_regular(path, where=path) as raw, gzip.GzipFile(fileobj=raw) as stream:
        try:
            first = stream.read(header.size)
            if len(first) < header.size:
                raise _bad("the file ends inside its header", path)
            found, count, *shape = header.unpack(first)
            if found != magic:
                raise _bad(f"not the expected idx file: magic {found}, not {magic}", path)
            if tuple(shape) != item:
                raise _bad(f"images of {'x'.join(map(str, shape))} pixels, not {SIDE}x{SIDE}", path)
            if count > MAX_SAMPLES:
                raise _bad(f"{count:,} samples declared, at most {MAX_SAMPLES:,}", path)
            size = count * int(np.prod(item, dtype=np.int64))
            require_memory(size, where=path)
            content = stream.read(size)
            if len(content) < size or stream.read(1):
                raise _bad(f"the file does not hold the {count:,} samples it declares", path)
        except (OSError, EOFError, zlib.error) as error:
            raise _bad(f"damaged gzip file: {error}", path) from error
    return np.frombuffer(content, np.uint8).reshape(count, *item)


def _bad(what: str, path: str) -> DataError:
    return data_error(what, where=path, remedy=_REMEDY, code="data.idx")
