"""The paper's tables by runs of the product itself, with the controls that the paper lacks.

    python benchmarks/ablation.py --table 1 --preset cifar100 --seeds 0,1,2 --out runs/ablation \
        --jobs 2 --threads 1

Each row and seed is a run of `ndtool train` in a process of its own (`ablation_rows.py` has the
flags of the rows). A run that was stopped goes on from its last whole epoch, so that the same
command, repeated, finishes in pieces; exit status 75 says that there is more to do:

    until python benchmarks/ablation.py ... --minutes 9; do [ $? = 75 ] || break; done

(A piece must be longer than the start of a worker and an epoch, or nothing is gained.)

Tables of one folder share their runs. `--rows full:lr=.2,first-third@full` runs others instead of
the table's, and adds them to it: ROW@NUMBER trains so many times the epochs, ROW@OTHER as long as
OTHER takes, by the time of a step, measured once before the first run. Accuracies are of the float
student; the validation part chooses the epoch of *best*, the test part is read once, when a run
has ended. A run's time is that of its training steps alone: process time on a CPU, wall time on a
GPU, where runs that share the GPU (--jobs above 1) slow each other down and only rows of one call
compare.

CPU, 2 cores, CIFAR-100 from the shared pack, a small network:

    python benchmarks/ablation.py --table 1 --data cifar100-pack --model ds-cnn --width .5 \
        --epochs 60 --set lr=.3 --seeds 0,1,2 --out runs/ablation-small --jobs 2 --threads 1

One GPU, 32x32 (CIFAR-100 as three runs side by side; CIFAR-10 from its own files):

    python benchmarks/ablation.py --table 1 --preset cifar100 --epochs 200 --seeds 0,1,2,3,4 \
        --set device=cuda --set precision=bf16 --set cuda-graphs --out runs/gpu --jobs 3 --minutes 9
    python benchmarks/ablation.py --table 1 --preset cifar10 --data cifar10:DIR --seeds 0,1,2 \
        --set device=cuda --out runs/gpu10 --jobs 3 --minutes 9

ImageNet, the paper's recipe (its own rows: 180 epochs, 360 with UD; mbv3: lr 1.6, decay 3e-5):

    python benchmarks/ablation.py --table 1 --preset imagenet --data folder:DIR --seeds 0 \
        --rows baseline,netaug,in-situ,surgery,full@2,baseline@2 --set device=cuda --out runs/in1k

Writes ablation-TABLE-LABEL.json and .md, also while runs are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch
from ablation_report import by_row, compare, page, tabulate
from ablation_rows import (
    BASELINE,
    FORMS,
    TABLES,
    TAUGHT_FROM_OUTSIDE,
    TEACHER,
    Job,
    parse_row,
    plan,
)
from ablation_run import (
    GPU,
    LOGS,
    RESULTS,
    RUN_STEPS,
    RUNS,
    UNFINISHED,
    as_flags,
    flags_of,
    parse_options,
    run_job,
    write_teacher,
)
from datasets import cifar100_npz, subset_npz
from train_step import machine

from ndtool.data.types import source_sha256
from ndtool.errors import NdError
from ndtool.files import write_atomic
from ndtool.identity import TRAIN_VERSION
from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.rundir import (
    package_versions,
    slug,
)
from ndtool.training.cost import step_ratio
from ndtool.training.devices import find_device
from ndtool.training.images.augment import Normalizer
from ndtool.training.memory import kept_memory
from ndtool.training.recipes import METHODS
from ndtool.training.schedule import Schedule
from ndtool.types import Part

HERE = Path(__file__).resolve().parent
REPEATS = 5  # measurements of a step's cost
POLL_S = 0.5
SAMPLE_S = 5.0  # between two looks at the GPU
STOP_S = 30.0  # for a worker to end after SIGTERM
SETTINGS = "settings.json"
RATIOS = "step-ratios.json"
PACK = "cifar100-pack"
PACK_TITLE = "CIFAR-100, recompressed (40.5 dB)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What is usual for a data set; every flag may be given again."""

    flags: tuple[str, ...]
    epochs: int
    data: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What the runs train on."""

    of_seed: Mapping[int, str]  # as ndtool train takes it
    flags: tuple[str, ...]  # augmentation of the source, for subsets of it in files of their own
    title: str


_SMALL_IMAGES = (
    *("--model=mbv2", "--width=0.35", "--stem-stride=1", "--strides=1,1,2,2,1,2"),
    *("--batch-size=128", "--lr=0.1", "--warmup=0.05", "--weight-decay=4e-5", "--clip-norm=1"),
    *("--label-smoothing=0.1", "--crop=4", "--flip"),
)
PRESETS: Mapping[str, Preset] = {
    "cifar100": Preset(flags=_SMALL_IMAGES, epochs=120, data=PACK),
    "cifar10": Preset(flags=_SMALL_IMAGES, epochs=120),
    # training-methods, 1.7
    "imagenet": Preset(
        flags=(
            *("--model=mbv2", "--width=0.35", "--resolution=160", "--augment=resized-crop"),
            *("--loaders=16", "--batch-size=2048", "--lr=0.4", "--warmup=0.0278"),
            *("--weight-decay=4e-5", "--label-smoothing=0.1", "--clip-norm=1", "--flip"),
        ),
        epochs=180,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing, within the time given, and write the table."""
    arguments = parse_arguments(argv)
    deadline = time.monotonic() + 60 * arguments.minutes if arguments.minutes else None
    out: Path = arguments.out.resolve()
    for name in (RUNS, RESULTS, LOGS, GPU):
        (out / name).mkdir(parents=True, exist_ok=True)
    # Read when torch is loaded in the workers: idle threads that spin slow their neighbours down.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    torch.set_num_threads(arguments.threads)

    first, images = find_images(arguments, out)
    common = [*arguments.flags, *images.flags]
    settle(out, common, images.title, first, arguments)
    write_teacher(out, first.options)
    rows = arguments.rows or TABLES[arguments.table]
    asked = remember_rows(out, arguments.table, rows, arguments.seeds)
    ratio = Ratios(out / RATIOS, first, common)
    jobs = plan(map(parse_row, rows), arguments.seeds, arguments.epochs, ratio.of)
    todo = [job for job in jobs if not result_path(out, job).is_file()]
    print(f"{len(jobs) - len(todo)} of {len(jobs)} runs are done", flush=True)

    commands = {job: flags_of(job, common, images.of_seed, out) for job in todo}
    on_gpu = find_device(first.options.device).type == "cuda"
    failed = run_all(todo, commands, out, parallel=arguments.jobs, deadline=deadline, gpu=on_gpu)

    every = [
        job
        for row, seeds in asked.items()
        for job in plan([parse_row(row)], seeds, arguments.epochs, ratio.of)
    ]
    unfinished = [job.name for job in every if not result_path(out, job).is_file()]
    write_table(out, asked, list(dict.fromkeys(unfinished)), first, images.title, arguments)
    left = [job for job in jobs if not result_path(out, job).is_file()]
    print(f"{len(jobs) - len(left)} of {len(jobs)} runs are done", flush=True)
    if not left:
        return 0
    return 1 if {job.name for job in left} <= failed else UNFINISHED


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, see `settle_training`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=int, choices=TABLES, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    add_training(parser)
    return settle_training(parser, parser.parse_args(argv))


