"""What `ndtool.training.collectives` does, looked at from inside two gloo processes.

`run` starts them; each check returns what it saw, by its process. Starting processes is what costs,
so the trainings of two processes that a test wants are made by the same ones.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from small_runs import Silent

from ndtool.errors import InputError
from ndtool.machine import Place
from ndtool.options import TrainOptions
from ndtool.prepare import prepare
from ndtool.training import collectives, loop
from ndtool.training.train import train
from ndtool.types import Part

WORLD = 2


def run(folder: Path, trainings: Mapping[str, TrainOptions]) -> list[dict[str, Any]]:
    """The results of all checks in each of two processes that have joined.

    Args:
        trainings: to be made into `folder`, by their names.
    """
    from torch.multiprocessing import spawn

    spawn(_work, args=(folder, dict(trainings)), nprocs=WORLD)
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(WORLD)]  # noqa: S301  (our own)


def _work(rank: int, folder: Path, trainings: Mapping[str, TrainOptions]) -> None:
    torch.set_num_threads(1)
    place = Place(
        rank=rank, world=WORLD, local_rank=rank, local_world=WORLD, store=folder / "store"
    )
    collectives.join(place, torch.device("cpu"))
    loop.EVAL_BATCH = 8  # type: ignore[misc]  # several, so that each process has its own
    for name, options in trainings.items():
        _train(name, options, folder)
    seen = {check.__name__: check(rank) for check in CHECKS}
    collectives.leave()
    seen["after"] = (collectives.world(), collectives.rank(), collectives.place())
    (folder / str(rank)).write_bytes(pickle.dumps(seen))


def _train(name: str, options: TrainOptions, folder: Path) -> None:
    prepared = prepare(options, name=name, out=folder)
    train(
        prepared.options,
        prepared.run,
        spec=prepared.spec,
        contract=prepared.contract,
        train=prepared.source.load(Part.TRAIN, prepared.contract),
        val=prepared.source.load(Part.VAL, prepared.contract),
        resume=False,
        progress=Silent(),
    )


def _error(work: Callable[[], None]) -> tuple[str, str] | None:
    try:
        work()
    except InputError as problem:
        return problem.code, str(problem)
    return None


def who(rank: int) -> tuple[int, int, int]:
    place = collectives.place()
    assert place is not None
    return collectives.world(), collectives.rank(), place.local_rank


def share(rank: int) -> list[int]:
    return collectives.share(torch.arange(6)).tolist()


def sums(rank: int) -> tuple[list[float], list[int], list[float], list[float]]:
    mean = torch.tensor([1.0, 0.1]) * (rank + 1)
    collectives.average_(mean)
    count = torch.tensor([3 + rank])
    collectives.total_(count)
    flat = torch.full((6,), float(rank))
    figures = collectives.average_with_(flat, flat[3:], torch.tensor([4.0, 8.0]) * rank)
    return mean.tolist(), count.tolist(), flat[:3].tolist(), figures.tolist()


def first(rank: int) -> tuple[object, list[float]]:
    buffer = torch.full((2,), float(rank + 7))
    collectives.copy_first_(buffer)
    return collectives.from_first({"rank": rank, "none": None}), buffer.tolist()


def same_facts(rank: int) -> tuple[str, str] | None:
    return _error(lambda: collectives.require_same({"data": "a", "option lr": "0.1"}))


def other_facts(rank: int) -> tuple[str, str] | None:
    return _error(lambda: collectives.require_same({"data": "a", "option lr": f"0.{rank}"}))


def one_fact_more(rank: int) -> tuple[str, str] | None:
    more = {"option extend_epochs": "2"} if rank else {}
    return _error(lambda: collectives.require_same({"data": "a"} | more))


def same_weights(rank: int) -> tuple[str, str] | None:
    theta = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    return _error(lambda: collectives.require_same_weights(theta))


def other_weights(rank: int) -> list[tuple[str, str] | None]:
    """One element moved by the smallest step there is, at either end and in between."""
    seen = []
    for place in (0, 500, 999):
        theta = torch.randn(1000, generator=torch.Generator().manual_seed(0))
        if rank == 1:
            theta[place] = torch.nextafter(theta[place], torch.tensor(9.0))
        seen.append(_error(lambda theta=theta: collectives.require_same_weights(theta)))
    return seen


def failing(rank: int) -> bool:
    return collectives.fails_first()


CHECKS = (
    who,
    share,
    sums,
    first,
    same_facts,
    other_facts,
    one_fact_more,
    same_weights,
    other_weights,
    failing,
)
