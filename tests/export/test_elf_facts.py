"""What is the model's in a linked image: by the map of small and real programs."""

import re
import shutil
from pathlib import Path

import pytest
from int8_models import tiny_model
from qemu_engine import require_cross_tools

from ndtool.errors import InputError
from ndtool.export import qemu
from ndtool.export.codegen.emit import emit_program
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.elf_facts import ElfFacts, functions, read_elf_facts
from ndtool.export.tflite.reader import read_tflite

M4 = "mps2-an386"


@pytest.fixture
def own(firmware: Path, tmp_path: Path) -> Path:
    """A built project of one's own, to change and build again."""
    return shutil.copytree(firmware, tmp_path / "firmware")


def facts_of(folder: Path, prefix: str = "m") -> ElfFacts:
    return read_elf_facts(qemu.build(folder, "m", M4), prefix)


def add_variable(folder: Path, file: str, line: str) -> None:
    """Define `line` in `file` and use it in main, so that the linker keeps it."""
    (name,) = re.findall(r"(\w+)\[", line)
    source, main = folder / file, folder / "m_main.c"
    source.write_text(f"{source.read_text()}\n#include <stdint.h>\n{line}\n")
    start = "int main(void)\n{"
    assert start in main.read_text()
    use = f"extern uint8_t {name}[];\n{start}\n    (void)*(volatile const uint8_t *){name};\n"
    main.write_text(main.read_text().replace(start, use))


def test_sizes_are_the_model_s_and_the_engine_s(firmware: Path) -> None:
    facts = facts_of(firmware)
    text = emit_program(compile_graph(read_tflite(tiny_model())), prefix="m")
    assert facts.flash_bytes == facts.code_bytes + facts.const_bytes
    # structs, words and the filling of tables of words
    assert text.weights_bytes <= facts.const_bytes <= text.weights_bytes + 800
    assert 300 < facts.code_bytes < 6000
    assert (facts.ram_bytes, facts.ram) == (0, ())


@pytest.mark.parametrize("file", ["m_golden.c", "board/startup.c"])
def test_what_is_not_the_model_s_does_not_count(file: str, own: Path) -> None:
    before, elf = facts_of(own), own / f"build/{M4}/m.elf"
    size = elf.stat().st_size
    add_variable(own, file, "uint8_t more[5000] = {1};")
    assert facts_of(own) == before
    assert elf.stat().st_size > size + 5000


@pytest.mark.parametrize(
    ("line", "section", "stored"),
    [("uint8_t state[40];", ".bss.state", 0), ("uint8_t state[40] = {1};", ".data.state", 40)],
)
def test_state_is_found(line: str, section: str, stored: int, own: Path) -> None:
    """Initial values lie in flash too."""
    before = facts_of(own)
    add_variable(own, "m_data.c", line)
    facts = facts_of(own)
    assert facts.ram == (f"m_data.o {section}",)
    assert facts.ram_bytes == 40
    assert facts.flash_bytes == before.flash_bytes + stored


def test_functions_are_named_and_even(firmware: Path) -> None:
    found = functions(qemu.build(firmware, "m", M4))
    names = [function.name for function in found]
    assert {"m_run", "nd_conv_s8", "main", "reset_handler"} <= set(names)
    addresses = [function.address for function in found]
    assert addresses == sorted(set(addresses))
    assert all(address % 2 == 0 for address in addresses)


# -- maps ----------------------------------------------------------------------------------------

MAP = """Discarded input sections

 .text.unused   0x00000000      0x999 build/objects/m.o

Linker script and memory map

.vectors        0x00000000      0x140
 .vectors       0x00000000      0x140 build/objects/board/startup.o

.text           0x00000140      0x100
 *(.text .text.*)
 .text.m_run    0x00000140       0x20 build/objects/m.o
                0x00000140                m_run
 .text.nd_a_function_with_a_name_longer_than_the_column
                0x00000160       0x40 build/objects/nd_runtime/nd_long_s8.o
 *fill*         0x000001a0        0x8
 .text.main     0x000001a8        0x8 build/objects/m_main.o
 .text          0x000001b0       0x10 /usr/lib/gcc/libgcc.a(_udivsi3.o)
 .text          0x000001c0        0x0 build/objects/m.o

.rodata         0x00000240       0x90
 .rodata.m_l0_w
                0x00000240       0x80 build/objects/m_data.o
 .rodata.golden
                0x000002c0       0x10 build/objects/m_golden.o

.debug_info     0x00000000      0x500
 .debug_info    0x00000000      0x500 build/objects/m.o
"""


def test_map_is_read_line_by_line(own: Path) -> None:
    """Long names, fill, debug sections, discarded ones, other models and archives."""
    elf = qemu.build(own, "m", M4)
    elf.with_suffix(".map").write_text(MAP)
    facts = read_elf_facts(elf, "m")
    assert (facts.code_bytes, facts.const_bytes) == (0x20 + 0x40, 0x80)
    assert facts.flash_bytes == 0x20 + 0x40 + 0x80


@pytest.mark.parametrize("content", [None, b"", b"\xff\x00", b"something else\n"])
def test_no_map(own: Path, content: bytes | None) -> None:
    elf = qemu.build(own, "m", M4)
    path = elf.with_suffix(".map")
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"map.*build it with the Makefile"):
        read_elf_facts(elf, "m")


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF", b"#!/bin/sh\n"])
def test_no_elf(content: bytes | None, tmp_path: Path) -> None:
    require_cross_tools()
    path = tmp_path / "x.elf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"ELF|cannot read"):
        functions(path)
