"""Configuration files: ndtool.toml of the user, config.toml of a run (users.md, 2.4).

One table a verb, option names with `_` (`max_drop` for --max-drop). A flag wins over the file, the
file over the default. The tables [boards.NAME] are boards: `ndtool.targets` reads them.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final

from ndtool.errors import ConfigError, InputError
from ndtool.files import read_bounded
from ndtool.options import WORD_OF
from ndtool.rundir import (
    CONFIG,
    RunDir,
)

NAME: Final = "ndtool.toml"
BOARDS: Final = "boards"  # the table that is no verb's
MAX_BYTES: Final = 1024 * 1024
Option = str | int | float | bool
Table = dict[str, Option | list[Option]]
_TABLE: Final = re.compile(r"^\[([a-z]+)\]\n", re.MULTILINE)
_ORIGIN: Final = re.compile(r"^([a-z0-9_]+) = .*  # (flag|file|default)$", re.MULTILINE)
MAX_KEY_DOTS: Final = 15
# Strings and comments of TOML: where a dot is no part of a key. One without its end takes the rest,
# so that nothing is looked at twice.
_TEXT: Final = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"{3,5}|\Z)|"(?:\\.|[^"\\\n])*"?'
    r"|'''.*?(?:'{3,5}|\Z)|'[^'\n]*'?|#[^\n]*",
    re.DOTALL,
)
_DOTTED: Final = re.compile(r"[\w.\t -]+")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# What a terminal or a review page would not show, or show as something else (console.visible)
_UNSEEN: Final = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)


def find_config(start: Path) -> Path | None:
    """ndtool.toml in `start` or a parent, up to the first folder with .git."""
    for folder in (start, *start.parents):
        if (folder / NAME).is_file():
            return folder / NAME
        if (folder / ".git").exists():
            return None
    return None


def load_config(path: Path, known: Mapping[str, Collection[str]]) -> dict[str, Table]:
    """The tables of a configuration file, checked against the options each verb has.

    Boards are left out; they are checked where they are used.

    Raises:
        ConfigError: unreadable, not TOML, an unknown table or key (with the nearest one).
    """
    checked: dict[str, Table] = {}
    for verb, options in read_toml(path).items():
        _require_known(verb, {*known, BOARDS}, path, "")
        if not isinstance(options, dict):
            raise ConfigError(
                "a key outside of any table",
                where=f"{path}: {verb}",
                remedy="put it under [train], [export], ...",
                code="config.key",
            )
        if verb == BOARDS:
            continue
        for key, value in options.items():
            _require_known(key, known[verb], path, f"{verb}.")
            _require_plain(value, where=f"{path}: {verb}.{key}")
        checked[verb] = options
    return checked


def read_toml(path: Path) -> dict[str, object]:
    """The tables of a TOML file of at most MAX_BYTES.

    Raises:
        InputError: it cannot be read. ConfigError: not TOML.
    """
    return parse_toml(read_bounded(path, MAX_BYTES), where=str(path))


def parse_toml(
    data: bytes, *, where: str, parse_float: Callable[[str], object] = float
) -> dict[str, object]:
    """The tables of a TOML text; `where` names it in errors.

    Args:
        parse_float: what makes a value of the text of a float; may raise ValueError.

    Raises:
        ConfigError: not TOML.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(
            "not UTF-8 text",
            where=where,
            remedy="save it as UTF-8",
            code="config.syntax",
        ) from None
    try:
        _require_short_keys(text)
        return tomllib.loads(text, parse_float=parse_float)
    # ValueError: TOML, and integers of thousands of digits. RecursionError: `[[[[...`.
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"not a TOML file: {error}",
            where=where,
            remedy="mend that line",
            code="config.syntax",
        ) from None


def _require_short_keys(text: str) -> None:
    """Refuse keys such as `a.a.a.a`: the time of tomllib grows with the cube of their parts."""
    rest = _TEXT.sub("x", text)
    if any(words[0].count(".") > MAX_KEY_DOTS for words in _DOTTED.finditer(rest)):
        raise ValueError(f"a key of more than {MAX_KEY_DOTS + 1} parts")


