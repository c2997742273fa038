"""The rows of the paper's tables as command lines of `ndtool train`, and how long each trains.

A row is VARIANT, VARIANT@NUMBER (so many times the epochs) or VARIANT@OTHER (as long as OTHER
takes, by the measured time of a step). A variant is a form, or one with options of its own:
`full`, `baseline@2`, `baseline@full`, `first-third:lr=.2@full`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

BASELINE = "baseline"
TEACHER = "teacher"  # kd's: the student with WIDE times the channels, trained alone
WIDE = 3
_IN_SITU = ("--recipe=netdistiller", "--student-loss=kl", "--no-surgery")
_SURGERY = ("--recipe=netdistiller", "--student-loss=kl")
_FULL = ("--recipe=netdistiller",)

# Form -> its flags; the others are common to all rows.
FORMS: Mapping[str, tuple[str, ...]] = {
    BASELINE: ("--recipe=plain",),
    TEACHER: ("--recipe=plain",),
    "kd": ("--recipe=kd",),
    "netaug": ("--recipe=netaug",),
    "in-situ": _IN_SITU,
    "surgery": _SURGERY,
    "full": _FULL,
    # Table 2: expansion; with two rates the narrower teaches the student, the wider the narrower.
    "expand-2": (*_IN_SITU, "--expand=2"),
    "expand-4": (*_IN_SITU, "--expand=4"),
    "expand-5": (*_IN_SITU, "--expand=5"),
    "expand-2-3": (*_IN_SITU, "--expand=2,3"),
    # Table 4: threshold of UD as a share of ln K
    "threshold-.36": (*_FULL, "--uncertainty=0.36"),
    "threshold-.72": (*_FULL, "--uncertainty=0.72"),
    # Table 5: an external teacher besides
    "full+kd": _FULL,
    # Not in the paper (training-methods, 9.2)
    "full-2": (*_FULL, "--expand=2"),
    "mix": (*_FULL, "--student-loss=mix"),
    "ce": (*_FULL, "--student-loss=ce", "--no-surgery"),
    "first-third": (*_FULL, "--teacher-stop=0.3333"),
    "last-third": (*_FULL, "--teacher-start=0.6667"),
    "every-4th": (*_FULL, "--teacher-every=4"),
}
TAUGHT_FROM_OUTSIDE = ("kd", "full+kd")
# Options that leave the time of a step as it is
_NO_COST = ("lr=", "warmup=", "weight-decay=", "label-smoothing=", "clip-norm=", "uncertainty=")
# Table of the paper -> its rows, and the controls that it lacks: twice the epochs, equal time
TABLES: Mapping[int, tuple[str, ...]] = {
    1: (
        *(BASELINE, "kd", "netaug", "in-situ", "surgery", "full"),
        *(f"{BASELINE}@2", "in-situ@2", "full@2", f"{BASELINE}@full"),
    ),
    2: (BASELINE, "expand-2", "in-situ", "expand-4", "expand-5", "expand-2-3", f"{BASELINE}@full"),
    4: (BASELINE, "surgery", "threshold-.36", "full", "threshold-.72", f"{BASELINE}@full"),
    5: (BASELINE, "kd", "surgery", "full+kd", f"{BASELINE}@full"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row: how it trains, and for how long."""

    form: str
    extra: tuple[str, ...] = ()  # further options as NAME=VALUE
    factor: float | str = 1.0  # times the epochs, or the variant whose time it gets

    @property
    def variant(self) -> str:
        """What it is without its length."""
        return ":".join((self.form, *self.extra))

    @property
    def name(self) -> str:
        """As it is typed."""
        if isinstance(self.factor, str):
            return f"{self.variant}@{self.factor}"
        return self.variant if self.factor == 1.0 else f"{self.variant}@{self.factor:g}"


def parse_row(text: str) -> Row:
    """VARIANT, VARIANT@NUMBER or VARIANT@VARIANT.

    Raises:
        ValueError: no such form, a factor that is not above 0 and at most 100, or the time of a
            form with a teacher from outside, which is not measured.
    """
    variant, at, factor = text.partition("@")
    form, *extra = variant.split(":")
    if form not in FORMS:
        raise ValueError(f"no row {form!r}; there are {' '.join(FORMS)}")
    row = Row(form=form, extra=tuple(extra))
    if not at:
        return row
    other = factor.partition(":")[0]
    if other in FORMS:
        if {form, other} & {TEACHER, *TAUGHT_FROM_OUTSIDE}:
            raise ValueError(f"{text!r}: the time of a step with an outer teacher is not known")
        return replace(row, factor=factor)
    try:
        times = float(factor)
    except ValueError:
        raise ValueError(f"{text!r}: {factor!r} is neither a number nor a row") from None
    if not 0 < times <= 100:
        raise ValueError(f"{text!r}: train 0 to 100 times as long")
    return replace(row, factor=times)


def epochs_of(row: Row, epochs: int, plain_steps_of: Callable[[str], float]) -> int:
    """Epochs of a row where one without a factor trains `epochs`.

    Args:
        plain_steps_of: how many plain steps one step of a variant takes the time of.
    """
    if isinstance(row.factor, float):
        return max(1, round(epochs * row.factor))
    return max(1, round(epochs * plain_steps_of(row.factor) / plain_steps_of(row.variant)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of the product: a row with one seed."""

    row: Row
    seed: int
    epochs: int
    needs: str = ""  # name of the run whose best student teaches

    @property
    def name(self) -> str:
        """Of the run folder."""
        plain = self.row.name.replace("@", "-x-")
        return f"{re.sub('[^A-Za-z0-9._-]', '-', plain)}-s{self.seed}"


def plan(
    rows: Iterable[Row], seeds: Iterable[int], epochs: int, plain_steps_of: Callable[[str], float]
) -> list[Job]:
    """Every run, seed by seed, so that whole sets of rows come first; teachers before pupils."""
    rows = tuple(dict.fromkeys(rows))
    jobs: list[Job] = []
    for seed in seeds:
        teacher = Job(row=Row(form=TEACHER), seed=seed, epochs=epochs)
        if any(row.form in TAUGHT_FROM_OUTSIDE for row in rows):
            jobs.append(teacher)
        for row in rows:
            needs = teacher.name if row.form in TAUGHT_FROM_OUTSIDE else ""
            length = epochs_of(row, epochs, plain_steps_of)
            jobs.append(Job(row=row, seed=seed, epochs=length, needs=needs))
    return list(dict.fromkeys(jobs))


def opponents(row: Row, there: Iterable[str]) -> list[str]:
    """The rows that `row` is held against: plain training of as many epochs, and of equal time."""
    if row.form in (BASELINE, TEACHER):
        return []
    plain = Row(form=BASELINE, factor=row.factor)
    wanted = [plain, replace(plain, extra=row.extra)]
    if row.factor == 1.0:
        same_time = ":".join((row.form, *(e for e in row.extra if not e.startswith(_NO_COST))))
        wanted += [replace(plain, factor=factor) for factor in (row.variant, same_time)]
    elif isinstance(row.factor, str) and row.factor.startswith(BASELINE):
        wanted += [parse_row(row.factor)]
    known = set(there)
    return [name for name in dict.fromkeys(one.name for one in wanted) if name in known]
