"""Schedule, figures, evaluation, and which epoch is the best."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import nets
import numpy as np
import pytest
import torch
from small_runs import Silent
from torch import Tensor

from ndtool.data.types import Augment
from ndtool.errors import ConfigError
from ndtool.options import TRAIN, TrainOptions
from ndtool.training import loop
from ndtool.training.graphs import make_steps
from ndtool.training.images import batches
from ndtool.training.images.augment import Draws, Normalizer
from ndtool.training.images.batches import Arrays, Shuffled, to_device
from ndtool.training.loop import HISTORY_COLUMNS, External, TrainState, accuracy, fit
from ndtool.training.metrics import EpochFigures
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.method import Figures, Method, Targets
from ndtool.training.schedule import Schedule, make_schedule, steps_per_epoch
from ndtool.training.step import CLIPPED, GRAD_NORM
from ndtool.training.supernet import Supernet
from ndtool.types import Recipe


def test_schedule_rises_linearly_then_falls_as_a_cosine() -> None:
    schedule = Schedule(peak=0.4, warmup_steps=4, ends=(12,))
    rates = [schedule.lr(step) for step in range(12)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert rates[8] == pytest.approx(0.2)  # half way down
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] == pytest.approx(0.2 * (1 + math.cos(math.pi * 7 / 8)))
    assert schedule.lr(12) == pytest.approx(0.0, abs=1e-12)
    assert Schedule(peak=1.0, warmup_steps=0, ends=(2,)).lr(0) == 1.0


@pytest.mark.parametrize(("samples", "steps"), [(5, 1), (8, 1), (15, 1), (16, 2), (1078, 134)])
def test_incomplete_batches_are_dropped_but_the_only_one(samples: int, steps: int) -> None:
    assert steps_per_epoch(samples, 8) == steps
    schedule = make_schedule(nets.options(epochs=10, warmup=0.1), samples, (10, 13))
    assert schedule.ends == (10 * steps, 13 * steps)
    assert schedule.warmup_steps == steps
    assert schedule.peak == TRAIN.lr


def test_figures_leave_skipped_steps_out() -> None:
    figures = EpochFigures(("a", "b"), ("top",), "cpu")
    for value, applied in ((1.0, True), (math.nan, False), (3.0, True)):
        step = {"a": value, "b": 2 * value, "top": 5 - value, "unused": 0.0}
        figures.add({k: torch.tensor(v) for k, v in step.items()}, torch.tensor(applied))
    assert figures.read() == {"a": 2.0, "b": 4.0, "top": 4.0}
    assert EpochFigures(("a",), (), "cpu").read() == {"a": None}


def test_accuracy_counts_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = nets.ds_spec()
    net = Supernet(spec, rates=(), generator=torch.Generator().manual_seed(0))
    data = to_device(nets.split_of(spec, 23), "cpu")
    normalize = Normalizer(nets.contract_of(spec))
    with torch.no_grad():
        predicted = net.student(normalize(data.images), training=False).argmax(1)
    expected = float((predicted == data.labels).float().mean())
    before = net.statistics.clone()
    for batch in (256, 23, 5):
        monkeypatch.setattr(loop, "EVAL_BATCH", batch)
        assert accuracy(net.student, data, normalize) == pytest.approx(expected)
    assert torch.equal(net.statistics, before)  # evaluation leaves running statistics alone


def test_read_only_arrays_are_taken_without_a_warning() -> None:
    split = nets.split_of(nets.ds_spec(), 4)
    split.images.flags.writeable = split.labels.flags.writeable = False
    arrays = to_device(split, "cpu")
    assert np.array_equal(arrays.images.numpy(), split.images)


def run_fit(
    monkeypatch: pytest.MonkeyPatch,
    student_scores: list[float],
    recipe: Recipe,
    *,
    external: External | None = None,
    **changes: object,
) -> tuple[TrainState, list[tuple[int, bool]]]:
    """A run whose validation accuracies are given; two steps an epoch."""
    spec = nets.ds_spec()
    options = nets.options(epochs=len(student_scores), recipe=recipe, **changes)
    method = METHODS[recipe](options, spec.classes)
    gen = torch.Generator().manual_seed(0)
    net = Supernet(spec, rates=method.rates, augmented=method.augmented, generator=gen)
    scores: Iterator[float] = iter(student_scores)

    def scored(width: object, data: Arrays, _: Normalizer) -> float:
        assert len(data) == 6  # never anything but the validation split
        return next(scores) if width is net.student else 0.99

    monkeypatch.setattr(loop, "accuracy", scored)
    calls: list[tuple[int, bool]] = []
    alone = Supernet(spec, rates=(), generator=None) if method.alone else None
    state = TrainState(net=net, alone=alone, ends=(len(student_scores),))
    train = to_device(nets.split_of(spec, 17), "cpu")
    fit(
        state,
        method,
        options=options,
        train=Shuffled(train, Augment(crop_px=1, flip=True), options.seed),
        val=to_device(nets.split_of(spec, 6), "cpu"),
        normalize=Normalizer(nets.contract_of(spec)),
        external=external,
        progress=Silent(),
        after_epoch=lambda state, best: calls.append((state.epoch, best)),
    )
    return state, calls


@pytest.mark.parametrize("recipe", [Recipe.PLAIN, Recipe.NETAUG, Recipe.NETDISTILLER])
def test_validation_decides_the_best_epoch(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    state, calls = run_fit(monkeypatch, [0.4, 0.8, 0.8, 0.5], recipe)
    assert calls == [(1, True), (2, True), (3, False), (4, False)]
    assert (state.best_epoch, state.best_accuracy) == (2, 0.8)  # the earlier one of a tie
    assert (state.epoch, state.step) == (4, 8)


@pytest.mark.parametrize("recipe", [Recipe.PLAIN, Recipe.NETAUG, Recipe.NETDISTILLER])
def test_history_has_every_column(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    state, _ = run_fit(monkeypatch, [0.4, 0.8], recipe)
    taught = {"teacher_loss", "val_accuracy_teacher", "conflict_rate", "largest_c", "kl_share"}
    absent = {
        Recipe.PLAIN: {"assistant_loss", "augmented_loss", *taught},
        Recipe.NETAUG: {"assistant_loss", *taught},
        Recipe.NETDISTILLER: {"assistant_loss", "augmented_loss"},
    }
    for number, row in enumerate(state.history, 1):
        assert tuple(row) == HISTORY_COLUMNS
        assert row["epoch"] == number
        assert row["skipped_steps"] == 0
        missing = {name for name, value in row.items() if value is None}
        assert missing == absent[recipe]


def test_a_score_of_zero_is_still_a_best(monkeypatch: pytest.MonkeyPatch) -> None:
    state, calls = run_fit(monkeypatch, [0.0, 0.0], Recipe.PLAIN)
    assert calls == [(1, True), (2, False)]
    assert state.best_epoch == 1


def test_each_epoch_has_its_own_order_of_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = batches.augment_batch

    def noted(images: Tensor, index: Tensor, augment: Augment, draws: Draws) -> Tensor:
        seen.extend(index.tolist())
        return real(images, index, augment, draws)

    monkeypatch.setattr(batches, "augment_batch", noted)
    run_fit(monkeypatch, [0.1, 0.2], Recipe.PLAIN)  # 17 samples, batches of 8
    first, second = seen[:16], seen[16:]
    assert len(set(first)) == len(set(second)) == 16
    assert first != second
    seen.clear()
    run_fit(monkeypatch, [0.1, 0.2], Recipe.NETDISTILLER)
    assert seen == [*first, *second]  # rows of one seed see the same data in the same order
    seen.clear()
    run_fit(monkeypatch, [0.1, 0.2], Recipe.PLAIN, seed=1)
    assert seen != [*first, *second]


def test_the_outer_teacher_sees_the_very_crops_of_the_student(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[Tensor] = []

    def external(pixels: Tensor) -> Tensor:
        shown.append(pixels.clone())
        return pixels[:, 0, :3, 0].float()  # (B, K): of each image its own

    def watched(options: TrainOptions, normalize: Normalizer) -> Callable[..., object]:
        step = make_steps(options, normalize)

        def make(
            net: Supernet, method: Method, pixels: Tensor, targets: Targets, **rest: Any
        ) -> tuple[Figures, Tensor]:
            assert torch.equal(shown[-1], pixels)
            assert targets.external is not None
            assert torch.equal(targets.external, pixels[:, 0, :3, 0].float())
            return step(net, method, pixels, targets, **rest)

        return make

    monkeypatch.setattr(loop, "make_steps", watched)
    run_fit(monkeypatch, [0.1], Recipe.KD, external=external, teacher="checkpoint:x")
    originals = torch.from_numpy(nets.split_of(nets.ds_spec(), 17).images)
    same = [bool((image == originals).flatten(1).all(1).any()) for image in torch.cat(shown)]
    assert len(same) == 16 and not all(same)  # augmented
    # It is not run where nobody listens.
    shown.clear()
    monkeypatch.setattr(loop, "make_steps", make_steps)
    taught = {"external": external, "teacher": "checkpoint:x", "teacher_every": 3}
    run_fit(monkeypatch, [0.1, 0.2], Recipe.NETDISTILLER, **taught)  # type: ignore[arg-type]
    assert len(shown) == 2  # of 4 steps


def test_skipped_steps_are_counted_from_epoch_to_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of which it is given whether their gradient was finite."""
    left: list[bool] = []

    def given(net: Supernet, method: Method, *_: object, **__: object) -> tuple[Figures, Tensor]:
        names = (*method.means, *method.peaks, GRAD_NORM, CLIPPED)
        return dict.fromkeys(names, torch.ones(())), torch.tensor(left.pop(0))

    monkeypatch.setattr(loop, "make_steps", lambda *_: given)

    def run(*applied: int, max_skipped: int) -> TrainState:
        left[:] = map(bool, applied)
        scores = [0.5] * (len(applied) // 2)
        return run_fit(monkeypatch, scores, Recipe.PLAIN, max_skipped=max_skipped)[0]

    state = run(1, 0, 0, 0, 1, 0, max_skipped=4)
    assert [row["skipped_steps"] for row in state.history] == [1, 2, 1]
    assert [row["student_loss"] for row in state.history] == [1, None, 1]
    assert state.skipped_in_row == 1
    with pytest.raises(ConfigError, match=r"3 steps in a row.*epoch 1 is kept.*epoch 2"):
        run(1, 0, 0, 0, 1, 0, max_skipped=3)
    assert len(left) == 2
    monkeypatch.setattr(loop, "CHECK_EVERY", 1)  # a long epoch is not gone through to its end
    with pytest.raises(ConfigError, match=r"1 steps in a row"):
        run(0, 1, max_skipped=1)
    assert len(left) == 1