def load_run_table(path: Path, verb: str) -> dict[str, object]:
    """The table of `verb` in a run's config.toml by field name; empty if it cannot be read."""
    try:
        table = read_toml(path).get(verb)
    except InputError:
        return {}
    field_of = {word: field for field, word in WORD_OF.items()}
    if not isinstance(table, dict):
        return {}
    return {field_of.get(str(key), str(key)): value for key, value in table.items()}


def load_recorded(path: Path, verb: str, fields: Collection[str]) -> dict[str, tuple[object, str]]:
    """What a run's config.toml has for `fields` of `verb`: value and recorded origin, by field.

    Values are plain, no more is known of them. A row whose origin was taken away is of a `file`.

    Raises:
        ConfigError: not a plain value.
    """
    table = load_run_table(path, verb)
    if not table:
        return {}
    text = read_bounded(path, MAX_BYTES).decode("utf-8")
    origins = dict(_ORIGIN.findall(_split_tables(text).get(verb, "")))
    rows = {}
    for field in fields:
        if field in table:
            key = WORD_OF.get(field, field)
            _require_plain(table[field], where=f"{path}: {verb}.{key}")
            rows[field] = (table[field], origins.get(key, "file"))
    return rows


def _require_plain(value: object, *, where: str) -> None:
    if not _is_plain(value, lists=True):
        raise ConfigError(
            "not a plain value",
            where=where,
            remedy="use text, a number, true, false or a list of them",
            code="config.key",
        )


def _is_plain(value: object, *, lists: bool) -> bool:
    if isinstance(value, list):
        return lists and all(_is_plain(item, lists=False) for item in value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63  # TOML's integers; Python reads longer ones, too
    return isinstance(value, str | float)


def _require_known(key: str, known: Collection[str], path: Path, prefix: str) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(sorted(known))}"
    raise ConfigError("unknown key", where=f"{path}: {prefix}{key}", remedy=hint, code="config.key")


def table_text(verb: str, options: Mapping[str, tuple[object, str]]) -> str:
    """One TOML table: every option that has a value, its origin as a comment.

    Args:
        verb: name of the table.
        options: by field name; written as the words that users type.
    """
    lines = [f"[{verb}]"]
    for field, (value, origin) in options.items():
        if value is not None and value != ():
            lines.append(f"{WORD_OF.get(field, field)} = {toml_value(value)}  # {origin}")
    return "\n".join(lines) + "\n"


def write_config(
    run: RunDir, verb: str, values: Mapping[str, object], given: Mapping[str, str]
) -> None:
    """Put the table of `verb` into the run's config.toml.

    Args:
        values: by field of the options.
        given: where each came from, `flag` or `file`; the others are defaults.
    """
    path = run / CONFIG
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = {key: (value, given.get(key, "default")) for key, value in values.items()}
    run.write_text(CONFIG, replace_table(old, verb, table_text(verb, rows)))


def replace_table(text: str, verb: str, table: str) -> str:
    """`text` (a config.toml of ours) with the table of `verb` put in, the others as they are."""
    tables = _split_tables(text) | {verb: table}
    return "\n".join(t.rstrip("\n") + "\n" for t in tables.values())


def _split_tables(text: str) -> dict[str, str]:
    """The text of each table of a config.toml of ours, with its head."""
    starts = [(m.start(), m[1]) for m in _TABLE.finditer(text)]
    ends = [*(start for start, _ in starts[1:]), len(text)][: len(starts)]
    return {name: text[a:b] for (a, name), b in zip(starts, ends, strict=True)}


def toml_value(value: object) -> str:
    """A value as TOML writes it; texts without lone surrogates, in one line of visible characters.

    A list or tuple is an array, a mapping an inline table with sorted keys.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case Decimal():
            plain = f"{value:f}"
            return plain if "." in plain else f"{plain}.0"
        case list() | tuple():
            return f"[{', '.join(map(toml_value, value))}]"
        case Mapping():
            rows = (f"{toml_key(str(k))} = {toml_value(v)}" for k, v in sorted(value.items()))
            return f"{{ {', '.join(rows)} }}"
        case _:
            # A JSON string is a TOML basic string; TOML bars DEL, and knows no surrogates.
            text = json.dumps(str(value), ensure_ascii=False)
            return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def toml_key(text: str) -> str:
    """A key as TOML writes it."""
    return text if _BARE_KEY.fullmatch(text) else toml_value(text)
