"""The second converter: TFLiteConverter on the same float graph, in a subprocess.

Min-max ranges from the calibration images, found by TensorFlow's own float kernels: not a pure
function, so its result is judged by lint and accuracy, never by its bytes (quantisation, 9).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.errors import UnsupportedError, raise_all, require
from ndtool.export.graph.ir import Conv, FloatGraph, Pool
from ndtool.export.tensorflow_worker import pool_padding
from ndtool.export.worker_process import last_lines, worker_command, worker_environment
from ndtool.quant.pixels import input_quantization
from ndtool.types import FcScales

F32 = NDArray[np.float32]

TIMEOUT_S: Final = 1800.0  # import 10-30 s, a conversion seconds to minutes on a loaded core
LOG_LINES: Final = 20
_REMEDY: Final = "use --converter native"
_ENVIRONMENT: Final = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # reproducible calibration
}


def convert_with_tensorflow(
    graph: FloatGraph,
    calibration: F32,
    contract: Contract,
    *,
    fc: FcScales,
    timeout_s: float = TIMEOUT_S,
) -> bytes:
    """Int8 .tflite of `graph`; calibration: normalised images (N, H, W, C), as native takes them.

    Raises:
        ToolMissingError: tensorflow is not installed.
        UnsupportedError: an op that TensorFlow has not, or its converter failed or hung.
    """
    raise_all(list(_unsupported(graph)))
    if find_spec("tensorflow") is None:
        require("tensorflow")  # only to raise: importing it here would cost a gigabyte
    with tempfile.TemporaryDirectory(prefix="ndtool-") as name:
        folder = Path(name)
        save_graph(graph, folder)
        np.save(folder / "calibration.npy", pin_range(calibration, contract), allow_pickle=False)
        _run_worker(folder, fc, timeout_s)
        return (folder / "model.tflite").read_bytes()


def pin_range(calibration: F32, contract: Contract) -> F32:
    """The images, and where an end of the contract's range does not occur in them, one more.

    TensorFlow takes the input's range from the images. The added one is the image nearest to that
    end with its extreme value moved there: an all-black or all-white image would do as well for
    the input, but widen the ranges of every later tensor.
    """
    low, high = input_ends(contract)
    clipped = np.clip(calibration, low, high)  # by rounding errors at most
    images = [clipped]
    if clipped.min() > low:
        images.append(_with_value(clipped, int(clipped.argmin()), low))
    if clipped.max() < high:
        images.append(_with_value(clipped, int(clipped.argmax()), high))
    return np.concatenate(images)


def input_ends(contract: Contract) -> tuple[float, float]:
    """The contract's range in float32, from which TensorFlow gets the contract's scale.

    TensorFlow computes (high - low) / 255 in float32 [measured, 2.21], the contract in float64
    with one rounding at the end; the neighbouring scale would be another input than the
    contract's. So the ends move by units in the last place, as few as will do; none for u8/255.
    About one scale in 255 is no float32 quotient by 255: its neighbour is as near as can be.
    """
    scale, _ = input_quantization(contract)
    low, high = map(np.float32, contract.normalize.range)
    ends = [
        (low + down * np.spacing(low), high + up * np.spacing(high))
        for down, up in product(range(-4, 5), repeat=2)
    ]

    def miss(pair: tuple[np.float32, np.float32]) -> tuple[float, float]:
        """How far TensorFlow's scale is off, then how far the ends have moved."""
        first, last = pair
        moved = abs(float(first - low)) + abs(float(last - high))
        return abs(float((last - first) / np.float32(255)) - scale), moved

    first, last = min(ends, key=miss)
    return float(first), float(last)


def _with_value(calibration: F32, index: int, value: float) -> F32:
    """Copy (1, H, W, C) of the image that holds flat `index`, with `value` there."""
    number, pixel = divmod(index, calibration[0].size)
    image = calibration[number : number + 1].copy()
    image.flat[pixel] = value
    return image


def save_graph(graph: FloatGraph, folder: Path) -> None:
    """Write graph.json and weights.npz for `tensorflow_worker.load_graph`."""
    weights = {f"w{i}": t.data for i, t in enumerate(graph.tensors.values()) if t.data is not None}
    rows = [
        {"name": t.name, "shape": t.shape, "weight": None if t.data is None else f"w{i}"}
        for i, t in enumerate(graph.tensors.values())
    ]
    document = {
        "tensors": rows,
        "ops": [{"kind": type(op).__name__, "fields": asdict(op)} for op in graph.ops],
        "inputs": graph.inputs,
        "outputs": graph.outputs,
    }
    (folder / "graph.json").write_text(json.dumps(document), encoding="utf-8")
    np.savez(folder / "weights.npz", allow_pickle=False, **weights)


def _run_worker(folder: Path, fc: FcScales, timeout_s: float) -> None:
    log = folder / "log"
    with log.open("wb") as handle:
        try:
            status = subprocess.run(
                worker_command("ndtool.export.tensorflow_worker", str(folder), fc.value),
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env=worker_environment(_ENVIRONMENT),
                timeout=timeout_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise UnsupportedError(
                f"TensorFlow's converter did not finish in {timeout_s:.0f} s",
                where="--converter tensorflow",
                remedy=_REMEDY,
                code="tensorflow.timeout",
            ) from None
    if status != 0:
        raise UnsupportedError(
            f"TensorFlow's converter failed (exit {status}): {last_lines(log, LOG_LINES)}",
            where="--converter tensorflow",
            remedy=_REMEDY,
            code="tensorflow.failed",
        )


def _unsupported(graph: FloatGraph) -> Iterator[UnsupportedError]:
    """What tf.nn cannot express, every op of it."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        yield _offender("graph", "more than one input or output")
    for op in graph.ops:
        match op:
            case Conv(depthwise=True):
                if op.stride[0] != op.stride[1]:
                    yield _offender(op.name, f"depthwise convolution with stride {op.stride}")
                if op.dilation != (1, 1) and op.stride != (1, 1):
                    yield _offender(op.name, "depthwise convolution with stride and dilation")
            case Pool():
                if pool_padding(graph, op) is None:
                    yield _offender(op.name, "pooling with padding that is neither SAME nor VALID")
            case _:
                pass


def _offender(name: str, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what} cannot be expressed in TensorFlow",
        where=visible(name),
        remedy=_REMEDY,
        code="tensorflow.unsupported-op",
    )
