"""Checkpoints: one explicit dict in torch's zip format, written atomically, read as hostile.

A checkpoint is data only: flat float32 tensors, numbers and texts. Reading checks the file
(`torch_file`), then names, types and sizes against the spec inside.
No generator state is kept, since all randomness follows from (seed, epoch).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ndtool.arch import ArchSpec, parse_spec
from ndtool.console import visible
from ndtool.contract import MAX_CONTRACT_BYTES, Contract, parse_contract
from ndtool.errors import InputError
from ndtool.identity import TRAIN_VERSION
from ndtool.machine import MAX_PROCESSES
from ndtool.options import MAX_EXTENSIONS, MAX_RATES, RATE_BOUNDS
from ndtool.rundir import Value
from ndtool.training.loop import HISTORY_COLUMNS, HistoryRow, TrainState
from ndtool.training.supernet import Supernet, plan_layout
from ndtool.training.torch_file import load_torch_file
from ndtool.types import Sha256

FORMAT: Final = "ndtool.checkpoint/3"
MAX_ENTRIES: Final = 64  # of the zip; ours has eleven
MAX_VERSION: Final = 10_000  # of the train stage
MAX_EPOCHS: Final = 100_000
MAX_STEPS: Final = 2**53
MAX_SPEC_CHARS: Final = 1024**2
NEVER_EMPTY: Final = ("lr", "val_accuracy", "seconds")  # of the history
MEMORY_FORMAT: Final = "channels_last"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a run is: it must not change between a checkpoint and its resume."""

    spec: ArchSpec
    contract: Contract
    options: Mapping[str, Value]
    rates: tuple[int, ...]  # of the wider networks
    augmented: bool = False  # whether there are drawn ones
    data: Sha256  # of the samples and labels of both splits
    torch: str
    threads: int
    memory_format: str = MEMORY_FORMAT
    processes: int = 1
    version: int = TRAIN_VERSION  # of the train stage that made it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A checkpoint that was read and checked; tensors are on the CPU."""

    identity: Identity
    theta: Tensor
    momentum: Tensor
    statistics: Tensor  # running means and variances of all networks
    ema: tuple[Tensor, Tensor] | None  # the averaged student's weights and statistics
    ends: tuple[int, ...]
    epoch: int
    step: int
    skipped_in_row: int
    best_accuracy: float
    best_epoch: int
    best_sha256: str  # of the file of that epoch; empty in that file itself
    history: tuple[HistoryRow, ...]

    def supernet(self, device: torch.device | str = "cpu") -> Supernet:
        """The networks as they were."""
        identity = self.identity
        net = Supernet(
            identity.spec,
            rates=identity.rates,
            augmented=identity.augmented,
            generator=None,
            device=device,
        )
        net.theta.copy_(self.theta)
        net.momentum.copy_(self.momentum)
        net.statistics.copy_(self.statistics)
        return net

    def averaged(self, device: torch.device | str = "cpu") -> Supernet | None:
        """The student's moving average, alone; None in a run without one."""
        if self.ema is None:
            return None
        average = Supernet(self.identity.spec, rates=(), generator=None, device=device)
        average.theta.copy_(self.ema[0])
        average.statistics.copy_(self.ema[1])
        return average

    def student_of(self, device: torch.device | str = "cpu") -> Supernet:
        """The network whose student is the result: the average where there is one."""
        return self.averaged(device) or self.supernet(device)

    def state(self, device: torch.device | str = "cpu") -> TrainState:
        """The training state to go on from."""
        return TrainState(
            net=self.supernet(device),
            ema=self.averaged(device),
            ends=self.ends,
            epoch=self.epoch,
            step=self.step,
            skipped_in_row=self.skipped_in_row,
            best_accuracy=self.best_accuracy,
            best_epoch=self.best_epoch,
            best_sha256=self.best_sha256,
            history=[dict(row) for row in self.history],
        )


def encode(state: TrainState, identity: Identity) -> bytes:
    """A checkpoint file of the state between two epochs."""
    document = {
        "format": FORMAT,
        "theta": state.net.theta.cpu(),
        "momentum": state.net.momentum.cpu(),
        "statistics": state.net.statistics.cpu(),
        "ema_theta": None if state.ema is None else state.ema.theta.cpu(),
        "ema_statistics": None if state.ema is None else state.ema.statistics.cpu(),
        "ends": list(state.ends),
        "epoch": state.epoch,
        "step": state.step,
        "skipped_in_row": state.skipped_in_row,
        "best_accuracy": state.best_accuracy,
        "best_epoch": state.best_epoch,
        "best_sha256": state.best_sha256,
        "history": state.history,
        "options": dict(identity.options),
        "spec": identity.spec.to_json(),
        "contract": identity.contract.canonical_json(),
        "rates": list(identity.rates),
        "augmented": identity.augmented,
        "data": str(identity.data),
        "torch": identity.torch,
        "threads": identity.threads,
        "processes": identity.processes,
        "version": identity.version,
        "memory_format": identity.memory_format,
    }
    buffer = io.BytesIO()
    torch.save(document, buffer)
    return buffer.getvalue()


def load(path: Path) -> Checkpoint:
    """Read a checkpoint of unknown origin; memory stays within a few times the file's size.

    Raises:
        InputError: missing, too large, or not a whole checkpoint of ours.
    """
    document = load_torch_file(
        path,
        storages=("FloatStorage",),
        max_entries=MAX_ENTRIES,
        refused=lambda problem: _bad(path, problem),
    )
    if not isinstance(document, dict):
        raise _bad(path, "not a table")
    return _parse(document, path)


def _bad(path: Path, problem: str) -> InputError:
    return InputError(
        f"not a checkpoint of ndtool: {problem}",
        where=visible(str(path)),
        remedy="use the file that ndtool train wrote, or train again with --force",
        code="train.checkpoint",
    )


