"""A finished run that goes on: the bits of a run that was told so from the start."""

import csv
import itertools
from pathlib import Path

import nets
import pytest
import torch
from small_runs import StopAt, Stopped
from small_runs import go as go_from

from ndtool.errors import ConfigError
from ndtool.options import MAX_EXTENSIONS, TrainOptions
from ndtool.rundir import BEST, CHECKPOINT, HISTORY
from ndtool.training import checkpoint
from ndtool.training.loop import TIME_COLUMNS, Progress
from ndtool.training.schedule import make_schedule, run_ends
from ndtool.training.train import TrainResult
from ndtool.types import Recipe

METHODS = [
    {"recipe": Recipe.PLAIN},
    {"recipe": Recipe.NETDISTILLER},
    {"recipe": Recipe.NETDISTILLER, "teacher_stop": 0.5},
    {"recipe": Recipe.NETAUG},
    {"recipe": Recipe.PLAIN, "ema": 0.9},
]


def go(path: Path, options: TrainOptions, *, progress: Progress | None = None) -> TrainResult:
    """A run that goes on from what there is."""
    return go_from(path, options, resume=True, progress=progress)


def rows(path: Path) -> list[dict[str, str]]:
    with (path / HISTORY).open(newline="") as handle:
        return [
            {column: cell for column, cell in row.items() if column not in TIME_COLUMNS}
            for row in csv.DictReader(handle)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda m: "-".join(map(str, m.values())))
def test_extended_equals_told_from_the_start(tmp_path: Path, method: dict[str, object]) -> None:
    told, grown = tmp_path / "told", tmp_path / "grown"
    go(told, nets.options(epochs=2, extend_epochs=(1, 3), **method))
    for more in ((), (1,), (1, 3), (1, 3)):
        result = go(grown, nets.options(epochs=2, extend_epochs=more, **method))
        assert result.epochs == 2 + (more[-1] if more else 0)
    assert result.resumed_from == 5
    assert rows(told) == rows(grown) and len(rows(told)) == 5
    for name in (CHECKPOINT, BEST):
        a, b = (checkpoint.load(path / name) for path in (told, grown))
        for key in ("theta", "momentum", "statistics"):
            assert torch.equal(getattr(a, key), getattr(b, key)), (name, key)
        if a.ema is not None and b.ema is not None:
            assert all(torch.equal(x, y) for x, y in zip(a.ema, b.ema, strict=True))
        assert (a.epoch, a.step, a.best_epoch, a.best_accuracy) == (
            b.epoch,
            b.step,
            b.best_epoch,
            b.best_accuracy,
        )
    assert a.ema is None or "ema" in method
    assert checkpoint.load(grown / CHECKPOINT).ends == (2, 3, 5)


def test_the_first_epochs_are_those_of_the_run_as_it_was(tmp_path: Path) -> None:
    go(tmp_path / "short", nets.options(epochs=3))
    go(tmp_path / "long", nets.options(epochs=3, extend_epochs=(2,)))
    assert rows(tmp_path / "long")[:3] == rows(tmp_path / "short")


def test_rates_of_an_extended_run() -> None:
    """Up to its first end the run's own cosine, then that of the longer run (design, 6)."""
    options = nets.options(epochs=4, extend_epochs=(4,))
    samples = 8 * 10
    whole = make_schedule(options, samples, run_ends(options))
    short = make_schedule(options, samples, (4,))
    assert whole.ends == (40, 80)
    assert [whole.lr(s) for s in range(40)] == [short.lr(s) for s in range(40)]
    assert short.lr(39) < whole.lr(40) < options.lr
    later = [whole.lr(s) for s in range(40, 80)]
    assert later == sorted(later, reverse=True) and later[-1] > 0
    steps = [a - b for a, b in itertools.pairwise(later)]
    assert max(steps) < 0.03 * options.lr  # no jump within


def test_a_kill_right_after_the_extension_changes_nothing(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = nets.options(epochs=3, extend_epochs=(2,))
    go(whole, options)
    go(broken, nets.options(epochs=3))
    with pytest.raises(Stopped):
        go(broken, options, progress=StopAt(10))
    go(broken, options)
    a, b = (checkpoint.load(path / CHECKPOINT) for path in (whole, broken))
    assert torch.equal(a.theta, b.theta) and rows(whole) == rows(broken)


@pytest.mark.parametrize("other", [(), (1,), (3,), (1, 2)])
def test_another_course_than_the_checkpoints_is_refused(
    tmp_path: Path, other: tuple[int, ...]
) -> None:
    go(tmp_path, nets.options(epochs=1, extend_epochs=(2,)))
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ConfigError, match="ends after 1, then 3 epochs") as caught:
        go(tmp_path, nets.options(epochs=1, extend_epochs=other))
    assert (caught.value.code, caught.value.where) == ("train.shorter", "--extend-epochs")
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize(
    "more",
    [(0,), (-1,), (2, 2), (3, 2), (100_000,), (99_999,), tuple(range(1, MAX_EXTENSIONS + 2))],
)
def test_extensions_that_are_none(tmp_path: Path, more: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        go(tmp_path, nets.options(epochs=2, extend_epochs=more))
    assert (caught.value.code, caught.value.where) == ("train.option", "--extend-epochs")
    assert not list(tmp_path.iterdir())
