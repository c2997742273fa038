"""Rules of `check` over the hops of the chain: pure functions over counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final

from ndtool.evaluate import Accuracy, drop_points, wilson_interval
from ndtool.rundir import Value
from ndtool.types import Hop, Sha256

# ONNX against torch: other summation order; a wrong layout or fold gives a hundred times more
PARITY: Final = 1e-4


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
    recall: Mapping[str, Accuracy]  # of the last hop, by label; classes without images left out

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
                    "interval_95": list(wilson_interval(row.accuracy)),
                    "agreement": row.agreement,
                    "max_abs_diff": row.max_abs_diff,
                    "differing": row.differing,
                }
                for row in self.rows
            ],
            "recall": {label: found.fraction for label, found in self.recall.items()},
            "gates": [asdict(judgement) for judgement in self.judgements],
        }


def judge_hops(
    rows: Sequence[HopRow], *, max_drop_points: float, min_accuracy: float | None
) -> list[Judgement]:
    """Parity of ONNX, drop from the first hop to each later one, and the floor of int8.

    Exactly at a bound passes (users.md, 5.1); counts are compared, never rounded percent.
    """
    verdicts = []
    if len(rows) < 2:
        only = "only one hop could be run: nothing to compare"
        verdicts.append(Judgement(gate="drop", passed=None, text=only))
    for before, row in pairwise(rows):
        if (before.hop, row.hop) == (Hop.FLOAT, Hop.ONNX) and row.max_abs_diff is not None:
            bound = PARITY * max(1.0, before.largest_output)
            verdicts.append(
                Judgement(
                    gate="parity:onnx",
                    passed=row.max_abs_diff <= bound,
                    text=f"logits differ from torch by at most {row.max_abs_diff:.2g},"
                    f" {bound:.2g} allowed",
                )
            )
    allowed = Fraction(repr(max_drop_points))
    for row in rows[1:]:
        drop = drop_points(rows[0].accuracy, row.accuracy)
        verdicts.append(
            Judgement(
                gate=f"drop:{row.hop.value}",
                passed=drop <= allowed,
                text=f"{rows[0].hop.value} to {row.hop.value} {float(drop):+.2f} points lost,"
                f" at most {max_drop_points:g} allowed",
            )
        )
    if min_accuracy is not None:
        verdicts.append(_judge_floor(rows, min_accuracy))
    return verdicts


def _judge_floor(rows: Sequence[HopRow], floor: float) -> Judgement:
    """A floor that cannot be judged is not passed: the user asked for it."""
    int8 = next((row for row in rows if row.hop is Hop.INT8), None)
    demanded = f"at least {100 * floor:.2f} % demanded"
    if int8 is None:
        return Judgement(gate="accuracy", passed=False, text=f"no int8 model, {demanded}")
    return Judgement(
        gate="accuracy",
        passed=int8.accuracy.exact >= Fraction(repr(floor)),
        text=f"int8 {int8.accuracy.text}, {demanded}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoC:
    """Why the C gave no answers. `failed`: there is C, and a compiler, but it does not run."""

    text: str
    failed: bool


def judge_c(rows: Sequence[HopRow], why: NoC) -> Judgement:
    """The C against the reference interpreter, byte for byte: one image that differs fails.

    Args:
        why: what to say when there is no row of the C; then it was not judged, which is no pass,
            unless it is the C's own fault.
    """
    gate = "parity:c"
    row = next((row for row in rows if row.hop is Hop.C), None)
    if row is None:
        passed, text = (False, why.text) if why.failed else (None, f"not judged: {why.text}")
        return Judgement(gate=gate, passed=passed, text=text)
    if row.differing is None:
        text = "not judged: the int8 hop did not run on tflite_micro, the reference of the C"
        return Judgement(gate=gate, passed=None, text=text)
    text = f"{row.differing} of {row.accuracy.count} images differ from tflite_micro in a byte"
    return Judgement(gate=gate, passed=row.differing == 0, text=text)


def judge_folder(
    problems: Sequence[str], rows: Sequence[HopRow], recorded: Mapping[str, Value], eval_sha256: str
) -> list[Judgement]:
    """Do the folder's files hold together, and do its recorded figures speak of these images?

    Args:
        problems: of `RunDir.problems`.
        recorded: figures of the predict stage, and of the verify stage if there is one.
        eval_sha256: of the evaluation set just read.
    """
    verdicts = [
        Judgement(
            gate="integrity",
            passed=not problems,
            text="; ".join(problems) or "every file is what its stage wrote",
        )
    ]
    known = recorded.get("eval_sha256")
    if known is None:
        text = "nothing recorded yet: ndtool export RUN --int8"
        verdicts.append(Judgement(gate="eval_set", passed=None, text=text))
        return verdicts
    same = known == eval_sha256
    text = "the images that export measured" if same else "other images than export measured"
    verdicts.append(Judgement(gate="eval_set", passed=same, text=text))
    for row in rows:
        stored = recorded.get(f"accuracy_{row.hop.value}")
        # Integers are the same everywhere; floats can tip a sample on another machine.
        reference = row.hop is Hop.INT8 and row.engine.startswith("tflite-micro")
        if same and (reference or (row.hop is Hop.C and stored is not None)):
            found = row.accuracy.fraction
            verdicts.append(
                Judgement(
                    gate="metrics" if reference else "metrics:c",
                    passed=stored == found,
                    text=f"accuracy_{row.hop.value} recorded {stored}, measured {found}",
                )
            )
    return verdicts
