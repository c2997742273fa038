"""One run of an ablation in a process of its own: the product's train stage, then the test part."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer.main
from ablation_rows import FORMS, TEACHER, WIDE, Job

from ndtool import console
from ndtool.arch import ArchSpec, count_macs, count_parameters, expand
from ndtool.cli.app import app
from ndtool.cli.verbs import build
from ndtool.data.readers import end_with_parent
from ndtool.errors import NdError
from ndtool.files import write_atomic
from ndtool.options import TRAIN, TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.rundir import (
    BEST,
    CHECKPOINT,
    RunDir,
)
from ndtool.training import checkpoint
from ndtool.training.devices import find_device
from ndtool.training.images.augment import Normalizer
from ndtool.training.images.batches import Arrays, to_device
from ndtool.training.loop import HistoryRow, accuracy
from ndtool.training.recipes import METHODS
from ndtool.training.schedule import steps_per_epoch
from ndtool.training.stage import train_stage
from ndtool.types import Part, Recipe

TEACHER_MODULE = "wide_teacher"
RUNS = "runs"
RESULTS = "results"
LOGS = "logs"
GPU = "gpu"
UNFINISHED = 75  # exit status: call again
RUN_STEPS = 10_000  # of a run whose share of steps with a teacher is wanted


def parse_options(flags: Sequence[str]) -> TrainOptions:
    """The options as `ndtool train FLAGS` has them; ends the program with its message if wrong."""
    group = typer.main.get_command(app)
    command = group.commands["train"]  # type: ignore[attr-defined] # a group of commands
    try:
        with command.make_context("train", list(flags)) as context:
            return build(TRAIN, context.params)
    except typer.exceptions.TyperException as problem:
        raise SystemExit(f"ndtool train {' '.join(flags)}: {problem.format_message()}") from None


def flags_of(job: Job, common: Sequence[str], data: Mapping[int, str], out: Path) -> list[str]:
    """The command line of one run, without its name and place.

    Args:
        data: specs by seed.
    """
    shared = list(common)
    if job.row.form == TEACHER:  # a model of its own has strides of its own
        other = ("--model=", "--strides=", "--stem-stride=")
        shared = [flag for flag in shared if not flag.startswith(other)]
        shared.append(f"--model={TEACHER_MODULE}:wide")
    flags = [*shared, *FORMS[job.row.form], *as_flags(job.row.extra)]
    flags += [f"--epochs={job.epochs}", f"--seed={job.seed}"]
    if job.needs:
        flags.append(f"--teacher=checkpoint:{out / RUNS / job.needs / BEST}")
    return [f"--data={data[job.seed]}", *flags]


def write_teacher(out: Path, options: TrainOptions) -> None:
    """A module with kd's teacher, as a user's own model: WIDE times the student's channels."""
    text = f'''"""The student with {WIDE} times its channels: the teacher of kd, trained alone."""

from ndtool.arch import ArchSpec, expand
from ndtool.models import make_spec


def wide(*, width: float, size_px: int, in_channels: int, classes: int) -> ArchSpec:
    student = make_spec(
        {options.model!r},
        width=width,
        size_px=size_px,
        in_channels=in_channels,
        classes=classes,
        stem_stride={options.stem_stride!r},
        strides={options.strides!r},
    )
    return expand(student, {WIDE})
'''
    write_atomic(out / f"{TEACHER_MODULE}.py", text.encode("utf-8"))


