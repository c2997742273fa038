"""What training reads: decoded, listed, or refused before anything is decoded."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import make_given
from tiny_data import write_npz

from ndtool.data import files
from ndtool.data.folder import FolderSource, Listed
from ndtool.data.types import Split
from ndtool.errors import ConfigError, DataError
from ndtool.machine import Place
from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.training import collectives, stage
from ndtool.training.stage import open_parts
from ndtool.types import Part

BAD = b"\x89PNG\r\n\x1a\n no more"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_given(tmp_path / "d", ("train", "val", "test"))


def prepared(root: Path, **changes: object) -> Prepared:
    fixed: dict[str, object] = {"data": f"folder:{root}", "resolution": 8}
    options = TrainOptions(**(fixed | changes))  # type: ignore[arg-type]
    return prepare(options, name="x", out=root.parent)


def refusal(one: Prepared) -> DataError:
    with pytest.raises(DataError) as caught:
        open_parts(one)
    return caught.value


def test_parts_are_decoded_or_listed_with_the_same_samples(root: Path) -> None:
    decoded = open_parts(prepared(root))
    assert all(isinstance(part, Split) for part in decoded)
    listed = open_parts(prepared(root, loaders=2))
    assert isinstance(listed[0], Listed)
    assert isinstance(listed[1], Split)  # small: decoded once, not in each epoch
    assert [part.sha256() for part in listed] == [part.sha256() for part in decoded]
    assert [part.shape for part in listed] == [(8, 8, 3)] * 2


def test_a_large_validation_part_is_listed_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepared(root, loaders=2)
    size = sum(one.source.info.counts[Part.VAL]) * 8 * 8 * 3
    monkeypatch.setattr(stage, "KEPT_VALIDATION_BYTES", size)
    assert isinstance(open_parts(one)[1], Split)
    monkeypatch.setattr(stage, "KEPT_VALIDATION_BYTES", size - 1)
    assert isinstance(open_parts(one)[1], Listed)
    (root / "val" / "a" / "bad.png").write_bytes(BAD)
    assert refusal(prepared(root, loaders=2)).where.endswith("val/a/bad.png")


@pytest.mark.parametrize("loaders", [0, 2])
def test_a_bad_test_image_is_found_before_training(root: Path, loaders: int) -> None:
    (root / "test" / "b" / "bad.png").write_bytes(BAD)
    assert refusal(prepared(root, loaders=loaders)).where.endswith("test/b/bad.png")


def test_with_skip_the_same_samples_are_left(root: Path) -> None:
    for part in ("train", "val", "test"):
        (root / part / "a" / "bad.png").write_bytes(BAD)
    hashes, skipped = [], []
    for loaders in (0, 1):
        one = prepared(root, loaders=loaders, bad_files="skip")
        hashes.append([part.sha256() for part in open_parts(one)])
        skipped.append(sorted(one.source.skipped))
    assert hashes[0] == hashes[1]
    assert skipped[0] == skipped[1]
    assert [name for name, _ in skipped[0]] == [f"{p}/a/bad.png" for p in ("test", "train", "val")]


def test_what_does_not_fit_into_memory_is_refused_before_it_is_decoded(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = prepared(root)
    needed = sum(sum(one.source.info.counts[part]) for part in (Part.TRAIN, Part.VAL)) * 8 * 8 * 3
    monkeypatch.setattr(files, "available_memory_bytes", lambda: needed * 4 // 3 - 1)

    def nothing_is_decoded(*_: object) -> Split:
        raise AssertionError

    monkeypatch.setattr(FolderSource, "load", nothing_is_decoded)
    problem = refusal(one)
    assert problem.code == "data.memory"
    assert "--loaders 4" in problem.remedy
    monkeypatch.undo()
    monkeypatch.setattr(files, "available_memory_bytes", lambda: needed * 4 // 3 + 1)
    open_parts(one)
    two_here = Place(rank=0, world=2, local_rank=0, local_world=2)
    monkeypatch.setattr(collectives, "place", lambda: two_here)
    assert refusal(one).code == "data.memory"  # each process has its own copy
    monkeypatch.setattr(files, "available_memory_bytes", lambda: needed)
    open_parts(prepared(root, loaders=1))  # validation alone


def test_loaders_are_for_files(tmp_path: Path) -> None:
    spec = f"npz:{write_npz(tmp_path / 'tiny.npz')}"
    one = prepare(TrainOptions(data=spec, loaders=2), name="x", out=tmp_path)
    with pytest.raises(ConfigError) as caught:
        open_parts(one)
    assert "--loaders 2" in caught.value.where and spec in caught.value.where
