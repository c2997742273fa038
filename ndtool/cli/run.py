"""ndtool run: the whole chain."""

from pathlib import Path
from typing import Any

import typer

from ndtool import console
from ndtool.cli.check import check_run, show_check
from ndtool.cli.codegen import codegen_run
from ndtool.cli.export import export_run
from ndtool.cli.params import Force, Name, Out, build, origins, verb
from ndtool.cli.train import train_run
from ndtool.options import CHECK, CODEGEN, EXPORT, TRAIN


@verb(TRAIN, EXPORT, CODEGEN, CHECK)
def run(
    ctx: typer.Context,
    name: Name = "",
    out: Out = Path("runs"),
    force: Force = False,
    **values: Any,
) -> None:
    """Train, export --int8, codegen and check, skipping what is up to date."""
    given = origins(ctx)
    folder, trained = train_run(
        build(TRAIN, values), given, name=name, out=out, force=force, resume=False
    )
    exported = export_run(folder, build(EXPORT, values | {"int8": True}), given, force=force)
    generated = codegen_run(folder, build(CODEGEN, values), given, force=force)
    verdict = check_run(folder, build(CHECK, values), data="")
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
