"""Processes on this machine: started together, watched, and ended together."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Final

from torch.multiprocessing.spawn import spawn

SETTLE_S: Final = 2.0  # after a process failed: until the others have seen it, and tell why
GRACE_S: Final = 5.0  # from being asked to end to being killed


def run_processes(
    work: Callable[..., None], args: tuple[object, ...], count: int
) -> tuple[int | None, ...]:
    """Exit codes of `count` fresh processes that do `work(number, *args)`; none is left behind.

    They are given up when one of them fails. Negative: the signal that ended it; None: it had not
    ended, and has been now. Should this process die, Linux tells them.

    Args:
        work: a function of a module, as for any spawned process.
    """
    others = set(multiprocessing.active_children())
    try:
        started = spawn(work, args=args, nprocs=count, join=False)  # type: ignore[no-untyped-call] # has no types
        return _wait(started.processes)
    finally:
        _end(set(multiprocessing.active_children()) - others)


def _wait(processes: Sequence[BaseProcess]) -> tuple[int | None, ...]:
    """Exit codes when all have ended, or soon after one has failed."""
    running = {process.sentinel: process for process in processes}
    until: float | None = None
    while running:
        left = None if until is None else max(0.0, until - time.monotonic())
        ready = connection.wait(list(running), left)
        if not ready:
            break
        for sentinel in ready:
            assert isinstance(sentinel, int)
            process = running.pop(sentinel)
            process.join()
            if process.exitcode != 0 and until is None:
                until = time.monotonic() + SETTLE_S
    return tuple(process.exitcode for process in processes)


def _end(processes: set[BaseProcess]) -> None:
    """Ask, then kill: one that waits inside of gloo or NCCL does not hear."""
    for ask in (BaseProcess.terminate, BaseProcess.kill):
        until = time.monotonic() + GRACE_S
        for process in processes:
            if process.is_alive():
                ask(process)
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
