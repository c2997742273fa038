"""Damaged .tflite files for the reader and the C engine: only a refusal or success is allowed.

    python tools/fuzz_reader.py [MODEL.tflite ...] [--seconds 60] [--seed 0] [--out DIR]
                                [--engine mutate|atheris]

Each case is read, linted and, where it is accepted, compiled to kernel calls and an arena. An
exception that is not an NdError, more than 10 seconds or 1 GiB for one case, and a process that
dies are findings: their files and tracebacks go to DIR (build/fuzz), one of each kind, and the exit
code is 1. Seeds are the named files and those of our own writer. `--seconds` is CPU time.
`mutate` (the default) makes cases by number: `--seed S --case N` runs one again. `atheris` is
coverage-guided, where that package is installed, and stops at its first finding.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fuzz_cases import Seed

ROOT: Final = Path(__file__).resolve().parents[1]
CASE_S: Final = 10.0  # CPU seconds
MEMORY_BYTES: Final = 2**30  # beyond what the process has before the first case
REPORT_S: Final = 60.0  # CPU seconds between two lines of progress
LOST: Final = "the process died"


class Hang(BaseException):
    """A case took too long; nothing under test may catch it."""


@dataclass(slots=True)
class Tally:
    """How many cases had each outcome, how many findings there are of each kind, and the time."""

    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    findings: collections.Counter[str] = field(default_factory=collections.Counter)
    cpu_s: float = 0.0

    def line(self) -> str:
        """One line for people."""
        parts = [f"{count} {name}" for name, count in sorted(self.outcomes.items())]
        found = f"{sum(self.findings.values())} findings of {len(self.findings)} kinds"
        total = sum(self.outcomes.values()) + sum(self.findings.values())
        return f"{self.cpu_s:.0f} s, {total} cases: {', '.join((*parts, found))}\n"


def limit_process() -> None:
    """Memory for this process: what it has now and `MEMORY_BYTES`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def timed(judge: Callable[[bytes], object], data: bytes) -> object:
    """`judge(data)`; raises Hang after `CASE_S`, dies of SIGVTALRM where nothing can be raised."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {CASE_S:g} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CASE_S)
    signal.setitimer(signal.ITIMER_VIRTUAL, 3 * CASE_S)
    try:
        return judge(data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def finding_kind(error: BaseException) -> str:
    """Exception and the innermost line of ours: findings of one kind have one cause."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if str(ROOT) in f.filename and not f.filename.endswith(__file__)]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def save_finding(out: Path, kind: str, data: bytes, text: str) -> None:
    """The first file of a kind and what happened to it."""
    out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", kind)
    if not (out / f"{name}.tflite").exists():
        (out / f"{name}.tflite").write_bytes(data)
        (out / f"{name}.txt").write_text(text)


# ---------------------------------------------------------------------------------------- by number


def run_cases(
    seeds: Sequence[Seed], seed: int, first: int, seconds: float, out: Path, pipe: Connection
) -> None:
    """Cases from `first` on, for `seconds` of CPU; tells each number and each result."""
    from fuzz_cases import judge, make_case

    limit_process()
    number = first
    while time.process_time() < seconds:
        pipe.send(("case", number, time.process_time()))
        data = make_case(seeds, seed, number)
        try:
            pipe.send(("outcome", str(timed(judge, data)), time.process_time()))
        except (Exception, Hang) as error:  # noqa: BLE001  # whatever it is, it is the finding
            kind = finding_kind(error)
            text = f"seed {seed}, case {number}\n{traceback.format_exc()[-20000:]}"
            save_finding(out, kind, data, text)
            pipe.send(("finding", kind, time.process_time()))
        number += 1


def fuzz_by_number(files: Sequence[Path], seed: int, seconds: float, out: Path) -> Tally:
    """Runs cases in a process that is started again wherever it dies."""
    from fuzz_cases import make_case, make_seeds

    seeds, tally = make_seeds(files), Tally()
    number, next_report = 0, REPORT_S
    fork = multiprocessing.get_context("fork")
    while tally.cpu_s < seconds:
        mine, theirs = fork.Pipe(duplex=False)
        args = (seeds, seed, number, seconds - tally.cpu_s, out, theirs)
        child = fork.Process(target=run_cases, args=args)
        child.start()
        theirs.close()
        before = tally.cpu_s
        while (message := receive(mine)) is not None:
            kind, value, used = message
            tally.cpu_s = before + used
            match kind:
                case "case":
                    number = int(value)
                case "outcome":
                    tally.outcomes[str(value)] += 1
                case "finding":
                    tally.findings[str(value)] += 1
            if tally.cpu_s > next_report:
                sys.stdout.write(tally.line())
                sys.stdout.flush()
                next_report += REPORT_S
        child.join()
        if child.exitcode == 0:
            break
        data = make_case(seeds, seed, number)
        text = f"seed {seed}, case {number}: exit code {child.exitcode}\n"
        save_finding(out, LOST, data, text)
        tally.findings[LOST] += 1
        number += 1
    return tally


def receive(pipe: Connection) -> tuple[str, object, float] | None:
    """The next message, None where the other end is closed."""
    try:
        message: tuple[str, object, float] = pipe.recv()
    except EOFError:
        return None
    return message


def run_one_case(files: Sequence[Path], seed: int, number: int) -> None:
    """One case again, with its traceback."""
    from fuzz_cases import judge, make_case, make_seeds

    data = make_case(make_seeds(files), seed, number)
    limit_process()
    sys.stdout.write(f"{timed(judge, data)}\n")


# -------------------------------------------------------------------------------- coverage-guided


def fuzz_by_coverage(files: Sequence[Path], seed: int, seconds: float, out: Path) -> None:
    """libFuzzer through atheris; it ends the process itself, with 77 at a finding."""
    import atheris  # not a dependency: installed by those who use it

    with atheris.instrument_imports(include=["ndtool"]):
        from fuzz_cases import judge, make_seeds

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
        for i, made in enumerate(make_seeds(files)):
            (Path(corpus) / f"seed{i}").write_bytes(made.data)
        options = {
            "max_total_time": int(seconds),
            "seed": seed + 1,  # 0 is a random one
            "timeout": int(CASE_S),
            "rss_limit_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10) + 1024,
            "max_len": 65536,
            "artifact_prefix": f"{out}/atheris-",
            "print_final_stats": 1,
        }
        atheris.Setup(
            [sys.argv[0], corpus, *(f"-{key}={value}" for key, value in options.items())],
            lambda data: judge(bytes(data)),
        )
        atheris.Fuzz()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="MODEL.tflite")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz")
    parser.add_argument("--engine", choices=("mutate", "atheris"), default="mutate")
    options = parser.parse_args()
    if options.case is not None:
        run_one_case(options.files, options.seed, options.case)
        return 0
    if options.engine == "atheris":
        fuzz_by_coverage(options.files, options.seed, options.seconds, options.out)
        return 0
    tally = fuzz_by_number(options.files, options.seed, options.seconds, options.out)
    sys.stdout.write(tally.line())
    for kind, count in tally.findings.most_common():
        sys.stdout.write(f"finding: {kind}, {count} times\n")
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
