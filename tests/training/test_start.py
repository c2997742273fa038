"""Whose checkpoint a run goes on from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
from small_runs import SPEC, TRAIN_COUNT, StopAt, Stopped, assert_same_weights, go

from ndtool import console
from ndtool.errors import ConfigError, InputError
from ndtool.options import TrainOptions
from ndtool.rundir import CHECKPOINT, RunDir
from ndtool.training.supernet import Supernet
from ndtool.types import Recipe


def test_resume_refuses_another_training(tmp_path: Path) -> None:
    options = nets.options(epochs=2)
    go(tmp_path, options)
    other_data = nets.split_of(SPEC, TRAIN_COUNT, seed=5)
    with pytest.raises(ConfigError, match=r"another training: data differ"):
        go(tmp_path, options, resume=True, train_split=other_data)
    with pytest.raises(ConfigError, match="another training: epochs, lr, surgery differ") as caught:
        go(tmp_path, replace(options, epochs=3, lr=0.2, surgery=False), resume=True)
    assert caught.value.code == "train.resume"
    with pytest.raises(ConfigError, match="spec, contract, data differ"):
        go(tmp_path, options, resume=True, spec=nets.ds_spec(classes=4))


def test_resume_under_another_torch_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    go(tmp_path, nets.options(epochs=1))
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    monkeypatch.setattr(console.STATE, "warnings", [])
    go(tmp_path, nets.options(epochs=1), resume=True)
    assert "this is 9.9.9" in capsys.readouterr().err
    assert console.STATE.warnings[0][0] == "train.torch-version"


def test_resume_from_a_broken_checkpoint_is_refused(tmp_path: Path) -> None:
    go(tmp_path, nets.options(epochs=1))
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint of ndtool"):
        go(tmp_path, nets.options(epochs=1), resume=True)


def broken_off(path: Path, options: TrainOptions) -> None:
    """A run that is stopped in its second epoch."""
    with pytest.raises(Stopped):
        go(path, options, progress=StopAt(4))


def test_an_option_that_the_recipe_does_not_read_may_change(tmp_path: Path) -> None:
    plain = nets.options(epochs=2, recipe=Recipe.PLAIN)
    go(tmp_path / "whole", plain)
    broken_off(tmp_path / "broken", plain)
    go(tmp_path / "broken", replace(plain, expand=(2,), teacher_every=3), resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")


def no_average(document: dict[str, Any]) -> None:
    document |= {"ema_theta": None, "ema_statistics": None}


def other_layout(document: dict[str, Any]) -> None:
    document["memory_format"] = "contiguous"


def other_kind(document: dict[str, Any]) -> None:
    """The student alone where the options say netaug."""
    net = Supernet(SPEC, rates=(), generator=torch.Generator())
    buffers = {"theta": net.theta, "momentum": net.momentum, "statistics": net.statistics}
    document |= buffers | {"augmented": False}


@pytest.mark.parametrize(
    ("recipe", "change", "word"),
    [
        (Recipe.PLAIN, no_average, "ema"),
        (Recipe.PLAIN, other_layout, "memory_format"),
        (Recipe.NETAUG, other_kind, "augmented"),
    ],
)
def test_contents_that_contradict_the_options_are_refused(
    tmp_path: Path, recipe: Recipe, change: Callable[[dict[str, Any]], None], word: str
) -> None:
    options = nets.options(epochs=2, ema=0.9, recipe=recipe)
    broken_off(tmp_path, options)
    file = RunDir(tmp_path) / CHECKPOINT
    document = torch.load(file, weights_only=True)  # noqa: TID251  (our own file)
    change(document)
    torch.save(document, file)
    with pytest.raises(ConfigError, match=f"another training: {word} differ"):
        go(tmp_path, options, resume=True)
