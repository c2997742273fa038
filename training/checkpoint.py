"""Checkpoints: one explicit dict in torch's zip format, written atomically, read as hostile.

A checkpoint is data only: three flat float32 tensors, numbers and texts. Reading checks, in this
order: size, zip directory (stored entries that add up), the pickle's opcodes (no class but a float
tensor), `torch.load(weights_only=True)`, then names, types and sizes against the spec inside.
No generator state is kept, since all randomness follows from (seed, epoch).
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
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
from ndtool.options import MAX_RATES, RATE_BOUNDS
from ndtool.rundir import Value, read_bounded, write_atomic
from ndtool.training.loop import HISTORY_COLUMNS, HistoryRow, TrainState
from ndtool.training.supernet import Supernet, plan_layout
from ndtool.types import Sha256

FORMAT: Final = "ndtool.checkpoint/2"
MAX_CHECKPOINT_BYTES: Final = 2 * 1024**3
MAX_ENTRIES: Final = 64  # of the zip; ours has eleven
MAX_PICKLE_BYTES: Final = 16 * 1024**2  # everything but the tensors
MAX_EPOCHS: Final = 100_000
MAX_STEPS: Final = 2**53
MAX_EXTENSIONS: Final = 100
MAX_SPEC_CHARS: Final = 1024**2
MEMORY_FORMAT: Final = "channels_last"
_GLOBALS: Final = {
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "collections OrderedDict",
}
_BUILDERS: Final = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
# What zipfile, pickletools and torch's restricted unpickler raise on bytes that are not theirs.
_BROKEN: Final = (
    zipfile.BadZipFile,
    NotImplementedError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a run is: it must not change between a checkpoint and its resume."""

    spec: ArchSpec
    contract: Contract
    options: Mapping[str, Value]
    rates: tuple[int, ...]  # of the wider networks
    data: Sha256  # of the pixels and labels of both splits
    torch: str
    threads: int
    memory_format: str = MEMORY_FORMAT


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
    history: tuple[HistoryRow, ...]

    def supernet(self, device: torch.device | str = "cpu") -> Supernet:
        """The networks as they were."""
        identity = self.identity
        net = Supernet(identity.spec, rates=identity.rates, generator=None, device=device)
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
            history=[dict(row) for row in self.history],
        )


def save(path: Path, state: TrainState, identity: Identity) -> None:
    """Replace `path` by the state at once; a kill leaves the old file or the new one."""
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
        "history": state.history,
        "options": dict(identity.options),
        "spec": identity.spec.to_json(),
        "contract": identity.contract.canonical_json(),
        "rates": list(identity.rates),
        "data": str(identity.data),
        "torch": identity.torch,
        "threads": identity.threads,
        "memory_format": identity.memory_format,
    }
    buffer = io.BytesIO()
    torch.save(document, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path) -> Checkpoint:
    """Read a checkpoint of unknown origin; memory stays within a few times the file's size.

    Raises:
        InputError: missing, too large, or not a whole checkpoint of ours.
    """
    data = read_bounded(path, MAX_CHECKPOINT_BYTES)
    try:
        _check_container(data, path)
        document = torch.load(  # noqa: TID251  (this is the module that the ban points to)
            io.BytesIO(data), map_location="cpu", weights_only=True
        )
    except _BROKEN as error:
        raise _bad(path, f"unreadable, {type(error).__name__}") from None
    except MemoryError:
        raise _bad(path, "asks for more memory than there is") from None
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


def _check_container(data: bytes, path: Path) -> None:
    """Refuse compressed or overlapping entries, and a pickle that names any class but a tensor."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or len(entries) > MAX_ENTRIES:
            raise _bad(path, "its zip directory is not one of torch's")
        if sum(entry.file_size for entry in entries) > len(data):
            raise _bad(path, "its entries are larger than the file")
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise _bad(path, "it has no table of its own")
        table = archive.read(pickles[0])
    for opcode, argument, _ in pickletools.genops(table):
        if opcode.name in _BUILDERS or (opcode.name == "GLOBAL" and argument not in _GLOBALS):
            raise _bad(path, "it holds more than numbers and tensors")


def _parse(document: Mapping[object, object], path: Path) -> Checkpoint:
    """Every field by name, type and bound; nothing of an unknown shape is allocated."""
    read = _Fields(document, path)
    if read.text("format", 100) != FORMAT:
        raise _bad(path, "another format")
    where = visible(str(path))
    spec = parse_spec(read.text("spec", MAX_SPEC_CHARS), where=where)
    contract = parse_contract(read.text("contract", MAX_CONTRACT_BYTES), where=where)
    rates = read.rates()
    layout = plan_layout(spec, rates)
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
        data=Sha256(read.text("data", 64)),
        torch=read.text("torch", 100),
        threads=read.count("threads", 4096),
        memory_format=read.text("memory_format", 100),
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
        history=read.history(epoch),
    )
    if contract.num_classes != spec.classes or identity.threads < 1:
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
        value = self._counts("ends", MAX_EXTENSIONS, 1, MAX_EPOCHS)
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
        """One row per finished epoch with exactly our columns."""
        value = self._document.get("history")
        if not isinstance(value, list) or len(value) != epochs:
            raise self._wrong("history")
        for row in value:
            if not isinstance(row, dict) or tuple(row) != HISTORY_COLUMNS:
                raise self._wrong("history")
            if any(cell is not None and not isinstance(cell, int | float) for cell in row.values()):
                raise self._wrong("history")
        return tuple(value)
