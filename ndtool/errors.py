"""Every error a user can meet, its exit code, and the one line it becomes.

    NdError                     a fact about the user's input or machine, told in one line
    |-- InputError         2    files, options, configuration
    |   |-- ConfigError
    |   |-- ContractError
    |   `-- DataError
    |-- GateError          3    a bound of `check` is broken
    |-- FitError           4    does not fit the target
    |-- UnsupportedError   5    op, dtype, layout, attribute: all offenders at once
    |-- MismatchError      6    C output differs from the reference
    `-- ToolMissingError   7    compiler, emulator, an extra

Any other exception is a bug and exits 1. Only `ndtool.cli.exits` turns an error into text.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Final

MAX_LISTED: Final = 20  # independent problems of one kind shown in one run

# extra of pyproject.toml that brings each optional package
EXTRA_OF: Final = {
    "torch": "train",
    "torchvision": "train",
    "sklearn": "train",
    "PIL": "train",
    "onnx": "export",
    "onnxruntime": "export",
    "ai_edge_litert": "export",
    "flatbuffers": "export",
    "safetensors": "export",
    "jinja2": "export",
    "tflite_micro": "verify",
    "elftools": "verify",
    "tensorflow": "tensorflow",
    "matplotlib": "train",
    "tensorboard": "train",
    "tflite_runtime": "tflite-runtime",
}


class NdError(Exception):
    """A problem with its place, its remedy and a stable slug.

    Args:
        what: the fact, without full stop.
        where: file, key, option or tensor as the user wrote it.
        remedy: a command or an edit that helps.
        code: stable slug, `area.problem`; listed in docs/errors.md.
        more: further problems of the same kind, shown on lines of their own.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, where: str, remedy: str, code: str, more: Sequence[NdError] = ()
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy
        self.code = code
        self.more = tuple(more)

    def __str__(self) -> str:
        return f"{self.what} ({self.where}); {self.remedy} [{self.code}]"

    def __reduce__(self) -> tuple[object, ...]:
        # An exception's own way calls the class with `args`, which keyword arguments are not in.
        return _remade, (type(self), self.args, self.__dict__)


def _remade(kind: type[NdError], args: tuple[object, ...], state: dict[str, object]) -> NdError:
    """An error that came from another process."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InputError(NdError):
    """The user's files or options are wrong."""

    exit_code = 2


class ConfigError(InputError):
    """An option or a configuration file is wrong."""


class ContractError(InputError):
    """The input contract is broken or contradicted."""


class DataError(InputError):
    """Images or labels cannot be used."""


class GateError(NdError):
    """A bound of `check` is broken or a hash differs."""

    exit_code = 3


class FitError(NdError):
    """The model does not fit the target."""

    exit_code = 4


class UnsupportedError(NdError):
    """The model holds something that cannot be converted; `more` names every further offender."""

    exit_code = 5


class MismatchError(NdError):
    """C output differs from the reference."""

    exit_code = 6


class ToolMissingError(NdError):
    """A tool or an optional package is missing."""

    exit_code = 7

    def __init__(self, tool: str, *, install: str, code: str = "tool.missing") -> None:
        super().__init__(f"{tool} not found", where="environment", remedy=install, code=code)
        self.tool = tool
        self.install = install

    def __str__(self) -> str:
        return f"{self.what}; install: {self.install} [{self.code}]"


def raise_all(problems: Sequence[NdError]) -> None:
    """Raise the first of `problems` with the others attached; nothing when there is none."""
    if problems:
        first = problems[0]
        first.more = tuple(problems[1:])
        raise first


def listed(problem: NdError) -> tuple[NdError, ...]:
    """A problem and the further ones of its kind, MAX_LISTED at most."""
    return (problem, *problem.more[: MAX_LISTED - 1])


def require(module: str) -> ModuleType:
    """The optional package `module`; the one place where an ImportError becomes exit 7.

    Raises:
        ToolMissingError: the package is not installed; names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        root = module.split(".")[0]
        if error.name is None or error.name.split(".")[0] != root:
            raise  # a broken dependency of the package: a bug to see, not a missing extra
        raise ToolMissingError(
            f"Python package {root}",
            install=install_line(EXTRA_OF[root]),
            code="tool.extra-missing",
        ) from error


def install_line(extra: str) -> str:
    """The command that brings an extra: in a clone with its pins, else from the index."""
    if (Path(__file__).resolve().parents[1] / "constraints.txt").is_file():
        return f"pip install -c constraints.txt -e '.[{extra}]' (in the clone's folder)"
    return f"pip install 'ndtool[{extra}]'"
