"""Outputs of the ONNX file and of the int8 file for a set of images.

Int8 interpreters run in processes of their own (`runner_worker`): they can abort, and only
processes side by side make 10,000 images bearable (stack, 1.5 and 4). However a worker ends, the
caller gets either all outputs or one NdError, and no child is left.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.errors import InputError, ToolMissingError, UnsupportedError, require
from ndtool.export.int8.ir import Graph, TensorId
from ndtool.export.onnx_session import onnx_refusals, open_session
from ndtool.export.runner_worker import ARENA_BYTES
from ndtool.export.worker_process import (
    last_lines,
    signal_name,
    worker_command,
    worker_environment,
)
from ndtool.machine import usable_cores
from ndtool.quant.pixels import normalize_pixels
from ndtool.rundir import package_versions
from ndtool.types import Runtime

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
Progress = Callable[[int], object]  # called with the number of images done

STALL_S: Final = 120.0  # without one more image (start-up included) a worker is taken for hung
POLL_S: Final = 0.02
MIN_SHARE: Final = 16  # images that are worth a process
LOG_LINES: Final = 3  # of a dead worker, in the error

# of each runtime: package that is imported, distribution that is installed
_PACKAGES: Final = {
    Runtime.TFLM: ("tflite_micro", "tflite-micro"),
    Runtime.LITERT: ("ai_edge_litert", "ai-edge-litert"),
    Runtime.TFLITE_RUNTIME: ("tflite_runtime", "tflite-runtime"),
}
_ONNX_FILE: Final = "ONNX file"
_ARENA_TOTAL: Final = re.compile(rb"Arena allocation total (\d+) bytes")


# --- ONNX ---------------------------------------------------------------------------------------


def run_onnx(model: bytes, images: U8, contract: Contract, *, batch: int = 64) -> F32:
    """Outputs (N, K) of an ONNX file for uint8 images (N, H, W, C), by the contract's pixels.

    Raises:
        InputError: no images, or a file that onnxruntime does not take.
        UnsupportedError: its input or output does not have the shape that the contract asks for.
    """
    assert images.dtype == np.uint8, images.dtype
    _require_images(len(images))
    rows: list[F32] = []
    with onnx_refusals(_ONNX_FILE):
        session = open_session(model)
        size = _onnx_batch(session, contract) or batch
        feed, fetch = session.get_inputs()[0].name, session.get_outputs()[0].name
        for first in range(0, len(images), size):
            x = normalize_pixels(images[first : first + size], contract).transpose(0, 3, 1, 2)
            rows.append(session.run([fetch], {feed: np.ascontiguousarray(x)})[0])
    outputs: F32 = np.concatenate(rows)
    if outputs.dtype != np.float32 or outputs.shape != (len(images), contract.num_classes):
        what = f"output is {outputs.dtype} {list(outputs.shape[1:])} for one image"
        raise _onnx_shape(f"{what}, the contract has {contract.num_classes} classes")
    return outputs


def _onnx_batch(session: Any, contract: Contract) -> int | None:
    """1 for a model of fixed batch 1, None for a free batch; refuses any other input."""
    spec = contract.input
    want = [spec.channels, spec.height, spec.width]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise _onnx_shape(f"{len(inputs)} inputs and {len(outputs)} outputs instead of one each")
    kind, shape = inputs[0].type, list(inputs[0].shape)
    if kind != "tensor(float)" or len(shape) != 4 or shape[1:] != want:
        raise _onnx_shape(f"input is {kind} {shape}, the contract asks for float [N, {want}]")
    if shape[0] == 1:
        return 1
    if isinstance(shape[0], int):
        raise _onnx_shape(f"the batch is fixed to {shape[0]} images")
    return None


def _onnx_shape(what: str) -> UnsupportedError:
    return UnsupportedError(
        visible(what),
        where=_ONNX_FILE,
        remedy="use the run folder's own contract and model",
        code="runner.onnx-shape",
    )


# --- int8 ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Result:
    """outputs: int8 (N, K), in the order of the images, real = scale * (output - zero_point).

    engine: name and version.
    """

    outputs: I8
    scale: float
    zero_point: int
    engine: str


def choose_runtime() -> tuple[Runtime, str]:
    """The reference interpreter where its wheel exists, else LiteRT's; and what to tell then.

    Raises:
        ToolMissingError: neither is installed.
    """
    if find_spec("tflite_micro") is not None:
        return Runtime.TFLM, ""
    require("ai_edge_litert")
    return Runtime.LITERT, (
        "tflite-micro is not installed here (its wheels are for Linux x86-64): int8 results are "
        "LiteRT's reference kernels, which can differ by a step in fully connected layers"
    )


def run_int8(
    model: bytes, images: I8, *, runtime: Runtime, workers: int, progress: Progress
) -> Int8Result:
    """Outputs of an int8 .tflite for int8 inputs (N, ...), e.g. images; `workers` 0: one a core.

    The result does not depend on `workers`: one interpreter a process, one image at a time.

    Raises:
        ToolMissingError: the runtime is not installed.
        UnsupportedError: the runtime refuses the model, aborts, or hangs.
        InputError: no images, or a worker was killed from outside.
    """
    assert images.dtype == np.int8, images.dtype
    engine = _engine(runtime)
    total = len(images)
    _require_images(total)
    shares = _shares(total, workers or usable_cores())
    with _children(model) as (folder, children):
        _save_inputs(folder, images)
        for index, (first, last) in enumerate(shares):
            args = (str(folder), runtime.value, str(index), str(first), str(last))
            children.append(_Child.start(folder, index, "run", *args))
        _wait(children, engine, total, progress)
        results = [child.load() for child in children]
    return Int8Result(
        outputs=np.concatenate([result["outputs"] for result in results]),
        scale=float(results[0]["scale"][0]),
        zero_point=int(results[0]["zero_point"][0]),
        engine=engine,
    )


def run_tensors(
    model: bytes,
    graph: Graph,
    samples: I8,
    tensors: Sequence[TensorId],
    *,
    out: Path,
    workers: int,
    progress: Progress,
) -> str:
    """Write to `out` what tflite_micro puts into `tensors` for every sample; gives its name.

    Args:
        graph: as read from `model`.
        samples: int8 (N, bytes): of each, all inputs of the graph in order.
        tensors: activations of the graph; `out` becomes their bytes in this order, per sample.
        workers: processes; 0: one a core. The result does not depend on it.

    Raises:
        ToolMissingError: tflite_micro is not installed.
        UnsupportedError: it refuses the model, aborts, or hangs.
        InputError: no samples, or a worker was killed from outside.
    """
    assert samples.dtype == np.int8 and samples.ndim == 2, (samples.dtype, samples.shape)
    engine = _engine(Runtime.TFLM)
    total = len(samples)
    _require_images(total)
    fed = [graph.tensor(index) for index in graph.inputs]
    plan = {
        "inputs": [{"shape": t.shape, "scale": t.scale, "zero_point": t.zero_point} for t in fed],
        "tensors": [(index, graph.tensor(index).elements) for index in tensors],
    }
    row_bytes = sum(graph.tensor(index).elements for index in tensors)
    _reserve(out, total * row_bytes)
    with _children(model) as (folder, children):
        _save_inputs(folder, samples)
        (folder / "plan.json").write_text(json.dumps(plan))
        for index, (first, last) in enumerate(_shares(total, workers or usable_cores())):
            args = (str(folder), str(out.resolve()), str(index), str(first), str(last))
            children.append(_Child.start(folder, index, "tensors", *args))
        _wait(children, engine, total, progress)
    return engine


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Whatever cannot be written to `folder` is one plain error."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot keep tensors: {error.strerror or error}",
            where=visible(str(folder)),
            remedy="free some space; TMPDIR names another place",
            code="runner.no-room",
        ) from error


def _reserve(file: Path, size: int) -> None:
    """Make `file` have `size` bytes and the disk hold them.

    On a full disk a sparse file would fail in the workers, or kill us who map it.
    """
    with _room(file.parent), file.open("wb") as handle:
        if sys.platform == "linux":
            os.posix_fallocate(handle.fileno(), 0, size)
        else:
            handle.truncate(size)


def _save_inputs(folder: Path, inputs: I8) -> None:
    with _room(folder):
        np.save(folder / "x.npy", np.ascontiguousarray(inputs), allow_pickle=False)


def tflm_arena_bytes(model: bytes) -> int:
    """Bytes of arena that tflite_micro's wheel uses for `model`, an upper bound for 32-bit targets.

    The wheel has no getter: it prints the total (stack, 1.5). What setting up needs for a moment
    is not in that total and can be more for models of a few operations (1,680 printed, 2,192
    needed); so each figure is proved by running with exactly that and 16 bytes for the alignment.

    Raises:
        ToolMissingError: tflite_micro is not installed.
        UnsupportedError: it refuses the model.
    """
    found = re.search(_ARENA_TOTAL, _arena_log(model, ARENA_BYTES))
    assert found is not None, "tflite_micro printed no arena total"
    used, missing = int(found[1]), 0
    while not _runs_in_arena(model, used + missing + 16):
        missing = max(256, 2 * missing)
        assert missing < ARENA_BYTES, "a model that ran does not run again"
    return used + missing


def _runs_in_arena(model: bytes, arena_bytes: int) -> bool:
    try:
        _arena_log(model, arena_bytes)
    except UnsupportedError:
        return False
    return True


def _arena_log(model: bytes, arena_bytes: int) -> bytes:
    engine = _engine(Runtime.TFLM)
    with _children(model) as (folder, children):
        children.append(_Child.start(folder, 0, "arena", str(folder), str(arena_bytes)))
        _wait(children, engine, 0, lambda done: None)
        return children[0].log.read_bytes()


def _engine(runtime: Runtime) -> str:
    """Name and version of an installed runtime; raises ToolMissingError for a missing one."""
    package, distribution = _PACKAGES[runtime]
    require(package)
    if runtime is Runtime.TFLITE_RUNTIME and int(np.__version__.split(".")[0]) >= 2:
        raise ToolMissingError(
            "numpy < 2 beside tflite-runtime (its wheel is compiled against numpy 1)",
            install="pip install 'ndtool[tflite-runtime]' in an environment of its own",
            code="tool.numpy-too-new",
        )
    return f"{distribution} {package_versions([distribution]).get(distribution, '')}".strip()


def _require_images(count: int) -> None:
    if count == 0:
        raise InputError(
            "no images to run",
            where="evaluation set",
            remedy="name a data set with images in this part",
            code="runner.no-images",
        )


def _shares(total: int, workers: int) -> list[tuple[int, int]]:
    """(first, last) of each worker: contiguous, in order, sizes differing by at most one."""
    parts = max(1, min(workers, math.ceil(total / MIN_SHARE)))
    ends = [total * k // parts for k in range(parts + 1)]
    return list(pairwise(ends))


@dataclass(slots=True)
class _Child:
    """A running worker; `seen` images at `moved` (monotonic seconds) were its last progress."""

    process: subprocess.Popen[bytes]
    result: Path
    done: Path
    log: Path
    seen: int
    moved: float

    @classmethod
    def start(cls, folder: Path, index: int, *args: str) -> _Child:
        """Start worker `index` on `args`; its stdout and stderr go to a log in `folder`."""
        done, log = folder / f"done_{index}", folder / f"log_{index}"
        done.touch()
        with log.open("wb") as handle:
            process = subprocess.Popen(
                worker_command("ndtool.export.runner_worker", *args),
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                env=worker_environment(),
            )
        return cls(process, folder / f"out_{index}.npz", done, log, 0, time.monotonic())

    def count(self) -> int:
        """Images done so far; the worker appends one byte for each."""
        images = self.done.stat().st_size
        if images != self.seen:
            self.seen, self.moved = images, time.monotonic()
        return images

    def load(self) -> dict[str, NDArray[Any]]:
        """What the worker wrote after its last image."""
        with np.load(self.result, allow_pickle=False) as found:
            return dict(found)

    def stop(self) -> None:
        """Kill if need be, and reap."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def _children(model: bytes) -> Iterator[tuple[Path, list[_Child]]]:
    """A folder with the model, and a list of children that does not outlive the block."""
    with tempfile.TemporaryDirectory(prefix="ndtool-") as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(model)
        children: list[_Child] = []
        try:
            yield folder, children
        finally:
            for child in children:
                child.stop()


