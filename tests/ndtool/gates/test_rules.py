"""Which gates there are, those of the folder, the hops, what is required and what is better."""

from dataclasses import replace
from decimal import Decimal as D
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
from judging import (
    NOW,
    OTHER,
    TOOLS,
    make_evidence,
    make_folder,
    make_known,
    make_row,
    only,
    passed,
)

from ndtool.gates.baseline import Bounds, Budget, Limit
from ndtool.gates.verdict import GATES, Judgement
from ndtool.types import Hop

BUDGET = Budget(value=10_000, max_increase_percent=D("1.0"))
FULL = Bounds(
    min_accuracy_percent=D("80"),
    min_recall_percent={"daisy": D("90")},
    arena_bytes=Limit(max=4096),
    flash_bytes=BUDGET,
    instructions=Budget(value=1_000_000, max_increase_percent=D(2), core="cortex-m4"),
    ops=("ADD", "CONV_2D"),
    require=("accuracy", "drop", "recall", "float_int8", "c", "arena", "ops", "hashes"),
)


def test_a_folder_in_order_passes(rules: ModuleType) -> None:
    without = rules.judge_folder(make_folder(rules), None)
    assert passed(without) == {"integrity": True, "labels": True, "evaluation_set": True}
    judged = rules.judge_folder(make_folder(rules), make_known(rules))
    assert list(passed(judged).items()) == [
        ("integrity", True),
        ("labels", True),
        ("contract", True),
        ("evaluation_set", True),
    ]
    assert judged.notices == ()
    assert only(judged, "integrity").text == "every file is what its stage wrote"
    assert only(judged, "labels").text == "the classes and their order are unchanged"
    assert only(judged, "contract").text == "a pixel means what it meant in the baseline"
    found = only(judged, "evaluation_set")
    assert found.text == "the baseline's images and labels, in its order"
    assert found.present == found.bound == "8 images, sha256 aaaaaaaaaaaa..."
    text = only(without, "evaluation_set").text
    assert text == "the images that export measured"


def test_every_problem_of_a_folder_is_named_up_to_twenty(rules: ModuleType) -> None:
    for count in (1, 20, 21, 25):
        names = tuple(f"export/{k} is missing" for k in range(count))
        judged = rules.judge_folder(make_folder(rules, problems=names), None)
        found = only(judged, "integrity")
        assert found.passed is False and found.present == (
            "1 problem" if count == 1 else f"{count} problems"
        )
        assert found.text.count("is missing") == min(count, 20)
        assert (f"; and {count - 20} more;" in found.text) == (count > 20)
        assert found.text.endswith("; to make it right: ndtool export runs/x --int8")


def test_labels_are_the_contracts_and_the_baselines(rules: ModuleType) -> None:
    swapped = make_folder(rules, labels_problem="line 2 is 'rose', the contract says 'tulip'")
    for known in (None, make_known(rules)):
        found = only(rules.judge_folder(swapped, known), "labels")
        assert (found.passed, found.text) == (False, swapped.labels_problem)
    other = make_folder(rules, labels_sha256=OTHER)
    assert only(rules.judge_folder(other, None), "labels").passed is True
    found = only(rules.judge_folder(other, make_known(rules)), "labels")
    assert found.passed is False and "than the baseline's" in found.text
    assert (found.present, found.bound) == ("sha256 eeeeeeeeeeee...", "sha256 cccccccccccc...")
    both = replace(other, labels_problem=swapped.labels_problem)
    text = only(rules.judge_folder(both, make_known(rules)), "labels").text
    assert text.startswith(swapped.labels_problem + "; other class names")


def test_the_contract_needs_a_baseline(rules: ModuleType) -> None:
    other = make_folder(rules, contract_sha256=OTHER)
    assert "contract" not in passed(rules.judge_folder(other, None))
    found = only(rules.judge_folder(other, make_known(rules)), "contract")
    assert found.passed is False and "another input contract" in found.text


def test_the_evaluation_set_is_the_baselines_or_the_recorded_one(rules: ModuleType) -> None:
    other = make_folder(rules, eval_sha256=OTHER)
    assert only(rules.judge_folder(other, None), "evaluation_set").passed is False
    found = only(rules.judge_folder(other, make_known(rules)), "evaluation_set")
    assert found.passed is False and "another evaluation set" in found.text
    nothing = make_folder(rules, eval_recorded=None)
    found = only(rules.judge_folder(nothing, None), "evaluation_set")
    assert found.passed is None and "ndtool export" in found.text
    # what the run recorded is another thing: `metrics` speaks of it
    for recorded in (None, OTHER):
        again = make_folder(rules, eval_recorded=recorded)
        assert only(rules.judge_folder(again, make_known(rules)), "evaluation_set").passed is True
    # the hash is right, but the predictions are of another count
    short = make_known(rules, predicted=NOW[:7])
    found = only(rules.judge_folder(make_folder(rules), short), "evaluation_set")
    assert found.passed is False
    assert found.text == "the baseline predicts 7 images, the set has 8"


