"""The student's files: weights as safetensors, architecture as JSON. No torch."""

from __future__ import annotations

from ndtool.arch import ArchSpec, parse_spec
from ndtool.errors import InputError, require
from ndtool.export.graph.ir import F32
from ndtool.files import read_bounded
from ndtool.rundir import (
    SPEC,
    STUDENT,
    STUDENT_SPEC,
    RunDir,
)

MAX_STUDENT_BYTES = 1024 * 1024 * 1024


def load_student_spec(run: RunDir) -> ArchSpec:
    """The architecture in student.json; raises InputError naming the field."""
    return _load_spec(run, STUDENT_SPEC)


def load_train_spec(run: RunDir) -> ArchSpec:
    """The architecture in spec.json of a training; raises InputError naming the field."""
    return _load_spec(run, SPEC)


def _load_spec(run: RunDir, name: str) -> ArchSpec:
    path = run / name
    text = read_bounded(path).decode("utf-8", "replace")
    return parse_spec(text, where=str(path))


def load_student(run: RunDir) -> tuple[ArchSpec, dict[str, F32]]:
    """Architecture and named float32 tensors, shapes not yet checked against each other.

    Raises:
        InputError: a file is missing, too large or no safetensors file.
    """
    safetensors = require("safetensors")
    path = run / STUDENT
    data = read_bounded(path, MAX_STUDENT_BYTES)
    try:
        tensors = require("safetensors.numpy").load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"not a safetensors file: {type(error).__name__}",
            where=str(path),
            remedy="write it again: ndtool export RUN --force",
            code="export.student",
        ) from error
    return load_student_spec(run), tensors
