"""Is B worse than A on the same images: McNemar's exact one-sided test in Python integers.

Only images count that exactly one of the two gets right: b are lost (A right, B wrong), c gained.
If both are equally good, the lost ones are Binomial(b + c, 1/2) (users.md, 5.4; quantisation, 8).
No normal approximation, no mid-p, no continuity correction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]

# 100 (z(.99) + z(.80)): a drop found with 80 % power at alpha .01, in points (users.md, 5.4)
RESOLUTION: Final = 317


@dataclass(frozen=True, slots=True)
class Discordant:
    """Of `count` images, `lost` only the first gets right and `gained` only the second."""

    lost: int
    gained: int
    count: int

    def __post_init__(self) -> None:
        assert min(self.lost, self.gained) >= 0
        assert self.lost + self.gained <= self.count

    @property
    def drop_points(self) -> Fraction:
        """Accuracy lost, in percentage points, exact."""
        return Fraction(100 * (self.lost - self.gained), self.count)

    @property
    def swapped(self) -> Discordant:
        """The second against the first: what is lost here is gained there."""
        return Discordant(self.gained, self.lost, self.count)

    @property
    def resolution_points(self) -> float:
        """About the smallest drop that this set shows, 317 sqrt(d / N) percentage points.

        d is the discordant share of the N images, at least one image's.
        """
        return RESOLUTION * math.sqrt(max(self.lost + self.gained, 1)) / self.count

    @property
    def p_value(self) -> float:
        """P(X >= lost), X ~ Binomial(lost + gained, 1/2); the nearest float64 to the exact value.

        Small: the second is worse. 1.0 when no image tells them apart.
        """
        return _tail(self.lost, self.gained) / (1 << (self.lost + self.gained))

    def is_worse(self, alpha: Fraction) -> bool:
        """p < alpha, decided in integers (take alpha as `Fraction("0.01")`, not from a float)."""
        tail = _tail(self.lost, self.gained)
        return tail * alpha.denominator < alpha.numerator << (self.lost + self.gained)

    def breaks(self, *, alpha: Fraction, floor: Fraction, cap: Fraction) -> bool:
        """Whether too much is lost: p < alpha with a drop above floor, or a drop above cap.

        Both in points. Policy `strict` is this rule with floor = cap: the drop alone decides.
        """
        drop = self.drop_points
        return drop > cap or (drop > floor and self.is_worse(alpha))


def compare_paired(first: I64, second: I64, labels: I64) -> Discordant:
    """Discordant images of two predictions of the same images, all (N,)."""
    assert first.shape == second.shape == labels.shape == (len(labels),)
    first_right, second_right = first == labels, second == labels
    return Discordant(
        lost=int(np.count_nonzero(first_right & ~second_right)),
        gained=int(np.count_nonzero(second_right & ~first_right)),
        count=len(labels),
    )


@lru_cache(maxsize=4)  # the decision and the p that is shown want the same sum
def _tail(lost: int, gained: int) -> int:
    """sum of C(n, k) for k = lost..n, n = lost + gained.

    By C(n, k - 1) = C(n, k) k / (n - k + 1) from k = n: one small product and one exact division a
    term, where a fresh math.comb a term would be cubic in n.
    """
    n = lost + gained
    term = total = 1  # C(n, n)
    for k in range(n, lost, -1):
        term = term * k // (n - k + 1)
        total += term
    return total
