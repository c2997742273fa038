"""Class names: refusals, the labels file, the contract's order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_names import HOSTILE_NAMES

from ndtool.console import error_line
from ndtool.data.labels import (
    check_labels,
    label_numbers,
    listing,
    number_order_note,
    reordered,
)
from ndtool.errors import DataError

NFC, NFD = "caf\u00e9", "cafe\u0301"


def codes(labels: list[str]) -> list[str]:
    with pytest.raises(DataError) as caught:
        check_labels(labels, where="d")
    return [caught.value.code, *(p.code for p in caught.value.more)]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ("", "data.blank-label"),
        (" ", "data.blank-label"),
        ("\u00a0\u3000", "data.blank-label"),
        ("\u200b\u202e", "data.blank-label"),
        ("\udcff", "data.label-encoding"),
        ("a\0b", "data.label-encoding"),
        ("A", "data.label-twice"),
        ("b", "data.label-twice"),  # one object in CPython, as all texts of one character
        ("x" * 1001, "data.label-length"),
    ],
)
def test_refused_names(bad: str, code: str) -> None:
    assert codes(["a", "b", bad]) == [code]


def test_all_bad_names_are_told_at_once() -> None:
    assert codes(["a", "", "A", "b"]) == ["data.blank-label", "data.label-twice"]


def test_equal_after_nfc_or_folding() -> None:
    assert codes([NFC, NFD]) == ["data.label-twice"]
    assert codes(["stra\u00dfe", "STRASSE"]) == ["data.label-twice"]
    assert codes([NFD.upper(), NFC]) == ["data.label-twice"]


def test_number_of_classes() -> None:
    assert codes(["one"]) == ["data.too-few-classes"]
    assert codes([]) == ["data.too-few-classes"]
    assert codes([str(k) for k in range(10_001)]) == ["data.too-many-classes"]
    check_labels([str(k) for k in range(10_000)], where="d")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names_are_kept_or_refused_on_one_plain_line(name: str) -> None:
    try:
        check_labels(["a", name], where=name)
    except DataError as error:
        assert name == "\udcff\udc80raw bytes"
        line = error_line(error)
        line.encode("utf-8")
        assert "\n" not in line
        assert "\x1b" not in line


def test_labels_file_gives_the_order_and_compares_by_nfc(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(f"\ufeffb\r\n{NFD}\r\na\r\n".encode())
    assert reordered(["a", "b", NFC], str(path), where="d") == ("b", NFC, "a")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"a\n", "lacks classes: b"),
        (b"a\nb\nc\n", "no class of d: c"),
        (b"a\nb\na\n", "twice: a"),
        (b"a\n\nb\n", "no class"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "no class"),
    ],
)
def test_labels_file_must_name_each_class_once(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        reordered(["a", "b"], str(path), where="d")
    assert caught.value.code == "data.labels-file"
    assert word in caught.value.what
    assert caught.value.where.endswith("labels.txt")


def test_label_numbers_follow_the_contract() -> None:
    assert label_numbers(["a", "b", NFD], ["b", NFC, "a"], where="d").tolist() == [2, 0, 1]
    for other in (["a", "b"], ["a", "b", "x"], ["a", "b", NFC, "x"]):
        with pytest.raises(DataError) as caught:
            label_numbers(["a", "b", NFD], other, where="d")
        assert caught.value.code == "data.labels-differ"


def test_number_order_note() -> None:
    assert "1, 10, 2" in (number_order_note(["1", "10", "2"]) or "")
    assert number_order_note(["1", "2", "3"]) is None
    assert number_order_note(["1", "10", "x"]) is None


def test_listing_is_short_and_visible() -> None:
    assert listing(["a\n"]) == "a\\x0a"
    assert listing([str(k) for k in range(20)]).endswith("11 and 8 more")
