"""cifar10:DIR and cifar100:DIR from archives made here; the publisher's are not needed."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cifar_files import Made, batches, make, python2_pickle, write_binary, write_python
from pictures import contract_of

from ndtool.data import open_source
from ndtool.data.arrays import ArraySource
from ndtool.data.inspect import inspect_source
from ndtool.data.npz import open_npz
from ndtool.data.splits import training_part_of
from ndtool.data.types import DataOptions, source_sha256
from ndtool.errors import DataError
from ndtool.options import TRAIN
from ndtool.prepare import resolve
from ndtool.types import Part, Sha256

TENS, HUNDREDS = make("cifar10"), make("cifar100")
WRITERS: dict[str, Callable[[Path, Made], Path]] = {
    "binary": write_binary,
    "python2": write_python,
    "python3-4": lambda root, made: write_python(root, made, 4),
    "python3-5": lambda root, made: write_python(root, made, 5),
}


def opened(made: Made, folder: Path) -> ArraySource:
    source = open_source(f"{made.name}:{folder}", DataOptions())
    assert isinstance(source, ArraySource)
    return source


def refusal(folder: Path, kind: str = "cifar10") -> DataError:
    with pytest.raises(DataError) as caught:
        open_source(f"{kind}:{folder}", DataOptions())
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("made", [TENS, HUNDREDS], ids=lambda made: made.name)
@pytest.mark.parametrize("kind", WRITERS)
def test_every_version_holds_the_same(tmp_path: Path, kind: str, made: Made) -> None:
    inner = WRITERS[kind](tmp_path / "data", made)
    source = opened(made, inner)
    assert source.info == opened(made, tmp_path / "data").info  # the folder around it
    info = source.info
    assert (info.name, info.labels) == (made.name, made.names)
    assert (info.channels, info.resolution, info.epochs) == (3, 32, 100)
    assert (info.augment.crop_px, info.augment.flip) == (4, True)
    seen = dict.fromkeys(made.images, 0)
    for part in Part:
        split = source.load(part, contract_of(made.names, side=32))
        for id_, image, label, digest in zip(
            split.ids, split.images, split.labels, split.digests, strict=True
        ):
            name, index = id_.split("/")
            given = made.images[name][int(index)]
            assert np.array_equal(image, given)
            assert label == int(index) % len(made.names)
            assert digest == hashlib.sha256(given.tobytes()).hexdigest()
            wanted = training_part_of(Sha256(digest)) if name == "train" else Part.TEST
            assert part is wanted
            seen[name] += 1
    assert seen == {name: len(images) for name, images in made.images.items()}


def test_the_same_samples_as_from_npz(tmp_path: Path) -> None:
    """A run that was trained on one form is checked on the other."""
    arrays = {f"x_{part}": images for part, images in TENS.images.items()}
    labels = {f"y_{part}": np.array(TENS.labels(part)) for part in TENS.images}
    np.savez(tmp_path / "x.npz", class_names=np.array(TENS.names), **arrays, **labels)  # type: ignore[arg-type]
    npz = open_npz(str(tmp_path / "x.npz"), DataOptions())
    write_python(tmp_path, TENS)
    assert source_sha256(opened(TENS, tmp_path)) == source_sha256(npz)


def test_the_binary_version_is_taken_where_there_are_both(tmp_path: Path) -> None:
    folder = write_python(tmp_path, TENS)
    (folder / "data_batch_1").write_bytes(b"")
    write_binary(tmp_path, TENS)
    assert opened(TENS, tmp_path).info.labels == TENS.names


def test_inspection(tmp_path: Path) -> None:
    write_binary(tmp_path, TENS)
    source = opened(TENS, tmp_path)
    contract = contract_of(TENS.names, side=32)
    found = inspect_source(source, contract, resolve(TRAIN, source.info, contract))
    assert sum(map(sum, found.counts.values())) == 310
    assert (found.width_px, found.modes) == ((32, 32), {"RGB": 310})
    assert (found.epochs, found.crop_px, found.flip) == (100, 4, True)


def test_folders_without_the_files(tmp_path: Path) -> None:
    problem = refusal(tmp_path)
    assert problem.code == "data.cifar-missing"
    assert "cifar-10-batches-bin or cifar-10-batches-py" in problem.remedy
    (tmp_path / "train").mkdir()  # class folders, not the file of the Python version
    assert refusal(tmp_path, "cifar100").code == "data.cifar-missing"
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(b"\x1f\x8b")
    assert "tar -xzf" in refusal(archive).remedy
    os.mkfifo(tmp_path / "test_batch.bin")  # would block whoever opens it
    assert refusal(tmp_path).code == "data.cifar-missing"
    write_binary(tmp_path, HUNDREDS)
    assert "did you mean cifar100:" in refusal(tmp_path).remedy


@pytest.mark.parametrize("write", [write_binary, write_python])
def test_a_missing_file_is_named(tmp_path: Path, write: Callable[[Path, Made], Path]) -> None:
    folder = write(tmp_path, TENS)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        path.unlink()
        problem = refusal(tmp_path)
        assert problem.code == "data.unreadable"
        assert problem.where == str(path)
        path.write_bytes(content)
    opened(TENS, tmp_path)


RECORDS = np.hstack([np.zeros((2, 1), np.uint8), np.zeros((2, 3072), np.uint8)])


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("data_batch_3.bin", RECORDS.tobytes()[:-1], "6,145 bytes are not whole records of 3,073"),
        ("data_batch_3.bin", b"", "no samples"),
        ("test_batch.bin", b"\x0a" + bytes(3072), "label 10 is not between 0 and 9"),
        ("test_batch.bin", bytes(3073), "class 'automobile'"),
        ("batches.meta.txt", b"a\nb\n", "2 class names, not 10"),
        ("batches.meta.txt", b"a\n" * 10, "class name 'a' is there twice"),
        ("batches.meta.txt", b"a\nb\nc\nd\ne\nf\ng\nh\ni\n\xff\n", "not valid UTF-8"),
        ("batches.meta.txt", b"a\n" * 50_000, "larger than 65,536 bytes"),
    ],
)
def test_binary_refusals(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    folder = write_binary(tmp_path, TENS)
    (folder / name).write_bytes(content)
    assert word in refusal(tmp_path).what


ROWS, LABELS = batches(TENS)["test_batch"]


@pytest.mark.parametrize(
    ("name", "values", "word"),
    [
        ("test_batch", {"labels": LABELS}, "data is not an array of N x 3,072 bytes"),
        ("test_batch", {"data": "text", "labels": LABELS}, "data is not an array"),
        ("test_batch", {"data": ROWS.reshape(-1, 1024), "labels": LABELS}, "data is not an array"),
        ("test_batch", {"data": ROWS}, "labels is not a list"),
        ("test_batch", {"data": ROWS, "labels": 3}, "labels is not a list"),
        ("test_batch", {"data": ROWS, "labels": LABELS[:-1]}, "9 labels for 10 images"),
        (
            "test_batch",
            {"data": ROWS, "labels": [*LABELS[:-1], "1"]},
            "labels is not a list of num",
        ),
        ("test_batch", {"data": ROWS, "labels": [*LABELS[:-1], -1]}, "label -1 is not between"),
        ("test_batch", {"data": ROWS, "labels": [*LABELS[:-1], 10]}, "label 10 is not between"),
        ("batches.meta", {}, "0 class names, not 10"),
        ("batches.meta", {"label_names": "ten"}, "0 class names, not 10"),
        ("batches.meta", {"label_names": list(range(10))}, "0 class names, not 10"),
    ],
)
def test_python_refusals(tmp_path: Path, name: str, values: dict[str, object], word: str) -> None:
    folder = write_python(tmp_path, TENS)
    (folder / name).write_bytes(python2_pickle(values))
    assert word in refusal(tmp_path).what


def test_a_pickle_that_calls_is_refused(tmp_path: Path) -> None:
    folder = write_python(tmp_path, HUNDREDS)
    (folder / "test").write_bytes(pickle.dumps({"data": Path}, 4))
    problem = refusal(tmp_path, "cifar100")
    assert problem.code == "data.pickle"
    assert "names pathlib.Path" in problem.what


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_binary(tmp_path, TENS)
    with (folder / "test_batch.bin").open("r+b") as file:
        file.truncate(3073 * 30_000)  # sparse
    assert refusal(tmp_path).code == "data.file-too-large"
    write_python(tmp_path, HUNDREDS)
    monkeypatch.setattr("ndtool.data.files.available_memory_bytes", lambda: 10_000_000)
    assert refusal(tmp_path, "cifar100").code == "data.memory"


def test_names_of_any_bytes(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n")
    problem = refusal(Path(folder))
    assert "\\udcff\\x0a" in problem.where
