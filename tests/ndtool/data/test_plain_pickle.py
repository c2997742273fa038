"""Pickles of flat data: all that Python writes of them, and nothing else."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import os
import pickle
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from cifar_files import CIFAR10_NAMES, CIFAR100_NAMES, COARSE_NAMES, python2_pickle
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.data import plain_pickle
from ndtool.data.plain_pickle import read_plain_pickle
from ndtool.errors import DataError

PIXELS = np.random.default_rng(3).integers(0, 256, (4, 12), dtype=np.uint8)
VALUES = {"batch_label": "part 1", "labels": [0, 300, 70_000, -1], "data": PIXELS, "names": ["é"]}
FORTRAN = np.asfortranarray(PIXELS)


def python3_pickle(protocol: int, **changes: object) -> bytes:
    return pickle.dumps({k.encode(): v for k, v in (VALUES | changes).items()}, protocol)


SMALL = {"python2": python2_pickle(VALUES)} | {
    f"python3-{protocol}": python3_pickle(protocol, data=array)
    for protocol, array in ((3, PIXELS), (4, FORTRAN), (5, PIXELS), (5, FORTRAN))
}


def plain(values: dict[Any, Any]) -> dict[str, Any]:
    """Text of Python 2 as bytes, arrays with their shape: comparable."""

    def one(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return (value.shape, value.dtype.str, value.tobytes())
        if isinstance(value, list):
            return [one(item) for item in value]
        return value.encode() if isinstance(value, str) else value

    return {k.decode("latin-1") if isinstance(k, bytes) else k: one(v) for k, v in values.items()}


class Oracle(pickle.Unpickler):
    """CPython's, which may name numpy's functions alone."""

    def find_class(self, module: str, name: str) -> Any:
        assert f"{module}.{name}".replace("_core", "core") in {
            "numpy.core.multiarray._reconstruct",
            "numpy.core.numeric._frombuffer",
            "numpy.ndarray",
            "numpy.dtype",
        }
        return super().find_class(module.replace(".core.", "._core."), name)


def refusal(content: bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        read_plain_pickle(content, where="a/batch")
    assert caught.value.code == "data.pickle"
    assert caught.value.where.startswith("a/batch: byte ")
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("values", "md5"),
    [
        (
            {"num_cases_per_batch": 10000, "label_names": CIFAR10_NAMES, "num_vis": 3072},
            "5ff9c542aee3614f3951f8cda6e48888",
        ),
        (
            {"fine_label_names": CIFAR100_NAMES, "coarse_label_names": COARSE_NAMES},
            "7973b15100ade9c7d40fb424638fde48",
        ),
    ],
)
def test_the_publishers_names(values: dict[str, object], md5: str) -> None:
    """The md5 of batches.meta and meta as torchvision.datasets.cifar knows them."""
    content = python2_pickle(values)
    assert hashlib.md5(content).hexdigest() == md5
    assert plain(read_plain_pickle(content, where="")) == plain(values)


@pytest.mark.parametrize("kind", SMALL)
def test_what_pythons_write(kind: str) -> None:
    found = read_plain_pickle(SMALL[kind], where="")
    assert plain(found) == plain(VALUES)
    data = found["data"]
    assert isinstance(data, np.ndarray) and not data.flags.writeable


def test_protocol_0() -> None:
    """As Python 2 writes a dict by default."""
    content = (
        b"(dp1\nS'names'\np2\n(lp3\nS'a b'\np4\naS\"it\"\np5\nag4\nas"
        b"S'n'\nI-12\nsS't'\nI01\nsS'f'\nI00\ns."
    )
    assert read_plain_pickle(content, where="") == {
        "names": [b"a b", b"it", b"a b"],
        "n": -12,
        "t": True,
        "f": False,
    }


class Calls:
    """Reduces to a call that would be seen."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("made-by-a-pickle",)


def of(value: object, protocol: int = 2) -> bytes:
    return pickle.dumps({"x": value}, protocol)


RECONSTRUCTED = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
DTYPE = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"


def array(state: bytes) -> bytes:
    """A dict of one array with this state."""
    return b"\x80\x02}U\x01x" + RECONSTRUCTED + b"(" + state + b"tbs."


def nested(lists: int) -> bytes:
    return b"\x80\x02}U\x01x" + b"]" * lists + b"a" * (lists - 1) + b"s."


