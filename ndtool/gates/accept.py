"""From what was measured to a new baseline: default floors, kept bounds, what changed.

Accepting never loosens a bound by itself (users.md, 5.5): bounds stay as they are, but for what
`--set` says, and for floors the run is under if `--lower-floor` says so. A class that had no images
gets a floor, a floor of no class goes, and figures of another toolchain are replaced: none of these
could be judged otherwise.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np

from ndtool.config import parse_toml, toml_value
from ndtool.console import visible
from ndtool.errors import ConfigError, GateError
from ndtool.evaluate import Accuracy, recall_counts
from ndtool.files import sha256_bytes
from ndtool.gates.baseline import (
    MAX_SHARE,
    Accepted,
    Baseline,
    Bounds,
    Budget,
    Hashes,
    Limit,
    Result,
    nearest,
    require_valid,
)
from ndtool.gates.baseline_file import known_keys, parse_decimal, plain, predictions_bytes, typed
from ndtool.gates.evidence import Evidence, Folder, Known, Measured
from ndtool.gates.paired import Discordant, compare_paired
from ndtool.types import Hop, Policy

FLOOR_POINTS: Final = 2  # accuracy: under the present
RECALL_POINTS: Final = 5  # recall: under the present, or as much as two images of the class
RECALL_IMAGES: Final = 2
FLASH_PERCENT: Final = Decimal("1.0")
INSTRUCTIONS_PERCENT: Final = Decimal("2.0")
MAX_CLASSES: Final = 5  # shown of those that lost most
_RECALLS: Final = "min_recall_percent"
_TABLES: Final = (_RECALLS, "paired", "arena_bytes", "flash_bytes", "instructions")
# Bounds that a first baseline may come to have, to try settings on
_EVERY: Final = Bounds(
    arena_bytes=Limit(max=0), flash_bytes=Budget(max=0), instructions=Budget(max=0)
)
_NOT_SHOWN: Final = ("name", "schema", "result.recall_percent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One `--set`: a key of [bounds], in a table of its own or (empty) in [bounds] itself."""

    table: str
    key: str
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a user wants accepted.

    `core`: that flash and instructions were measured on, for bounds that are new.
    """

    name: str
    accepted: Accepted
    core: str
    settings: tuple[Setting, ...] = ()
    policy: Policy | None = None
    lower_floor: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field of the baseline, as texts; `-` where it is not there. May hold foreign text."""

    key: str
    old: str
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """Recall of one class in the old and in the new baseline; `label` is foreign text."""

    label: str
    before: Accuracy
    after: Accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """New against old on the same images; `worst` first, only classes that lost."""

    pair: Discordant
    worst: tuple[ClassChange, ...]


def accept(folder: Folder, evidence: Evidence, known: Known | None, request: Request) -> Known:
    """The new baseline, of a run with an int8 model.

    Args:
        known: the one that is replaced; None for the first.

    Raises:
        GateError: the run is under an old floor.
        ConfigError: a setting has a value that its key does not take.
    """
    row = evidence.row(Hop.INT8)
    assert row is not None and evidence.predicted is not None
    assert evidence.model_sha256 is not None
    toolchain: Mapping[str, str] = {}
    if known is None:
        bounds = first_bounds(evidence, request.core)
    else:
        bounds, toolchain = _kept_bounds(known.baseline, evidence)
        if request.lower_floor:
            bounds = _lowered(bounds, evidence)
        else:
            _require_floors(known.baseline.bounds, evidence)
    if request.policy is not None:
        bounds = replace(bounds, policy=request.policy)
    bounds = with_settings(bounds, request.settings)
    predicted = evidence.predicted.astype(np.uint16)
    hashes = Hashes(
        evaluation_set=evidence.eval_sha256,
        model_int8=evidence.model_sha256,
        labels=folder.labels_sha256,
        contract=folder.contract_sha256,
        predictions=sha256_bytes(predictions_bytes(predicted)),
    )
    first = evidence.rows[0]
    result = Result(
        samples=row.accuracy.count,
        correct=row.accuracy.correct,
        accuracy_percent=percent_text(row.accuracy, 3),
        float_correct=first.accuracy.correct if first.hop in (Hop.FLOAT, Hop.ONNX) else None,
        arena_bytes=evidence.arena_bytes,
        flash_bytes=evidence.flash.value,
        instructions=evidence.instructions.value,
        recall_percent={label: percent_text(r, 1) for label, r in recalls(evidence).items()},
    )
    baseline = Baseline(
        name=request.name,
        accepted=request.accepted,
        hash=hashes,
        result=result,
        bounds=bounds,
        # What is there is what the values were measured with; tools of a new bound join it.
        toolchain=_toolchain(bounds, evidence) | dict(toolchain),
    )
    return Known(baseline=baseline, predicted=predicted)


