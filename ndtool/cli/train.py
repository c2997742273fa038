"""ndtool train."""

import shlex
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
    folder, document = train_run(
        options, origins(ctx), name=name, out=out, force=force, resume=resume
    )
    console.out(
        f"train    validation accuracy {document['accuracy_val']:.2%} at epoch"
        f" {document['best_epoch']} of {document['epochs']}"
    )
    console.out(f"files    {console.visible(folder)}")
    following = shlex.join(("ndtool", "export", folder, "--int8"))
    console.out(f"next     {console.visible_line(following)}")
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
    if options.target:
        from ndtool.export.fit import require_fits

        fit = require_fits(prepared.spec, prepared.contract, options)
        console.info(f"target   {console.visible(fit.text)}")
    from ndtool.training.stage import train_stage

    result = train_stage(prepared, given, force=force, resume=resume)
    run = str(prepared.run.path)
    document = {
        "schema": "ndtool.train/1",
        "run": run,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "accuracy_val": result.best_accuracy,
    }
    return run, document
