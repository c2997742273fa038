"""Small runs of the train stage over made pictures, and how to stop one."""

from __future__ import annotations

from pathlib import Path

import nets
import torch

from ndtool.arch import ArchSpec
from ndtool.data.types import Split
from ndtool.options import TrainOptions
from ndtool.rundir import BEST, CHECKPOINT, RunDir
from ndtool.training import checkpoint
from ndtool.training.loop import TIME_COLUMNS, Progress
from ndtool.training.train import TrainResult, train

SPEC = nets.ds_spec()
TRAIN_COUNT, VAL_COUNT = 30, 12


class Silent:
    def update(self, done: int, note: str = "") -> None:
        pass


class Stopped(Exception):
    """Stands for a kill."""


class StopAt:
    """Ends the run at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, done: int, note: str = "") -> None:
        if done == self.step:
            raise Stopped


def go(
    path: Path,
    options: TrainOptions,
    *,
    spec: ArchSpec = SPEC,
    resume: bool = False,
    progress: Progress | None = None,
    train_split: Split | None = None,
    val_split: Split | None = None,
) -> TrainResult:
    return train(
        options,
        RunDir(path),
        spec=spec,
        contract=nets.contract_of(spec),
        train=nets.split_of(spec, TRAIN_COUNT) if train_split is None else train_split,
        val=nets.split_of(spec, VAL_COUNT, seed=1) if val_split is None else val_split,
        resume=resume,
        progress=progress or Silent(),
    )


def assert_same_weights(first: Path, second: Path) -> None:
    for name in (CHECKPOINT, BEST):
        a, b = (checkpoint.load(RunDir(path) / name) for path in (first, second))
        for key in ("theta", "momentum", "statistics"):
            assert torch.equal(getattr(a, key), getattr(b, key)), (name, key)
        assert (a.epoch, a.step, a.best_epoch) == (b.epoch, b.step, b.best_epoch)
        rows = [
            [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in x.history]
            for x in (a, b)
        ]
        assert rows[0] == rows[1]