def add_training(parser: argparse.ArgumentParser) -> None:
    """What is trained, and for how long."""
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--data", default="", help=f"as ndtool train takes it, or {PACK}")
    parser.add_argument("--train-images", type=int, default=0, help="so many, equal by class")
    parser.add_argument("--model", default="")
    parser.add_argument("--width", default="")
    parser.add_argument("--strides", default="")
    parser.add_argument("--stem-stride", default="")
    parser.add_argument("--epochs", type=int, help="of a row without a factor")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--rows", default="", help=f"of {', '.join(FORMS)}; ROW:lr=.2, ROW@2, ROW@ROW"
    )
    parser.add_argument(
        "--set", action="append", default=[], help="any option of ndtool train: lr=.3, no-flip"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--label", default="", help="in the names of the results")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop then; 0: at the end")


def settle_training(
    parser: argparse.ArgumentParser, found: argparse.Namespace
) -> argparse.Namespace:
    """The words as values: `seeds` and `rows` as lists, what all runs share in `flags`."""
    preset = PRESETS.get(found.preset, Preset(flags=(), epochs=0))
    found.data = found.data or preset.data
    found.epochs = found.epochs or preset.epochs
    if not found.data or not found.epochs:
        parser.error("--data and --epochs are needed")
    own = [
        f"--{name}={value}"
        for name in ("model", "width", "strides", "stem-stride")
        if (value := getattr(found, name.replace("-", "_")))
    ]
    threads = [f"--threads={found.threads}"]
    found.flags = [*preset.flags, *own, *as_flags(found.set), *threads]
    found.rows = [text for text in found.rows.split(",") if text]
    try:
        found.seeds = sorted({int(text) for text in found.seeds.split(",")})
        for text in found.rows:
            parse_row(text)
    except ValueError as problem:
        parser.error(str(problem))
    kind, _, place = found.data.removesuffix("-pack").partition(":")
    found.label = found.label or found.preset or slug(name_of(kind, place))
    return found


