"""Arena planner: no forbidden overlap, as small as an exhaustive search finds, in bounded time."""

import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.export.codegen import plan as planner
from ndtool.export.codegen.plan import ALIGN, ArenaPlan, Block, Overlap, check_plan, plan_arena

Problem = tuple[list[Block], list[Overlap]]
SMALL_CASES = 400  # compared with the optimum


def block(name: str, size: int, first: int, last: int) -> Block:
    return Block(name=name, size=size, first=first, last=last)


def overlap(before: str, after: str, low: int | None, high: int | None) -> Overlap:
    return Overlap(before=before, after=after, low=low, high=high)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Random lifetimes and sizes; a rule for some of the pairs that may have one."""
    spans = st.tuples(st.integers(0, 8), st.integers(0, 4))
    rows = draw(st.lists(st.tuples(st.integers(1, 300), spans), max_size=12))
    blocks = [
        block(f"t{i}", size, first, first + length)
        for i, (size, (first, length)) in enumerate(rows)
    ]
    bounds = st.none() | st.integers(-320, 320)
    overlaps = [
        overlap(before.name, after.name, *draw(st.tuples(bounds, bounds)))
        for before, after in may_meet(blocks)
        if draw(st.booleans())
    ]
    return blocks, overlaps


def may_meet(blocks: Sequence[Block]) -> list[tuple[Block, Block]]:
    """Pairs that may have a rule, each in one direction."""
    pairs: dict[frozenset[str], tuple[Block, Block]] = {}
    for before, after in itertools.permutations(blocks, 2):
        if before.last == after.first:
            pairs.setdefault(frozenset((before.name, after.name)), (before, after))
    return list(pairs.values())


def small_problem(rng: random.Random, *, is_chain: bool) -> Problem:
    """3 to 7 blocks of up to 6 units, with the rules that kernels have: in place, up, down."""
    blocks = []
    for i in range(rng.randrange(3, 8)):
        first = i if is_chain else rng.randrange(4)
        length = rng.choice((1, 1, 1, 2, 3)) if is_chain else rng.randrange(4)
        blocks.append(block(f"t{i}", rng.randrange(1, 96), first, first + length))
    overlaps = []
    for before, after in may_meet(blocks):
        step = 16 * rng.randrange(-3, 4)
        bounds = rng.choice(
            ((0, 0), (None, step), (step, None), (step, step + 40), (None, -rng.randrange(60)))
        )
        if rng.random() < 0.8:
            overlaps.append(overlap(before.name, after.name, *bounds))
    return blocks, overlaps


def optimum(blocks: Sequence[Block], overlaps: Sequence[Overlap]) -> int:
    """Least height in units of ALIGN: every position of every block is tried."""
    order = sorted(blocks, key=lambda b: (-b.size, b.name))
    units = [-(-b.size // ALIGN) for b in order]
    rules = {(rule.before, rule.after): rule for rule in overlaps}

    def apart(i: int, at: int, j: int, other: int) -> bool:
        a, b = order[i], order[j]
        if a.last < b.first or b.last < a.first or at + units[i] <= other or other + units[j] <= at:
            return True
        for rule, distance in (
            (rules.get((a.name, b.name)), other - at),
            (rules.get((b.name, a.name)), at - other),
        ):
            if rule is not None:
                low = -(10**9) if rule.low is None else rule.low
                return low <= distance * ALIGN <= (10**9 if rule.high is None else rule.high)
        return False

    def fits(placed: list[int], height: int) -> bool:
        i = len(placed)
        return i == len(order) or any(
            all(apart(i, at, j, other) for j, other in enumerate(placed))
            and fits([*placed, at], height)
            for at in range(height - units[i] + 1)
        )

    return next(height for height in itertools.count(1) if fits([], height))


def check_everything(problem: Problem, rng: random.Random) -> None:
    blocks, overlaps = problem
    plan = plan_arena(blocks, overlaps)
    check_plan(blocks, overlaps, plan)
    check_call_by_call(blocks, overlaps, plan)
    assert plan.total == max((plan.offsets[b.name] + b.size for b in blocks), default=0)
    assert plan.total <= sum(-(-b.size // ALIGN) * ALIGN for b in blocks)
    assert all(offset % ALIGN == 0 for offset in plan.offsets.values())
    rng.shuffle(blocks)
    rng.shuffle(overlaps)
    assert plan_arena(iter(blocks), iter(overlaps)) == plan


def check_call_by_call(
    blocks: Sequence[Block], overlaps: Sequence[Overlap], plan: ArenaPlan
) -> None:
    """The rules once more, said in another way than `check_plan` does."""
    for now in range(max((b.last for b in blocks), default=0) + 1):
        live = [b for b in blocks if b.first <= now <= b.last]
        for one, two in itertools.combinations(live, 2):
            at, other = plan.offsets[one.name], plan.offsets[two.name]
            if range(max(at, other), min(at + one.size, other + two.size)):
                (rule,) = (r for r in overlaps if {r.before, r.after} == {one.name, two.name})
                distance = plan.offsets[rule.after] - plan.offsets[rule.before]
                assert {rule.before} <= {b.name for b in (one, two) if b.last == now}
                assert {rule.after} <= {b.name for b in (one, two) if b.first == now}
                assert rule.low is None or rule.low <= distance
                assert rule.high is None or distance <= rule.high


@settings(derandomize=True, deadline=None, max_examples=50)
@given(problems(), st.randoms(use_true_random=False))
def test_plans_are_right(problem: Problem, rng: random.Random) -> None:
    check_everything(problem, rng)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(problems(), st.randoms(use_true_random=False))
def test_plans_in_order_of_time_are_right(problem: Problem, rng: random.Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "MAX_PAIRS", -1)  # what is done with thousands of blocks
        check_everything(problem, rng)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=3000)
@given(problems(), st.randoms(use_true_random=False))
def test_thousands_of_plans_are_right(problem: Problem, rng: random.Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "STEPS", 20)  # a short search, many problems
        check_everything(problem, rng)


@pytest.mark.slow
def test_small_problems_are_solved_almost_always() -> None:
    rng = random.Random(5)
    ratios = []
    for case in range(SMALL_CASES):
        blocks, overlaps = small_problem(rng, is_chain=case % 2 == 0)
        best = optimum(blocks, overlaps)
        ratios.append(-(-plan_arena(blocks, overlaps).total // ALIGN) / best)
        assert bound_of(blocks, overlaps) <= best, f"case {case}"
    assert min(ratios) == 1
    # Measured: 399 equal and one 9 units for 8; of 1,500 others all equal.
    assert ratios.count(1) >= SMALL_CASES - 2, sorted(ratios)[-5:]
    assert max(ratios) <= 1.2


def bound_of(blocks: Sequence[Block], overlaps: Sequence[Overlap]) -> int:
    """The bound at which the planner's search ends."""
    found = []
    bound = planner._bound

    def spy(problem: planner._Problem) -> int:
        found.append(bound(problem))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "_bound", spy)
        plan_arena(blocks, overlaps)
    return found[0]