def recalls(evidence: Evidence) -> dict[str, Accuracy]:
    """Recall of int8 by label; classes without images left out."""
    assert evidence.predicted is not None
    counts = recall_counts(evidence.predicted, evidence.truth, len(evidence.labels))
    pairs = zip(evidence.labels, counts, strict=True)
    return {label: found for label, found in pairs if found is not None}


def percent_text(share: Accuracy, decimals: int) -> str:
    """`90.054`: exact, halves up."""
    unit = 10**decimals
    number = (2 * 100 * unit * share.correct + share.count) // (2 * share.count)
    return f"{number // unit}.{number % unit:0{decimals}d}"


# -- bounds ----------------------------------------------------------------------------------------


def first_bounds(evidence: Evidence, core: str) -> Bounds:
    """The default bounds of users.md 5.3; those that could not be measured are left out."""
    row, arena = evidence.row(Hop.INT8), evidence.arena_bytes
    assert row is not None
    flash, count = evidence.flash.value, evidence.instructions.value
    bounds = Bounds(
        min_accuracy_percent=accuracy_floor(row.accuracy),
        min_recall_percent={k: recall_floor(found) for k, found in recalls(evidence).items()},
        arena_bytes=None if arena is None else Limit(max=arena),
        flash_bytes=None
        if flash is None
        else Budget(value=flash, max_increase_percent=FLASH_PERCENT),
        instructions=None
        if count is None
        else Budget(value=count, max_increase_percent=INSTRUCTIONS_PERCENT, core=core),
        ops=tuple(sorted(evidence.ops)),
    )
    c = evidence.row(Hop.C)
    judged = {
        "accuracy": True,
        "drop": True,
        "recall": True,
        "float_int8": evidence.rows[0].hop in (Hop.FLOAT, Hop.ONNX),
        "c": c is not None and c.differing is not None,
        "arena": arena is not None,
        "ops": True,
        "hashes": True,
    }
    return replace(bounds, require=tuple(gate for gate, there in judged.items() if there))


def accuracy_floor(present: Accuracy) -> Decimal:
    """Percent: FLOOR_POINTS under the present."""
    return _down(100 * present.exact - FLOOR_POINTS)


def recall_floor(present: Accuracy) -> Decimal:
    """Percent: RECALL_POINTS under the present, or RECALL_IMAGES images where that is more."""
    margin = max(Fraction(RECALL_POINTS), Fraction(100 * RECALL_IMAGES, present.count))
    return _down(100 * present.exact - margin)


def _down(percent: Fraction) -> Decimal:
    """Rounded down to a tenth; 0 where no floor can be that low."""
    tenths = percent * 10 // 1
    return Decimal(tenths if tenths > 10 * MAX_SHARE else 0).scaleb(-1)


