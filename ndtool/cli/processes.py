"""A training in several processes: `--nproc N` starts them, torchrun starts us.

Each process does the training's part of the command; the first writes and speaks. The one that
fails first tells why, in the words that a training alone would have used.
"""

import dataclasses
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from ndtool import console
from ndtool.cli.exits import guarded
from ndtool.errors import ConfigError, InputError, require
from ndtool.machine import Place, place_from
from ndtool.options import TrainOptions
from ndtool.rundir import CHECKPOINT, RunDir

if TYPE_CHECKING:
    from ndtool.prepare import Prepared

LOST: Final = 75  # exit code of a process that misses another one
LOOPBACK: Final = ("lo", "lo0")  # as Linux and macOS call it
_STOPPED: Final = {128 + number: number for number in (signal.SIGINT, signal.SIGTERM)}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What a process that we start needs to know."""

    options: TrainOptions
    given: Mapping[str, str]
    run: Path
    force: bool
    resume: bool
    quiet: bool
    verbose: bool
    as_json: bool
    log_file: Path | None


def find_place(options: TrainOptions) -> Place | None:
    """This process's place among those of torchrun; None: it is alone.

    Raises:
        ConfigError: --nproc says something else; the environment is not whole.
    """
    place = place_from(os.environ)
    if place is not None and options.nproc not in (1, place.local_world):
        raise ConfigError(
            f"torchrun has started {place.local_world} processes on this machine",
            where=f"--nproc {options.nproc}",
            remedy="leave --nproc out",
            code="train.nproc",
        )
    return place


def require_no_place(command: str) -> None:
    """Refuse to run `command` under torchrun: all processes would write the same files.

    Raises:
        ConfigError: we have been started by it.
    """
    if place_from(os.environ) is not None:
        raise ConfigError(
            f"{command} is no command for several processes",
            where="environment variable WORLD_SIZE",
            remedy="use torchrun with ndtool train, and go on from the run; or --nproc",
            code="train.torchrun",
        )


@contextmanager
def joined(place: Place, device: str) -> Iterator[None]:
    """Inside, this process is one of several; of those that fail, the first one speaks."""
    console.mute(on=place.rank > 0)
    require("torch")
    from ndtool.training import collectives
    from ndtool.training.devices import find_device

    try:
        collectives.join(place, find_device(device, place))
        yield
    except Exception:
        console.mute(on=not collectives.fails_first())
        raise
    finally:
        collectives.leave()


def train_in_processes(
    prepared: "Prepared", given: Mapping[str, str], *, force: bool, resume: bool
) -> None:
    """Train in `prepared.options.nproc` processes on this machine; they end with this one.

    Raises:
        InputError: one of them was ended from outside, or hangs.
        typer.Exit: they failed, and have told why.
    """
    require("torch")
    from ndtool.training.checks import check_options
    from ndtool.training.launch import run_processes
    from ndtool.training.stage import resume_hint

    check_options(prepared.options)
    count, run = prepared.options.nproc, prepared.run
    console.set_resume_hint(resume_hint(run, force=force))
    state = console.STATE
    job = _Job(
        options=prepared.options,
        given=dict(given),
        run=run.path,
        force=force,
        resume=resume,
        quiet=state.quiet,
        verbose=state.verbose,
        as_json=state.as_json,
        log_file=state.log_file,
    )
    with tempfile.TemporaryDirectory(prefix="ndtool-") as folder:
        codes = run_processes(_work, (count, Path(folder) / "store", job), count)
    _judge(codes, run)


def _work(rank: int, count: int, store: Path, job: _Job) -> None:
    """A process that we started, number `rank` of `count`."""
    # They meet on this machine; its name may be that of an address behind a firewall.
    names = [name for _, name in socket.if_nameindex() if name in LOOPBACK]
    if names:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", names[0])
    place = Place(rank=rank, world=count, local_rank=rank, local_world=count, store=store)
    sys.exit(guarded(_part(place, job), sys.argv[1:]))


def _part(place: Place, job: _Job) -> Callable[[], int]:
    """The work of one process; gives its exit code."""

    def work() -> int:
        from ndtool.prepare import prepare
        from ndtool.training.collectives import LostError
        from ndtool.training.stage import train_stage

        console.configure(
            quiet=job.quiet, verbose=job.verbose, as_json=job.as_json, log_file=job.log_file
        )
        try:
            with joined(place, job.options.device):
                with console.muted():  # told before we were started
                    prepared = prepare(job.options, name=job.run.name, out=job.run.parent)
                train_stage(prepared, job.given, force=job.force, resume=job.resume, place=place)
        except LostError:
            return LOST  # who started us knows which one
        except Exception:
            raise
        except BaseException:  # Ctrl-C, SIGTERM: who started us tells
            console.mute()
            raise
        return 0

    return work


def _judge(codes: Sequence[int | None], run: RunDir) -> None:
    """Tell what no process has told: that one was ended, or does not answer."""
    failed = {rank: code for rank, code in enumerate(codes) if code}
    if not failed:
        return
    stopped = {r: _STOPPED.get(c, -c) for r, c in failed.items() if c < 0 or c in _STOPPED}
    told = [code for rank, code in failed.items() if code != LOST and rank not in stopped]
    if told and not stopped:
        raise typer.Exit(told[0])
    if stopped:
        rank, number = next(iter(stopped.items()))
        how = f"was ended by {_signal_name(number)}"
    else:
        rank = next((rank for rank, code in enumerate(codes) if code != LOST), 0)
        how = "does not answer"
    kept = "; the last checkpoint is kept" if run.has(CHECKPOINT) else ""
    memory = ", with a smaller --batch-size if memory ran out" if stopped else ""
    raise InputError(
        f"process {rank} of {len(codes)} {how}{kept}",
        where=console.visible(str(run.path)),
        remedy=f"repeat the command (without --force) to go on{memory}",
        code="train.process-lost",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
