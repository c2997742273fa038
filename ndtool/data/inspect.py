"""`data inspect`: decode everything, tell what is there and what `train` would do with it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ndtool.console import table, visible
from ndtool.contract import Contract
from ndtool.data.splits import count_repeats
from ndtool.data.types import U8, Facts, Source, Split
from ndtool.errors import DataError, raise_all, require
from ndtool.options import TrainOptions
from ndtool.types import Part, Sha256

_GRAY_MODES: Final = frozenset({"1", "L", "LA"})
_CHUNK: Final = 1024  # samples whose pixels are counted at once
_SHEET_CLASSES: Final = 64
_SHEET_SAMPLES: Final = 8
_CELL_PX: Final = 96  # smaller pixels are enlarged to about this
_TEXT_PX: Final = 140
_GAP_PX: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A data set in figures. Plain values only, so that it can be written as JSON.

    Sizes are those of the files, in pixels; mean and std are those of the training part's pixels
    through the contract, as fractions of 255.
    """

    name: str
    labels: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]  # part -> samples of each class that can be used
    imbalance: float  # largest class over smallest
    width_px: tuple[int, int]  # smallest, largest
    height_px: tuple[int, int]
    modes: dict[str, int]
    rotated: int  # by EXIF orientation
    animated: int  # first frame used
    duplicates: int  # samples equal to an earlier one of their part
    leaks: int  # test samples that are also in train or val
    mean: tuple[float, ...]  # per channel
    std: tuple[float, ...]
    input_shape: tuple[int, int, int]  # height, width, channels
    fit: str
    memory_bytes: int  # of all parts as train holds them
    epochs: int  # this and the next two: what train would do with the same options
    crop_px: int
    flip: bool
    skipped: tuple[tuple[str, str], ...]  # id, reason
    notes: tuple[str, ...]


def inspect_source(source: Source, contract: Contract, options: TrainOptions) -> Inspection:
    """Decode every part once, one part in memory at a time.

    Args:
        options: of the training, resolved for this source: no None in epochs, crop_px and flip.

    Raises:
        DataError: what `train` would refuse; the bad files of all parts at once.
    """
    epochs, crop_px, flip = options.epochs, options.crop_px, options.flip
    assert epochs is not None and crop_px is not None and flip is not None
    counts: dict[str, tuple[int, ...]] = {}
    facts: list[Facts] = []
    samples: list[tuple[Sha256, Part]] = []
    problems: dict[str, DataError] = {}  # by text: what is wrong with all parts is told once
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    for part in Part:
        try:
            split = source.load(part, contract)
        except DataError as error:
            problems |= {str(e): e for e in (error, *error.more) if isinstance(e, DataError)}
            continue
        counts[part.value] = _class_counts(split, contract.num_classes)
        samples += [(sha256, part) for sha256 in split.digests]
        if split.facts is not None:
            facts.append(split.facts)
        if part is Part.TRAIN:
            mean, std = _moments(split.images)
    raise_all(list(problems.values()))
    per_class = [sum(column) for column in zip(*counts.values(), strict=True)]
    duplicates, leaks, _ = count_repeats(samples)
    spec, info = contract.input, source.info
    modes = _total(f.modes for f in facts)
    return Inspection(
        name=info.name,
        labels=contract.labels,
        counts=counts,
        imbalance=max(per_class) / min(per_class),
        width_px=_range(f.width_px for f in facts),
        height_px=_range(f.height_px for f in facts),
        modes=modes,
        rotated=sum(f.rotated for f in facts),
        animated=sum(f.animated for f in facts),
        duplicates=duplicates,
        leaks=leaks,
        mean=mean,
        std=std,
        input_shape=(spec.height, spec.width, spec.channels),
        fit=contract.resize.fit,
        memory_bytes=len(samples) * spec.height * spec.width * spec.channels,
        epochs=epochs,
        crop_px=crop_px,
        flip=flip,
        skipped=source.skipped,
        notes=(*info.notes, *_advice(modes, spec.channels)),
    )


def _class_counts(split: Split, classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(split.labels, minlength=classes).tolist())


