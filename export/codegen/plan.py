"""Arena planner: sizes, lifetimes and allowed overlaps in, byte offsets out.

Pure: no files, no clock, no knowledge of operations or models. Sizes and offsets are bytes; times
are call indices, inclusive at both ends.

Blocks are placed one after the other, each as low as those before it allow; every good plan is
the result of some order. Several orders known to be good are tried, then changed step by step at
the blocks that hold up the highest one, until the bound of the fullest call is met or a fixed
effort is spent. Greedy by size alone, as in TFLM's greedy_memory_planner.cc, is the first order.
"""

from __future__ import annotations

import bisect
import heapq
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

ALIGN: Final = 16  # one MVE vector, and TFLM's own alignment

MAX_PAIRS: Final = 200_000  # of blocks that live together; above, one pass without overlaps
EFFORT: Final = 700_000  # neighbours looked at by the search, about 0.2 s
STEPS: Final = 400  # from each start; no random small problem had use for more


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


def plan_arena(blocks: Iterable[Block], overlaps: Iterable[Overlap] = ()) -> ArenaPlan:
    """Offsets that keep blocks that live together apart, except as `overlaps` allow.

    The result depends neither on the order of the arguments nor on the machine, and is never above
    the sum of the sizes rounded up to ALIGN.

    Raises:
        AssertionError: the blocks or overlaps are no planning problem (a bug of the caller).
    """
    rows = sorted(blocks, key=lambda block: block.name)
    rules = tuple(overlaps)
    _check_problem(rows, rules)
    places = _places(rows, rules) if rows else ()
    total = max((at * ALIGN + row.size for at, row in zip(places, rows, strict=True)), default=0)
    offsets = {row.name: at * ALIGN for at, row in zip(places, rows, strict=True)}
    return ArenaPlan(offsets=offsets, total=total)


def check_plan(blocks: Iterable[Block], overlaps: Iterable[Overlap], plan: ArenaPlan) -> None:
    """Prove a plan: every block placed, aligned and inside, none over another against the rules.

    Independent of how the plan was found; generated C is only as right as this.

    Raises:
        AssertionError: names the blocks that are wrong.
    """
    rows = sorted(blocks, key=lambda block: block.name)
    if sorted(plan.offsets) != [row.name for row in rows]:
        raise AssertionError("arena: the plan has other blocks than the program")
    allowed = {(rule.before, rule.after): rule for rule in overlaps}
    start = np.array([plan.offsets[row.name] for row in rows], np.int64)
    end = start + np.array([row.size for row in rows], np.int64)
    first = np.array([row.first for row in rows], np.int64)
    last = np.array([row.last for row in rows], np.int64)
    if np.any(start < 0) or np.any(start % ALIGN != 0):
        raise AssertionError(f"arena: an offset is negative or no multiple of {ALIGN}")
    top = max(end.tolist(), default=0)
    if plan.total != top:
        raise AssertionError(f"arena: {plan.total} bytes stated, blocks end at {top}")
    for i, row in enumerate(rows):
        clash = (first <= last[i]) & (first[i] <= last) & (start < end[i]) & (start[i] < end)
        for j in np.flatnonzero(clash[:i]).tolist():
            other = rows[j]
            if not (
                _is_allowed(row, other, allowed, plan) or _is_allowed(other, row, allowed, plan)
            ):
                raise AssertionError(f"arena: {other.name} and {row.name} overlap")


def _is_allowed(
    before: Block, after: Block, allowed: Mapping[tuple[str, str], Overlap], plan: ArenaPlan
) -> bool:
    """Is there a rule for this pair, in this direction, and does it hold?"""
    rule = allowed.get((before.name, after.name))
    if rule is None or before.last != after.first:
        return False
    delta = plan.offsets[after.name] - plan.offsets[before.name]
    return (rule.low is None or rule.low <= delta) and (rule.high is None or delta <= rule.high)


def _check_problem(rows: Sequence[Block], rules: Sequence[Overlap]) -> None:
    """What callers owe: sizes, lifetimes, unique names, one legal rule a pair."""
    named = {row.name: row for row in rows}
    if len(named) != len(rows):
        raise AssertionError("arena: two blocks of one name")
    for row in rows:
        if row.size < 1 or row.first > row.last:
            raise AssertionError(f"arena: {row.name} has no bytes or no lifetime")
    pairs = set()
    for rule in rules:
        if not {rule.before, rule.after} <= named.keys():
            raise AssertionError(f"arena: a rule for {rule.before} and {rule.after}, not both here")
        if named[rule.before].last != named[rule.after].first:
            raise AssertionError(f"arena: {rule.before} does not end where {rule.after} begins")
        pairs.add(frozenset((rule.before, rule.after)))
    if len(pairs) != len(rules) or any(len(pair) != 2 for pair in pairs):
        raise AssertionError("arena: two rules for one pair, or a block paired with itself")


