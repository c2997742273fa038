"""The stage around a training: what it leaves of an earlier one."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_runs import Stopped
from tiny_data import write_npz

from ndtool.errors import DataError
from ndtool.options import TrainOptions
from ndtool.prepare import prepare
from ndtool.rundir import BEST, CHECKPOINT, CONFIG
from ndtool.training import train as train_module
from ndtool.training.stage import train_stage
from ndtool.types import Recipe


def short_options(folder: Path) -> TrainOptions:
    return TrainOptions(
        data=f"npz:{write_npz(folder / 'tiny.npz')}",
        recipe=Recipe.PLAIN,
        width=0.25,
        epochs=1,
        threads=1,
        device="cpu",
    )


def test_a_forced_training_that_is_broken_off_leaves_no_older_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export takes whatever best.pt there is: it would be one of other options than config.toml."""
    options = short_options(tmp_path)
    prepared = prepare(options, name="run", out=tmp_path)
    train_stage(prepared, {}, force=False, resume=False)
    assert prepared.run.has(BEST)

    def fit(*_: object, **__: object) -> None:
        raise Stopped

    monkeypatch.setattr(train_module, "fit", fit)
    other = prepare(replace(options, lr=0.02), name="run", out=tmp_path)
    with pytest.raises(Stopped):
        train_stage(other, {}, force=True, resume=False)
    assert "lr = 0.02" in (prepared.run / CONFIG).read_text()
    assert not prepared.run.has(BEST)
    assert not prepared.run.has(CHECKPOINT)


def test_images_that_are_refused_leave_the_earlier_training(tmp_path: Path) -> None:
    options = short_options(tmp_path)
    prepared = prepare(options, name="run", out=tmp_path)
    train_stage(prepared, {}, force=False, resume=False)
    before = {path: path.read_bytes() for path in prepared.run.path.rglob("*") if path.is_file()}
    more = replace(options, batch_size=2048, accumulate=2)
    with pytest.raises(DataError, match="at least 2048 needed"):
        train_stage(prepare(more, name="run", out=tmp_path), {}, force=True, resume=False)
    after = {path: path.read_bytes() for path in prepared.run.path.rglob("*") if path.is_file()}
    assert after == before
