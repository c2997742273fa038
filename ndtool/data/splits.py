"""Which part a sample belongs to, by its content; and what every split must fulfil.

u = the first 8 bytes, big-endian, of the sample's sha256, over 2**64: a number in [0, 1) that
depends on this sample alone. A threshold on it, not a rank: adding or renaming samples never moves
an old one, and equal samples never straddle parts (users.md, 3).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ndtool.console import visible
from ndtool.data.problems import data_error
from ndtool.errors import DataError, raise_all
from ndtool.types import Part, Sha256

# With 30 images and shares of .2 a part stays empty with a chance of 2 * .8**30 = .25 %.
ENOUGH_PER_CLASS: Final = 30
_UNIT: Final = 2**64


def digest(content: bytes) -> Sha256:
    """sha256 of a sample's source bytes."""
    return Sha256(hashlib.sha256(content).hexdigest())


def _under(sha256: Sha256, fifths: int) -> bool:
    """u < fifths / 5, in integers."""
    return int(sha256[:16], 16) * 5 < fifths * _UNIT


def part_of(sha256: Sha256) -> Part:
    """Part of a sample where the user made no split: u < .2 test, u < .4 val, else train."""
    if _under(sha256, 1):
        return Part.TEST
    return Part.VAL if _under(sha256, 2) else Part.TRAIN


def training_part_of(sha256: Sha256) -> Part:
    """Part of a training sample where only the validation part is missing: u < .2 val."""
    return Part.VAL if _under(sha256, 1) else Part.TRAIN


def count_classes(
    samples: Iterable[tuple[Part, int]], classes: int
) -> Mapping[Part, tuple[int, ...]]:
    """Samples of each class by part, from (part, label) pairs."""
    counts = {part: [0] * classes for part in Part}
    for part, label in samples:
        counts[part][label] += 1
    return {part: tuple(row) for part, row in counts.items()}


def require_all_classes(
    labels: Sequence[str], counts: Mapping[Part, tuple[int, ...]], *, where: str, given: bool
) -> None:
    """Refuse classes without a sample in some part; all of them at once.

    Args:
        given: the user made the split, so that more images need not help.

    Raises:
        DataError: names the class, the empty part and how many images are needed.
    """
    problems: list[DataError] = []
    for index, label in enumerate(labels):
        empty = [part.value for part in Part if not counts[part][index]]
        if not empty:
            continue
        total = sum(counts[part][index] for part in Part)
        shown = visible(label)
        if total == 0:
            what, code = f"class '{shown}' has no images", "data.empty-class"
            remedy = "add images, remove it, or list it in .ndignore"
        else:
            what = f"class '{shown}' has {total:,} images, none of them in {' and '.join(empty)}"
            code = "data.too-few-images"
            remedy = f"add images: {ENOUGH_PER_CLASS} of a class are enough to fill every part"
        if given and total:
            remedy = f"put at least one image of it into {' and '.join(empty)}"
        problems.append(data_error(what, where=where, remedy=remedy, code=code))
    raise_all(problems)


def repeat_notes(samples: Iterable[tuple[Sha256, Part]]) -> tuple[str, ...]:
    """What to tell of exact duplicates within parts, and of leaks into the test part."""
    duplicates, leaks, tests = count_repeats(samples)
    notes = []
    if duplicates:
        notes.append(f"{duplicates:,} samples are exact duplicates of others in their part")
    if leaks:
        notes.append(
            f"leak: {leaks:,} of {tests:,} test samples ({100 * leaks / tests:.2f} %) "
            "are also in the training or validation part"
        )
    return tuple(notes)


def count_repeats(samples: Iterable[tuple[Sha256, Part]]) -> tuple[int, int, int]:
    """(samples equal to an earlier one of their part, test samples seen elsewhere, all tests)."""
    counts: dict[Part, Counter[Sha256]] = {part: Counter() for part in Part}
    for sha256, part in samples:
        counts[part][sha256] += 1
    duplicates = sum(n - 1 for counter in counts.values() for n in counter.values())
    test = counts[Part.TEST]
    elsewhere = counts[Part.TRAIN].keys() | counts[Part.VAL].keys()
    leaks = sum(n for sha256, n in test.items() if sha256 in elsewhere)
    return duplicates, leaks, test.total()