def _wait(children: Sequence[_Child], engine: str, total: int, progress: Progress) -> None:
    """Return when all children have ended well; raise at the first that did not."""
    running = list(children)
    while running:
        time.sleep(POLL_S)
        # Status before count: what a child did just before its end is then counted.
        for child in list(running):
            status = child.process.poll()
            child.count()
            if status is not None:
                _require_success(status, child.log, engine)
                running.remove(child)
            elif time.monotonic() - child.moved > STALL_S:
                raise _cannot_run(f"{engine} hangs: no image done in {STALL_S:.0f} s", child.log)
        progress(sum(child.seen for child in children))
    progress(total)


def _require_success(status: int, log: Path, engine: str) -> None:
    """Raise what the exit status of a worker means: negative for a signal, positive: refused."""
    if status == 0:
        return
    name = signal_name(status) if status < 0 else ""
    if name in ("SIGKILL", "SIGTERM", "SIGHUP"):
        raise InputError(
            f"a worker of {engine} was killed by {name}, perhaps for want of memory",
            where="int8 run",
            remedy="run again with --workers 1",
            code="runner.killed",
        )
    if name:
        raise _cannot_run(f"{engine} aborts on this model ({name})", log)
    raise _cannot_run(f"the model cannot run here: {engine} refuses it", log)


def _cannot_run(what: str, log: Path) -> UnsupportedError:
    return UnsupportedError(
        f"{what}: {last_lines(log, LOG_LINES)}",
        where="int8 model",
        remedy="try another --runtime; an old one needs export --fc per-tensor;"
        " TFLM aborts on a SOFTMAX over more than 511 close logits",
        code="runner.cannot-run",
    )
