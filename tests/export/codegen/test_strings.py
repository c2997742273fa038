from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from hostile_names import HOSTILE_NAMES
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ndtool.export.codegen.strings import (
    WIDTH,
    c_comment,
    c_string,
    float_hex,
    float_literal,
    macro_rows,
    number_rows,
    text_bytes,
    word_rows,
)

RULE = settings(derandomize=True, deadline=None, max_examples=100)
TEXTS = st.text() | st.sampled_from(HOSTILE_NAMES)


def read_literal(literal: str) -> bytes:
    """What a C compiler makes of a literal that holds octal escapes of three digits only."""
    body = literal[1:-1]
    assert re.fullmatch(r"(\\[0-7]{3}|[ !#-\[\]-~])*", body), body
    assert '"' not in body and "?" not in body
    octal = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), body)
    return octal.encode("latin-1")


@RULE
@given(TEXTS.filter(lambda t: not any("\ud800" <= c <= "\udc7f" for c in t)))
@example("\udcff")
@example("x1\x01" + "1")
def test_string_keeps_every_byte(text: str) -> None:
    assert read_literal(c_string(text)) == text_bytes(text)


def test_string_of_bytes_that_are_no_utf8() -> None:
    assert c_string(b"\xff?".decode("utf-8", "surrogateescape")) == r'"\377\077"'


@RULE
@given(TEXTS)
@example("*/*/**//")
@example("a\\")
@example("??/")
def test_comment_cannot_be_left(text: str) -> None:
    shown = f"/* {c_comment(text)} */"
    assert shown.count("*/") == 1
    assert shown.count("/*") == 1
    assert "\n" not in shown
    assert not c_comment(text).endswith(("\\", "??/"))


@RULE
@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=2**-126))
@example(1.0)
@example(float(np.float32(1 / 255)))
@example(float(np.float32(1e10)))
def test_float_literal_gives_the_same_float32(value: float) -> None:
    literal = float_literal(value)
    assert re.fullmatch(r"\d+(\.\d+)?(e[+-]\d+)?f", literal)
    assert "." in literal or "e" in literal  # "1f" is not C
    assert np.float32(literal[:-1]) == np.float32(value)
    assert float.fromhex(float_hex(value)) == value


@RULE
@given(st.binary(max_size=200))
def test_words_are_the_bytes(data: bytes) -> None:
    words = [int(w, 16) for w in re.findall(r"0x[0-9a-f]{8}(?=U,)", word_rows(data))]
    packed = struct.pack(f"<{len(words)}I", *words)
    assert packed[: len(data)] == data
    assert packed[len(data) :] == bytes(-len(data) % 4)
    assert all(len(line) <= WIDTH for line in word_rows(data).split("\n"))


@pytest.mark.parametrize("count", [1, 2, 300])
def test_number_rows_fill_the_width(count: int) -> None:
    values = [(-1) ** k * (k % 129) for k in range(count)]
    text = number_rows(values, depth=2)
    assert [int(v) for v in re.findall(r"-?\d+", text)] == values
    lines = text.split("\n")
    assert all(line.startswith("        ") and len(line) <= WIDTH for line in lines)
    assert all(line == line.rstrip() for line in lines)
    assert all(len(line) > WIDTH - 8 for line in lines[:-1])


def test_macros_stand_in_columns() -> None:
    text = macro_rows([("A", "1", "one"), ("LONG", "22", ""), ("B", "333", "three")])
    assert text == "#define A    1   /* one */\n#define LONG 22\n#define B    333 /* three */"
