"""Small networks, contracts and data for tests of training."""

from __future__ import annotations

import numpy as np

from ndtool.arch import Act, ArchSpec, Block, BlockKind, Head, Stem
from ndtool.contract import Contract, InputSpec, Resize, unit_normalize
from ndtool.data.splits import digest
from ndtool.data.types import Split
from ndtool.models import make_spec
from ndtool.options import TrainOptions

CLASSES = 3


def ds_spec(*, size_px: int = 8, channels: int = 1, classes: int = CLASSES) -> ArchSpec:
    """A ds-cnn of 8 to 16 channels."""
    return make_spec("ds-cnn", width=0.25, size_px=size_px, in_channels=channels, classes=classes)


def se_spec(*, size_px: int = 7, channels: int = 3, classes: int = CLASSES) -> ArchSpec:
    """Every operation of a lowered network, on an odd size: SE, hard-swish, shortcut, hidden."""
    inverted = Block(
        kind=BlockKind.INVERTED, kernel=5, stride=2, mid=8, c_out=4, act=Act.HARD_SWISH, se=4
    )
    residual = Block(
        kind=BlockKind.INVERTED, kernel=3, stride=1, mid=8, c_out=4, act=Act.RELU, shortcut=True
    )
    separable = Block(
        kind=BlockKind.SEPARABLE, kernel=3, stride=1, mid=0, c_out=4, act=Act.RELU6, shortcut=True
    )
    return ArchSpec(
        model="se",
        width=1.0,
        height_px=size_px,
        width_px=size_px,
        in_channels=channels,
        classes=classes,
        stem=Stem(c_out=4, kernel=3, stride=2, act=Act.HARD_SWISH),
        blocks=(separable, inverted, residual),
        head=Head(conv=8, conv_act=Act.HARD_SWISH, hidden=8, hidden_act=Act.HARD_SWISH),
        bn_eps=1e-3,
    )


def contract_of(spec: ArchSpec) -> Contract:
    """A unit-normalised contract of the spec's input."""
    pixels = InputSpec(
        height=spec.height_px,
        width=spec.width_px,
        channels=spec.in_channels,
        color="RGB" if spec.in_channels == 3 else "GRAY",
    )
    labels = tuple(f"class {k}" for k in range(spec.classes))
    return Contract(
        input=pixels,
        resize=Resize(),
        normalize=unit_normalize(spec.in_channels),
        labels=labels,
    )


def split_of(spec: ArchSpec, count: int, *, seed: int = 0) -> Split:
    """A learnable task: noise over stripes across, stripes down, or a chequered pattern."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % spec.classes).astype(np.int64)
    shape = (count, spec.height_px, spec.width_px, spec.in_channels)
    images = rng.integers(0, 100, shape, np.uint8)
    y, x = np.indices((spec.height_px, spec.width_px))
    for image, label in zip(images, labels, strict=True):
        image[((y, x, y + x)[label % 3] // (1 + label // 3)) % 2 == 0] += 120
    digests = tuple(digest(image.tobytes()) for image in images)
    return Split(images=images, labels=labels, ids=(), digests=digests)


def options(**changes: object) -> TrainOptions:
    """Resolved options of a short run on one thread."""
    fixed: dict[str, object] = {
        "epochs": 3,
        "batch_size": 8,
        "crop_px": 1,
        "flip": True,
        "threads": 1,
        "device": "cpu",
    }
    return TrainOptions(**(fixed | changes))  # type: ignore[arg-type]
