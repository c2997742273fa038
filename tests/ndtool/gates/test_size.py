"""Gates of size and speed, each at, just inside and just outside its bound."""

from dataclasses import replace
from decimal import Decimal as D
from itertools import product
from types import ModuleType
from typing import Any

from judging import TOOLS, make_evidence, make_known, only

from ndtool.gates.baseline import Bounds, Budget, Limit
from ndtool.gates.verdict import Judgement

BUDGET = Budget(value=10_000, max_increase_percent=D("1.0"))


def test_the_arena_at_its_bound_passes(rules: ModuleType) -> None:
    for arena, wanted in ((4095, True), (4096, True), (4097, False), (None, False)):
        bounds = Bounds(arena_bytes=Limit(max=4096))
        evidence = make_evidence(rules, arena_bytes=arena)
        for known in (None, make_known(rules)):
            found = only(rules.judge_models(evidence, bounds, known), "arena")
            assert found.passed is wanted and found.bound == "at most 4,096 bytes"
            assert ("none that states its arena" in found.text) == (arena is None)


def test_what_nothing_here_can_read_is_not_judged(rules: ModuleType) -> None:
    """Where there is only tflite-runtime: no pass, and with `require` a failure."""
    bounds = Bounds(arena_bytes=Limit(max=4096), ops=("CONV_2D",))
    evidence = make_evidence(rules, arena_bytes=None, ops=(), unread="no reader")
    for gate in ("arena", "ops"):
        found = only(rules.judge_models(evidence, bounds, None), gate)
        assert found.passed is None and found.text == "no reader"
        gone = replace(evidence, model_sha256=None)
        assert only(rules.judge_models(gone, bounds, None), gate).text == "no int8 model"


def budget_of(rules: ModuleType, gate: str, budget: Budget, measured: Any, known: Any) -> Judgement:
    flash = gate == "flash"
    bounds = Bounds(flash_bytes=budget) if flash else Bounds(instructions=budget)
    evidence = make_evidence(rules, **{gate: measured})
    found = only(rules.judge_models(evidence, bounds, known), gate)
    assert found.key == ("bounds.flash_bytes" if flash else "bounds.instructions")
    return found


def test_flash_and_instructions_at_their_bound_pass(rules: ModuleType) -> None:
    percent = Budget(value=10_001, max_increase_percent=D("1.0"))  # 10,101.01
    cases = (
        (percent, 10_101, True),
        (percent, 10_102, False),
        (percent, 1, True),
        (replace(percent, max_increase_percent=D(0)), 10_001, True),
        (replace(percent, max_increase_percent=D(0)), 10_002, False),
        (Budget(max=10_000), 10_000, True),
        (Budget(max=10_000), 10_001, False),
        (replace(percent, max=10_050), 10_050, True),
        (replace(percent, max=10_050), 10_051, False),
        (replace(percent, max=20_000), 10_102, False),
        (Budget(value=700, max_increase_percent=D("0.1")), 700, True),  # 700.7
    )
    for gate, (budget, value, wanted) in product(("flash", "instructions"), cases):
        measured = rules.Measured(value=value, toolchain=TOOLS)
        for known in (None, make_known(rules)):
            assert budget_of(rules, gate, budget, measured, known).passed is wanted, (budget, value)


def test_budgets_in_words(rules: ModuleType) -> None:
    measured = rules.Measured(value=10_101, toolchain=TOOLS)
    budget = Budget(value=10_001, max_increase_percent=D("1.0"), core="cortex-m4")
    found = budget_of(rules, "flash", budget, measured, None)
    assert found.present == "10,101 bytes"
    assert found.bound == "at most 10,101 bytes on cortex-m4"
    assert found.text == f"{found.present}; {found.bound} (10,001 in the baseline, +1.0 %)"
    found = budget_of(rules, "instructions", Budget(max=20_000), measured, None)
    assert found.text == "10,101 instructions; at most 20,000 instructions"


def test_figures_of_another_toolchain_are_not_compared(rules: ModuleType) -> None:
    newer = TOOLS | {"gcc": "arm-none-eabi-gcc 13.2.1"}
    for toolchain, words in (
        (newer, "gcc is arm-none-eabi-gcc 13.2.1 here, arm-none-eabi-gcc 12.2.1 in the baseline"),
        (TOOLS | {"ld": "2.40"}, "ld is 2.40 here, not named in the baseline"),
        ({}, "the versions of the tools are not known"),
    ):
        for value in (1, 10**9):
            measured = rules.Measured(value=value, toolchain=toolchain)
            found = budget_of(rules, "flash", BUDGET, measured, make_known(rules))
            assert found.passed is None and words in found.text
    # qemu does not matter to what gcc alone measured
    measured = rules.Measured(value=1, toolchain={"gcc": TOOLS["gcc"]})
    assert budget_of(rules, "flash", BUDGET, measured, make_known(rules)).passed is True
    missing = rules.Measured(value=None, why="no arm-none-eabi-gcc", toolchain=TOOLS)
    for gate, known in product(("flash", "instructions"), (None, make_known(rules))):
        found = budget_of(rules, gate, BUDGET, missing, known)
        assert (found.passed, found.text) == (None, "no arm-none-eabi-gcc")
        broken = rules.Measured(value=None, why="it does not compile", failed=True)
        found = budget_of(rules, gate, BUDGET, broken, known)
        assert (found.passed, found.text) == (False, "it does not compile")


def test_a_new_op_fails_and_a_removed_one_is_a_notice(rules: ModuleType) -> None:
    for listed, wanted, text, notices in (
        (("ADD", "CONV_2D"), True, "every op is in the list", ()),
        (("CONV_2D",), False, "not in the list: ADD", ()),
        ((), False, "not in the list: ADD CONV_2D", ()),
        (
            ("ADD", "CONV_2D", "MUL", "MEAN"),
            True,
            "every op is in the list",
            ("ops of the list that the model has no more: MEAN MUL",),
        ),
    ):
        judged = rules.judge_models(make_evidence(rules), Bounds(ops=listed), None)
        found = only(judged, "ops")
        assert (found.passed, found.text, judged.notices) == (wanted, text, notices)
        assert (found.present, found.bound) == ("ADD CONV_2D", " ".join(listed))
