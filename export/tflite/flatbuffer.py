"""Reads flatbuffer tables of unknown origin: every offset and length is checked before its use.

The flatbuffers runtime for Python does unchecked arithmetic on offsets; a crafted file makes it
raise anything or read the wrong bytes. Here a bad file gives InputError and nothing else. A file
may name one vector a million times, so the bytes handed out are budgeted by the file's length.
"""

from __future__ import annotations

import struct
from typing import Final

from ndtool.errors import InputError

MAX_FILE_BYTES: Final = 64 * 1024 * 1024  # far above any microcontroller's flash
BUDGET_FACTOR: Final = 16  # bytes read by the byte of the file; shared vectors need about 3
BUDGET_BASE: Final = 65536


def malformed(what: str, where: str) -> InputError:
    """The error for bytes that are not a TFLite file."""
    return InputError(
        f"not a valid TFLite file: {what}",
        where=where,
        remedy="copy the file again or convert the model again",
        code="tflite.malformed",
    )


class FlatBuffer:
    """The bytes of a file with bounded access; `where` names the file in errors."""

    def __init__(self, data: bytes, where: str) -> None:
        if len(data) > MAX_FILE_BYTES:
            raise malformed(f"{len(data)} bytes, at most {MAX_FILE_BYTES}", where)
        self.data = data
        self.where = where
        self._budget = BUDGET_FACTOR * len(data) + BUDGET_BASE

    def root(self, identifier: bytes) -> Table:
        """The root table of a file with that identifier."""
        if len(self.data) < 8 or self.data[4:8] != identifier:
            found = self.data[4:8].hex()
            raise malformed(f"no {identifier.decode()} at byte 4 but {found!r}", self.where)
        return Table(self, self.number("<I", 0))

    def number(self, kind: str, at: int) -> int:
        """The integer of struct format `kind` at offset `at`."""
        self.check(at, struct.calcsize(kind))
        value: int = struct.unpack_from(kind, self.data, at)[0]
        return value

    def check(self, at: int, size: int) -> None:
        """Refuse a span that is not inside the file."""
        if at < 0 or at + size > len(self.data):
            raise malformed(f"{size} bytes at {at} of {len(self.data)}", self.where)

    def spend(self, size: int) -> None:
        """Count bytes that are handed out."""
        self._budget -= size
        if self._budget < 0:
            raise malformed("its tables refer to the same bytes too often", self.where)

    def follow(self, at: int) -> int:
        """The target of the forward offset stored at `at`."""
        return at + self.number("<I", at)


class Table:
    """One table; a field is named by its slot, its position in the schema."""

    def __init__(self, buffer: FlatBuffer, at: int) -> None:
        self._buffer = buffer
        self._at = at
        self._vtable = at - buffer.number("<i", at)
        self._vtable_size = buffer.number("<H", self._vtable)
        size = buffer.number("<H", self._vtable + 2)
        if self._vtable_size < 4 or size < 4:
            raise malformed(f"bad table at {at}", buffer.where)
        buffer.check(self._vtable, self._vtable_size)
        buffer.check(at, size)
        self._size = size
        buffer.spend(16)

    def _field(self, slot: int, size: int) -> int | None:
        """Offset of a field of `size` bytes, None where it is absent."""
        entry = 4 + 2 * slot
        if entry + 2 > self._vtable_size:
            return None
        offset = self._buffer.number("<H", self._vtable + entry)
        if offset == 0:
            return None
        if offset < 4 or offset + size > self._size:
            raise malformed(f"bad field {slot} of the table at {self._at}", self._buffer.where)
        return self._at + offset

    def number(self, slot: int, kind: str, default: int = 0) -> int:
        """An integer field of struct format `kind`."""
        at = self._field(slot, struct.calcsize(kind))
        return default if at is None else self._buffer.number(kind, at)

    def int32(self, slot: int, default: int = 0) -> int:
        """An int32 field."""
        return self.number(slot, "<i", default)

    def uint32(self, slot: int, default: int = 0) -> int:
        """A uint32 field."""
        return self.number(slot, "<I", default)

    def int8(self, slot: int, default: int = 0) -> int:
        """A field of one signed byte: booleans and most enumerations."""
        return self.number(slot, "<b", default)

    def uint8(self, slot: int) -> int:
        """A field of one unsigned byte: the type of a union."""
        return self.number(slot, "<B")

    def float32(self, slot: int) -> float:
        """A float32 field, 0.0 where it is absent."""
        at = self._field(slot, 4)
        value: float = 0.0 if at is None else struct.unpack_from("<f", self._buffer.data, at)[0]
        return value

    def has(self, slot: int) -> bool:
        """Whether a field that holds an offset is present."""
        return self._field(slot, 4) is not None

    def table(self, slot: int) -> Table | None:
        """A table field."""
        at = self._field(slot, 4)
        return None if at is None else Table(self._buffer, self._buffer.follow(at))

    def vector(self, slot: int, item_size: int) -> tuple[int, int] | None:
        """Offset and length of a vector field, which lies inside the file."""
        at = self._field(slot, 4)
        if at is None:
            return None
        start = self._buffer.follow(at)
        count = self._buffer.number("<I", start)
        self._buffer.check(start + 4, count * item_size)
        return start + 4, count

    def _items(self, slot: int, kind: str) -> tuple[int | float, ...] | None:
        size = struct.calcsize(f"<{kind}")
        if (found := self.vector(slot, size)) is None:
            return None
        start, count = found
        self._buffer.spend(size * count)
        return struct.unpack_from(f"<{count}{kind}", self._buffer.data, start)

    def int32s(self, slot: int) -> tuple[int, ...] | None:
        """A vector of int32."""
        items = self._items(slot, "i")
        return None if items is None else tuple(map(int, items))

    def int64s(self, slot: int) -> tuple[int, ...]:
        """A vector of int64, empty where it is absent."""
        return tuple(map(int, self._items(slot, "q") or ()))

    def float32s(self, slot: int) -> tuple[float, ...]:
        """A vector of float32, empty where it is absent."""
        return tuple(map(float, self._items(slot, "f") or ()))

    def string(self, slot: int) -> str | None:
        """A string; bytes that are not UTF-8 become replacement characters."""
        if (found := self.vector(slot, 1)) is None:
            return None
        start, count = found
        self._buffer.spend(count)
        return self._buffer.data[start : start + count].decode("utf-8", "replace")

    def tables(self, slot: int, limit: int) -> list[Table]:
        """A vector of at most `limit` tables, empty where it is absent."""
        if (found := self.vector(slot, 4)) is None:
            return []
        start, count = found
        if count > limit:
            raise malformed(f"{count} tables in one vector, at most {limit}", self._buffer.where)
        offsets = (start + 4 * i for i in range(count))
        return [Table(self._buffer, self._buffer.follow(at)) for at in offsets]

    def blob(self, slot: int) -> tuple[int, bytes]:
        """Offset and bytes of a byte vector; (0, b"") where it is absent."""
        if (found := self.vector(slot, 1)) is None:
            return 0, b""
        start, count = found
        self._buffer.spend(count)
        return start, self._buffer.data[start : start + count]


# no fields: stands for options that are absent
EMPTY_TABLE: Final = Table(FlatBuffer(struct.pack("<HHi", 4, 4, 4), "built in"), 4)
