"""`ndtool check`: run every hop's model on the test images and judge; writes nothing.

The order of users.md 5.1: what the folder holds, labels, evaluation set, then the models. Nothing
that a file says of accuracy or size is believed: all of it is found again, and held against it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Final

from ndtool.arch import count_macs, count_parameters
from ndtool.console import visible
from ndtool.contract import MAX_CONTRACT_BYTES, Contract
from ndtool.data.types import Split
from ndtool.errors import DataError, InputError, NdError, ToolMissingError
from ndtool.evaluate import recall_counts
from ndtool.export.c_project import MAX_TFLITE_BYTES
from ndtool.export.c_sizes import MACHINE_FAULTS, largest_arena, measure_c
from ndtool.export.codegen.emit import emit_program
from ndtool.export.codegen.engine import Compiled, compile_graph
from ndtool.export.hops import (
    HopPrediction,
    differing_images,
    hop_figures,
    hop_rows,
    predict_hops,
)
from ndtool.export.int8.ir import Graph, op_name
from ndtool.export.layers import op_macs
from ndtool.export.mending import CANNOT_RUN, mend, unknown_c
from ndtool.export.run_data import evaluation_set
from ndtool.export.student import load_student_spec
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.verify_run import judged_projects, predict_c
from ndtool.files import (
    read_bounded,
    sha256_bytes,
)
from ndtool.gates.baseline import Bounds
from ndtool.gates.baseline_file import load_known
from ndtool.gates.evidence import Evidence, Folder, Known, NoC
from ndtool.gates.rules import judge_folder, judge_models, not_run, require_judged
from ndtool.gates.verdict import HopRow, Verdict
from ndtool.options import CheckOptions
from ndtool.rundir import (
    LABELS,
    ONNX,
    STUDENT_SPEC,
    TFLITE,
    Manifest,
    RunDir,
    Value,
)
from ndtool.types import Hop, Policy, Sha256

NO_BASELINE: Final = "no baseline: only absolute and hop bounds judged"
EVALUATION_SET: Final = "evaluation_set"  # a gate
TFLM: Final = "tflite-micro"  # engine whose integers are the same on every machine
# Codes of errors of running a model that are this machine's, not the folder's
_OF_THE_MACHINE: Final = ("runner.killed", "runner.no-room", "runner.no-images")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathered:
    """What is judged, and by what. `evidence` is None when no model was run, `stopped` says why.

    `against`: the first line of the output. `figures`: what was measured, by the keys of
    metrics.json; more than the exact ones of `evidence.measured`.
    """

    against: str
    folder: Folder
    evidence: Evidence | None
    stopped: str
    figures: Mapping[str, Value]
    known: Known | None
    bounds: Bounds


def check_run(run: RunDir, options: CheckOptions, *, data: str) -> Verdict:
    """The verdict on one run folder.

    Args:
        data: another place for the run's data; "" for the one it was trained on.

    Raises:
        As `gather`.
    """
    began = time.monotonic()
    found = gather(run, options, data=data)
    folder = judge_folder(found.folder, found.known)
    evidence = found.evidence
    if evidence is None:  # a folder gate failed: that is the cause, the rest would bury it
        assert any(j.passed is False for j in folder.judgements)
        models = not_run(found.stopped, found.bounds, found.known)
        judged = [*folder.judgements, *models.judgements]
    else:
        models = judge_models(evidence, found.bounds, found.known)
        every = (*folder.judgements, *models.judgements)
        judged = require_judged(every, found.bounds.require)
    recalls = (
        recall_counts(evidence.predicted, evidence.truth, len(evidence.labels))
        if evidence is not None and evidence.predicted is not None
        else ()
    )
    labels = () if evidence is None else evidence.labels
    return Verdict(
        run=str(run.path),
        against=found.against,
        rows=() if evidence is None else evidence.rows,
        judgements=tuple(judged),
        notices=(*folder.notices, *models.notices),
        eval_count=found.folder.eval_count,
        eval_sha256=found.folder.eval_sha256,
        recall={k: count for k, count in zip(labels, recalls, strict=False) if count is not None},
        figures=found.figures,
        seconds=round(time.monotonic() - began, 3),
    )


def gather(run: RunDir, options: CheckOptions, *, data: str, core: str = "") -> Gathered:
    """Look at the folder, then run its models: all that the rules need.

    A folder that does not hold together is no error here, and neither is a model that cannot be
    run: both are for the gate `integrity` to say. Models of such a folder are only run with
    `options.keep_going`.

    Args:
        data: another place for the run's data; "" for the one it was trained on.
        core: measure flash and instructions on this core, whatever the bounds ask for.

    Raises:
        GateError: the baseline that was named is missing or damaged.
        InputError: the run, its contract or its data cannot be read.
        ToolMissingError: an interpreter is not installed.
    """
    known = load_known(Path(options.baseline)) if options.baseline else None
    bounds = effective_bounds(known, options)
    manifest = run.manifest()
    if not run.has(ONNX) and "predict" not in manifest.stages:
        raise InputError(
            "nothing to check: the run is not exported",
            where=str(run.path),
            remedy=f"ndtool export {run.path} --int8",
            code="run.not-exported",
        )
    contract = run.contract()
    folder = _look_at(run, contract, manifest)
    stopped, figures = "", dict[str, Value]()
    evidence: Evidence | None = None
    try:
        images = evaluation_set(run, data)
    except DataError as refusal:
        # Labels of the data that are not the contract's: whose fault is it?
        if refusal.code != "data.labels-differ" or set(_failed(folder, known)) <= {EVALUATION_SET}:
            raise
        stopped = f"stopped: {refusal.what}"
    else:
        folder = replace(folder, eval_sha256=images.sha256(), eval_count=len(images))
        failed = _failed(folder, known)
        if failed and not options.keep_going:
            stopped = f"stopped by {', '.join(failed)}; --keep-going runs the models"
        else:
            try:
                evidence, figures = _run_models(run, images, options, bounds, core)
            except NdError as refusal:
                if isinstance(refusal, ToolMissingError) or refusal.code in _OF_THE_MACHINE:
                    raise
                problem = f"{CANNOT_RUN}: {refusal.what} ({refusal.where})"
                problems = (*folder.problems, problem)
                folder = replace(folder, problems=problems, mend=mend(run, manifest, problems))
                stopped = f"stopped: {problem}"
    return Gathered(
        against=_against(known, bounds, options),
        folder=folder,
        evidence=evidence,
        stopped=stopped,
        figures=figures,
        known=known,
        bounds=bounds,
    )


def _failed(folder: Folder, known: Known | None) -> list[str]:
    """The gates that stop before any model is run."""
    return [j.gate for j in judge_folder(folder, known).judgements if j.passed is False]


# -- bounds ----------------------------------------------------------------------------------------


def effective_bounds(known: Known | None, options: CheckOptions) -> Bounds:
    """The baseline's bounds, or the defaults without one, replaced by what was given."""
    bounds = Bounds() if known is None else known.baseline.bounds
    if options.policy is not None:
        bounds = replace(bounds, policy=options.policy)
    if options.max_drop_points is not None:
        # The shortest decimal that gives this float is what was typed.
        points = Decimal(repr(options.max_drop_points))
        bounds = replace(bounds, max_drop=points, max_float_int8_drop=points)
    if options.min_accuracy is not None:
        bounds = replace(bounds, min_accuracy_percent=100 * Decimal(repr(options.min_accuracy)))
    return bounds


