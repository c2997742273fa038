"""One interpreter in a process of its own: `python -m ndtool.export.runner_worker TASK ...`.

    run     FOLDER RUNTIME INDEX FIRST LAST    images FIRST..LAST-1 of FOLDER/x.npy
    tensors FOLDER OUT INDEX FIRST LAST        samples FIRST..LAST-1 of FOLDER/x.npy
    arena   FOLDER ARENA_BYTES                 one inference, then TFLM's allocations on fd 2

Reads FOLDER/model.tflite; `run` writes FOLDER/out_INDEX.npz; `tensors` the tensors that
FOLDER/plan.json names to their place in OUT; both one byte an image to FOLDER/done_INDEX. Whatever
goes wrong ends the process, with the reason on stderr: `runners` judges exit status and log. Needs
numpy and the interpreter, nothing else.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ndtool.errors import require
from ndtool.export.worker_process import PARENT
from ndtool.types import Runtime

I8 = NDArray[np.int8]

# Only touched pages cost memory: a large arena is free, and one size for all needs no search.
ARENA_BYTES: Final = 256 * 1024 * 1024
MAX_OUTPUTS: Final = 65_536  # values of one image's output
MEMORY_BYTES: Final = 4 * 1024 * 1024 * 1024  # private memory of one worker


class Interpreter(Protocol):
    """One model, one image at a time. Shapes hold the batch dimension, 1."""

    def details(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of the only input and the only output: `shape`, `dtype`, `quantization_parameters`."""
        ...

    def run(self, image: I8) -> I8:
        """Output of one image."""
        ...