def _moments(images: U8) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over 255, from exact integer sums."""
    channels = images.shape[3]
    sums, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for start in range(0, len(images), _CHUNK):
        pixels = images[start : start + _CHUNK].reshape(-1, channels).astype(np.int64)
        sums += pixels.sum(axis=0)
        squares += (pixels * pixels).sum(axis=0)
    count = images.size // channels
    mean = sums / count
    # Cancellation is harmless: the sums are exact and 255**2 is far below 2**53.
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))


def _range(spans: Iterable[tuple[int, int]]) -> tuple[int, int]:
    lows, highs = zip(*spans, strict=True)
    return min(lows), max(highs)


def _advice(modes: Mapping[str, int], channels: int) -> list[str]:
    if channels == 3 and modes and set(modes) <= _GRAY_MODES:
        return ["all images are grey: --gray makes the input a third as large"]
    return []


def report_lines(found: Inspection) -> list[str]:
    """The inspection as text for people, one line an element."""
    parts = list(found.counts)
    rows = [
        [label, *(f"{found.counts[part][k]:,}" for part in parts)]
        for k, label in enumerate(found.labels)
    ]
    rows.append(["total", *(f"{sum(found.counts[part]):,}" for part in parts)])
    height, width, channels = found.input_shape
    crop = f"random crop {found.crop_px} px, " if found.crop_px else ""
    lines = table(["class", *parts], rows).split("\n")
    lines += [
        "",
        f"imbalance   {found.imbalance:.2f} (largest class over smallest)",
        f"sizes       width {_span(found.width_px)}, height {_span(found.height_px)} px",
        f"modes       {', '.join(f'{visible(m)} {n:,}' for m, n in found.modes.items())}",
        f"turned      {found.rotated:,} by their EXIF orientation",
        f"animated    {found.animated:,}, first frame used",
        f"duplicates  {found.duplicates:,}, leaks into test {found.leaks:,}",
        f"mean        {_figures(found.mean)}   std {_figures(found.std)} (of 255, train)",
        f"memory      {found.memory_bytes:,} B as {height}x{width}x{channels}",
        f"train       {found.fit} to {height}x{width}x{channels}, {crop}"
        f"{'flip' if found.flip else 'no flip'}, {found.epochs} epochs",
    ]
    lines += [f"skipped     {visible(name)}: {visible(why)}" for name, why in found.skipped]
    lines += [f"note        {note}" for note in found.notes]
    return lines


def _span(span: tuple[int, int]) -> str:
    return str(span[0]) if span[0] == span[1] else f"{span[0]}..{span[1]}"


def _figures(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def contact_sheet(source: Source, contract: Contract) -> bytes:
    """PNG: the first samples of each class of the training part, as the network sees them.

    One row a class (64 at most), its index and name before it; small pixels are enlarged whole.
    """
    split = source.load(Part.TRAIN, contract)
    spec = contract.input
    zoom = max(1, _CELL_PX // max(spec.height, spec.width))
    cell_h, cell_w = spec.height * zoom + _GAP_PX, spec.width * zoom + _GAP_PX
    classes = min(contract.num_classes, _SHEET_CLASSES)
    size = (_TEXT_PX + _SHEET_SAMPLES * cell_w, classes * cell_h)
    pil: Any = require("PIL.Image")
    sheet = pil.new("RGB", size, "white")
    pen = require("PIL.ImageDraw").Draw(sheet)
    for label in range(classes):
        name = visible(contract.labels[label]).encode("ascii", "replace").decode("ascii")
        pen.text((_GAP_PX, label * cell_h), f"{label} {name[:20]}", fill="black")
        rows = np.flatnonzero(split.labels == label)[:_SHEET_SAMPLES]
        for column, row in enumerate(rows.tolist()):
            pixels = split.images[row].repeat(zoom, axis=0).repeat(zoom, axis=1)
            picture = pil.fromarray(pixels[..., 0] if spec.channels == 1 else pixels)
            sheet.paste(picture, (_TEXT_PX + column * cell_w, label * cell_h))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()
