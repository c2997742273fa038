"""Arena, flash and instructions of a run's C, found again for `check`."""

from __future__ import annotations

import re
from typing import Final

from ndtool.console import visible
from ndtool.errors import NdError, ToolMissingError
from ndtool.export import toolchain
from ndtool.export.c_project import CProject, is_project, load_projects
from ndtool.export.codegen.boards import BOARDS
from ndtool.export.codegen.engine import Compiled
from ndtool.export.verify_run import ON_HOST, measure_firmware, run_project
from ndtool.files import read_bounded
from ndtool.gates.baseline import Bounds
from ndtool.gates.evidence import Measured
from ndtool.rundir import (
    CODEGEN,
    RunDir,
)

DEFAULT_CORE: Final = "cortex-m4"  # of flash and instructions
MAX_HEADER_BYTES: Final = 1024 * 1024
# Codes of errors of building and running C that are this machine's, not the C's
MACHINE_FAULTS: Final = ("verify.copy", "profile.cache", "profile.compile")


def largest_arena(run: RunDir, compiled: Compiled) -> int | None:
    """Bytes of our own plan or of what a header of the run's C states; None for an unclear one."""
    stated = []
    for template in ON_HOST:
        folder = run / f"{CODEGEN}/{template}"
        try:
            projects = load_projects(folder) if is_project(folder) else []
            stated += [_stated_arena(project) for project in projects]
        except NdError:
            return None
    sizes = [compiled.plan.total, *stated]
    return None if None in sizes else max(size for size in sizes if size is not None)


def _stated_arena(project: CProject) -> int | None:
    """The largest of the header's PREFIX_ARENA_BYTES and the marker's; None without a number."""
    header = read_bounded(project.folder / f"{project.prefix}.h", MAX_HEADER_BYTES)
    name = re.escape(f"{project.prefix.upper()}_ARENA_BYTES")
    found = re.findall(
        rf"^[ \t]*#[ \t]*define[ \t]+{name}[ \t]+(\d{{1,12}})[ \t]*(?:/\*.*)?$",
        header.decode("utf-8", "replace"),
        re.MULTILINE,
    )
    return max([project.arena_bytes or 0, *map(int, found)]) if found else None


def measure_c(run: RunDir, bounds: Bounds, core: str) -> tuple[Measured, Measured]:
    """Flash and instructions, each on the core that its bound asks for.

    Args:
        core: instead of the bounds' cores, and where there is no bound; "" for none.
    """
    flash_core, count_core = (
        core or ("" if budget is None else budget.core or DEFAULT_CORE)
        for budget in (bounds.flash_bytes, bounds.instructions)
    )
    found = {
        word: _measure_on(run, word, count=word == count_core)
        for word in dict.fromkeys((flash_core, count_core))
    }
    return found[flash_core][0], found[count_core][1]


def _measure_on(run: RunDir, core: str, *, count: bool) -> tuple[Measured, Measured]:
    """Of the firmware built for `core`; "" for none."""
    board = next((board for board in BOARDS if f"cortex-{board.core}" == core), None)
    if board is None:
        cores = ", ".join(dict.fromkeys(f"cortex-{board.core}" for board in BOARDS))
        why = f"no board of the core {visible(core)}; known: {cores}" if core else "no bound for it"
        return _both(Measured(value=None, why=why))
    try:
        project = run_project(run, f"qemu:{board.name}")
        if project is None:
            return _both(Measured(value=None, why=f"no C project: ndtool codegen {run.path}"))
        gcc = {"gcc": toolchain.version_of("arm-none-eabi-gcc")}
        qemu = {"qemu": toolchain.version_of("qemu-system-arm")} if count else {}
        firmware = measure_firmware(project, board, count=count)
    except ToolMissingError as missing:
        flash, why = Measured(value=None, why=str(missing)), str(missing)
        if count:  # without an emulator there may be a compiler
            flash, _ = _measure_on(run, core, count=False)
        return flash, Measured(value=None, why=why)
    except NdError as broken:
        why, failed = f"{broken.what} ({broken.where})", broken.code not in MACHINE_FAULTS
        return _both(Measured(value=None, why=why, failed=failed))
    return (
        Measured(value=firmware.flash_bytes, toolchain=gcc),
        Measured(value=firmware.instructions, why="no bound for it", toolchain=gcc | qemu),
    )


def _both(why: Measured) -> tuple[Measured, Measured]:
    """Neither flash nor instructions, for one reason."""
    return why, why