def test_without_a_baseline_only_absolute_and_hop_bounds_are_judged(rules: ModuleType) -> None:
    judged = rules.judge_models(make_evidence(rules), Bounds(), None)
    assert passed(judged) == {"metrics": True, "float_int8": True, "onnx": True, "c": True}
    assert judged.notices == ()


def test_with_everything_bounded_everything_is_judged_in_order(rules: ModuleType) -> None:
    judged = rules.judge_models(make_evidence(rules), FULL, make_known(rules, bounds=FULL))
    names = ["recall:daisy" if gate == "recall" else gate for gate in GATES[4:]]
    assert list(passed(judged).items()) == [(name, True) for name in names]
    assert judged.notices == ()
    keyless = {"metrics", "onnx"}
    for found in judged.judgements:
        assert found.present and found.bound and found.text
        assert (found.key == "") == (found.gate in keyless)
        if found.key.startswith("bounds."):
            assert hasattr(Bounds(), found.key.split(".")[1])


def test_not_run_names_the_gates_that_would_have_been_judged(rules: ModuleType) -> None:
    some = [
        Bounds(),
        Bounds(min_accuracy_percent=D(1)),
        Bounds(min_recall_percent={"rose": D(1)}),
        Bounds(arena_bytes=Limit(max=4096)),
        Bounds(flash_bytes=BUDGET),
        Bounds(instructions=BUDGET),
        Bounds(ops=("ADD",)),
        FULL,
    ]
    for bounds, known in product(some, [None, make_known(rules)]):
        evidence = make_evidence(rules)
        judged = rules.judge_models(evidence, bounds, known)
        gates = list(dict.fromkeys(judgement.gate for judgement in judged.judgements))
        skipped = rules.not_run("the folder is damaged", bounds, known)
        assert [judgement.gate for judgement in skipped.judgements] == gates
        assert {judgement.text for judgement in skipped.judgements} == {"the folder is damaged"}
        assert {judgement.passed for judgement in skipped.judgements} == {None}


def test_other_images_than_the_baselines_give_no_verdict_against_it(rules: ModuleType) -> None:
    known = make_known(rules, bounds=FULL)
    short = make_known(rules, predicted=NOW[:7], bounds=FULL)
    cases = [
        (make_evidence(rules, eval_sha256=OTHER), known, "another evaluation set"),
        (make_evidence(rules), short, "the baseline predicts 7 images"),
        (make_evidence(rules, predicted=None, eval_sha256=OTHER), known, "another evaluation set"),
    ]
    for evidence, against, why in cases:
        judged = rules.judge_models(evidence, FULL, against)
        for gate in ("determinism", "drop", "recall"):
            assert only(judged, gate).passed is None
            assert why in only(judged, gate).text
        has_model = evidence.model_sha256 is not None
        assert only(judged, "arena").passed is (True if has_model else None)
    judged = rules.judge_models(cases[0][0], FULL, known)
    assert only(judged, "accuracy").passed is None
    assert why in only(judged, "accuracy").text
    assert only(judged, "float_int8").passed is True
    assert judged.notices == ()


def test_a_run_without_an_int8_model_is_not_as_good_as_its_baseline(rules: ModuleType) -> None:
    evidence = make_evidence(rules, predicted=None)
    judged = rules.judge_models(evidence, FULL, make_known(rules))
    found = {name: value for name, value in passed(judged).items() if value is not True}
    assert found == {
        "determinism": None,
        "accuracy": False,
        "drop": False,
        "recall": None,
        "float_int8": None,
        "c": None,
        "arena": None,
        "ops": None,
    }
    for gate in ("determinism", "drop", "recall", "float_int8"):
        assert only(judged, gate).text == "no int8 model was run"
    assert only(judged, "accuracy").text == "no int8 model was run, at least 80 % demanded"
    assert only(judged, "ops").text == "no int8 model"


