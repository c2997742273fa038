"""Activation ranges: measured with onnxruntime, kept as data in ranges.json.

Our own pass, not `onnxruntime.quantization.calibrate`. The wanted tensors become outputs of the
graph and numpy takes their minimum and maximum. The calibrator writes files beside the model and
into the working directory, prints to stdout, drops NaN images silently (nanmin, nanmax), loses
batches with `max_intermediate_outputs`, leaves out tensors without shape information, and its
thread count cannot be set (quantisation, 5). This session writes nothing and gives one answer.

ranges.json is where the pure function (model.onnx, ranges.json) -> .tflite starts: ranges may
differ in the last bit between machines, the bytes made from them may not (design, 7).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np

from ndtool.console import visible, visible_line
from ndtool.errors import InputError, require
from ndtool.export.graph.fold import not_finite
from ndtool.export.graph.ir import F32
from ndtool.export.graph.onnx_file import parse_model
from ndtool.export.onnx_session import onnx_refusals, open_session
from ndtool.files import (
    json_text,
    read_bounded,
)
from ndtool.types import Sha256

BATCH: Final = 32
_WHERE: Final = "model.onnx"
_REMEDY: Final = "measure them again: ndtool export RUN --int8 --force"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """One image that the ranges were measured on."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "strict": True}

    id: str
    sha256: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class _RangesFile:
    """The content of ranges.json; numbers are the shortest decimals of float32 values."""

    __pydantic_config__: ClassVar[dict[str, object]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }

    schema: Literal["ndtool.ranges/1"]
    method: Literal["min-max"]
    onnxruntime: str
    samples: tuple[_Sample, ...]
    ranges: dict[str, tuple[float, float]]


def measure_ranges(
    data: bytes, images: F32 | Iterable[F32], names: Iterable[str], *, batch: int = BATCH
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each tensor over all images, keys sorted.

    Args:
        data: ONNX file with one input.
        images: (n, c, h, w) float32, normalised; or an iterable of such arrays, of which one at
            a time is in memory, beside the activations of `batch` images.
        names: ONNX tensors, the input allowed.

    Raises:
        InputError: no images, images of another shape, or no such tensor.
        UnsupportedError: a tensor is NaN or infinite for some image; names it.
    """
    wanted = sorted(set(names))
    session = _session(data, wanted)
    (given,) = session.get_inputs()
    outputs = [name for name in wanted if name != given.name]
    ranges: dict[str, tuple[float, float]] = {}
    for part in _batches(images, 1 if given.shape[0] == 1 else batch):
        if list(part.shape[1:]) != given.shape[1:] or part.dtype != np.float32:
            raise InputError(
                f"images are {part.dtype} {part.shape[1:]}, the model takes {given.shape[1:]}",
                where="calibration images",
                remedy="use the model's own contract",
                code="ranges.images",
            )
        with onnx_refusals(_WHERE):
            values = dict(zip(outputs, session.run(outputs, {given.name: part}), strict=True))
        values[given.name] = part
        for name in wanted:
            low, high = float(values[name].min()), float(values[name].max())
            if not (math.isfinite(low) and math.isfinite(high)):  # min and max both pass NaN on
                raise not_finite(name, where="activation ranges")
            old_low, old_high = ranges.get(name, (low, high))
            ranges[name] = (min(low, old_low), max(high, old_high))
    if len(ranges) < len(wanted):
        raise InputError(
            "no images to measure ranges on",
            where="calibration images",
            remedy="use --calib 1 or more",
            code="ranges.images",
        )
    return ranges


def _batches(images: F32 | Iterable[F32], size: int) -> Iterator[F32]:
    for chunk in (images,) if isinstance(images, np.ndarray) else images:
        for start in range(0, len(chunk), size):
            yield chunk[start : start + size]


def _session(data: bytes, wanted: Sequence[str]) -> Any:
    """An InferenceSession of the model with every tensor of `wanted` as an output."""
    onnx = require("onnx")
    model = parse_model(data, where=_WHERE)
    inputs = {value.name for value in model.graph.input}
    computed = {name for node in model.graph.node for name in node.output}
    missing = [name for name in wanted if name not in inputs | computed]
    if missing:
        raise InputError(
            f"the ONNX file has no tensor {visible(missing[0])}",
            where=_WHERE,
            remedy="write model.onnx again: ndtool export RUN --force",
            code="ranges.tensor",
        )
    present = {value.name for value in model.graph.output}
    extra = [name for name in wanted if name not in inputs | present]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    with onnx_refusals(_WHERE):
        return open_session(model.SerializeToString())


def ranges_text(
    ranges: Mapping[str, tuple[float, float]], *, ids: Sequence[str], digests: Sequence[Sha256]
) -> str:
    """The text of ranges.json.

    Args:
        ids, digests: of the images that the ranges were measured on, in order. Bytes of a path
            that are not UTF-8 are written as escapes, since no JSON reader takes them.
    """
    samples = zip(ids, digests, strict=True)
    content = _RangesFile(
        schema="ndtool.ranges/1",
        method="min-max",
        onnxruntime=require("onnxruntime").__version__,
        samples=tuple(_Sample(id=visible_line(name), sha256=digest) for name, digest in samples),
        ranges={name: (_shortest(low), _shortest(high)) for name, (low, high) in ranges.items()},
    )
    return json_text(asdict(content))


def _shortest(value: float) -> float:
    """The double whose repr is that of the float32 `value`: short, and exact when read back."""
    return float(str(np.float32(value)))


def load_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """The ranges of ranges.json by ONNX tensor; every number is a float32 value.

    Raises:
        InputError: not a ranges.json, a number above float32, or min above max.
    """
    import pydantic

    try:
        content = pydantic.TypeAdapter(_RangesFile).validate_json(read_bounded(path))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "ranges"
        raise _bad(f"{visible(key)}: {first['msg']}", path) from None
    ranges: dict[str, tuple[float, float]] = {}
    for name, pair in content.ranges.items():
        with np.errstate(over="ignore"):
            low, high = (float(np.float32(value)) for value in pair)
        if not -math.inf < low <= high < math.inf:
            raise _bad(f"{visible(name)}: {pair[0]} to {pair[1]} is not a range", path)
        ranges[name] = (low, high)
    return ranges


def _bad(what: str, path: Path) -> InputError:
    return InputError(f"bad ranges: {what}", where=str(path), remedy=_REMEDY, code="ranges.invalid")
