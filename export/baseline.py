"""`ndtool baseline`: the evaluation of `check`, held against a baseline or made one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ndtool import __version__
from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.errors import ConfigError, GateError, raise_all
from ndtool.export.c_sizes import DEFAULT_CORE
from ndtool.export.checking import Gathered, check_run, gather
from ndtool.export.student import load_student_spec
from ndtool.files import (
    require_writable,
    sha256_bytes,
)
from ndtool.gates.accept import (
    Change,
    Comparison,
    Request,
    Setting,
    accept,
    changes,
    compare,
    read_settings,
)
from ndtool.gates.baseline import Accepted, Baseline, reason_problem
from ndtool.gates.baseline_file import load_known, predictions_of, require_place, save_known
from ndtool.gates.evidence import Evidence, Known
from ndtool.gates.rules import judge_folder, judge_models, require_judged
from ndtool.gates.verdict import Judgement, Verdict
from ndtool.options import CheckOptions
from ndtool.rundir import (
    STUDENT_SPEC,
    RunDir,
)
from ndtool.types import Policy, Runtime

# Gates that a run must pass to be accepted, whatever the bounds are (users.md, 5.5)
_NEEDED = ("integrity", "labels", "contract", "evaluation_set", "metrics", "c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A baseline, and what `check` says of a run against it."""

    baseline: Baseline
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptOptions:
    """`settings`: words KEY=VALUE; `policy` None: the old baseline's, of a first one `paired`."""

    reason: str
    settings: tuple[str, ...] = ()
    policy: Policy | None = None
    lower_floor: bool = False
    runtime: Runtime = Runtime.TFLM
    workers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What `accept` wrote. `failing`: gates that the run fails against its own new baseline."""

    baseline: Baseline
    first: bool
    changes: tuple[Change, ...]
    comparison: Comparison | None
    failing: tuple[Judgement, ...]


def show_baseline(run: RunDir, path: Path, *, data: str, runtime: Runtime, workers: int) -> Shown:
    """Evaluate the run against the baseline at `path`, also where the folder is damaged.

    Raises:
        As `gather`.
    """
    known = load_known(path)
    options = CheckOptions(baseline=str(path), keep_going=True, runtime=runtime, workers=workers)
    return Shown(baseline=known.baseline, verdict=check_run(run, options, data=data))


def accept_baseline(run: RunDir, path: Path, options: AcceptOptions, *, data: str) -> Outcome:
    """Evaluate the run, and write it as the baseline at `path`; nothing is written on an error.

    Args:
        data: another place for the run's data; "" for the one it was trained on.

    Raises:
        ConfigError: a reason, a name or a setting that is none.
        GateError: a gate fails that no baseline can excuse, or the run is under an old floor, or
            the old baseline is of other classes or another contract.
        And as `gather`.
    """
    require_place(path)
    require_writable(path, "--baseline")
    _require_reason(options.reason)
    contract = run.contract()
    known = load_known(path) if path.exists() else None
    if known is not None and not run.problems():  # a damaged run is refused as such, below
        _require_same_project(known.baseline, path, contract)
    settings = read_settings(options.settings, contract.labels, known)
    core = _core(known, settings)
    found = gather(
        run,
        CheckOptions(
            baseline=str(path) if known is not None else "",
            keep_going=True,
            runtime=options.runtime,
            workers=options.workers,
        ),
        data=data,
        core=core,
    )
    evidence = _require_acceptable(run, found)
    request = Request(
        name=path.stem,
        accepted=Accepted(
            reason=options.reason, tool=__version__, model=_model_text(run, contract)
        ),
        core=core,
        settings=settings,
        policy=options.policy,
        lower_floor=options.lower_floor,
    )
    new = accept(found.folder, evidence, known, request)
    save_known(path, new)
    old = None if known is None else known.baseline
    return Outcome(
        baseline=new.baseline,
        first=known is None,
        changes=tuple(changes(old, new.baseline)),
        comparison=compare(known, evidence),
        failing=_failing(found, evidence, new),
    )


def _require_reason(text: str) -> None:
    if (problem := reason_problem(text)) is not None:
        raise ConfigError(
            problem,
            where=f"--reason {visible(text)}",
            remedy="say why this result is the one to hold others against",
            code="option.reason",
        )


def _require_same_project(old: Baseline, path: Path, contract: Contract) -> None:
    """Refuse to replace the baseline of what is another project by its classes or contract."""
    what = ""
    if sha256_bytes(contract.labels_file()) != old.hash.labels:
        what = "other classes, or another order of them"
    elif contract.sha256() != old.hash.contract:
        what = "another input contract (size, colour, resizing or normalisation)"
    if what:
        both = " ".join(shlex.quote(str(file)) for file in (path, predictions_of(path)))
        raise GateError(
            f"this run cannot replace the baseline: the run has {what}",
            where=visible(str(path)),
            remedy=f"--baseline OTHER.toml for another project, or delete the old files: {both}",
            code="gate.not-acceptable",
        )


def _core(known: Known | None, settings: Sequence[Setting]) -> str:
    """The core to measure on; empty: where the bounds of the old baseline say."""
    asked = [s for s in settings if s.table in ("flash_bytes", "instructions")]
    if known is not None and not asked:
        return ""
    named = [s.value for s in asked if s.key == "core" and isinstance(s.value, str)]
    old = None if known is None else known.baseline.bounds.instructions
    if old is not None and old.core is not None:
        named.append(old.core)
    return named[0] if named else DEFAULT_CORE


def _require_acceptable(run: RunDir, found: Gathered) -> Evidence:
    """What was measured, of a run that passes what needs no baseline.

    Raises:
        GateError: it does not, or has no int8 model; all gates that fail.
    """
    judgements = list(judge_folder(found.folder, None).judgements)
    if found.evidence is not None:
        judgements += judge_models(found.evidence, found.bounds, None).judgements
    failed = [j for j in judgements if j.passed is False and j.gate in _NEEDED]
    raise_all([_not_acceptable(run, f"{j.name}: {j.text}") for j in failed])
    if found.evidence is None:
        raise _not_acceptable(run, found.stopped)
    if found.evidence.predicted is None:
        raise _not_acceptable(run, "there is no int8 model: ndtool export RUN --int8")
    return found.evidence


def _not_acceptable(run: RunDir, why: str) -> GateError:
    return GateError(
        f"this run cannot be a baseline: {why}",
        where=visible(str(run.path)),
        remedy="mend that first: ndtool check RUN says more",
        code="gate.not-acceptable",
    )


def _failing(found: Gathered, evidence: Evidence, new: Known) -> tuple[Judgement, ...]:
    """What `check` will not let pass, since bounds stay as they are."""
    bounds = new.baseline.bounds
    judged = [
        *judge_folder(found.folder, new).judgements,
        *judge_models(evidence, bounds, new).judgements,
    ]
    return tuple(j for j in require_judged(judged, bounds.require) if j.passed is False)


def _model_text(run: RunDir, contract: Contract) -> str:
    """`mbv2 w0.35 96x96`."""
    size = f"{contract.input.height}x{contract.input.width}"
    if not run.has(STUDENT_SPEC):
        return f"imported {size}"
    spec = load_student_spec(run)
    return f"{spec.model} w{spec.width:g} {size}"
