"""The stage: what it writes, that it learns, and that a resumed run equals an uninterrupted one."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nets
import pytest
import torch
from small_runs import (
    SPEC,
    TRAIN_COUNT,
    StopAt,
    Stopped,
    assert_same_weights,
    go,
)

from ndtool.errors import ConfigError
from ndtool.rundir import BEST, CHECKPOINT, HISTORY, TRAIN_LOG, RunDir
from ndtool.training import checkpoint, checks
from ndtool.training.loop import HISTORY_COLUMNS
from ndtool.training.schedule import steps_per_epoch
from ndtool.types import Recipe, StudentLoss


def test_files_history_and_result(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    threads: set[int] = set()

    class Watch:
        def update(self, done: int, note: str = "") -> None:
            threads.add(torch.get_num_threads())

    result = go(tmp_path, nets.options(threads=2), progress=Watch())
    assert threads == {2} and torch.get_num_threads() == before
    written = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*"))
    assert written == sorted((CHECKPOINT, BEST, HISTORY, TRAIN_LOG)) == sorted(result.files)
    with (tmp_path / HISTORY).open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == list(HISTORY_COLUMNS)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = max(rows, key=lambda row: float(row["val_accuracy"]))
    assert result.best_epoch == int(best["epoch"])
    assert result.best_val_accuracy == pytest.approx(float(best["val_accuracy"]))
    assert result.teacher_val_accuracy == pytest.approx(float(rows[-1]["val_accuracy_teacher"]))
    assert (result.epochs, result.resumed_from, result.threads) == (3, 0, 2)
    assert len((tmp_path / TRAIN_LOG).read_text().splitlines()) == 3
    saved = checkpoint.load(tmp_path / BEST)
    assert saved.epoch == saved.best_epoch == result.best_epoch
    assert saved.identity.threads == 2
    assert saved.identity.options["student_loss"] == "ud"


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": Recipe.PLAIN},
        {"student_loss": StudentLoss.UD},
        {"student_loss": StudentLoss.KL, "surgery": False},
    ],
)
def test_a_small_task_is_learnt(tmp_path: Path, changes: dict[str, object]) -> None:
    """Chance is .33; seed 0 reaches 1.0."""
    options = nets.options(epochs=15, **changes)
    result = go(tmp_path, options, train_split=nets.split_of(SPEC, 90))
    assert result.best_val_accuracy >= 0.9
    assert (result.teacher_val_accuracy is None) == (changes.get("recipe") is Recipe.PLAIN)


def test_same_seed_same_bits_other_seed_other_bits(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        go(tmp_path / name, nets.options(seed=seed, epochs=2))
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    a, c = (checkpoint.load(RunDir(tmp_path / n) / CHECKPOINT) for n in "ac")
    assert not torch.equal(a.theta, c.theta)


@pytest.mark.parametrize("recipe", [Recipe.PLAIN, Recipe.NETDISTILLER])
@pytest.mark.parametrize("stop", [1, 4, 8])
def test_resume_equals_the_uninterrupted_run(tmp_path: Path, recipe: Recipe, stop: int) -> None:
    options = nets.options(epochs=4, recipe=recipe)
    per_epoch = steps_per_epoch(TRAIN_COUNT, options.batch_size)
    assert per_epoch == 3  # so the stops are in epochs 1, 2 and 3, none at an end
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    go(whole, options)
    with pytest.raises(Stopped):
        go(broken, options, progress=StopAt(stop))
    result = go(broken, replace(options, threads=4), resume=True)  # the checkpoint's count rules
    assert result.resumed_from == (stop - 1) // per_epoch
    assert result.threads == (1 if result.resumed_from else 4)
    if result.resumed_from:
        assert_same_weights(whole, broken)
    log = (broken / TRAIN_LOG).read_text().splitlines()
    assert [line.split()[1] for line in log] == ["1", "2", "3", "4"]


def test_resume_of_a_finished_run_does_nothing(tmp_path: Path) -> None:
    first = go(tmp_path, nets.options())
    before = (tmp_path / CHECKPOINT).read_bytes()
    again = go(tmp_path, nets.options(), resume=True)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert again == replace(first, resumed_from=3)


def test_a_huge_rate_stops_with_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = nets.options(lr=1e12, warmup=0.0, clip_norm=0.0, epochs=40)
    monkeypatch.setattr(checks, "TRAIN_BOUNDS", {})  # a rate that the bounds keep out
    with pytest.raises(ConfigError, match="training diverged") as caught:
        go(tmp_path, options)
    assert caught.value.code == "train.diverged"
    assert "--lr" in caught.value.remedy


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import nets, test_train
from pathlib import Path
test_train.go(Path(sys.argv[2]), nets.options(epochs=12), resume=True)
"""


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at random moments; each start resumes, the last one is left to finish."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    go(whole, nets.options(epochs=12))
    here = Path(__file__).resolve().parent
    paths = os.pathsep.join([str(here), str(here.parent / "lib")])
    command = [sys.executable, "-c", SCRIPT, str(here), str(broken)]
    environment = os.environ | {"PYTHONPATH": paths}
    delays = random.Random(0)
    kills = 0
    for _ in range(4):
        child = subprocess.Popen(command, env=environment)
        while child.poll() is None and not (broken / HISTORY).exists():
            time.sleep(0.01)  # until training has begun
        time.sleep(delays.uniform(0.0, 0.4))
        child.send_signal(signal.SIGKILL)
        kills += child.wait() == -signal.SIGKILL
        if RunDir(broken).has(CHECKPOINT):
            checkpoint.load(broken / CHECKPOINT)  # readable after each kill
    assert kills >= 1
    go(broken, nets.options(epochs=12), resume=True)
    assert_same_weights(whole, broken)
