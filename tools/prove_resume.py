"""kill -9 at random moments of training, then --resume: the final weights must be the same bits.

    python tools/prove_resume.py [--kills 10] [--seed 0]

Each round trains digits for a few epochs in a folder of its own, is killed at a random moment
between its start and the time the uninterrupted run took, is looked at (every file readable), and
goes on with --resume. Exit 1 at the first difference.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from ndtool.arch import parse_spec
from ndtool.rundir import BEST, CHECKPOINT, CONTRACT, HISTORY, STUDENT_SPEC, RunDir
from ndtool.training import checkpoint

COMMAND = "import sys; from ndtool.cli.main import main; sys.exit(main())"
OPTIONS = ("--data", "digits", "--epochs", "5", "--batch-size", "64", "--threads", "1")


def command(out: Path, *more: str) -> list[str]:
    """`ndtool train` into `out`/run."""
    name = ("--out", str(out), "--name", "run")
    return [sys.executable, "-c", COMMAND, "train", *OPTIONS, *name, *more]


def readable(folder: Path) -> str:
    """What the folder holds after a kill; raises for a half-written file."""
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


def same(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same bits."""
    left, right = checkpoint.load(a), checkpoint.load(b)
    return all(
        torch.equal(getattr(left, part), getattr(right, part))
        for part in ("theta", "momentum", "statistics")
    )


def main() -> int:
    """Run the proof; prints one line a kill."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        started = time.monotonic()
        subprocess.run(command(work / "whole"), check=True, **quiet)
        whole = time.monotonic() - started
        sys.stdout.write(f"uninterrupted: {whole:.1f} s\n")
        for number in range(1, arguments.kills + 1):
            out = work / str(number)
            moment = rng.uniform(0.05, 1.0) * whole
            child = subprocess.Popen(command(out), **quiet)
            try:
                child.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            state = readable(out / "run") if (out / "run").exists() else "nothing yet"
            subprocess.run(command(out, "--resume"), check=True, **quiet)
            equal = all(
                same(work / "whole/run" / name, out / "run" / name) for name in (CHECKPOINT, BEST)
            )
            metrics = json.loads((out / "run/metrics.json").read_text())
            sys.stdout.write(
                f"kill {number} after {moment:.1f} s: {state}; resumed to epoch"
                f" {metrics['train_epochs']}: {'equal' if equal else 'DIFFERENT'}\n"
            )
            sys.stdout.flush()
            if not equal:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