# ---- the problem in units of ALIGN ----


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Blocks by number; sizes and positions in units of ALIGN bytes.

    Two blocks that lie apart with aligned starts lie apart in whole units too, so nothing is lost.
    `near[i]`: numbers of the blocks that live at some time with block i, ascending. `windows`: the
    range of `position(after) - position(before)` in which a pair may overlap, by (before, after).
    """

    rows: Sequence[Block]
    sizes: Sequence[int]
    near: Sequence[Sequence[int]]
    windows: Mapping[tuple[int, int], tuple[int, int]]

    def window(self, i: int, j: int) -> tuple[int, int] | None:
        """The range of `position(j) - position(i)` in which the two may overlap."""
        if (i, j) in self.windows:
            return self.windows[i, j]
        if (j, i) in self.windows:
            low, high = self.windows[j, i]
            return -high, -low
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """Blocks placed in an order: positions and height in units.

    `below[i]`: the block that keeps block i from lying lower, -1 for one at the bottom.
    """

    order: Sequence[int]
    places: Sequence[int]
    below: Sequence[int]
    height: int


def _places(rows: Sequence[Block], rules: Sequence[Overlap]) -> Sequence[int]:
    """Positions, in units, of blocks sorted by name."""
    first = np.array([row.first for row in rows], np.int64)
    last = np.array([row.last for row in rows], np.int64)
    begun = np.searchsorted(np.sort(first), last, side="right")
    ended = np.searchsorted(np.sort(last), first, side="left")
    sizes = [_units(row.size) for row in rows]
    if int(np.sum(begun - ended)) > 2 * MAX_PAIRS:
        return _place_in_time(rows, sizes)
    near = [
        [j for j in np.flatnonzero((first <= row.last) & (row.first <= last)).tolist() if j != i]
        for i, row in enumerate(rows)
    ]
    problem = _Problem(rows=rows, sizes=sizes, near=near, windows=_windows(rows, sizes, rules))
    bound = _bound(problem)
    starts = [_first_fit(problem, order) for order in _orders(problem)]
    best = min(starts, key=lambda placed: placed.height)
    effort = len(rows) + sum(map(len, near))  # of one step
    steps = min(STEPS, EFFORT // (len(starts) * effort))
    for start in starts:
        if best.height > bound:
            found = _improve(problem, start, bound, steps)
            best = min(best, found, key=lambda placed: placed.height)
    return best.places


def _units(size: int) -> int:
    """Bytes rounded up to units."""
    return -(-size // ALIGN)


def _windows(
    rows: Sequence[Block], sizes: Sequence[int], rules: Sequence[Overlap]
) -> Mapping[tuple[int, int], tuple[int, int]]:
    """The rules in units, cut to the distances at which the two blocks do overlap."""
    number = {row.name: i for i, row in enumerate(rows)}
    windows = {}
    for rule in rules:
        before, after = number[rule.before], number[rule.after]
        low, high = 1 - sizes[after], sizes[before] - 1
        if rule.low is not None:
            low = max(low, _units(rule.low))
        if rule.high is not None:
            high = min(high, rule.high // ALIGN)
        if low <= high:
            windows[before, after] = (low, high)
    return windows


def _place_in_time(rows: Sequence[Block], sizes: Sequence[int]) -> list[int]:
    """First fit in order of time over a list of holes, as malloc would: for thousands of blocks."""
    places = [0] * len(rows)
    holes = [(0, sum(sizes))]  # (start, end), ascending, never touching
    leaving: list[tuple[int, int]] = []  # heap of (last, block)
    for i in sorted(range(len(rows)), key=lambda i: (rows[i].first, -sizes[i], i)):
        while leaving and leaving[0][0] < rows[i].first:
            _, gone = heapq.heappop(leaving)
            _give_back(holes, places[gone], places[gone] + sizes[gone])
        k = next(k for k, (start, end) in enumerate(holes) if end - start >= sizes[i])
        start, end = holes[k]
        places[i] = start
        holes[k : k + 1] = [(start + sizes[i], end)] if start + sizes[i] < end else []
        heapq.heappush(leaving, (rows[i].last, i))
    return places


def _give_back(holes: list[tuple[int, int]], start: int, end: int) -> None:
    """Add a hole, joined with the holes that touch it."""
    k = bisect.bisect(holes, (start, end))
    if k < len(holes) and holes[k][0] == end:
        end = holes.pop(k)[1]
    if k > 0 and holes[k - 1][1] == start:
        start = holes.pop(k - 1)[0]
        k -= 1
    holes.insert(k, (start, end))


def _bound(problem: _Problem) -> int:
    """Units that no plan can be below: what lives at the fullest call, less what it may share.

    A byte that m blocks hold is hidden in a later one for all of them but one, and in an earlier
    one for all but one; so both ways of counting what is hidden hold, and the smaller one is used.
    """
    rows, sizes = problem.rows, problem.sizes
    hidden = [0] * len(rows), [0] * len(rows)  # of each block: in later ones, in earlier ones
    for (before, after), (low, high) in problem.windows.items():
        # One lies wholly in the other between these distances; the nearest one allowed is best.
        at = min(max(min(0, sizes[before] - sizes[after]), low), high)
        share = min(sizes[before], at + sizes[after]) - max(0, at)
        hidden[0][before] += share
        hidden[1][after] += share
    bound = 0
    for i, row in enumerate(rows):
        call = row.first
        live = [j for j in (i, *problem.near[i]) if rows[j].first <= call <= rows[j].last]
        ending = sum(min(sizes[j], hidden[0][j]) for j in live if rows[j].last == call)
        starting = sum(min(sizes[j], hidden[1][j]) for j in live if rows[j].first == call)
        bound = max(bound, sum(sizes[j] for j in live) - min(ending, starting))
    return bound


# ---- placement in an order, and the search for a good order ----


def _orders(problem: _Problem) -> list[list[int]]:
    """Orders worth a try; ties by name."""
    rows, sizes = problem.rows, problem.sizes
    loads = [
        size + sum(sizes[j] for j in near) for size, near in zip(sizes, problem.near, strict=True)
    ]
    keys: list[Callable[[int], tuple[int, ...]]] = [
        lambda i: (-sizes[i], rows[i].first, i),
        lambda i: (-sizes[i] * (rows[i].last - rows[i].first + 1), i),
        lambda i: (-loads[i], -sizes[i], i),
        # Chains in which each block lies above the one before it; and below it.
        lambda i: (rows[i].first, -sizes[i], i),
        lambda i: (-rows[i].last, -sizes[i], i),
    ]
    return [sorted(range(len(rows)), key=key) for key in keys]


def _first_fit(problem: _Problem, order: Sequence[int]) -> _Placed:
    """Each block in turn at the lowest position that the ones before it leave."""
    places = [-1] * len(order)
    below = [-1] * len(order)
    for i in order:
        size = problem.sizes[i]
        barred = []  # ranges of positions, both ends included, and the block that bars them
        for j in problem.near[i]:
            at = places[j]
            if at < 0:
                continue
            low, high = at + 1 - size, at + problem.sizes[j] - 1
            window = problem.window(j, i)
            if window is None:
                barred.append((low, high, j))
            else:
                barred += [(low, at + window[0] - 1, j), (at + window[1] + 1, high, j)]
        barred.sort()
        at = 0
        for low, high, j in barred:
            if low > at:
                break
            if high >= at:
                at, below[i] = high + 1, j
        places[i] = at
    height = max(at + size for at, size in zip(places, problem.sizes, strict=True))
    return _Placed(order=order, places=places, below=below, height=height)


def _chain(problem: _Problem, placed: _Placed) -> list[int]:
    """From the first block that ends at the top: what holds it up, down to the bottom."""
    tops = (at + size for at, size in zip(placed.places, problem.sizes, strict=True))
    i = next(i for i, top in enumerate(tops) if top == placed.height)
    chain = []
    while i >= 0:
        chain.append(i)
        i = placed.below[i]
    return chain


def _improve(problem: _Problem, start: _Placed, bound: int, steps: int) -> _Placed:
    """Local search: a block of the chain that sets the height is placed before a neighbour.

    What is a little higher than the best so far is accepted too (threshold accepting: Dueck and
    Scheuer, Journal of Computational Physics 90, 1990), or there would be no way out of a local
    minimum. The generator's seed is fixed, so the result is the same everywhere.
    """
    choose = random.Random(0).random  # documented to be the same in every Python
    placed = best = start
    for _ in range(steps):
        if best.height <= bound:
            break
        chain = _chain(problem, placed)
        i = chain[int(choose() * len(chain))]
        near = problem.near[i]  # never empty: a block alone would be the bound
        other = near[int(choose() * len(near))]
        order = [j for j in placed.order if j != i]
        order.insert(order.index(other), i)
        found = _first_fit(problem, order)
        if found.height <= best.height + max(1, best.height // 32):
            placed = found
        if found.height < best.height:
            best = found
    return best
