"""Generated C on RV32IMAC: another instruction set, and no libc at all."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from host_tools import C_WARNINGS, WARNINGS, require_tool
from int8_models import tiny_model
from qemu_engine import write_firmware
from shared_models import shared_model
from tflm import run_tflm

from ndtool.export.tflite.reader import read_tflite

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "firmware_templates/runtime"
RV32 = ROOT / "tests/lib/rv32"
GCC = ["riscv64-unknown-elf-gcc", "-march=rv32imac", "-mabi=ilp32", "-mcmodel=medany"]
# RISC-V semihosting: three uncompressed instructions within a page
ASK_HOST = """
__attribute__((noinline)) static intptr_t ask_host(intptr_t operation, const void *block)
{
    register intptr_t a0 __asm("a0") = operation;
    register const void *a1 __asm("a1") = block;
    __asm volatile(".balign 16\\n\\t.option push\\n\\t.option norvc\\n\\t"
                   "slli x0, x0, 0x1f\\n\\tebreak\\n\\tsrai x0, x0, 7\\n\\t.option pop"
                   : "+r"(a0) : "r"(a1) : "memory");
    return a0;
}
"""


def compile_rv32(sources: list[Path], *options: str, cwd: Path) -> None:
    command = [
        *GCC,
        "-std=c99",
        "-ffreestanding",
        "-O2",
        "-I.",
        f"-I{RV32}",
        *options,
        *map(str, sources),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.slow
def test_every_kernel_compiles_without_a_word(tmp_path: Path) -> None:
    require_tool(GCC[0])
    kernels = sorted(RUNTIME.glob("*.c"))
    assert len(kernels) > 10
    compile_rv32(kernels, *WARNINGS, *C_WARNINGS, "-c", cwd=tmp_path)


def build(folder: Path) -> Path:
    """The generated project with start-up code, semihosting and linker script of RV32."""
    semihost = folder / "board/semihost.c"
    text, count = re.subn(
        r"(?ms)^__attribute__\(\(noinline\)\) static intptr_t ask_host.*?^}$",
        lambda _: ASK_HOST.strip(),
        semihost.read_text(),
    )
    assert count == 1
    semihost.write_text(text)
    (folder / "board/startup.c").unlink()
    shutil.copy(RV32 / "stack.c", folder / "board/stack.c")
    sources = [*folder.glob("board/*.c"), *folder.glob("nd_runtime/*.c"), *folder.glob("m*.c")]
    sources = [path for path in sources if not path.stem.endswith("_layers")]
    no_libc = ("-fno-tree-loop-distribute-patterns", "-nostdlib")
    sections = ("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-Lboard")
    script = ("-T", str(RV32 / "virt.ld"), str(RV32 / "start.S"), "-Wl,--no-warn-rwx-segments")
    compile_rv32(sources, *no_libc, *sections, *script, "-lgcc", "-o", "m.elf", cwd=folder)
    return folder / "m.elf"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "kws", "resnet8"])
def test_models_give_tflm_s_bytes(name: str, tmp_path: Path) -> None:
    for tool in (GCC[0], "qemu-system-riscv32"):
        require_tool(tool)
    data = tiny_model() if name == "tiny" else shared_model(name)
    graph = read_tflite(data)
    write_firmware(graph, tmp_path / "project")
    elf = build(tmp_path / "project")
    shape = graph.tensor(graph.inputs[0]).shape
    x = np.random.default_rng(8).integers(-128, 128, (4, *shape[1:])).astype(np.int8)
    (tmp_path / "input.bin").write_bytes(x.tobytes())
    command = ["qemu-system-riscv32", "-M", "virt", "-bios", "none", "-nographic"]
    command += ["-monitor", "none", "-serial", "none", "-kernel", str(elf)]
    command += ["-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(command, check=False, cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "output.bin").read_bytes() == run_tflm(data, x)[0].tobytes()