@pytest.mark.parametrize(
    ("low", "high", "total", "distance"),
    [
        pytest.param(None, None, 8000, None, id="anywhere"),
        pytest.param(0, 0, 8000, 0, id="in place"),
        pytest.param(None, -640, 8640, -640, id="output below"),
        pytest.param(640, None, 8640, 640, id="output above"),
        pytest.param(630, 650, 8640, 640, id="between, on a multiple of 16"),
        pytest.param(None, -650, 8656, -656, id="rounded away from the input"),
        pytest.param(641, 655, 16000, None, id="no multiple of 16 between"),
        pytest.param(9000, None, 16000, None, id="beyond the input"),
    ],
)
def test_two_blocks(low: int | None, high: int | None, total: int, distance: int | None) -> None:
    plan = plan_arena(
        [block("x", 8000, 0, 1), block("y", 8000, 1, 2)], [overlap("x", "y", low, high)]
    )
    assert plan.total == total
    if distance is not None:
        assert plan.offsets["y"] - plan.offsets["x"] == distance


@pytest.mark.parametrize("step", [-320, 320])
def test_a_chain_drifts_in_one_direction(step: int) -> None:
    blocks = [block(f"t{i}", 8000, i, i + 1) for i in range(9)]
    bounds = (step, None) if step > 0 else (None, step)
    rules = [overlap(f"t{i}", f"t{i + 1}", *bounds) for i in range(8)]
    assert plan_arena(blocks, rules).total == 8000 + 8 * 320  # less than 16000, side by side
    there_and_back = [
        overlap(f"t{i}", f"t{i + 1}", *((320, None) if i % 2 else (None, -320))) for i in range(8)
    ]
    assert plan_arena(blocks, there_and_back).total == 8320


