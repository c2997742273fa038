"""ndtool doctor."""

import dataclasses
from typing import Annotated

import typer

from ndtool import console
from ndtool.cli.verbs import verb


@verb()
def doctor(
    strict: Annotated[bool, typer.Option("--strict", help="Exit 7 if a thing is missing.")] = False,
) -> None:
    """Tell what is installed, what is missing and the line that installs it. Installs nothing."""
    from ndtool.environment import examine

    findings = examine()
    rows = [(f.state, f.name, f.version or "-", f.purpose, f.install) for f in findings]
    console.out(console.table(("state", "thing", "version", "needed for", "install"), rows))
    missing = [f.name for f in findings if f.state != "ok"]
    console.out_json(
        {
            "schema": "ndtool.doctor/1",
            "things": [dataclasses.asdict(f) for f in findings],
            "missing": missing,
        }
    )
    if strict and missing:
        raise typer.Exit(7)
