"""The native converter against TensorFlow's on one run: weights, biases, predictions, McNemar.

    python benchmarks/converters.py RUN [RUN ...] [--out benchmarks/results/converters.json]

Both read the same ONNX file and the same calibration images; tflite_micro runs both int8 files on
all test images. One-sided exact McNemar: is native worse than TensorFlow?
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib import metadata
from pathlib import Path

import numpy as np

from ndtool.evaluate import accuracy, predicted_class
from ndtool.export.chain import convert_run
from ndtool.export.int8.ir import Conv2D, DepthwiseConv2D, FullyConnected, Graph
from ndtool.export.run_data import evaluation_set
from ndtool.export.runners import run_int8
from ndtool.export.tflite.reader import read_tflite
from ndtool.gates.paired import compare_paired
from ndtool.options import ExportOptions
from ndtool.quant.pixels import quantize_pixels
from ndtool.rundir import find_run
from ndtool.types import Converter, Runtime


def constants(graph: Graph) -> list[tuple[bytes, bytes]]:
    """(weights, biases) of every convolution and dense layer in order."""
    found = []
    for op in graph.ops:
        if isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected):
            assert op.bias is not None
            weight, bias = graph.tensor(op.weight).data, graph.tensor(op.bias).data
            assert weight is not None and bias is not None
            found.append((weight, bias))
    return found


def differing(a: bytes, b: bytes, kind: str) -> int:
    """Elements that differ between two arrays of one length."""
    return int(np.count_nonzero(np.frombuffer(a, kind) != np.frombuffer(b, kind)))


def compare(name: str) -> dict[str, object]:
    """One row of the table."""
    run = find_run(name)
    contract, images = run.contract(), evaluation_set(run)
    x = quantize_pixels(images.images, contract)
    graphs, predictions = {}, {}
    for converter in (Converter.NATIVE, Converter.TENSORFLOW):
        data = convert_run(run, ExportOptions(int8=True, converter=converter)).data
        graphs[converter] = read_tflite(data)
        result = run_int8(data, x, runtime=Runtime.TFLM, workers=0, progress=lambda _: None)
        predictions[converter] = predicted_class(result.outputs)
    native, other = (constants(graphs[c]) for c in (Converter.NATIVE, Converter.TENSORFLOW))
    same_layers = len(native) == len(other)
    pair = compare_paired(
        predictions[Converter.TENSORFLOW], predictions[Converter.NATIVE], images.labels
    )
    same = predictions[Converter.NATIVE] == predictions[Converter.TENSORFLOW]
    return {
        "run": Path(name).name,
        "images": len(images),
        "accuracy_native": accuracy(predictions[Converter.NATIVE], images.labels).text,
        "accuracy_tensorflow": accuracy(predictions[Converter.TENSORFLOW], images.labels).text,
        "weights": sum(len(w) for w, _ in native),
        "weights_differing": sum(
            differing(a[0], b[0], "i1") for a, b in zip(native, other, strict=True)
        )
        if same_layers
        else "other layers",
        "biases": sum(len(b) // 4 for _, b in native),
        "biases_differing": sum(
            differing(a[1], b[1], "<i4") for a, b in zip(native, other, strict=True)
        )
        if same_layers
        else "other layers",
        "predictions_differing": int(np.count_nonzero(~same)),
        "mcnemar_lost": pair.lost,
        "mcnemar_gained": pair.gained,
        "mcnemar_p_native_worse": pair.p_value,
    }


def main() -> None:
    """Print a row a run and keep them with versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/converters.json"))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.runs:
        rows.append(compare(name))
        print(json.dumps(rows[-1]), flush=True)
    names = ("tensorflow-cpu", "tflite-micro", "onnxruntime", "numpy")
    versions = {n: metadata.version(n) for n in names} | {"python": platform.python_version()}
    arguments.out.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
