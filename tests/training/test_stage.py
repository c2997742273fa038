"""The stage around a training: what it leaves of an earlier one."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_runs import Stopped
from tiny_data import write_npz

from ndtool import identity as identity_module
from ndtool.errors import DataError, InputError
from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.rundir import BEST, CHECKPOINT, CONFIG, RunDir
from ndtool.training import start as start_module
from ndtool.training import train as train_module
from ndtool.training.stage import resume_hint, train_stage
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
    before = files_of(prepared.run.path)
    more = replace(options, batch_size=2048, accumulate=2)
    with pytest.raises(DataError, match="at least 2048 needed"):
        train_stage(prepare(more, name="run", out=tmp_path), {}, force=True, resume=False)
    assert files_of(prepared.run.path) == before


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose best epoch is not its last: no step of the last ones moves a weight."""
    folder = tmp_path_factory.mktemp("trained")
    options = replace(short_options(folder), epochs=3, lr=1e-12)
    prepared = prepare(options, name="run", out=folder)
    assert train_stage(prepared, {}, force=False, resume=False).best_epoch < 3
    return folder


def again(trained: Path, copy: Path, **more: Any) -> Prepared:
    options = replace(short_options(trained), epochs=3, lr=1e-12, **more)
    return prepare(options, name="run", out=copy)


@pytest.mark.parametrize("lost", [True, False])
def test_another_best_network_is_never_taken_for_the_runs_own(
    trained: Path, tmp_path: Path, *, lost: bool
) -> None:
    folder = shutil.copytree(trained, tmp_path / "copy")
    best = folder / "run" / BEST
    foreign = (folder / "run" / CHECKPOINT).read_bytes()
    best.unlink() if lost else best.write_bytes(foreign)
    before = files_of(folder)
    with pytest.raises(InputError, match="missing" if lost else "another file") as refused:
        train_stage(again(trained, folder), {}, force=False, resume=False)
    assert refused.value.code == "train.best"
    assert files_of(folder) == before  # its row in the manifest, too
    with pytest.raises(InputError, match="best network"):
        train_stage(again(trained, folder, extend_epochs=(1,)), {}, force=False, resume=False)
    train_stage(again(trained, folder), {}, force=True, resume=False)


@pytest.mark.parametrize("lost", [True, False])
def test_the_best_network_of_the_last_epoch_is_made_again(tmp_path: Path, *, lost: bool) -> None:
    """As after a kill between the writing of the checkpoint and of its copy."""
    prepared = prepare(short_options(tmp_path), name="run", out=tmp_path)
    train_stage(prepared, {}, force=False, resume=False)
    best = prepared.run / BEST
    whole = best.read_bytes()
    assert whole == (prepared.run / CHECKPOINT).read_bytes()
    best.unlink() if lost else best.write_bytes(b"of the epoch before")
    train_stage(prepared, {}, force=False, resume=False)
    assert best.read_bytes() == whole


def test_epochs_of_two_versions_of_the_training_are_not_mixed(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(trained, tmp_path / "copy")
    before = files_of(folder)
    monkeypatch.setattr(start_module, "TRAIN_VERSION", 2)
    monkeypatch.setattr(identity_module, "TRAIN_VERSION", 2)
    with pytest.raises(InputError, match="version 1 of the training, this is 2"):
        train_stage(again(trained, folder), {}, force=False, resume=False)
    assert files_of(folder) == before


@pytest.mark.parametrize("force", [False, True])
def test_an_interrupted_training_says_how_to_go_on(tmp_path: Path, *, force: bool) -> None:
    hint = resume_hint(RunDir(tmp_path), force=force)
    assert hint.startswith(f"last checkpoint {tmp_path / CHECKPOINT}; repeat the command ")
    assert ("without --force" in hint) is force