def test_a_growing_output_ends_where_its_input_ends() -> None:
    # mcu.md 2: 1x1 with c_out > c_in, upwards, input at the high end of the buffer
    blocks = [block("x", 18432, 0, 1), block("y", 36864, 1, 2)]
    plan = plan_arena(blocks, [overlap("x", "y", None, 18432 - 36864)])
    assert plan.total == 36864
    assert plan.offsets == {"x": 18432, "y": 0}


def test_the_search_beats_every_greedy_order() -> None:
    rows = [(3, 0, 2), (5, 3, 5), (5, 1, 1), (4, 2, 3), (2, 1, 2), (4, 2, 2)]
    blocks = [block(f"t{i}", 16 * size, a, b) for i, (size, a, b) in enumerate(rows)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "STEPS", 0)
        assert plan_arena(blocks).total == 16 * 14
    assert plan_arena(blocks).total == 16 * 13 == 16 * optimum(blocks, ())


def test_total_is_exact_and_nothing_needs_nothing() -> None:
    assert plan_arena([]) == ArenaPlan(offsets={}, total=0)
    check_plan([], [], ArenaPlan(offsets={}, total=0))
    assert plan_arena([block("t", 5, 0, 0)]).total == 5
    assert plan_arena([block("t", 5, 0, 0), block("u", 3, 0, 0)]).total == 16 + 3


@pytest.mark.parametrize(
    ("blocks", "overlaps", "words"),
    [
        ([("a", 1, 0, 0), ("a", 1, 1, 1)], [], "one name"),
        ([("a", 0, 0, 0)], [], "no bytes"),
        ([("a", 1, 1, 0)], [], "no lifetime"),
        ([("a", 1, 0, 1)], [("a", "b", 0, 0)], "not both here"),
        ([("a", 1, 0, 1), ("b", 1, 2, 2)], [("a", "b", 0, 0)], "does not end where b begins"),
        ([("a", 1, 0, 2), ("b", 1, 1, 2)], [("a", "b", 0, 0)], "does not end where b begins"),
        ([("a", 1, 0, 1), ("b", 1, 1, 2)], 2 * [("a", "b", 0, 0)], "two rules"),
        ([("a", 1, 0, 0), ("b", 1, 0, 0)], [("a", "b", 0, 0), ("b", "a", 0, 0)], "two rules"),
        ([("a", 1, 0, 0)], [("a", "a", 0, 0)], "with itself"),
    ],
)
def test_no_problem_at_all(
    blocks: list[tuple[str, int, int, int]],
    overlaps: list[tuple[str, str, int, int]],
    words: str,
) -> None:
    with pytest.raises(AssertionError, match=words):
        plan_arena([block(*b) for b in blocks], [overlap(*rule) for rule in overlaps])


# ---- the checker finds what it is there for ----

BLOCKS = [block("a", 40, 0, 1), block("b", 40, 1, 2), block("c", 16, 1, 1)]
RULES = [overlap("a", "b", -16, 0)]


@pytest.mark.parametrize(
    ("offsets", "total"),
    [
        pytest.param({"a": 16, "b": 0, "c": 64}, 80, id="within the rule"),
        pytest.param({"a": 0, "b": 0, "c": 48}, 64, id="in place"),
        pytest.param({"a": 0, "b": 64, "c": 48}, 104, id="apart, beyond the rule"),
    ],
)
def test_checker_accepts(offsets: dict[str, int], total: int) -> None:
    check_plan(BLOCKS, RULES, ArenaPlan(offsets=offsets, total=total))


