"""ndtool train."""

from pathlib import Path
from typing import Any

import typer

from ndtool import console
from ndtool.cli.params import Force, Name, Out, Resume, build, origins, verb
from ndtool.options import TRAIN, TrainOptions


@verb(TRAIN)
def train(
    ctx: typer.Context,
    name: Name = "",
    out: Out = Path("runs"),
    force: Force = False,
    resume: Resume = False,
    **values: Any,
) -> None:
    """Train the student, alone (plain) or inside its wider teacher (netdistiller)."""
    options = build(TRAIN, values)
    _, document = train_run(options, origins(ctx), name=name, out=out, force=force, resume=resume)
    console.out_json(document)


def train_run(
    options: TrainOptions,
    given: dict[str, str],
    *,
    name: str,
    out: Path,
    force: bool,
    resume: bool,
) -> tuple[str, dict[str, object]]:
    """Train unless it is done; gives the run folder and the --json document."""
    from ndtool.prepare import prepare

    prepared = prepare(options, name=name, out=out)
    from ndtool.training.stage import train_stage

    result = train_stage(prepared, given, force=force, resume=resume)
    run = str(prepared.run.path)
    console.out(
        f"train    validation accuracy {result.best_accuracy:.2%} at epoch {result.best_epoch}"
        f" of {result.epochs}"
    )
    console.out(f"files    {run}")
    console.out(f"next     ndtool export {run} --int8")
    document = {
        "schema": "ndtool.train/1",
        "run": run,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "accuracy_val": result.best_accuracy,
    }
    return run, document