def find_data(text: str) -> tuple[str, str]:
    """The data as `ndtool train` takes it, and how tables name it: never by its place."""
    if text == PACK:
        return f"npz:{cifar100_npz()}", PACK_TITLE
    kind, _, place = text.partition(":")
    return text, name_of(kind, place)


def name_of(kind: str, place: str) -> str:
    """Of the data, without its place."""
    return Path(place).stem if kind in ("npz", "folder") else kind


def find_images(arguments: argparse.Namespace, out: Path) -> tuple[Prepared, Images]:
    """What is trained on, and a run on all of it, prepared; subsets are made where they are not."""
    spec, title = find_data(arguments.data)
    base = [f"--data={spec}", *arguments.flags, f"--epochs={arguments.epochs}"]
    first = prepare(parse_options(base), name="step", out=out)
    if not arguments.train_images:
        return first, Images(of_seed=dict.fromkeys(arguments.seeds, spec), flags=(), title=title)
    options, count = first.options, arguments.train_images
    return first, Images(
        of_seed={seed: f"npz:{subset_npz(first, count, seed)}" for seed in arguments.seeds},
        flags=(f"--crop={options.crop_px}", "--flip" if options.flip else "--no-flip"),
        title=f"{title}, {count} training images a seed",
    )


def settle(
    out: Path,
    flags: Sequence[str],
    title: str,
    first: Prepared,
    arguments: argparse.Namespace,
) -> None:
    """Keep what all runs of the folder share; ends the program where it was something else."""
    mine = {
        "flags": list(flags),
        "data": title,
        "data_sha256": source_sha256(first.source),
        "epochs": arguments.epochs,
        "train_version": TRAIN_VERSION,
    }
    path = out / SETTINGS
    if path.is_file():
        theirs = json.loads(path.read_text())
        if theirs != mine:
            raise SystemExit(f"{out} holds runs of other settings:\n{theirs}\n{mine}")
    write_json(path, mine)


def remember_rows(
    out: Path, table: int, rows: Sequence[str], seeds: Sequence[int]
) -> dict[str, list[int]]:
    """Every row that the table was ever asked for, these included, with its seeds."""
    path = out / f"rows-{table}.json"
    asked: dict[str, list[int]] = json.loads(path.read_text()) if path.is_file() else {}
    for row in rows:
        asked[row] = sorted({*asked.get(row, []), *seeds})
    write_json(path, asked)
    return asked