def _against(known: Known | None, bounds: Bounds, options: CheckOptions) -> str:
    if known is None:
        return NO_BASELINE
    settings = {
        Policy.STRICT: f"at most {bounds.max_drop} points lost",
        Policy.PAIRED: f"alpha {bounds.paired.alpha}, floor {bounds.paired.floor},"
        f" cap {bounds.paired.cap}",
    }
    given = {
        "--policy": options.policy,
        "--max-drop": options.max_drop_points,
        "--min-accuracy": options.min_accuracy,
    }
    words = [f"{flag} {value}" for flag, value in given.items() if value is not None]
    replaced = f"; given here: {' '.join(words)}" if words else ""
    return (
        f"baseline {known.baseline.name} ({options.baseline}): policy {bounds.policy.value}"
        f" ({settings[bounds.policy]}){replaced}"
    )


# -- the folder ------------------------------------------------------------------------------------


def _look_at(run: RunDir, contract: Contract, manifest: Manifest) -> Folder:
    """Steps 1 and 2; the evaluation set is not read yet."""
    problem, found = "", b""
    if (run / LABELS).is_symlink():  # its lines get into the text of a gate: whose are they?
        problem = f"{LABELS} is a link, not a file of this folder"
    else:
        try:
            found = read_bounded(run / LABELS, MAX_CONTRACT_BYTES)
        except InputError as refusal:
            problem = f"{LABELS}: {refusal.what}"
    problems = (*run.problems(), *unknown_c(run, manifest))
    recorded = manifest.stages["predict"].figures if "predict" in manifest.stages else {}
    evaluated = recorded.get("eval_sha256")
    return Folder(
        problems=problems,
        mend=mend(run, manifest, problems),
        labels_problem=problem or _difference(found, contract.labels_file()),
        labels_sha256=sha256_bytes(found),
        contract_sha256=contract.sha256(),
        eval_sha256=Sha256(""),
        eval_count=0,
        eval_recorded=None if evaluated is None else Sha256(str(evaluated)),
    )


