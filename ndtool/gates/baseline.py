"""The accepted baseline: `baselines/NAME.toml` and, beside it, the predictions `NAME.pred`.

Its fields and their ranges; `baseline_file` reads and writes it. Committed by the user and reviewed
as a diff (users.md, 5.2 and 5.5). Decimals stay decimals, from the file to the verdict.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from ndtool.console import visible
from ndtool.errors import ConfigError, raise_all
from ndtool.gates.verdict import GATES
from ndtool.types import Policy, Sha256

U16 = NDArray[np.uint16]

SCHEMA: Final = "ndtool.baseline/1"
MAX_SAMPLES: Final = 2**24
MAX_COUNT: Final = 2**48  # bytes or instructions
MAX_PERCENT: Final = 1000  # of an increase
MAX_SHARE: Final = 1  # percent: no floor but 0 is that low
MIN_REASON: Final = 10  # characters
# What `require` may name: every gate, and `hashes` for the first four
REQUIRABLE: Final = ("hashes", *GATES)
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_PERCENT: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?")
_DECIMALS: Final = 9
_STRICT: Final[dict[str, object]] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """Who is it: why it was accepted, by which ndtool, which model (`mbv2 w0.35 96x96`)."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    reason: str
    tool: str
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hashes:
    """sha256 of what the baseline was measured on, and of `NAME.pred`."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    evaluation_set: Sha256
    model_int8: Sha256
    labels: Sha256
    contract: Sha256
    predictions: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What it measured, of the int8 hop; for people and for the diff.

    `float_correct` is of the first hop, None where only int8 could be run. Percents are texts:
    accuracy with three decimals, recalls by label with one. Sizes and instructions are of the C,
    None where they were not measured; `check` judges by the bounds, not by them.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    samples: int
    correct: int
    accuracy_percent: str
    float_correct: int | None = None
    arena_bytes: int | None = None
    flash_bytes: int | None = None
    instructions: int | None = None
    recall_percent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Policy `paired`: fails at p < alpha and a drop above floor, or a drop above cap (points)."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    alpha: Decimal = Decimal("0.01")
    floor: Decimal = Decimal("0.5")
    cap: Decimal = Decimal("2.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An exact upper bound."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """At most `max`, or `value` and so many percent more; `core` of instructions: `cortex-m4`."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    value: int | None = None
    max_increase_percent: Decimal | None = None
    max: int | None = None
    core: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is judged. None: no such bound. Drops in points, accuracies and recalls in percent."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    min_accuracy_percent: Decimal | None = None
    policy: Policy = Policy.PAIRED
    max_drop: Decimal = Decimal("1.0")
    paired: Paired = field(default_factory=Paired)
    max_float_int8_drop: Decimal = Decimal("1.0")
    min_recall_percent: Mapping[str, Decimal] = field(default_factory=dict)
    c_mismatch: int = 0
    arena_bytes: Limit | None = None
    flash_bytes: Budget | None = None
    instructions: Budget | None = None
    ops: tuple[str, ...] | None = None
    require: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The whole file; `toolchain`: name -> version line of what flash and instructions need."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    name: str
    accepted: Accepted
    hash: Hashes
    result: Result
    bounds: Bounds
    toolchain: Mapping[str, str] = field(default_factory=dict)
    schema: str = SCHEMA


# -- ranges ----------------------------------------------------------------------------------------


def require_valid(part: object, *, where: str) -> None:
    """Hold a baseline, or a part of one, against the ranges of its values.

    Raises:
        ConfigError: every value out of its range.
    """
    problems = [
        ConfigError(
            what,
            where=place(where, key),
            remedy="put a value there that can be meant",
            code="baseline.range",
        )
        for key, what in _out_of_range(part, "")
    ]
    raise_all(problems)


def _out_of_range(part: Any, key: str) -> Iterator[tuple[str, str]]:
    """(dotted key, what is wrong) of every value that cannot be meant."""
    before = f"{key}." if key else ""
    match part:
        case Baseline():
            for row in fields(part):
                yield from _out_of_range(getattr(part, row.name), row.name)
        case Accepted():
            if (problem := reason_problem(part.reason)) is not None:
                yield f"{before}reason", problem
        case Hashes():
            for row in fields(part):
                if not _HEX.fullmatch(getattr(part, row.name)):
                    yield f"{before}{row.name}", "not a sha256, 64 hexadecimal digits"
        case Result():
            yield from _bad_counts(part, before)
        case Paired():
            yield from _bad_decimal(part.alpha, f"{before}alpha", 1)
            yield from _bad_decimal(part.floor, f"{before}floor", 100)
            yield from _bad_decimal(part.cap, f"{before}cap", 100)
        case Limit():
            yield from _bad_count(part.max, f"{before}max", MAX_COUNT)
        case Budget():
            yield from _bad_budget(part, before)
        case Bounds():
            yield from _bad_bounds(part, before)
        case _:
            pass  # the other values have no range


