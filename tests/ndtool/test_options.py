"""Which options a training reads: what is not compared must not matter, and what is must."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import nets
import pytest
from small_runs import assert_same_weights, go

from ndtool.identity import settings
from ndtool.options import TrainOptions, is_read
from ndtool.types import Recipe, StudentLoss

KL = TrainOptions(recipe=Recipe.NETDISTILLER, student_loss=StudentLoss.KL)
UD = TrainOptions(recipe=Recipe.NETDISTILLER, student_loss=StudentLoss.UD)
PLAIN = TrainOptions(recipe=Recipe.PLAIN)
KD = TrainOptions(recipe=Recipe.KD, teacher="checkpoint:x.pt")
FOLDER = replace(PLAIN, data="folder:photos")


@pytest.mark.parametrize(
    ("options", "unread"),
    [
        (KL, {"uncertainty", "temperature", "kd_weight", "freeze", "freeze_epochs", "bad_files"}),
        (UD, {"temperature", "kd_weight", "freeze", "freeze_epochs", "bad_files"}),
        (replace(UD, teacher="x"), {"kd_weight", "freeze", "freeze_epochs", "bad_files"}),
        (
            KD,
            {
                *("student_loss", "surgery", "expand", "uncertainty", "bad_files"),
                *("teacher_start", "teacher_stop", "teacher_every"),
            },
        ),
        (
            FOLDER,
            {
                *("student_loss", "surgery", "expand", "uncertainty", "teacher", "temperature"),
                *("teacher_start", "teacher_stop", "teacher_every", "kd_weight"),
            },
        ),
    ],
)
def test_what_is_not_read_is_not_compared(options: TrainOptions, unread: set[str]) -> None:
    assert {one.name for one in fields(options) if not is_read(one.name, options)} == unread
    assert not unread & set(settings(options))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (
            {"recipe": Recipe.NETDISTILLER, "student_loss": StudentLoss.KL},
            {"uncertainty": 0.1, "temperature": 9.0, "kd_weight": 0.1, "bad_files": "skip"},
        ),
        (
            {"recipe": Recipe.PLAIN},
            {
                "student_loss": StudentLoss.CE,
                "surgery": False,
                "expand": (2,),
                "teacher_start": 0.5,
                "teacher_every": 3,
                "uncertainty": 0.9,
            },
        ),
    ],
)
def test_what_is_not_read_changes_no_weight(
    tmp_path: Path, recipe: dict[str, Any], changes: dict[str, Any]
) -> None:
    options = nets.options(epochs=1, **recipe)
    assert not any(is_read(field, options) for field in changes)
    go(tmp_path / "a", options)
    go(tmp_path / "b", replace(options, **changes))
    assert_same_weights(tmp_path / "a", tmp_path / "b")
