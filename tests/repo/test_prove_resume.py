"""tools/prove_resume.py sees each difference between two checkpoints but that of their clocks."""

import sys
from dataclasses import replace
from pathlib import Path

import nets
import pytest
import torch
from small_runs import go

from ndtool.rundir import BEST, CHECKPOINT

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import prove_resume


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same training twice, with every kind of field, an average and an extension among them."""
    options = nets.options(ema=0.9, extend_epochs=(1,))
    folders = [tmp_path_factory.mktemp(name) for name in "ab"]
    for folder in folders:
        go(folder, options)
    return folders


@pytest.mark.parametrize("name", [CHECKPOINT, BEST])
def test_the_same_training_is_equal_and_its_files_are_not(two: list[Path], name: str) -> None:
    first, second = (folder / name for folder in two)
    assert first.read_bytes() != second.read_bytes()  # seconds
    assert prove_resume.differences(first, second) == []


def test_another_training_is_not(two: list[Path], tmp_path: Path) -> None:
    go(tmp_path, replace(nets.options(ema=0.9, extend_epochs=(1,)), seed=1))
    found = prove_resume.differences(two[0] / CHECKPOINT, tmp_path / CHECKPOINT)
    assert {"theta", "momentum", "statistics", "ema", "history", "identity"} <= set(found)


def test_a_sign_of_zero_is_a_difference() -> None:
    zero = torch.zeros(2)
    assert prove_resume.bits((zero,)) != prove_resume.bits((-zero,))
    assert prove_resume.bits((1, 2)) == [1, 2]
