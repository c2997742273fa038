"""What is said of a damaged folder: files of nobody, and the commands for each problem."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndtool.export.mending import mend, unknown_c
from ndtool.rundir import FileRow, Manifest, RunDir
from ndtool.types import Sha256

KNOWN = FileRow(sha256=Sha256("0" * 64), bytes=1, stage="codegen:posix")
C_HOP = FileRow(sha256=Sha256("0" * 64), bytes=1, stage="verify")
MANIFEST = Manifest(files={"codegen/posix/nd_model.c": KNOWN, "export/predictions/c.npz": C_HOP})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "my run")
    for name in ("nd_model.c", "build/nd_model.o", "build/deep/x"):
        made.write_text(f"codegen/posix/{name}", "x")
    return made


def test_files_of_nobody_are_one_phrase_a_folder(run: RunDir) -> None:
    assert unknown_c(run, MANIFEST) == []
    run.write_text("codegen/posix/nd_runtime/build/extra.c", "x")
    run.write_text("codegen/mine/a.c", "x")
    run.write_text("codegen/mine/b/c.c", "x")
    (run / "codegen/loop").symlink_to(run.path)
    assert unknown_c(run, MANIFEST) == [
        "codegen/mine: 2 files that no stage wrote",
        "codegen/posix: 1 file that no stage wrote",
    ]


@pytest.mark.parametrize(
    ("problem", "commands"),
    [
        ("export/ranges.json is missing", "ndtool export RUN --int8"),
        ("metrics.json is missing", "ndtool export RUN --int8"),
        ("export/model.onnx was written by no stage", "ndtool export RUN --int8 --force"),
        ("the models cannot be run: why (where)", "ndtool export RUN --int8 --force"),
        ("codegen/posix/a.c is missing", "ndtool codegen RUN"),
        ("codegen:cmake is older than what it reads", "ndtool codegen RUN --template cmake"),
        ("export/predictions/c.npz is missing", "ndtool verify RUN"),
        ("contract.json is missing", "put back"),
        ("export/student.json is missing", "put back"),  # there is no train/ to make it from
    ],
)
def test_each_problem_has_its_command(problem: str, commands: str, run: RunDir) -> None:
    said = mend(run, MANIFEST, [problem])
    assert said.startswith(commands.replace("RUN", f"'{run.path}'"))
    assert "--force" not in said or "--force" in commands


def test_a_student_is_made_again_from_its_checkpoint(run: RunDir) -> None:
    run.write_text("train/best.pt", "x")
    run.write_text("codegen/array/x.c", "x")
    problems = ["export/student.json is missing", *unknown_c(run, MANIFEST)]
    assert mend(run, MANIFEST, problems).split(", then ") == [
        f"ndtool export '{run.path}' --int8",
        f"delete '{run.path}/codegen/array'",
        f"ndtool codegen '{run.path}' --template array --force",
    ]
