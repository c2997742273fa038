"""Arena planner: sizes, lifetimes and allowed overlaps in, byte offsets out.

Pure: no files, no clock, no knowledge of operations or models. Sizes and offsets are bytes; times
are call indices, inclusive at both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ALIGN: Final = 16  # one MVE vector, and TFLM's own alignment


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Bytes needed while calls `first..last` run."""

    name: str
    size: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """`after` may share bytes with `before` when `low <= offset(after) - offset(before) <= high`.

    None is no bound on that side. Only for a `before` that ends at the call where `after` begins.
    """

    before: str
    after: str
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaPlan:
    """Offset of each block by name, each a multiple of ALIGN; `total` is the exact arena."""

    offsets: Mapping[str, int]
    total: int
