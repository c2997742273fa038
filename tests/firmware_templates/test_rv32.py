"""Generated C on RV32IMAC: another instruction set, and no libc at all."""

from pathlib import Path

import numpy as np
import pytest
from host_tools import C_WARNINGS, WARNINGS, require_tool
from int8_models import tiny_model
from qemu_engine import write_firmware
from rv32_board import GCC, QEMU, build_rv32, compile_rv32, run_rv32
from shared_models import shared_model
from tflm import run_tflm

from ndtool.export.tflite.reader import read_tflite

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "firmware_templates/runtime"


@pytest.mark.slow
def test_every_kernel_compiles_without_a_word(tmp_path: Path) -> None:
    require_tool(GCC)
    kernels = sorted(RUNTIME.glob("*.c"))
    assert len(kernels) > 10
    compile_rv32(kernels, *WARNINGS, *C_WARNINGS, "-c", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "kws", "resnet8"])
def test_models_give_tflm_s_bytes(name: str, tmp_path: Path) -> None:
    for tool in (GCC, QEMU):
        require_tool(tool)
    data = tiny_model() if name == "tiny" else shared_model(name)
    graph = read_tflite(data)
    project = tmp_path / "project"
    write_firmware(graph, project)
    elf = build_rv32(project, "m")
    shape = graph.tensor(graph.inputs[0]).shape
    x = np.random.default_rng(8).integers(-128, 128, (4, *shape[1:])).astype(np.int8)
    assert run_rv32(elf, x.tobytes(), cwd=tmp_path) == run_tflm(data, x)[0].tobytes()
