"""`npz:FILE`: x_train y_train x_test y_test, optionally x_val y_val class_names.

Images uint8 (N, H, W) or (N, H, W, C), C = 1 or 3; labels whole numbers 0..K-1. The zip's members
are read here, not by numpy's loader: each array's header is judged before a byte of its data is
decompressed, and only plain numbers and text can come out, never a pickle.
"""

from __future__ import annotations

import math
import os
import re
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from ndtool.console import visible
from ndtool.data.arrays import ArraySource, Samples, cut_validation, make_samples, open_arrays
from ndtool.data.files import open_regular, require_memory
from ndtool.data.image import check_max_pixels, check_size
from ndtool.data.labels import MAX_CLASSES, MAX_LABEL_CHARS
from ndtool.data.problems import data_error
from ndtool.data.types import I64, U8, Augment, DataOptions
from ndtool.errors import DataError
from ndtool.rundir import slug
from ndtool.types import Part

EPOCHS: Final = 60
MAX_SAMPLES: Final = 5_000_000
MAX_SIDE: Final = 4096
_KEYS: Final = {Part.TRAIN: "train", Part.VAL: "val", Part.TEST: "test"}
_NAMES: Final = "class_names"
_MAGIC: Final = b"\x93NUMPY"
_MAX_HEADER_BYTES: Final = 4096
# Deflate packs zeros 1,000 to 1; real pictures stay far below this.
_MAX_DENSITY: Final = 200
_SMALL_BYTES: Final = 64 * 1024 * 1024  # below, any density is bearable
# What numpy's writer makes; other writers differ in white space only.
_HEADER: Final = re.compile(
    r"""\{\s*['"]descr['"]\s*:\s*['"]([<>|=]?[a-zA-Z]\d{0,6})['"]\s*,"""
    r"""\s*['"]fortran_order['"]\s*:\s*(True|False)\s*,"""
    r"""\s*['"]shape['"]\s*:\s*\(\s*((?:\d{1,18}\s*,?\s*){0,8})\)\s*,?\s*\}\s*"""
)
_SAVE: Final = "save it with numpy.savez(FILE, x_train=..., y_train=..., x_test=..., y_test=...)"
_ZIP_ERRORS: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    LookupError,
    RuntimeError,  # encrypted; NotImplementedError: another compression
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the .npy header of a member declares."""

    dtype: np.dtype[Any]
    fortran_order: bool
    shape: tuple[int, ...]
    data_offset: int  # bytes of magic and header before the data

    @property
    def data_bytes(self) -> int:
        """Size of the array's data."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_npz(path: str, options: DataOptions) -> ArraySource:
    """The arrays of the file as a source.

    Raises:
        DataError: not an npz, a key is missing, an array has another type, rank or size, labels
            are out of range, or it does not fit into memory.
    """
    check_max_pixels(options.max_pixels)
    with open_regular(path, where=path) as handle:
        if handle.read(4) != b"PK\x03\x04":
            raise data_error("not an npz file", where=path, remedy=_SAVE, code="data.npz")
        try:
            archive = zipfile.ZipFile(handle)
        except _ZIP_ERRORS as error:
            raise _damaged(path, error) from error
        with archive:
            arrays = _read_arrays(archive, path, options)
    names = arrays.pop(_NAMES, None)
    parts = {
        part: _samples(arrays, key, path) for part, key in _KEYS.items() if f"x_{key}" in arrays
    }
    labels = _class_names(names, parts, path)
    for part, samples in parts.items():
        _require_range(samples.labels, len(labels), f"{path}: y_{_KEYS[part]}")
    if Part.VAL not in parts:
        parts |= cut_validation(parts[Part.TRAIN])
    side = parts[Part.TRAIN].images.shape[1]
    return open_arrays(
        {part: parts[part] for part in Part},
        labels,
        options,
        name=slug(PurePath(path).stem),
        where=path,
        resolution=side,
        epochs=EPOCHS,
        augment=Augment(crop_px=side // 8, flip=True),
    )


def _read_arrays(
    archive: zipfile.ZipFile, path: str, options: DataOptions
) -> dict[str, NDArray[Any]]:
    """The arrays by key, after all their headers have been found good."""
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    wanted = ["x_train", "y_train", "x_test", "y_test"]
    missing = [key for key in wanted if key not in members]
    if missing:
        held = ", ".join(visible(name) for name in sorted(members)[:12]) or "nothing"
        raise data_error(
            f"no array {' '.join(missing)}; the file holds {held}",
            where=path,
            remedy=_SAVE,
            code="data.npz-key",
        )
    if ("x_val" in members) != ("y_val" in members):
        raise data_error(
            "x_val and y_val come together", where=path, remedy="add the other", code="data.npz-key"
        )
    wanted += [key for key in ("x_val", "y_val", _NAMES) if key in members]
    headers = {key: _read_header(archive, members[key], f"{path}: {key}") for key in wanted}
    for key, header in headers.items():
        _judge(key, header, f"{path}: {key}", options)
    shapes = {key: header.shape[1:] for key, header in headers.items() if key[0] == "x"}
    for key, shape in shapes.items():
        if _with_channels(shape) != _with_channels(shapes["x_train"]):
            raise data_error(
                f"images of {_times(shape)}, those of x_train of {_times(shapes['x_train'])}",
                where=f"{path}: {key}",
                remedy="give all images one size",
                code="data.npz-shape",
            )
    _require_density(path, sum(header.data_bytes for header in headers.values()))
    # Pixels are in memory twice for a moment when they are split.
    require_memory(2 * sum(header.data_bytes for header in headers.values()), where=path)
    return {
        key: _read_data(archive, members[key], header, f"{path}: {key}")
        for key, header in headers.items()
    }


def _damaged(where: str, error: BaseException) -> DataError:
    return data_error(
        f"damaged npz ({visible(str(error)) or type(error).__name__})",
        where=where,
        remedy="write or copy it again",
        code="data.npz",
    )


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Header:
    """The .npy header, parsed by a pattern: no literal of a hostile file is evaluated."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _damaged(where, ValueError("only stored and deflated members are read"))
    try:
        with archive.open(member) as stream:
            lead = stream.read(8)
            size_format = {1: "<H", 2: "<I", 3: "<I"}.get(lead[6] if len(lead) == 8 else 0)
            if lead[:6] != _MAGIC or size_format is None:
                raise data_error(
                    "not a numpy array", where=where, remedy=_SAVE, code="data.npz-array"
                )
            width = struct.calcsize(size_format)
            field = stream.read(width)
            size = struct.unpack(size_format, field)[0] if len(field) == width else 0
            text = stream.read(min(size, _MAX_HEADER_BYTES)).decode("latin-1")
    except _ZIP_ERRORS as error:
        raise _damaged(where, error) from error
    match = _HEADER.fullmatch(text)
    if match is None or len(text) != size:
        what = "the array's header is not that of a plain array"
        raise data_error(what, where=where, remedy=_SAVE, code="data.npz-array")
    descr, order, shape = match.groups()
    header = Header(
        dtype=_plain_dtype(descr, where),
        fortran_order=order == "True",
        shape=tuple(int(n) for n in re.findall(r"\d+", shape)),
        data_offset=8 + width + size,
    )
    if member.file_size != header.data_offset + header.data_bytes:
        raise data_error(
            f"the array declares {header.data_bytes:,} bytes, the file has "
            f"{member.file_size - header.data_offset:,}",
            where=where,
            remedy="write or copy it again",
            code="data.npz-array",
        )
    return header


def _plain_dtype(descr: str, where: str) -> np.dtype[Any]:
    """Numbers and text only: an object array is a pickle."""
    try:
        dtype = np.dtype(descr) if descr.lstrip("<>|=")[0] in "biufUS" else None
    except TypeError:  # such as i3
        dtype = None
    if dtype is None:
        raise _wrong_type(descr, "plain numbers; object arrays are not read", where)
    return dtype


def _judge(key: str, header: Header, where: str, options: DataOptions) -> None:
    """Type, rank and bounds of one array, from its header alone; raises DataError."""
    dtype, shape = header.dtype, header.shape
    if key == _NAMES:
        if dtype.kind not in "US" or len(shape) != 1:
            raise _wrong_type(dtype.str, "a list of strings", where)
        if shape[0] > MAX_CLASSES or dtype.itemsize > 4 * MAX_LABEL_CHARS:
            raise data_error(
                f"{shape[0]:,} names of up to {dtype.itemsize:,} bytes",
                where=where,
                remedy=f"at most {MAX_CLASSES:,} names of {MAX_LABEL_CHARS:,} characters",
                code="data.npz-shape",
            )
        return
    if key[0] == "y":
        if dtype.kind not in "iu":
            raise _wrong_type(dtype.str, "whole numbers 0..K-1", where)
        if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
            raise data_error(
                f"labels have the shape {_times(shape)}",
                where=where,
                remedy="give one number a sample; from one-hot: y.argmax(1)",
                code="data.npz-shape",
            )
    else:
        if dtype != np.uint8:
            raise _wrong_type(dtype.str, "uint8 pixels 0..255", where)
        if not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))):
            raise data_error(
                f"images have the shape {_times(shape)}",
                where=where,
                remedy="give N,H,W or N,H,W,C with 1 or 3 channels; "
                "from N,C,H,W: x.transpose(0, 2, 3, 1)",
                code="data.npz-shape",
            )
        check_size(shape[2], shape[1], max_pixels=options.max_pixels, where=where)
        if max(shape[1:3]) > MAX_SIDE:
            raise data_error(
                f"images of {_times(shape[1:3])} pixels",
                where=where,
                remedy=f"scale them to at most {MAX_SIDE} a side",
                code="data.image-size",
            )
    if not 1 <= shape[0] <= MAX_SAMPLES:
        raise data_error(
            f"{shape[0]:,} samples",
            where=where,
            remedy=f"give 1 to {MAX_SAMPLES:,}",
            code="data.npz-shape",
        )


def _read_data(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, header: Header, where: str
) -> NDArray[Any]:
    """The array; no more than its declared bytes are decompressed."""
    buffer = bytearray(header.data_bytes)
    try:
        with archive.open(member) as stream:
            stream.read(header.data_offset)
            complete = _fill(stream, memoryview(buffer))
            stream.read(1)  # to the end: the checksum is compared there
    except _ZIP_ERRORS as error:
        raise _damaged(where, error) from error
    if not complete:
        raise _damaged(where, EOFError("the array ends early"))
    flat = np.frombuffer(buffer, header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran_order else "C")


def _fill(stream: IO[bytes], view: memoryview) -> bool:
    """Whether the stream had enough bytes for the whole view."""
    done = 0
    while done < len(view):
        piece = stream.read(min(len(view) - done, 1 << 20))
        if not piece:
            return False
        view[done : done + len(piece)] = piece
        done += len(piece)
    return True


def _wrong_type(found: str, wanted: str, where: str) -> DataError:
    remedy = f"give {wanted}"
    if "uint8" in wanted and found.lstrip("<>|=")[0] == "f":
        remedy += "; from 0..1: (x * 255).round().astype('uint8')"
    return data_error(
        f"the array's type is {found}", where=where, remedy=remedy, code="data.npz-type"
    )


def _with_channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape if len(shape) == 3 else (*shape, 1)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def _samples(arrays: dict[str, NDArray[Any]], key: str, path: str) -> Samples:
    images, labels = arrays[f"x_{key}"], arrays[f"y_{key}"].reshape(-1)
    if len(images) != len(labels):
        raise data_error(
            f"{len(labels):,} labels for {len(images):,} images",
            where=f"{path}: y_{key}",
            remedy="give one label an image",
            code="data.npz-shape",
        )
    # Judged before the cast, in which a large unsigned number would become negative.
    if int(labels.min()) < 0 or int(labels.max()) >= MAX_CLASSES:
        _require_range(labels, MAX_CLASSES, f"{path}: y_{key}")
    pixels: U8 = np.ascontiguousarray(images).reshape(
        len(images), *_with_channels(images.shape[1:])
    )
    return make_samples(pixels, labels.astype(np.int64), name=key)


def _require_density(path: str, declared: int) -> None:
    """Refuse an archive that unpacks to far more than photographs ever do.

    Raises:
        DataError: over `_SMALL_BYTES` and more than `_MAX_DENSITY` times the file's size.
    """
    packed = os.stat(path).st_size  # noqa: PTH116  # any bytes
    if declared > max(_SMALL_BYTES, _MAX_DENSITY * packed):
        raise data_error(
            f"{packed:,} bytes would unpack to {declared:,}",
            where=path,
            remedy="save it with numpy.savez, uncompressed, if it really is that large",
            code="data.npz-bomb",
        )


def _require_range(labels: NDArray[Any] | I64, classes: int, where: str) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise data_error(
            f"label {low if low < 0 else high} is not between 0 and {classes - 1}",
            where=where,
            remedy="number the classes from 0, and name each in class_names",
            code="data.label-range",
        )


def _class_names(
    names: NDArray[Any] | None, parts: dict[Part, Samples], path: str
) -> tuple[str, ...]:
    """The given names, or "0".."K-1"."""
    if names is None:
        return tuple(str(k) for k in range(1 + max(int(s.labels.max()) for s in parts.values())))
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8", "surrogateescape")
    codes = np.ascontiguousarray(names).view(
        np.dtype(np.uint32).newbyteorder(names.dtype.byteorder)
    )
    if codes.max(initial=0) > sys.maxunicode:  # numpy would fail while making the string
        raise _wrong_type("damaged text", "a list of strings", f"{path}: {_NAMES}")
    return tuple(str(name) for name in names)
