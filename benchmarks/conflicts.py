"""Table 3 of the paper: how many layers have teacher and student at odds, over the training.

    python benchmarks/conflicts.py --preset cifar100 --rows full,surgery,in-situ --seeds 0 \
        --every 10 --out runs/conflicts
    python benchmarks/conflicts.py --preset cifar100 --epochs 360 --rows full --seeds 0,1,2 \
        --set device=cuda --out runs/conflicts-gpu --minutes 9

Share of layers whose gradients on the shared slice have a negative inner product, on the
validation part: the mean over its whole batches, batch norms in training mode as in a step. It is
measured on copies of the checkpoints of epoch 1 and of every --every-th, and changes nothing of
the training. Exit status 75: the time is over, call again. Writes conflicts-LABEL.json and .png.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from ablation import (
    UNFINISHED,
    add_training,
    find_images,
    settle_training,
    write_json,
)
from ablation_rows import FORMS
from ablation_run import parse_options
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from train_step import machine

from ndtool import console
from ndtool.errors import NdError
from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.rundir import CHECKPOINT, RunDir, package_versions
from ndtool.training import checkpoint
from ndtool.training.devices import find_device
from ndtool.training.gradients import CONFLICT_RATE
from ndtool.training.images.augment import Normalizer
from ndtool.training.images.batches import Arrays, to_device
from ndtool.training.loop import HistoryRow
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.method import Targets
from ndtool.training.schedule import Moment, steps_per_epoch
from ndtool.training.step import train_step
from ndtool.training.train import train
from ndtool.types import Part

CURVE = "conflicts.json"  # in the run folder: epoch -> share of layers
INCHES = (7.0, 4.2)
DOTS_PER_INCH = 150


def main() -> int:
    """Train what is missing, and draw what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=10, help="epochs between two measurements")
    add_training(parser)
    arguments = settle_training(parser, parser.parse_args())
    rows = arguments.rows or ["full"]
    deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes else None
    _, images = find_images(arguments, arguments.out)
    curves: dict[str, dict[int, dict[str, float]]] = {}
    finished = True
    for row in rows:
        if row not in FORMS:
            parser.error(f"{row}: rows of another length are not drawn")
        for seed in arguments.seeds:
            flags = [*arguments.flags, *images.flags, *FORMS[row], f"--epochs={arguments.epochs}"]
            options = parse_options([f"--data={images.of_seed[seed]}", *flags, f"--seed={seed}"])
            prepared = prepare(options, name=f"{row}-s{seed}", out=arguments.out)
            curve = Curve(prepared, every=arguments.every, deadline=deadline)
            finished = curve.complete() and finished
            curves.setdefault(row, {})[seed] = curve.values
    document = {
        "data": images.title,
        "epochs": arguments.epochs,
        "flags": arguments.flags,
        "machine": machine(find_device(parse_options(arguments.flags).device))
        | package_versions(("torch", "numpy")),
        "share_of_layers": curves,
    }
    stem = arguments.results / f"conflicts-{arguments.label}"
    write_json(stem.with_suffix(".json"), document)
    stem.with_suffix(".png").write_bytes(draw(curves, images.title))
    print(stem.with_suffix(".png"))
    return 0 if finished else UNFINISHED


class Curve:
    """One run and what was measured on its checkpoints."""

    def __init__(self, prepared: Prepared, *, every: int, deadline: float | None) -> None:
        self._prepared = prepared
        self._every = every
        self._deadline = deadline
        self._path = prepared.run / CURVE
        self._first: int | None = None  # epochs that were there before
        self.values: dict[str, float] = {}
        if self._path.is_file():
            self.values = json.loads(self._path.read_text())
        self._probe = Probe(prepared)

    def complete(self) -> bool:
        """Train on; False where the time was over before."""
        prepared = self._prepared
        options, run = prepared.options, prepared.run
        run.path.mkdir(parents=True, exist_ok=True)
        if str(options.epochs) in self.values:
            return True
        images = prepared.source.load(Part.TRAIN, prepared.contract)
        assert options.epochs is not None
        steps = options.epochs * steps_per_epoch(len(images), options.batch_size)
        try:
            with run.lock(), console.progress("train", steps) as bar:
                train(
                    options,
                    run,
                    spec=prepared.spec,
                    contract=prepared.contract,
                    train=images,
                    val=prepared.source.load(Part.VAL, prepared.contract),
                    resume=True,
                    progress=bar,
                    watch=self._look,
                )
        except TimeoutError:
            return False
        return True

    def _look(self, history: Sequence[HistoryRow]) -> None:
        """After each epoch, when its checkpoint has been written; `train`'s watch."""
        epoch, last = len(history), self._prepared.options.epochs
        wanted = epoch in (1, last) or epoch % self._every == 0
        if epoch and wanted and str(epoch) not in self.values:
            self.values[str(epoch)] = self._probe.measure(self._prepared.run)
            write_json(self._path, self.values)
            print(f"{self._prepared.run.path.name}: epoch {epoch}, {self.values[str(epoch)]:.1%}")
        self._first = epoch if self._first is None else self._first
        late = self._deadline is not None and time.monotonic() > self._deadline
        if late and self._first < epoch != last:  # a piece too short for its start still gets on
            raise TimeoutError


class Probe:
    """Measures the share of layers in conflict on the validation part."""

    def __init__(self, prepared: Prepared) -> None:
        self._options: TrainOptions = prepared.options
        self._device = find_device(self._options.device)
        self._method = METHODS[self._options.recipe](self._options, prepared.spec.classes)
        if not (self._method.rates and self._method.teaching.always):
            raise SystemExit("only rows with a wider network in every step have conflicts")
        self._normalize = Normalizer(prepared.contract, self._device)
        validation = prepared.source.load(Part.VAL, prepared.contract)
        self._data: Arrays = to_device(validation, self._device)

    def measure(self, run: RunDir) -> float:
        """Mean over the whole batches of the validation part, 0..1; the run stays as it is."""
        net = checkpoint.load(run / CHECKPOINT).supernet(self._device)
        size = min(self._options.batch_size, len(self._data))
        rates = []
        for images, labels in self._data.ordered(size):
            if len(labels) < size:
                continue
            figures, _ = train_step(
                net,
                self._method,
                self._normalize(images),
                Targets(labels),
                moment=Moment(0, 1),
                lr=0.0,  # the weights stay
                options=self._options,
            )
            rates.append(figures[CONFLICT_RATE])
        return round(float(torch.stack(rates).mean()), 4)


def draw(curves: dict[str, dict[int, dict[str, float]]], title: str) -> bytes:
    """A line a row: the mean over the seeds, each seed thin beside it."""
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for number, (row, seeds) in enumerate(curves.items()):
        colour = f"C{number}"
        points = [{int(e): 100 * v for e, v in values.items()} for values in seeds.values()]
        for values in points if len(points) > 1 else ():
            axes.plot(*zip(*sorted(values.items()), strict=True), color=colour, lw=0.6, alpha=0.6)
        common = sorted(set.intersection(*(set(values) for values in points)))
        means = [statistics.fmean(values[epoch] for values in points) for epoch in common]
        axes.plot(common, means, color=colour, marker="o", ms=3, label=f"{row} (n = {len(points)})")
    axes.set(
        title=f"Layers with conflicting gradients, validation part\n{title}",
        xlabel="epoch",
        ylabel="layers, %",
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NdError as problem:
        sys.exit(f"{problem}")