def test_a_recorded_figure_that_is_not_found_again_is_named(rules: ModuleType) -> None:
    recorded = {"accuracy_int8": 0.875, "arena_bytes": 4096, "flash_bytes": 5, "macs": 7}
    measured = {"accuracy_int8": 0.75, "arena_bytes": 4095, "macs": 7, "tflite_bytes": 9}
    evidence = make_evidence(rules, recorded=recorded, measured=measured)
    found = only(rules.judge_models(evidence, Bounds(), None), "metrics")
    assert found.passed is False and found.present == "2 of 3 figures differ"
    assert found.text == (
        "accuracy_int8 recorded 0.875, measured 0.75; arena_bytes recorded 4096, measured 4095"
    )
    found = only(rules.judge_models(make_evidence(rules), Bounds(), None), "metrics")
    assert found.text == "measured as recorded: accuracy_int8, arena_bytes"
    near = {"accuracy_float": 0.875, "eval_set": "test"}
    for recorded, wanted in (
        ({"accuracy_float": 0.875}, True),
        ({"accuracy_float": 0.75}, True),  # one image of eight
        ({"accuracy_float": 0.6875}, True),  # exactly the slack
        ({"accuracy_float": 0.65}, False),
        ({"accuracy_float": 1}, True),
        ({"accuracy_float": "0.875"}, False),
        ({"accuracy_float": float("nan")}, False),
        ({"eval_set": "test"}, True),
        ({"eval_set": "train"}, False),
    ):
        evidence = make_evidence(rules, recorded=recorded, measured={}, near=near)
        found = only(rules.judge_models(evidence, Bounds(), None), "metrics")
        assert found.passed is wanted, recorded
    many = np.zeros(1000, np.int64)
    for accuracy, wanted in ((0.989, False), (0.991, True), (1.009, True), (1.011, False)):
        values = {"recorded": {"accuracy_onnx": accuracy}, "near": {"accuracy_onnx": 1.0}}
        evidence = make_evidence(rules, truth=many, predicted=many, **values)
        assert only(rules.judge_models(evidence, Bounds(), None), "metrics").passed is wanted
    # what is exact has no slack, also where it is told as a near figure
    values = {"recorded": {"macs": 6.99}, "measured": {"macs": 7}, "near": {"macs": 7}}
    evidence = make_evidence(rules, **values)
    assert only(rules.judge_models(evidence, Bounds(), None), "metrics").passed is False
    for key, value in (("recorded", {}), ("measured", {}), ("measured", {"macs": 7})):
        evidence = make_evidence(rules, **{key: value})
        found = only(rules.judge_models(evidence, Bounds(), None), "metrics")
        assert found.passed is None and "nothing that was recorded" in found.text


def test_onnx_computes_what_torch_does(rules: ModuleType) -> None:
    for difference, largest, wanted in (
        (1e-4, 1.0, True),
        (1.0001e-4, 1.0, False),
        (1e-4, 0.1, True),
        (5e-4, 5.0, True),
        (5.001e-4, 5.0, False),
        (float("nan"), 1.0, False),
        (None, 1.0, None),
    ):
        rows = (
            make_row(Hop.FLOAT, 7, 8, largest_output=largest),
            make_row(Hop.ONNX, 7, 8, max_abs_diff=difference),
            make_row(Hop.INT8, 7, 8, max_abs_diff=0.25),
        )
        judged = rules.judge_models(make_evidence(rules, rows=rows), Bounds(), None)
        found = only(judged, "onnx")
        assert found.passed is wanted, (difference, largest)
        rest = rules.judge_models(make_evidence(rules, rows=rows[1:]), Bounds(), None)
        assert only(rest, "onnx").passed is None


def test_one_image_with_another_byte_fails(rules: ModuleType) -> None:
    rows = make_evidence(rules).rows[:3]
    for differing, allowed, wanted in (
        (0, 0, True),
        (1, 0, False),
        (2, 2, True),
        (3, 2, False),
        (None, 0, None),
    ):
        row = make_row(Hop.C, 7, 8, differing=differing)
        evidence = make_evidence(rules, rows=(*rows, row))
        found = only(rules.judge_models(evidence, Bounds(c_mismatch=allowed), None), "c")
        assert found.passed is wanted, (differing, allowed)
        if differing is not None:
            assert found.text == f"{differing} of 8 images differ from tflite_micro in a byte"
    evidence = make_evidence(rules, rows=rows)
    found = only(rules.judge_models(evidence, Bounds(), None), "c")
    assert found.passed is None and found.text == "gcc not found"
    hangs = make_evidence(rules, rows=rows, why_no_c=rules.NoC(text="it hangs", failed=True))
    found = only(rules.judge_models(hangs, Bounds(), None), "c")
    assert found.passed is False and found.text == "it hangs"


