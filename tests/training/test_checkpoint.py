"""Checkpoints come back whole, are written at once, and no hostile file gets past `load`."""

import io
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.errors import InputError
from ndtool.files import write_atomic
from ndtool.rundir import MAX_CHECKPOINT_BYTES
from ndtool.training import checkpoint
from ndtool.training.checkpoint import Identity
from ndtool.training.loop import HISTORY_COLUMNS, TrainState
from ndtool.training.supernet import Supernet
from ndtool.types import Sha256

SPEC = nets.se_spec()


def saved(path: Path, *, averaged: bool = False) -> tuple[TrainState, Identity]:
    net = Supernet(SPEC, rates=(2,), generator=torch.Generator().manual_seed(0))
    net.momentum.add_(0.5)
    row: dict[str, float | None] = dict.fromkeys(HISTORY_COLUMNS)
    row |= {"epoch": 1, "val_accuracy": 0.5, "lr": 0.1, "seconds": 1.25}
    ema = Supernet(SPEC, rates=(), generator=torch.Generator().manual_seed(1))
    state = TrainState(
        net=net,
        ema=ema if averaged else None,
        ends=(2, 3),
        epoch=1,
        step=7,
        skipped_in_row=2,
        best_accuracy=0.5,
        best_epoch=1,
        history=[row],
    )
    identity = Identity(
        spec=SPEC,
        contract=nets.contract_of(SPEC),
        options={"lr": 0.1, "surgery": True, "model": "ds-cnn", "gray": None},
        rates=(2,),
        data=Sha256("0" * 64),
        torch="2.13.0",
        threads=2,
        processes=3,
    )
    path.write_bytes(checkpoint.encode(state, identity))
    return state, identity


