"""What the rules of `check` judge: the folder, the models, the accepted baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ndtool.gates.baseline import U16, Baseline
from ndtool.gates.verdict import HopRow, Judgement
from ndtool.rundir import Value
from ndtool.types import Hop, Sha256

I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """An accepted baseline as `check` uses it: the file's content and its predictions (N,)."""

    baseline: Baseline
    predicted: U16

    def other_images(self, eval_sha256: Sha256, count: int) -> str:
        """How an evaluation set differs from the baseline's; empty when it does not."""
        if eval_sha256 != self.baseline.hash.evaluation_set:
            return (
                "another evaluation set than the baseline's (images, labels or their order): no"
                " accuracy is judged against it"
            )
        if len(self.predicted) != count:
            return f"the baseline predicts {len(self.predicted)} images, the set has {count}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """What the run folder says before any model is run; hashes are of what is there now.

    `problems`: of `RunDir.problems`, and files of the C that no stage wrote; `mend`: the commands
    that make them right. `labels_problem`: how labels.txt differs from the contract,
    empty when it does not. `eval_recorded`: the evaluation set that the predict stage measured.
    """

    problems: tuple[str, ...]
    mend: str
    labels_problem: str
    labels_sha256: Sha256
    contract_sha256: Sha256
    eval_sha256: Sha256
    eval_count: int
    eval_recorded: Sha256 | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A figure of the C on a core: `value`, or None and `why` it was not measured.

    `failed`: that is the C's own fault: it does not compile, fit or run. `toolchain`: name ->
    version line of what measured it.
    """

    value: int | None
    why: str = ""
    failed: bool = False
    toolchain: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoC:
    """Why the C gave no answers. `failed`: there is C, and a compiler, but it does not run."""

    text: str
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What `check` measured. `labels`: the contract's; `truth` (N,) the label of each image.

    `eval_sha256`: of the evaluation set. `predicted` (N,): classes of the int8 hop, None where it
    could not be run. `model_sha256`: of the int8 file. `recorded` and `measured`: figures by the
    keys of metrics.json, as the stages recorded them and as they were found again; only keys in
    both are compared. `measured` holds none that another machine's floats can tip: those are in
    `near`, and may differ a little.
    `unread`: why nothing is known of the int8 file's operators and arena, for want of a package.
    `arena_bytes`: of the C, the larger of what its header says and of our own plan. `flash`,
    `instructions`: by building the C for the core of the baseline's bound.
    """

    labels: tuple[str, ...]
    truth: I64
    eval_sha256: Sha256
    rows: tuple[HopRow, ...]
    predicted: I64 | None
    model_sha256: Sha256 | None
    recorded: Mapping[str, Value]
    measured: Mapping[str, Value]
    near: Mapping[str, Value]
    why_no_c: NoC
    arena_bytes: int | None
    ops: tuple[str, ...]
    flash: Measured
    instructions: Measured
    unread: str = ""

    @property
    def no_graph(self) -> str:
        """Why there are no operators and no arena to judge; empty where there are."""
        return "no int8 model" if self.model_sha256 is None else self.unread

    def row(self, hop: Hop) -> HopRow | None:
        """The row of one hop."""
        return next((row for row in self.rows if row.hop is hop), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Judgements in the order of users.md 5.3, and what is worth a notice."""

    judgements: tuple[Judgement, ...]
    notices: tuple[str, ...] = ()


def skip(gate: str, why: str, *, bound: str = "", key: str = "") -> Judgement:
    """A gate that could not be judged."""
    return Judgement(gate=gate, passed=None, text=why, bound=bound, key=key)
