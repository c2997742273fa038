"""Children of our own Python: how they are started, and what is read back when one fails.

Interpreters of int8 models can abort the whole process (stack, 1.5) and TensorFlow brings a
gigabyte and seconds of import, so both run beside us. They are started by `python -m`, not forked:
a fork would copy torch's threads and locks. What they read and write are files of one folder.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ndtool.console import visible

PARENT: Final = "NDTOOL_WORKER_PARENT"  # process id of who started the child
TAIL_BYTES: Final = 64 * 1024  # of a log that may be of any length

# Lines of a Python traceback
_NOISE: Final = (" ", "Traceback (most recent", "The above exception", "During handling")

# One thread a process, side by side; idle OpenMP threads must not spin (stack, 4 and 6).
_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


def worker_command(module: str, *args: str) -> list[str]:
    """Command line of `module`; -P keeps the working directory's files from being imported."""
    return [sys.executable, "-P", "-m", module, *args]


def worker_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment with the threads bounded, who we are, and `extra`."""
    return {**os.environ, **_ENVIRONMENT, PARENT: str(os.getpid()), **(extra or {})}


def last_lines(log: Path, count: int) -> str:
    """The last `count` lines that say something, joined by ` | `, safe to print.

    Tracebacks lose their frames: the last line, and what C++ wrote before it, tell.
    """
    with log.open("rb") as handle:
        handle.seek(max(0, log.stat().st_size - TAIL_BYTES))
        text = handle.read(TAIL_BYTES).decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_NOISE)]
    return " | ".join(visible(line.strip()) for line in lines[-count:]) or "no output"


def signal_name(returncode: int) -> str:
    """`SIGABRT` for the return code -6 of a child."""
    known = {s.value: s.name for s in signal.Signals}
    return known.get(-returncode, f"signal {-returncode}")
