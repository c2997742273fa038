"""Configuration files: ndtool.toml of the user, config.toml of a run (users.md, 2.4).

One table a verb, option names with `_` (`max_drop` for --max-drop). A flag wins over the file, the
file over the default.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from ndtool.errors import ConfigError, InputError
from ndtool.options import WORD_OF
from ndtool.rundir import read_bounded

NAME: Final = "ndtool.toml"
MAX_BYTES: Final = 1024 * 1024
Option = str | int | float | bool
Table = dict[str, Option | list[Option]]
_TABLE: Final = re.compile(r"^\[([a-z]+)\]\n", re.MULTILINE)


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

    Raises:
        ConfigError: unreadable, not TOML, an unknown table or key (with the nearest one).
    """
    checked: dict[str, Table] = {}
    for verb, options in _read(path).items():
        _require_known(verb, known, path, "")
        if not isinstance(options, dict):
            raise ConfigError(
                "a key outside of any table",
                where=f"{path}: {verb}",
                remedy="put it under [train], [export], ...",
                code="config.key",
            )
        for key, value in options.items():
            _require_known(key, known[verb], path, f"{verb}.")
            if not _is_plain(value, lists=True):
                raise ConfigError(
                    "not a plain value",
                    where=f"{path}: {verb}.{key}",
                    remedy="use text, a number, true, false or a list of them",
                    code="config.key",
                )
        checked[verb] = options
    return checked


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(read_bounded(path, MAX_BYTES).decode("utf-8"))
    # ValueError: TOML, UTF-8, and integers of thousands of digits. RecursionError: `[[[[...`.
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"not a TOML file: {error}",
            where=str(path),
            remedy="mend that line",
            code="config.syntax",
        ) from None


def load_run_table(path: Path, verb: str) -> dict[str, object]:
    """The table of `verb` in a run's config.toml by field name; empty if it cannot be read."""
    try:
        table = _read(path).get(verb)
    except InputError:
        return {}
    field_of = {word: field for field, word in WORD_OF.items()}
    if not isinstance(table, dict):
        return {}
    return {field_of.get(str(key), str(key)): value for key, value in table.items()}


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
            lines.append(f"{WORD_OF.get(field, field)} = {_toml_value(value)}  # {origin}")
    return "\n".join(lines) + "\n"


def replace_table(text: str, verb: str, table: str) -> str:
    """`text` (a config.toml of ours) with the table of `verb` put in, the others as they are."""
    starts = [(m.start(), m[1]) for m in _TABLE.finditer(text)]
    ends = [*(start for start, _ in starts[1:]), len(text)][: len(starts)]
    tables = {name: text[a:b] for (a, name), b in zip(starts, ends, strict=True)}
    tables[verb] = table
    return "\n".join(t.rstrip("\n") + "\n" for t in tables.values())


def _toml_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    # A JSON string is a TOML basic string, but for DEL (and lone surrogates, which `prepare` bars).
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
