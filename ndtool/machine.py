"""What the machine gives this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ndtool.console import visible
from ndtool.errors import ConfigError

MAX_PROCESSES: Final = 65_536
_MEMINFO: Final = Path("/proc/meminfo")
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")
# Version -> folder of the memory groups, file of the bound, file of what is taken, and the row of
# memory.stat with the file cache that the kernel gives back on need.
_GROUP_FILES: Final = {
    2: ("", "memory.max", "memory.current", "inactive_file"),
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def usable_cores() -> int:
    """Cores this process may run on; fewer than the machine has in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which of several processes of one training this one is."""

    rank: int  # 0 writes the files
    world: int  # processes, of all machines together
    local_rank: int  # the same on this machine
    local_world: int
    store: Path | None = None  # file where they meet; None: at torchrun's address


def place_from(environ: Mapping[str, str]) -> Place | None:
    """The place that torchrun, or a scheduler in its way, gives by environment; None: alone.

    Raises:
        ConfigError: a variable is missing or no such number.
    """
    if "RANK" not in environ or environ.get("WORLD_SIZE", "1") == "1":
        return None
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not environ.get(name)]
    if missing:
        raise _environment(f"{missing[0]} is not set", missing[0])
    world = _variable(environ, "WORLD_SIZE", 1, MAX_PROCESSES)
    _variable(environ, "MASTER_PORT", 1, 65535)
    rank = _variable(environ, "RANK", 0, world - 1)
    # Schedulers that start one process a machine leave these two out.
    local_world = _variable(environ, "LOCAL_WORLD_SIZE", 1, world, default="1")
    local_rank = _variable(environ, "LOCAL_RANK", 0, local_world - 1, default="0")
    return Place(rank=rank, world=world, local_rank=local_rank, local_world=local_world)


def _variable(environ: Mapping[str, str], name: str, low: int, high: int, default: str = "") -> int:
    text = environ.get(name, default)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else -1
    if not low <= number <= high:
        raise _environment(f"{visible(text)} is not a number {low} to {high}", name)
    return number


def _environment(what: str, name: str) -> ConfigError:
    return ConfigError(
        what,
        where=f"environment variable {name}",
        remedy="start through torchrun, or unset RANK and WORLD_SIZE to train in one process",
        code="train.environment",
    )


def available_memory_bytes() -> int | None:
    """Memory that can still be taken, of the machine and of the container; None where unknown.

    The smallest of what the kernel holds available without swapping and of what each memory group
    above this process has left.
    """
    return min([*_machine_memory(), *_group_memory()], default=None)


def _machine_memory() -> Iterator[int]:
    kib = _table(_MEMINFO).get("MemAvailable:")
    if kib is not None:
        yield 1024 * kib
        return
    try:
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return


def _group_memory() -> Iterator[int]:
    """Bytes left in each memory group of this process, up to the root."""
    for line in _text(_OWN_GROUPS).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 2 if number == "0" else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        folder, bound, taken, cache = _GROUP_FILES[version]
        own = PurePosixPath(path)
        for group in (own, *own.parents):  # a container sees its own group as the root
            place = _GROUPS / folder / str(group).lstrip("/")
            limit, used = (_text(place / name).strip() for name in (bound, taken))
            if limit.isdecimal() and used.isdecimal():  # "max" is no bound
                freed = _table(place / "memory.stat").get(cache, 0)
                yield max(0, int(limit) - int(used) + freed)


def _table(path: Path) -> dict[str, int]:
    """Rows of a kernel file: a word, white space, a number, perhaps a unit."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _text(path: Path) -> str:
    """The content of a small kernel file; empty where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