def run_job(job: Job, flags: Sequence[str], out: Path) -> None:
    """Train until it is done, then write the result; the entry point of a worker process.

    Everything it says goes into a log. SIGTERM ends it as Ctrl-C does, and it ends when its parent
    is gone: the checkpoint of the last whole epoch is there, and the next call goes on from it.
    """
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log = os.open(out / LOGS / f"{job.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, str(out))  # the teacher's module
    try:
        options = parse_options(flags)
        prepared = prepare(options, name=job.name, out=out / RUNS)
        given = dict.fromkeys(changed(options), "flag")
        train_stage(prepared, given, force=False, resume=False)
        result = measure_run(job, prepared)
    except NdError as problem:
        console.error(console.error_line(problem))
        sys.exit(UNFINISHED if problem.code == "run.locked" else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    text = json.dumps(result, indent=1) + "\n"
    write_atomic(out / RESULTS / f"{job.name}.json", text.encode("utf-8"))


def changed(options: TrainOptions) -> list[str]:
    """Fields that are not at their defaults."""
    return [
        name
        for name in TrainOptions.__dataclass_fields__
        if getattr(options, name) != getattr(TRAIN, name)
    ]


def measure_run(job: Job, prepared: Prepared) -> dict[str, Any]:
    """Accuracies of a finished run and what it cost; reads the test part."""
    run, options = prepared.run, prepared.options
    device = find_device(options.device)
    last, best = (checkpoint.load(run / name) for name in (CHECKPOINT, BEST))
    normalize = Normalizer(prepared.contract, device)

    def of(part: Part) -> Arrays:
        return to_device(prepared.source.load(part, prepared.contract), device)

    def score(found: checkpoint.Checkpoint, data: Arrays) -> float:
        return accuracy(found.student_of(device).student, data, normalize)

    test = of(Part.TEST)
    history = last.history
    steps = steps_per_epoch(sum(prepared.source.info.counts[Part.TRAIN]), options.batch_size)
    step_s, cpu_s = (_total(history, key) for key in ("step_seconds", "cpu_seconds"))
    return {
        "row": job.row.name,
        "seed": job.seed,
        "epochs": job.epochs,
        "test_last": score(last, test),
        "test_best": score(best, test),
        "test_count": len(test),
        # What is decoded while training does not fit into memory.
        "train_last": None if options.loaders else score(last, of(Part.TRAIN)),
        "val_last": history[-1]["val_accuracy"],
        "val_best": last.best_accuracy,
        "best_epoch": last.best_epoch,
        "val_teacher": history[-1]["val_accuracy_teacher"],
        "cpu_s": cpu_s,
        "step_s": step_s,
        "time_s": cpu_s if device.type == "cpu" else step_s,
        "step_ratio": run.manifest().stages["train"].figures.get("train_step_ratio"),
        "images_per_s": round(steps * options.batch_size * job.epochs / step_s, 1),
        "gpu_percent": _mean_of_file(run, job),
        "parameters": count_parameters(prepared.spec),
        "macs": count_macs(prepared.spec),
        "arithmetic": None if job.row.form == TEACHER else arithmetic(options, prepared.spec),
        "conflict_rate": _ends(history, "conflict_rate"),
        "kl_share": _ends(history, "kl_share"),
    }


def _total(history: Sequence[HistoryRow], key: str) -> float:
    return round(sum(row[key] or 0.0 for row in history), 3)


def _ends(history: Sequence[HistoryRow], key: str) -> list[float] | None:
    """First and last value that there is."""
    values = [value for row in history if (value := row[key]) is not None]
    return [values[0], values[-1]] if values else None


def _mean_of_file(run: RunDir, job: Job) -> float | None:
    """Utilisation of the GPU while the run was on, as `ablation.py` noted it."""
    path = run.path.parents[1] / GPU / f"{job.name}.txt"
    if not path.is_file():
        return None
    values = [float(line) for line in path.read_text().split()]
    return sum(values) / len(values) if values else None


def arithmetic(options: TrainOptions, spec: ArchSpec) -> float | None:
    """Multiply-accumulates of the mean step over those of a plain one.

    A pass forward and backward counts three, the outer teacher's forward pass one
    (training-methods, 6). None for netaug, whose networks are drawn.
    """
    if options.recipe is Recipe.NETAUG:
        return None
    own = count_macs(spec)
    method = METHODS[options.recipe](options, spec.classes)
    taught = method.teaching.steps(RUN_STEPS, RUN_STEPS) / RUN_STEPS
    wide = sum(count_macs(expand(spec, rate)) for rate in method.rates)
    outside = count_macs(expand(spec, WIDE)) / 3 if options.teacher else 0.0
    return round(1 + taught * (wide + outside) / own, 3)


def as_flags(settings: Sequence[str]) -> list[str]:
    """`--set` words as flags: `precision=bf16`, `no-flip`."""
    flags = []
    for text in settings:
        key, equals, value = text.partition("=")
        flags.append(f"--{key.replace('_', '-')}{equals}{value}")
    return flags
