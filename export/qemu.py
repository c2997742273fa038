"""A generated cortex-m-qemu project: built, and run in QEMU on samples.

The program reads input.bin and writes output.bin in QEMU's working directory, a temporary folder.
Whatever it does - fault, hang, write without end - becomes one error; no process is left.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ndtool import console
from ndtool.console import visible
from ndtool.errors import InputError, MismatchError, NdError, ToolMissingError
from ndtool.export import toolchain
from ndtool.export.codegen.boards import Board, find_board
from ndtool.export.toolchain import find_tool
from ndtool.export.worker_process import last_lines, signal_name

DEFAULT_TIMEOUT_S: Final = 600.0
PATIENCE_S: Final = 10.0  # a run that takes longer says so
MAX_OUTPUT_BYTES: Final = 2 * 1024**3  # of the files a program writes, together
MAX_LOG_BYTES: Final = 1024**2
_REMEDY: Final = "generate the project again; if it stays, please report it with the model"
_EXCEPTIONS: Final[Mapping[int, str]] = {
    2: "NMI",
    3: "HardFault",
    4: "MemManage",
    5: "BusFault",
    6: "UsageFault",
}
_FAULT: Final = re.compile(r"^FAULT exception=(\d{1,3})( .*)$", re.MULTILINE)
_STACK: Final = re.compile(r"^stack (\d{1,10})$", re.MULTILINE)
_LOCKUP: Final = re.compile(r"fatal: (Lockup: .*)")  # then all registers
_PC: Final = re.compile(r"\bR15=([0-9a-f]{8})")
_NO_BOARD: Final = re.compile(r"unsupported machine type")


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuRun:
    """What a program gave: the bytes of output.bin and of layers.bin (empty without layers).

    `stack_bytes` is the deepest stack of a run, None where it was not measured (with layers, the
    hook's own stack would count); `log` what was printed.
    """

    outputs: bytes
    layers: bytes
    stack_bytes: int | None
    log: str


def build(project: Path, prefix: str, board: str, *, layers: bool = False) -> Path:
    """The ELF of model `prefix` in the cortex-m-qemu project `project`, built for `board`.

    With `layers` the variant that also writes every tensor it forms. A .map file lies beside it.

    Raises:
        ConfigError: unknown board.
        ToolMissingError, FitError, InputError: see `toolchain.make`.
    """
    name = f"{prefix}_layers" if layers else prefix
    target = f"build/{find_board(board).name}/{name}.elf"
    arguments = [f"BOARD={board}", *(["LAYERS=1"] if layers else []), target]
    toolchain.make(project, *arguments, tools=["arm-none-eabi-gcc"])
    return project / target


def run(
    elf: Path,
    board: str,
    inputs: bytes | None,
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    plugin: str | None = None,
) -> QemuRun:
    """Run `elf` on `inputs`: samples, each all input tensors' bytes in order; None: its self-test.

    `plugin` is a `-plugin` argument of QEMU.

    Raises:
        ConfigError: unknown board.
        ToolMissingError: qemu-system-arm is not there, or does not know the board.
        MismatchError: the program, or its self-test, faulted, hung, failed or wrote without end.
    """
    machine = find_board(board)
    command = [find_tool("qemu-system-arm"), "-M", machine.name]
    command += ["-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", "-kernel", str(elf.absolute())]
    command += [] if plugin is None else ["-plugin", plugin]
    with TemporaryDirectory(prefix="ndtool-qemu-") as scratch:
        log, folder = Path(scratch) / "log", Path(scratch) / "files"
        folder.mkdir()
        if inputs is not None:
            (folder / "input.bin").write_bytes(inputs)

        waits = [f"{visible(elf.name)} still runs in QEMU; given up after {timeout_s:.0f} s"]
        patient = time.monotonic() + PATIENCE_S

        def watch() -> bool:
            if waits and time.monotonic() > patient:
                console.info(waits.pop())
            return bounded()

        def bounded() -> bool:
            written = sum(_size(folder / name) for name in ("output.bin", "layers.bin"))
            return written <= MAX_OUTPUT_BYTES and _size(log) <= MAX_LOG_BYTES

        status = toolchain.run_tool(command, cwd=folder, log=log, timeout_s=timeout_s, watch=watch)
        if status != 0:
            why = f"does not end within {timeout_s:.0f} s" if bounded() else "writes without end"
            raise _run_error(elf, machine, status, why, log)
        text = log.read_text("utf-8", "replace")
        stack = _STACK.search(text)
        return QemuRun(
            outputs=_read(folder / "output.bin"),
            layers=_read(folder / "layers.bin"),
            stack_bytes=None if stack is None else int(stack[1]),
            log=text,
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _run_error(elf: Path, board: Board, status: int | None, why: str, log: Path) -> NdError:
    with log.open("rb") as handle:
        text = handle.read(MAX_LOG_BYTES).decode("utf-8", "replace")
    where = visible(f"{elf.name} on {board.name}")
    end = last_lines(log, 2)
    if status is None:
        return MismatchError(
            f"the C program {why}: {end}", where=where, remedy=_REMEDY, code="qemu.timeout"
        )
    if fault := _FAULT.search(text):
        name = _EXCEPTIONS.get(int(fault[1]), f"exception {fault[1]}")
        what = f"the program ended in a {name}:{visible(fault[2])}"
        return MismatchError(what, where=where, remedy=_REMEDY, code="qemu.fault")
    if lockup := _LOCKUP.search(text):
        pc = _PC.search(text, lockup.end())
        at = "" if pc is None else f" at pc={pc[1]}"
        what = f"the program faulted within a fault{at}: {visible(lockup[1])}"
        return MismatchError(what, where=where, remedy=_REMEDY, code="qemu.fault")
    if _NO_BOARD.search(text):
        return ToolMissingError(
            f"a qemu-system-arm that knows the board {board.name}",
            install="QEMU 6.2 or newer, as in Debian 12",
        )
    if status < 0:
        return InputError(
            f"QEMU was ended by {signal_name(status)}: {end}",
            where=where,
            remedy="run it again; if it was killed for memory, free some",
            code="qemu.killed",
        )
    return MismatchError(
        f"the program failed with exit status {status}: {end}",
        where=where,
        remedy=_REMEDY,
        code="qemu.failed",
    )
