"""Rules of `check` over the hops of the chain: pure functions over counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction

from ndtool.evaluate import Accuracy, drop_points
from ndtool.types import Hop, Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class HopRow:
    """One hop on the evaluation set. Agreement and difference are against the hop before."""

    hop: Hop
    engine: str  # what computed it
    accuracy: Accuracy
    agreement: float | None  # share of samples with the same class, 0..1
    max_abs_diff: float | None  # largest difference of the real-valued outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One gate's verdict; `passed` is None when it could not be judged."""

    gate: str
    passed: bool | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The table of hops and what the gates say of it."""

    rows: tuple[HopRow, ...]
    judgements: tuple[Judgement, ...]
    eval_count: int
    eval_sha256: Sha256

    @property
    def passed(self) -> bool:
        """Whether no judged gate failed."""
        return all(j.passed is not False for j in self.judgements)

    def document(self) -> dict[str, object]:
        """The --json form."""
        return {
            "schema": "ndtool.check/1",
            "verdict": "pass" if self.passed else "fail",
            "eval_count": self.eval_count,
            "eval_sha256": self.eval_sha256,
            "hops": [
                {
                    "hop": row.hop.value,
                    "engine": row.engine,
                    "correct": row.accuracy.correct,
                    "count": row.accuracy.count,
                    "accuracy": row.accuracy.fraction,
                    "agreement": row.agreement,
                    "max_abs_diff": row.max_abs_diff,
                }
                for row in self.rows
            ],
            "gates": [asdict(judgement) for judgement in self.judgements],
        }


def judge_hops(
    rows: list[HopRow], *, max_drop_points: float, min_accuracy: float | None
) -> list[Judgement]:
    """Drop from the first hop to each later one, and the floor of the last.

    Exactly at a bound passes (users.md, 5.1); counts are compared, never rounded percent.
    """
    verdicts = []
    bound = Fraction(repr(max_drop_points))
    if len(rows) < 2:
        verdicts.append(
            Judgement(
                gate="drop", passed=None, text="only one hop could be run: nothing to compare"
            )
        )
    for row in rows[1:]:
        drop = drop_points(rows[0].accuracy, row.accuracy)
        verdicts.append(
            Judgement(
                gate=f"drop:{row.hop.value}",
                passed=drop <= bound,
                text=f"{rows[0].hop.value} to {row.hop.value} {float(drop):+.2f} points lost,"
                f" at most {max_drop_points:g} allowed",
            )
        )
    if min_accuracy is not None and rows:
        last = rows[-1]
        good = last.accuracy.exact >= Fraction(repr(min_accuracy))
        verdicts.append(
            Judgement(
                gate="accuracy",
                passed=good,
                text=f"{last.hop.value} {last.accuracy.text},"
                f" at least {100 * min_accuracy:.2f} % demanded",
            )
        )
    return verdicts
