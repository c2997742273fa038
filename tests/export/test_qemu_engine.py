"""The firmware of `verify`: how long it may run before it is taken to hang."""

from pathlib import Path

import numpy as np
import pytest
from int8_models import tiny_model

from ndtool.export import qemu, qemu_engine
from ndtool.export.c_project import CProject
from ndtool.export.codegen.boards import find_board
from ndtool.export.qemu_engine import CHUNK_SAMPLES, QemuProgram
from ndtool.export.tflite.reader import read_tflite

GOLDEN = "nd_model: 2 golden vectors: ok\n"


def program(side: int = 6) -> QemuProgram:
    """An ELF that is not there, of `tiny_model`: 3 bytes out."""
    tflite = tiny_model(side=side)
    project = CProject(
        folder=Path("p"),
        prefix="nd_model",
        template="cortex-m-qemu",
        tflite=tflite,
        graph=read_tflite(tflite),
        layers=(),
        files={},
        contract=None,
        arena_bytes=None,
        weights_bytes=None,
    )
    board = find_board("mps2-an386")
    return QemuProgram(project=project, elf=Path("x.elf"), board=board, layers=False)


def test_the_limit_grows_with_the_work() -> None:
    assert program().timeout_s(1) < program().timeout_s(CHUNK_SAMPLES) <= 120
    assert program().timeout_s(qemu_engine.MAX_GOLDEN) <= 120
    assert program(side=96).timeout_s(4) > program(side=6).timeout_s(4)


def test_every_start_has_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def run(elf: Path, board: str, inputs: bytes | None, *, timeout_s: float) -> qemu.QemuRun:
        limits.append(timeout_s)
        outputs = b"" if inputs is None else bytes(len(inputs) // 36 * 3)
        return qemu.QemuRun(outputs=outputs, layers=b"", stack_bytes=None, log=GOLDEN)

    monkeypatch.setattr(qemu, "run", run)
    made = program()
    assert made.self_test() == 2
    outputs, _ = made.run(np.zeros((5, 36), np.int8))
    assert outputs.shape == (5, 3)
    assert limits == [made.timeout_s(qemu_engine.MAX_GOLDEN), made.timeout_s(5)]