class Ratios:
    """How many plain steps a step of each variant takes the time of; measured once and kept."""

    def __init__(self, path: Path, first: Prepared, common: Sequence[str]) -> None:
        self._path = path
        self._first = first
        self._common = common
        self.known: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}

    def of(self, variant: str) -> float:
        """The ratio of a row's variant, which has no teacher from outside."""
        row = parse_row(variant)
        if row.form == BASELINE:
            return 1.0
        if variant not in self.known:
            flags = [*self._common, *FORMS[row.form], *as_flags(row.extra)]
            options = replace(parse_options(flags), epochs=self._first.options.epochs)
            measured = [plain_steps_of(options, self._first) for _ in range(REPEATS)]
            self.known[variant] = round(statistics.median(measured), 3)
            write_json(self._path, self.known)
            print(f"a step of {variant} takes {self.known[variant]:.2f} plain ones", flush=True)
        return self.known[variant]


def plain_steps_of(options: TrainOptions, like: Prepared) -> float:
    """How many plain steps a mean step of `options` takes the time of, on the network of `like`."""
    device = find_device(options.device)
    with kept_memory():  # as in training
        ratio = step_ratio(
            METHODS[options.recipe](options, like.spec.classes),
            spec=like.spec,
            options=options,
            schedule=Schedule(options.lr, 0, (RUN_STEPS,)),
            images=options.batch_size,
            normalize=Normalizer(like.contract, device),
            external=None,
            device=device,
        )
    return 1.0 if ratio is None else ratio


def run_all(
    todo: Sequence[Job],
    commands: Mapping[Job, list[str]],
    out: Path,
    *,
    parallel: int,
    deadline: float | None,
    gpu: bool,
) -> set[str]:
    """Run what can be run until all is done or the time is over; gives the names that failed."""
    context = multiprocessing.get_context("spawn")
    waiting, failed = list(todo), set[str]()
    running: dict[Job, SpawnProcess] = {}
    next_sample = 0.0
    with ended(running):
        while (waiting or running) and not (deadline and time.monotonic() > deadline):
            for job in [job for job in waiting if job.needs in failed]:
                waiting.remove(job)
                failed.add(job.name)
            for job in startable(waiting, out)[: parallel - len(running)]:
                waiting.remove(job)
                print(f"{job.name}: {job.epochs} epochs", flush=True)
                running[job] = context.Process(target=run_job, args=(job, commands[job], out))
                running[job].start()
            time.sleep(POLL_S)
            if gpu and time.monotonic() > next_sample:
                next_sample = time.monotonic() + SAMPLE_S
                note_gpu(out, running)
            for job, process in list(running.items()):
                if process.exitcode is None:
                    continue
                del running[job]
                if process.exitcode == 0:
                    print(f"{job.name}: {said(out, job)}", flush=True)
                elif process.exitcode == UNFINISHED:
                    print(f"{job.name}: another process is at it", flush=True)
                else:
                    failed.add(job.name)
                    print(f"{job.name} failed, see {out / LOGS / job.name}.log", flush=True)
    return failed


def startable(waiting: Sequence[Job], out: Path) -> list[Job]:
    """Those whose teacher is there."""
    return [
        job for job in waiting if not job.needs or (out / RESULTS / f"{job.needs}.json").is_file()
    ]


@contextlib.contextmanager
def ended(running: Mapping[Job, SpawnProcess]) -> Iterator[None]:
    """End the processes that still run, however the block is left."""
    try:
        yield
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join(STOP_S)
            if process.exitcode is None:
                process.kill()
                process.join()


def note_gpu(out: Path, running: Iterable[Job]) -> None:
    """Add the GPU's utilisation in percent to the file of every run that is on."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return
    command = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    values = [float(line) for line in done.stdout.split() if line.replace(".", "").isdigit()]
    if done.returncode or not values:
        return
    for job in running:
        with (out / GPU / f"{job.name}.txt").open("a") as file:
            file.write(f"{sum(values) / len(values):.1f}\n")


def result_path(out: Path, job: Job) -> Path:
    """Where a finished run's figures are."""
    return out / RESULTS / f"{job.name}.json"


