"""ndtool data inspect."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ndtool import console
from ndtool.cli.verbs import (
    build,
    verb,
)
from ndtool.options import TRAIN

Spec = Annotated[str, typer.Argument(metavar="SPEC", help="As for train --data.")]
Sheet = Annotated[
    Path | None, typer.Option("--out", "-o", help="PNG: samples as the network sees them.")
]


@verb(TRAIN)
def inspect(spec: Spec, out: Sheet = None, **values: Any) -> None:
    """Decode everything and tell what train would do with it; exit 2 if train would refuse."""
    from ndtool.data.inspect import contact_sheet, inspect_source, report_lines
    from ndtool.files import write_atomic
    from ndtool.prepare import prepare

    # The run folder that `prepare` names is not made here.
    prepared = prepare(build(TRAIN, values | {"data": spec}), name="", out=Path())
    found = inspect_source(prepared.source, prepared.contract, prepared.options)
    for line in report_lines(found):
        console.out(line)
    if out is not None:
        write_atomic(out, contact_sheet(prepared.source, prepared.contract))
        console.out(f"sheet    {out}")
    console.out_json({"schema": "ndtool.data-inspect/1"} | asdict(found))