HOSTILE = {
    "a call": (of(Calls()), "names posix.mkdir"),
    "a call, STACK_GLOBAL": (of(Calls(), 4), "names posix.mkdir"),
    "eval": (b"c__builtin__\neval\n(U\x011tR.", "names __builtin__.eval"),
    "a name with controls": (b"cos\x1b[2J\nsystem\n.", "names os\\x1b[2J.system"),
    "numpy's loader": (b"cnumpy\nload\n.", "names numpy.load"),
    "numpy's evaluator": (b"cnumpy.core.multiarray\nscalar\n.", "names numpy.core.multiarray.sc"),
    "a long name": (b"c" + b"n" * 300 + b"\nload\n.", "a line does not end"),
    "a name that is no text": (b"]]\x93.", "it names , which"),
    "a class's own state": (of(collections.Counter("a")), "names collections.Counter"),
    "an object": (b"\x80\x02(cnumpy\nndarray\no.", "opcode 0x6f"),
    "an instance": (b"(inumpy\nndarray\n.", "opcode 0x69"),
    "NEWOBJ": (b"cnumpy\nndarray\n)\x81.", "opcode 0x81"),
    "a persistent id": (b"U\x01aQ.", "opcode 0x51"),
    "a persistent id, text": (b"Pa\n.", "opcode 0x50"),
    "an extension code": (b"\x82\x01.", "opcode 0x82"),
    "a buffer from outside": (b"\x80\x05\x97.", "opcode 0x97"),
    "a long number": (b"\x8b\xff\xff\xff\x7f.", "opcode 0x8b"),
    "a long number, text": (b"L" + b"9" * 200 + b"L\n.", "opcode 0x4c"),
    "a number of many digits": (b"I" + b"9" * 200 + b"\n.", "not a number"),
    "a float": (of(1.5), "opcode 0x47"),
    "a set": (of({1}, 4), "opcode 0x8f"),
    "a dict in a dict": (of({"y": 1}), "a dict holds"),
    "a list in a list": (of([[1]]), "a list holds"),
    "many lists": (nested(100_000), "a list holds"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "a list holds"),
    "a tuple in a tuple in a tuple": (b"K\x01\x85\x85\x85.", "a tuple holds"),
    "a name as a value": (b"}U\x01xcnumpy\ndtype\ns.", "a dict holds"),
    "a number as a key": (b"}K\x01K\x01s.", "key is not short text"),
    "a long key": (b"}T\x01\x01\x00\x00" + b"k" * 257 + b"K\x01s.", "key is not short text"),
    "a key without a value": (b"}(U\x01xu.", "key is not short text"),
    "no dict": (b"]K\x01a.", "no dict"),
    "nothing": (b"\x80\x02.", "no dict"),
    "two values": (b"}}.", "more than one value"),
    "an open mark": (b"(}.", "more than one value"),
    "bytes after the end": (b"}.}", "more than one value"),
    "an empty file": (b"", "ends early"),
    "no end": (b"\x80\x02}", "ends early"),
    "text beyond the end": (b"T\xff\xff\xff\x7f.", "ends early"),
    "bytes beyond the end": (b"\x96" + b"\xff" * 8 + b".", "ends early"),
    "a frame beyond the end": (b"\x80\x04\x95" + b"\xff" * 8 + b".", "ends early"),
    "a protocol to come": (b"\x80\x06}.", "protocol above 5"),
    "text that is no UTF-8": (b"\x8c\x01\xff.", "not UTF-8"),
    "escapes": (b"S'\\x41'\n.", "not plain quoted text"),
    "one quote": (b"S'\n.", "not plain quoted text"),
    "an append to nothing": (b"K\x01a.", "no list"),
    "an append to text": (b"U\x01aK\x01a.", "no list"),
    "an append below a mark": (b"](K\x01a.", "no list"),
    "no mark": (b"]e.", "a mark is missing"),
    "a pop below a mark": (b"K\x01(\x85.", "a value is missing"),
    "a memo index that nothing has": (b"h\x07.", "nothing is kept"),
    "a huge memo index": (b"}r\xff\xff\xff\xff.", "memo index 4294967295"),
    "a negative memo index": (b"}p-1\n.", "memo index -1"),
    "a memo of nothing": (b"q\x00.", "no object"),
    "an array of objects": (of(np.array([None]), 4), "array of the type O8, not uint8"),
    "an array of floats": (of(np.zeros(2, np.float32), 4), "array of the type f4, not uint8"),
    "a record dtype": (of(np.dtype("u1,u1")), "array of the type V2, not uint8"),
    "a call of a text": (b"U\x01a)R.", "a call that numpy does not write"),
    "a call of ndarray": (b"cnumpy\nndarray\n(K\x7ftR.", "a call that numpy does not write"),
    "reconstruction of a dtype": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\x00tU\x01btR.",
        "a call that numpy does not write",
    ),
    "reconstruction of a large array": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(J\xff\xff\xff\x7ftU\x01btR.",
        "a call that numpy does not write",
    ),
    "an array without a state": (b"}U\x01x" + RECONSTRUCTED + b"s.", "without content"),
    "an array with two states": (
        b"}U\x01x" + RECONSTRUCTED + 2 * (b"(K\x01K\x01\x85" + DTYPE + b"\x89U\x01atb") + b"s.",
        "a state that numpy does not write",
    ),
    "a state of a dict": (b"})b.", "a state that numpy does not write"),
    "a dtype with fields": (
        b"}U\x01x" + DTYPE + b"(K\x03U\x01|NU\x01fNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbs.",
        "a state that numpy does not write",
    ),
    "an array of objects by its state": (
        array(b"K\x01K\x01\x85cnumpy\ndtype\n\x89]"),
        "a tuple holds",
    ),
    "an array larger than its bytes": (
        array(b"K\x01J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86" + DTYPE + b"\x89U\x01a"),
        "size is not that of its bytes",
    ),
    "negative sizes": (
        array(b"K\x01J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86" + DTYPE + b"\x89U\x01a"),
        "a tuple holds",
    ),
    "an empty array with huge sizes": (
        array(b"K\x01(K\x00" + b"J\xff\xff\xff\x7f" * 3 + b"t" + DTYPE + b"\x89U\x00"),
        "size is not that of its bytes",
    ),
    "too many dimensions": (
        array(b"K\x01(" + b"K\x01" * 5 + b"t" + DTYPE + b"\x89U\x01a"),
        "tuple",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files(case: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, word = HOSTILE[case]
    assert word in refusal(content).what
    assert not list(tmp_path.iterdir())


def test_declared_sizes_are_not_believed() -> None:
    bombs = [HOSTILE[c][0] for c in HOSTILE if "beyond" in c or "large" in c or "huge" in c]
    assert len(bombs) >= 7
    tracemalloc.start()
    for bomb in bombs:
        refusal(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200_000


def test_kept_values_are_shared() -> None:
    """A short file that names one text many times."""
    times = 10_000
    text = b"T" + struct.pack("<i", 1_000_000) + b"x" * 1_000_000 + b"q\x00"
    content = b"\x80\x02}U\x01x](" + text + b"h\x00" * times + b"es."
    tracemalloc.start()
    found = read_plain_pickle(content, where="")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == {"x": [b"x" * 1_000_000] * (times + 1)}
    assert peak < 4_000_000


def test_opcodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MAX_OPCODES", 1000)
    assert "more than 1,000 opcodes" in refusal(b"}" * 2000).what
    assert "memo index 1000" in refusal(b"}r\xe8\x03\x00\x00.").what


@given(st.sampled_from(sorted(SMALL)), st.integers(0, 10**6), st.integers(1, 255))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_a_changed_byte_is_refused_or_read_as_python_does(kind: str, at: int, flip: int) -> None:
    content = bytearray(SMALL[kind])
    # The length of the frame concerns a reader that reads ahead; Python's does.
    first = 11 if content[2:3] == pickle.FRAME else 0
    content[first + at % (len(content) - first)] ^= flip
    try:
        found = read_plain_pickle(bytes(content), where="")
    except DataError:
        return
    # What we read holds no more than numpy's names, so that Python may read it too.
    oracle = Oracle(io.BytesIO(content), encoding="bytes").load()
    assert plain(found) == plain(oracle)


PIECES = [bytes([code]) for code in range(256)] + [
    *(
        RECONSTRUCTED,
        DTYPE,
        b"U\x01x",
        b"K\x01",
        b"(K\x01\x85",
        b"\x8c\x01b",
        b"I1\n",
        b"p1\n",
        b"g1\n",
    ),
    *(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.numeric\n_frombuffer\n"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=60))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_any_opcodes_are_refused_or_read(pieces: list[bytes]) -> None:
    for end in (b"", b".", b"s.", b"u."):
        with contextlib.suppress(DataError):
            read_plain_pickle(b"}" + b"".join(pieces) + end, where="")
