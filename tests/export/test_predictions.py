import contextlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndtool.errors import InputError
from ndtool.export.predictions import Predictions, load_predictions, save_predictions

IDS = ("roses/1.jpg", "tulips/\U0001f337.png", "a\nb", "bad\udcff", "")


def some(dtype: type[np.int8 | np.float32] = np.int8) -> Predictions:
    outputs = np.random.default_rng(0).integers(-128, 128, (5, 3)).astype(dtype)
    return Predictions(ids=IDS, predicted=np.argmax(outputs, axis=1), outputs=outputs)


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
@pytest.mark.parametrize("classes", [1, 3])
def test_what_is_saved_is_loaded(tmp_path: Path, dtype: type, classes: int) -> None:
    whole = some(dtype)
    saved = Predictions(
        ids=IDS, predicted=np.zeros(5, np.int64), outputs=whole.outputs[:, :classes]
    )
    save_predictions(tmp_path / "p.npz", saved)
    loaded = load_predictions(tmp_path / "p.npz")
    assert loaded.ids == IDS
    assert loaded.outputs.dtype == dtype
    np.testing.assert_array_equal(loaded.outputs, saved.outputs)
    np.testing.assert_array_equal(loaded.predicted, saved.predicted)


def test_numpy_reads_the_same_and_the_bytes_do_not_depend_on_time(tmp_path: Path) -> None:
    save_predictions(tmp_path / "p.npz", some())
    with np.load(tmp_path / "p.npz", allow_pickle=False) as archive:
        assert sorted(archive) == ["ids", "output", "predicted"]
        assert tuple(archive["ids"].tolist()) == IDS
        np.testing.assert_array_equal(archive["output"], some().outputs)
    with zipfile.ZipFile(tmp_path / "p.npz") as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {1980}


def packed(arrays: dict[str, np.ndarray], compression: int = zipfile.ZIP_STORED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=True)
            archive.writestr(f"{key}.npy", member.getvalue())
    return data.getvalue()


GOOD = {
    "ids": np.array(["a", "b"]),
    "predicted": np.array([0, 1]),
    "output": np.zeros((2, 2), np.int8),
}


def claims_a_terabyte(data: bytes) -> bytes:
    """The output's header says another shape; zip's checksums are made anew."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["output.npy"] = members["output.npy"].replace(b"(2, 2), } ", b"(2, 900000000000), }")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not a zip"),
        (b"\x80\x04K\x01.", "not a zip"),  # a pickle
        (packed(GOOD)[:-30], "not a zip"),
        (packed({k: v for k, v in GOOD.items() if k != "ids"}), "ids.npy"),
        (packed({**GOOD, "ids": np.array(["a", None], object)}), "ids has a foreign"),
        (packed({**GOOD, "output": np.zeros((2, 2))}), "output has a foreign"),
        (packed({**GOOD, "output": np.zeros(2, np.int8)}), "output is int8 of shape [2]"),
        (packed({**GOOD, "output": np.zeros((3, 2), np.int8)}), "3 outputs"),
        (packed({**GOOD, "predicted": np.array([0, 2])}), "without an output"),
        (packed({**GOOD, "predicted": np.array([-1, 0])}), "without an output"),
        (packed(GOOD, zipfile.ZIP_DEFLATED), "ids is compressed"),
        (claims_a_terabyte(packed(GOOD)), "another size"),
    ],
)
def test_hostile_files_are_one_error(tmp_path: Path, data: bytes, word: str) -> None:
    (tmp_path / "p.npz").write_bytes(data)
    with pytest.raises(InputError, match="not a predictions file") as caught:
        load_predictions(tmp_path / "p.npz")
    assert word in caught.value.what
    assert caught.value.code == "predictions.bad"


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), min_size=1, max_size=6))
@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_damaged_bytes_never_escape(tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    path = tmp_path / "p.npz"
    save_predictions(path, some())
    data = bytearray(path.read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        load_predictions(path)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()], ids=["missing", "folder"])
def test_no_file_is_an_input_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "p.npz")
    with pytest.raises(InputError):
        load_predictions(tmp_path / "p.npz")
