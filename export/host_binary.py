"""The `posix` project built with its own Makefile, and its program run on samples.

Its protocol: `PREFIX_host INPUTS OUTPUTS [LAYERS]` reads samples and writes their outputs, raw int8
bytes; without arguments it runs the self-test. A program that hangs, dies or writes another number
of bytes is a difference from the reference, not a crash of ours.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndtool.console import visible
from ndtool.errors import MismatchError
from ndtool.export import toolchain
from ndtool.export.c_project import BUILD, CProject, build_errors
from ndtool.export.firmware import MAX_GOLDEN
from ndtool.export.worker_process import last_lines, signal_name

I8 = NDArray[np.int8]

COMPILER: Final = "gcc"
START_TIMEOUT_S: Final = 30.0
SAMPLE_TIMEOUT_S: Final = 0.5  # of one inference; 100 million multiplications take a tenth
CHUNK_SAMPLES: Final = 256  # of one start of the program
CHUNK_BYTES: Final = 64 * 1024 * 1024  # of its outputs and layers
MAX_LOG_BYTES: Final = 1024 * 1024
_VERSION: Final = re.compile(r"\d+\.\d+(\.\d+)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProgram:
    """A built program of one project; `layers`: built with the layer hook."""

    project: CProject
    path: Path
    layers: bool

    def self_test(self) -> int:
        """Golden vectors and the pixel quantiser, as the generated C tests them; how many vectors.

        Raises:
            MismatchError: names the golden vector that differs.
        """
        return self.project.vectors_tested(self.require_self_test())

    def require_self_test(self) -> str:
        """Run the self-test; gives what it printed.

        Raises:
            MismatchError: it fails.
        """
        with tempfile.TemporaryDirectory(prefix="ndtool-") as name:
            timeout = START_TIMEOUT_S + SAMPLE_TIMEOUT_S * MAX_GOLDEN
            return _run([str(self.path)], Path(name), timeout_s=timeout, limit=0)

    def run(self, samples: I8) -> tuple[I8, I8 | None]:
        """Outputs (N, bytes) and, of a program with layers, the layers' bytes (N, bytes).

        Samples are (N, bytes): of each, all inputs in order; N at most `chunk`.

        Raises:
            MismatchError: the program dies, hangs, or writes something else.
        """
        count = len(samples)
        assert 1 <= count <= self.chunk, (count, self.chunk)
        sizes = {"outputs": self.project.output_bytes}
        if self.layers:
            sizes["layers"] = self.project.layer_bytes
        with tempfile.TemporaryDirectory(prefix="ndtool-") as name:
            folder = Path(name)
            (folder / "inputs").write_bytes(np.ascontiguousarray(samples).tobytes())
            _run(
                [str(self.path), "inputs", *sizes],
                folder,
                timeout_s=START_TIMEOUT_S + SAMPLE_TIMEOUT_S * count,
                limit=count * sum(sizes.values()),
            )
            written = [_read(folder / file, count, size) for file, size in sizes.items()]
        return written[0], written[1] if self.layers else None

    @property
    def chunk(self) -> int:
        """Samples of one start of the program."""
        size = self.project.output_bytes + (self.project.layer_bytes if self.layers else 0)
        return max(1, min(CHUNK_SAMPLES, CHUNK_BYTES // size))


def compiler_name() -> str:
    """`gcc 12.2.0`.

    Raises:
        ToolMissingError: it is missing.
    """
    found = _VERSION.search(toolchain.version_of(COMPILER))
    return COMPILER if found is None else f"{COMPILER} {found[0]}"


def build_host(project: CProject, folder: Path, *, layers: bool) -> HostProgram:
    """Build the program of `project` in `folder`, a copy of its folder.

    Raises:
        ToolMissingError: no compiler or no make.
        InputError: it does not compile.
    """
    name = f"{project.prefix}_host{'_layers' if layers else ''}"
    variables = [f"CC={COMPILER}", *(["LAYERS=1"] if layers else [])]
    with build_errors(project):
        toolchain.make(folder, *variables, f"{BUILD}/{name}", tools=[COMPILER])
    return HostProgram(project=project, path=folder / BUILD / name, layers=layers)


def _run(command: list[str], folder: Path, *, timeout_s: float, limit: int) -> str:
    """Run the program in `folder`, where it may write `limit` bytes besides what lies there.

    Gives what it printed.
    """
    log = folder / "log"
    allowed = limit + MAX_LOG_BYTES + _size(folder)

    def bounded() -> bool:
        return _size(folder) <= allowed

    try:
        status = toolchain.run_tool(
            command, cwd=folder, log=log, timeout_s=timeout_s, watch=bounded
        )
    except OSError as error:
        raise _broken(f"the C program cannot be started: {error.strerror}", command[0]) from error
    if status == 0:
        return log.read_text("utf-8", "replace")
    if status is None:
        why = f"does not end within {timeout_s:.0f} s" if bounded() else "writes without end"
        raise _broken(f"the C program {why}", command[0])
    end = last_lines(log, 1)
    if status < 0:
        raise _broken(f"the C program died of {signal_name(status)}: {end}", command[0])
    raise _broken(f"the C program ended with exit status {status}: {end}", command[0])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _read(path: Path, count: int, row_bytes: int) -> I8:
    size = path.stat().st_size if path.is_file() else 0
    if size != count * row_bytes:
        what = f"the C program wrote {size:,} bytes of {path.name}, {count * row_bytes:,} expected"
        raise _broken(what, path.name)
    return np.fromfile(path, np.int8).reshape(count, row_bytes)


def _broken(what: str, where: str) -> MismatchError:
    return MismatchError(
        what,
        where=visible(Path(where).name),
        remedy="generate the project again: ndtool codegen; if it still does, please report it",
        code="verify.program",
    )
