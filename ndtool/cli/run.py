"""ndtool run: the whole chain."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from ndtool import console
from ndtool.cli.check import check_run, show_check
from ndtool.cli.codegen import codegen_run
from ndtool.cli.export import export_run
from ndtool.cli.params import Force, Name, Out, Resume, build_part, verb
from ndtool.cli.train import train_run
from ndtool.options import CHECK, CODEGEN, EXPORT, TRAIN


@verb(TRAIN, EXPORT, CODEGEN, CHECK, borrowed={"name": "train", "out": "train"})
def run(
    ctx: typer.Context,
    name: Name = "",
    out: Out = Path("runs"),
    force: Force = False,
    resume: Resume = False,
    **values: Any,
) -> None:
    """Train, export --int8, codegen and check, skipping what is up to date."""
    if ctx.params.get("config") is not None:
        from ndtool.prepare import require_trainable_config

        require_trainable_config(ctx.params["config"])
    train_options, train_given = build_part(ctx, TRAIN, values)
    export_options, export_given = build_part(ctx, EXPORT, values)
    codegen_options, codegen_given = build_part(ctx, CODEGEN, values)
    check_options, check_given = build_part(ctx, CHECK, values)
    folder, trained = train_run(
        train_options, train_given, name=name, out=out, force=force, resume=resume
    )
    exported = export_run(folder, replace(export_options, int8=True), export_given, force=force)
    generated = codegen_run(folder, codegen_options, codegen_given, force=force)
    verdict = check_run(folder, check_options, data="", given=check_given)
    console.out_json(
        {
            "schema": "ndtool.run/1",
            "run": folder,
            "train": trained,
            "export": exported,
            "codegen": generated,
            "check": verdict.document(),
        }
    )
    show_check(verdict)
