"""The user's own network, `--model MODULE:FUNCTION`.

    # my_nets.py
    def small(*, width: float, size_px: int, in_channels: int, classes: int) -> ArchSpec:
        ...

    ndtool train --model my_nets:small --data folder:photos

The module is looked for in the working directory first, then on Python's path. The function gives
an `ndtool.arch.ArchSpec` of exactly the asked size, channels and classes; what `width` means is its
own matter. Only training and a question about the name itself import it: a run keeps the spec, in
train/spec.json and export/student.json, and every later stage reads it there.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ndtool.arch import ArchSpec, parse_spec
from ndtool.console import visible
from ndtool.errors import ConfigError, NdError

_NAME: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_MAX_CHARS: Final = 200  # of a name, and of a foreign message


def is_own_model(name: str) -> bool:
    """Whether `name` has the form MODULE:FUNCTION; it need not exist."""
    return len(name) <= _MAX_CHARS and _NAME.fullmatch(name) is not None


def load_own_spec(
    name: str, *, width: float, size_px: int, in_channels: int, classes: int
) -> ArchSpec:
    """What the function `name` gives, with `name` and `width` as its model and width.

    Runs the user's code: `name` must be of the user's command or its configuration file (-c,
    ndtool.toml), never of a folder that was only named to be looked at.

    Raises:
        ConfigError: no such module or function; it fails, or gives something else than a spec of
            the asked size.
        InputError: the spec cannot be built; names the field.
    """
    where = f"--model {name}"
    module, _, function = name.partition(":")
    try:
        # What it prints must not get into the one JSON document on stdout.
        with contextlib.redirect_stdout(sys.stderr), _working_directory_first():
            build = getattr(importlib.import_module(module), function, None)
            if not callable(build):
                raise _missing(f"module {module} has no function {function}", where)
            spec = build(width=width, size_px=size_px, in_channels=in_channels, classes=classes)
            if not isinstance(spec, ArchSpec):
                raise _wrong(f"it gives a {type(spec).__name__}, not an ArchSpec", where)
            # Through JSON: so no field has another type than in a run that is read back.
            text = replace(spec, model=name, width=width).to_json()
    except NdError:
        raise
    except (Exception, SystemExit) as error:  # another's code may raise anything
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, module):
            raise _missing(f"no module named {error.name}", where) from error
        said = visible(" ".join(str(error).split()))[:_MAX_CHARS]
        text = f"{type(error).__name__}: {said}" if said else type(error).__name__
        raise _wrong(f"it fails with {text}, in {visible(_place(error))}", where) from error
    made = parse_spec(text, where=where, remedy="mend that field of the ArchSpec")
    _require_size(made, (size_px, size_px, in_channels, classes), where)
    return made


def _is_part(missing: str | None, module: str) -> bool:
    """Whether it is the module itself, or a package around it, that was not found."""
    return missing is not None and f"{module}.".startswith(f"{missing}.")


def _require_size(spec: ArchSpec, asked: tuple[int, int, int, int], where: str) -> None:
    given = (spec.height_px, spec.width_px, spec.in_channels, spec.classes)
    names = ("height_px", "width_px", "in_channels", "classes")
    for field, mine, want in zip(names, given, asked, strict=True):
        if mine != want:
            raise _wrong(f"it gives {field} {mine} where {want} was asked", where)


def _missing(what: str, where: str) -> ConfigError:
    return ConfigError(
        what,
        where=where,
        remedy="run it in the folder of the module, or put that folder into PYTHONPATH",
        code="model.import",
    )


def _wrong(what: str, where: str) -> ConfigError:
    return ConfigError(
        f"the model cannot be made: {what}",
        where=where,
        remedy="mend the function; --traceback shows where",
        code="model.own",
    )


def _place(error: BaseException) -> str:
    """File and line where `error` came up."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"


@contextlib.contextmanager
def _working_directory_first() -> Iterator[None]:
    """Look for modules in the working directory, as `python -m` does."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
