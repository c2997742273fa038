"""`ndtool check`: run every hop's model on the test images and judge; writes nothing."""

from __future__ import annotations

from ndtool.errors import GateError, InputError, NdError
from ndtool.evaluate import recall_counts
from ndtool.export.hops import hop_rows, predict_hops
from ndtool.export.run_data import evaluation_set
from ndtool.gates.hops import Verdict, judge_folder, judge_hops
from ndtool.options import CheckOptions
from ndtool.rundir import ONNX, RunDir


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
    rows = hop_rows(hops, images.labels)
    predict = run.manifest().stages.get("predict")
    recorded = {} if predict is None else predict.figures
    judgements = [
        *judge_folder(problems, rows, recorded, images.sha256()),
        *judge_hops(
            rows, max_drop_points=options.max_drop_points, min_accuracy=options.min_accuracy
        ),
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
