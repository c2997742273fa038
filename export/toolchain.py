"""Programs beside Python that build and run firmware: found, started, and stopped in time.

A missing one is exit 7 with the line that installs it. What a program says goes to a file, of which
an error shows the end.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

from ndtool.console import visible
from ndtool.errors import FitError, InputError, ToolMissingError
from ndtool.export.worker_process import last_lines
from ndtool.machine import usable_cores

# Debian's package of each program
PACKAGE_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "make": "make",
        "gcc": "gcc libc6-dev",
        "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
        "qemu-system-arm": "qemu-system-arm",
    }
)
BUILD_TIMEOUT_S: Final = 900.0
POLL_S: Final = 0.05
ERROR_LINES: Final = 5
# What a surrounding make or a user's shell would change in a build of ours
_FOREIGN: Final = (
    *("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "OPT", "CROSS", "LAYERS"),
    *("CFLAGS", "CPPFLAGS", "LDFLAGS"),
)

_OVERFLOW: Final = re.compile(
    r"region `(?P<region>\w+)' overflowed by (?P<bytes>\d+) bytes"
    r"|(?P<stack>RAM: data, bss, arenas and stack do not fit)"
)
_NO_HEADERS: Final = re.compile(r"fatal error: (string|limits|stdint)\.h: No such file")


# -- programs ------------------------------------------------------------------------------------


def find_tool(name: str) -> str:
    """Path of the program `name`, a key of PACKAGE_OF.

    Raises:
        ToolMissingError: it is not on PATH.
    """
    found = shutil.which(name)
    if found is None:
        raise _missing(name, PACKAGE_OF[name])
    return found


def has_tool(name: str) -> bool:
    """Whether `find_tool` would find it."""
    return shutil.which(name) is not None


def _missing(what: str, packages: str) -> ToolMissingError:
    return ToolMissingError(what, install=f"apt-get install --no-install-recommends {packages}")


def version_of(tool: str) -> str:
    """The first line of `tool --version`.

    Raises:
        ToolMissingError: it is not on PATH.
    """
    with TemporaryDirectory(prefix="ndtool-") as folder:
        log = Path(folder) / "version"
        run_tool([find_tool(tool), "--version"], cwd=Path(folder), log=log, timeout_s=60)
        return visible(log.read_text("utf-8", "replace").partition("\n")[0])


def run_tool(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    timeout_s: float,
    watch: Callable[[], bool] = lambda: True,
) -> int | None:
    """Exit status of `command`, negative for a signal; None when it was stopped.

    It is stopped, with its children, after `timeout_s`, when `watch` (asked some times a second)
    says False, and when we are interrupted. stdout and stderr go to `log`.
    """
    environment = {key: text for key, text in os.environ.items() if key not in _FOREIGN}
    environment["LC_ALL"] = "C"  # messages in the words that we look for
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its children can be stopped with it
        )
        try:
            end = time.monotonic() + timeout_s
            while (left := end - time.monotonic()) > 0 and watch():
                try:
                    return process.wait(timeout=min(POLL_S, left))
                except subprocess.TimeoutExpired:
                    continue
            return None
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # its own session, so its group is its id
        process.wait()


# -- builds --------------------------------------------------------------------------------------


def make(folder: Path, *arguments: str, tools: Sequence[str]) -> None:
    """Run make in the generated project `folder`; `arguments` are targets and VARIABLE=VALUE.

    `tools` are the programs its Makefile calls, asked for first.

    Raises:
        ToolMissingError: make, one of `tools` or a header of libc is not there.
        FitError: the linker says that the program does not fit the board.
        InputError: no project, or the compiler refuses it.
    """
    for tool in tools:
        find_tool(tool)
    # Named: make would prefer a GNUmakefile that somebody put beside it.
    command = [find_tool("make"), "-f", "Makefile", "--silent"]
    command += [f"-j{min(usable_cores(), 8)}", *arguments]
    if not (folder / "Makefile").is_file():
        raise InputError(
            "no project to build: there is no Makefile",
            where=visible(str(folder)),
            remedy="name a folder made by ndtool codegen",
            code="build.no-project",
        )
    with TemporaryDirectory(prefix="ndtool-make-") as scratch:
        log = Path(scratch) / "make.log"
        status = run_tool(command, cwd=folder, log=log, timeout_s=BUILD_TIMEOUT_S)
        if status != 0:
            text = log.read_text("utf-8", "replace")
            raise _build_error(folder, arguments, status, text, last_lines(log, ERROR_LINES))


def _build_error(
    folder: Path, arguments: Sequence[str], status: int | None, text: str, end: str
) -> FitError | InputError | ToolMissingError:
    if _NO_HEADERS.search(text):
        return _missing("headers of newlib", PACKAGE_OF["arm-none-eabi-gcc"])
    if overflow := _OVERFLOW.search(text):
        if overflow["stack"]:
            what = "arenas and stack do not fit the RAM"
        else:
            what = f"{overflow['region']} is {overflow['bytes']} bytes too small"
        return FitError(
            f"the program does not fit the board: {what}",
            where=visible(str(folder)),
            remedy="choose a larger board or a smaller model",
            code="build.does-not-fit",
        )
    how = f"took more than {BUILD_TIMEOUT_S:.0f} s" if status is None else f"failed ({status})"
    return InputError(
        f"the build {how}: {end}",
        where=visible(f"make -C {folder} {' '.join(arguments)}"),
        remedy="run this line to see all of it",
        code="build.failed",
    )