def _difference(found: bytes, wanted: bytes) -> str:
    """The first line of labels.txt that is not the contract's."""
    if found == wanted:
        return ""
    pairs = zip_longest(found.split(b"\n"), wanted.split(b"\n"))
    number, here, there = next((n, a, b) for n, (a, b) in enumerate(pairs, 1) if a != b)
    texts = [
        f"'{visible(line.decode('utf-8', 'surrogateescape'))}'" if line else "nothing"
        for line in (here, there)
    ]
    return f"{LABELS} has {texts[0]} in line {number}, the contract {texts[1]}"


# -- the models ------------------------------------------------------------------------------------


def _run_models(
    run: RunDir, images: Split, options: CheckOptions, bounds: Bounds, core: str
) -> tuple[Evidence, dict[str, Value]]:
    """Step 4; gives all figures that were measured, too.

    Raises:
        NdError: a model is not one that its engine takes, or an engine is missing.
    """
    contract = run.contract()
    hops = predict_hops(run, images, runtime=options.runtime, workers=options.workers)
    c_hop, why_no_c = _run_c(run, images, hops[-1] if hops else None)
    hops += [c_hop] if c_hop is not None else []
    rows = hop_rows(hops, images.labels)
    again = hop_figures(rows, images)
    model = read_bounded(run / TFLITE, MAX_TFLITE_BYTES) if run.has(TFLITE) else None
    graph, unread = _graph(model)
    compiled = None if graph is None else _compile(graph)
    measured = _exact_accuracies(run, rows) | {
        "eval_count": len(images),
        "eval_sha256": images.sha256(),
        "contract_sha256": contract.sha256(),
    }
    if run.has(STUDENT_SPEC):
        spec = load_student_spec(run)
        measured |= {"params": count_parameters(spec), "macs": count_macs(spec)}
    ops: tuple[str, ...] = ()
    if model is not None and graph is not None:
        ops = tuple(sorted({op_name(op) for op in graph.ops}))
        measured |= {
            "tflite_bytes": len(model),
            "model_sha256": sha256_bytes(model),
            "macs": sum(op_macs(graph, op) for op in graph.ops),
            "ops": " ".join(ops),
        }
    if compiled is not None:
        measured["arena_bytes"] = compiled.plan.total
        measured["weights_bytes"] = emit_program(compiled, prefix="nd_model").weights_bytes
    flash, instructions = measure_c(run, bounds, core)
    evidence = Evidence(
        labels=contract.labels,
        truth=images.labels,
        eval_sha256=images.sha256(),
        rows=tuple(rows),
        predicted=next((hop.predicted for hop in hops if hop.hop is Hop.INT8), None),
        model_sha256=None if model is None else sha256_bytes(model),
        recorded=_recorded(run.manifest(), measured),
        measured=measured,
        near=_near(again, measured, rows),
        why_no_c=why_no_c,
        unread=unread,
        arena_bytes=None if compiled is None else largest_arena(run, compiled),
        ops=ops,
        flash=flash,
        instructions=instructions,
    )
    of_c = {"flash_bytes": flash.value, "instructions": instructions.value}
    return evidence, again | measured | of_c


