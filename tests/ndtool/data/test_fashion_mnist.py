"""fashion-mnist:DIR: idx.gz files made here; the publisher's are not needed."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from pictures import contract_of

from ndtool.data.fashion_mnist import LABELS, open_fashion_mnist
from ndtool.data.splits import training_part_of
from ndtool.data.types import DataOptions
from ndtool.errors import DataError
from ndtool.types import Part, Sha256

RNG = np.random.default_rng(1)
COUNTS = {"train": 200, "t10k": 20}
IMAGES = {stem: RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8) for stem, n in COUNTS.items()}
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def images_idx(images: np.ndarray) -> bytes:
    return struct.pack(">4I", 2051, *images.shape) + images.tobytes()


def labels_idx(labels: np.ndarray) -> bytes:
    return struct.pack(">2I", 2049, len(labels)) + labels.astype(np.uint8).tobytes()


def write(folder: Path, **changes: bytes) -> str:
    """The four files; `changes`: content of a file, uncompressed, by the start of its name."""
    for stem, images in IMAGES.items():
        labels = labels_idx(np.arange(len(images)) % 10)
        for kind, content in (("images-idx3", images_idx(images)), ("labels-idx1", labels)):
            key = f"{stem}_{kind.split('-')[0]}"
            body = gzip.compress(changes.get(key, content))
            (folder / f"{stem}-{kind}-ubyte.gz").write_bytes(body)
    return str(folder)


def refusal(folder: str) -> DataError:
    with pytest.raises(DataError) as caught:
        open_fashion_mnist(folder, DataOptions())
    return caught.value


def test_the_four_files(tmp_path: Path) -> None:
    source = open_fashion_mnist(write(tmp_path), DataOptions())
    info = source.info
    assert info.labels == LABELS
    assert LABELS[9] == "Ankle boot"
    assert (info.name, info.channels, info.resolution, info.epochs) == ("fashion-mnist", 1, 28, 20)
    assert (info.augment.crop_px, info.augment.flip) == (2, True)
    assert info.counts[Part.TEST] == (2,) * 10
    contract = contract_of(LABELS, side=28, channels=1)
    seen = 0
    for part in (Part.TRAIN, Part.VAL):
        split = source.load(part, contract)
        for id_, image, label, digest in zip(
            split.ids, split.images, split.labels, split.digests, strict=True
        ):
            index = int(id_.removeprefix("train/"))
            assert np.array_equal(image[..., 0], IMAGES["train"][index])
            assert label == index % 10
            assert digest == hashlib.sha256(IMAGES["train"][index].tobytes()).hexdigest()
            assert training_part_of(Sha256(digest)) is part
            seen += 1
    assert seen == 200


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"train_images": images_idx(IMAGES["train"])[:-1]}, "does not hold the 200 samples"),
        ({"train_images": images_idx(IMAGES["train"]) + b"x"}, "does not hold the 200 samples"),
        ({"train_images": struct.pack(">4I", 2051, 5_000_001, 28, 28)}, "5,000,001 samples"),
        ({"train_images": struct.pack(">4I", 2051, 9, 2**32 - 1, 28)}, "4294967295x28"),
        ({"train_images": labels_idx(np.zeros(20))}, "magic 2049, not 2051"),
        ({"train_images": b"\0\0"}, "ends inside its header"),
        ({"train_labels": labels_idx(np.zeros(199))}, "199 labels for 200 images"),
        ({"train_labels": labels_idx(np.full(200, 10))}, "label 10 is not between 0 and 9"),
        ({"train_labels": labels_idx(np.zeros(200))}, "class 'Trouser'"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, bytes], word: str) -> None:
    problem = refusal(write(tmp_path, **changes))
    assert word in problem.what
    assert problem.where.startswith(str(tmp_path))


def test_files_that_are_missing_or_no_gzip(tmp_path: Path) -> None:
    folder = write(tmp_path)
    content = (tmp_path / TRAIN_IMAGES).read_bytes()
    for damaged in (b"", b"PK\x03\x04", content[:1000], content[:-8] + bytes(8), b"\x1f\x8b"):
        (tmp_path / TRAIN_IMAGES).write_bytes(damaged)
        assert refusal(folder).code == "data.idx"
    (tmp_path / TRAIN_IMAGES).unlink()
    assert refusal(folder).code == "data.unreadable"
    assert refusal(str(tmp_path / "none")).where.endswith(f"none/{TRAIN_IMAGES}")


def test_a_gzip_bomb_is_read_no_further_than_its_header_promises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, train_labels=labels_idx(np.zeros(200)) + bytes(50_000_000))
    read = 0
    plain = gzip.GzipFile.read

    def counting(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal read
        content = plain(self, size)
        read += len(content)
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    assert "does not hold the 200 samples" in refusal(folder).what
    assert read < 200_000


def test_declared_pixels_are_bounded_by_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ndtool.data.files.available_memory_bytes", lambda: 100_000)
    assert refusal(write(tmp_path)).code == "data.memory"