def test_the_averaged_student_is_the_result(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    state, _ = saved(path, averaged=True)
    assert state.ema is not None
    loaded = checkpoint.load(path)
    again = loaded.state().ema
    assert again is not None
    assert torch.equal(again.theta, state.ema.theta)
    assert torch.equal(again.statistics, state.ema.statistics)
    kept, expected = loaded.student_of().student_tensors(), state.ema.student_tensors()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    state, identity = saved(path)
    loaded = checkpoint.load(path)
    assert loaded.identity == identity
    again = loaded.state()
    assert torch.equal(again.net.theta, state.net.theta)
    assert torch.equal(again.net.momentum, state.net.momentum)
    assert torch.equal(again.net.statistics, state.net.statistics)
    assert again.ema is None
    for name in (
        "ends",
        "epoch",
        "step",
        "skipped_in_row",
        "best_accuracy",
        "best_epoch",
        "history",
    ):
        assert getattr(again, name) == getattr(state, name)
    a, b = state.net.student_tensors(), loaded.supernet().student_tensors()
    assert list(a) == list(b)
    assert all(torch.equal(a[n], b[n]) for n in a)
    before = path.read_bytes()
    saved(path)
    assert path.read_bytes() == before  # the same state, the same bytes


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    state, identity = saved(path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, checkpoint.encode(state, identity))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def refuse(path: Path, match: str = ".") -> InputError:
    with pytest.raises(InputError, match=match) as caught:
        checkpoint.load(path)
    assert caught.value.exit_code == 2
    return caught.value


class Calls:
    """Unpickling it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


class Big:
    """Unpickling it asks for a terabyte; bytearray is on torch's own list of safe names."""

    def __reduce__(self) -> tuple[type[bytearray], tuple[int]]:
        return bytearray, (10**12,)


@pytest.mark.parametrize("wrap", ["raw", "torch"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_is_not_run(tmp_path: Path, wrap: str, protocol: int) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    if wrap == "raw":
        path.write_bytes(pickle.dumps(Calls(mark), protocol))
    else:
        torch.save({"theta": Calls(mark)}, path, pickle_protocol=protocol)
    refuse(path)
    assert not mark.exists()


def test_a_name_torch_trusts_is_not_called_either(tmp_path: Path) -> None:
    path = tmp_path / "big.pt"
    torch.save({"theta": Big()}, path)
    refuse(path, "more than numbers and tensors")


def rewrite(
    path: Path, change: Callable[[str, bytes], bytes], kind: int = zipfile.ZIP_STORED
) -> None:
    """The same zip with changed entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(name, data))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    saved(path)

    def blow(name: str, data: bytes) -> bytes:
        return bytes(200_000_000) if name.endswith("data/0") else data

    rewrite(path, blow, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    refuse(path, "zip directory")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_a_tensor_longer_than_its_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.pt"
    saved(path)
    rewrite(path, lambda name, data: data[:-4] if name.endswith("data/0") else data)
    refuse(path)


@pytest.mark.parametrize("name", ["missing.pt", "folder", "empty.pt", "text.pt", "zip.pt"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("hello")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    assert name in refuse(tmp_path / name).where


def test_a_file_over_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.pt"
    with path.open("wb") as handle:
        handle.truncate(MAX_CHECKPOINT_BYTES + 1)  # sparse
    refuse(path, "larger than")


def edited(path: Path, **changes: Any) -> None:
    saved(path)
    document = torch.load(path, weights_only=True)  # noqa: TID251  (the test's own good file)
    for key, value in changes.items():
        if value is KeyError:
            del document[key]
        else:
            document[key] = value
    torch.save(document, path)


ROW = dict.fromkeys(HISTORY_COLUMNS)
GOOD = ROW | {"epoch": 1, "lr": 0.1, "val_accuracy": 0.5, "seconds": 1.25}
WRONG: list[tuple[str, Any]] = [
    *((key, KeyError) for key in ("format", "theta", "spec", "contract", "epoch", "history")),
    ("format", "ndtool.checkpoint/9"),
    ("theta", torch.zeros(3)),
    ("theta", torch.zeros(1).expand(10**12)),
    ("theta", [0.0] * 3),
    ("momentum", torch.zeros(1, dtype=torch.float64)),
    ("statistics", None),
    ("epoch", -1),
    ("epoch", True),
    ("epoch", 10**30),
    ("epoch", 2),
    ("best_epoch", 5),
    ("best_accuracy", float("nan")),
    ("best_accuracy", "1"),
    ("step", 1.5),
    ("history", [{}]),
    ("history", [ROW | {"lr": "x"}]),
    ("history", [ROW, ROW]),
    ("history", [GOOD | {"epoch": None}]),
    ("history", [GOOD | {"epoch": 2}]),
    ("history", [GOOD | {"epoch": 1.0}]),
    ("history", [GOOD | {"seconds": None}]),
    ("history", [GOOD | {"student_loss": 10**400}]),
    ("history", [GOOD | {"student_loss": True}]),
    ("options", {1: 2}),
    ("options", {"a": [1]}),
    ("rates", [3]),
    ("rates", [2, 2]),
    ("rates", [10**9]),
    ("rates", ["2"]),
    ("rates", 2),
    ("rates", [2, 3]),
    ("rates", [8, 4, 3, 2]),
    ("augmented", KeyError),
    ("augmented", 1),
    ("augmented", True),
    ("ends", []),
    ("ends", [1, 1]),
    ("ends", [3, 2]),
    ("ends", [0, 2]),
    ("ends", [2.0]),
    ("ema_theta", torch.zeros(3)),
    ("ema_theta", 1),
    ("threads", 0),
    ("spec", "{}"),
    ("spec", nets.ds_spec().to_json()),
    ("spec", nets.se_spec(classes=4).to_json()),
    ("spec", SPEC.to_json().replace('"c_out":4', '"c_out":65536')),
    ("spec", "x" * 2_000_000),
    ("contract", "{}"),
    ("contract", nets.contract_of(nets.ds_spec(classes=5)).canonical_json()),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_each_wrong_field_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "wrong.pt"
    edited(path, **{key: value})
    refuse(path)


def test_tensors_of_another_kind_of_supernet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.pt"
    edited(path, rates=[], augmented=True)
    refuse(path, "field theta")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "checkpoint.pt"
    saved(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place") / "file.pt"


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 2**31), st.booleans(), st.binary(max_size=300))
def test_random_bytes_and_cut_files_are_refused(
    good: bytes, place: Path, at: int, head: object, noise: bytes
) -> None:
    cut = at % (len(good) - 1) + 1
    for data in (good[:cut] if head else good[cut:], noise, good[:cut] + noise, noise + good[cut:]):
        if data != good:
            place.write_bytes(data)
            refuse(place)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(0, 2**31), st.integers(0, 255))
def test_one_changed_byte_is_refused_or_harmless(
    good: bytes, place: Path, at: int, value: int
) -> None:
    """Any byte of the table and the directory; for those of the tensors see below."""
    table = good.index(b"data.pkl")
    directory = good.index(b"PK\x01\x02")
    places = [*range(table + 2000), *range(directory, len(good))]
    broken = bytearray(good)
    broken[places[at % len(places)]] = value
    place.write_bytes(bytes(broken))
    try:
        loaded = checkpoint.load(place)
    except InputError:
        return
    assert loaded.theta.shape == checkpoint.load(place).supernet().theta.shape


def test_a_hostile_table_of_names_stays_small(tmp_path: Path) -> None:
    """Lists of lists of the same list: small on disk and in memory, endless when walked."""
    value: list[Any] = []
    for _ in range(60):
        value = [value] * 9
    edited(path := tmp_path / "lol.pt", options=value)
    refuse(path, "options")
    buffer = io.BytesIO()
    torch.save(value, buffer)
    path.write_bytes(buffer.getvalue())
    refuse(path, "not a table")


@pytest.mark.parametrize(
    ("opcode", "count", "said"),
    [
        (b"}", 1_000_001, "too many parts"),  # an empty dict, 64 bytes of memory from one
        (b"q\x00", 1_000_001, "too many parts"),
        (b"U\x02ab", 1_000_001, "too many parts"),  # a text, 51 bytes from four
        (b"\x8f", 1, "more than numbers"),  # an empty set
        (b"2", 1, "UnpicklingError"),  # which torch does not know
        (b"}", 400_000, "field format"),
    ],
)
def test_a_table_that_unfolds_is_refused(
    good: bytes, place: Path, opcode: bytes, count: int, said: str
) -> None:
    table = b"\x80\x02" + b"}" + opcode * count + b"}."
    with (
        zipfile.ZipFile(io.BytesIO(good)) as old,
        zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as new,
    ):
        for entry in old.infolist():
            own = entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, table if own else old.read(entry))
    tracemalloc.start()
    refuse(place, said)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * place.stat().st_size + 50e6


def test_weights_that_changed_on_their_way_are_refused(good: bytes, place: Path) -> None:
    """torch.load alone compares no checksum, and would train on from noise."""
    theta = Supernet(SPEC, rates=(2,), generator=torch.Generator().manual_seed(0)).theta
    broken = bytearray(good)
    broken[good.index(theta.numpy().tobytes()) + 3] ^= 1
    place.write_bytes(bytes(broken))
    refuse(place, "checksum")
