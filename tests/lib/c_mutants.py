"""Deliberate faults in the runtime's C: one file edited, what includes it compiled again, relinked.

The folder is one that `c_engine.build` filled; the faultless library in it stays as it is.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from c_engine import Library
from host_tools import C99, compile_ok

INCLUDE = re.compile(r'#include "(nd_\w+\.h)"')


@dataclass(frozen=True)
class Mutant:
    """`old` in runtime file `file` becomes `new`; `old` occurs `times`."""

    name: str
    file: str
    old: str
    new: str
    times: int = 1


def with_fault(library: Library, folder: Path, mutant: Mutant) -> Library:
    """The models of `library` with the fault in them."""
    runtime = folder / "nd_runtime"
    path = runtime / mutant.file
    right = path.read_text()
    assert right.count(mutant.old) == mutant.times, f"{mutant.name}: the text is not there"
    objects = {found.name: found for found in sorted(folder.rglob("*.o"))}
    try:
        path.write_text(right.replace(mutant.old, mutant.new))
        for source in _including(runtime, mutant.file):
            built = folder / "mutant" / f"{source}.o"
            built.parent.mkdir(exist_ok=True)
            # the fault must compile, not be clean
            compile_ok(
                (*C99, "-w", "-Wno-error"),
                [Path("nd_runtime") / source],
                *("-c", "-O1", "-fPIC", "-I.", "-o", str(built)),
                cwd=folder,
            )
            objects[built.name] = built
    finally:
        path.write_text(right)
    shared = f"{re.sub(r'[^a-z0-9]+', '_', mutant.name)}.so"
    compile_ok(C99, list(objects.values()), "-shared", "-o", shared, cwd=folder)
    return Library(library.models, ctypes.CDLL(str(folder / shared)))


def _including(runtime: Path, file: str) -> Iterator[str]:
    """Sources that include `file`, or that are it."""
    for source in sorted(runtime.glob("*.c")):
        seen, queue = {source.name}, [source.name]
        while queue:
            for header in INCLUDE.findall((runtime / queue.pop()).read_text()):
                if header not in seen:
                    seen.add(header)
                    queue.append(header)
        if file in seen:
            yield source.name
