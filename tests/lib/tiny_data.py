"""A data set that a network of a few hundred weights learns in seconds: stripes or none.

`python tiny_data.py FOLDER` writes FOLDER/tiny.npz.
"""

import sys
from pathlib import Path

import numpy as np

CLASSES = ("rows", "columns", "flat")
SIDE = 8


def arrays(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 8, 8) uint8 images and their labels; equal for equal seeds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(CLASSES), count)
    images = rng.integers(0, 50, (count, SIDE, SIDE), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        if label == 0:
            image[rng.integers(0, 2) :: 2] += 200
        elif label == 1:
            image[:, rng.integers(0, 2) :: 2] += 200
        else:
            image += 100
    return images, labels


def write_npz(path: Path) -> Path:
    """240 training and 60 test images."""
    x_train, y_train = arrays(240, 1)
    x_test, y_test = arrays(60, 2)
    np.savez(
        path,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        class_names=np.array(CLASSES),
    )
    return path


if __name__ == "__main__":
    write_npz(Path(sys.argv[1]) / "tiny.npz")
