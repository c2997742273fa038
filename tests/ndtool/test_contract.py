"""The contract: one hash everywhere, contradictions and hostile files refused by key."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.contract import (
    Contract,
    InputSpec,
    Resize,
    load_contract,
    mean_std_normalize,
    parse_contract,
    unit_normalize,
)
from ndtool.errors import ContractError

GOOD = Contract(
    input=InputSpec(height=32, width=32, channels=1, color="GRAY"),
    resize=Resize(),
    normalize=unit_normalize(1),
    labels=("a", "b"),
)


def test_file_text_and_canonical_json_parse_to_the_same_contract() -> None:
    assert parse_contract(GOOD.to_file_text(), where="x") == GOOD
    assert parse_contract(GOOD.canonical_json(), where="x") == GOOD


def test_hash_is_of_sorted_ascii_json_without_spaces() -> None:
    text = replace(GOOD, labels=("ä", "b")).canonical_json()
    assert text.isascii() and " " not in text
    assert json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) == text
    assert GOOD.sha256() != replace(GOOD, labels=("b", "a")).sha256()


labels = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip),
    min_size=2,
    max_size=5,
    unique=True,
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(labels)
def test_any_labels_survive_the_file(names: list[str]) -> None:
    made = replace(GOOD, labels=tuple(names))
    assert parse_contract(made.to_file_text(), where="x") == made


def mutated(**changes: object) -> str:
    document = json.loads(GOOD.canonical_json())
    for path, value in changes.items():
        *parents, key = path.split("__")
        node = document
        for parent in parents:
            node = node[parent]
        node[key] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"version": 2}, "version"),
        ({"extra": 1}, "extra"),
        ({"input__height": 0}, "input.height"),
        ({"input__height": "32"}, "input.height"),
        ({"input__height": 10**9}, "input.height"),
        ({"input__channels": 3}, "input.channels"),
        ({"input__layout": "NCHW"}, "input.layout"),
        ({"resize__crop_fraction": 0.0}, "resize.crop_fraction"),
        ({"resize__fit": "stretch"}, "resize.fit"),
        ({"normalize__mean": [0.0, 0.0]}, "normalize.mean"),
        ({"normalize__std": [0.0]}, "normalize.range"),
        ({"normalize__range": [0.0, 2.0]}, "normalize.range"),
        ({"labels": ["a"]}, "labels"),
        ({"labels": ["a", "a"]}, "labels"),
        ({"labels": ["a", " "]}, "labels"),
        ({"labels": [1, 2]}, "labels"),
    ],
)
def test_contradictions_name_the_key(changes: dict[str, object], word: str) -> None:
    with pytest.raises(ContractError) as caught:
        parse_contract(mutated(**changes), where="contract.json")
    assert word in caught.value.what
    assert caught.value.where == "contract.json"


def test_range_follows_from_mean_and_std() -> None:
    norm = mean_std_normalize((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    assert norm.range == (-1.0, 3.0)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_files_that_are_no_contract(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "contract.json"
    path.write_bytes(data)
    with pytest.raises(ContractError):
        load_contract(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as caught:
        load_contract(tmp_path / "contract.json")
    assert caught.value.code == "contract.missing"
