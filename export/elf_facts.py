"""What of a linked firmware is the model's and the engine's: sizes, and where they lie.

The linker's map says for every byte which object file it came from; by that, start-up code, main
program, golden vectors and libgcc are told apart (mcu, 4.5). The ELF says what a section is: code,
constants, or memory that a program may write to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ndtool.console import visible
from ndtool.errors import InputError, require

MAX_MAP_BYTES: Final = 64 * 1024 * 1024
# Files of a model beside its golden vectors, which a firmware without the self-test drops
MODEL_PARTS: Final = ("", "_data", "_labels", "_pixels")
RUNTIME: Final = "nd_runtime"
# Flags of a section (ELF specification, figure 4-11)
_WRITE: Final = 1
_ALLOC: Final = 2
_EXECUTE: Final = 4

_OUTPUT: Final = re.compile(r"^(\.[\w.]+)(?:\s|$)")
_INPUT: Final = re.compile(r"^ (\.\S+|COMMON)\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+(\S.*)$")
_LONG_NAME: Final = re.compile(r"^ (\.\S+)$")
_MAP_STARTS: Final = "Linker script and memory map"


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfFacts:
    """Bytes of the image that a model and its engine account for (design, 9).

    flash_bytes: code, constants and initialised data. code_bytes: the executable part of it.
    const_bytes: read-only data. ram_bytes: what lies in memory that a program may write to, 0 by
    design; `ram` names it, as `OBJECT SECTION`.
    """

    flash_bytes: int
    code_bytes: int
    const_bytes: int
    ram_bytes: int
    ram: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of an ELF; Thumb's bit is cleared from the address."""

    address: int
    name: str


@dataclass(frozen=True, slots=True)
class Piece:
    """One input section in the image: `output` is the section it became part of, sizes in bytes."""

    output: str
    name: str
    size: int
    object: PurePosixPath


def read_elf_facts(elf: Path, prefix: str) -> ElfFacts:
    """Facts of model `prefix` in `elf`, which `qemu.build` made; its .map lies beside it.

    Raises:
        InputError: no map, or no ELF file of ours.
        ToolMissingError: pyelftools is not installed.
    """
    sections = _sections(elf)
    ours = [
        (piece, *sections[piece.output])
        for piece in pieces(elf.with_suffix(".map"))
        if _is_ours(piece.object, prefix) and piece.output in sections and piece.size
    ]

    def total(wanted: Callable[[int, bool], bool]) -> int:
        return sum(piece.size for piece, flags, stored in ours if wanted(flags, stored))

    return ElfFacts(
        flash_bytes=total(lambda _, stored: stored),
        code_bytes=total(lambda flags, _: bool(flags & _EXECUTE)),
        const_bytes=total(lambda flags, _: not flags & (_EXECUTE | _WRITE)),
        ram_bytes=total(lambda flags, _: bool(flags & _WRITE)),
        ram=tuple(f"{p.object.name} {p.name}" for p, flags, _ in ours if flags & _WRITE),
    )


def _is_ours(path: PurePosixPath, prefix: str) -> bool:
    """`path` of an object: OBJECTS/nd_runtime/nd_conv_s8.o or OBJECTS/<prefix>_data.o."""
    own = {f"{prefix}{part}.o" for part in MODEL_PARTS}
    return path.parent.name == RUNTIME or path.name in own


# -- the linker's map ----------------------------------------------------------------------------


def pieces(path: Path) -> Iterator[Piece]:
    """Input sections of the GNU ld map `path`, in order.

    Raises:
        InputError: it is no such map.
    """
    try:
        if path.stat().st_size > MAX_MAP_BYTES:
            raise _not_ours(path, "the linker's map is far too large")
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        raise _not_ours(path, f"cannot read the linker's map: {error.strerror}") from error
    _, found, text = text.partition(_MAP_STARTS)
    if not found:
        raise _not_ours(path, "not a map of GNU ld")
    output, name = "", ""
    for line in text.splitlines():
        if start := _OUTPUT.match(line):
            output = start[1]
        if long_name := _LONG_NAME.match(line):  # the rest stands on the next line
            name = long_name[1]
            continue
        piece = _INPUT.match(f" {name}{line}" if name else line)
        name = ""
        if piece:
            yield Piece(output, piece[1], int(piece[2], 16), PurePosixPath(piece[3]))


# -- the ELF -------------------------------------------------------------------------------------


def functions(elf: Path) -> tuple[Function, ...]:
    """All functions of `elf`, by address; of two names of one address the global one.

    Raises:
        InputError: not an ELF file with symbols.
        ToolMissingError: pyelftools is not installed.
    """
    found: dict[int, tuple[bool, str]] = {}
    with _reader(elf) as reader:
        table = reader.get_section_by_name(".symtab")
        if table is None:
            raise _not_ours(elf, "the program has no symbols")
        for symbol in table.iter_symbols():
            info = symbol["st_info"]
            if info["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF":
                address = symbol["st_value"] & ~1
                known = (info["bind"] == "STB_LOCAL", symbol.name)
                found[address] = min(found.get(address, known), known)
    return tuple(Function(address=a, name=name) for a, (_, name) in sorted(found.items()))


def _sections(elf: Path) -> Mapping[str, tuple[int, bool]]:
    """Name -> (flags, is it stored in the image) of the sections that a program has in memory."""
    with _reader(elf) as reader:
        return {
            section.name: (section["sh_flags"], section["sh_type"] != "SHT_NOBITS")
            for section in reader.iter_sections()
            if section["sh_flags"] & _ALLOC
        }


@contextmanager
def _reader(elf: Path) -> Iterator[Any]:
    """pyelftools' reader, which has no types."""
    reader = require("elftools.elf.elffile").ELFFile
    errors = require("elftools.common.exceptions")
    try:
        with elf.open("rb") as file:
            yield reader(file)
    except errors.ELFError as error:
        raise _not_ours(elf, f"not an ELF file: {error}") from error
    except OSError as error:
        raise _not_ours(elf, f"cannot read the program: {error.strerror}") from error


def _not_ours(path: Path, what: str) -> InputError:
    return InputError(
        visible(what),
        where=visible(str(path)),
        remedy="build it with the Makefile that ndtool codegen wrote",
        code="elf.not-ours",
    )
