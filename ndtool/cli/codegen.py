"""ndtool codegen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ndtool import console
from ndtool.cli.params import Force, Template, build, origins, verb
from ndtool.errors import ConfigError
from ndtool.options import CODEGEN, CodegenOptions

MaybeRun = Annotated[
    str,
    typer.Argument(metavar="[RUN]", help="Run folder; left out with --tflite.", show_default=False),
]
Tflite = Annotated[Path | None, typer.Option(help="Instead of RUN: any full-int8 file.")]
ContractFile = Annotated[Path | None, typer.Option(help="With --tflite: its input contract.")]
OutDir = Annotated[Path | None, typer.Option("--out", "-o", help="With --tflite: the C project.")]
ListOps = Annotated[bool, typer.Option("--list-ops", help="Show the operators and their limits.")]


@verb(CODEGEN)
def codegen(
    ctx: typer.Context,
    run: MaybeRun = "",
    tflite: Tflite = None,
    contract: ContractFile = None,
    out: OutDir = None,
    list_ops: ListOps = False,
    force: Force = False,
    **values: Any,
) -> None:
    """Write the int8 model as a C project that needs no interpreter."""
    if list_ops:
        _list_operators()
        return
    options = build(CODEGEN, values)
    if (tflite is None) == (run == ""):
        raise ConfigError(
            "name a run folder, or a .tflite file with --tflite",
            where="command line",
            remedy="ndtool codegen RUN",
            code="usage",
        )
    if tflite is None:
        console.out_json(codegen_run(run, options, origins(ctx), force=force))
        return
    if out is None:
        raise ConfigError(
            "--tflite needs --out",
            where="command line",
            remedy="name the folder of the C project",
            code="usage",
        )
    from ndtool.export.project_stage import codegen_file

    console.set_resume_hint("repeat the command: it starts from the beginning")
    model = codegen_file(tflite, contract_path=contract, options=options, out=out)
    _show(out, model)
    if options.template != Template.ARRAY:
        console.out(f"next     ndtool verify {console.visible(str(out))}")
    console.out_json({"schema": "ndtool.codegen/1", "project": str(out), **model})


def codegen_run(
    name: str, options: CodegenOptions, given: dict[str, str], *, force: bool
) -> dict[str, object]:
    """Write the C project of one run; shared by `codegen` and `run`. Gives the --json document."""
    from dataclasses import asdict

    from ndtool.export.project_stage import codegen_stage
    from ndtool.prepare import write_config
    from ndtool.rundir import CODEGEN as FOLDER
    from ndtool.rundir import find_run

    run = find_run(name)
    with run.lock():
        figures = codegen_stage(run, options, force=force)
        write_config(run, "codegen", asdict(options), given)
    project = run.path / FOLDER / options.template
    _show(project, figures)
    following = "check" if options.template == Template.ARRAY else "verify"
    console.out(f"next     ndtool {following} {run.path}")
    return {"schema": "ndtool.codegen/1", "project": str(project), **figures}


def _show(project: Path, figures: Mapping[str, object]) -> None:
    words = {"arena_bytes": "arena", "weights_bytes": "weights", "tflite_bytes": "model"}
    words |= {"arena_bytes_tflm": "TFLM arena"}
    known = {word: figures[key] for key, word in words.items() if figures.get(key) is not None}
    sizes = "   ".join(f"{word} {value:,} B" for word, value in known.items())
    console.out(f"C code   {sizes}   ops {figures['ops']}")
    console.out(f"files    {console.visible(str(project))}")


def _list_operators() -> None:
    from dataclasses import asdict

    from ndtool.export.codegen.operators import OPERATORS

    for row in OPERATORS:
        console.out(row.name)
        for word in ("supported", "refused", "in_place"):
            if text := getattr(row, word):
                console.out(f"    {word.replace('_', ' '):<9}  {text}")
    operators = [asdict(row) for row in OPERATORS]
    console.out_json({"schema": "ndtool.codegen.ops/1", "operators": operators})
