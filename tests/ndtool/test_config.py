"""Configuration files: found, checked by key, written with origins, read back."""

import time
import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.config import (
    find_config,
    load_config,
    load_recorded,
    load_run_table,
    parse_toml,
    replace_table,
    table_text,
    toml_key,
    toml_value,
)
from ndtool.errors import ConfigError, InputError

KNOWN = {"train": {"epochs", "data"}, "check": {"max_drop"}}


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "ndtool.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_tables_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, '[train]\nepochs = 3\ndata = "digits"\n')
    assert load_config(path, KNOWN) == {"train": {"epochs": 3, "data": "digits"}}


def test_boards_pass_for_every_verb_and_are_no_options(tmp_path: Path) -> None:
    path = write(tmp_path, "[train]\nepochs = 3\n[boards.mine]\nanything = {a = [1]}\n")
    assert load_config(path, KNOWN) == {"train": {"epochs": 3}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nepoch = 3", ("unknown key", "train.epoch", "did you mean train.epochs?")),
        ("[tran]\nepochs = 3", ("unknown key", "tran", "did you mean train?")),
        ("[train", ("not a TOML file",)),
        ("train = 3", ("outside of any table",)),
        ("boards = 3", ("outside of any table",)),
        ("[bords.mine]\nram = 3", ("unknown key", "did you mean boards?")),
        ("[train]\nepochs = {a = 1}", ("not a plain value",)),
        ("[train]\nepochs = [[1]]", ("not a plain value",)),
        ("[train]\nepochs = 0x" + "f" * 9000, ("not a plain value",)),
        (b"\xff\xfe", ("not UTF-8 text", "save it as UTF-8")),
        ("[train]\nepochs = " + "9" * 5000, ("not a TOML file",)),
        ("[train]\nepochs = " + "[" * 5000, ("not a TOML file",)),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, text: str | bytes, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text), KNOWN)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "text",
    [
        "a." * 16 + "b = 1",
        "[" + "a . " * 16 + "b]",
        "x = {" + '"a".' * 50_000 + "b = 1}",
        "x = ['''\n''', {" + "a." * 50_000 + "b = 1}]",
        'x = ["""\n"""", {' + "a." * 50_000 + "b = 1}]",
    ],
)
def test_keys_of_many_parts_are_refused_at_once(text: str) -> None:
    with pytest.raises(ConfigError, match="more than 16 parts"):
        parse_toml(text.encode(), where="x")


@pytest.mark.parametrize(
    "text",
    [
        "a." * 15 + "b = 1",
        'x = "' + "a." * 1000 + '"',
        "x = '" + "a." * 1000 + "'",
        'x = """\n' + "a." * 1000 + '\\""" """"',
        "x = '''\n' " + "a." * 1000 + "''''",
        "# " + "a." * 1000,
        "x = [" + "1.5, " * 1000 + "]",
    ],
)
def test_dots_elsewhere_are_no_parts_of_a_key(text: str) -> None:
    assert parse_toml(text.encode(), where="x") == tomllib.loads(text)


PIECES = ('"""', "'''", '"""\\"', '"\\', "'", '""" ', "a.\n")


@pytest.mark.parametrize("piece", PIECES)
def test_no_text_takes_long_to_refuse(piece: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError):
        parse_toml((piece * 100_000 + "=").encode(), where="x")
    assert time.monotonic() - began < 2


texts = st.text(st.characters(exclude_categories=["Cs"]))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.dictionaries(
        texts,
        texts
        | st.lists(texts)
        | st.dictionaries(texts, st.booleans() | st.integers(-(2**63), 2**63 - 1))
        | st.decimals(allow_nan=False, allow_infinity=False, places=6),
    )
)
def test_every_value_reads_back_exactly(table: dict[str, object]) -> None:
    text = "".join(f"{toml_key(key)} = {toml_value(value)}\n" for key, value in table.items())
    assert parse_toml(text.encode(), where="x", parse_float=Decimal) == table
    assert len(text.splitlines()) == len(table)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        load_config(tmp_path / "none.toml", KNOWN)


def test_search_stops_at_the_repository(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    assert find_config(inner) == path
    (tmp_path / "a/.git").mkdir()
    assert find_config(inner) is None


values = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(allow_nan=False, allow_infinity=False),
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(["a", "b_c", "d"]), values))
def test_written_tables_read_back(options: dict[str, object]) -> None:
    text = table_text("train", {k: (v, "flag") for k, v in options.items()})
    assert tomllib.loads(text)["train"] == options


def test_replacing_one_table_keeps_the_others() -> None:
    text = replace_table("", "train", table_text("train", {"a": (1, "flag")}))
    text = replace_table(text, "export", table_text("export", {"b": (2, "default")}))
    text = replace_table(text, "train", table_text("train", {"a": (3, "file")}))
    assert tomllib.loads(text) == {"train": {"a": 3}, "export": {"b": 2}}
    assert "a = 3  # file" in text


def test_files_have_the_words_users_type_and_give_the_fields_back(tmp_path: Path) -> None:
    fields: dict[str, object] = {"crop_px": 2, "epochs": 3}
    text = table_text("train", {k: (v, "flag") for k, v in fields.items()})
    assert tomllib.loads(text)["train"] == {"crop": 2, "epochs": 3}
    assert load_run_table(write(tmp_path, text), "train") == fields
    drop = table_text("check", {"max_drop_points": (1.5, "file")})
    assert load_config(write(tmp_path, drop), KNOWN) == {"check": {"max_drop": 1.5}}


@pytest.mark.parametrize("text", ["[train", b"\xff", "train = 3", "[export]\ncalib = 1"])
def test_a_run_table_that_cannot_be_read_is_empty(tmp_path: Path, text: str | bytes) -> None:
    assert load_run_table(write(tmp_path, text), "train") == {}
    assert load_run_table(tmp_path / "none.toml", "train") == {}


def test_recorded_rows_have_their_origins(tmp_path: Path) -> None:
    text = """[export]
calib = 30  # flag
seed = 2
fc = "a  # flag"
[train]
seed = 3  # flag
"""
    assert load_recorded(write(tmp_path, text), "export", ["calib", "seed", "fc", "workers"]) == {
        "calib": (30, "flag"),
        "seed": (2, "file"),
        "fc": ("a  # flag", "file"),
    }
    assert load_recorded(tmp_path / "none.toml", "export", ["calib"]) == {}
    drop = table_text("check", {"max_drop_points": (1.5, "default")})
    rows = load_recorded(write(tmp_path, drop), "check", ["max_drop_points"])
    assert rows == {"max_drop_points": (1.5, "default")}


@pytest.mark.parametrize("value", ["1979-05-27", "[[1]]", "{ a = 1 }", "9" * 40])
def test_recorded_rows_are_plain(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, f"[export]\ncalib = {value}\n")
    assert load_recorded(path, "export", ["seed"]) == {}
    with pytest.raises(ConfigError, match=r"export\.calib"):
        load_recorded(path, "export", ["calib"])
