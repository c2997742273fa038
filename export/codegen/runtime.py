"""Files of the C runtime that a model needs: its kernels, and what they include."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

FOLDER: Final = "nd_runtime"  # in a project
ALWAYS: Final = ("nd_runtime.h", "nd_runtime.c")  # status words, version
_INCLUDE: Final = re.compile(r'^#include "(nd_\w+\.h)"', re.MULTILINE)
_VERSION: Final = re.compile(r"^#define ND_RUNTIME_VERSION (0x[0-9a-f]{6})\b", re.MULTILINE)


@cache
def _sources() -> Mapping[str, str]:
    """Every file of the runtime by name."""
    folder = resources.files("ndtool.firmware_templates") / "runtime"
    entries = (entry for entry in folder.iterdir() if entry.name.endswith((".c", ".h")))
    return MappingProxyType({entry.name: entry.read_text("utf-8") for entry in entries})


def runtime_stems() -> frozenset[str]:
    """Names of the files without suffix, which are those of functions and include guards too."""
    return frozenset(name.partition(".")[0] for name in _sources())


def runtime_version() -> str:
    """ND_RUNTIME_VERSION as it is written, 0xMMmmpp."""
    found = _VERSION.search(_sources()["nd_runtime.h"])
    assert found is not None, "nd_runtime.h defines no version"
    return found[1]


def runtime_files(kernels: Iterable[str]) -> dict[str, bytes]:
    """File name -> content of all that `kernels` need, sorted by name, without folder.

    A kernel's files are NAME.c and NAME.h; an included header brings its own .c, if there is one.
    """
    sources = _sources()
    needed: set[str] = set()
    waiting = [*ALWAYS, *(f"{name}.{suffix}" for name in kernels for suffix in "ch")]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        waiting += _INCLUDE.findall(sources[name])
        body = f"{name.removesuffix('.h')}.c"
        if name.endswith(".h") and body in sources:
            waiting.append(body)
    return {name: sources[name].encode("utf-8") for name in sorted(needed)}
