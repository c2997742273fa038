"""Rules of check: exactly at a bound passes, what was asked for and cannot be judged fails."""

from dataclasses import replace

import pytest

from ndtool.evaluate import Accuracy
from ndtool.gates.hops import (
    HopRow,
    Judgement,
    NoC,
    Verdict,
    judge_c,
    judge_folder,
    judge_hops,
)
from ndtool.types import Hop, Sha256

FLOAT = HopRow(
    hop=Hop.FLOAT, engine="torch", accuracy=Accuracy(90, 100), agreement=None, max_abs_diff=None
)
ONNX = replace(FLOAT, hop=Hop.ONNX, engine="onnxruntime", agreement=1.0, max_abs_diff=1e-6)
NO_C = NoC(text="gcc not found", failed=False)
INT8 = replace(FLOAT, hop=Hop.INT8, engine="tflite-micro 1", agreement=0.99, max_abs_diff=0.1)


C = replace(INT8, hop=Hop.C, engine="C, gcc 12", agreement=1.0, max_abs_diff=0.0, differing=0)


def verdicts(
    rows: list[HopRow], drop: float = 1.0, floor: float | None = None
) -> dict[str, object]:
    judged = judge_hops(rows, max_drop_points=drop, min_accuracy=floor)
    return {j.gate: j.passed for j in judged}


@pytest.mark.parametrize(
    ("correct", "drop", "passed"), [(89, 1.0, True), (88, 1.0, False), (95, 0.0, True)]
)
def test_a_drop_at_the_bound_passes(correct: int, drop: float, passed: bool) -> None:  # noqa: FBT001
    row = replace(INT8, accuracy=Accuracy(correct, 100))
    assert verdicts([FLOAT, ONNX, row], drop)["drop:int8"] is passed


def test_bounds_are_decimals_not_binary_floats() -> None:
    rows = [replace(FLOAT, accuracy=Accuracy(1000, 1000))]
    rows.append(replace(INT8, accuracy=Accuracy(997, 1000)))  # exactly .3 points
    assert verdicts(rows, 0.3)["drop:int8"] is True


@pytest.mark.parametrize(("floor", "passed"), [(0.9, True), (0.91, False)])
def test_the_floor_is_of_int8(floor: float, passed: bool) -> None:  # noqa: FBT001
    assert verdicts([FLOAT, ONNX, INT8], floor=floor)["accuracy"] is passed
    better = replace(ONNX, accuracy=Accuracy(100, 100))
    assert verdicts([FLOAT, better, INT8], 100, floor)["accuracy"] is passed


def test_a_floor_without_an_int8_model_fails() -> None:
    assert verdicts([FLOAT, ONNX], floor=0.1)["accuracy"] is False


def test_one_hop_alone_is_skipped_not_passed() -> None:
    assert verdicts([FLOAT]) == {"drop": None}


@pytest.mark.parametrize(
    ("difference", "largest", "passed"), [(1e-4, 1.0, True), (2e-4, 1.0, False), (2e-4, 5.0, True)]
)
def test_parity_of_onnx(difference: float, largest: float, passed: bool) -> None:  # noqa: FBT001
    before = replace(FLOAT, largest_output=largest)
    row = replace(ONNX, max_abs_diff=difference)
    assert verdicts([before, row])["parity:onnx"] is passed


@pytest.mark.parametrize(("differing", "passed"), [(0, True), (1, False), (None, None)])
def test_one_image_with_another_byte_fails(
    differing: int | None,
    passed: bool | None,  # noqa: FBT001
) -> None:
    judged = judge_c([FLOAT, INT8, replace(C, differing=differing)], NO_C)
    assert (judged.gate, judged.passed) == ("parity:c", passed)


def test_c_that_was_not_run_is_no_pass_and_broken_c_fails() -> None:
    judged = judge_c([FLOAT, INT8], NO_C)
    assert judged.passed is None and judged.text == "not judged: gcc not found"
    assert judge_c([FLOAT, INT8], NoC(text="it hangs", failed=True)).passed is False


def test_the_drop_of_the_c_is_judged_too() -> None:
    assert verdicts([FLOAT, ONNX, INT8, C])["drop:c"] is True
    assert verdicts([FLOAT, INT8, replace(C, accuracy=Accuracy(80, 100))])["drop:c"] is False


def test_the_folder_is_judged_against_what_was_recorded() -> None:
    recorded = {"eval_sha256": "a", "accuracy_int8": 0.9}

    def gates(problems: list[str], sha256: str, row: HopRow = INT8) -> dict[str, bool | None]:
        return {j.gate: j.passed for j in judge_folder(problems, [FLOAT, row], recorded, sha256)}

    assert gates([], "a") == {"integrity": True, "eval_set": True, "metrics": True}
    assert gates(["x is missing"], "a")["integrity"] is False
    assert gates([], "b") == {"integrity": True, "eval_set": False}
    assert gates([], "a", replace(INT8, accuracy=Accuracy(91, 100)))["metrics"] is False
    assert "metrics" not in gates([], "a", replace(INT8, engine="tflite-runtime 2"))
    assert "metrics:c" not in gates([], "a", C)  # nothing recorded
    recorded["accuracy_c"] = 0.9
    assert gates([], "a", C)["metrics:c"] is True
    assert gates([], "a", replace(C, accuracy=Accuracy(89, 100)))["metrics:c"] is False


def test_a_skipped_gate_does_not_fail_the_verdict_and_a_failed_one_does() -> None:
    skipped = Judgement(gate="drop", passed=None, text="")
    made = Verdict(
        rows=(FLOAT,),
        judgements=(skipped,),
        eval_count=100,
        eval_sha256=Sha256("0" * 64),
        recall={"a": Accuracy(1, 2)},
    )
    assert made.passed
    assert not replace(made, judgements=(skipped, replace(skipped, passed=False))).passed
    assert made.document()["recall"] == {"a": 0.5}
