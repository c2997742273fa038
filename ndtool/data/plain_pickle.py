"""A pickle of flat data, read without unpickling: nothing it names is imported, nothing is called.

What is read, as the protocols 0 to 5 write it: one dict of text keys whose values are whole
numbers, text, bytes, None, lists of these, or uint8 arrays. An array is recognised by the names and
arguments that numpy's writer puts down (`ndarray.__reduce_ex__`: _reconstruct and a state; from
protocol 5 on _frombuffer) and becomes a view of bytes that are in the file. Anything else is
refused at its opcode (CPython, Lib/pickletools.py): other names, objects, persistent ids, extension
codes, long numbers.

Memory and time are bounded: an opcode makes one small object or copies bytes that are in the file,
and at most `MAX_OPCODES` are read. A container holds no container, so nothing is deep or holds
itself.
"""

from __future__ import annotations

import math
import pickle  # for the names of its opcodes; load and loads are never called
import re
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Final, TypeGuard, TypeVar

import numpy as np

from ndtool.console import visible
from ndtool.data.problems import data_error
from ndtool.data.types import U8
from ndtool.errors import DataError

Scalar = int | str | bytes | None  # a bool is an int
Value = Scalar | list[Scalar] | U8

MAX_OPCODES: Final = 2_000_000  # CIFAR-100's training file, the longest known, has 0.2 million
_MAX_PROTOCOL: Final = 5
_MAX_LINE_BYTES: Final = 256  # of a name, a key, a number or a text of protocol 0
_MAX_RANK: Final = 4
_INT: Final = re.compile(rb"-?\d{1,10}")
_QUOTED: Final = re.compile(rb"""'[^'"\\]*'|"[^'"\\]*\"""")  # no escapes
_SCALARS: Final = (int, str, bytes, type(None))
_T = TypeVar("_T")


class _Name(Enum):
    """What a pickle may name; none of it is looked up."""

    RECONSTRUCT = auto()
    FROMBUFFER = auto()
    NDARRAY = auto()
    DTYPE = auto()
    UINT8 = auto()  # what DTYPE makes of "u1"


_NAMES: Final[Mapping[str, _Name]] = {
    "numpy.core.multiarray._reconstruct": _Name.RECONSTRUCT,
    "numpy._core.multiarray._reconstruct": _Name.RECONSTRUCT,  # numpy 2
    "numpy.core.numeric._frombuffer": _Name.FROMBUFFER,
    "numpy._core.numeric._frombuffer": _Name.FROMBUFFER,
    "numpy.ndarray": _Name.NDARRAY,
    "numpy.dtype": _Name.DTYPE,
}


class _Array:
    """An array; without pixels between its REDUCE and its BUILD."""

    def __init__(self, pixels: U8 | None = None) -> None:
        self.pixels = pixels


def read_plain_pickle(content: bytes, *, where: str) -> dict[str, Value]:
    """The dict that the file holds; its arrays are read-only.

    Raises:
        DataError: the file is damaged, or it holds or names anything that is not flat data.
    """
    return _Reader(content, where).run()


