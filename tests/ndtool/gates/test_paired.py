import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from ndtool.gates.paired import Discordant, compare_paired

ALPHA = Fraction("0.01")


def oracle(lost: int, gained: int) -> float:
    return float(binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue)


@given(st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_p_value_equals_scipy(lost: int, gained: int) -> None:
    found = Discordant(lost, gained, 1000)
    if lost + gained == 0:
        assert found.p_value == 1.0
    else:
        assert found.p_value == pytest.approx(oracle(lost, gained), rel=1e-9)
    assert found.is_worse(ALPHA) == (found.p_value < 0.01)


# Worked cases of users.md 5.4 and quantisation.md 6
@pytest.mark.parametrize(
    ("count", "lost", "gained", "drop", "p"),
    [
        (360, 6, 0, 1.67, 0.0156),
        (360, 7, 0, 1.94, 0.0078),
        (360, 10, 2, 2.22, 0.0193),
        (10_000, 171, 129, 0.42, 0.0089),
        (10_000, 300, 240, 0.60, 0.0055),
        (50_000, 796, 704, 0.18, 0.0094),
        (10_000, 15, 4, 0.11, 0.0096),
        (10_000, 0, 0, 0.0, 1.0),
    ],
)
def test_worked_cases(count: int, lost: int, gained: int, drop: float, p: float) -> None:
    found = Discordant(lost, gained, count)
    assert float(found.drop_points) == pytest.approx(drop, abs=0.005)
    assert found.p_value == pytest.approx(p, rel=0.01)


# users.md 5.4: losses that reach p < alpha for the given gains
@pytest.mark.parametrize(
    ("alpha", "row"),
    [
        ("0.05", {0: 5, 1: 7, 2: 9, 5: 13, 10: 20, 20: 33, 50: 69, 100: 126, 200: 236}),
        ("0.01", {0: 7, 1: 10, 2: 12, 5: 17, 10: 25, 20: 39, 50: 78, 100: 137, 200: 251}),
    ],
)
def test_smallest_significant_loss(alpha: str, row: dict[int, int]) -> None:
    for gained, lost in row.items():
        assert Discordant(lost, gained, 1000).is_worse(Fraction(alpha))
        assert not Discordant(lost - 1, gained, 1000).is_worse(Fraction(alpha))


def test_a_thousand_random_counts_are_decided_as_by_scipy() -> None:
    rng = np.random.default_rng(5)
    gained = rng.integers(0, 600, 1000)
    lost = np.maximum(gained + np.round(rng.uniform(-2, 5, 1000) * np.sqrt(2 * gained + 1)), 0)
    worse = 0
    for b, c in zip(lost.astype(int).tolist(), gained.tolist(), strict=True):
        found, p = Discordant(b, c, 10_000), oracle(b, c) if b + c else 1.0
        assert found.p_value == pytest.approx(p, rel=1e-9)
        for alpha in ("0.01", "0.05", "0.2"):
            assert found.is_worse(Fraction(alpha)) == (p < float(alpha))
        worse += p < 0.01
    assert 300 < worse < 700


def test_exactly_at_alpha_is_not_worse() -> None:
    assert Discordant(4, 0, 10).p_value == 1 / 16
    assert not Discordant(4, 0, 10).is_worse(Fraction(1, 16))
    assert Discordant(4, 0, 10).is_worse(Fraction(1, 16) + Fraction(1, 10**30))


def test_ten_thousand_discordant_images_are_quick() -> None:
    start = time.process_time()
    found = Discordant(5_200, 4_800, 20_000)
    assert found.p_value == pytest.approx(oracle(5_200, 4_800), rel=1e-9)
    assert time.process_time() - start < 1.0


def test_only_right_against_wrong_counts() -> None:
    labels = np.array([0, 0, 0, 0, 0])
    first = np.array([0, 0, 1, 1, 1])
    second = np.array([0, 1, 0, 2, 1])  # same, lost, gained, wrong to other wrong, same wrong
    assert compare_paired(first, second, labels) == Discordant(1, 1, 5)


def test_swapped_asks_whether_the_second_is_better() -> None:
    found = Discordant(2, 12, 100)
    assert found.swapped == Discordant(12, 2, 100)
    assert found.swapped.swapped == found
    assert found.swapped.drop_points == -found.drop_points == 10
    assert found.swapped.is_worse(ALPHA) and not found.is_worse(ALPHA)


# users.md 5.4: a drop found with 80 % power
@pytest.mark.parametrize(
    ("count", "points"), [(360, 3.7), (1000, 2.2), (5000, 1.0), (10_000, 0.71), (50_000, 0.32)]
)
def test_what_a_set_can_resolve(count: int, points: float) -> None:
    found = Discordant(0, count // 20, count)
    assert found.resolution_points == pytest.approx(points, rel=0.02)


def test_a_set_without_discordant_images_resolves_one_image() -> None:
    assert Discordant(0, 0, 100).resolution_points == Discordant(1, 0, 100).resolution_points
    assert Discordant(0, 0, 100).resolution_points == pytest.approx(3.17)


def test_a_drop_of_the_resolvable_size_is_found_with_the_stated_power() -> None:
    """Images drawn with that drop are found in about 80 of 100 sets."""
    rng = np.random.default_rng(0)
    count, share = 2000, 0.05
    drop = Discordant(int(share * count), 0, count).resolution_points / 100
    chances = [(share + drop) / 2, (share - drop) / 2, 1 - share]
    drawn = rng.multinomial(count, chances, 1000)
    found = sum(Discordant(int(b), int(c), count).is_worse(ALPHA) for b, c, _ in drawn)
    assert 700 < found < 850, found


# 7 lost of 7: p = 1/128, .7 points
@pytest.mark.parametrize(
    ("alpha", "floor", "cap", "broken"),
    [
        ("0.01", "0.5", "2", True),
        ("0.01", "0.7", "2", False),  # not above the floor
        ("1/128", "0.5", "2", False),  # not below alpha
        ("1/129", "0.5", "2", False),
        ("1/129", "0.5", "0.7", False),  # not above the cap
        ("1/129", "0.5", "0.69", True),
        ("1/129", "0.69", "0.69", True),  # strict: p does not matter
        ("0.01", "0.7", "0.7", False),
    ],
)
def test_the_rule_of_both_policies(alpha: str, floor: str, cap: str, broken: bool) -> None:  # noqa: FBT001
    found = Discordant(7, 0, 1000)
    rule = {"alpha": Fraction(alpha), "floor": Fraction(floor), "cap": Fraction(cap)}
    assert found.breaks(**rule) is broken
