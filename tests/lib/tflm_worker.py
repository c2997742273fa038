"""Runs .tflite bytes in tflite_micro for `tflm`: requests on stdin, answers on stdout, as npz.

Kernel prints go to stderr. The process may abort at any model; the parent then starts another.
"""

import io
import struct
import sys

import numpy as np
from tflite_micro import runtime

ARENA_BYTES = 8 * 1024 * 1024


def run(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of every image; with `tensors`, these tensors instead."""
    config = runtime.InterpreterConfig
    tensors = request["tensors"].tolist()
    kind = config.kPreserveAllTensors if tensors else config.kAllocationRecording
    interpreter = runtime.Interpreter.from_bytes(
        request["model"].tobytes(), arena_size=ARENA_BYTES, intrepreter_config=kind
    )
    inputs = [request[f"x{i}"] for i in range(int(request["inputs"]))]
    rows = []
    for images in zip(*inputs, strict=True):
        for i, image in enumerate(images):
            interpreter.set_input(image[None], i)
        interpreter.invoke()
        if tensors:
            rows.append([interpreter.GetTensor(t, 0)["tensor_data"] for t in tensors])
        else:
            rows.append([interpreter.get_output(i) for i in range(int(request["outputs"]))])
    return {f"y{i}": np.concatenate(column) for i, column in enumerate(zip(*rows, strict=True))}


def main() -> None:
    while header := sys.stdin.buffer.read(8):
        (size,) = struct.unpack("<Q", header)
        with np.load(io.BytesIO(sys.stdin.buffer.read(size)), allow_pickle=False) as request:
            try:
                answer = run(dict(request))
            except (RuntimeError, ValueError) as error:
                answer = {"error": np.array(str(error))}
        np.savez(buffer := io.BytesIO(), **answer)
        data = buffer.getvalue()
        sys.stdout.buffer.write(struct.pack("<Q", len(data)) + data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