class _Reader:
    """The stack machine of the format."""

    def __init__(self, content: bytes, where: str) -> None:
        self._content = content
        self._where = where
        self._at = 0
        self._stack: list[object] = []
        self._marks: list[int] = []  # the stack's length at each open mark
        self._memo: dict[int, object] = {}

    def run(self) -> dict[str, Value]:
        """Step through the file and hand out its dict."""
        for _ in range(MAX_OPCODES):
            opcode = self._take(1)
            if opcode == pickle.STOP:
                return self._result()
            self._step(opcode)
        raise self._refusal(f"more than {MAX_OPCODES:,} opcodes")

    def _step(self, opcode: bytes) -> None:
        """One opcode; the frequent ones first."""
        match opcode:
            case pickle.BININT1:
                self._stack.append(self._number(1))
            case pickle.BINPUT:
                self._put(self._number(1))
            case pickle.LONG_BINPUT:
                self._put(self._number(4))
            case pickle.MEMOIZE:
                self._put(len(self._memo))
            case pickle.SHORT_BINSTRING | pickle.SHORT_BINBYTES:
                self._stack.append(self._take(self._number(1)))
            case pickle.SHORT_BINUNICODE:
                self._stack.append(self._unicode(self._number(1)))
            case pickle.BINSTRING | pickle.BINBYTES:
                self._stack.append(self._take(self._number(4)))
            case pickle.BINUNICODE:
                self._stack.append(self._unicode(self._number(4)))
            case pickle.BYTEARRAY8:
                self._stack.append(self._take(self._number(8)))
            case pickle.STRING:
                self._stack.append(self._quoted())
            case pickle.INT:
                self._stack.append(self._decimal())
            case pickle.BININT2:
                self._stack.append(self._number(2))
            case pickle.BININT:
                self._stack.append(int.from_bytes(self._take(4), "little", signed=True))
            case pickle.NONE:
                self._stack.append(None)
            case pickle.NEWTRUE:
                self._stack.append(True)
            case pickle.NEWFALSE:
                self._stack.append(False)
            case pickle.MARK:
                self._marks.append(len(self._stack))
            case pickle.EMPTY_LIST:
                self._stack.append([])
            case pickle.LIST:
                items = self._pop_marked()
                self._stack.append([])
                self._extend(items)
            case pickle.APPEND:
                self._extend([self._pop()])
            case pickle.APPENDS:
                self._extend(self._pop_marked())
            case pickle.EMPTY_DICT:
                self._stack.append({})
            case pickle.DICT:
                items = self._pop_marked()
                self._stack.append({})
                self._update(items)
            case pickle.SETITEM:
                self._update(self._pop_last(2))
            case pickle.SETITEMS:
                self._update(self._pop_marked())
            case pickle.EMPTY_TUPLE:
                self._stack.append(())
            case pickle.TUPLE1:
                self._stack.append(self._tuple(self._pop_last(1)))
            case pickle.TUPLE2:
                self._stack.append(self._tuple(self._pop_last(2)))
            case pickle.TUPLE3:
                self._stack.append(self._tuple(self._pop_last(3)))
            case pickle.TUPLE:
                self._stack.append(self._tuple(self._pop_marked()))
            case pickle.BINGET:
                self._stack.append(self._get(self._number(1)))
            case pickle.LONG_BINGET:
                self._stack.append(self._get(self._number(4)))
            case pickle.PUT:
                self._put(self._decimal())
            case pickle.GET:
                self._stack.append(self._get(self._decimal()))
            case pickle.GLOBAL:
                module = self._line().decode("latin-1")
                self._stack.append(self._name(module, self._line().decode("latin-1")))
            case pickle.STACK_GLOBAL:
                self._stack.append(self._name(*self._pop_last(2)))
            case pickle.REDUCE:
                arguments = self._pop_tuple()
                self._stack.append(self._reduced(self._pop(), arguments))
            case pickle.BUILD:
                self._build(self._pop_tuple())
            case pickle.PROTO:
                if self._number(1) > _MAX_PROTOCOL:
                    raise self._refusal(f"a protocol above {_MAX_PROTOCOL}")
            case pickle.FRAME:
                if self._number(8) > len(self._content) - self._at:
                    raise self._refusal("it ends early")
            case _:
                raise self._refusal(f"opcode 0x{opcode[0]:02x} is not one of flat data")

    # The bytes of the file.

    def _take(self, count: int) -> bytes:
        """The next bytes; the check comes before they are copied."""
        if count > len(self._content) - self._at:
            raise self._refusal("it ends early")
        start, self._at = self._at, self._at + count
        return self._content[start : self._at]

    def _number(self, count: int) -> int:
        return int.from_bytes(self._take(count), "little")

    def _line(self) -> bytes:
        end = self._content.find(b"\n", self._at, self._at + _MAX_LINE_BYTES)
        if end < 0:
            raise self._refusal("a line does not end")
        return self._take(end + 1 - self._at)[:-1]

    def _decimal(self) -> int:
        """A number of protocol 0, whose 00 and 01 are False and True."""
        line = self._line()
        if not _INT.fullmatch(line):
            raise self._refusal("a line is not a number")
        return line == b"01" if line in (b"00", b"01") else int(line)

    def _quoted(self) -> bytes:
        """Text of protocol 0."""
        line = self._line()
        if not _QUOTED.fullmatch(line):
            raise self._refusal("a line is not plain quoted text")
        return line[1:-1]

    def _unicode(self, count: int) -> str:
        try:
            return self._take(count).decode("utf-8")
        except UnicodeDecodeError:
            raise self._refusal("text is not UTF-8") from None

    # The stack and the memo.

    def _since_mark(self) -> int:
        return len(self._stack) - (self._marks[-1] if self._marks else 0)

    def _pop(self) -> object:
        return self._pop_last(1)[0]

    def _pop_tuple(self) -> tuple[object, ...]:
        value = self._pop()
        if not isinstance(value, tuple):
            raise self._refusal("no tuple where one belongs")
        return value

    def _pop_last(self, count: int) -> list[object]:
        """The last `count` values, in the order in which they were made."""
        if self._since_mark() < count:
            raise self._refusal("a value is missing")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _pop_marked(self) -> list[object]:
        """All values since the last mark, which is closed."""
        if not self._marks:
            raise self._refusal("a mark is missing")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self, kind: type[_T]) -> _T:
        if not self._since_mark() or not isinstance(self._stack[-1], kind):
            raise self._refusal(f"no {kind.__name__} where one belongs")
        return self._stack[-1]

    def _put(self, index: int) -> None:
        if not 0 <= index < MAX_OPCODES:
            raise self._refusal(f"memo index {index}")
        self._memo[index] = self._top(object)

    def _get(self, index: int) -> object:
        if index not in self._memo:
            raise self._refusal(f"nothing is kept under the memo index {index}")
        return self._memo[index]

    # Containers: of plain values only.

    def _extend(self, items: Sequence[object]) -> None:
        """Append to the list on the stack."""
        if not all(isinstance(item, _SCALARS) for item in items):
            raise self._refusal("a list holds something that is not a number or text")
        self._top(list).extend(items)

    def _update(self, items: Sequence[object]) -> None:
        """Set keys and values, in turn, in the dict on the stack."""
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values) or not all(0 < _length(k) <= _MAX_LINE_BYTES for k in keys):
            raise self._refusal("a dict's key is not short text")
        if not all(isinstance(value, (*_SCALARS, list, _Array)) for value in values):
            raise self._refusal("a dict holds something that is not a number, text, list or array")
        self._top(dict).update(zip(map(_text, keys), values, strict=True))

    def _tuple(self, items: Sequence[object]) -> tuple[object, ...]:
        """An argument of numpy's: plain values, its names, shapes."""
        if not all(isinstance(i, (*_SCALARS, _Name)) or _is_shape(i) for i in items):
            raise self._refusal("a tuple holds something that is not a number, text or shape")
        return tuple(items)

    # numpy's forms.

    def _name(self, module: object, name: object) -> _Name:
        full = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
        if full not in _NAMES:
            raise self._refusal(
                f"it names {visible(full[:_MAX_LINE_BYTES])}, which flat data does not"
            )
        return _NAMES[full]

    def _reduced(self, called: object, arguments: tuple[object, ...]) -> object:
        """What numpy's writer means by this call; the file's own arguments, all of them."""
        match called, arguments:
            case _Name.RECONSTRUCT, (_Name.NDARRAY, (0,), kind) if _text(kind) == "b":
                return _Array()
            case _Name.FROMBUFFER, (bytes(raw), _Name.UINT8, shape, "C" | "F" as order):
                return _Array(self._shaped(raw, shape, fortran=order == "F"))
            case _Name.DTYPE, (kind, 0, 1) if _text(kind) == "u1":  # not aligned, a copy
                return _Name.UINT8
            case _Name.DTYPE, (kind, *_):
                raise self._refusal(f"an array of the type {visible(_text(kind))}, not uint8")
            case _:
                raise self._refusal("a call that numpy does not write for an array")

    def _build(self, state: tuple[object, ...]) -> None:
        """The state of the array or the dtype on the stack."""
        match self._top(object), state:
            case _Array(pixels=None) as array, (1, shape, _Name.UINT8, int(fortran), bytes(raw)):
                array.pixels = self._shaped(raw, shape, fortran=bool(fortran))
            case _Name.UINT8, (3, order, None, None, None, -1, -1, 0) if _text(order) == "|":
                pass  # version, byte order; no subarray, names or fields; own size and alignment
            case _:
                raise self._refusal("a state that numpy does not write for an array")

    def _shaped(self, raw: bytes, shape: object, *, fortran: bool) -> U8:
        """A view of `raw`; nothing is allocated."""
        if not _is_shape(shape) or not raw or math.prod(shape) != len(raw):
            raise self._refusal("an array's size is not that of its bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")

    def _result(self) -> dict[str, Value]:
        values = self._top(dict)
        if len(self._stack) != 1 or self._marks or self._at != len(self._content):
            raise self._refusal("more than one value")
        return {key: self._plain(value) for key, value in values.items()}

    def _plain(self, value: Scalar | list[Scalar] | _Array) -> Value:
        if not isinstance(value, _Array):
            return value
        if value.pixels is None:
            raise self._refusal("an array without content")
        return value.pixels

    def _refusal(self, what: str) -> DataError:
        return data_error(
            f"not a plain pickle: {what}",
            where=f"{self._where}: byte {self._at:,}",
            remedy="fetch the publisher's file again, or save the arrays as npz",
            code="data.pickle",
        )


def _is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    """A tuple of at most four sizes."""
    return (
        isinstance(value, tuple)
        and 1 <= len(value) <= _MAX_RANK
        and all(type(n) is int and n >= 0 for n in value)
    )


def _length(key: object) -> int:
    return len(key) if isinstance(key, str | bytes) else 0


def _text(value: object) -> str:
    """Short text, as Python 2 (bytes) or 3 writes it; nothing for anything else."""
    if _length(value) > _MAX_LINE_BYTES:
        return ""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) else ""
