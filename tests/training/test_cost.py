"""The cost of a step in plain steps."""

from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import Silent

from ndtool.rundir import RunDir
from ndtool.training import cost
from ndtool.training.graphs import SingleSteps
from ndtool.training.images.augment import Normalizer
from ndtool.training.loop import External
from ndtool.training.recipes import METHODS
from ndtool.training.schedule import Teaching, make_schedule
from ndtool.training.supernet import Supernet
from ndtool.training.train import TrainResult, train
from ndtool.types import Freeze, Recipe

SPEC = nets.ds_spec()
CPU = torch.device("cpu")


def ratio(external: External | None = None, **changes: object) -> float | None:
    options = nets.options(epochs=4, **changes)
    return cost.step_ratio(
        METHODS[options.recipe](options, SPEC.classes),
        spec=SPEC,
        options=options,
        schedule=make_schedule(options, 80, (4,)),
        images=options.batch_size,
        normalize=Normalizer(nets.contract_of(SPEC), CPU),
        external=external,
        device=CPU,
    )


def trained(path: Path, **changes: object) -> TrainResult:
    return train(
        nets.options(epochs=1, **changes),
        RunDir(path),
        spec=SPEC,
        contract=nets.contract_of(SPEC),
        train=nets.split_of(SPEC, 16),
        val=nets.split_of(SPEC, 6, seed=1),
        resume=False,
        progress=Silent(),
    )


def test_plain_training_has_none(tmp_path: Path) -> None:
    assert ratio(recipe=Recipe.PLAIN) is None
    assert trained(tmp_path, recipe=Recipe.PLAIN).step_ratio is None


def test_two_networks_cost_more_than_one(tmp_path: Path) -> None:
    alone = ratio()
    both = ratio(expand=(2, 3))
    assert alone is not None and both is not None
    assert 1.2 < alone < both
    told = trained(tmp_path).step_ratio
    assert told is not None and told > 1.2


@pytest.mark.parametrize(
    ("changes", "share"),
    [
        ({}, 1.0),
        ({"teacher_stop": 0.25}, 0.25),
        ({"teacher_start": 0.5}, 0.5),
        ({"teacher_every": 4}, 0.25),
        ({"teacher_start": 1.0}, 0.0),
    ],
)
def test_the_mean_over_the_run(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], share: float
) -> None:
    monkeypatch.setattr(cost, "_ratio", lambda *_: 3.0)
    assert ratio(**changes) == pytest.approx(1 + 2 * share)


def test_an_outer_teacher_counts() -> None:
    def slow(images: torch.Tensor) -> torch.Tensor:
        work = torch.ones(500, 500)
        for _ in range(20):
            work = work @ work * 0
        return torch.zeros(len(images), SPEC.classes)

    quick = ratio(lambda images: torch.zeros(len(images), SPEC.classes), recipe=Recipe.KD)
    dear = ratio(slow, recipe=Recipe.KD)
    assert quick is not None and dear is not None
    assert dear > 2 * quick


def test_drawn_networks_are_measured_all_over_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Spy(SingleSteps):
        def __call__(self, *args: Any, **named: Any) -> Any:
            seen.append(named["moment"].step)
            return SingleSteps.__call__(self, *args, **named)

    monkeypatch.setattr(cost, "make_steps", Spy)
    monkeypatch.setattr(cost, "BUDGET_S", 1e9)
    value = ratio(recipe=Recipe.NETAUG)
    assert value is not None and value > 1.2
    assert len(seen) == 2 * (cost.MOST_PAIRS + 1)
    total = 40
    assert {4 * s // total for s in seen} == {0, 1, 2, 3} and max(seen) < total


def test_what_is_frozen_in_the_run_is_frozen_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, bool]] = []

    class Spy(SingleSteps):
        def __call__(self, net: Supernet, *args: Any, **named: Any) -> Any:
            seen.append((named["moment"].step / 40, net.held is not None))
            return SingleSteps.__call__(self, net, *args, **named)

    def soft(images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), SPEC.classes)

    monkeypatch.setattr(cost, "make_steps", Spy)
    monkeypatch.setattr(cost, "BUDGET_S", 1e9)
    ratio(soft, recipe=Recipe.KD, freeze=Freeze.BACKBONE, freeze_epochs=1)  # of 4
    assert all(held == (course < 0.25) for course, held in seen)
    assert len({held for _, held in seen[::2]}) == len({held for _, held in seen[1::2]}) == 2


def test_slow_steps_are_measured_in_few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(cost, "BUDGET_S", 0.0)
    value = cost._ratio(lambda k: made.append(k), lambda k: None, CPU)
    assert value > 0 and made == [0, 1]


def test_a_single_disturbed_pair_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.0] + [2.0, 1.0] * 5 + [900.0, 1.0] + [2.0, 1.0] * 6)
    monkeypatch.setattr(cost, "_seconds", lambda work, device: next(times))
    assert cost._ratio(lambda k: None, lambda k: None, CPU) == 2.0


def test_nothing_of_a_run_is_touched(tmp_path: Path) -> None:
    """Neither the global generator of torch nor anything that training reads."""
    torch.manual_seed(7)
    before = torch.get_rng_state()
    ratio()
    ratio(recipe=Recipe.NETAUG)
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 9), st.integers(1, 60), st.integers(0, 40))
def test_steps_of_a_teaching_are_those_that_it_is_on(
    a: float, b: float, every: int, steps: int, more: int
) -> None:
    teaching = Teaching(min(a, b), max(a, b), every)
    total = steps + more
    assert teaching.steps(steps, total) == sum(teaching.on(k, steps) for k in range(total))
