"""npz:FILE: what is read, and every way such a file can be wrong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import contract_of

from ndtool.data.arrays import ArraySource
from ndtool.data.npz import open_npz
from ndtool.data.splits import training_part_of
from ndtool.data.types import DataOptions
from ndtool.errors import DataError
from ndtool.types import Part, Sha256


def arrays(count: int = 40, shape: tuple[int, ...] = (8, 8)) -> dict[str, np.ndarray]:
    """A good set of two classes in turn."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        made[f"x_{part}"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        made[f"y_{part}"] = np.arange(count) % 2
    return made


def opened(path: Path, **changes: object) -> ArraySource:
    """The good set with changes (None: key left out), written and opened."""
    content = arrays() | changes
    np.savez(path / "x.npz", **{k: v for k, v in content.items() if v is not None})  # type: ignore[arg-type]
    return open_npz(str(path / "x.npz"), DataOptions())


def refusal(path: Path, **changes: object) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(path, **changes)
    assert caught.value.where.startswith(str(path / "x.npz"))
    return caught.value


def write(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def members(**changes: bytes) -> dict[str, bytes]:
    return {f"{k}.npy": npy(v) for k, v in arrays().items()} | {
        f"{k}.npy": v for k, v in changes.items()
    }


def refused_file(path: str) -> DataError:
    with pytest.raises(DataError) as caught:
        open_npz(path, DataOptions())
    return caught.value


def test_a_good_file(tmp_path: Path) -> None:
    given = arrays()
    np.savez(tmp_path / "My Set.npz", **given, class_names=["b", "a"])  # type: ignore[arg-type]
    source = open_npz(str(tmp_path / "My Set.npz"), DataOptions())
    info = source.info
    assert (info.name, info.labels, info.channels) == ("my-set", ("b", "a"), 1)
    assert (info.resolution, info.epochs) == (8, 60)
    assert (info.augment.crop_px, info.augment.flip) == (1, True)
    assert sum(map(sum, info.counts.values())) == 80
    digests = [hashlib.sha256(x.tobytes()).hexdigest() for x in given["x_train"]]
    for id_, digest, part in source.split_table():
        name, index = id_.split("/")
        assert digest == hashlib.sha256(given[f"x_{name}"][int(index)].tobytes()).hexdigest()
        assert part is (training_part_of(Sha256(digest)) if name == "train" else Part.TEST)
    train = source.load(Part.TRAIN, contract_of(("a", "b"), channels=1))
    rows = [i for i, d in enumerate(digests) if training_part_of(Sha256(d)) is Part.TRAIN]
    assert train.ids == tuple(f"train/{i}" for i in rows)
    assert np.array_equal(train.images[..., 0], given["x_train"][rows])
    assert train.labels.tolist() == [1 - i % 2 for i in rows]  # the contract's order counts


def test_class_names_default_to_numbers(tmp_path: Path) -> None:
    assert opened(tmp_path).info.labels == ("0", "1")


def test_given_validation_part(tmp_path: Path) -> None:
    more = arrays(6)
    source = opened(tmp_path, x_val=more["x_train"], y_val=more["y_train"])
    assert source.info.counts == {Part.TRAIN: (20, 20), Part.VAL: (3, 3), Part.TEST: (20, 20)}
    assert source.load(Part.VAL, contract_of(("0", "1"), channels=1)).ids[0] == "val/0"
    assert refusal(tmp_path, x_val=more["x_train"]).code == "data.npz-key"


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 1), (9, 7, 3)])
def test_ranks_and_sizes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Not square: the contract is, by its resize rule."""
    source = opened(tmp_path, **arrays(40, shape))
    channels = 3 if shape[2:] == (3,) else 1
    assert source.info.resolution == 9
    assert source.info.channels == channels
    split = source.load(Part.TEST, contract_of(("0", "1"), side=9, channels=channels))
    assert split.images.shape == (40, 9, 9, channels)


def test_forms_of_the_same_arrays(tmp_path: Path) -> None:
    """Fortran order, big-endian and column labels, compression, bytes as names, odd writers."""
    good = arrays()
    plain = opened(tmp_path, **good, class_names=np.array(["\u00e9", "b"]))
    other = opened(
        tmp_path,
        **good
        | {
            "x_train": np.asfortranarray(good["x_train"]),
            "y_train": good["y_train"].astype(">i2")[:, None],
            "y_test": good["y_test"].astype(np.uint64),
        },
        class_names=np.array(["\u00e9".encode(), b"b"]),
    )
    np.savez_compressed(tmp_path / "c.npz", **good, class_names=["\u00e9", "b"])  # type: ignore[arg-type]
    packed = open_npz(str(tmp_path / "c.npz"), DataOptions())
    assert plain.split_table() == other.split_table() == packed.split_table()
    assert plain.info.counts == other.info.counts == packed.info.counts
    assert plain.info.labels == other.info.labels == packed.info.labels
    loose = npy(good["x_test"]).replace(b"(40, 8, 8), }", b"( 40,8,8 )}  ")
    assert len(loose) == len(npy(good["x_test"]))
    again = {f"{k}.npy": npy(v) for k, v in good.items()} | {"x_test.npy": loose}
    source = open_npz(write(tmp_path / "l.npz", again), DataOptions())
    assert source.split_table() == plain.split_table()


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"x_train": None}, "npz-key", "no array x_train"),
        ({"y_test": None, "x_test": None}, "npz-key", "no array x_test y_test"),
        ({"x_train": np.zeros((40, 8, 8), np.float32)}, "npz-type", "<f4"),
        ({"x_train": np.zeros((40, 8, 8), np.uint16)}, "npz-type", "<u2"),
        ({"x_train": np.zeros((40, 8, 8), np.int8)}, "npz-type", "|i1"),
        ({"x_train": np.zeros((40, 64), np.uint8)}, "npz-shape", "40x64"),
        ({"x_train": np.zeros((40, 3, 8, 8), np.uint8)}, "npz-shape", "40x3x8x8"),
        ({"x_train": np.zeros((40, 8, 8, 2), np.uint8)}, "npz-shape", "40x8x8x2"),
        ({"x_train": np.zeros((40, 8, 9), np.uint8)}, "npz-shape", "those of x_train of 8x9"),
        ({"x_train": np.zeros((0, 8, 8), np.uint8)}, "npz-shape", "0 samples"),
        ({"x_train": np.zeros((40, 0, 8), np.uint8)}, "image-size", "8x0"),
        ({"x_train": np.zeros((40, 1, 40), np.uint8)}, "aspect", "40x1"),
        ({"x_train": np.zeros((1, 5000, 200), np.uint8)}, "image-size", "5000x200"),
        ({"y_train": np.zeros(39, int)}, "npz-shape", "39 labels for 40 images"),
        ({"y_train": np.zeros((40, 2), int)}, "npz-shape", "40x2"),
        ({"y_train": np.zeros(40)}, "npz-type", "<f8"),
        ({"y_train": np.full(40, -1)}, "label-range", "label -1"),
        ({"y_train": np.full(40, 2**64 - 1, np.uint64)}, "label-range", "18446744073709551615"),
        ({"y_train": np.full(40, 10_000)}, "label-range", "label 10000"),
        ({"class_names": ["a", "b"], "y_test": np.arange(40) % 3}, "label-range", "label 2"),
        ({"class_names": ["a", "A"]}, "label-twice", "'a' and 'A'"),
        ({"class_names": ["a", " "]}, "blank-label", "blank"),
        ({"class_names": ["a", "b", "c"]}, "empty-class", "class 'c' has no images"),
        ({"class_names": ["a"] * 10_001}, "npz-shape", "10,001 names"),
        ({"class_names": ["a", "b" * 1001]}, "npz-shape", "4,004 bytes"),
        ({"class_names": [1, 2]}, "npz-type", "<i8"),
        ({"class_names": "ab"}, "npz-type", "<U2"),
        ({"class_names": np.array([b"a", b"\xff"])}, "label-encoding", "UTF-8"),
        ({"class_names": np.array(["a", "\ud800"])}, "label-encoding", "UTF-8"),
        ({"y_test": np.zeros(40, int)}, "too-few-images", "none of them in test"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, object], code: str, word: str) -> None:
    problem = refusal(tmp_path, **changes)
    assert problem.code == f"data.{code}"
    assert word in problem.what


def test_names_that_are_no_code_points(tmp_path: Path) -> None:
    names = npy(np.array(["a", "b"])).replace(b"b\0\0\0", b"\xff\xff\xff\xff")
    problem = refused_file(write(tmp_path / "x.npz", members(class_names=names)))
    assert problem.code == "data.npz-type"
    assert "damaged text" in problem.what


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('the pickle ran')",))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(pickle.dumps(Evil()))
    assert refused_file(str(path)).code == "data.npz"
    problem = refusal(tmp_path, x_train=np.array([Evil()] * 40, dtype=object))
    assert problem.code == "data.npz-type"
    assert "object arrays" in problem.remedy
    inside = members(x_train=pickle.dumps(Evil()))
    assert refused_file(write(path, inside)).code == "data.npz-array"


def test_structured_arrays(tmp_path: Path) -> None:
    odd = np.zeros(40, dtype=[("x", np.uint8)])
    assert refusal(tmp_path, x_train=odd).code == "data.npz-array"


def declared(shape: str, descr: str = "|u1") -> bytes:
    """An .npy of 8 data bytes that declares another shape."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text.encode() + bytes(8)


