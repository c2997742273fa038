"""Steps without a teacher are steps of plain training, to the bit (training-methods, 1.10)."""

from dataclasses import replace
from pathlib import Path

import nets
import pytest
import torch
from small_runs import SPEC, StopAt, Stopped, assert_same_weights, go

from ndtool.rundir import CHECKPOINT, RunDir
from ndtool.training import checkpoint
from ndtool.training.checkpoint import Checkpoint
from ndtool.training.seeds import Use, generator
from ndtool.training.supernet import Supernet, copy_student
from ndtool.types import Recipe

PLAIN = nets.options(epochs=4, recipe=Recipe.PLAIN)
TAUGHT = nets.options(epochs=4)


def last(path: Path) -> Checkpoint:
    return checkpoint.load(RunDir(path) / CHECKPOINT)


def student_of(found: Checkpoint) -> dict[str, torch.Tensor]:
    return found.supernet().student_tensors()


def remainder(found: Checkpoint) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and momentum of everything but the student."""
    net = found.supernet()
    outside = torch.ones(net.layout.size, dtype=torch.bool)
    outside[net.student_index] = False
    return net.theta[outside], net.momentum[outside]


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_a_teacher_that_never_joins_leaves_plain_training(tmp_path: Path, clip: float) -> None:
    go(tmp_path / "plain", replace(PLAIN, clip_norm=clip))
    go(tmp_path / "late", replace(TAUGHT, clip_norm=clip, teacher_start=1.0))
    plain, late = last(tmp_path / "plain"), last(tmp_path / "late")
    expected, got = student_of(plain), student_of(late)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    momentum = late.supernet().momentum[late.supernet().student_index]
    assert torch.equal(momentum, plain.momentum)
    for key in ("val_accuracy", "student_loss", "grad_norm"):
        assert [row[key] for row in late.history] == [row[key] for row in plain.history]
    assert all(row["teacher_loss"] is None for row in late.history)
    assert all(row["val_accuracy_teacher"] is None for row in late.history)


def test_what_no_step_teaches_does_not_move(tmp_path: Path) -> None:
    """Neither momentum nor weight decay: a gradient of zero would not be enough."""
    decayed = replace(TAUGHT, weight_decay=0.5)
    go(tmp_path / "late", replace(decayed, teacher_start=1.0))
    theta, momentum = remainder(last(tmp_path / "late"))
    fresh = Supernet(SPEC, rates=(3,), generator=generator(0, Use.REMAINDER))
    outside = torch.ones(fresh.layout.size, dtype=torch.bool)
    outside[fresh.student_index] = False
    assert torch.equal(theta, fresh.theta[outside])
    assert not momentum.any()
    # A teacher that leaves after half of the run stays as it was, momentum included.
    with pytest.raises(Stopped):
        go(tmp_path / "left", replace(decayed, teacher_stop=0.5), progress=StopAt(7))
    at_half = remainder(last(tmp_path / "left"))
    assert at_half[1].any()
    go(tmp_path / "left", replace(decayed, teacher_stop=0.5), resume=True)
    at_end = remainder(last(tmp_path / "left"))
    assert all(torch.equal(a, b) for a, b in zip(at_half, at_end, strict=True))


def test_the_first_part_of_a_late_teachers_run_is_plain(tmp_path: Path) -> None:
    go(tmp_path / "plain", PLAIN)
    go(tmp_path / "late", replace(TAUGHT, teacher_start=0.5))
    plain, late = last(tmp_path / "plain").history, last(tmp_path / "late").history
    for key in ("student_loss", "grad_norm", "val_accuracy"):
        assert [row[key] for row in late[:2]] == [row[key] for row in plain[:2]]
    assert late[3]["grad_norm"] != plain[3]["grad_norm"]
    assert [row["teacher_loss"] is None for row in late] == [True, True, False, False]
    assert [row["conflict_rate"] is None for row in late] == [True, True, False, False]


@pytest.mark.parametrize(
    "changes",
    [{"teacher_every": 2}, {"teacher_start": 0.3, "teacher_stop": 0.8}, {"expand": (2, 3)}],
    ids=str,
)
@pytest.mark.parametrize("stop", [4, 8])
def test_resume_of_a_schedule_equals_the_uninterrupted_run(
    tmp_path: Path, changes: dict[str, object], stop: int
) -> None:
    options = replace(TAUGHT, **changes)
    go(tmp_path / "whole", options)
    with pytest.raises(Stopped):
        go(tmp_path / "broken", options, progress=StopAt(stop))
    go(tmp_path / "broken", options, resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")


def test_every_second_step_has_the_teacher(tmp_path: Path) -> None:
    """Three steps an epoch: the teacher's loss is a mean over the taught steps alone."""
    go(tmp_path / "all", replace(TAUGHT, epochs=1))
    go(tmp_path / "second", replace(TAUGHT, epochs=1, teacher_every=3))
    every, third = last(tmp_path / "all").history[0], last(tmp_path / "second").history[0]
    assert third["teacher_loss"] != every["teacher_loss"]
    assert third["teacher_loss"] == pytest.approx(1.1, abs=0.1)  # of the first step: ln 3


def test_the_student_moves_between_networks_without_loss() -> None:
    wide = Supernet(SPEC, rates=(4, 2), generator=torch.Generator().manual_seed(0))
    wide.momentum.copy_(torch.rand(wide.layout.size, generator=torch.Generator().manual_seed(1)))
    wide.statistics.add_(0.25)
    alone = Supernet(SPEC, rates=(), generator=None)
    copy_student(wide, alone)
    expected, got = wide.student_tensors(), alone.student_tensors()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    before = [t.clone() for t in (wide.theta, wide.momentum, wide.statistics)]
    copy_student(alone, wide)
    after = (wide.theta, wide.momentum, wide.statistics)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    alone.theta.add_(1.0)
    copy_student(alone, wide)
    outside = torch.ones(wide.layout.size, dtype=torch.bool)
    outside[wide.student_index] = False
    assert torch.equal(wide.theta[outside], before[0][outside])
    assert torch.equal(wide.theta[~outside], before[0][~outside] + 1.0)