def _kept_bounds(old: Baseline, evidence: Evidence) -> tuple[Bounds, Mapping[str, str]]:
    """The old bounds and toolchain, for the classes and the tools that there are now."""
    floors = {k: v for k, v in old.bounds.min_recall_percent.items() if k in evidence.labels}
    for label, found in recalls(evidence).items():
        if label not in floors and label not in old.result.recall_percent:
            floors[label] = recall_floor(found)
    bounds = replace(old.bounds, min_recall_percent=floors)
    tools = _toolchain(bounds, evidence)
    same = all(old.toolchain.get(name) == version for name, version in tools.items())
    budgets = _budgets(bounds, evidence)
    # One [toolchain] stands for all values: all of them are measured anew, or none.
    if same or any(m.value is None for budget, m in budgets if budget.value is not None):
        return bounds, old.toolchain
    bounds = replace(
        bounds,
        flash_bytes=_measured_again(bounds.flash_bytes, evidence.flash),
        instructions=_measured_again(bounds.instructions, evidence.instructions),
    )
    return bounds, {**old.toolchain, **tools}


def _budgets(bounds: Bounds, evidence: Evidence) -> list[tuple[Budget, Measured]]:
    pairs = (
        (bounds.flash_bytes, evidence.flash),
        (bounds.instructions, evidence.instructions),
    )
    return [(budget, measured) for budget, measured in pairs if budget is not None]


def _toolchain(bounds: Bounds, evidence: Evidence) -> dict[str, str]:
    """What measured the figures that have a bound."""
    found: dict[str, str] = {}
    for _, measured in _budgets(bounds, evidence):
        found |= {} if measured.value is None else measured.toolchain
    return found


def _measured_again(budget: Budget | None, measured: Measured) -> Budget | None:
    if budget is None or budget.value is None:
        return budget
    return replace(budget, value=measured.value)


def _under(bounds: Bounds, evidence: Evidence) -> dict[str, tuple[Decimal, Accuracy]]:
    """Floors that the run is under: key -> (floor, present)."""
    row, found = evidence.row(Hop.INT8), recalls(evidence)
    assert row is not None
    floors: dict[str, tuple[Decimal, Accuracy]] = {}
    if bounds.min_accuracy_percent is not None:
        floors["min_accuracy_percent"] = (bounds.min_accuracy_percent, row.accuracy)
    for label, floor in bounds.min_recall_percent.items():
        if label in found:
            floors[f"{_RECALLS}.{label}"] = (floor, found[label])
    return {k: (f, now) for k, (f, now) in floors.items() if 100 * now.exact < Fraction(f)}


def _require_floors(bounds: Bounds, evidence: Evidence) -> None:
    under = _under(bounds, evidence)
    problems = [
        GateError(
            f"{visible(now.text)} is under the floor of {floor:f} %",
            where=visible(f"bounds.{key}"),
            remedy="--lower-floor accepts it",
            code="gate.under-floor",
        )
        for key, (floor, now) in under.items()
    ]
    if problems:
        problems[0].more = tuple(problems[1:])
        raise problems[0]


def _lowered(bounds: Bounds, evidence: Evidence) -> Bounds:
    """The floors that the run is under, as far under it as a first baseline's."""
    floors = dict(bounds.min_recall_percent)
    lowest = bounds.min_accuracy_percent
    for key, (_, now) in _under(bounds, evidence).items():
        if key == "min_accuracy_percent":
            lowest = accuracy_floor(now)
        else:
            floors[key.removeprefix(f"{_RECALLS}.")] = recall_floor(now)
    return replace(bounds, min_accuracy_percent=lowest, min_recall_percent=floors)


# -- settings --------------------------------------------------------------------------------------


def read_settings(
    words: Sequence[str], labels: Sequence[str], known: Known | None
) -> tuple[Setting, ...]:
    """Of words such as `max_drop=0.5`, `arena_bytes.max=60000`, `policy=strict`.

    A value is written as in the file; a text may do without quotes. What a key does not take is
    found here, before the models are run.

    Raises:
        ConfigError: an unknown key or class, with the nearest one, or a wrong value.
    """
    settings = tuple(_read_setting(word, labels) for word in words)
    with_settings(_EVERY if known is None else known.baseline.bounds, settings)
    return settings


