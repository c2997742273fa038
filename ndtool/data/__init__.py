"""Data sources: one file each, all giving uint8 pixels and labels through the contract."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ndtool.console import visible
from ndtool.errors import DataError

if TYPE_CHECKING:
    from ndtool.data.types import DataOptions, Source

# kind -> what follows the colon, empty for nothing
SOURCES: Final = {
    "digits": "",
    "folder": "PATH",
    "npz": "FILE",
    "fashion-mnist": "DIR",
    "cifar10": "DIR",
    "cifar100": "DIR",
}


def open_source(spec: str, options: DataOptions) -> Source:
    """The data named by `spec`: a kind of `SOURCES`, then a colon and its path if it has one.

    Raises:
        DataError: an unknown kind, a path that is missing or too much, or as the source says.
        ToolMissingError: an optional package that the source needs is not installed.
    """
    kind, colon, argument = spec.partition(":")
    if kind not in SOURCES:
        raise _unknown(spec, kind)
    if bool(SOURCES[kind]) != bool(argument) or (colon and not argument):
        form = f"{kind}:{SOURCES[kind]}" if SOURCES[kind] else kind
        what = "the data source needs a path" if SOURCES[kind] else "the data source has no path"
        raise DataError(what, where=visible(spec), remedy=f"write {form}", code="data.spec")
    # Shells do not expand a ~ after a colon.
    return _opener(kind)(os.path.expanduser(argument), options)  # noqa: PTH111  # any bytes


def _opener(kind: str) -> Callable[[str, DataOptions], Source]:
    """Only the module of this kind is loaded."""
    if kind == "folder":
        from ndtool.data.folder import open_folder

        return open_folder
    if kind == "npz":
        from ndtool.data.npz import open_npz

        return open_npz
    if kind == "fashion-mnist":
        from ndtool.data.fashion_mnist import open_fashion_mnist

        return open_fashion_mnist
    if kind == "cifar10":
        from ndtool.data.cifar import open_cifar10

        return open_cifar10
    if kind == "cifar100":
        from ndtool.data.cifar import open_cifar100

        return open_cifar100
    from ndtool.data.digits import open_digits

    return lambda _, options: open_digits(options)


def _unknown(spec: str, kind: str) -> DataError:
    forms = [f"{name}:{path}" if path else name for name, path in SOURCES.items()]
    near = difflib.get_close_matches(kind, SOURCES, n=1)
    remedy = f"use one of {', '.join(forms)}"
    if near:
        remedy = f"did you mean {forms[list(SOURCES).index(near[0])]}? {remedy}"
    elif os.path.isdir(spec):  # noqa: PTH112  # any bytes
        remedy = f"did you mean folder:{visible(spec)}? {remedy}"
    return DataError(
        "unknown data source", where=visible(spec), remedy=remedy, code="data.unknown-source"
    )
