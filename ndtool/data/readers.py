"""Processes that decode image files while something else runs.

An executor of the standard library rather than torch's DataLoader: its workers load no torch unless
their task does, results come through pipes and not through /dev/shm (64 MiB in a container), a
killed worker is noticed at once, and ending early is part of its interface.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from types import TracebackType
from typing import Final, Protocol

import numpy as np

from ndtool.data.folder import Decoder
from ndtool.data.folder_scan import ImageFile
from ndtool.data.image import quiet_pillow
from ndtool.data.types import U8
from ndtool.errors import DataError, InputError, raise_all

CHUNK: Final = 16  # files of one task: enough to hide its cost, few enough to end soon


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A few files to be decoded by one process, with their numbers in their part."""

    files: tuple[ImageFile, ...]
    rows: tuple[int, ...]
    epoch: int  # of the training, for what is random


class Read(Protocol):
    """How one file becomes pixels, in another process: a picklable object with little in it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the pixels."""
        ...

    def __call__(self, file: ImageFile, row: int, epoch: int) -> U8:
        """The pixels; raises DataError."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """Reads pixels as the contract says."""

    decoder: Decoder

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Read`."""
        return self.decoder.shape

    def __call__(self, file: ImageFile, row: int, epoch: int) -> U8:
        """See `Read`."""
        return self.decoder.pixels(file)


class Readers:
    """A pool of processes; memory is bounded by their number, whatever is read.

    Args:
        preload: modules that the tasks need, loaded once for all processes.
    """

    def __init__(self, processes: int, *, preload: Sequence[str] = ()) -> None:
        # Not fork: this process has threads. A fork server starts from a clean state, as spawn
        # does, but loads the modules once.
        servers = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if servers else "spawn")
        context.set_forkserver_preload([__name__, *preload])
        self._processes = processes
        self._pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start)

    def __enter__(self) -> Readers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def pixels(
        self, read: Read, chunks: Iterable[Chunk], *, ahead: int
    ) -> Generator[U8, None, None]:
        """The pixels of each chunk (n, H, W, C), in order.

        Args:
            ahead: chunks that are begun before they are asked for, or more, so that no process
                waits.

        Raises:
            DataError: with all of them attached, the files of a chunk that cannot be used.
            InputError: a process was killed.
        """
        waiting, window = iter(chunks), max(ahead, 2 * self._processes)
        begun: deque[Future[U8 | list[DataError]]] = deque()
        try:
            while True:
                for chunk in islice(waiting, window - len(begun)):
                    begun.append(self._pool.submit(read_chunk, read, chunk))
                if not begun:
                    return
                result = begun.popleft().result()
                if isinstance(result, list):
                    raise_all(result)
                else:
                    yield result
        except BrokenProcessPool as error:
            raise InputError(
                "a process that decodes images was killed, perhaps for want of memory",
                where="--loaders",
                remedy="repeat the command (without --force) to go on, with fewer --loaders",
                code="data.loader-killed",
            ) from error
        finally:
            for future in begun:
                future.cancel()


def chunks_of(files: Sequence[ImageFile], rows: Sequence[int], *, epoch: int) -> Iterator[Chunk]:
    """The files at `rows`, cut into chunks."""
    for start in range(0, len(rows), CHUNK):
        some = tuple(rows[start : start + CHUNK])
        yield Chunk(files=tuple(files[row] for row in some), rows=some, epoch=epoch)


def _start() -> None:
    """Begin a worker: Ctrl-C is its parent's business, and it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """End this process, which multiprocessing has started, at once when its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    with contextlib.suppress(OSError):
        wait([sentinel])
    os._exit(1)


def read_chunk(read: Read, chunk: Chunk) -> U8 | list[DataError]:
    """The chunk's pixels (n, H, W, C), or what is wrong with its files."""
    pixels = np.empty((len(chunk.files), *read.shape), np.uint8)
    problems: list[DataError] = []
    with quiet_pillow():
        for place, (file, row) in enumerate(zip(chunk.files, chunk.rows, strict=True)):
            try:
                pixels[place] = read(file, row, chunk.epoch)
            except DataError as error:
                problems.append(error)
    return problems or pixels
