"""A .tflite as the file has it: plain records, bounds checked, nothing judged yet.

`reader` makes an int8 graph of these, `lint` looks at what only the file has. Field numbers are
the positions in tensorflow/lite/schema/schema.fbs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ndtool.export.tflite.flatbuffer import EMPTY_TABLE, FlatBuffer, Table, malformed
from ndtool.export.tflite.schema import IDENTIFIER, SCHEMA_VERSION

MAX_TABLES: Final = 16384  # tensors, operators, buffers, codes: each list


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBuffer:
    """Constant data; `start` is its offset in the file, `outside` is set where it is not inside."""

    start: int
    data: bytes
    outside: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTensor:
    """One tensor; `type_code` is the schema's TensorType."""

    name: str
    shape: tuple[int, ...]
    type_code: int
    buffer: int
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    quantized_dim: int
    custom_quantization: bool
    variable: bool
    sparse: bool
    dynamic: bool  # a shape_signature is present
    dynamic_batch: bool  # and its first axis is of any size


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOpcode:
    """Which operator; `custom` is the name of a custom one."""

    builtin: int
    version: int
    custom: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOp:
    """One operator; -1 in `inputs` stands for an absent one."""

    opcode: FileOpcode
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options_type: int
    options: Table


@dataclass(frozen=True, slots=True, kw_only=True)
class FileModel:
    """A file with one subgraph or, for the lint, the first of several."""

    size: int
    subgraphs: int
    tensors: tuple[FileTensor, ...]
    ops: tuple[FileOp, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    opcodes: tuple[FileOpcode, ...]
    buffers: tuple[FileBuffer, ...]
    description: str
    metadata: tuple[tuple[str, int], ...]  # name, buffer
    signatures: int
    external_buffers: bool


def parse_tflite(data: bytes, *, where: str) -> FileModel:
    """The records of a .tflite file.

    Every index between lists is inside its list, apart from tensor numbers of operators.

    Raises:
        InputError: not a TFLite file, truncated, or an offset, length or index is out of bounds.
    """
    return parse_buffer(FlatBuffer(data, where))


def parse_buffer(buffer: FlatBuffer) -> FileModel:
    """As `parse_tflite`, of bytes that are wrapped already."""
    where = buffer.where
    root = buffer.root(IDENTIFIER)
    if (version := root.uint32(0)) != SCHEMA_VERSION:
        raise malformed(f"schema version {version}, not {SCHEMA_VERSION}", where)
    graphs = root.tables(2, MAX_TABLES)
    if not graphs:
        raise malformed("no subgraph", where)
    opcodes = tuple(_opcode(t) for t in root.tables(1, MAX_TABLES))
    buffers = tuple(_buffer(t) for t in root.tables(4, MAX_TABLES))
    tensors = tuple(_tensor(t) for t in graphs[0].tables(0, MAX_TABLES))
    for tensor in tensors:
        if tensor.buffer >= len(buffers):
            raise malformed(f"buffer {tensor.buffer} of {len(buffers)}", where)
    return FileModel(
        size=len(buffer.data),
        subgraphs=len(graphs),
        tensors=tensors,
        ops=tuple(_op(t, opcodes, where) for t in graphs[0].tables(3, MAX_TABLES)),
        inputs=graphs[0].int32s(1) or (),
        outputs=graphs[0].int32s(2) or (),
        opcodes=opcodes,
        buffers=buffers,
        description=root.string(3) or "",
        metadata=tuple((t.string(0) or "", t.uint32(1)) for t in root.tables(6, MAX_TABLES)),
        signatures=len(root.tables(7, MAX_TABLES)),
        external_buffers=root.has(8) or root.has(9),
    )


def _opcode(table: Table) -> FileOpcode:
    # old files have only the byte-sized field, new ones both (schema.fbs, OperatorCode)
    builtin = max(table.int8(0), table.int32(3))
    return FileOpcode(builtin=builtin, version=table.int32(2, 1), custom=table.string(1) or "")


def _buffer(table: Table) -> FileBuffer:
    start, data = table.blob(0)
    return FileBuffer(start=start, data=data, outside=table.number(1, "<Q") > 1)


def _tensor(table: Table) -> FileTensor:
    quantization = table.table(4) or EMPTY_TABLE
    return FileTensor(
        name=table.string(3) or "",
        shape=table.int32s(0) or (),
        type_code=table.int8(1),
        buffer=table.uint32(2),
        scales=quantization.float32s(2),
        zero_points=quantization.int64s(3),
        quantized_dim=quantization.int32(6),
        custom_quantization=quantization.uint8(4) != 0,
        variable=table.int8(5) != 0,
        sparse=table.has(6),
        dynamic=table.has(7),
        dynamic_batch=(table.int32s(7) or ())[:1] == (-1,),
    )


def _op(table: Table, opcodes: tuple[FileOpcode, ...], where: str) -> FileOp:
    index = table.uint32(0)
    if index >= len(opcodes):
        raise malformed(f"operator code {index} of {len(opcodes)}", where)
    return FileOp(
        opcode=opcodes[index],
        inputs=table.int32s(1) or (),
        outputs=table.int32s(2) or (),
        options_type=table.uint8(3),
        options=table.table(4) or EMPTY_TABLE,
    )
