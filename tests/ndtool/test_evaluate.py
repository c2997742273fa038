import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from ndtool.evaluate import (
    Accuracy,
    accuracy,
    agreement,
    drop_points,
    max_abs_difference,
    predicted_class,
    recall_counts,
    wilson_interval,
)

counts = st.integers(1, 20_000).flatmap(
    lambda n: st.builds(Accuracy, st.integers(0, n), st.just(n))
)


def test_text_and_fraction_of_the_summary_line() -> None:
    result = Accuracy(661, 734)
    assert result.text == "90.05 % (661/734)"
    assert result.exact == Fraction(661, 734)
    assert result.fraction == 661 / 734


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_a_tie_goes_to_the_lowest_class(dtype: type[np.int8 | np.float32]) -> None:
    outputs = np.array([[3, 7, 7], [5, 5, 5], [-128, -128, -127]], dtype)
    predicted = predicted_class(outputs)
    assert predicted.tolist() == [1, 0, 2]
    assert predicted.dtype == np.int64


def test_accuracy_agreement_and_recall_count_by_hand() -> None:
    labels = np.array([0, 0, 1, 1, 3])
    first = np.array([0, 1, 1, 1, 0])
    second = np.array([0, 1, 0, 1, 3])
    assert accuracy(first, labels) == Accuracy(3, 5)
    assert agreement(first, second) == Accuracy(3, 5)
    assert recall_counts(first, labels, 4) == (Accuracy(1, 2), Accuracy(2, 2), None, Accuracy(0, 1))


@given(st.integers(2, 6), st.data())
@settings(max_examples=50, derandomize=True, deadline=None)
def test_recalls_sum_to_the_accuracy(classes: int, data: st.DataObject) -> None:
    pairs = st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1))
    rows = np.array(data.draw(st.lists(pairs, min_size=1, max_size=40)), np.int64)
    predicted, labels = rows[:, 0], rows[:, 1]
    known = [r for r in recall_counts(predicted, labels, classes) if r is not None]
    total = Accuracy(sum(r.correct for r in known), sum(r.count for r in known))
    assert total == accuracy(predicted, labels)


def test_different_lengths_are_a_bug_not_a_broadcast() -> None:
    with pytest.raises(AssertionError):
        accuracy(np.array([1]), np.array([1, 1, 0]))


def test_drop_is_exact_at_the_bound() -> None:
    # 1.1 points of 1,000 images: as floats 100 * (.9 - .889) is above 1.1
    assert drop_points(Accuracy(900, 1000), Accuracy(889, 1000)) == Fraction("1.1")
    assert drop_points(Accuracy(1, 4), Accuracy(2, 4)) == -25


def test_max_abs_difference_is_float64_and_keeps_nan() -> None:
    a = np.array([[-128, 127]], np.int8)
    assert max_abs_difference(a, -1 - a) == 255  # int8 arithmetic would wrap
    assert math.isnan(max_abs_difference(np.array([np.nan]), np.array([0.0])))


@given(counts)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_wilson_interval_equals_scipy(result: Accuracy) -> None:
    oracle = binomtest(result.correct, result.count).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(result)
    assert low == pytest.approx(oracle.low, abs=1e-12)
    assert high == pytest.approx(oracle.high, abs=1e-12)
    assert 0 <= low <= high <= 1
