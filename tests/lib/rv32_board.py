"""Generated cortex-m-qemu projects as programs for QEMU's riscv32 board `virt`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

RV32 = Path(__file__).parent / "rv32"
GCC = "riscv64-unknown-elf-gcc"
QEMU = "qemu-system-riscv32"
# RISC-V semihosting: three uncompressed instructions within a page
_ASK_HOST = """
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


def compile_rv32(
    sources: Sequence[Path | str], *options: str, cwd: Path, march: str = "rv32imac"
) -> None:
    """Freestanding: Debian's compiler has no libc."""
    target = (f"-march={march}", "-mabi=ilp32", "-mcmodel=medany")
    command = [GCC, *target, "-std=c99", "-ffreestanding", "-O2", "-I.", f"-I{RV32}"]
    command += [*options, *map(str, sources)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def build_rv32(folder: Path, name: str, *, march: str = "rv32imac") -> Path:
    """folder/NAME.elf of the project in `folder`, whose main program is NAME_main.c.

    Start-up code, semihosting and linker script are replaced. A .map lies beside it.
    """
    semihost = folder / "board/semihost.c"
    text, count = re.subn(
        r"(?ms)^__attribute__\(\(noinline\)\) static intptr_t ask_host.*?^}$",
        lambda _: _ASK_HOST.strip(),
        semihost.read_text(),
    )
    assert count == 1
    semihost.write_text(text)
    (folder / "board/startup.c").unlink(missing_ok=True)
    shutil.copy(RV32 / "stack.c", folder / "board/stack.c")
    found = [path for part in ("", "nd_runtime/", "board/") for path in folder.glob(f"{part}*.c")]
    sources = [path.relative_to(folder) for path in found if not path.stem.endswith("_layers")]
    options = ("-fno-tree-loop-distribute-patterns", "-ffunction-sections", "-fdata-sections")
    objects = []
    for source in sorted(sources):
        objects.append(Path("objects") / source.with_suffix(".o"))
        (folder / objects[-1]).parent.mkdir(parents=True, exist_ok=True)
        compile_rv32([source], *options, "-c", "-o", str(objects[-1]), cwd=folder, march=march)
    link = ["-nostdlib", "-Wl,--gc-sections", "-Lboard", "-T", str(RV32 / "virt.ld")]
    link += [str(RV32 / "start.S"), "-Wl,--no-warn-rwx-segments", f"-Wl,-Map={name}.map"]
    compile_rv32(objects, *link, "-lgcc", "-o", f"{name}.elf", cwd=folder, march=march)
    return folder / f"{name}.elf"


def run_rv32(elf: Path, data: bytes, *, cwd: Path, plugin: str | None = None) -> bytes:
    """What `elf` writes for `data`, in `cwd`."""
    (cwd / "input.bin").write_bytes(data)
    command = [QEMU, "-M", "virt", "-bios", "none", "-nographic", "-monitor", "none"]
    command += ["-serial", "none", "-kernel", str(elf)]
    command += ["-semihosting-config", "enable=on,target=native"]
    command += [] if plugin is None else ["-plugin", plugin]
    done = subprocess.run(
        command, check=False, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    output = cwd / "output.bin"
    return output.read_bytes() if output.is_file() else b""