def _read_setting(word: str, labels: Sequence[str]) -> Setting:
    # A label may hold `=`, no value does.
    key, sign, text = word.rpartition("=")
    key = key.strip().removeprefix("bounds.")
    if not sign or not text.isprintable():
        raise _bad_setting("not KEY=VALUE", word, "such as max_drop=0.5")
    table, _, name = key.partition(".")
    if table == _RECALLS and name:
        if name not in labels:
            raise _bad_setting("no such class", word, _nearest_label(name, labels))
    elif key not in _leaves():
        raise _bad_setting("unknown key", word, nearest(key, _leaves()))
    return Setting(table=table if name else "", key=name or table, value=_value(text))


def with_settings(bounds: Bounds, settings: Sequence[Setting]) -> Bounds:
    """`bounds` with these values in their places.

    Raises:
        ConfigError: a value of another type than its key's, or out of its range.
    """
    tree: Any = plain(bounds)
    for setting in settings:
        rows = tree.setdefault(setting.table, {}) if setting.table else tree
        rows[setting.key] = setting.value
    made = typed(Bounds, tree, where="--set")
    require_valid(made, where="--set")
    return made


def _leaves() -> tuple[str, ...]:
    return tuple(key for key in known_keys(Bounds) if key not in _TABLES)


def _nearest_label(name: str, labels: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, labels, n=1)
    return f"did you mean {visible(near[0])}?" if near else "use a label of the contract"


def _value(text: str) -> object:
    """What TOML makes of it, else the text itself; `.5` is a number here as everywhere."""
    text = text.strip()
    number = f"0{text}" if text.startswith(".") else text
    try:
        found = parse_toml(f"value = {number}".encode(), where="--set", parse_float=parse_decimal)
    except ConfigError:
        return text
    return found["value"]


def _bad_setting(what: str, word: str, remedy: str) -> ConfigError:
    return ConfigError(what, where=f"--set {visible(word)}", remedy=remedy, code="option.set")


# -- what changed ----------------------------------------------------------------------------------


def changes(old: Baseline | None, new: Baseline) -> list[Change]:
    """Every field that differs, in the order of the file; recalls are for `compare`."""
    before, after = {} if old is None else _flat(plain(old), ""), _flat(plain(new), "")
    keys = [*after, *(key for key in before if key not in after)]
    return [
        Change(key=key, old=before.get(key, "-"), new=after.get(key, "-"))
        for key in keys
        if before.get(key) != after.get(key) and not key.startswith(_NOT_SHOWN)
    ]


def _flat(value: object, key: str) -> dict[str, str]:
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for name in sorted(value) if key else value:
            found |= _flat(value[name], f"{key}.{name}" if key else name)
        return found
    if isinstance(value, str):
        return {key: f"{value[:12]}..." if key.startswith("hash.") else value}
    return {key: toml_value(value)}


def compare(known: Known | None, evidence: Evidence) -> Comparison | None:
    """The run against the old baseline; None where they saw other images, or there is none."""
    if known is None or evidence.predicted is None:
        return None
    if known.other_images(evidence.eval_sha256, len(evidence.truth)):
        return None
    before = known.predicted.astype(np.int64)
    classes = len(evidence.labels)
    pairs = zip(
        evidence.labels,
        recall_counts(before, evidence.truth, classes),
        recall_counts(evidence.predicted, evidence.truth, classes),
        strict=True,
    )
    lost = [
        ClassChange(label=label, before=old, after=new)
        for label, old, new in pairs
        if old is not None and new is not None and new.correct < old.correct
    ]
    lost.sort(key=lambda change: change.after.exact - change.before.exact)
    return Comparison(
        pair=compare_paired(before, evidence.predicted, evidence.truth),
        worst=tuple(lost[:MAX_CLASSES]),
    )
