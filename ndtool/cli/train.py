"""ndtool train."""

import shlex
from pathlib import Path
from typing import Any

import typer

from ndtool import console
from ndtool.cli.params import (
    Force,
    Name,
    Out,
    Resume,
)
from ndtool.cli.processes import find_place, joined, train_in_processes
from ndtool.cli.verbs import (
    build,
    origins,
    verb,
)
from ndtool.machine import Place
from ndtool.options import TRAIN, WORD_OF, TrainOptions, is_read


@verb(TRAIN)
def train(
    ctx: typer.Context,
    name: Name = "",
    out: Out = Path("runs"),
    force: Force = False,
    resume: Resume = False,
    **values: Any,
) -> None:
    """Train the student alone (plain), inside wider networks (netdistiller, netaug) or with kd."""
    options = build(TRAIN, values)
    folder, document = train_run(
        options, origins(ctx), name=name, out=out, force=force, resume=resume
    )
    console.out(
        f"train    validation accuracy {document['accuracy_val']:.2%} at epoch"
        f" {document['best_epoch']} of {document['epochs']}"
    )
    if "step_ratio" in document:
        console.out(f"cost     {cost_text(document, options)}")
    console.out(f"files    {console.visible(folder)}")
    following = shlex.join(("ndtool", "export", folder, "--int8"))
    console.out(f"next     {console.visible_line(following)}")
    console.out_json(document)


def cost_text(document: dict[str, object], options: TrainOptions) -> str:
    """What plain training could have done instead, of the document of a run that was not plain."""
    outer = "; its teacher's own training comes on top" if options.teacher else ""
    return (
        f"a step costs {document['step_ratio']:.1f} plain steps: plain training of the same time"
        f" would have had {document['plain_epochs']} epochs{outer}"
    )


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
    place = find_place(options)
    if place is None:
        return _train_run(options, given, None, name=name, out=out, force=force, resume=resume)
    with joined(place, options.device):
        return _train_run(options, given, place, name=name, out=out, force=force, resume=resume)


def _train_run(
    options: TrainOptions,
    given: dict[str, str],
    place: Place | None,
    *,
    name: str,
    out: Path,
    force: bool,
    resume: bool,
) -> tuple[str, dict[str, object]]:
    """`train_run` in this process, which has joined the others where it has a place."""
    from ndtool.prepare import prepare

    prepared = prepare(options, name=name, out=out)
    _tell_unread(options, given)
    if options.target:
        from ndtool.export.fit import require_fits

        fit = require_fits(prepared.spec, prepared.contract, options)
        console.info(f"target   {console.visible(fit.text)}")
    from ndtool.training.stage import is_trained, summary_of, train_stage

    if place is None and options.nproc > 1 and not is_trained(prepared, force=force):
        train_in_processes(prepared, given, force=force, resume=resume)
        result = summary_of(prepared.run)
    else:
        result = train_stage(prepared, given, force=force, resume=resume, place=place)
    run = str(prepared.run.path)
    document: dict[str, object] = {
        "schema": "ndtool.train/1",
        "run": run,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "accuracy_val": result.best_accuracy,
    }
    if result.step_ratio is not None:
        document["step_ratio"] = result.step_ratio
        document["plain_epochs"] = round(result.step_ratio * result.epochs)
    return run, document


def _tell_unread(options: TrainOptions, given: dict[str, str]) -> None:
    """Name the flags that this training does not read."""
    unread = [
        f"--{WORD_OF.get(field, field).replace('_', '-')}"
        for field, origin in given.items()
        if origin == "flag" and not is_read(field, options)
    ]
    if unread:
        console.warn(
            "train.not-read",
            f"{', '.join(unread)}: not read by --recipe {options.recipe.value} with these options",
        )
