"""What several processes of one training tell each other; alone, nothing happens.

One flat reduction a step, of the gradients of all networks together, before surgery: projection
is not linear (training-methods, section 8). Evaluation reduces counts, never ratios.

Tensors travel by NCCL between GPUs, else by gloo; all else by gloo, in a group of its own that
waits longer: while one process reads its images, the others are idle. A process that dies closes
its connections, so that gloo's other ends fail at once; one that hangs is given up after a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ndtool.console import visible
from ndtool.errors import ConfigError, InputError
from ndtool.machine import Place

MEET_TIME: Final = timedelta(minutes=5)  # until all have started
STEP_TIME: Final = timedelta(minutes=5)  # for another process to come to the same point
READ_TIME: Final = timedelta(hours=2)  # the same while images are read
MARKS: Final = 16  # sums that stand for a buffer's bits
T = TypeVar("T")


class LostError(InputError):
    """Another process of the training is gone or does not answer."""


class _Counter(Protocol):
    """What we use of a torch.distributed store; it outlives the processes that die."""

    def add(self, key: str, amount: int) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Joined:
    place: Place
    store: _Counter
    talk: dist.ProcessGroup  # gloo, for what is no tensor of the training


_joined: _Joined | None = None


def join(place: Place, device: torch.device) -> None:
    """Become one of the processes; returns when all are there.

    Args:
        device: of this process's networks.

    Raises:
        LostError: some did not come.
        ConfigError: this torch cannot.
    """
    global _joined
    if not dist.is_available():
        raise ConfigError(
            "this build of torch trains in one process only",
            where="--nproc",
            remedy="leave --nproc out, or install another build of torch",
            code="train.no-distributed",
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _with_others(place.rank):
        store = _meet(place)
        shared = dist.PrefixStore("step", store)  # type: ignore[attr-defined] # is exported
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=shared,
            rank=place.rank,
            world_size=place.world,
            timeout=STEP_TIME,
        )
        talk = dist.new_group(backend="gloo", timeout=READ_TIME)
    _joined = _Joined(place, store, talk)


def _meet(place: Place) -> Any:
    """The torch.distributed store that all of them see."""
    if place.store is None:
        return next(dist.rendezvous("env://", timeout=MEET_TIME))[0]  # type: ignore[attr-defined] # is exported
    store = dist.FileStore(str(place.store), place.world)  # type: ignore[attr-defined] # is exported
    store.set_timeout(MEET_TIME)
    return store


def leave() -> None:
    """The end of what `join` began, also where it did not come to its end.

    Without it, gloo's threads can abort a process on its way out, whatever its exit code was.
    """
    global _joined
    _joined = None
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _with_others(me: int | None = None) -> Iterator[None]:
    """Inside, what torch raises where another process is missing becomes a LostError.

    Args:
        me: number of this process, before it has joined.
    """
    try:
        yield
    except RuntimeError as error:  # gloo's own, and the base of torch.distributed's
        first = str(error).strip().partition("\n")[0]
        raise LostError(
            "another process of this training is gone or does not answer; what the last epoch"
            " wrote is kept",
            where=f"process {rank() if me is None else me}: {visible(first)}",
            remedy="repeat the command (without --force) to go on",
            code="train.process-lost",
        ) from error


def place() -> Place | None:
    """Which of the processes this one is; None: it is alone."""
    return None if _joined is None else _joined.place


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 writes the files."""
    return dist.get_rank() if world() > 1 else 0


def share(index: Tensor) -> Tensor:
    """This process's part of a global batch (B,); B is a multiple of the number of processes."""
    return index.chunk(world())[rank()]


def average_(flat: Tensor) -> None:
    """Mean over the processes, in place. With two the sum has no order: equal to the last bit."""
    if world() > 1:
        with _with_others():
            dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        flat /= world()


def total_(counts: Tensor) -> None:
    """Sum over the processes, in place."""
    if world() > 1:
        with _with_others():
            dist.all_reduce(counts, op=dist.ReduceOp.SUM)


def average_with_(flat: Tensor, tail: Tensor, figures: Tensor) -> Tensor:
    """`average_` of a buffer and, in the same call, of a few figures (F,), which it returns.

    Args:
        flat: (n,) the whole buffer.
        tail: its last elements, at least F, free for the figures.
    """
    if world() == 1:
        return figures
    place = tail[: len(figures)]
    place.copy_(figures)
    average_(flat)
    return torch.clone(place)


def copy_first_(*buffers: Tensor) -> None:
    """Give every process the first one's values, in place."""
    if world() > 1:
        with _with_others():
            for buffer in buffers:
                dist.broadcast(buffer, src=0)


def from_first(value: T) -> T:
    """The first process's value, in all of them."""
    if _joined is None:
        return value
    values: list[T] = [value]
    with _with_others():
        dist.broadcast_object_list(values, src=0, group=_joined.talk)
    return values[0]


def require_same(facts: Mapping[str, str]) -> None:
    """Refuse processes that are not of one training; waits for all of them.

    Args:
        facts: what must be the same everywhere, by the name that a user knows it by.

    Raises:
        InputError: in every process alike, where they differ.
    """
    if _joined is None:
        return
    every: list[Mapping[str, str]] = [facts] * world()
    with _with_others():
        dist.all_gather_object(every, facts, group=_joined.talk)
    known = dict.fromkeys(name for one in every for name in one)
    names = [n for n in known if any(other.get(n) != every[0].get(n) for other in every)]
    if names:
        ranks = [str(r) for r, other in enumerate(every) if other != every[0]]
        raise InputError(
            f"the processes of this training do not agree: {', '.join(names)}",
            where=f"process {', '.join(ranks)} differs from process 0",
            remedy="give each machine the same command, data and versions",
            code="train.processes-differ",
        )


def require_same_weights(theta: Tensor) -> None:
    """Make sure that all processes still hold the same weights (n,), to the bit.

    Raises:
        InputError: in every process alike, where they do not.
    """
    if world() == 1:
        return
    parts = theta.view(torch.int32).chunk(MARKS)
    marks = torch.stack([part.sum(dtype=torch.int64) for part in parts])
    ends = torch.cat((marks, -marks))
    with _with_others():
        dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    largest, smallest = ends.chunk(2)
    if not torch.equal(largest, -smallest):
        raise InputError(
            "the processes of this training no longer hold the same weights",
            where="end of the epoch",
            remedy="use machines of one kind, with the same versions of torch and its libraries",
            code="train.processes-apart",
        )


def fails_first() -> bool:
    """Whether this is the first process to fail, which then tells why; the others are silent."""
    if _joined is None:
        return True
    try:
        return _joined.store.add("failed", 1) == 1
    except RuntimeError:  # the store is gone: better twice than never
        return True
