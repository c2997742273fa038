"""The oracle: tflite_micro in a process of its own, since it can abort on a bad model."""

import atexit
import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from host_tools import require_package

WORKER = Path(__file__).with_name("tflm_worker.py")
I8 = np.ndarray


class TflmError(Exception):
    """The model was refused (its message), or the process died ("aborted")."""


class _Worker:
    """One process for all tests; started when it is first needed and after each abort."""

    process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        assert self.process.stdin
        assert self.process.stdout
        np.savez(buffer := io.BytesIO(), **request)
        data = buffer.getvalue()
        try:
            self.process.stdin.write(struct.pack("<Q", len(data)) + data)
            self.process.stdin.flush()
            header = self.process.stdout.read(8)
        except BrokenPipeError:
            header = b""
        if len(header) < 8:
            self.stop()
            raise TflmError("aborted")
        answer = self.process.stdout.read(struct.unpack("<Q", header)[0])
        with np.load(io.BytesIO(answer), allow_pickle=False) as found:
            return dict(found)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


_WORKER = _Worker()
atexit.register(_WORKER.stop)


def stop_tflm() -> None:
    """End the oracle's process; the next question starts another."""
    _WORKER.stop()


def run_tflm(model: bytes, *inputs: I8, outputs: int = 1, tensors: list[int] | None = None) -> list:
    """Outputs, or the tensors numbered `tensors`, for each image of `inputs` (n, ...).

    Raises:
        TflmError: tflite_micro refused the model or aborted.
    """
    require_package("tflite_micro")
    request = {f"x{i}": x for i, x in enumerate(inputs)}
    request |= {
        "model": np.frombuffer(model, np.uint8),
        "inputs": np.array(len(inputs)),
        "outputs": np.array(outputs),
        "tensors": np.array(tensors or [], np.int64),
    }
    answer = _WORKER.ask(request)
    if "error" in answer:
        raise TflmError(str(answer["error"]))
    return [answer[f"y{i}"] for i in range(len(answer))]
