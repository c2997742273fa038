"""A resumed run has the bits of an uninterrupted one, whatever options meet each other."""

import itertools
from pathlib import Path

import nets
import pytest
import torch
from small_runs import StopAt, Stopped, assert_same_weights, go

from ndtool.options import TrainOptions
from ndtool.rundir import CHECKPOINT, RunDir
from ndtool.training import checkpoint
from ndtool.training import train as train_module
from ndtool.types import Precision, Recipe, StudentLoss

EPOCHS = 4  # of 3 steps
TEACHINGS: dict[str, dict[str, object]] = {
    "always": {},
    "late": {"teacher_start": 0.4},
    "early": {"teacher_stop": 0.6},
    "every-2": {"teacher_every": 2},
    "part": {"teacher_start": 0.2, "teacher_stop": 0.8, "teacher_every": 3},
}


@pytest.fixture(autouse=True)
def _no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "step_ratio", lambda *_, **__: None)  # half of such a run


def assert_resumes(tmp_path: Path, options: TrainOptions, *stops: int) -> None:
    """Stopped at each of `stops` (steps of the whole run), one after the other."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    go(whole, options)
    for stop in stops:
        with pytest.raises(Stopped):
            go(broken, options, resume=True, progress=StopAt(stop))
    go(broken, options, resume=True)
    assert_same_weights(whole, broken)
    a, b = (checkpoint.load(RunDir(path) / CHECKPOINT) for path in (whole, broken))
    assert (a.ema is None) == (options.ema == 0)
    if a.ema is not None and b.ema is not None:
        assert all(torch.equal(x, y) for x, y in zip(a.ema, b.ema, strict=True))


@pytest.mark.parametrize(
    ("teaching", "changes"),
    [
        ("always", {"accumulate": 2, "ema": 0.9, "expand": (3, 2)}),
        ("late", {"ema": 0.9, "student_loss": StudentLoss.MIX}),
        ("late", {"accumulate": 2, "expand": (3, 2), "extend_epochs": (1, 2)}),
        ("early", {"ema": 0.9, "accumulate": 2, "precision": Precision.BF16}),
        ("every-2", {"ema": 0.9, "expand": (3, 2), "surgery": False}),
        ("part", {"ema": 0.9, "accumulate": 2, "expand": (3, 2), "extend_epochs": (2,)}),
        ("always", {"recipe": Recipe.NETAUG, "ema": 0.9, "accumulate": 2, "extend_epochs": (2,)}),
        ("always", {"recipe": Recipe.PLAIN, "ema": 0.9, "accumulate": 4, "extend_epochs": (1,)}),
    ],
)
def test_options_that_meet(tmp_path: Path, teaching: str, changes: dict[str, object]) -> None:
    options = nets.options(epochs=EPOCHS, **TEACHINGS[teaching], **changes)
    assert_resumes(tmp_path, options, 4, 8)


@pytest.mark.slow
@pytest.mark.parametrize("teaching", TEACHINGS)
def test_every_pair_of_options(tmp_path: Path, teaching: str) -> None:
    grid = itertools.product([(2,), (3, 2)], [1, 2], [0.0, 0.9])
    for number, (expand, accumulate, ema) in enumerate(grid):
        options = nets.options(
            epochs=EPOCHS,
            expand=expand,
            accumulate=accumulate,
            ema=ema,
            extend_epochs=(1,),
            **TEACHINGS[teaching],
        )
        assert_resumes(tmp_path / str(number), options, 4 + number % 8)