def _parse(document: Mapping[object, object], path: Path) -> Checkpoint:
    """Every field by name, type and bound; nothing of an unknown shape is allocated."""
    read = _Fields(document, path)
    if read.text("format", 100) != FORMAT:
        raise _bad(path, "another format")
    where = visible(str(path))
    spec = parse_spec(read.text("spec", MAX_SPEC_CHARS), where=where)
    contract = parse_contract(read.text("contract", MAX_CONTRACT_BYTES), where=where)
    rates, augmented = read.rates(), read.flag("augmented")
    if rates and augmented:
        raise _bad(path, "its fields contradict each other")
    layout = plan_layout(spec, rates, augmented=augmented)
    alone = plan_layout(spec, ())
    ema = None
    if document.get("ema_theta") is not None:
        ema = (
            read.flat("ema_theta", alone.size),
            read.flat("ema_statistics", alone.statistics_size),
        )
    epoch = read.count("epoch", MAX_EPOCHS)
    identity = Identity(
        spec=spec,
        contract=contract,
        options=read.options(),
        rates=rates,
        augmented=augmented,
        data=Sha256(read.text("data", 64)),
        torch=read.text("torch", 100),
        threads=read.count("threads", 4096),
        processes=read.count("processes", MAX_PROCESSES),
        memory_format=read.text("memory_format", 100),
        version=read.count("version", MAX_VERSION),
    )
    made = Checkpoint(
        identity=identity,
        theta=read.flat("theta", layout.size),
        momentum=read.flat("momentum", layout.size),
        statistics=read.flat("statistics", layout.statistics_size),
        ema=ema,
        ends=read.ends(epoch),
        epoch=epoch,
        step=read.count("step", MAX_STEPS),
        skipped_in_row=read.count("skipped_in_row", MAX_STEPS),
        best_accuracy=read.number("best_accuracy"),
        best_epoch=read.count("best_epoch", epoch),
        best_sha256=read.text("best_sha256", 64),
        history=read.history(epoch),
    )
    if contract.num_classes != spec.classes or not (identity.threads and identity.processes):
        raise _bad(path, "its fields contradict each other")
    return made


class _Fields:
    """Typed access to a table of unknown origin."""

    def __init__(self, document: Mapping[object, object], path: Path) -> None:
        self._document = document
        self._path = path

    def _wrong(self, key: str) -> InputError:
        return _bad(self._path, f"field {key} is missing or wrong")

    def text(self, key: str, limit: int) -> str:
        """A text of at most `limit` characters."""
        value = self._document.get(key)
        if not isinstance(value, str) or len(value) > limit:
            raise self._wrong(key)
        return value

    def count(self, key: str, limit: int) -> int:
        """A whole number 0 .. limit."""
        value = self._document.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise self._wrong(key)
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._document.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key)
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self._document.get(key)
        if not isinstance(value, float) or not math.isfinite(value):
            raise self._wrong(key)
        return value

    def flat(self, key: str, size: int) -> Tensor:
        """A float32 vector of exactly `size` elements."""
        value = self._document.get(key)
        good = (
            isinstance(value, Tensor)
            and value.dtype is torch.float32
            and value.shape == (size,)
            and value.is_contiguous()
        )
        if not good or not isinstance(value, Tensor):
            raise self._wrong(key)
        return value

    def _counts(self, key: str, limit: int, least: int, most: int) -> tuple[int, ...]:
        """At most `limit` whole numbers from `least` to `most`."""
        value = self._document.get(key)
        if not isinstance(value, list) or len(value) > limit:
            raise self._wrong(key)
        if any(type(number) is not int or not least <= number <= most for number in value):
            raise self._wrong(key)
        return tuple(value)

    def rates(self) -> tuple[int, ...]:
        """Of the wider networks, each once, widest first."""
        value = self._counts("rates", MAX_RATES, *RATE_BOUNDS)
        if list(value) != sorted(set(value), reverse=True):
            raise self._wrong("rates")
        return value

    def ends(self, epoch: int) -> tuple[int, ...]:
        """Epochs at which the run ended or will end, rising, the last not before `epoch`."""
        value = self._counts("ends", MAX_EXTENSIONS + 1, 1, MAX_EPOCHS)
        if not value or list(value) != sorted(set(value)) or value[-1] < epoch:
            raise self._wrong("ends")
        return value

    def options(self) -> dict[str, Value]:
        """Options by name; values are numbers, texts, booleans or None."""
        value = self._document.get("options")
        if not isinstance(value, dict) or len(value) > 200:
            raise self._wrong("options")
        for name, option in value.items():
            plain = option is None or isinstance(option, str | int | float)
            if not isinstance(name, str) or not plain:
                raise self._wrong("options")
        return value

    def history(self, epochs: int) -> tuple[HistoryRow, ...]:
        """One row per finished epoch with exactly our columns; a number in each that every run has.

        Figures need not be finite: a sum of finite losses can overflow.
        """
        value = self._document.get("history")
        if not isinstance(value, list) or len(value) != epochs:
            raise self._wrong("history")
        for number, row in enumerate(value, 1):
            if not isinstance(row, dict) or tuple(row) != HISTORY_COLUMNS:
                raise self._wrong("history")
            figures = {column: cell for column, cell in row.items() if column != "epoch"}
            if type(row["epoch"]) is not int or row["epoch"] != number:
                raise self._wrong("history")
            if any(cell is not None and type(cell) is not float for cell in figures.values()):
                raise self._wrong("history")
            if any(row[column] is None for column in NEVER_EMPTY):
                raise self._wrong("history")
        return tuple(value)