@pytest.mark.parametrize(
    "header",
    [
        declared("5000000, 4096, 4096"),  # 84 TB
        declared("999999999999999999, 999999999999999999, 999999999999999999"),
        declared("4, 2, 2"),
        declared("-1, 8, 8"),
        declared("8, 1.0, 1"),
        declared("2, 2, 2", "|u9"),
        declared("2, 2, 2", "|i3"),
        declared("2, 2, 2", "|V8"),
        declared("2, 2, 2", "<M8"),
        declared("(" * 3000),
        declared("-" * 3000),
        declared("2, 2, 2")[:30],
        b"\x93NUMPY",
        b"\x93NUMPY\x09\0" + bytes(200),
        b"\x93NUMPY\x02\0\xff\xff\xff\xff{",
        b"",
    ],
)
def test_hostile_headers_are_refused_before_a_byte_of_data(tmp_path: Path, header: bytes) -> None:
    problem = refused_file(write(tmp_path / "x.npz", members(x_train=header)))
    assert problem.code in ("data.npz-array", "data.npz-type")


def test_more_than_the_machine_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ndtool.data.files.available_memory_bytes", lambda: 10_000)
    assert refusal(tmp_path).code == "data.memory"


def test_zip_bomb_is_read_no_further_than_its_array(tmp_path: Path) -> None:
    """A member of 64 MiB behind a header that declares 2,560 bytes."""
    bomb = npy(arrays()["x_train"]) + bytes(64 * 1024 * 1024)
    path = write(tmp_path / "x.npz", members(x_train=bomb), compression=zipfile.ZIP_DEFLATED)
    assert Path(path).stat().st_size < 1_000_000
    problem = refused_file(path)
    assert problem.code == "data.npz-array"
    assert "67,111,424" in problem.what


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path: Path, kind: int) -> None:
    assert refused_file(write(tmp_path / "x.npz", members(), compression=kind)).code == "data.npz"


