"""Learning rate of a run that is extended, and the steps that have a teacher."""

import itertools
import math

import nets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.training.schedule import Schedule, Teaching, make_schedule


def test_an_extended_run_goes_on_with_the_cosine_of_the_longer_one() -> None:
    short, extended = (Schedule(0.4, 4, ends) for ends in ((12,), (12, 20)))
    assert [extended.lr(step) for step in range(12)] == [short.lr(step) for step in range(12)]
    longer = Schedule(0.4, 4, (20,))
    assert [extended.lr(step) for step in range(12, 20)] == [longer.lr(s) for s in range(12, 20)]
    assert extended.lr(12) > extended.lr(11)
    assert extended.lr(12) == pytest.approx(0.2 * (1 + math.cos(math.pi * 8 / 16)))


def test_warm_up_is_a_share_of_the_run_before_it_was_extended() -> None:
    options = nets.options(batch_size=8, warmup=0.1)
    assert make_schedule(options, 80, (10,)).warmup_steps == 10
    assert make_schedule(options, 80, (10, 30)).warmup_steps == 10


@pytest.mark.parametrize(
    ("teaching", "steps"),
    [
        (Teaching(), list(range(12))),
        (Teaching(start=0.5), list(range(6, 12))),
        (Teaching(stop=0.25), [0, 1, 2]),
        (Teaching(start=0.25, stop=0.75), list(range(3, 9))),
        (Teaching(every=5), [0, 5, 10]),
        (Teaching(start=0.25, every=4), [3, 7, 11]),
        (Teaching(start=1.0), []),
        (Teaching(stop=0.0), []),
    ],
)
def test_steps_with_a_teacher(teaching: Teaching, steps: list[int]) -> None:
    assert [step for step in range(12) if teaching.on(step, 12)] == steps
    assert teaching.always == (steps == list(range(12)))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 9), st.integers(1, 200), st.integers(0, 50))
def test_an_extension_is_taught_only_where_the_teacher_never_left(
    start: float, stop: float, every: int, steps: int, more: int
) -> None:
    teaching = Teaching(start, stop, every)
    on = [step for step in range(steps + more) if teaching.on(step, steps)]
    assert all(step >= round(start * steps) for step in on)
    assert all(b - a == every for a, b in itertools.pairwise(on))
    if stop < 1:
        assert all(step < round(stop * steps) for step in on)
    elif round(start * steps) + every <= steps + more:
        assert on[-1] > steps + more - 1 - every
