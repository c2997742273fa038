"""Instructions of one inference, counted in QEMU, function by function.

Exact and the same on every run: guest instructions from the entry of `<prefix>_run` to its return,
one inference after one warm-up (design, 9). The counter is a plugin of QEMU, compiled on first use
into the user's cache.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ndtool.console import visible
from ndtool.errors import InputError, ToolMissingError
from ndtool.export import qemu, toolchain
from ndtool.export.elf_facts import Function, functions
from ndtool.export.worker_process import last_lines

SOURCES: Final = ("insncount.c", "qemu_plugin_api.h")
FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-fPIC", "-shared", "-fvisibility=hidden")
COMPILE_TIMEOUT_S: Final = 120.0
# The main program calls this right after `<prefix>_run` returned: counting ends there, and what it
# executes itself in between is left out.
AFTER_RUN: Final = "stack_used"
HARNESS: Final = "main"
_VERSION: Final = re.compile(r"version (\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Instructions of one inference; `functions` has those executed, most instructions first."""

    instructions: int
    functions: tuple[tuple[str, int], ...]


def profile(
    elf: Path,
    board: str,
    prefix: str,
    sample: bytes,
    *,
    timeout_s: float = qemu.DEFAULT_TIMEOUT_S,
) -> Profile:
    """Count the second of two inferences of `sample` (all inputs' bytes) by `elf`.

    `elf` is the variant without layers that `qemu.build` made of a cortex-m-qemu project.

    Raises:
        ToolMissingError: gcc, qemu-system-arm, its plugins or pyelftools are missing.
        MismatchError: the program does not run through.
        InputError: the ELF is not one of ours.
    """

    def run(plugin: str) -> None:
        qemu.run(elf, board, sample * 2, timeout_s=timeout_s, plugin=plugin)

    return profile_by(elf, prefix, run)


def profile_by(elf: Path, prefix: str, run: Callable[[str], None]) -> Profile:
    """Count the second inference; `run` has QEMU execute `elf` with the `-plugin` it is given.

    Raises:
        As `profile`, and what `run` does.
    """
    symbols = functions(elf)
    begin, end = (_address(symbols, name, elf) for name in (f"{prefix}_run", AFTER_RUN))
    plugin = plugin_path()
    with TemporaryDirectory(prefix="ndtool-profile-") as folder:
        out = Path(folder) / "counts"
        arguments = [str(plugin), f"begin={begin:x}", f"end={end:x}", "skip=1", f"out={out}"]
        # A comma within a value is doubled.
        argument = ",".join(text.replace(",", ",,") for text in arguments)
        run(argument)
        if not out.is_file():
            raise ToolMissingError(
                "a qemu-system-arm that loads plugins",
                install="QEMU built with --enable-plugins, as Debian's",
            )
        return _by_function(out.read_text("ascii"), symbols)


def _address(symbols: Sequence[Function], name: str, elf: Path) -> int:
    for symbol in symbols:
        if symbol.name == name:
            return symbol.address
    raise InputError(
        f"no function {visible(name)}",
        where=visible(str(elf)),
        remedy="use a program that qemu.build made of a generated project",
        code="profile.symbol",
    )


def _by_function(counts: str, symbols: Sequence[Function]) -> Profile:
    """`counts` is the plugin's file: a line `entries 1`, then address and count a line."""
    first, *rows = counts.splitlines()
    assert first == "entries 1", first
    starts = [symbol.address for symbol in symbols]
    total: Counter[str] = Counter()
    for row in rows:
        address, count = row.split()
        index = bisect.bisect_right(starts, int(address, 16)) - 1
        total[symbols[index].name if index >= 0 else "?"] += int(count)
    del total[HARNESS]
    ordered = sorted(total.items(), key=lambda item: (-item[1], item[0]))
    return Profile(instructions=total.total(), functions=tuple(ordered))


# -- the plugin ----------------------------------------------------------------------------------


def plugin_path(environment: Mapping[str, str] = os.environ) -> Path:
    """The compiled plugin for the QEMU on PATH, compiled now unless it is in the cache.

    Raises:
        ToolMissingError: gcc or qemu-system-arm is missing.
        InputError: it cannot be compiled or kept.
    """
    folder = resources.files("ndtool.firmware_templates") / "tools"
    sources = {name: (folder / name).read_bytes() for name in SOURCES}
    flags = (*FLAGS, f"-DND_QEMU_PLUGIN_VERSION={_plugin_version()}")
    digest = hashlib.sha256(" ".join((platform.machine(), *flags)).encode("ascii"))
    for data in sources.values():
        digest.update(data)
    cache = cache_folder(environment)
    path = cache / f"insncount-{digest.hexdigest()[:16]}.so"
    if not path.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            _compile(sources, flags, path)
        except OSError as error:
            raise InputError(
                f"cannot keep the instruction counter: {error.strerror}",
                where=visible(str(cache)),
                remedy="set XDG_CACHE_HOME to a folder that can be written",
                code="profile.cache",
            ) from error
    return path


def cache_folder(environment: Mapping[str, str]) -> Path:
    """ndtool's folder of what can be made again; a relative XDG_CACHE_HOME does not count (XDG)."""
    base = Path(environment.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "ndtool"


def _plugin_version() -> int:
    found = _VERSION.search(toolchain.version_of("qemu-system-arm"))
    return 1 if found is None or int(found[1]) < 9 else 2


def _compile(sources: Mapping[str, bytes], flags: Sequence[str], path: Path) -> None:
    """In a folder beside `path`, then by one rename: two processes may do it at once."""
    gcc = toolchain.find_tool("gcc")
    with TemporaryDirectory(prefix=".insncount-", dir=path.parent) as name:
        folder = Path(name)
        for source, data in sources.items():
            (folder / source).write_bytes(data)
        log = folder / "log"
        command = [gcc, *flags, "-o", path.name, SOURCES[0]]
        status = toolchain.run_tool(command, cwd=folder, log=log, timeout_s=COMPILE_TIMEOUT_S)
        if status != 0:
            raise InputError(
                f"the instruction counter does not compile: {last_lines(log, 3)}",
                where=visible(gcc),
                remedy="please report it with the compiler's version",
                code="profile.compile",
            )
        (folder / path.name).replace(path)
