"""Accuracy and agreement of predictions: counts first, fractions and percent only for people.

Gets arrays, opens no data set, runs no model. Two hops are compared on the same images in the same
order. A tie between classes goes to the lowest index on every path (users.md, 5.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
Outputs = NDArray[Any]  # (N, K) int8 or float

Z_95: Final = 1.959963984540054  # standard normal quantile of .975


@dataclass(frozen=True, slots=True)
class Accuracy:
    """`correct` of `count` images; compare these counts, never a rounded percent."""

    correct: int
    count: int

    def __post_init__(self) -> None:
        assert self.count > 0
        assert 0 <= self.correct <= self.count, (self.correct, self.count)

    @property
    def exact(self) -> Fraction:
        """The share as a Fraction, for bounds."""
        return Fraction(self.correct, self.count)

    @property
    def fraction(self) -> float:
        """The share 0..1, for metrics.json."""
        return self.correct / self.count

    @property
    def text(self) -> str:
        """`90.05 % (661/734)`."""
        return f"{100 * self.fraction:.2f} % ({self.correct}/{self.count})"


def predicted_class(outputs: Outputs) -> I64:
    """Class of each row of (N, K) outputs, int64 (N,); the lowest index wins a tie."""
    assert outputs.ndim == 2, outputs.shape
    predicted: I64 = np.argmax(outputs, axis=1).astype(np.int64)
    return predicted


def accuracy(predicted: I64, labels: I64) -> Accuracy:
    """Images of which the predicted class is the label; both (N,)."""
    return Accuracy(int(np.count_nonzero(_same_length(predicted, labels))), len(labels))


def agreement(before: I64, after: I64) -> Accuracy:
    """Images with the same top-1 class in two hops, both (N,)."""
    return accuracy(after, before)


def recall_counts(predicted: I64, labels: I64, classes: int) -> tuple[Accuracy | None, ...]:
    """Per class: found among the images that have it; None for a class without images."""
    right = _same_length(predicted, labels)
    assert labels.size == 0 or 0 <= labels.min() <= labels.max() < classes, classes
    found = np.bincount(labels[right], minlength=classes).tolist()
    counts = np.bincount(labels, minlength=classes).tolist()
    return tuple(Accuracy(k, n) if n else None for k, n in zip(found, counts, strict=True))


def drop_points(before: Accuracy, after: Accuracy) -> Fraction:
    """Accuracy lost in percentage points on the same images, exact; negative for a gain."""
    assert before.count == after.count, (before, after)
    return Fraction(100 * (before.correct - after.correct), before.count)


def max_abs_difference(a: Outputs, b: Outputs) -> float:
    """Largest |a - b| over two arrays of one shape, in float64; NaN where either holds one."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))))


def wilson_interval(result: Accuracy) -> tuple[float, float]:
    """95 % interval of the true share by Wilson's score (1927); inside 0..1 for all counts."""
    n, p, z2 = result.count, result.fraction, Z_95 * Z_95
    centre = p + z2 / (2 * n)
    half = Z_95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return max(low, 0.0), min(high, 1.0)


def _same_length(predicted: I64, labels: I64) -> NDArray[np.bool_]:
    assert predicted.shape == labels.shape == (len(labels),), (predicted.shape, labels.shape)
    equal: NDArray[np.bool_] = predicted == labels
    return equal
