"""Images a second: decoded into memory first, against decoded by other processes while training.

    OMP_NUM_THREADS=1 python benchmarks/loading.py folder:PATH [--out FILE]

For each way: the batches alone, and a plain training of ds-cnn on one thread. The first epoch holds
the start of the processes and is told apart; of the others, the median.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from ndtool.data.folder import FolderSource
from ndtool.machine import usable_cores
from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.training.images.loading import open_batches
from ndtool.training.stage import open_parts
from ndtool.training.train import train
from ndtool.types import Augmentation, Part, Recipe

CPU = torch.device("cpu")
WAYS = {
    "memory, crop": (0, Augmentation.CROP),
    "1 loader, crop": (1, Augmentation.CROP),
    "2 loaders, crop": (2, Augmentation.CROP),
    "2 loaders, resized-crop": (2, Augmentation.RESIZED_CROP),
}


class Silent:
    """Shows nothing."""

    def update(self, done: int, note: str = "") -> None:
        """See `ndtool.training.loop.Progress`."""


def batches_alone(way: Prepared, epochs: int) -> dict[str, float]:
    """Nothing is trained: how fast batches come."""
    options = way.options
    started = time.perf_counter()
    images, validation = open_parts(way)
    opening = time.perf_counter() - started
    seconds, count = [], 0
    with open_batches(images, validation, options=options, device=CPU) as (batches, _):
        for epoch in range(1 + epochs):
            started = time.perf_counter()
            count = sum(len(labels) for _, labels in batches.epoch(epoch, options.batch_size))
            seconds.append(time.perf_counter() - started)
    return {
        "opening_s": round(opening, 2),
        "first_epoch_s": round(seconds[0], 2),
        "images_per_s": round(count / statistics.median(seconds[1:])),
    }


def whole_training(way: Prepared, epochs: int) -> float:
    """Images a second of the training steps after the first epoch."""
    images, validation = open_parts(way)
    options = replace(way.options, epochs=1 + epochs)
    with tempfile.TemporaryDirectory() as folder:
        seconds: list[float] = []
        train(
            options,
            type(way.run)(Path(folder)),
            spec=way.spec,
            contract=way.contract,
            train=images,
            val=validation,
            resume=False,
            progress=Silent(),
            watch=lambda rows: seconds.extend(row["step_seconds"] or 0.0 for row in rows[-1:]),
        )
    count = len(images) // options.batch_size * options.batch_size
    return round(count / statistics.median(seconds[1:]))


def main() -> None:
    """Print the table and keep it with versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder:PATH")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loading.json"))
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, float]] = {}
    facts: dict[str, object] = {}
    for name, (loaders, augment) in WAYS.items():
        options = TrainOptions(
            data=arguments.data, loaders=loaders, augment=augment, recipe=Recipe.PLAIN, threads=1
        )
        way = prepare(options, name="loading", out=Path(tempfile.gettempdir()))
        assert isinstance(way.source, FolderSource)
        rows[name] = batches_alone(way, arguments.epochs) | {
            "training_images_per_s": whole_training(way, arguments.epochs)
        }
        facts = {
            "images": {part.value: sum(way.source.info.counts[part]) for part in Part},
            "resolution": way.options.resolution,
            "batch": way.options.batch_size,
        }
        print(name, json.dumps(rows[name]), flush=True)
    document = {
        "machine": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "cores": usable_cores(),
            "load": round(os.getloadavg()[0], 1),
        },
        **facts,
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
