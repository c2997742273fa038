"""What --teacher names: an external teacher's file, by its kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ndtool.console import visible
from ndtool.errors import ConfigError
from ndtool.options import TrainOptions, is_read
from ndtool.rundir import checkpoint_file
from ndtool.types import Recipe, TeacherKind

_TEACHERS: Final = "checkpoint:FILE, onnx:FILE or torchvision:NAME:FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFile:
    """What --teacher names."""

    kind: TeacherKind
    network: str  # torchvision's name of it; "" of other kinds
    path: Path


def check_teacher(options: TrainOptions) -> None:
    """A recipe that learns from an external teacher has one, and no other is given one.

    Raises:
        ConfigError: the two do not go together, or --teacher names nothing of its kinds.
    """
    recipe = options.recipe
    if options.teacher and not is_read("teacher", options):
        raise ConfigError(
            f"--recipe {recipe.value} learns from no external teacher",
            where="--teacher",
            remedy="use --recipe kd or netdistiller, or leave --teacher out",
            code="option.teacher",
        )
    if options.teacher:
        read_teacher(options.teacher)
    elif recipe is Recipe.KD:
        raise ConfigError(
            "--recipe kd needs a teacher",
            where="--recipe",
            remedy=f"name one with --teacher: {_TEACHERS}",
            code="option.teacher",
        )


def read_teacher(text: str) -> TeacherFile:
    """The parts of --teacher; of a run folder, the file is its best checkpoint.

    Raises:
        ConfigError: no such kind, or a part is missing.
    """
    word, _, rest = text.partition(":")
    kind = next((kind for kind in TeacherKind if kind.value == word), None)
    network, file = "", rest
    if kind is TeacherKind.TORCHVISION:
        network, _, file = rest.partition(":")
    whole = bool(file) and bool(network) == (kind is TeacherKind.TORCHVISION)
    if kind is None or not whole or not text.isprintable():
        raise ConfigError(
            f"'{visible(text)}' names no teacher",
            where="--teacher",
            remedy=f"use {_TEACHERS}",
            code="option.teacher",
        )
    path = checkpoint_file(file) if kind is TeacherKind.CHECKPOINT else Path(file)
    return TeacherFile(kind=kind, network=network, path=path)
