"""Where a training computes: the device, and the threads of its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from ndtool.console import visible
from ndtool.errors import ConfigError
from ndtool.machine import Place, usable_cores
from ndtool.options import TrainOptions
from ndtool.training import collectives

MAX_DEFAULT_THREADS: Final = 4  # more gave nothing on nets this small


def find_device(name: str, place: Place | None = None) -> torch.device:
    """The device of auto, cpu, cuda or cuda:N; of several processes each has a GPU of its own.

    Args:
        place: of this process, where it has not joined the others yet.

    Raises:
        ConfigError: another word, a GPU that is not there, or one for several processes.
    """
    _, _, number = name.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    place = place or collectives.place()
    index = int(number) if number.isascii() and number.isdecimal() and len(number) < 4 else 0
    known = name in ("auto", "cuda", f"cuda:{index}")
    what = f"no device {visible(name)}, this machine has {count} CUDA devices that torch can use"
    if known and place is not None and place.local_world > 1:
        many = 1 if number else count
        if place.local_world <= many:
            return torch.device("cuda", place.local_rank)
        what = f"{place.local_world} processes here need a GPU each, {visible(name)} gives {many}"
    elif known and index < count:
        return torch.device("cuda", index)
    raise ConfigError(what, where="--device", remedy="use auto or cpu", code="train.device")


def threads_of(options: TrainOptions) -> int:
    """Of this process; several on one machine share its cores."""
    place = collectives.place()
    cores = usable_cores() // (1 if place is None else place.local_world)
    return options.threads or max(1, min(cores, MAX_DEFAULT_THREADS))


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Sums are split by thread, so the count is part of the result (stack, section 6)."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
