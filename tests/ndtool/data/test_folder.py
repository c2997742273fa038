"""folder:PATH: layouts, splits by content, what is left out, every refusal."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile_names import HOSTILE_NAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import contract_of, encoded, fill_class, make_folder, make_given, noise_png
from PIL import Image

from ndtool.console import error_line
from ndtool.data import files, folder, folder_scan, open_source
from ndtool.data.folder import open_folder
from ndtool.data.splits import part_of, training_part_of
from ndtool.data.types import DataOptions
from ndtool.errors import DataError
from ndtool.types import Part, Sha256

SKIP = DataOptions(skip_bad_files=True)


def refusal(path: Path, options: DataOptions | None = None) -> DataError:
    with pytest.raises(DataError) as caught:
        open_folder(str(path), options or DataOptions())
    assert "\n" not in error_line(caught.value)
    return caught.value


def open_at(path: Path) -> folder.FolderSource:
    return open_folder(str(path), DataOptions())


def sha(content: bytes) -> Sha256:
    return Sha256(hashlib.sha256(content).hexdigest())


# -- splits ---------------------------------------------------------------------------------------


def unit(sha256: str) -> float:
    return int.from_bytes(bytes.fromhex(sha256)[:8], "big") / 2**64


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.binary())
def test_thresholds_of_the_split(content: bytes) -> None:
    u = unit(sha(content))
    expected = Part.TEST if u < 0.2 else Part.VAL if u < 0.4 else Part.TRAIN
    assert part_of(sha(content)) is expected
    assert training_part_of(sha(content)) is (Part.VAL if u < 0.2 else Part.TRAIN)


def test_thresholds_at_their_ends() -> None:
    below, above = (f"{n:016x}" + "0" * 48 for n in (2**64 // 5, 2**64 // 5 + 1))
    assert part_of(Sha256(below)) is Part.TEST  # 2**64 is no multiple of 5: this is under .2
    assert part_of(Sha256(above)) is Part.VAL
    assert part_of(Sha256("f" * 64)) is Part.TRAIN


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    st.lists(st.integers(500, 10_000), max_size=6, unique=True),
    st.sets(st.integers(0, 17), max_size=8),
)
def test_a_files_part_does_not_depend_on_the_others(
    tmp_path_factory: pytest.TempPathFactory, added: list[int], renamed: set[int]
) -> None:
    root = make_folder(tmp_path_factory.mktemp("d"))
    before = {digest: part for _, digest, part in open_at(root).split_table()}
    files = sorted(root.glob("*/*.png"))
    for index in renamed:
        files[index].rename(files[index].with_name(f"z{index}.png"))
    for seed in added:
        (root / "a" / f"new{seed}.png").write_bytes(noise_png(seed))
    after = {digest: part for _, digest, part in open_at(root).split_table()}
    assert len(after) == len(before) + len(added)
    assert after.items() >= before.items()
    shutil.rmtree(root)


def test_class_folders(tmp_path: Path) -> None:
    source = open_at(make_folder(tmp_path / "My Photos", ("b", "a")))
    info = source.info
    assert (info.name, info.labels, info.channels) == ("my-photos", ("a", "b"), 3)
    assert (info.resolution, info.epochs) == (96, 60)
    assert (info.augment.crop_px, info.augment.flip) == (12, True)
    assert info.counts == dict.fromkeys(Part, (3, 3))
    assert info.notes == ()
    table = source.split_table()
    assert len(table) == 18
    for id_, digest, part in table:
        content = (tmp_path / "My Photos" / id_).read_bytes()
        assert digest == sha(content)
        assert part is part_of(digest)


def test_load_gives_the_files_in_order_of_their_ids(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    source = open_at(root)
    split = source.load(Part.VAL, contract_of(("b", "a")))  # the contract's order counts
    assert list(split.ids) == sorted(split.ids)
    assert split.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert split.labels.dtype == np.int64
    for id_, image, digest in zip(split.ids, split.images, split.digests, strict=True):
        content = (root / id_).read_bytes()
        assert digest == sha(content)
        assert np.array_equal(image, np.asarray(Image.open(root / id_)))
    assert split.facts is not None
    assert split.facts.modes == {"RGB": 6}
    lines = "".join(f"{d} {k}\n" for d, k in zip(split.digests, split.labels, strict=True))
    assert split.sha256() == sha(lines.encode())


def test_contract_with_other_classes(tmp_path: Path) -> None:
    source = open_at(make_folder(tmp_path / "d"))
    with pytest.raises(DataError) as caught:
        source.load(Part.TEST, contract_of(("a", "c")))
    assert caught.value.code == "data.labels-differ"


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_given_parts(tmp_path: Path, val: str) -> None:
    root = make_given(tmp_path / "d", ("train", val, "test"))
    source = open_at(root)
    assert source.info.counts == dict.fromkeys(Part, (9, 9))
    folders = {Part.TRAIN: "train", Part.VAL: val, Part.TEST: "test"}
    assert all(id_.startswith(folders[part]) for id_, _, part in source.split_table())


@pytest.mark.parametrize("other", ["val", "test"])
def test_two_given_parts_cut_validation_from_train(tmp_path: Path, other: str) -> None:
    """train + val: val is the test part."""
    source = open_at(make_given(tmp_path / "d", ("train", other)))
    assert source.info.counts[Part.TEST] == (9, 9)
    for id_, digest, part in source.split_table():
        if id_.startswith("train/"):
            assert part is training_part_of(digest)
        else:
            assert part is Part.TEST


def test_given_training_files_are_not_hashed_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_given(tmp_path / "d", ("train", "val", "test"))
    for number, path in enumerate(sorted(root.glob("*/*/*.png"))):
        path.write_bytes(path.read_bytes() + bytes(number))  # every size once
    read: list[str] = []
    plain = files.read_regular

    def spy(path: str, *, where: str) -> bytes:
        read.append(path)
        return plain(path, where=where)

    monkeypatch.setattr(folder, "read_regular", spy)
    source = open_at(root)
    assert {Path(path).parts[-3] for path in read} == {"test"}
    split = source.load(Part.TRAIN, contract_of())
    read.clear()
    table = {id_: digest for id_, digest, _ in source.split_table()}
    assert {Path(path).parts[-3] for path in read} == {"val"}
    assert [table[id_] for id_ in split.ids] == list(split.digests)


# -- labels ---------------------------------------------------------------------------------------


def test_order_is_that_of_nfc_code_points(tmp_path: Path) -> None:
    names = ("zebra", "Zoo", "e\u0301t\u00e9", "f", "10", "2")
    source = open_at(make_folder(tmp_path / "d", names))
    assert source.info.labels == ("10", "2", "Zoo", "f", "zebra", "e\u0301t\u00e9")


def test_numbers_are_warned_of(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", ("1", "2", "10"))
    assert any("1, 10, 2" in note for note in open_at(root).info.notes)
    (tmp_path / "labels.txt").write_text("1\n2\n10\n")
    options = DataOptions(labels_file=str(tmp_path / "labels.txt"))
    info = open_folder(str(root), options).info
    assert info.labels == ("1", "2", "10")
    assert not info.notes


def test_labels_file_orders_the_counts(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    fill_class(root / "c", 7, {Part.TRAIN: 5, Part.VAL: 1, Part.TEST: 1})
    (tmp_path / "labels.txt").write_text("c\na\nb\n")
    info = open_folder(str(root), DataOptions(labels_file=str(tmp_path / "labels.txt"))).info
    assert info.counts[Part.TRAIN] == (5, 3, 3)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        ((" ", "b"), "data.blank-label"),
        (("a", "A"), "data.label-twice"),
        (("caf\u00e9", "cafe\u0301"), "data.label-twice"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, names: tuple[str, ...], code: str) -> None:
    assert refusal(make_folder(tmp_path / "d", names)).code == code


def test_class_folder_that_is_not_utf_8(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    (root / os.fsdecode(b"\xff\x80")).mkdir()
    problem = refusal(root)
    assert problem.code == "data.label-encoding"
    assert "\\udcff" in problem.what


def as_file_name(name: str) -> str:
    return name.replace("/", "_")[:200]


@pytest.mark.parametrize("name", [n for n in HOSTILE_NAMES if n != ".."])
def test_hostile_names_of_classes_and_files(tmp_path: Path, name: str) -> None:
    label = as_file_name(name)
    root = make_folder(tmp_path / "d", ("a", "b"))
    (root / "b" / f"{label}.png").write_bytes(noise_png(77))
    (root / "b" / f"{label}.jpg").write_bytes(b"%!PS")
    source = open_folder(str(root), SKIP)
    for part in Part:
        source.load(part, contract_of())
    for id_, _, _ in source.split_table():
        id_.encode("utf-8")
    assert [reason for _, reason in source.skipped] == [
        "not an image that ndtool reads: PostScript"
    ]
    with pytest.raises(DataError) as caught:
        open_at(root).load(part_of(sha(b"%!PS")), contract_of())
    line = error_line(caught.value)
    line.encode("utf-8")
    assert not any(ord(c) < 32 or c in "\x7f\x85\u202e" for c in line)
    if "\udcff" not in label:
        (root / "b").rename(root / label)
        assert label in open_at(root).info.labels


# -- left out -------------------------------------------------------------------------------------


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    for name in (".DS_Store", "a/._1.png", "a/Thumbs.db"):
        (root / name).write_bytes(b"x")
    (root / ".cache").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "a" / "notes.txt").write_text("BM is no bitmap here")
    (root / "a" / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (root / "a" / "sub").mkdir()
    (root / "lost.jpg").write_bytes(b"x")
    (root / "README").write_text("x")
    source = open_at(root)
    assert source.info.counts == dict.fromkeys(Part, (3, 3))
    assert source.info.notes == (
        "2 files are no images and were left out; the first: a/clip.mp4",
        "1 folders inside class folders were not read; the first: a/sub",
        "1 images lie outside the class folders and were left out",
        "5 hidden or system files and folders were left out",
    )


def test_images_without_a_suffix_are_images(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    for path in root.glob("a/*.png"):
        path.rename(path.with_suffix(".bin"))
    assert open_at(root).info.counts == dict.fromkeys(Part, (3, 3))


def test_ndignore(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d", ("a", "b", "drop me"))
    bad = root / "a" / "bad \u00e9.png"
    bad.write_bytes(b"%!PS")
    (root / "b" / "x1.png").write_bytes(b"")
    (root / "b" / "x2.png").write_bytes(b"")
    (root / ".ndignore").write_bytes(
        "# a comment\n\ndrop me/\n./a/bad e\u0301.png\r\nb/x*.png\nnothing[\n".encode()
    )
    info = open_at(root).info
    assert info.labels == ("a", "b")
    assert info.counts == dict.fromkeys(Part, (3, 3))
    assert info.ignore == ("drop me/", "./a/bad e\u0301.png", "b/x*.png", "nothing[")
    assert info.notes == (
        "4 files or folders were left out by .ndignore",
        "lines of .ndignore that match nothing: nothing[",
    )


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=4), st.text())
def test_no_line_of_ndignore_breaks_the_rule(lines: list[str], name: str) -> None:
    rule = folder_scan._IgnoreRule(lines)
    rule.matches(name)
    assert all(rule.matches(line.strip("/")) for line in lines if not set(line) & set("*?[./"))


# -- bad files ------------------------------------------------------------------------------------

BAD = {
    "truncated.jpg": encoded(Image.new("RGB", (64, 64)), "JPEG")[:400],
    "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "empty.png": b"",
    "deep.png": encoded(Image.new("I;16", (4, 4)), "PNG"),
    "long.png": encoded(Image.new("RGB", (100, 1)), "PNG"),
}


def add_bad(root: Path) -> dict[Part, list[str]]:
    """The bad files in class a; their ids by part."""
    parts: dict[Part, list[str]] = {part: [] for part in Part}
    for name, content in BAD.items():
        (root / "a" / name).write_bytes(content)
        parts[part_of(sha(content))].append(f"a/{name}")
    return parts


def test_all_bad_files_of_a_part_are_listed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    listed = {name: ids for name, ids in add_bad(root).items() if ids}
    source = open_at(root)
    for part, ids in listed.items():
        with pytest.raises(DataError) as caught:
            source.load(part, contract_of())
        told = [caught.value, *caught.value.more]
        assert [p.where for p in told if hasattr(p, "where")] == [
            f"{root}/{i}" for i in sorted(ids)
        ]
        assert all(p.exit_code == 2 for p in told)


def test_skipping_goes_on_and_says_what_was_left_out(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    bad = add_bad(root)
    source = open_folder(str(root), SKIP)
    kept = {part: source.load(part, contract_of()) for part in Part}
    assert {part: len(split) for part, split in kept.items()} == dict.fromkeys(Part, 6)
    assert all(len(s.images) == len(s.ids) == len(s.digests) == 6 for s in kept.values())
    assert sorted(id_ for id_, _ in source.skipped) == sorted(
        i for ids in bad.values() for i in ids
    )
    assert dict(source.skipped)["a/truncated.jpg"] == "cannot decode image: truncated JPEG"
    clean = make_folder(tmp_path / "clean")
    for part in Part:
        expected = open_at(clean).load(part, contract_of())
        assert np.array_equal(kept[part].images, expected.images)
        assert kept[part].sha256() == expected.sha256()


def test_skipping_may_not_empty_a_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    number = next(n for n in range(1000) if part_of(sha(b"%%!PS %d" % n)) is Part.VAL)
    for path in root.glob("a/*.png"):
        if part_of(sha(path.read_bytes())) is Part.VAL:
            path.unlink()
    (root / "a" / "bad.png").write_bytes(b"%%!PS %d" % number)
    with pytest.raises(DataError) as caught:
        open_folder(str(root), SKIP).load(Part.VAL, contract_of())
    assert caught.value.code == "data.too-few-images"
    assert "of the classes a" in caught.value.what


def test_fifo_and_links_that_leave_the_folder(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    outside = tmp_path / "outside.png"
    outside.write_bytes(noise_png(5))
    os.mkfifo(root / "a" / "fifo.png")
    (root / "a" / "out.png").symlink_to(outside)
    (root / "a" / "up.png").symlink_to("../../outside.png")
    (root / "b" / "broken.png").symlink_to("nowhere.png")
    (root / "b" / "loop.png").symlink_to("loop.png")
    (root / "etc").symlink_to("/etc")
    problem = refusal(root)
    told = [(p.where.removeprefix(f"{root}/"), p.code) for p in (problem, *problem.more)]
    assert told == [
        ("etc", "data.symlink"),
        ("a/fifo.png", "data.not-a-file"),
        ("a/out.png", "data.symlink"),
        ("a/up.png", "data.symlink"),
        ("b/broken.png", "data.unreadable"),
        ("b/loop.png", "data.unreadable"),
    ]
    source = open_folder(str(root), SKIP)
    assert source.info.counts == dict.fromkeys(Part, (3, 3))
    assert len(source.skipped) == 6


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "real")
    (root / ".store").mkdir()
    for number, path in enumerate(sorted(root.glob("a/*.png"))):
        path.rename(root / ".store" / f"{number}")
        path.symlink_to(f"../.store/{number}")
    (tmp_path / "d").symlink_to(root)
    source = open_at(tmp_path / "d")
    assert source.info.counts == dict.fromkeys(Part, (3, 3))
    assert len(source.load(Part.TEST, contract_of())) == 6


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "d")
    victim = sorted(root.glob("a/*.png"))[0]
    (root / "a" / "extra.png").write_bytes(noise_png(victim.stat().st_size))
    plain = os.open

    def deny(path: str, flags: int) -> int:
        if str(path).endswith("extra.png"):
            raise PermissionError(13, "Permission denied")
        return plain(path, flags)

    monkeypatch.setattr("ndtool.data.files.os.open", deny)
    problem = refusal(root)
    assert problem.code == "data.unreadable"
    assert problem.where == f"{root}/a/extra.png"
    assert open_folder(str(root), SKIP).skipped == (
        ("a/extra.png", "cannot open: Permission denied"),
    )


def test_a_file_that_changes_between_opening_and_loading(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    source = open_at(root)
    id_ = next(i for i, _, part in source.split_table() if part is Part.TEST)
    (root / id_).write_bytes(noise_png(4242))
    with pytest.raises(DataError) as caught:
        source.load(Part.TEST, contract_of())
    assert (caught.value.code, caught.value.where) == ("data.changed", f"{root}/{id_}")


def test_a_listed_part_is_the_loaded_one_undecoded(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    contract = contract_of(("b", "a"))  # the contract's order counts
    listed, loaded = (
        getattr(open_at(root), how)(Part.TRAIN, contract) for how in ("listed", "load")
    )
    assert [file.id for file in listed.files] == list(loaded.ids)
    assert [file.sha256 for file in listed.files] == list(loaded.digests)
    assert listed.labels.tolist() == loaded.labels.tolist()
    assert (len(listed), listed.shape) == (len(loaded), loaded.shape)
    assert listed.sha256() == loaded.sha256()
    decoder = pickle.loads(pickle.dumps(listed.decoder))  # noqa: S301  (our own)
    assert np.array_equal(np.stack([decoder.pixels(f) for f in listed.files]), loaded.images)
    with pytest.raises(DataError):
        open_at(root).listed(Part.TRAIN, contract_of(("a", "c")))


def test_checking_a_part_refuses_and_skips_as_loading_does(tmp_path: Path) -> None:
    root = make_given(tmp_path / "d", ("train", "val", "test"))
    for name in ("bad", "worse"):
        (root / "val" / "a" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + name.encode())
    texts, skipped = [], []
    for how in ("check", "load"):
        with pytest.raises(DataError) as caught:
            getattr(open_at(root), how)(Part.VAL, contract_of())
        texts.append([str(caught.value), *map(str, caught.value.more)])
        source = open_folder(str(root), SKIP)
        getattr(source, how)(Part.VAL, contract_of())
        skipped.append(source.skipped)
        assert len(source.listed(Part.VAL, contract_of())) == 10 + 8
    assert texts[0] == texts[1] and len(texts[0]) == 2
    assert skipped[0] == skipped[1] and len(skipped[0]) == 2
    for path in (root / "val" / "a").iterdir():
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + path.name.encode())
    with pytest.raises(DataError) as caught:
        open_folder(str(root), SKIP).check(Part.VAL, contract_of())
    assert caught.value.code == "data.too-few-images"


def test_files_larger_than_the_bound(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    with (root / "a" / "big.png").open("wb") as handle:
        handle.truncate(64 * 1024 * 1024 + 1)
    assert refusal(root).code == "data.file-too-large"


# -- duplicates -----------------------------------------------------------------------------------


def test_duplicates_in_one_class_are_counted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    for n, path in enumerate(sorted(root.glob("a/*.png"))[:4]):
        shutil.copy(path, root / "a" / f"copy{n}.png")
    info = open_at(root).info
    assert info.notes == ("4 samples are exact duplicates of others in their part",)


def test_the_same_image_in_two_classes(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    twice = sorted(root.glob("a/*.png"))[:2]
    for n, path in enumerate(twice):
        shutil.copy(path, root / "b" / f"z{n}.png")
    problem = refusal(root)
    assert problem.code == "data.two-classes"
    assert [p.where for p in (problem, *problem.more)] == [f"{root}/b/z0.png", f"{root}/b/z1.png"]
    assert f"{root}/a/{twice[0].name}" in problem.what
    assert refusal(root, SKIP).code == "data.two-classes"


@pytest.mark.parametrize("into", ["train", "val"])
def test_leaks_across_given_parts(tmp_path: Path, into: str) -> None:
    root = make_given(tmp_path / "d", ("train", "val", "test"))
    for n, path in enumerate(sorted(root.glob("test/a/*.png"))[:3]):
        shutil.copy(path, root / into / "a" / f"leak{n}.png")
    assert open_at(root).info.notes == (
        "leak: 3 of 18 test samples (16.67 %) are also in the training or validation part",
    )


# -- layouts --------------------------------------------------------------------------------------


def test_layouts_that_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").code == "data.no-folder"
    (tmp_path / "file").write_bytes(b"x")
    assert refusal(tmp_path / "file").code == "data.no-folder"
    flat = tmp_path / "flat"
    flat.mkdir()
    assert "no class folders" in refusal(flat).what
    (flat / "1.jpg").write_bytes(b"x")
    assert "no class folders but 1 images" in refusal(flat).what
    outer = tmp_path / "outer"
    make_folder(outer / "flowers")
    assert f"folder:{outer}/flowers" in refusal(outer).remedy
    make_folder(tmp_path / "one", ("only",))
    assert refusal(tmp_path / "one").code == "data.too-few-classes"
    train = make_given(tmp_path / "t", ("train",))
    assert f"folder:{train}/train" in refusal(train).remedy
    make_folder(train / "unlabelled")
    assert "unlabelled" in refusal(train).what
    two = make_given(tmp_path / "two", ("train", "val", "valid"))
    assert "two folders for one part" in refusal(two).what


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    info = open_at(make_folder(tmp_path / "d", ("bus", "train"))).info
    assert info.labels == ("bus", "train")


def test_classes_without_images(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    (root / "empty").mkdir()
    (root / "text").mkdir()
    (root / "text" / "x.txt").write_text("x")
    problem = refusal(root)
    assert problem.code == "data.empty-class"
    assert [p.what.split("'")[1] for p in (problem, *problem.more)] == ["empty", "text"]


def test_no_images_at_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.heic").write_bytes(b"\0\0\0\x18ftypheic")
    problem = refusal(tmp_path)
    assert problem.code == "data.no-images"
    assert "2 other files, the first: a/x.heic" in problem.what


def test_too_few_images_says_how_many_are_needed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    fill_class(root / "c", 9, {Part.TRAIN: 4, Part.VAL: 0, Part.TEST: 0})
    problem = refusal(root)
    assert problem.code == "data.too-few-images"
    assert problem.what == "class 'c' has 4 images, none of them in val and test"
    assert "30 of a class" in problem.remedy


def test_a_given_part_that_lacks_a_class(tmp_path: Path) -> None:
    root = make_given(tmp_path / "d", ("train", "val", "test"))
    shutil.rmtree(root / "val" / "b")
    problem = refusal(root)
    assert problem.what == "class 'b' has 18 images, none of them in val"
    assert problem.remedy == "put at least one image of it into val"
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    assert "a" in refusal(root).what


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder(tmp_path / "d")
    monkeypatch.setattr(folder_scan, "MAX_FILES", 19)
    assert refusal(root).code == "data.too-many-files"
    monkeypatch.setattr(folder_scan, "MAX_FILES", 20)
    open_at(root)


def test_pixels_that_do_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_at(make_folder(tmp_path / "d"))
    monkeypatch.setattr("ndtool.data.files.available_memory_bytes", lambda: 1000)
    with pytest.raises(DataError) as caught:
        source.load(Part.TRAIN, contract_of())
    assert caught.value.code == "data.memory"


def test_paths_are_told_as_the_user_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "d")
    (tmp_path / "d" / "a" / "x.png").symlink_to("/etc/hostname")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        open_source("folder:d", DataOptions())
    assert str(caught.value) == (
        "the link leads out of the folder (d/a/x.png); "
        "replace it by a copy, or list it in d/.ndignore [data.symlink]"
    )
