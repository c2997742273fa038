"""`digits`: scikit-learn's 1,797 handwritten digits, 8x8 grey, the embedded default.

Pixels 0..16 become 0..255. The split is fixed: within each class by the sha256 of the raw image,
the first fifth test, the second validation; it does not depend on any library's shuffling.
"""

from __future__ import annotations

import numpy as np

from ndtool.data.arrays import ArraySource, Samples, make_samples, open_arrays
from ndtool.data.types import Augment, DataOptions
from ndtool.errors import require
from ndtool.types import Part

RESOLUTION = 32  # x4: the contract's resize rule enlarges
EPOCHS = 40
AUGMENT = Augment(crop_px=2, flip=False)  # a mirrored digit is another sign


def open_digits(options: DataOptions) -> ArraySource:
    """The digits; raises ToolMissingError without scikit-learn, DataError for a labels file."""
    bundle = require("sklearn.datasets").load_digits()
    images = np.rint(np.asarray(bundle.images) * 255 / 16).astype(np.uint8)[..., None]
    labels = np.asarray(bundle.target, dtype=np.int64)
    samples = make_samples(images, labels, name="digits")
    return open_arrays(
        _stratified(samples),
        [str(digit) for digit in range(10)],
        options,
        name="digits",
        where="digits",
        resolution=RESOLUTION,
        epochs=EPOCHS,
        augment=AUGMENT,
    )


def _stratified(samples: Samples) -> dict[Part, Samples]:
    """20 % test, 20 % validation, 60 % training of each class; parts in the source's order."""
    rows: dict[Part, list[int]] = {part: [] for part in Part}
    for label in np.unique(samples.labels):
        members = np.flatnonzero(samples.labels == label).tolist()
        members.sort(key=lambda i: (samples.digests[i], i))
        fifth = round(len(members) / 5)
        rows[Part.TEST] += members[:fifth]
        rows[Part.VAL] += members[fifth : 2 * fifth]
        rows[Part.TRAIN] += members[2 * fifth :]
    return {part: samples.take(sorted(chosen)) for part, chosen in rows.items()}
