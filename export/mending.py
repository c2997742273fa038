"""Files of the run's C that no stage wrote, and what makes a damaged run folder right again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ndtool.console import counted
from ndtool.export.c_project import ARRAY, BUILD
from ndtool.export.verify_run import ON_HOST
from ndtool.options import CODEGEN as DEFAULTS
from ndtool.rundir import (
    BEST,
    CODEGEN,
    CONTRACT,
    LABELS,
    ONNX,
    STUDENT,
    STUDENT_SPEC,
    Manifest,
    RunDir,
)

TEMPLATES: Final = (*ON_HOST, ARRAY)
CANNOT_RUN: Final = "the models cannot be run"
# How a problem starts or ends of which the stages themselves see nothing
_UNKNOWN: Final = "that no stage wrote"
_UNSEEN: Final = (_UNKNOWN, "was written by no stage")


def unknown_c(run: RunDir, manifest: Manifest) -> list[str]:
    """The folders below codegen/ with files that no stage says it wrote; build/ is the user's."""
    found = []
    for folder in sorted(run.path.glob(f"{CODEGEN}/[!.]*")):
        inside = f"{CODEGEN}/{folder.name}"
        count = sum(f"{inside}/{name}" not in manifest.files for name in _files(folder))
        if count:
            found.append(f"{inside}: {counted(count, 'file')} {_UNKNOWN}")
    return found


def _files(folder: Path) -> list[str]:
    """Names below a C project, parted by `/`; none of its build outputs, nor behind a link."""
    names = []
    for root, folders, files in () if folder.is_symlink() else os.walk(folder):
        if Path(root) == folder:
            folders[:] = [name for name in folders if name != BUILD]
        seen = (file for file in files if not file.startswith("."))  # a desktop's own
        names += [(Path(root) / file).relative_to(folder).as_posix() for file in seen]
    return names


def mend(run: RunDir, manifest: Manifest, problems: Sequence[str]) -> str:
    """The commands for a folder with these `problems`, by the part of it that each is in."""
    at = shlex.quote(str(run.path))
    steps = []
    rest = [problem for problem in problems if not problem.startswith(_given(run, manifest))]
    if len(rest) < len(problems):
        steps.append("put back the files that no later stage makes (git checkout), or train again")
    of_c = tuple(name for name, row in manifest.files.items() if row.stage == "verify")
    verify = [problem for problem in rest if problem.startswith(("verify", *of_c))]
    codegen = [problem for problem in rest if problem.startswith((f"{CODEGEN}/", f"{CODEGEN}:"))]
    export = [problem for problem in rest if problem not in (*verify, *codegen)]
    if export:
        unseen = any(p.endswith(_UNSEEN) or p.startswith(CANNOT_RUN) for p in export)
        steps.append(f"ndtool export {at} --int8{' --force' if unseen else ''}")
    steps += _codegen_steps(run, codegen)
    if verify:
        steps.append(f"ndtool verify {at}")
    return ", then ".join(steps)


def _given(run: RunDir, manifest: Manifest) -> tuple[str, ...]:
    """How the problems start of what neither export nor codegen makes."""
    given = ("train", CONTRACT, LABELS)
    if "import" in manifest.stages:
        return (*given, "import", ONNX)
    return given if run.has(BEST) else (*given, STUDENT, STUDENT_SPEC)


def _codegen_steps(run: RunDir, problems: Sequence[str]) -> list[str]:
    """A project with files of nobody is made from nothing: codegen itself lets them be."""
    at, steps = shlex.quote(str(run.path)), []
    folders = sorted(path.name for path in run.path.glob(f"{CODEGEN}/*"))
    for name in dict.fromkeys((*folders, *TEMPLATES)):
        starts = (f"{CODEGEN}/{name}/", f"{CODEGEN}/{name}:", f"{CODEGEN}:{name} ")
        own = [problem for problem in problems if problem.startswith(starts)]
        unseen = any(problem.endswith(_UNSEEN) for problem in own)
        if unseen:
            steps.append(f"delete {shlex.quote(str(run / f'{CODEGEN}/{name}'))}")
        if own and name in TEMPLATES:
            template = "" if name == DEFAULTS.template else f" --template {name}"
            steps.append(f"ndtool codegen {at}{template}{' --force' if unseen else ''}")
    return steps
