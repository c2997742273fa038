"""Refusals of data: every path and name in them is made visible first."""

from __future__ import annotations

from ndtool.console import visible
from ndtool.errors import DataError


def data_error(what: str, *, where: str, remedy: str, code: str) -> DataError:
    """A DataError about the file, folder, array or option `where`, as the user wrote it.

    Args:
        what: our own sentence; names of others in it have gone through `visible` already.
        where: foreign text.
        code: stable slug, `data.PROBLEM`.
    """
    return DataError(what, where=visible(where), remedy=remedy, code=code)