@pytest.mark.parametrize(
    ("offsets", "total", "words"),
    [
        pytest.param({"a": 0, "b": 16, "c": 64}, 80, "a and b overlap", id="above the rule"),
        pytest.param({"a": 32, "b": 0, "c": 80}, 96, "a and b overlap", id="below the rule"),
        pytest.param({"a": 0, "b": 0, "c": 32}, 48, "c overlap", id="no rule"),
        pytest.param({"a": 0, "b": 0, "c": 40}, 56, "multiple", id="not aligned"),
        pytest.param({"a": 0, "b": 0, "c": -16}, 40, "negative", id="before the arena"),
        pytest.param({"a": 0, "b": 0, "c": 48}, 63, "63 bytes stated", id="total too small"),
        pytest.param({"a": 0, "b": 0, "c": 48}, 80, "80 bytes stated", id="total too large"),
        pytest.param({"a": 0, "b": 0}, 40, "other blocks", id="one is missing"),
        pytest.param({"a": 0, "b": 0, "c": 48, "d": 0}, 64, "other blocks", id="one too many"),
    ],
)
def test_checker_refuses(offsets: dict[str, int], total: int, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_plan(BLOCKS, RULES, ArenaPlan(offsets=offsets, total=total))


def test_checker_refuses_a_rule_where_the_blocks_meet_twice() -> None:
    blocks = [block("a", 40, 0, 2), block("b", 40, 1, 2)]
    with pytest.raises(AssertionError, match="a and b overlap"):
        check_plan(blocks, RULES, ArenaPlan(offsets={"a": 0, "b": 0}, total=40))


FAULTS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "a neighbour forgotten": ("near", lambda near: [js[:-1] for js in near]),
    "sizes rounded down": ("sizes", lambda sizes: [max(1, size - 1) for size in sizes]),
    "windows wider": (
        "windows",
        lambda windows: {key: (low - 1, high + 1) for key, (low, high) in windows.items()},
    ),
    "windows the other way": (
        "windows",
        lambda windows: {key: (-high, -low) for key, (low, high) in windows.items()},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_planner_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    field, spoil = FAULTS[fault]
    right = planner._Problem

    def wrong(**fields: object) -> planner._Problem:
        return right(**{**fields, field: spoil(fields[field])})  # type: ignore[arg-type]

    rng = random.Random(1)
    monkeypatch.setattr(planner, "_Problem", wrong)
    caught = 0
    for _ in range(60):
        blocks, overlaps = small_problem(rng, is_chain=True)
        try:
            check_plan(blocks, overlaps, plan_arena(blocks, overlaps))
        except AssertionError:
            caught += 1
    assert caught >= 10


# ---- size ----


def net_like(calls: int) -> Problem:
    """Feature maps in a chain with skips and scratch, and the rules of kernels."""
    rng = random.Random(calls)
    sizes = [
        rng.choice((8, 16, 24, 48, 96)) * rng.choice((1, 9, 36, 144, 576)) for _ in range(calls)
    ]
    blocks = [
        block(f"t{i}", size, i, i + rng.choice((1, 1, 1, 1, 4))) for i, size in enumerate(sizes)
    ]
    blocks += [block(f"s{i}", rng.randrange(16, 2000), i, i) for i in range(0, calls, 3)]
    overlaps = [
        overlap(f"t{i}", f"t{i + 1}", *rng.choice(((0, 0), (None, -192), (192, None))))
        for i in range(calls - 1)
        if blocks[i].last == i + 1
    ]
    return blocks, overlaps


def test_hundred_blocks_take_a_moment() -> None:
    blocks, overlaps = net_like(80)
    started = time.process_time()
    check_plan(blocks, overlaps, plan_arena(blocks, overlaps))
    assert time.process_time() - started < 1.5  # 0.2 measured on an idle core


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["chain", "all at once", "random", "net"])
def test_thousands_of_blocks_take_seconds(shape: str) -> None:
    rng = random.Random(3)
    count = 16_000  # a file has at most 16,384 tensors
    overlaps: list[Overlap] = []
    if shape == "net":
        blocks, overlaps = net_like(count)
    else:
        blocks = []
        for i in range(count):
            first, last = {
                "chain": (i, i + 1),
                "all at once": (0, count),
                "random": tuple(sorted((rng.randrange(count), rng.randrange(count)))),
            }[shape]
            blocks.append(block(f"t{i}", rng.randrange(1, 9000), first, last))
    started = time.process_time()
    plan = plan_arena(blocks, overlaps)
    check_plan(blocks, overlaps, plan)
    assert time.process_time() - started < 20  # 1 to 4 measured
    assert plan.total <= sum(-(-b.size // ALIGN) * ALIGN for b in blocks)


def test_same_plan_in_another_process() -> None:
    blocks, overlaps = net_like(12)
    program = (
        "from ndtool.export.codegen.plan import *\n"
        f"print(sorted(plan_arena({blocks!r}, {overlaps!r}).offsets.items()))"
    )
    here = f"{sorted(plan_arena(blocks, overlaps).offsets.items())}\n"
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=env
    )
    assert there.stdout == here
