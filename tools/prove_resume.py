"""kill -9 at random moments of training, then --resume: the final state must be the same bits.

    python tools/prove_resume.py [--kills 10] [--seed 0]

Each round trains digits for a few epochs in a folder of its own, kills the process, looks at what
it left (every file readable), goes on with --resume, and compares every field of the checkpoints
with those of a run that nobody killed. One kill in five comes at a random moment before the first
checkpoint exists, the others between the first and the last one, since start-up takes longer than
the epochs here. A process that had ended before the kill does not count: that round is drawn
again. Exit 1 at the first difference.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ndtool.arch import parse_spec
from ndtool.rundir import BEST, CHECKPOINT, CONTRACT, HISTORY, STUDENT_SPEC, RunDir
from ndtool.training import checkpoint
from ndtool.training.loop import TIME_COLUMNS

COMMAND: Final = "import sys; from ndtool.cli.main import main; sys.exit(main())"
OPTIONS: Final = ("--data", "digits", "--epochs", "5", "--batch-size", "64", "--threads", "1")
EARLY_EVERY: Final = 5  # one kill in so many comes before the first checkpoint
MAX_DRAWS: Final = 20  # rounds in a row whose process ended before its kill
POLL_S: Final = 0.01
FIRST_CHECKPOINT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Times:
    """Of the uninterrupted run, in seconds: start to first checkpoint, and from there to last."""

    start_up: float
    epochs: float


def command(out: Path, *more: str) -> list[str]:
    """`ndtool train` into `out`/run."""
    name = ("--out", str(out), "--name", "run")
    return [sys.executable, "-c", COMMAND, "train", *OPTIONS, *name, *more]


@contextmanager
def training(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A training process that does not outlive the block."""
    child = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def wait_for_checkpoint(child: subprocess.Popen[bytes], path: Path) -> None:
    """Return when the first checkpoint is there, or the process has ended."""
    limit = time.monotonic() + FIRST_CHECKPOINT_S
    while not path.exists() and child.poll() is None:
        if time.monotonic() > limit:
            raise TimeoutError(f"no checkpoint in {FIRST_CHECKPOINT_S:.0f} s")
        time.sleep(POLL_S)


def uninterrupted(out: Path) -> Times:
    """Train to the end."""
    path = out / "run" / CHECKPOINT
    start = time.time()  # the clock of the files' times
    with training(out) as child:
        wait_for_checkpoint(child, path)
        first = time.time()
        if child.wait() != 0:
            raise RuntimeError(f"the uninterrupted run ended with status {child.returncode}")
    return Times(first - start, max(path.stat().st_mtime - first, 0.0))


def kill_at(out: Path, wait: float, *, early: bool) -> bool:
    """Kill -9 `wait` seconds after the start, or after the first checkpoint; did it hit?"""
    with training(out) as child:
        if not early:
            wait_for_checkpoint(child, out / "run" / CHECKPOINT)
        time.sleep(wait)
        child.kill()
        return child.wait() == -signal.SIGKILL


def readable(folder: Path) -> str:
    """What the folder holds after a kill; raises for a half-written file."""
    if not folder.exists():
        return "nothing yet"
    run = RunDir(folder)
    found = []
    if run.has(CONTRACT):
        run.contract()
        found.append("contract")
    run.manifest()
    for name in (CHECKPOINT, BEST):
        if run.has(name):
            state = checkpoint.load(run / name)
            found.append(f"{Path(name).stem} of epoch {state.epoch}")
    if run.has(HISTORY):
        rows = (run / HISTORY).read_text().splitlines()
        assert len({len(row.split(",")) for row in rows}) == 1
    if run.has(STUDENT_SPEC):
        parse_spec((run / STUDENT_SPEC).read_text(), where=STUDENT_SPEC)
    return ", ".join(found) or "nothing yet"


def differences(a: Path, b: Path) -> list[str]:
    """Fields in which two checkpoints differ; all count but the seconds of an epoch.

    The hash of best.pt is of those seconds, too; its fields are compared by themselves.
    """
    left, right = checkpoint.load(a), checkpoint.load(b)
    names = [field.name for field in fields(left) if field.name != "best_sha256"]
    return [name for name in names if bits(getattr(left, name)) != bits(getattr(right, name))]


def bits(value: object) -> object:
    """`value` in a form whose == is equality of bits; history without its times."""
    match value:
        case Tensor():
            return value.view(torch.int32).numpy().tobytes()  # 0.0 == -0.0 would hide a difference
        case tuple():
            return [bits(part) for part in value]
        case dict():
            return {key: cell for key, cell in value.items() if key not in TIME_COLUMNS}
        case _:
            return value


def main() -> int:
    """Run the proof; prints one line a kill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        times = uninterrupted(work / "whole")
        sys.stdout.write(
            f"uninterrupted: first checkpoint after {times.start_up:.1f} s, last one"
            f" {times.epochs:.1f} s later\n"
        )
        for number in range(1, arguments.kills + 1):
            early = number % EARLY_EVERY == 0
            for draw in range(MAX_DRAWS):
                out = work / f"{number}.{draw}"
                wait = rng.uniform(0.0, times.start_up if early else times.epochs)
                if kill_at(out, wait, early=early):
                    break
            else:
                sys.stdout.write(f"kill {number}: the process ended first, {MAX_DRAWS} times\n")
                return 1
            state = readable(out / "run")
            subprocess.run(
                command(out, "--resume"),
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            different = [
                f"{file}: {field}"
                for file in (CHECKPOINT, BEST)
                for field in differences(work / "whole/run" / file, out / "run" / file)
            ]
            metrics = json.loads((out / "run/metrics.json").read_text())
            after = "the start" if early else "the first checkpoint"
            verdict = "DIFFERENT in " + ", ".join(different) if different else "equal"
            sys.stdout.write(
                f"kill {number}, {wait:.2f} s after {after}: {state}; resumed to epoch"
                f" {metrics['train_epochs']}: {verdict}\n"
            )
            sys.stdout.flush()
            if different:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
