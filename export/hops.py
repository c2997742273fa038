"""Runs the model of every hop on the same images: float (torch), ONNX, int8; and the C's answers.

`export` keeps these predictions in the run folder; `check` makes them again and believes no file
where it can run the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ndtool import console
from ndtool.contract import Contract
from ndtool.data.types import Split
from ndtool.errors import InputError
from ndtool.evaluate import Accuracy, accuracy, agreement, max_abs_difference, predicted_class
from ndtool.export.int8.ir import Graph
from ndtool.export.predictions import Predictions, load_predictions, save_predictions
from ndtool.export.runners import run_int8, run_onnx
from ndtool.files import sha256_file
from ndtool.gates.verdict import HopRow
from ndtool.quant.pixels import quantize_pixels
from ndtool.rundir import (
    ONNX,
    PREDICTIONS,
    STUDENT,
    TFLITE,
    RunDir,
    Value,
)
from ndtool.types import Hop, Part, Runtime

F64 = NDArray[np.float64]
I8 = NDArray[np.int8]
I64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HopPrediction:
    """What one hop says of every image, in the order of the evaluation set."""

    hop: Hop
    engine: str
    outputs: NDArray[np.float32] | NDArray[np.int8]  # (N, K) as the model gives them
    reals: F64  # (N, K) dequantised
    predicted: I64  # (N,)


def predict_hops(
    run: RunDir, images: Split, *, runtime: Runtime, workers: int, int8: bool = True
) -> list[HopPrediction]:
    """Every hop that the folder has a model for and this machine an engine.

    A hop whose engine is missing is taken from its stored predictions when those are of the same
    samples, which its `engine` says; else it is left out with a warning.
    """
    contract = run.contract()
    hops: list[HopPrediction] = []
    if run.has(STUDENT) or run.has(f"{PREDICTIONS}/float.npz"):
        if run.has(STUDENT) and find_spec("torch") is not None:
            from ndtool.export.extract import float_logits

            hops.append(_float_hop(Hop.FLOAT, "torch", float_logits(run, images.images)))
        else:
            missing = "torch is not installed" if run.has(STUDENT) else f"{STUDENT} is missing"
            hops += _stored(run, Hop.FLOAT, images, missing)
    if run.has(ONNX):
        if find_spec("onnxruntime") is not None:
            logits = run_onnx((run / ONNX).read_bytes(), images.images, contract)
            hops.append(_float_hop(Hop.ONNX, "onnxruntime", logits))
        else:
            hops += _stored(run, Hop.ONNX, images, "onnxruntime is not installed")
    if int8 and run.has(TFLITE):
        hops.append(_int8_hop(run, images, contract, runtime=runtime, workers=workers))
    for hop in hops:
        require_shape(hop, len(images), contract)
    return hops


def require_shape(hop: HopPrediction, count: int, contract: Contract) -> None:
    """One output a class: raises InputError for a model or predictions of something else."""
    if hop.outputs.shape != (count, contract.num_classes):
        outputs = "x".join(str(n) for n in hop.outputs.shape[1:])
        raise InputError(
            f"the {hop.hop.value} hop has {outputs} outputs for {len(hop.outputs):,} images,"
            f" the contract has {contract.num_classes} labels for {count:,}",
            where=hop.engine,
            remedy="use the models that export wrote for this contract",
            code="hop.shape",
        )


def _float_hop(hop: Hop, engine: str, logits: NDArray[np.float32]) -> HopPrediction:
    return HopPrediction(
        hop=hop,
        engine=engine,
        outputs=logits,
        reals=logits.astype(np.float64),
        predicted=predicted_class(logits),
    )


def _int8_hop(
    run: RunDir, images: Split, contract: Contract, *, runtime: Runtime, workers: int
) -> HopPrediction:
    model = (run / TFLITE).read_bytes()
    quantized = quantize_pixels(images.images, contract)
    with console.progress(f"int8 ({runtime.value})", len(images)) as bar:
        result = run_int8(model, quantized, runtime=runtime, workers=workers, progress=bar.update)
    return HopPrediction(
        hop=Hop.INT8,
        engine=result.engine,
        outputs=result.outputs,
        reals=result.scale * (result.outputs.astype(np.float64) - result.zero_point),
        predicted=predicted_class(result.outputs),
    )


def _stored(run: RunDir, hop: Hop, images: Split, why: str) -> list[HopPrediction]:
    """The predictions that the predict stage kept, if nothing has changed since."""
    name = f"{PREDICTIONS}/{hop.value}.npz"
    reason = _not_usable(run, name, STUDENT if hop is Hop.FLOAT else ONNX, images)
    if reason:
        console.warn("check.hop-left-out", f"{hop.value} hop left out: {why}, and {reason}")
        return []
    stored = load_predictions(run / name)
    console.warn("check.hop-stored", f"{hop.value} hop not run again: {why}; stored predictions")
    return [
        HopPrediction(
            hop=hop,
            engine="stored",
            outputs=stored.outputs,
            reals=stored.outputs.astype(np.float64),
            predicted=predicted_class(stored.outputs),
        )
    ]


def stored_int8(run: RunDir, images: Split) -> I8 | None:
    """Outputs (N, K) that the predict stage kept, if tflite_micro gave them for these images."""
    row = run.manifest().stages.get("predict")
    name = f"{PREDICTIONS}/{Hop.INT8.value}.npz"
    if row is None or "tflite-micro" not in row.packages:
        return None
    return None if _not_usable(run, name, TFLITE, images) else load_predictions(run / name).outputs


def _not_usable(run: RunDir, name: str, model: str, images: Split) -> str:
    """Why stored predictions do not speak of this model on these images; "" when they do."""
    manifest = run.manifest()
    row, kept = manifest.stages.get("predict"), manifest.files.get(name)
    if row is None or kept is None or not run.has(name) or not run.has(model):
        return "none are stored"
    if sha256_file(run / name) != kept.sha256:
        return "the stored ones were changed"
    if row.reads.get(model) != sha256_file(run / model):
        return "the stored ones are of another model"
    if row.figures.get("eval_sha256") != images.sha256():
        return "the stored ones are of other images"
    return ""


def c_prediction(outputs: I8, graph: Graph, engine: str) -> HopPrediction:
    """The hop of the C from its output bytes (N, K)."""
    tensor = graph.tensor(graph.outputs[0])
    return HopPrediction(
        hop=Hop.C,
        engine=engine,
        outputs=outputs,
        reals=tensor.scale * (outputs.astype(np.float64) - tensor.zero_point),
        predicted=predicted_class(outputs),
    )


def differing_images(before: HopPrediction | None, hop: HopPrediction) -> int | None:
    """Images of which C and the reference give different bytes; None where nothing is compared."""
    if before is None or hop.hop is not Hop.C or not before.engine.startswith("tflite-micro"):
        return None
    return int(np.count_nonzero((before.outputs != hop.outputs).any(axis=1)))


def hop_rows(hops: list[HopPrediction], labels: I64) -> list[HopRow]:
    """Accuracy of each hop, agreement and largest difference against the one before."""
    rows = []
    for before, hop in zip([None, *hops], hops, strict=False):
        same = None if before is None else agreement(before.predicted, hop.predicted).fraction
        rows.append(
            HopRow(
                hop=hop.hop,
                engine=hop.engine,
                accuracy=accuracy(hop.predicted, labels),
                agreement=same,
                max_abs_diff=None
                if before is None
                else max_abs_difference(before.reals, hop.reals),
                largest_output=float(np.max(np.abs(hop.reals))),
                differing=differing_images(before, hop),
            )
        )
    return rows


def hop_figures(rows: list[HopRow], images: Split) -> dict[str, Value]:
    """metrics.json keys of design section 9."""
    figures: dict[str, Value] = {
        "eval_set": Part.TEST.value,
        "eval_count": len(images),
        "eval_sha256": images.sha256(),
    }
    for row in rows:
        figures[f"accuracy_{row.hop.value}"] = row.accuracy.fraction
        if row.agreement is not None:
            figures[f"agreement_{row.hop.value}"] = row.agreement
    for before, row in pairwise(rows):
        if (before.hop, row.hop) == (Hop.FLOAT, Hop.ONNX):
            difference = row.max_abs_diff
            finite = difference is not None and math.isfinite(difference)
            figures["max_abs_diff_onnx"] = difference if finite else None
    return figures


def rows_of_figures(figures: Mapping[str, Value]) -> list[HopRow]:
    """The rows again, from what the predict stage recorded; for summaries."""
    count = int(figures["eval_count"] or 0)
    rows = []
    for hop in Hop:
        share, same = figures.get(f"accuracy_{hop.value}"), figures.get(f"agreement_{hop.value}")
        if share is not None:
            rows.append(
                HopRow(
                    hop=hop,
                    engine="",
                    accuracy=Accuracy(round(float(share) * count), count),
                    agreement=None if same is None else float(same),
                    max_abs_diff=None,
                )
            )
    return rows


def store_predictions(run: RunDir, hops: Sequence[HopPrediction], images: Split) -> list[str]:
    """One npz a hop; gives their names."""
    names = []
    for hop in hops:
        name = f"{PREDICTIONS}/{hop.hop.value}.npz"
        save_predictions(
            run / name,
            Predictions(ids=images.ids, predicted=hop.predicted, outputs=hop.outputs),
        )
        names.append(name)
    return names
