"""The embedded default: scikit-learn's digits."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from pictures import contract_of
from PIL import Image
from sklearn.datasets import load_digits

from ndtool.data.arrays import ArraySource
from ndtool.data.digits import open_digits
from ndtool.data.types import DataOptions
from ndtool.types import Part

LABELS = tuple("0123456789")
PINNED_SPLIT = "7ea6480dce3477896009daae32bfd8a08fd14478d07565894fab689a1efb4eaa"


@pytest.fixture(scope="module")
def source() -> ArraySource:
    return open_digits(DataOptions())


def test_defaults(source: ArraySource) -> None:
    info = source.info
    assert (info.name, info.labels, info.channels) == ("digits", LABELS, 1)
    assert (info.resolution, info.epochs) == (32, 40)
    assert (info.augment.crop_px, info.augment.flip) == (2, False)
    assert info.notes == ()


def test_pixels_are_scaled_to_255_and_enlarged_by_the_contract(source: ArraySource) -> None:
    bundle = load_digits()
    small = source.load(Part.TEST, contract_of(LABELS, side=8, channels=1))
    large = source.load(Part.TEST, contract_of(LABELS, side=32, channels=1))
    assert set(np.unique(small.images).tolist()) <= {round(v * 255 / 16) for v in range(17)}
    for id_, eight, many, label in zip(
        small.ids, small.images, large.images, small.labels, strict=True
    ):
        index = int(id_.removeprefix("digits/"))
        assert np.array_equal(np.rint(bundle.images[index] * 255 / 16), eight[..., 0])
        assert label == bundle.target[index]
        enlarged = Image.fromarray(eight[..., 0]).resize((32, 32), Image.Resampling.BILINEAR)
        assert np.array_equal(np.asarray(enlarged), many[..., 0])


def test_the_split_is_stratified_and_fixed(source: ArraySource) -> None:
    counts = source.info.counts
    for label in range(10):
        total = sum(counts[part][label] for part in Part)
        assert counts[Part.TEST][label] == counts[Part.VAL][label] == round(total / 5)
    assert [sum(counts[part]) for part in Part] == [1079, 359, 359]
    table = source.split_table()
    assert len({id_ for id_, _, _ in table}) == 1797
    lines = "".join(f"{id_} {digest} {part.value}\n" for id_, digest, part in sorted(table))
    # Changes when a pixel, the order of the samples or the rule of the split changes.
    assert hashlib.sha256(lines.encode()).hexdigest() == PINNED_SPLIT


def test_within_a_class_the_hash_decides(source: ArraySource) -> None:
    contract = contract_of(LABELS, side=8, channels=1)
    for label in range(10):
        spans = []
        for part in (Part.TEST, Part.VAL, Part.TRAIN):
            split = source.load(part, contract)
            own = [d for d, k in zip(split.digests, split.labels, strict=True) if k == label]
            spans.append((min(own), max(own)))
        assert all(a[1] < b[0] for a, b in pairwise(spans))
