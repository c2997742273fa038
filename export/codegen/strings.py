"""Values as C source text: strings, comments, numbers and tables (users.md, 4)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from ndtool.console import visible

WIDTH: Final = 100  # columns of generated source
_INDENT: Final = "    "
_WORDS_A_LINE: Final = 7
# C99 5.2.4.1: the longest string literal that every compiler must take
MAX_STRING_BYTES: Final = 4095
# Printed as they are; `"`, `\` and `?` (trigraphs) are not among them
_PLAIN: Final = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\?')
_COMMENT_MARK: Final = re.compile(r"(?<=/)(?=\*)|(?<=\*)(?=/)")


def text_bytes(text: str) -> bytes:
    """The bytes a C string of `text` holds: UTF-8, or a file name's own bytes if it is not UTF-8.

    Raises:
        UnicodeEncodeError: a lone surrogate that no file name gives.
    """
    return text.encode("utf-8", "surrogateescape")


def c_string(text: str) -> str:
    r"""A string literal, quotes included.

    Three octal digits for every byte outside printable ASCII and for `"`, `\` and `?`: a hex escape
    would swallow digits that follow, and `??=` is a trigraph under -std=c99.
    """
    body = "".join(chr(b) if b in _PLAIN else f"\\{b:03o}" for b in text_bytes(text))
    return f'"{body}"'


def c_comment(text: str) -> str:
    r"""Foreign text for the inside of a `/* */` comment: visible, comment marks broken up.

    A backslash (or the trigraph for it) at the end gets a full stop, so that it continues no line.
    """
    shown = _COMMENT_MARK.sub(" ", visible(text))
    return f"{shown}." if shown.endswith(("\\", "??/")) else shown


def float_literal(value: float) -> str:
    """A float32 value as a C literal of 9 significant digits, which give back the same float32."""
    digits = f"{value:.9g}"
    if not any(mark in digits for mark in ".e"):
        digits += ".0"
    return f"{digits}f"


def float_hex(value: float) -> str:
    """The exact value in hexadecimal, without trailing zeros: `0x1.010102p-8`."""
    mantissa, exponent = value.hex().split("p")
    return f"{mantissa.rstrip('0').rstrip('.')}p{exponent}"


def word_rows(data: bytes) -> str:
    """`data` as rows of little-endian 32-bit words, padded with zeros to a whole word."""
    padded = data + bytes(-len(data) % 4)
    words = [f"0x{word:08x}U," for (word,) in struct.iter_unpack("<I", padded)]
    starts = range(0, len(words), _WORDS_A_LINE)
    return "\n".join(_INDENT + " ".join(words[i : i + _WORDS_A_LINE]) for i in starts)


def number_rows(values: Iterable[int], *, depth: int = 1) -> str:
    """Decimal numbers, comma separated, as many on a line as fit, `depth` indents deep."""
    lines: list[str] = []
    line = _INDENT * depth
    for value in values:
        cell = f"{value},"
        if len(line) + len(cell) > WIDTH:
            lines.append(line.rstrip())
            line = _INDENT * depth
        line += f"{cell} "
    lines.append(line.rstrip())
    return "\n".join(lines)


def macro_rows(rows: Sequence[tuple[str, str, str]]) -> str:
    """`#define NAME value /* comment */` lines in columns; an empty comment is left out."""
    name_width = max(len(name) for name, _, _ in rows)
    value_width = max(len(value) for _, value, _ in rows)
    lines = []
    for name, value, comment in rows:
        note = f"/* {comment} */" if comment else ""
        lines.append(f"#define {name:{name_width}} {value:{value_width}} {note}".rstrip())
    return "\n".join(lines)
