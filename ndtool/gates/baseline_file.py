"""The two files of a baseline, read and written: `NAME.toml` and `NAME.pred` (users.md, 5.2).

Classes have a line each, so that a diff names the class that changed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final, TypeVar, get_args, get_type_hints

import numpy as np

from ndtool.config import parse_toml, toml_key, toml_value
from ndtool.console import visible
from ndtool.errors import ConfigError, GateError, NdError
from ndtool.files import (
    read_bounded,
    sha256_bytes,
    write_atomic,
    write_text_atomic,
)
from ndtool.gates.baseline import SCHEMA, U16, Baseline, nearest, place, require_valid
from ndtool.gates.evidence import Known

T = TypeVar("T")

SUFFIX: Final = ".toml"
PREDICTIONS_SUFFIX: Final = ".pred"
MAX_BYTES: Final = 16 * 1024 * 1024  # 10,000 classes with names of 300 letters, twice
_MAX_DIGITS: Final = 32  # of a number: no file needs more, and Decimal would take millions
_HEADER: Final = re.compile(r"\s*\[([^\[\]]*)\]\s*(#.*)?")


# -- reading ---------------------------------------------------------------------------------------


def parse_baseline(text: str, *, where: str) -> Baseline:
    """Read the TOML text of a baseline of unknown origin.

    Raises:
        ConfigError: not TOML, of a newer schema, an unknown key (with the nearest one), a value of
            another type or outside its range; all of the last kind at once.
    """
    tables = parse_toml(text.encode("utf-8"), where=visible(where), parse_float=parse_decimal)
    schema = tables.get("schema")
    if schema != SCHEMA:
        raise ConfigError(
            f"baseline of another version: {visible(str(schema))}, {SCHEMA} is known",
            where=visible(where),
            remedy="use the ndtool that wrote it",
            code="baseline.schema",
        )
    baseline = typed(Baseline, tables, where=where)
    require_valid(baseline, where=where)
    return baseline


def parse_decimal(text: str) -> Decimal:
    """A float of TOML, exact.

    Raises:
        ValueError: more digits than a number of ours has, or out of range.
    """
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of more than {_MAX_DIGITS} characters")
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of too many digits
        raise ValueError("a number out of range") from None


def typed(kind: type[T], table: Mapping[str, object], *, where: str) -> T:
    """The dataclass `kind` of what a TOML table holds.

    Raises:
        ConfigError: an unknown or missing key, a value of another type.
    """
    import pydantic

    try:
        made: T = pydantic.TypeAdapter(kind).validate_python(table)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "unexpected_keyword_argument"
        raise ConfigError(
            "unknown key" if unknown else f"wrong value: {first['msg']}",
            where=place(where, key),
            remedy=nearest(key, known_keys(kind))
            if unknown
            else "write it as ndtool baseline accept does",
            code="baseline.key" if unknown else "baseline.value",
        ) from None
    if wrong := next(_coerced(table, made, ""), None):
        raise ConfigError(
            "wrong value: a text for a number, or a number for a text, or no whole number",
            where=place(where, wrong),
            remedy="write it as ndtool baseline accept does",
            code="baseline.value",
        )
    return made


def _coerced(raw: object, made: object, key: str) -> Iterator[str]:
    """Keys of values that were taken for what they are not: `"1"`, `true` or `1.0` for 1."""
    if isinstance(raw, Mapping):
        for name, value in raw.items():
            inner = made[name] if isinstance(made, Mapping) else getattr(made, name)
            yield from _coerced(value, inner, f"{key}.{name}".lstrip("."))
    elif (
        isinstance(raw, bool)
        or isinstance(raw, str) != isinstance(made, str)
        or (isinstance(raw, Decimal) and not isinstance(made, Decimal))
    ):
        yield key


def known_keys(kind: type) -> tuple[str, ...]:
    """Dotted keys of a dataclass and of those inside it; of a table with free keys its own name."""
    found = []
    hints = get_type_hints(kind)
    for row in fields(kind):
        hint = hints[row.name]
        found.append(row.name)
        for part in (hint, *get_args(hint)):
            if isinstance(part, type) and is_dataclass(part):
                found += [f"{row.name}.{name}" for name in known_keys(part)]
    return tuple(found)


# -- the two files ---------------------------------------------------------------------------------


def require_place(path: Path) -> None:
    """Refuse a path that cannot name a baseline.

    Raises:
        ConfigError: it does not end in .toml, or its stem is no printable text.
    """
    if path.suffix != SUFFIX or not path.stem.isprintable() or "\0" in str(path):
        raise ConfigError(
            f"a baseline file has a printable name that ends in {SUFFIX}",
            where=visible(str(path)),
            remedy="name it such as baselines/main.toml",
            code="baseline.name",
        )


def predictions_of(path: Path) -> Path:
    """Where the predictions of the baseline at `path` are."""
    return path.with_suffix(PREDICTIONS_SUFFIX)


def load_known(path: Path) -> Known:
    """The baseline at `path`, and its predictions.

    Raises:
        ConfigError, InputError: the file cannot be read, or is no baseline.
        GateError: there is none, or its predictions are not those that it names.
    """
    require_place(path)
    if not path.exists():
        raise GateError(
            "no baseline file",
            where=visible(str(path)),
            remedy=f"create it: ndtool baseline accept RUN --baseline {shlex.quote(str(path))}"
            ' --reason "first accepted model"',
            code="gate.baseline-missing",
        )
    try:
        text = read_bounded(path, MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(
            "not UTF-8 text",
            where=visible(str(path)),
            remedy="name the .toml of a baseline",
            code="baseline.encoding",
        ) from None
    baseline = parse_baseline(text, where=str(path))
    return Known(baseline=baseline, predicted=_load_predictions(path, baseline))


def _load_predictions(path: Path, baseline: Baseline) -> U16:
    """Classes (N,) beside the baseline at `path`, read-only."""
    beside = predictions_of(path)
    size = 2 * baseline.result.samples
    if not beside.is_file():
        raise _damaged(path, "no predictions beside the baseline")
    if beside.stat().st_size != size:
        raise _damaged(path, f"the predictions are not the {size:,} bytes of the baseline")
    data = read_bounded(beside, size)
    if sha256_bytes(data) != baseline.hash.predictions:
        raise _damaged(path, "the predictions are not those that the baseline names")
    return np.frombuffer(data, dtype="<u2").astype(np.uint16)


def _damaged(path: Path, what: str) -> NdError:
    beside = predictions_of(path)
    both = f"{shlex.quote(str(path))} {shlex.quote(str(beside))}"
    return GateError(
        what,
        where=visible(str(beside)),
        remedy=f"restore both files, git checkout -- {both}; or delete both and accept anew",
        code="gate.baseline-damaged",
    )


def predictions_bytes(predicted: U16) -> bytes:
    """What NAME.pred holds: uint16, little-endian."""
    return predicted.astype("<u2").tobytes()


def save_known(path: Path, known: Known) -> None:
    """Write both files, the .toml last: its hash tells new predictions under an old baseline.

    Raises:
        ConfigError: not a baseline's name.
        InputError: a folder, device or pipe is in the way.
    """
    require_place(path)
    data = predictions_bytes(known.predicted)
    assert sha256_bytes(data) == known.baseline.hash.predictions
    text = baseline_text(known.baseline)
    assert parse_baseline(text, where=str(path)) == known.baseline
    write_atomic(predictions_of(path), data)
    write_text_atomic(path, text)


# -- writing ---------------------------------------------------------------------------------------


def plain(part: object) -> object:
    """A dataclass as a mapping of what is set in it, recursively; other values as they are."""
    if isinstance(part, Mapping):
        return dict(part)
    if not is_dataclass(part):
        return part
    values = {row.name: plain(getattr(part, row.name)) for row in fields(part)}
    return {name: value for name, value in values.items() if value is not None}


def baseline_text(baseline: Baseline) -> str:
    """The TOML of a baseline: tables in the order of users.md 5.2, keys sorted, a class a line.

    `parse_baseline` gives the same baseline back.
    """
    tables = {row.name: plain(getattr(baseline, row.name)) for row in fields(baseline)}
    lines = _rows({name: row for name, row in tables.items() if not isinstance(row, Mapping)})
    for name, table in tables.items():
        if isinstance(table, Mapping) and table:
            free = [key for key in ("recall_percent", "min_recall_percent") if table.get(key)]
            own = {key: value for key, value in table.items() if not key.endswith("recall_percent")}
            lines += ["", f"[{name}]", *_rows(own)]
            for key in free:
                lines += ["", f"[{name}.{key}]", *_rows(table[key])]
    return "\n".join(lines) + "\n"


def _rows(table: Mapping[str, object]) -> list[str]:
    return [f"{toml_key(key)} = {toml_value(table[key])}" for key in sorted(table)]


def anchor_line(text: str, key: str) -> int | None:
    """Line number, from 1, of a dotted key such as `bounds.max_drop` in the text of a baseline.

    What has no line of its own is found at the nearest thing that holds it: the label of
    `bounds.min_recall_percent.LABEL` at its table. None: it is nowhere, or written in another form
    than ours.
    """
    table, _, rest = key.partition(".")
    name, _, label = rest.partition(".")
    places = [(f"{table}.{name}", toml_key(label))] if label else []
    places += [(f"{table}.{name}", ""), (table, name)]
    lines = text.split("\n")
    found = (_line_of(lines, *place) for place in places)
    return next((number for number in found if number is not None), None)


def _line_of(lines: Sequence[str], table: str, key: str) -> int | None:
    """Number of the line of `key` in `[table]`; of the table's own where `key` is empty."""
    inside = False
    for number, line in enumerate(lines, start=1):
        if header := _HEADER.fullmatch(line):
            inside = header[1].strip() == table
            if inside and not key:
                return number
        elif inside and key and re.match(rf"\s*{re.escape(key)}\s*=", line):
            return number
    return None
