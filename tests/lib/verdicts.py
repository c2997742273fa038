"""Verdicts to be shown, with whatever names."""

from __future__ import annotations

from collections.abc import Sequence

from ndtool.evaluate import Accuracy
from ndtool.gates.verdict import HopRow, Judgement, Verdict
from ndtool.types import Hop, Sha256

ROWS = (
    HopRow(
        hop=Hop.FLOAT,
        engine="torch 2.13",
        accuracy=Accuracy(39, 40),
        agreement=None,
        max_abs_diff=None,
    ),
    HopRow(
        hop=Hop.INT8,
        engine="tflite_micro 0",
        accuracy=Accuracy(38, 40),
        agreement=0.975,
        max_abs_diff=0.0125,
    ),
)
PASSED = Judgement(gate="integrity", passed=True, text="every file is what its stage wrote")
FAILED = Judgement(
    gate="drop",
    passed=False,
    text="2.50 points lost",
    present="2.50 points",
    bound="at most 1.00",
    key="bounds.max_drop",
)
SKIPPED = Judgement(gate="flash", passed=None, text="not judged: no arm-none-eabi-gcc")


def recalls(labels: Sequence[str]) -> tuple[Judgement, ...]:
    """A failed floor for each label, which is in each text."""
    return tuple(
        Judgement(
            gate="recall",
            subject=label,
            passed=False,
            text=f"of '{label}' too few are found",
            present=f"{label} 10.0 %",
            bound=f"{label} 20.0 %",
            key="bounds.min_recall_percent",
        )
        for label in labels
    )


def make_verdict(
    judgements: Sequence[Judgement] = (PASSED, FAILED, SKIPPED),
    *,
    labels: Sequence[str] = ("daisy", "roses"),
    notices: Sequence[str] = (),
    run: str = "runs/x",
    against: str = "baseline main, policy paired",
) -> Verdict:
    """Of two hops; recall of label k is k of len(labels)."""
    return Verdict(
        run=run,
        against=against,
        rows=ROWS,
        judgements=tuple(judgements),
        notices=tuple(notices),
        eval_count=40,
        eval_sha256=Sha256("0" * 64),
        recall={label: Accuracy(k, len(labels)) for k, label in enumerate(labels)},
        figures={"arena_bytes": 41216, "model_sha256": "ab" * 32, "bit_exact": None},
        seconds=1.5,
    )
