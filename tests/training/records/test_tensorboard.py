"""Event files, read back by TensorBoard's own reader."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ndtool import errors
from ndtool.errors import ToolMissingError
from ndtool.rundir import TENSORBOARD
from ndtool.training.loop import HISTORY_COLUMNS, HistoryRow
from ndtool.training.records.tensorboard import open_events

READER = """
import json, sys, types
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")  # do not load TensorFlow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}).Reload()
def points(tag):
    return [(point.step, point.value, point.wall_time) for point in found.Scalars(tag)]
print(json.dumps({tag: points(tag) for tag in found.Tags()["scalars"]}))
"""


def rows(count: int) -> list[HistoryRow]:
    def row(epoch: int) -> HistoryRow:
        figures = {"epoch": epoch, "lr": 0.5**epoch, "val_accuracy": 0.25, "seconds": 10.0}
        return dict.fromkeys(HISTORY_COLUMNS) | figures

    return [row(epoch) for epoch in range(1, count + 1)]


def read(folder: Path) -> dict[str, list[list[float]]]:
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found: dict[str, list[list[float]]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_each_column_and_epoch_once(tmp_path: Path) -> None:
    path = tmp_path / TENSORBOARD
    with open_events(path) as events:
        events.update([])
        events.update(rows(1))
        events.update(rows(3))
        events.update(rows(3))
        length = path.stat().st_size  # on disk already: a TensorBoard may be reading it
    found = read(path.parent)
    assert sorted(found) == ["lr", "seconds", "val_accuracy"]
    assert [point[:2] for point in found["lr"]] == [[1, 0.5], [2, 0.25], [3, 0.125]]
    assert [point[0] for point in found["val_accuracy"]] == [1, 2, 3]
    # Resumed after epoch 2: the same points, no second ones; who reads on finds the next row.
    with open_events(path) as events:
        events.update(rows(2))
        events.update(rows(3))
        assert path.stat().st_size == length
        events.update(rows(4))
    found = read(path.parent)
    assert [point[0] for point in found["lr"]] == [1, 2, 3, 4]


@pytest.mark.slow
def test_times_of_day_follow_from_the_seconds(tmp_path: Path) -> None:
    before = time.time()
    with open_events(tmp_path / TENSORBOARD) as events:
        events.update(rows(3))
    times = [point[2] for point in read((tmp_path / TENSORBOARD).parent)["lr"]]
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([10, 10])
    assert before <= times[-1] <= time.time()


def test_a_link_is_replaced(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / TENSORBOARD
    path.parent.mkdir(parents=True)
    path.symlink_to(victim)
    with open_events(path) as events:
        events.update(rows(1))
    assert victim.read_text() == "mine" and not path.is_symlink()


def test_the_name_says_no_machine_and_is_one_of_tensorboards() -> None:
    assert "tfevents" in Path(TENSORBOARD).name


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(errors.importlib, "import_module", missing)
    with pytest.raises(ToolMissingError, match=r"\[train\]|,train"), open_events(tmp_path / "x"):
        pass
    assert not (tmp_path / "x").exists()