def test_what_is_better_than_a_bound_is_worth_one_notice(rules: ModuleType) -> None:
    tools = {"toolchain": TOOLS}
    better = {
        "arena_bytes": 4000,
        "flash": rules.Measured(value=9_899, **tools),
        "instructions": rules.Measured(value=979_999, **tools),
    }
    known = make_known(rules, bounds=FULL)
    judged = rules.judge_models(make_evidence(rules, **better), FULL, known)
    assert judged.notices == (
        "better than the baseline: arena 96 bytes smaller; flash 101 less; instructions 20,001"
        " less. Keep it: ndtool baseline accept RUN --baseline FILE --reason TEXT",
    )
    for name, words in (
        ("arena_bytes", "arena 96 bytes smaller"),
        ("flash", "flash 101 less"),
        ("instructions", "instructions 20,001 less"),
    ):
        judged = rules.judge_models(make_evidence(rules, **{name: better[name]}), FULL, known)
        assert judged.notices[0].startswith(f"better than the baseline: {words}. Keep")
    # exactly as many percent less as there may be more, or another bound than the baseline's
    within = {
        "flash": rules.Measured(value=9_900, **tools),
        "instructions": rules.Measured(value=980_000, **tools),
    }
    assert rules.judge_models(make_evidence(rules, **within), FULL, known).notices == ()
    absolute = replace(FULL, flash_bytes=Budget(max=10_000))
    evidence = make_evidence(rules, flash=better["flash"])
    assert rules.judge_models(evidence, absolute, known).notices == ()


def test_no_notice_of_what_is_better_where_something_failed(rules: ModuleType) -> None:
    known = make_known(rules, bounds=FULL)
    worse = make_evidence(rules, arena_bytes=4000, ops=("MUL",))
    judged = rules.judge_models(worse, FULL, known)
    assert only(judged, "ops").passed is False
    assert not any("better" in notice for notice in judged.notices)
    # and a figure that could not be judged is not praised
    newer = rules.Measured(value=1, toolchain={"gcc": "13"})
    assert rules.judge_models(make_evidence(rules, flash=newer), FULL, known).notices == ()


def test_a_required_gate_that_was_not_judged_fails(rules: ModuleType) -> None:
    good = Judgement(gate="integrity", passed=True, text="")
    skipped = Judgement(gate="c", passed=None, text="no gcc")
    given = [good, skipped, replace(good, gate="drop", passed=False)]
    given += [replace(skipped, gate="flash"), replace(good, gate="arena")]
    assert rules.require_judged(given, ()) == given
    assert rules.require_judged(given, ("integrity", "drop", "arena")) == given
    judged = rules.require_judged(given, ("c", "arena"))
    assert [j.passed for j in judged] == [True, False, False, None, True]
    assert judged[1].text == "required, but not judged: no gcc"
    assert judged[:1] + judged[2:] == given[:1] + given[2:]
    judged = rules.require_judged(given, ("ops", "hashes", "typo"))
    assert judged[: len(given)] == given
    assert [(j.gate, j.passed) for j in judged[len(given) :]] == [
        ("ops", False),
        ("labels", False),
        ("contract", False),
        ("evaluation_set", False),
        ("typo", False),
    ]
    assert judged[-2].text == "required, but not judged: it has no bound"
    assert judged[-1].text == "required, but not judged: check has no such gate"
    both = [replace(skipped, gate="recall"), replace(good, gate="recall")]
    twice = rules.require_judged(both, ("recall", "recall"))
    assert [j.passed for j in twice] == [False, True]


def test_a_whole_check_with_a_baseline_that_requires(rules: ModuleType) -> None:
    known = make_known(rules, bounds=FULL)
    folder = rules.judge_folder(make_folder(rules), known)

    def judge(evidence: Any) -> set[str]:
        models = rules.judge_models(evidence, known.baseline.bounds, known)
        both = [*folder.judgements, *models.judgements]
        judged = rules.require_judged(both, known.baseline.bounds.require)
        return {judgement.name for judgement in judged if judgement.passed is False}

    good = make_evidence(rules)
    assert judge(good) == set()
    assert judge(make_evidence(rules, rows=good.rows[:3])) == {"c"}
    assert judge(make_evidence(rules, flash=rules.Measured(value=None, why="no gcc"))) == set()
    skipped = rules.not_run("damaged", FULL, known).judgements
    judged = rules.require_judged([*folder.judgements, *skipped], FULL.require)
    failed = {judgement.gate for judgement in judged if judgement.passed is False}
    assert failed == set(FULL.require) - {"hashes"}
