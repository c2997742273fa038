"""The bounds that `check` judges by: the baseline's, replaced by what was given, exact decimals."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import make_known

from ndtool.cli.params import fraction
from ndtool.export.checking import effective_bounds
from ndtool.gates.baseline import Bounds
from ndtool.options import CHECK
from ndtool.types import Policy

OWN = Bounds(
    policy=Policy.STRICT,
    max_drop=Decimal("0.3"),
    max_float_int8_drop=Decimal("0.7"),
    min_accuracy_percent=Decimal("88.0"),
    min_recall_percent={"rose": Decimal("50.0")},
    require=("accuracy",),
)


def test_without_a_baseline_the_defaults_hold() -> None:
    assert effective_bounds(None, CHECK) == Bounds()


def test_with_one_its_bounds_hold() -> None:
    assert effective_bounds(make_known(bounds=OWN), CHECK) == OWN


def test_what_is_given_replaces_them_and_nothing_else() -> None:
    known = make_known(bounds=OWN)
    given_policy = effective_bounds(known, replace(CHECK, policy=Policy.PAIRED))
    assert given_policy == replace(OWN, policy=Policy.PAIRED)
    given_drop = effective_bounds(known, replace(CHECK, max_drop_points=0.0))
    zero = Decimal(0)
    assert given_drop == replace(OWN, max_drop=zero, max_float_int8_drop=zero)
    given_floor = effective_bounds(known, replace(CHECK, min_accuracy=0.0))
    assert given_floor == replace(OWN, min_accuracy_percent=zero)


@given(st.integers(101, 10_000))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_a_percentage_is_the_decimal_that_was_typed(hundredths: int) -> None:
    """97.3 / 100 is not the float nearest to .973: exactly at the bound would fail."""
    text = f"{hundredths / 100:.2f}"
    bounds = effective_bounds(None, replace(CHECK, min_accuracy=fraction(text)))
    assert bounds.min_accuracy_percent == Decimal(text)


@pytest.mark.parametrize("text", [".97", "97", "97.0", "0.97"])
def test_accuracies_are_fractions_or_percent(text: str) -> None:
    assert fraction(text) == 0.97
