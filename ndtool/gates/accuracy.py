"""Rules of `check` about predictions: determinism, accuracy, drop, recall (users.md, 5.3 and 5.4).

Accuracy is that of the int8 hop. `apart` is everywhere why the predictions cannot be held against
the baseline's images; empty where they can.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Final

import numpy as np

from ndtool.console import counted
from ndtool.evaluate import Accuracy, drop_points, recall_counts
from ndtool.gates.baseline import U16, Bounds, Paired
from ndtool.gates.evidence import I64, Evidence, Judged, Known, skip
from ndtool.gates.paired import Discordant
from ndtool.gates.verdict import Judgement
from ndtool.types import Hop, Policy

NO_INT8: Final = "no int8 model was run"


def judge_determinism(evidence: Evidence, known: Known, apart: str) -> Judgement:
    """The same model must predict the same."""
    gate, key = "determinism", "hash.predictions"
    if apart or evidence.predicted is None:
        return skip(gate, apart or NO_INT8, key=key)
    if evidence.model_sha256 != known.baseline.hash.model_int8:
        return skip(gate, "another model than the baseline's", key=key)
    differing = np.flatnonzero(known.predicted != evidence.predicted)
    text = "the same model predicts what it predicted"
    if differing.size:
        text = (
            f"the same model predicts another class for {counted(differing.size, 'image')}, first"
            f" for image {differing[0]} of the set: the engine, a library or the machine changed"
        )
    return Judgement(
        gate=gate,
        passed=not differing.size,
        text=text,
        present=f"{differing.size} of {len(evidence.truth)} predictions differ",
        bound="none",
        key=key,
    )


def judge_accuracy(evidence: Evidence, bounds: Bounds, apart: str) -> list[Judgement]:
    """The absolute floor, if there is one; without an int8 model it is not passed."""
    gate, key, floor = "accuracy", "bounds.min_accuracy_percent", bounds.min_accuracy_percent
    if floor is None:
        return []
    bound = f"at least {floor:f} %"
    row = evidence.row(Hop.INT8)
    if row is None:
        text = f"{NO_INT8}, {bound} demanded"
        return [Judgement(gate=gate, passed=False, text=text, bound=bound, key=key)]
    if apart:
        return [skip(gate, apart, bound=bound, key=key)]
    return [
        Judgement(
            gate=gate,
            passed=100 * row.accuracy.exact >= Fraction(floor),
            text=f"int8 {row.accuracy.text}, {bound} demanded",
            present=row.accuracy.text,
            bound=bound,
            key=key,
        )
    ]


def judge_drop(pair: Discordant | None, bounds: Bounds, known: Known, apart: str) -> Judgement:
    """Is the model worse than the baseline's on the same images, by the policy in force?

    Args:
        pair: baseline against now; None where they cannot be compared. No int8 model at all is
            worse than any.
    """
    setting, key, bound = _policy(bounds)
    if pair is None and apart:
        return skip("drop", apart, bound=bound, key=key)
    if pair is None:
        return Judgement(gate="drop", passed=False, text=NO_INT8, bound=bound, key=key)
    present = f"{_points(pair.drop_points)} points, p = {pair.p_value:.4g}"
    said = f"policy {bounds.policy.value}"
    if bounds.policy is not known.baseline.bounds.policy:
        said += f" (given), the baseline says {known.baseline.bounds.policy.value}"
    smallest = pair.resolution_points
    text = (
        f"{counted(pair.lost, 'image')} lost, {pair.gained} gained of {pair.count}: drop {present};"
        f" {bound}; {said}; this set can show drops of about {_two_digits(smallest)} points"
    )
    if bounds.policy is Policy.STRICT and Fraction(smallest) > Fraction(bounds.max_drop):
        text += ", so strict fails harmless retrains by chance: policy paired is recommended"
    return Judgement(
        gate="drop",
        passed=not _breaks(pair, setting),
        text=text,
        present=present,
        bound=bound,
        key=key,
    )


def gain_of_accuracy(pair: Discordant, bounds: Bounds) -> str:
    """What is better than the baseline by the same rule the other way round; empty for nothing."""
    setting, _, _ = _policy(bounds)
    better = _breaks(pair.swapped, setting)
    return f"accuracy {_points(-pair.drop_points)} points higher" if better else ""


def _policy(bounds: Bounds) -> tuple[Paired, str, str]:
    """The setting of the one rule, its key in the baseline file, and the bound in words.

    Strict looks at the drop alone: floor and cap are its one bound, so p never decides.
    """
    match bounds.policy:
        case Policy.STRICT:
            most = bounds.max_drop
            setting = replace(bounds.paired, floor=most, cap=most)
            return setting, "bounds.max_drop", f"at most {most:f} points"
        case Policy.PAIRED:
            paired = bounds.paired
            words = f"at most {paired.floor:f} points, {paired.cap:f} unless p < {paired.alpha:f}"
            return paired, "bounds.paired", words


def _breaks(pair: Discordant, setting: Paired) -> bool:
    alpha, floor, cap = Fraction(setting.alpha), Fraction(setting.floor), Fraction(setting.cap)
    return pair.breaks(alpha=alpha, floor=floor, cap=cap)


def judge_recall(evidence: Evidence, bounds: Bounds, known: Known | None, apart: str) -> Judged:
    """One judgement for each class that has a floor or is lost, or one for all of them together.

    Lost: predicted in the baseline, never now. A class with a floor of which the set has no image
    gives a notice.
    """
    gate, key, floors = "recall", "bounds.min_recall_percent", bounds.min_recall_percent
    if known is None and not floors:
        return Judged(judgements=())
    if apart or evidence.predicted is None:
        return Judged(judgements=(skip(gate, apart or NO_INT8, key=key),))
    recalls = recall_counts(evidence.predicted, evidence.truth, len(evidence.labels))
    lost = {} if known is None else _lost_classes(known.predicted, evidence.predicted)
    judgements, notices = [], []
    for index, (label, recall) in enumerate(zip(evidence.labels, recalls, strict=True)):
        floor = floors.get(label)
        if index in lost:
            judgements.append(_lost_class(label, recall, lost.pop(index)))
        elif floor is not None and recall is None:
            notices.append(f"recall of {label} not judged: the set has no image of it")
        elif floor is not None and recall is not None:
            bound = f"at least {floor:f} %"
            judgements.append(
                Judgement(
                    gate=gate,
                    passed=100 * recall.exact >= Fraction(floor),
                    text=f"{recall.text} found, {bound} demanded",
                    subject=label,
                    present=recall.text,
                    bound=bound,
                    key=f"{key}.{label}",  # the line of that class
                )
            )
    unknown = {label: f"at least {floors[label]:f} %" for label in floors.keys() - evidence.labels}
    unknown |= {f"class {index}": f"predicted {times} times" for index, times in lost.items()}
    for label, bound in sorted(unknown.items()):
        text = f"the contract has no such class, the baseline says: {bound}"
        judgements.append(
            Judgement(gate=gate, passed=False, text=text, subject=label, bound=bound, key=key)
        )
    if not judgements and known is not None:
        text = "every class that the baseline predicts is still predicted"
        judgements.append(Judgement(gate=gate, passed=True, text=text, key=key))
    return Judged(judgements=tuple(judgements), notices=tuple(notices))


def _lost_classes(before: U16, now: I64) -> dict[int, int]:
    """Class -> times predicted before, of those never predicted now."""
    classes, times = np.unique(before, return_counts=True)
    still = set(np.unique(now).tolist())
    pairs = zip(classes.tolist(), times.tolist(), strict=True)
    return {index: count for index, count in pairs if index not in still}


def _lost_class(label: str, recall: Accuracy | None, times: int) -> Judgement:
    """Fails whatever the floor: a class that is never predicted is gone."""
    found = "the set has no image of it" if recall is None else f"{recall.text} found"
    return Judgement(
        gate="recall",
        passed=False,
        text=f"lost class: predicted {times} times in the baseline and never now; {found}",
        subject=label,
        present="never predicted",
        bound="predicted at all",
        key="hash.predictions",
    )


def judge_float_int8(evidence: Evidence, bounds: Bounds) -> Judgement:
    """What quantisation costs: from float, or where it was not run from ONNX, to int8."""
    gate, key = "float_int8", "bounds.max_float_int8_drop"
    bound = f"at most {bounds.max_float_int8_drop:f} points"
    first, int8 = evidence.row(Hop.FLOAT) or evidence.row(Hop.ONNX), evidence.row(Hop.INT8)
    if first is None or int8 is None:
        why = NO_INT8 if int8 is None else "only int8 was run: nothing to compare it with"
        return skip(gate, why, bound=bound, key=key)
    drop = drop_points(first.accuracy, int8.accuracy)
    return Judgement(
        gate=gate,
        passed=drop <= Fraction(bounds.max_float_int8_drop),
        text=f"{first.hop.value} {first.accuracy.text}, int8 {int8.accuracy.text}: drop"
        f" {_points(drop)} points; {bound}",
        present=f"{_points(drop)} points from {first.hop.value}",
        bound=bound,
        key=key,
    )


def _points(drop: Fraction) -> str:
    return f"{float(drop):.2f}"


def _two_digits(points: float) -> str:
    return f"{points:.2f}" if points < 1 else f"{points:.1f}"
