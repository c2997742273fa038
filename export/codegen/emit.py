"""A program as C source text: its structs, its tables and its calls (style.md, 7; users.md, 4).

Pure text: what stands around it is in the templates. Lines are laid out as clang-format would.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ndtool.export.codegen.arena import scratch_offset, tensor_offset
from ndtool.export.codegen.engine import Compiled
from ndtool.export.codegen.layers import BEFORE, Layer, formed_layers
from ndtool.export.codegen.program import Arg, Call, Read, Scratch, Struct, Table, Write
from ndtool.export.codegen.strings import WIDTH, c_comment, number_rows, word_rows
from ndtool.export.int8.ir import Tensor, TensorId

# Longer tables of bytes are 32-bit words: a fourth of the compile time (users.md, 4)
MAX_BYTE_TABLE: Final = 256
NAME_COLUMNS: Final = 48  # of a tensor's name in a comment
_INDENT: Final = "    "
_DTYPES: Final[Mapping[str, str]] = {
    "int8_t": "<i1",
    "uint8_t": "<u1",
    "int16_t": "<i2",
    "uint16_t": "<u2",
    "int32_t": "<i4",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableText:
    """One constant array: `count` elements of `stored` in `rows`, taken by kernels as `ctype`.

    `symbol` has the model's prefix; `comment` says whose it is.
    """

    symbol: str
    ctype: str
    stored: str
    count: int
    rows: str
    size: int
    comment: str

    @property
    def is_words(self) -> bool:
        """Whether bytes are packed into words, which only a little-endian core can read."""
        return self.stored != self.ctype

    @property
    def argument(self) -> str:
        """The pointer that a kernel takes."""
        return f"(const {self.ctype} *){self.symbol}" if self.is_words else self.symbol


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramText:
    """Parts of the generated sources: `structs` and `body` of the model's own file."""

    structs: tuple[str, ...]
    tables: tuple[TableText, ...]
    body: str  # statements of the run function
    layers: tuple[Layer, ...]

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tables."""
        return sum(table.size for table in self.tables)


def emit_program(compiled: Compiled, *, prefix: str) -> ProgramText:
    """The texts of one model; equal tables, and equal structs, are emitted once."""
    tables = _shared_tables(compiled.program.calls, prefix)
    layers = formed_layers(compiled)
    hooks = _hooks(f"{prefix.upper()}_ON_LAYER", layers)
    structs = _shared_structs(compiled.program.calls)
    paragraphs = ["\n".join(hooks[BEFORE])]
    for index, call in enumerate(compiled.program.calls):
        lines = [
            _call_comment(compiled, index, call),
            _call_statement(compiled, index, call, structs, tables),
            *hooks[index],
        ]
        paragraphs.append("\n".join(lines))
    return ProgramText(
        structs=tuple(_struct_text(struct, name) for struct, name in structs.items()),
        tables=tuple(tables.values()),
        body="\n\n".join(text for text in paragraphs if text),
        layers=layers,
    )


# -- tables --------------------------------------------------------------------------------------


def _shared_tables(calls: Sequence[Call], prefix: str) -> dict[tuple[str, bytes], TableText]:
    """By element type and content: the first call that needs a table gives it its name."""
    found: dict[tuple[str, bytes], TableText] = {}
    for index, call in enumerate(calls):
        names = [table.name for table in call.tables]
        assert len(set(names)) == len(names), f"call {index} has two tables of one name"
        for table in call.tables:
            key = (table.ctype, table.data)
            if key not in found:
                comment = f"{index}  {call.title}  {table.name}"
                found[key] = _table_text(table, f"{prefix}_l{index}_{table.name}", comment)
    return found


def _table_text(table: Table, symbol: str, comment: str) -> TableText:
    dtype = np.dtype(_DTYPES[table.ctype])
    packed = dtype.itemsize == 1 and len(table.data) > MAX_BYTE_TABLE
    values = np.frombuffer(table.data, dtype).tolist()
    return TableText(
        symbol=symbol,
        ctype=table.ctype,
        stored="uint32_t" if packed else table.ctype,
        count=-(-len(table.data) // 4) if packed else len(values),
        rows=word_rows(table.data) if packed else number_rows(values),
        size=len(table.data),
        comment=comment,
    )


# -- structs -------------------------------------------------------------------------------------


def _shared_structs(calls: Sequence[Call]) -> dict[Struct, str]:
    """Each struct and its name, `l3_shape` of nd_conv_shape: the first call that needs it."""
    found: dict[Struct, str] = {}
    for index, call in enumerate(calls):
        for struct in (arg for arg in call.args if isinstance(arg, Struct)):
            found.setdefault(struct, f"l{index}_{struct.type.rpartition('_')[2]}")
    assert len(set(found.values())) == len(found), "a call has two structs of one name"
    return found


def _struct_text(struct: Struct, name: str) -> str:
    cells = [f"{value} /* {field} */," for field, value in struct.fields]
    rows = "\n".join(_filled(cells, _INDENT, _INDENT))
    return f"static const {struct.type} {name} = {{\n{rows.rstrip(',')}\n}};"


# -- calls ---------------------------------------------------------------------------------------


def _call_statement(
    compiled: Compiled,
    index: int,
    call: Call,
    structs: Mapping[Struct, str],
    tables: Mapping[tuple[str, bytes], TableText],
) -> str:
    program, plan = compiled.program, compiled.plan

    def text(arg: Arg) -> str:
        match arg:
            case Struct():
                return f"&{structs[arg]}"
            case Table():
                return tables[arg.ctype, arg.data].argument
            case Read() | Write():
                return f"a + {tensor_offset(program, plan, arg.tensor) + arg.offset}"
            case Scratch():
                return f"a + {scratch_offset(plan, index)}"

    opening = f"{_INDENT}{call.kernel}("
    cells = [f"{text(arg)}," for arg in call.args]
    cells[-1] = f"{cells[-1][:-1]});"
    lines = _filled(cells, opening, " " * len(opening))
    return "\n".join(lines)


def _hooks(name: str, layers: Sequence[Layer]) -> Mapping[int, Sequence[str]]:
    """The lines behind each call, by its index; none behind a call that completes no tensor."""
    lines = defaultdict[int, list[str]](list)
    for number, layer in enumerate(layers):
        lines[layer.after].append(f"{_INDENT}{name}({number}, a + {layer.offset});")
    return lines


def _call_comment(compiled: Compiled, index: int, call: Call) -> str:
    """Index, operation, the tensor's name in the file; what it reads and writes, and where."""
    graph = compiled.program.graph
    name = _shortened(c_comment(compiled.graph.tensor(call.out).name))
    heading = f"{_INDENT}/* {index}  {call.title}  {name}"
    cells = []
    for role, tensors in (("in", dict.fromkeys(call.reads)), ("out", (call.out,))):
        cells += [f" {role} {_place(compiled, tensor, graph.tensor(tensor))}" for tensor in tensors]
    if call.scratch:
        start = scratch_offset(compiled.plan, index)
        cells.append(f" scratch @{start}..{start + call.scratch - 1}")
    cells.append("*/")
    single = " ".join((heading, *cells))
    if len(single) <= WIDTH:
        return single
    return "\n".join([heading, *_filled(cells, f"{_INDENT} *  ", f"{_INDENT} *  ")])


def _place(compiled: Compiled, index: TensorId, tensor: Tensor) -> str:
    """`24x24x48 @0..27647`: the shape without the batch, the bytes of the arena."""
    shape = "x".join(str(n) for n in tensor.shape[1:]) or "1"
    start = tensor_offset(compiled.program, compiled.plan, index)
    return f"{shape} @{start}..{start + tensor.elements - 1}"


def _shortened(text: str) -> str:
    """`text` on at most NAME_COLUMNS columns."""
    if sum(map(_columns, text)) <= NAME_COLUMNS:
        return text
    shown, width = "", 0
    for c in text:
        width += _columns(c)
        if width > NAME_COLUMNS - 3:
            break
        shown += c
    return f"{shown}..."


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _filled(cells: Iterable[str], first: str, rest: str) -> list[str]:
    """`cells` on as few lines as fit, one blank between two; `first` and `rest` begin the lines."""
    lines: list[str] = []
    line, empty = first, True
    for cell in cells:
        if not empty and len(line) + 1 + len(cell) > WIDTH:
            lines.append(line)
            line, empty = rest, True
        line += cell if empty else f" {cell}"
        empty = False
    return [*lines, line]