def _run_c(
    run: RunDir, images: Split, before: HopPrediction | None
) -> tuple[HopPrediction | None, NoC]:
    """The hop of the C, or why there is none; of several projects the first that is wrong."""
    try:
        contract = run.contract()
        hops = [predict_c(project, images, contract) for project in judged_projects(run)]
    except ToolMissingError as missing:
        return None, NoC(text=str(missing), failed=False)
    except NdError as broken:
        failed = broken.code not in MACHINE_FAULTS
        return None, NoC(text=f"{broken.what} ({broken.where})", failed=failed)
    wrong = (hop for hop in hops if differing_images(before, hop))
    hop = next(wrong, hops[0] if hops else None)
    return hop, NoC(text=f"no C project: ndtool codegen {run.path}", failed=False)


def _graph(model: bytes | None) -> tuple[Graph | None, str]:
    """The int8 file read, or why not: where there is only tflite-runtime, nothing reads it."""
    try:
        return None if model is None else read_tflite(model, where=TFLITE), ""
    except ToolMissingError as missing:
        return None, str(missing)


def _compile(graph: Graph) -> Compiled | None:
    """None for a graph that the C engine has no exact code for: then there is no arena."""
    try:
        return compile_graph(graph)
    except NdError:
        return None


def _exact_accuracies(run: RunDir, rows: Sequence[HopRow]) -> dict[str, Value]:
    """Figures of integers: floats may tip a sample on another machine, these may not.

    Those of int8 only where tflite_micro gave them now and when they were recorded.
    """
    exact: dict[str, Value] = {}
    predict = run.manifest().stages.get("predict")
    recorded_by_tflm = predict is not None and TFLM in predict.packages
    for row in rows:
        of_tflm = row.hop is Hop.INT8 and row.engine.startswith(TFLM) and recorded_by_tflm
        if row.hop is Hop.C or of_tflm:
            exact[f"accuracy_{row.hop.value}"] = row.accuracy.fraction
        if row.hop is Hop.C and row.differing is not None:
            exact["agreement_c"] = row.agreement
    return exact


def _near(
    again: Mapping[str, Value], measured: Mapping[str, Value], rows: Sequence[HopRow]
) -> dict[str, Value]:
    """Figures that are about what they were: without rounding itself, and another interpreter's."""
    left_out = {*measured, "agreement_c", "max_abs_diff_onnx"}
    if not any(row.hop is Hop.INT8 and row.engine.startswith(TFLM) for row in rows):
        left_out |= {"accuracy_int8", "agreement_int8"}
    return {key: value for key, value in again.items() if key not in left_out}


def _recorded(manifest: Manifest, measured: Mapping[str, Value]) -> dict[str, Value]:
    """What the stages recorded; of two that recorded a figure, the one that is not as measured."""
    recorded: dict[str, Value] = {}
    for row in manifest.stages.values():
        for key, value in row.figures.items():
            known = key in recorded and recorded[key] != measured.get(key)
            if value is not None and not known:
                recorded[key] = value
    return recorded