def test_damaged_data_is_found_by_its_checksum(tmp_path: Path) -> None:
    opened(tmp_path)
    path = tmp_path / "x.npz"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    problem = refused_file(str(path))
    assert problem.code == "data.npz"
    assert "CRC" in problem.what


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.data())
def test_damaged_files_are_read_or_refused_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    small = {k: v[:4] for k, v in arrays(4, (2, 2)).items()}
    packed = data.draw(st.booleans())
    (np.savez_compressed if packed else np.savez)(path, **small)  # type: ignore[arg-type]
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if packed else content)
    with contextlib.suppress(DataError):
        open_npz(str(path), DataOptions())


def test_leaks_are_told(tmp_path: Path) -> None:
    good = arrays()
    good["x_test"][:10] = good["x_train"][:10]
    assert "leak: 10 of 40 test samples (25.00 %)" in opened(tmp_path, **good).info.notes[0]


def test_labels_file(tmp_path: Path) -> None:
    good = arrays() | {"class_names": np.array(["a", "b"])}
    (tmp_path / "labels.txt").write_text("b\na\n")
    np.savez(tmp_path / "x.npz", **good)  # type: ignore[arg-type]
    options = DataOptions(labels_file=str(tmp_path / "labels.txt"))
    source = open_npz(str(tmp_path / "x.npz"), options)
    assert source.info.labels == ("b", "a")
    split = source.load(Part.TEST, contract_of(("b", "a"), channels=1))
    assert split.labels.tolist() == [1, 0] * 20


def test_archive_that_unpacks_to_far_more_than_pictures_do(tmp_path: Path) -> None:
    """The declared sizes are true, so only the density tells (a zip bomb)."""
    zeros = np.zeros((70, 1024, 1024), np.uint8)
    labels = np.arange(70) % 2
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x_train=zeros, y_train=labels, x_test=zeros[:2], y_test=labels[:2])
    with pytest.raises(DataError) as caught:
        open_npz(str(path), DataOptions())
    assert caught.value.code == "data.npz-bomb"
