"""What `check` says: the table of hops, a judgement for each gate, and the figures behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from ndtool.evaluate import Accuracy, wilson_interval
from ndtool.rundir import Value
from ndtool.types import Hop, Sha256

WORDS: Final[Mapping[bool | None, str]] = {True: "PASS", False: "FAIL", None: "SKIP"}

# In the order of judging. HASHES is what the word `hashes` of a baseline's `require` stands for.
HASHES: Final = ("integrity", "labels", "contract", "evaluation_set")
GATES: Final = (
    *HASHES,
    *("metrics", "determinism", "accuracy", "drop", "recall", "float_int8", "onnx", "c"),
    *("arena", "flash", "instructions", "ops"),
)
HOP_HEAD: Final = ("hop", "accuracy", "95 % interval", "agreement", "max diff", "engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class HopRow:
    """One hop on the evaluation set. Agreement and difference are against the hop before."""

    hop: Hop
    engine: str  # what computed it
    accuracy: Accuracy
    agreement: float | None  # share of samples with the same class, 0..1
    max_abs_diff: float | None  # largest difference of the real-valued outputs
    largest_output: float = 1.0  # largest |real-valued output|
    differing: int | None = None  # C: samples with another output byte than the reference's

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table for people, under HOP_HEAD."""
        return (
            self.hop.value,
            self.accuracy.text,
            "{:.1%} to {:.1%}".format(*wilson_interval(self.accuracy)),
            "-" if self.agreement is None else f"{self.agreement:.2%}",
            "-" if self.max_abs_diff is None else f"{self.max_abs_diff:.3g}",
            self.engine,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One gate's verdict.

    `passed` is None when it could not be judged, which `text` explains and which is never a pass.
    `subject` is what of several the gate is about: the label of a recall. `text`, `subject`,
    `present` and `bound` may hold foreign text as it is: every output escapes it in its own way.
    `key` is the bound's place in the baseline file, `bounds.max_drop`; empty where it has none.
    """

    gate: str
    passed: bool | None
    text: str
    subject: str = ""
    present: str = ""
    bound: str = ""
    key: str = ""

    @property
    def name(self) -> str:
        """`drop`, `recall:daisy`."""
        return f"{self.gate}:{self.subject}" if self.subject else self.gate


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Everything that an output of `check` shows.

    `against` is the first line: which baseline and policy, or that there is none. `figures` are
    those measured again, by the keys of metrics.json. `notices` are neither pass nor fail.
    """

    run: str
    against: str
    rows: tuple[HopRow, ...]
    judgements: tuple[Judgement, ...]
    notices: tuple[str, ...]
    eval_count: int
    eval_sha256: Sha256
    recall: Mapping[str, Accuracy]  # of the int8 hop, by label; classes without images left out
    figures: Mapping[str, Value]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no gate failed; one that must be judged and could not is a failed one."""
        return all(j.passed is not False for j in self.judgements)

    @property
    def failed(self) -> tuple[Judgement, ...]:
        """The gates that failed, in the order of judging."""
        return tuple(j for j in self.judgements if j.passed is False)

    def document(self) -> dict[str, object]:
        """The --json form."""
        return {
            "schema": "ndtool.check/1",
            "verdict": "pass" if self.passed else "fail",
            "run": self.run,
            "against": self.against,
            "eval_count": self.eval_count,
            "eval_sha256": self.eval_sha256,
            "hops": [
                {
                    "hop": row.hop.value,
                    "engine": row.engine,
                    "correct": row.accuracy.correct,
                    "count": row.accuracy.count,
                    "accuracy": row.accuracy.fraction,
                    "interval_95": list(wilson_interval(row.accuracy)),
                    "agreement": row.agreement,
                    "max_abs_diff": _finite(row.max_abs_diff),
                    "differing": row.differing,
                }
                for row in self.rows
            ],
            "recall": {label: found.fraction for label, found in self.recall.items()},
            "gates": [asdict(judgement) for judgement in self.judgements],
            "notices": list(self.notices),
            "figures": dict(self.figures),
            "seconds": self.seconds,
        }


def _finite(value: float | None) -> float | None:
    """JSON has no NaN: outputs of a broken model differ by nothing that can be said."""
    return value if value is not None and math.isfinite(value) else None