class Tflm:
    """tflite_micro, the reference (stack, 1.5)."""

    def __init__(
        self, model: bytes, arena_bytes: int = ARENA_BYTES, *, keep_tensors: bool = False
    ) -> None:
        runtime = require("tflite_micro").runtime
        kinds = runtime.InterpreterConfig
        kind = kinds.kPreserveAllTensors if keep_tensors else kinds.kAllocationRecording
        self.interpreter = runtime.Interpreter.from_bytes(
            model, arena_size=arena_bytes, intrepreter_config=kind
        )

    def details(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Interpreter; the wheel has no count of inputs, a second one must not be found."""
        for what in (self.interpreter.get_input_details, self.interpreter.get_output_details):
            try:
                what(1)
            except IndexError:
                continue
            sys.exit("the model has more than one input or output")
        return self.interpreter.get_input_details(0), self.interpreter.get_output_details(0)

    def run(self, image: I8) -> I8:
        """See Interpreter."""
        self.interpreter.set_input(image, 0)
        self.interpreter.invoke()
        output: I8 = self.interpreter.get_output(0)
        return output


class Lite:
    """LiteRT or tflite_runtime with the reference kernels; others round differently (stack, 4)."""

    def __init__(self, model: bytes, package: str) -> None:
        module = require(f"{package}.interpreter")
        self.interpreter = module.Interpreter(
            model_content=model,
            num_threads=1,  # two threads spin: up to 150 times slower (stack, 4)
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF,
        )
        self.interpreter.allocate_tensors()

    def details(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """See Interpreter."""
        inputs, outputs = (
            self.interpreter.get_input_details(),
            self.interpreter.get_output_details(),
        )
        if len(inputs) != 1 or len(outputs) != 1:
            sys.exit("the model has more than one input or output")
        return inputs[0], outputs[0]

    def run(self, image: I8) -> I8:
        """See Interpreter."""
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], image)
        self.interpreter.invoke()
        output: I8 = self.interpreter.get_tensor(self.interpreter.get_output_details()[0]["index"])
        return output


def make_interpreter(runtime: Runtime, model: bytes) -> Interpreter:
    """Interpreter of `model`; raises whatever the engine raises for a model it refuses."""
    match runtime:
        case Runtime.TFLM:
            return Tflm(model)
        case Runtime.LITERT:
            return Lite(model, "ai_edge_litert")
        case Runtime.TFLITE_RUNTIME:
            return Lite(model, "tflite_runtime")


def run_share(folder: Path, runtime: Runtime, index: int, first: int, last: int) -> None:
    """Outputs of images first..last-1, int8 (last - first, K), and their scale and zero point."""
    # Not getppid() now: the parent may be gone already.
    parent = int(os.environ.get(PARENT, os.getppid()))
    images = np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False)  # (N, H, W, C) int8
    interpreter = make_interpreter(runtime, (folder / "model.tflite").read_bytes())
    fed, given = interpreter.details()
    shape, want = [int(n) for n in fed["shape"]], [1, *images.shape[1:]]
    if shape != want:
        sys.exit(f"the model's input is {shape}, the images are {want}")
    if fed["dtype"] != np.int8 or given["dtype"] != np.int8:
        sys.exit("the model's input and output must be int8")
    values = math.prod(int(n) for n in given["shape"])
    if not 1 <= values <= MAX_OUTPUTS:
        sys.exit(f"the model's output has {values} values, 1 to {MAX_OUTPUTS} can be evaluated")
    quantization = given["quantization_parameters"]
    if len(quantization["scales"]) != 1:
        sys.exit("the model's output has not one scale")
    outputs = np.empty((last - first, values), np.int8)
    with (folder / f"done_{index}").open("ab", buffering=0) as done:
        for row, image in enumerate(images[first:last]):
            if os.getppid() != parent:
                sys.exit("the starting process is gone")
            outputs[row] = interpreter.run(np.ascontiguousarray(image[None])).reshape(-1)
            done.write(b".")
    np.savez(
        folder / f"out_{index}.npz",
        outputs=outputs,
        scale=quantization["scales"],
        zero_point=quantization["zero_points"],
    )


def run_tensors(folder: Path, out: Path, index: int, first: int, last: int) -> None:
    """Bytes of the planned tensors for samples first..last-1, sample by sample, into `out`.

    plan.json: `inputs` (shape, scale, zero_point of the int8 tensors; in the file an input may be
    the float before a QUANTIZE, which gives exactly these integers back) and `tensors` (number,
    bytes). The file `out` has its full size already.
    """
    parent = int(os.environ.get(PARENT, os.getppid()))
    plan = json.loads((folder / "plan.json").read_text())
    samples = np.load(folder / "x.npy", mmap_mode="r", allow_pickle=False)  # (N, bytes) int8
    model = (folder / "model.tflite").read_bytes()
    interpreter = Tflm(model, keep_tensors=True).interpreter
    row_bytes = sum(size for _, size in plan["tensors"])
    with (folder / f"done_{index}").open("ab", buffering=0) as done, out.open("r+b") as file:
        file.seek(first * row_bytes)
        for sample in samples[first:last]:
            if os.getppid() != parent:
                sys.exit("the starting process is gone")
            _set_inputs(interpreter, plan["inputs"], np.asarray(sample))
            interpreter.invoke()
            for tensor, size in plan["tensors"]:
                data = interpreter.GetTensor(tensor, 0)["tensor_data"].tobytes()
                if len(data) != size:
                    sys.exit(f"tensor #{tensor} has {len(data)} bytes, {size} expected")
                file.write(data)
            done.write(b".")


def _set_inputs(interpreter: Any, inputs: list[dict[str, Any]], sample: I8) -> None:
    at = 0
    for position, fed in enumerate(inputs):
        size = math.prod(fed["shape"])
        value = sample[at : at + size].reshape(fed["shape"])
        at += size
        if interpreter.get_input_details(position)["dtype"] == np.float32:
            zero = np.float32(fed["zero_point"])
            value = (value.astype(np.float32) - zero) * np.float32(fed["scale"])
        interpreter.set_input(value, position)


def print_arena(folder: Path, arena_bytes: int) -> None:
    """One inference of zeros in an arena of that size, then what TFLM allocated, on fd 2."""
    tflm = Tflm((folder / "model.tflite").read_bytes(), arena_bytes)
    tflm.interpreter.invoke()
    tflm.interpreter.print_allocations()


def _bound_resources() -> None:
    """No core files, bounded memory; an interrupt is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import resource

        _, allowed = resource.getrlimit(resource.RLIMIT_DATA)
        limit = MEMORY_BYTES if allowed == resource.RLIM_INFINITY else min(MEMORY_BYTES, allowed)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(argv: list[str]) -> None:
    """See the module's first lines."""
    _bound_resources()
    match argv:
        case ["run", folder, runtime, index, first, last]:
            run_share(Path(folder), Runtime(runtime), int(index), int(first), int(last))
        case ["tensors", folder, out, index, first, last]:
            run_tensors(Path(folder), Path(out), int(index), int(first), int(last))
        case ["arena", folder, arena_bytes]:
            print_arena(Path(folder), int(arena_bytes))
        case _:
            raise AssertionError(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
