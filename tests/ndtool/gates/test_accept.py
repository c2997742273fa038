"""Default floors worked by hand, what an old baseline keeps, settings, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import LABELS, NOW, OTHER, TOOLS, TRUTH, make_evidence, make_folder, make_row

from ndtool.errors import ConfigError, GateError
from ndtool.evaluate import Accuracy
from ndtool.files import sha256_bytes
from ndtool.gates.accept import (
    Change,
    Request,
    accept,
    accuracy_floor,
    changes,
    compare,
    first_bounds,
    percent_text,
    read_settings,
    recall_floor,
    with_settings,
)
from ndtool.gates.baseline import Accepted, Bounds, Budget, Limit, Paired
from ndtool.gates.baseline_file import baseline_text, parse_baseline, predictions_bytes
from ndtool.gates.evidence import Known, Measured
from ndtool.gates.rules import judge_folder, judge_models, require_judged
from ndtool.types import Hop, Policy

ABOUT = Accepted(reason="a reason of words", tool="1.0", model="ds-cnn w1 32x32")
REQUEST = Request(name="main", accepted=ABOUT, core="cortex-m4")
# class 1 of three is always taken for class 0
WORSE = np.array([0, 0, 0, 0, 0, 0, 2, 0])
CLANG = {"gcc": "arm-none-eabi-gcc 13.1.0", "qemu": "7.2"}


def first(**changed: Any) -> Known:
    return accept(make_folder(), make_evidence(**changed), None, REQUEST)


def again(known: Known, *, evidence: Any, folder: Any = None, **request: Any) -> Known:
    wanted = replace(REQUEST, **request)
    return accept(folder or make_folder(), evidence, known, wanted)


def with_bounds(known: Known, **changed: Any) -> Known:
    bounds = replace(known.baseline.bounds, **changed)
    return replace(known, baseline=replace(known.baseline, bounds=bounds))


# -- the first -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "count", "accuracy", "recall"),
    [
        (661, 734, "88.0", "85.0"),  # 90.054: 2 less is 88.054; 5 less is 85.054
        (21, 23, "89.3", "82.6"),  # 91.304; 200/23 = 8.696 less is 82.608
        (40, 40, "98.0", "95.0"),  # 200/40 is exactly 5
        (39, 39, "98.0", "94.8"),  # 200/39 = 5.128
        (1, 1, "98.0", "0.0"),  # 200 points less
        (1, 100, "0.0", "0.0"),
        (3, 100, "0.0", "0.0"),  # 1.0 would be taken for a share
        (31, 1000, "1.1", "0.0"),
        (0, 9, "0.0", "0.0"),
        (171, 200, "83.5", "80.5"),  # 85.5 exactly: nothing is rounded
        (999, 1000, "97.9", "94.9"),
    ],
)
def test_floors_by_hand(correct: int, count: int, accuracy: str, recall: str) -> None:
    present = Accuracy(correct, count)
    assert str(accuracy_floor(present)) == accuracy
    assert str(recall_floor(present)) == recall


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_floor_is_the_next_tenth_below(counts: tuple[int, int]) -> None:
    present = Accuracy(*counts)
    for floor, margin in (
        (accuracy_floor(present), Fraction(2)),
        (recall_floor(present), max(Fraction(5), Fraction(200, present.count))),
    ):
        exact = 100 * present.exact - margin
        assert 0 <= floor <= 100 and floor.as_tuple().exponent == -1
        assert floor == 0 or 1 < Fraction(floor) <= exact
        assert Fraction(floor) > exact - Fraction(1, 10) or (
            floor == 0 and exact < Fraction(11, 10)
        )


@pytest.mark.parametrize(
    ("correct", "count", "decimals", "text"),
    [
        (661, 734, 3, "90.054"),
        (21, 23, 1, "91.3"),
        (1, 2000, 1, "0.1"),  # 0.05: halves up
        (0, 7, 3, "0.000"),
        (7, 7, 3, "100.000"),
        (99999, 100000, 1, "100.0"),
        (1, 8, 1, "12.5"),
    ],
)
def test_percent_text(correct: int, count: int, decimals: int, text: str) -> None:
    assert percent_text(Accuracy(correct, count), decimals) == text


def test_the_first_baseline() -> None:
    known = first()
    base, bounds = known.baseline, known.baseline.bounds
    assert (base.name, base.accepted) == ("main", ABOUT)
    assert (base.result.samples, base.result.correct, base.result.float_correct) == (8, 7, 7)
    assert base.result.accuracy_percent == "87.500"
    of_c = (base.result.arena_bytes, base.result.flash_bytes, base.result.instructions)
    assert of_c == (4096, 10_000, 1_000_000)
    assert base.result.recall_percent == {"daisy": "100.0", "rose": "100.0", "tulip": "50.0"}
    assert bounds == Bounds(
        min_accuracy_percent=Decimal("85.5"),
        # 200/4 = 50 points of four daisies; of two roses and two tulips 100
        min_recall_percent={"daisy": Decimal(50), "rose": Decimal(0), "tulip": Decimal(0)},
        arena_bytes=Limit(max=4096),
        flash_bytes=Budget(value=10_000, max_increase_percent=Decimal(1)),
        instructions=Budget(value=1_000_000, max_increase_percent=Decimal(2), core="cortex-m4"),
        ops=("ADD", "CONV_2D"),
        require=("accuracy", "drop", "recall", "float_int8", "c", "arena", "ops", "hashes"),
    )
    assert bounds.policy is Policy.PAIRED and base.toolchain == TOOLS
    assert (known.predicted == NOW).all() and known.predicted.dtype == np.uint16
    assert base.hash.predictions == sha256_bytes(predictions_bytes(known.predicted))
    assert parse_baseline(baseline_text(base), where="b.toml") == base


def test_a_run_passes_its_own_first_baseline() -> None:
    known, evidence = first(), make_evidence()
    judged = judge_folder(make_folder(), known).judgements
    judged += judge_models(evidence, known.baseline.bounds, known).judgements
    assert all(j.passed for j in require_judged(judged, known.baseline.bounds.require))


def test_what_was_not_measured_has_no_bound_and_is_not_required() -> None:
    nothing = Measured(value=None, why="gcc not found")
    rows = (make_row(Hop.INT8, 7, 8),)
    known = first(
        rows=rows, arena_bytes=None, flash=nothing, instructions=nothing, ops=("CONV_2D",)
    )
    bounds = known.baseline.bounds
    assert bounds.arena_bytes is bounds.flash_bytes is bounds.instructions is None
    result = known.baseline.result
    assert result.arena_bytes is result.flash_bytes is result.instructions is None
    assert bounds.require == ("accuracy", "drop", "recall", "ops", "hashes")
    assert known.baseline.toolchain == {} and known.baseline.result.float_correct is None


def test_c_that_was_not_compared_is_not_required() -> None:
    rows = (make_row(Hop.ONNX, 7, 8), make_row(Hop.INT8, 7, 8), make_row(Hop.C, 7, 8))
    bounds = first_bounds(make_evidence(rows=rows), "cortex-m4")
    assert "c" not in bounds.require and "float_int8" in bounds.require


def test_a_class_without_images_has_no_floor() -> None:
    truth = np.where(TRUTH == 1, 0, TRUTH)
    known = first(truth=truth)
    assert set(known.baseline.bounds.min_recall_percent) == {"daisy", "tulip"}
    assert set(known.baseline.result.recall_percent) == {"daisy", "tulip"}


# -- over an old one -------------------------------------------------------------------------------


def test_bounds_stay_and_results_are_new() -> None:
    old = with_bounds(
        first(),
        min_accuracy_percent=Decimal("50.0"),
        min_recall_percent={},
        policy=Policy.STRICT,
        arena_bytes=Limit(max=9000),
        flash_bytes=None,
        require=("hashes",),
        ops=None,
    )
    better = make_evidence(
        predicted=TRUTH,
        arena_bytes=5000,
        instructions=Measured(value=900_000, toolchain=TOOLS),
        ops=("MEAN",),
    )
    new = again(old, evidence=better)
    assert new.baseline.bounds == old.baseline.bounds
    assert new.baseline.toolchain == TOOLS
    assert new.baseline.result.accuracy_percent == "100.000"
    assert (new.predicted == TRUTH).all()


def test_under_a_floor_needs_lower_floor() -> None:
    old, worse = with_bounds(first(), min_recall_percent={"rose": Decimal(50)}), WORSE
    with pytest.raises(GateError) as caught:
        again(old, evidence=make_evidence(predicted=worse))
    told = (caught.value, *caught.value.more)
    assert [(error.exit_code, error.code) for error in told] == [(3, "gate.under-floor")] * 2
    assert "62.50 % (5/8) is under the floor of 85.5 %" in str(told[0])
    assert "bounds.min_recall_percent.rose" in str(told[1]) and "--lower-floor" in str(told[1])
    new = again(old, evidence=make_evidence(predicted=worse), lower_floor=True)
    assert new.baseline.bounds.min_accuracy_percent == Decimal("60.5")
    assert new.baseline.bounds.min_recall_percent == {"rose": 0}


def test_a_set_floor_does_not_open_the_lock() -> None:
    low = read_settings(["min_accuracy_percent=2"], (), None)
    with pytest.raises(GateError):
        again(first(), evidence=make_evidence(predicted=WORSE), settings=low)
    both = again(first(), evidence=make_evidence(predicted=WORSE), settings=low, lower_floor=True)
    assert both.baseline.bounds.min_accuracy_percent == 2


def test_lower_floor_lowers_no_floor_that_is_kept() -> None:
    old = first()
    new = again(old, evidence=make_evidence(), lower_floor=True)
    assert new.baseline.bounds == old.baseline.bounds


def test_exactly_at_a_floor_is_not_under_it() -> None:
    old = with_bounds(first(), min_accuracy_percent=Decimal("87.5"))
    assert again(old, evidence=make_evidence()).baseline.bounds == old.baseline.bounds


def test_new_classes_get_floors_and_gone_ones_lose_theirs() -> None:
    old = first(labels=("daisy", "aster", "tulip"))
    trimmed = with_bounds(old, min_recall_percent={"daisy": Decimal(9), "aster": Decimal(8)})
    new = again(trimmed, evidence=make_evidence(), folder=make_folder(labels_sha256=OTHER))
    # tulip was there, and somebody took its floor away
    assert new.baseline.bounds.min_recall_percent == {"daisy": 9, "rose": 0}
    assert new.baseline.hash.labels == OTHER != LABELS


def test_policy_is_set_by_its_option() -> None:
    assert first().baseline.bounds.policy is Policy.PAIRED
    known = again(first(), evidence=make_evidence(), policy=Policy.STRICT)
    assert known.baseline.bounds.policy is Policy.STRICT
    assert again(known, evidence=make_evidence()).baseline.bounds.policy is Policy.STRICT


def test_another_toolchain_measures_all_values_anew() -> None:
    evidence = make_evidence(
        flash=Measured(value=11_000, toolchain={"gcc": CLANG["gcc"]}),
        instructions=Measured(value=1_100_000, toolchain=CLANG),
    )
    new = again(first(), evidence=evidence).baseline
    assert new.bounds.flash_bytes == Budget(value=11_000, max_increase_percent=Decimal(1))
    assert new.bounds.instructions is not None and new.bounds.instructions.value == 1_100_000
    assert new.toolchain == CLANG


def test_an_absolute_bound_has_no_value_to_measure_anew() -> None:
    evidence = make_evidence(flash=Measured(value=11_000, toolchain={"gcc": CLANG["gcc"]}))
    old = with_bounds(first(), flash_bytes=Budget(max=12_000), instructions=None)
    assert again(old, evidence=evidence).baseline.bounds == old.baseline.bounds


def test_another_toolchain_that_measures_only_a_part_changes_nothing() -> None:
    evidence = make_evidence(
        flash=Measured(value=11_000, toolchain={"gcc": CLANG["gcc"]}),
        instructions=Measured(value=None, why="no qemu"),
    )
    old = first().baseline
    new = again(first(), evidence=evidence).baseline
    assert (new.bounds, new.toolchain) == (old.bounds, old.toolchain)


def test_the_same_toolchain_moves_no_value() -> None:
    evidence = make_evidence(flash=Measured(value=10_090, toolchain={"gcc": TOOLS["gcc"]}))
    assert again(first(), evidence=evidence).baseline.bounds == first().baseline.bounds


def test_a_bound_that_is_set_brings_its_toolchain() -> None:
    nothing = Measured(value=None, why="no bound for it")
    old = first(flash=nothing, instructions=nothing)
    words = ["flash_bytes.value=10000", "flash_bytes.max_increase_percent=3"]
    wanted = read_settings(words, (), old)
    new = again(old, evidence=make_evidence(), settings=wanted).baseline
    assert new.bounds.flash_bytes == Budget(value=10_000, max_increase_percent=Decimal(3))
    assert new.bounds.instructions is None
    assert new.toolchain == {"gcc": TOOLS["gcc"]}


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "changed"),
    [
        ("max_drop=0.5", {"max_drop": Decimal("0.5")}),
        ("bounds.max_drop=.75", {"max_drop": Decimal("0.75")}),
        ("max_drop = 2", {"max_drop": Decimal(2)}),
        ("policy=strict", {"policy": Policy.STRICT}),
        ('policy="strict"', {"policy": Policy.STRICT}),
        ("c_mismatch=1", {"c_mismatch": 1}),
        ("arena_bytes.max=60_000", {"arena_bytes": Limit(max=60_000)}),
        ("paired.alpha=0.05", {"paired": Paired(alpha=Decimal("0.05"))}),
        ("min_recall_percent.a.b=c=80", {"min_recall_percent": {"a.b=c": Decimal(80)}}),
        ("flash_bytes.max=7", {"flash_bytes": Budget(max=7)}),
        ('ops=["ADD"]', {"ops": ("ADD",)}),
        ("require=[]", {"require": ()}),
    ],
)
def test_settings(word: str, changed: dict[str, Any]) -> None:
    known = with_bounds(first(), arena_bytes=None, flash_bytes=None, min_recall_percent={})
    found = read_settings([word], ("a.b=c", "d"), known)
    assert with_settings(known.baseline.bounds, found) == replace(known.baseline.bounds, **changed)


def test_settings_follow_each_other() -> None:
    found = read_settings(["instructions.max=5", "instructions.core=cortex-m7"], (), None)
    made = with_settings(Bounds(), found)
    assert made.instructions == Budget(max=5, core="cortex-m7")


@pytest.mark.parametrize(
    ("word", "code", "words"),
    [
        ("max_drop", "option.set", "not KEY=VALUE"),
        ("=1", "option.set", "unknown key"),
        ("max_dorp=1", "option.set", "did you mean max_drop?"),
        ("paired.alfa=1", "option.set", "did you mean paired.alpha?"),
        ("paired={alpha = 0.1}", "option.set", "unknown key"),
        ("min_recall_percent=1", "option.set", "unknown key"),
        ("min_recall_percent.rosse=1", "option.set", "did you mean rose?"),
        ("hash.labels=x", "option.set", "unknown key"),
        ("max_drop=", "baseline.value", "max_drop"),
        ("max_drop=lots", "baseline.value", "max_drop"),
        ("max_drop=true", "baseline.value", "max_drop"),
        ("max_drop=101", "baseline.range", "max_drop"),
        ("min_accuracy_percent=0.971", "baseline.range", "percent: 97.1, not 0.971"),
        ("min_accuracy_percent=1", "baseline.range", "percent: 100, not 1"),
        ("min_accuracy_percent=1e-9999999", "baseline.range", "more than 9 decimals"),
        ("min_recall_percent.rose=.5", "baseline.range", "percent: 50, not 0.5"),
        ("max_drop=1\n[paired]", "option.set", "not KEY=VALUE"),
        ("max_drop=nan", "baseline.value", "max_drop"),
        ("max_drop=1e-9999999", "baseline.range", "max_drop"),
        ("instructions.core=\udcff", "option.set", "not KEY=VALUE"),
        ("require=['all']", "baseline.range", "no gate all"),
        ('min_recall_percent.rose="1"', "baseline.value", "min_recall_percent.rose"),
    ],
)
def test_settings_that_are_none(word: str, code: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(["c_mismatch=0", word], ("rose", "tulip"), None)
    assert caught.value.code == code and words in str(caught.value)


# -- what changed ----------------------------------------------------------------------------------


def test_changes_of_a_first_baseline_are_all_its_fields() -> None:
    found = changes(None, first().baseline)
    assert all(change.old == "-" for change in found)
    assert Change(key="bounds.paired.alpha", old="-", new="0.01") in found
    assert Change(key="hash.model_int8", old="-", new="bbbbbbbbbbbb...") in found
    keys = [change.key for change in found]
    assert not [key for key in keys if key.startswith("result.recall_percent")]
    assert keys.index("accepted.model") < keys.index("hash.labels") < keys.index("bounds.ops")


def test_changes_are_only_those() -> None:
    old = first()
    new = with_bounds(old, max_drop=Decimal("0.5"), flash_bytes=None)
    assert changes(old.baseline, old.baseline) == []
    assert changes(old.baseline, new.baseline) == [
        Change(key="bounds.max_drop", old="1.0", new="0.5"),
        Change(key="bounds.flash_bytes.max_increase_percent", old="1.0", new="-"),
        Change(key="bounds.flash_bytes.value", old="10000", new="-"),
    ]


def test_comparison_names_what_lost_most() -> None:
    found = compare(first(), make_evidence(predicted=WORSE))
    assert found is not None
    assert (found.pair.lost, found.pair.gained, found.pair.count) == (2, 0, 8)
    assert found.pair.drop_points == 25 and found.pair.p_value == 0.25
    (worst,) = found.worst
    assert (worst.label, worst.before, worst.after) == ("rose", Accuracy(2, 2), Accuracy(0, 2))


def test_worst_classes_come_first_and_are_few() -> None:
    names = tuple(f"c{k}" for k in range(8))
    truth = np.repeat(np.arange(8), 10)
    right = truth.copy()
    now = truth.copy()
    for k in range(8):
        now[10 * k : 10 * k + k] = (k + 1) % 8  # class k loses k of ten
    evidence = make_evidence(labels=names, truth=truth, predicted=right)
    known = accept(make_folder(eval_count=80), evidence, None, REQUEST)
    found = compare(known, make_evidence(labels=names, truth=truth, predicted=now))
    assert found is not None
    assert [change.label for change in found.worst] == ["c7", "c6", "c5", "c4", "c3"]


def test_other_images_are_not_compared() -> None:
    evidence = make_evidence(eval_sha256=OTHER)
    assert compare(first(), evidence) is None and compare(None, evidence) is None
    assert again(first(), evidence=evidence).baseline.hash.evaluation_set == OTHER
