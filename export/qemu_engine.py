"""The `cortex-m-qemu` project of a model as an engine of `verify`, and what only it can measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndtool.console import visible
from ndtool.errors import MismatchError
from ndtool.export import qemu
from ndtool.export.c_project import CProject, build_errors
from ndtool.export.codegen.boards import Board
from ndtool.export.firmware import MAX_GOLDEN
from ndtool.export.layers import op_macs

I8 = NDArray[np.int8]

START_TIMEOUT_S: Final = 30.0
SAMPLE_TIMEOUT_S: Final = 0.25  # of one inference
MACS_PER_S: Final = 1e7  # QEMU does 290 million of the portable C: room for slow, busy machines
CHUNK_SAMPLES: Final = 32  # of one start, so that a hang is told within the time of so many
CHUNK_BYTES: Final = 64 * 1024 * 1024  # of its outputs and layers


@dataclass(slots=True, kw_only=True)
class QemuProgram:
    """An ELF of one project for one board; `stack_bytes`: the deepest stack of all runs so far."""

    project: CProject
    elf: Path
    board: Board
    layers: bool
    stack_bytes: int | None = None

    @property
    def chunk(self) -> int:
        """Samples of one start of the program."""
        size = self.project.output_bytes + (self.project.layer_bytes if self.layers else 0)
        return max(1, min(CHUNK_SAMPLES, CHUNK_BYTES // size))

    def timeout_s(self, samples: int) -> float:
        """Seconds after which a program that runs so many samples is taken to hang."""
        graph = self.project.graph
        macs = sum(op_macs(graph, op) for op in graph.ops)
        return START_TIMEOUT_S + samples * (SAMPLE_TIMEOUT_S + macs / MACS_PER_S)

    def self_test(self) -> int:
        """Golden vectors and the pixel quantiser, as the generated C tests them; how many vectors.

        Raises:
            MismatchError: names the golden vector that differs.
        """
        limit = self.timeout_s(MAX_GOLDEN)
        done = qemu.run(self.elf, self.board.name, None, timeout_s=limit)
        return self.project.vectors_tested(done.log)

    def run(self, samples: I8) -> tuple[I8, I8 | None]:
        """Outputs (N, bytes) and, of a program with layers, the layers' bytes (N, bytes).

        Raises:
            MismatchError: the program faults, hangs, or writes something else.
        """
        data, limit = np.ascontiguousarray(samples).tobytes(), self.timeout_s(len(samples))
        done = qemu.run(self.elf, self.board.name, data, timeout_s=limit)
        if done.stack_bytes is not None:
            self.stack_bytes = max(self.stack_bytes or 0, done.stack_bytes)
        outputs = self._rows("outputs", done.outputs, len(samples), self.project.output_bytes)
        if not self.layers:
            return outputs, None
        return outputs, self._rows("layers", done.layers, len(samples), self.project.layer_bytes)

    def _rows(self, what: str, data: bytes, count: int, row_bytes: int) -> I8:
        if len(data) != count * row_bytes:
            raise MismatchError(
                f"the firmware wrote {len(data):,} bytes of {what}, {count * row_bytes:,} expected",
                where=visible(f"{self.elf.name} on {self.board.name}"),
                remedy="generate the project again: ndtool codegen; if it stays, please report it",
                code="verify.firmware",
            )
        return np.frombuffer(data, np.int8).reshape(count, row_bytes)


def build_qemu(project: CProject, folder: Path, board: Board, *, layers: bool) -> QemuProgram:
    """Build the firmware of `project` for `board` in `folder`, a cortex-m-qemu form of it.

    Raises:
        ToolMissingError: no compiler or no make.
        FitError: the board is too small.
        InputError: it does not compile.
    """
    with build_errors(project):
        elf = qemu.build(folder, project.prefix, board.name, layers=layers)
    return QemuProgram(project=project, elf=elf, board=board, layers=layers)
