"""Files in torch's zip format, read as hostile; the only caller of `torch.load`.

Checked in this order: size, zip directory (stored entries that add up), the entries' checksums
(torch itself compares none), the pickle's opcodes (no class but plain tensors),
`torch.load(weights_only=True)`. Memory stays within a few times the file's size, and 250 MB
that a table of the largest size can unfold to; names, types and shapes are the caller's to check.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from pickle import UnpicklingError
from typing import Final

import torch

from ndtool.errors import InputError
from ndtool.files import read_bounded
from ndtool.rundir import MAX_CHECKPOINT_BYTES

MAX_PICKLE_BYTES: Final = 16 * 1024**2  # everything but the tensors
_CLASSES: Final = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict"}
_BUILDERS: Final = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
_SETS: Final = {"EMPTY_SET", "FROZENSET"}  # 216 bytes from one, and nobody's table has any
# Opcodes of a few bytes that take 50 to 100 each in memory: containers, texts, references
_ALLOCATING: Final = {
    *("MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "DICT", "LIST", "TUPLE"),
    *("TUPLE1", "TUPLE2", "TUPLE3", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "REDUCE", "DUP"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
MAX_ALLOCATING: Final = 1_000_000  # ours has three an epoch, of at most 100,000, and few others
# What zipfile, pickletools and torch's restricted unpickler raise on bytes that are not theirs.
_BROKEN: Final = (
    NotImplementedError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
)


def load_torch_file(
    path: Path,
    *,
    storages: Collection[str],
    max_entries: int,
    refused: Callable[[str], InputError],
) -> object:
    """What `torch.save` put into `path`; tensors are on the CPU.

    Args:
        storages: torch's names of the element types that tensors may have, such as FloatStorage.
        max_entries: of the zip file; a tensor is one.
        refused: makes the error from what is wrong with the file.

    Raises:
        InputError: missing, too large, or what `refused` makes.
    """
    data = read_bounded(path, MAX_CHECKPOINT_BYTES)
    classes = _CLASSES | {f"torch {name}" for name in storages}
    try:
        problem = _container_problem(data, classes, max_entries)
        if problem:
            raise refused(problem)
        return torch.load(  # noqa: TID251  (this is the module that the ban points to)
            io.BytesIO(data), map_location="cpu", weights_only=True
        )
    except zipfile.BadZipFile:
        raise refused("cut off, damaged or of another kind") from None
    except _BROKEN as error:
        raise refused(f"unreadable, {type(error).__name__}") from None
    except MemoryError:
        raise refused("asks for more memory than there is") from None


def _container_problem(data: bytes, classes: Collection[str], max_entries: int) -> str:
    """Compressed, overlapping or damaged entries, or a pickle of other classes; "" if none."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or len(entries) > max_entries:
            return "its zip directory is not one of torch's"
        if sum(entry.file_size for entry in entries) > len(data):
            return "its entries are larger than the file"
        if archive.testzip() is not None:
            return "damaged, its bytes do not match their checksum"
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            return "it has no table of its own"
        table = archive.read(pickles[0])
    allocating = 0
    for opcode, argument, _ in pickletools.genops(table):
        allocating += opcode.name in _ALLOCATING
        if allocating > MAX_ALLOCATING:
            return "its table has too many parts"
        if opcode.name in _BUILDERS | _SETS or (
            opcode.name == "GLOBAL" and argument not in classes
        ):
            return "it holds more than numbers and tensors"
    return ""
