"""Programs and Python packages that tests need: found, or the test skips and says how to install.

With NDTOOL_REQUIRE_TOOLS=1 (CI) a missing one fails the test instead. No test skips for a missing
tool in any other way (tests/repo/test_host_tools.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest

from ndtool.errors import EXTRA_OF, install_line

INSTALL = {
    "gcc": "apt-get install gcc libc6-dev",
    "g++": "apt-get install g++",
    "clang-format": install_line("dev"),
    "make": "apt-get install make",
    "cmake": "apt-get install cmake",
    "arm-none-eabi-gcc": "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "apt-get install qemu-system-arm",
    "riscv64-unknown-elf-gcc": "apt-get install gcc-riscv64-unknown-elf",
    "qemu-system-riscv32": "apt-get install qemu-system-misc",
}
# The warnings that generated C is free of; the second group exists for C only.
_WARNINGS = """
    -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wundef -Wcast-qual
    -Wcast-align -Wdouble-promotion -Wvla -Werror
"""
WARNINGS = _WARNINGS.split()
C_WARNINGS = ["-Wstrict-prototypes", "-Wmissing-prototypes"]
C99 = ("gcc", "-std=c99", *WARNINGS, *C_WARNINGS)
C11 = ("gcc", "-std=c11", *WARNINGS, *C_WARNINGS)
CPP11 = ("g++", "-std=c++11", *WARNINGS, "-x", "c++")


def require_tool(name: str) -> str:
    """Path of the program `name`, of this Python's own bin folder first."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        _missing(name, INSTALL[name])
    return found


def require_package(name: str) -> None:
    """The optional package `name` is installed; it is not imported."""
    if find_spec(name) is None:
        _missing(name, install_line(EXTRA_OF[name]))


def _missing(name: str, install: str) -> NoReturn:
    reason = f"{name} not found; install: {install}"
    if os.environ.get("NDTOOL_REQUIRE_TOOLS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def try_compile(
    compiler: Sequence[str], sources: Sequence[Path], *options: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    """Run a compiler of this module on `sources` in `cwd`; what it said is in `stderr`."""
    command = [require_tool(compiler[0]), *compiler[1:], *map(str, sources), *options]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=cwd, timeout=120
    )


def compile_ok(compiler: Sequence[str], sources: Sequence[Path], *options: str, cwd: Path) -> None:
    """`try_compile` that must succeed without a word."""
    done = try_compile(compiler, sources, *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def run_program(program: Path) -> int:
    """Exit status of a program made here."""
    return subprocess.run([program], check=False, timeout=60).returncode
