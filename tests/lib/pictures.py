"""Small image files and folders for the data tests."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ndtool.contract import Alpha, Contract, Fit, InputSpec, Resize, unit_normalize
from ndtool.data.splits import digest, part_of
from ndtool.types import Part

THREE_EACH = {Part.TRAIN: 3, Part.VAL: 3, Part.TEST: 3}


def contract_of(
    labels: tuple[str, ...] = ("a", "b"),
    *,
    side: int = 8,
    channels: int = 3,
    fit: Fit = "crop",
    alpha: Alpha = "black",
    crop_fraction: float = 1.0,
    height: int | None = None,
) -> Contract:
    """A contract of `side` pixels, square unless a height is given."""
    return Contract(
        input=InputSpec(
            height=height or side,
            width=side,
            channels=channels,
            color="RGB" if channels == 3 else "GRAY",
        ),
        resize=Resize(fit=fit, crop_fraction=crop_fraction),
        normalize=unit_normalize(channels),
        labels=labels,
        alpha=alpha,
    )


def noise(seed: int, width: int = 8, height: int = 8, channels: int = 3) -> np.ndarray:
    """(H, W, C) random uint8."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as the bytes of a file of Pillow's format `kind`."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def noise_png(seed: int) -> bytes:
    """An 8x8 RGB PNG that no other seed gives."""
    return encoded(Image.fromarray(noise(seed)), "PNG")


def fill_class(folder: Path, seed: int, per_part: Mapping[Part, int] = THREE_EACH) -> list[Path]:
    """Write PNG files until each part, by content, has its number."""
    folder.mkdir(parents=True)
    missing = dict(per_part)
    written = []
    number = seed * 100_000
    while any(missing.values()):
        number += 1
        content = noise_png(number)
        part = part_of(digest(content))
        if missing[part]:
            missing[part] -= 1
            written.append(folder / f"{number}.png")
            written[-1].write_bytes(content)
    return written


def make_folder(root: Path, labels: tuple[str, ...] = ("a", "b")) -> Path:
    """PATH/<class>/*, three images of each class in each part."""
    for seed, label in enumerate(labels):
        fill_class(root / label, seed)
    return root


def make_given(root: Path, parts: tuple[str, ...], labels: tuple[str, ...] = ("a", "b")) -> Path:
    """PATH/<part>/<class>/*, five images each; train by content as `fill_class` does."""
    for p, part in enumerate(parts):
        for k, label in enumerate(labels):
            fill_class(root / part / label, 10 * p + k)
    return root
