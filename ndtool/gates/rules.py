"""The rules of `check` (users.md, 5.3 and 5.4): pure functions of what was found and the bounds.

Exactly at a bound passes. Counts, Fractions and Decimals are compared, never a rounded percent.
What cannot be judged is said to be so, and is no pass. Foreign text stays as it is: every output
escapes it in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np

from ndtool.console import counted
from ndtool.errors import MAX_LISTED
from ndtool.gates.accuracy import (
    gain_of_accuracy,
    judge_accuracy,
    judge_determinism,
    judge_drop,
    judge_float_int8,
    judge_recall,
)
from ndtool.gates.baseline import Bounds
from ndtool.gates.evidence import Evidence, Folder, Judged, Known, skip
from ndtool.gates.paired import compare_paired
from ndtool.gates.size import gains_of_size, judge_arena, judge_budget, judge_ops
from ndtool.gates.verdict import GATES, HASHES, Judgement
from ndtool.rundir import Value
from ndtool.types import Hop, Sha256

# ONNX against torch: other summation order; a wrong layout or fold gives a hundred times more
PARITY: Final = 1e-4

# Shares of the images that rounding may move over the edge of a class; few images move one by one
NEAR_SHARE: Final = 0.01
NEAR_IMAGES: Final = 1.5

ACCEPT: Final = "ndtool baseline accept RUN --baseline FILE --reason TEXT"


def judge_folder(folder: Folder, known: Known | None) -> Judged:
    """Gates `integrity`, `labels`, `contract`, `evaluation_set`: steps 1 to 3 of users.md 5.1.

    `contract` needs a baseline. Without one the evaluation set is held against the one that the
    run itself measured.
    """
    judgements = [_judge_integrity(folder.problems, folder.mend), _judge_labels(folder, known)]
    if known is not None:
        judgements.append(_judge_contract(folder, known))
    judgements.append(_judge_evaluation_set(folder, known))
    return Judged(judgements=tuple(judgements))


def judge_models(evidence: Evidence, bounds: Bounds, known: Known | None) -> Judged:
    """The gates that run models: those of `GATES` after the first four that have a bound.

    Args:
        bounds: those in force; where their policy is not the baseline's own, the text says so.
        known: None: `determinism` and `drop` are left out, and no class can have been lost.
    """
    apart = known.other_images(evidence.eval_sha256, len(evidence.truth)) if known else ""
    pair = None
    if known is not None and evidence.predicted is not None and not apart:
        before = known.predicted.astype(np.int64)
        pair = compare_paired(before, evidence.predicted, evidence.truth)
    recalls = judge_recall(evidence, bounds, known, apart)
    ops = judge_ops(evidence, bounds)
    judgements = (
        _judge_metrics(evidence),
        *([judge_determinism(evidence, known, apart)] if known else []),
        *judge_accuracy(evidence, bounds, apart),
        *([judge_drop(pair, bounds, known, apart)] if known else []),
        *recalls.judgements,
        judge_float_int8(evidence, bounds),
        _judge_onnx(evidence),
        _judge_c(evidence, bounds.c_mismatch),
        *judge_arena(evidence, bounds),
        *judge_budget("flash", bounds.flash_bytes, evidence.flash, known),
        *judge_budget("instructions", bounds.instructions, evidence.instructions, known),
        *ops.judgements,
    )
    notices = (*recalls.notices, *ops.notices)
    if all(judgement.passed is not False for judgement in judgements):
        gains = {"drop": gain_of_accuracy(pair, bounds)} if pair is not None else {}
        gains |= gains_of_size(evidence, bounds)
        passed = {judgement.gate for judgement in judgements if judgement.passed}
        better = [text for gate, text in gains.items() if text and gate in passed]
        if better:
            notices += (f"better than the baseline: {'; '.join(better)}. Keep it: {ACCEPT}",)
    return Judged(judgements=judgements, notices=notices)


def not_run(reason: str, bounds: Bounds, known: Known | None) -> Judged:
    """Every gate that `judge_models` would have judged, as not judged for `reason`."""
    left_out = {
        "determinism": known is None,
        "accuracy": bounds.min_accuracy_percent is None,
        "drop": known is None,
        "recall": known is None and not bounds.min_recall_percent,
        "arena": bounds.arena_bytes is None,
        "flash": bounds.flash_bytes is None,
        "instructions": bounds.instructions is None,
        "ops": bounds.ops is None,
    }
    gates = [gate for gate in GATES[len(HASHES) :] if not left_out.get(gate)]
    return Judged(judgements=tuple(skip(gate, reason) for gate in gates))


def require_judged(judgements: Sequence[Judgement], require: Sequence[str]) -> list[Judgement]:
    """`judgements` with every required gate failed that was not judged.

    Words of `require`: gates, and `hashes` for integrity, labels, contract and evaluation_set. A
    required gate that has no judgement at all becomes a failed one at the end.
    """
    gates = dict.fromkeys(
        gate for word in require for gate in (HASHES if word == "hashes" else (word,))
    )
    found = [
        replace(judgement, passed=False, text=f"required, but not judged: {judgement.text}")
        if judgement.passed is None and judgement.gate in gates
        else judgement
        for judgement in judgements
    ]
    there = {judgement.gate for judgement in judgements}
    for gate in gates:
        if gate not in there:
            why = "it has no bound" if gate in GATES else "check has no such gate"
            text = f"required, but not judged: {why}"
            found.append(Judgement(gate=gate, passed=False, text=text, key="bounds.require"))
    return found


# -- the folder ------------------------------------------------------------------------------------


def _judge_integrity(problems: Sequence[str], mend: str) -> Judgement:
    listed = list(problems[:MAX_LISTED])
    if len(problems) > MAX_LISTED:
        listed.append(f"and {len(problems) - MAX_LISTED} more")
    if problems:
        listed.append(f"to make it right: {mend}")
    return Judgement(
        gate="integrity",
        passed=not problems,
        text="; ".join(listed) or "every file is what its stage wrote",
        present=counted(len(problems), "problem"),
        bound="none",
    )


def _judge_labels(folder: Folder, known: Known | None) -> Judgement:
    """labels.txt against the contract, and both against the baseline."""
    problems = [folder.labels_problem] if folder.labels_problem else []
    bound = "as in the contract"
    if known is not None:
        bound = _short(known.baseline.hash.labels)
        if folder.labels_sha256 != known.baseline.hash.labels:
            problems.append("other class names, or another order, than the baseline's")
    return Judgement(
        gate="labels",
        passed=not problems,
        text="; ".join(problems) or "the classes and their order are unchanged",
        present=_short(folder.labels_sha256),
        bound=bound,
        key="hash.labels",
    )


def _judge_contract(folder: Folder, known: Known) -> Judgement:
    same = folder.contract_sha256 == known.baseline.hash.contract
    other = (
        "another input contract than the baseline's: size, colour, resizing, normalisation or"
        " class names"
    )
    return Judgement(
        gate="contract",
        passed=same,
        text="a pixel means what it meant in the baseline" if same else other,
        present=_short(folder.contract_sha256),
        bound=_short(known.baseline.hash.contract),
        key="hash.contract",
    )


def _judge_evaluation_set(folder: Folder, known: Known | None) -> Judgement:
    gate, present = "evaluation_set", f"{folder.eval_count} images, {_short(folder.eval_sha256)}"
    if known is not None:
        other = known.other_images(folder.eval_sha256, folder.eval_count)
        accepted = known.baseline
        return Judgement(
            gate=gate,
            passed=not other,
            text=other or "the baseline's images and labels, in its order",
            present=present,
            bound=f"{accepted.result.samples} images, {_short(accepted.hash.evaluation_set)}",
            key="hash.evaluation_set",
        )
    if folder.eval_recorded is None:
        return skip(gate, "nothing recorded yet: ndtool export RUN --int8")
    same = folder.eval_sha256 == folder.eval_recorded
    return Judgement(
        gate=gate,
        passed=same,
        text="the images that export measured" if same else "other images than export measured",
        present=present,
        bound=_short(folder.eval_recorded),
    )


def _short(sha256: Sha256) -> str:
    return f"sha256 {sha256[:12]}..."


# -- figures and hops ------------------------------------------------------------------------------


def _judge_metrics(evidence: Evidence) -> Judgement:
    """Recorded figures are never believed; one that is not found again is named."""
    recorded, measured = evidence.recorded, {**evidence.near, **evidence.measured}
    keys = sorted(recorded.keys() & measured.keys())
    if not keys:
        return skip("metrics", "nothing that was recorded could be measured again")
    slack = max(NEAR_SHARE, NEAR_IMAGES / len(evidence.truth))
    wrong = [
        key
        for key in keys
        if not _is_found_again(
            recorded[key], measured[key], 0.0 if key in evidence.measured else slack
        )
    ]
    differ = (f"{key} recorded {recorded[key]}, measured {measured[key]}" for key in wrong)
    return Judgement(
        gate="metrics",
        passed=not wrong,
        text="; ".join(differ) or f"measured as recorded: {', '.join(keys)}",
        present=f"{len(wrong)} of {len(keys)} figures differ",
        bound="none",
    )


def _is_found_again(recorded: Value, measured: Value, slack: float) -> bool:
    """The same figure, or where there is slack two shares of the images that differ by no more."""
    if slack and isinstance(recorded, float | int) and isinstance(measured, float | int):
        return abs(recorded - measured) <= slack
    return recorded == measured


def _judge_onnx(evidence: Evidence) -> Judgement:
    """The logits of ONNX against torch's, relative to the largest one where that is above 1."""
    for before, row in pairwise(evidence.rows):
        if (before.hop, row.hop) == (Hop.FLOAT, Hop.ONNX) and row.max_abs_diff is not None:
            allowed = PARITY * max(1.0, before.largest_output)
            return Judgement(
                gate="onnx",
                passed=row.max_abs_diff <= allowed,
                text=f"logits differ from the float model's by at most {row.max_abs_diff:.2g},"
                f" {allowed:.2g} allowed",
                present=f"{row.max_abs_diff:.2g}",
                bound=f"at most {allowed:.2g}",
            )
    return skip("onnx", "float model and ONNX were not both run")


def _judge_c(evidence: Evidence, allowed: int) -> Judgement:
    """The C against the reference interpreter, byte for byte; `allowed` images may differ.

    C that was not run is no pass, and a failure where that is the C's own fault.
    """
    gate, key, bound = "c", "bounds.c_mismatch", f"at most {allowed} images differ"
    row = evidence.row(Hop.C)
    if row is None:
        why = evidence.why_no_c
        passed = False if why.failed else None
        return Judgement(gate=gate, passed=passed, text=why.text, bound=bound, key=key)
    if row.differing is None:
        why_not = "the int8 hop did not run on tflite_micro, the reference of the C"
        return skip(gate, why_not, bound=bound, key=key)
    present = f"{row.differing} of {row.accuracy.count} images differ"
    return Judgement(
        gate=gate,
        passed=row.differing <= allowed,
        text=f"{present} from tflite_micro in a byte",
        present=present,
        bound=bound,
        key=key,
    )
