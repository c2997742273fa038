"""`export/predictions/HOP.npz`: what one hop answered for each evaluated sample.

`ids` (N,) text, `predicted` (N,) int64, `output` (N, K) int8 or float32: numpy.load reads it. The
bytes depend on the arrays alone. Reading takes no pickle, unpacks nothing and believes no size.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ndtool.errors import InputError
from ndtool.files import (
    read_bounded,
    write_atomic,
)

I64 = NDArray[np.int64]
Outputs = NDArray[Any]  # (N, K) int8 or float32

MAX_BYTES: Final = 1024 * 1024 * 1024
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # numpy.savez would stamp the present time
# The header that numpy writes for an array in C order (its format 1.0), and nothing else.
_HEADER: Final = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<i8|\|i1|<f4|<U[1-9]\d{0,4})', 'fortran_order': False, "
    rb"'shape': \((\d{1,12}),(?: (\d{1,12}))?\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Of N samples: ids, predicted class int64 (N,), outputs int8 or float32 (N, K)."""

    ids: tuple[str, ...]
    predicted: I64
    outputs: Outputs


def save_predictions(path: Path, predictions: Predictions) -> None:
    """Replace `path` at once; ids must not end in NUL, which numpy's text arrays drop."""
    ids, predicted, outputs = predictions.ids, predictions.predicted, predictions.outputs
    assert outputs.dtype in (np.int8, np.float32), outputs.dtype
    assert outputs.ndim == 2, outputs.shape
    assert len(ids) == len(predicted) == len(outputs), (len(ids), len(predicted), len(outputs))
    arrays = {
        "ids": np.array(ids, dtype=np.str_),
        "predicted": predicted.astype("<i8"),
        "output": outputs,
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy", _EPOCH), member.getvalue())
    write_atomic(path, packed.getvalue())


def load_predictions(path: Path) -> Predictions:
    """What `save_predictions` wrote.

    Raises:
        InputError: the file is missing, too large, or not one that `save_predictions` wrote.
    """
    data = read_bounded(path, MAX_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            ids = _read_array(archive, "ids", "U", 1)
            predicted = _read_array(archive, "predicted", "i8", 1)
            outputs = _read_array(archive, "output", "i1 f4", 2)
        if not len(ids) == len(predicted) == len(outputs):
            raise ValueError(f"{len(ids)} ids, {len(predicted)} classes, {len(outputs)} outputs")
        if outputs.size and not 0 <= predicted.min() <= predicted.max() < outputs.shape[1]:
            raise ValueError("a predicted class without an output")
        return Predictions(ids=tuple(ids.tolist()), predicted=predicted, outputs=outputs)
    # KeyError: no such member; RuntimeError: encrypted; NotImplementedError: an exotic zip
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, RuntimeError) as error:
        raise InputError(
            f"not a predictions file: {str(error) or type(error).__name__}",
            where=str(path),
            remedy="write it again: ndtool export RUN --int8 --force",
            code="predictions.bad",
        ) from error


def _read_array(archive: zipfile.ZipFile, key: str, kinds: str, rank: int) -> NDArray[Any]:
    """Array of one member, of the allowed dtypes and rank; raises ValueError for anything else.

    Stored, not compressed: a member is never larger than the file, whatever its size field says.
    """
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{key} is compressed")
    member = archive.read(info)
    header = _HEADER.match(member)
    if header is None:
        raise ValueError(f"{key} has a foreign array header")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(n) for n in header.groups()[1:] if n is not None)
    if not any(dtype.str[1:].startswith(kind) for kind in kinds.split()) or len(shape) != rank:
        raise ValueError(f"{key} is {dtype} of shape {list(shape)}")
    if math.prod(shape) * dtype.itemsize != len(member) - header.end():
        raise ValueError(f"{key} has another size than its header says")
    return np.frombuffer(member, dtype, offset=header.end()).reshape(shape)
