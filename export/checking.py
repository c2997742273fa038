"""`ndtool check`: run every hop's model on the test images and judge; writes nothing."""

from __future__ import annotations

from ndtool.data.types import Split
from ndtool.errors import GateError, InputError, NdError, ToolMissingError
from ndtool.evaluate import recall_counts
from ndtool.export.hops import HopPrediction, hop_rows, predict_hops
from ndtool.export.run_data import evaluation_set
from ndtool.export.verify_run import predict_c
from ndtool.gates.hops import NoC, Verdict, judge_c, judge_folder, judge_hops
from ndtool.options import CheckOptions
from ndtool.rundir import ONNX, RunDir, Value


def check_run(run: RunDir, options: CheckOptions, *, data: str) -> Verdict:
    """The verdict on one run folder.

    Args:
        data: another place for the run's data; "" for the one it was trained on.

    Raises:
        InputError: the folder or its data cannot be read.
        GateError: a model is not what its stage wrote, and cannot be run either.
    """
    problems = run.problems()
    if not run.has(ONNX) and "predict" not in run.manifest().stages:
        raise InputError(
            "nothing to check: the run is not exported",
            where=str(run.path),
            remedy=f"ndtool export {run.path} --int8",
            code="run.not-exported",
        )
    images = evaluation_set(run, data)
    try:
        hops = predict_hops(run, images, runtime=options.runtime, workers=options.workers)
    except NdError as refusal:
        if not problems:
            raise
        raise GateError(
            f"the folder does not hold together: {problems[0]}; {refusal.what}",
            where=str(run.path),
            remedy=f"ndtool export {run.path} --int8 --force",
            code="gate.integrity",
        ) from refusal
    c_hop, why = _run_c(run, images)
    hops += [c_hop] if c_hop is not None else []
    rows = hop_rows(hops, images.labels)
    stages = run.manifest().stages
    recorded: dict[str, Value] = {}
    for stage in ("predict", "verify"):
        recorded |= stages[stage].figures if stage in stages else {}
    judgements = [
        *judge_folder(problems, rows, recorded, images.sha256()),
        *judge_hops(
            rows, max_drop_points=options.max_drop_points, min_accuracy=options.min_accuracy
        ),
        judge_c(rows, why),
    ]
    labels = run.contract().labels
    recalls = recall_counts(hops[-1].predicted, images.labels, len(labels)) if hops else ()
    return Verdict(
        rows=tuple(rows),
        judgements=tuple(judgements),
        eval_count=len(images),
        eval_sha256=images.sha256(),
        recall={k: found for k, found in zip(labels, recalls, strict=False) if found is not None},
    )


def _run_c(run: RunDir, images: Split) -> tuple[HopPrediction | None, NoC]:
    """The hop of the C, or why there is none."""
    try:
        hop = predict_c(run, images)
    except ToolMissingError as missing:
        return None, NoC(text=str(missing), failed=False)
    except NdError as broken:
        return None, NoC(text=f"{broken.what} ({broken.where})", failed=True)
    return hop, NoC(text=f"no C project: ndtool codegen {run.path}", failed=False)