def _bad_counts(result: Result, before: str) -> Iterator[tuple[str, str]]:
    if not 1 <= result.samples <= MAX_SAMPLES:
        yield f"{before}samples", f"not in 1..{MAX_SAMPLES:,}"
    yield from _bad_count(result.correct, f"{before}correct", result.samples)
    if result.float_correct is not None:
        yield from _bad_count(result.float_correct, f"{before}float_correct", result.samples)
    for name in ("arena_bytes", "flash_bytes", "instructions"):
        if (count := getattr(result, name)) is not None:
            yield from _bad_count(count, f"{before}{name}", MAX_COUNT)
    texts = {"accuracy_percent": result.accuracy_percent}
    texts |= {f"recall_percent.{label}": text for label, text in result.recall_percent.items()}
    for name, text in texts.items():
        if not _PERCENT.fullmatch(text):
            yield f"{before}{name}", "not a percentage such as 90.054"


def _bad_bounds(bounds: Bounds, before: str) -> Iterator[tuple[str, str]]:
    floors = {f"min_recall_percent.{k}": v for k, v in bounds.min_recall_percent.items()}
    if bounds.min_accuracy_percent is not None:
        floors = {"min_accuracy_percent": bounds.min_accuracy_percent, **floors}
    drops = {"max_drop": bounds.max_drop, "max_float_int8_drop": bounds.max_float_int8_drop}
    for name, value in floors.items():
        yield from _bad_floor(value, f"{before}{name}")
    for name, value in drops.items():
        yield from _bad_decimal(value, f"{before}{name}", 100)
    yield from _bad_count(bounds.c_mismatch, f"{before}c_mismatch", MAX_SAMPLES)
    for name in ("paired", "arena_bytes", "flash_bytes", "instructions"):
        yield from _out_of_range(getattr(bounds, name), f"{before}{name}")
    for word in bounds.require:
        if word not in REQUIRABLE:
            yield f"{before}require", f"no gate {visible(word)}; {nearest(word, REQUIRABLE)}"


def _bad_budget(budget: Budget, before: str) -> Iterator[tuple[str, str]]:
    if budget.value is None and budget.max is None:
        yield before.rstrip("."), "neither max nor value"
    elif budget.max_increase_percent is None and budget.max is None:
        yield before.rstrip("."), "neither max nor max_increase_percent"
    if budget.value is None and budget.max_increase_percent is not None:
        yield f"{before}max_increase_percent", "of what value?"
    for name, count in (("value", budget.value), ("max", budget.max)):
        if count is not None:
            yield from _bad_count(count, f"{before}{name}", MAX_COUNT)
    if budget.max_increase_percent is not None:
        name = f"{before}max_increase_percent"
        yield from _bad_decimal(budget.max_increase_percent, name, MAX_PERCENT)


def _bad_count(value: int, key: str, highest: int) -> Iterator[tuple[str, str]]:
    if not 0 <= value <= highest:
        yield key, f"not in 0..{highest:,}"


def _bad_decimal(value: Decimal, key: str, highest: int) -> Iterator[tuple[str, str]]:
    """Few decimals besides: a Fraction of 1e-999999 would have a million digits."""
    exponent = value.as_tuple().exponent
    if not 0 <= value <= highest or not isinstance(exponent, int) or exponent < -_DECIMALS:
        yield key, f"not in 0..{highest}, or more than {_DECIMALS} decimals"


def _bad_floor(value: Decimal, key: str) -> Iterator[tuple[str, str]]:
    """A share in the place of a percentage besides: a floor that no model would be under."""
    problems = list(_bad_decimal(value, key, 100))
    if not problems and 0 < value <= MAX_SHARE:
        problems.append((key, f"percent: {(100 * value).normalize():f}, not {value:f}"))
    yield from problems


def reason_problem(text: str) -> str | None:
    """What is wrong with a reason; None for nothing."""
    if len(text.strip()) < MIN_REASON:
        return f"a reason has at least {MIN_REASON} characters"
    if not text.isprintable():
        return "a reason is one line of printable text"
    return None


def nearest(word: str, known: tuple[str, ...]) -> str:
    """What to do about an unknown word."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def place(where: str, key: str) -> str:
    """Where a value of a file is, for an error."""
    return f"{visible(where)}: {visible(key)}"
