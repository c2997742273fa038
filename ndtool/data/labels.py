"""Class names: order, what is refused, the labels file, and labels against a contract.

Labels keep the user's text. Their order is that of the code points of their NFC form, so that it
is the same on every machine, in every locale and on file systems that store NFD (users.md, 3).
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from ndtool.console import visible
from ndtool.data.files import read_regular
from ndtool.data.problems import data_error
from ndtool.data.types import I64
from ndtool.errors import DataError, raise_all

MAX_CLASSES: Final = 10_000
MAX_LABEL_CHARS: Final = 1_000
_MAX_LABELS_FILE_BYTES: Final = 4 * 1024 * 1024
_SHOWN: Final = 12  # labels in a sentence


def nfc(label: str) -> str:
    """The composed form, by which labels are ordered and compared."""
    return unicodedata.normalize("NFC", label)


def _folded(label: str) -> str:
    return nfc(nfc(label).casefold())


def _is_blank(label: str) -> bool:
    """Only white space, controls and invisible format characters."""
    return all(unicodedata.category(c) in ("Zs", "Zl", "Zp", "Cc", "Cf") for c in label)


def _is_text(label: str) -> bool:
    try:
        label.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates: bytes that were no UTF-8
        return False
    return "\x00" not in label


def check_labels(labels: Sequence[str], *, where: str) -> None:
    """Refuse class names that could not be told apart or written down.

    Raises:
        DataError: fewer than 2 or too many classes; a name that is blank, no UTF-8, too long, or
            equal to another one after NFC and case folding. All offenders at once.
    """
    if len(labels) > MAX_CLASSES:
        raise data_error(
            f"{len(labels):,} classes, at most {MAX_CLASSES:,} are possible",
            where=where,
            remedy="is it the right folder?",
            code="data.too-many-classes",
        )
    problems: list[DataError] = []
    seen: dict[str, str] = {}
    for label in labels:
        shown = visible(label)
        first = seen.get(_folded(label))
        seen.setdefault(_folded(label), label)
        if _is_blank(label):
            what, code = f"class name '{shown}' is blank", "data.blank-label"
        elif not _is_text(label):
            what, code = f"class name '{shown}' is not valid UTF-8 text", "data.label-encoding"
        elif len(label) > MAX_LABEL_CHARS:
            what = f"class name '{shown}' is longer than {MAX_LABEL_CHARS:,} characters"
            code = "data.label-length"
        elif first == label:
            what, code = f"class name '{shown}' is there twice", "data.label-twice"
        elif first is not None:
            what = f"class names '{visible(first)}' and '{shown}' differ only in case or encoding"
            code = "data.label-twice"
        else:
            continue
        problems.append(data_error(what, where=where, remedy="rename the class", code=code))
    raise_all(problems)
    if len(labels) < 2:
        raise data_error(
            f"{len(labels)} class found, at least 2 are needed",
            where=where,
            remedy="give each class its own folder or number",
            code="data.too-few-classes",
        )


def reordered(labels: Sequence[str], labels_file: str, *, where: str) -> tuple[str, ...]:
    """`labels` in the order of the lines of `labels_file` (UTF-8, one name a line).

    Raises:
        DataError: the file does not name exactly these labels, once each.
    """
    remedy = "write each class name once, one a line"
    try:
        content = read_regular(labels_file, where=labels_file, limit=_MAX_LABELS_FILE_BYTES)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise data_error(
            "the labels file is not UTF-8",
            where=labels_file,
            remedy=remedy,
            code="data.labels-file",
        ) from error
    # Not splitlines(): U+2028 and its like may be part of a name.
    wanted = [nfc(line.removesuffix("\r")) for line in text.removesuffix("\n").split("\n")]
    known = {nfc(label): label for label in labels}
    times = Counter(wanted)
    missing = [label for name, label in known.items() if name not in times]
    unknown = [name for name in times if name not in known]
    repeated = [name for name, count in times.items() if count > 1]
    for names, what in (
        (unknown, f"has names that are no class of {visible(where)}"),
        (missing, "lacks classes"),
        (repeated, "has names twice"),
    ):
        if names:
            raise data_error(
                f"the labels file {what}: {listing(names)}",
                where=labels_file,
                remedy=remedy,
                code="data.labels-file",
            )
    return tuple(known[name] for name in wanted)


def label_numbers(source: Sequence[str], contract: Sequence[str], *, where: str) -> I64:
    """For each label of the source its index in the contract, (K,) int64.

    Raises:
        DataError: the source's classes are not the contract's.
    """
    index = {nfc(label): k for k, label in enumerate(contract)}
    missing = [label for label in source if nfc(label) not in index]
    if missing or len(source) != len(contract):
        names = {nfc(label) for label in source}
        shown = missing or [label for label in contract if nfc(label) not in names]
        raise data_error(
            f"the classes are not those of the contract: {listing(shown)}",
            where=where,
            remedy="use the data that the run was trained on",
            code="data.labels-differ",
        )
    return np.array([index[nfc(label)] for label in source], dtype=np.int64)


def number_order_note(labels: Sequence[str]) -> str | None:
    """A warning when the names are whole numbers whose order is not the numeric one."""
    if not all(label.isascii() and label.isdigit() and len(label) < 10 for label in labels):
        return None
    if sorted(labels, key=int) == list(labels):
        return None
    return (
        f"class names are numbers, ordered as text: {listing(labels)} "
        "(--labels FILE gives another order)"
    )


def listing(names: Sequence[str]) -> str:
    """The first names of a list, made visible, and how many more there are."""
    shown = ", ".join(visible(name) for name in names[:_SHOWN])
    rest = len(names) - _SHOWN
    return f"{shown} and {rest:,} more" if rest > 0 else shown