def said(out: Path, job: Job) -> str:
    """One finished run for people."""
    found = json.loads(result_path(out, job).read_text())
    return f"test {found['test_last']:.2%} last, {found['test_best']:.2%} best, {found['time_s']} s"


def write_table(
    out: Path,
    asked: Mapping[str, Sequence[int]],
    unfinished: Sequence[str],
    first: Prepared,
    title: str,
    arguments: argparse.Namespace,
) -> None:
    """ablation-TABLE-LABEL.json and .md of every row that this table was ever `asked` for."""
    results = [json.loads(path.read_text()) for path in sorted((out / RESULTS).glob("*.json"))]
    rows = [*TABLES[arguments.table], *asked]
    taught = any(parse_row(row).form in TAUGHT_FROM_OUTSIDE for row in rows)
    found = by_row(results, [TEACHER, *rows] if taught else rows)
    document: dict[str, Any] = {
        "paper_table": arguments.table,
        "data": title,
        "set_up": set_up(first, arguments),
        "commands": command_lines(arguments, asked),
        "machine": machine(find_device(first.options.device))
        | {"jobs": arguments.jobs}
        | package_versions(("torch", "numpy")),
        "step_ratios": json.loads((out / RATIOS).read_text()) if (out / RATIOS).is_file() else {},
        "table": tabulate(found),
        "differences": compare(found),
        "unfinished": unfinished,
        "runs": [result for results in found.values() for result in results],
    }
    stem = arguments.results / f"ablation-{arguments.table}-{arguments.label}"
    arguments.results.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), document)
    write_atomic(stem.with_suffix(".md"), page(document).encode("utf-8"))
    print(stem.with_suffix(".md"), flush=True)


def set_up(first: Prepared, arguments: argparse.Namespace) -> str:
    """The common options in words."""
    counts = {part: sum(first.source.info.counts[part]) for part in Part}
    train = arguments.train_images or counts[Part.TRAIN]
    options = first.options
    return (
        f"{options.model} width {options.width:g} at {options.resolution} px,"
        f" {first.spec.classes} classes; {train} training, {counts[Part.VAL]} validation,"
        f" {counts[Part.TEST]} test images; batch {options.batch_size}, lr {options.lr:g},"
        f" crop {options.crop_px}, {'flip' if options.flip else 'no flip'};"
        f" flags {' '.join(arguments.flags)}"
    )


def command_lines(arguments: argparse.Namespace, asked: Mapping[str, Sequence[int]]) -> list[str]:
    """The calls that repeat the table, one for each choice of seeds; places are left out."""
    kind, colon, _ = arguments.data.partition(":")
    common = ["--table", str(arguments.table), "--data", f"{kind}:..." if colon else kind]
    common += ["--epochs", str(arguments.epochs)]
    if arguments.train_images:
        common += ["--train-images", str(arguments.train_images)]
    for flag in arguments.flags:
        common += ["--set", flag.removeprefix("--")]
    lines = []
    for seeds in sorted({tuple(seeds) for seeds in asked.values()}):
        rows = [row for row, own in asked.items() if tuple(own) == seeds]
        words = ["--seeds", ",".join(map(str, seeds))]
        if rows != list(TABLES[arguments.table]):
            words += ["--rows", ",".join(rows)]
        call = ["python", "benchmarks/ablation.py", *common, *words, "--out", "..."]
        lines.append(shlex.join(call))
    return lines


def write_json(path: Path, value: object) -> None:
    """Replace the file at once."""
    write_atomic(path, (json.dumps(value, indent=1) + "\n").encode("utf-8"))


def _stop(*_: object) -> None:
    """Unwind, so that no worker trains on alone."""
    sys.exit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(main())
    except NdError as problem:
        sys.exit(f"{problem}")
