"""ndtool codegen."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndtool import console
from ndtool.cli.params import (
    EvalData,
    Force,
)
from ndtool.cli.summary import end_if_too_large, next_baseline, print_summary
from ndtool.cli.verbs import (
    build,
    inherit,
    origins,
    verb,
)
from ndtool.errors import ConfigError
from ndtool.options import CODEGEN, CodegenOptions

if TYPE_CHECKING:
    from ndtool.export.summary import Summary
    from ndtool.targets import Target

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
    data: EvalData = "",
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
        document, board = codegen_run(run, options, origins(ctx), ctx=ctx, force=force, data=data)
        _end(document, conclude(run, options.template, board, next_baseline()))
        return
    if out is None:
        raise ConfigError(
            "--tflite needs --out",
            where="command line",
            remedy="name the folder of the C project",
            code="usage",
        )
    if data:
        raise ConfigError(
            "--data goes with a run folder",
            where="command line",
            remedy="leave it out: golden vectors of a lone .tflite are made inputs",
            code="usage",
        )
    from ndtool.export.project_stage import codegen_file
    from ndtool.export.summary import named_target, summarize_project

    console.set_resume_hint("repeat the command: it starts from the beginning")
    board = named_target(options)
    figures = codegen_file(tflite, contract_path=contract, options=options, out=out)
    summary = summarize_project(out, options, figures, board)
    _end({"schema": "ndtool.codegen/1", "project": str(out), **figures}, summary)


def codegen_run(
    name: str,
    options: CodegenOptions,
    given: dict[str, str],
    *,
    ctx: typer.Context,
    force: bool,
    data: str = "",
) -> tuple[dict[str, object], "Target | None"]:
    """Write the C project of one run; shared by `codegen` and `run`.

    Gives the --json document, without the summary, and the board that the C must fit.
    """
    from dataclasses import asdict

    from ndtool.config import write_config
    from ndtool.export.project_stage import codegen_stage
    from ndtool.export.summary import wanted_target
    from ndtool.rundir import CODEGEN as FOLDER
    from ndtool.rundir import CONFIG, find_run

    run = find_run(name)
    board = wanted_target(run, options)
    with run.lock():
        options, given = inherit(ctx, CODEGEN, options, given, run / CONFIG)
        figures = codegen_stage(run, options, force=force, data=data)
        write_config(run, "codegen", asdict(options), given)
    project = run.path / FOLDER / options.template
    return {"schema": "ndtool.codegen/1", "project": str(project), **figures}, board


def conclude(name: str, template: str, board: "Target | None", baseline: str) -> "Summary":
    """The figures of a run; whether it fits the board is kept in the folder.

    `baseline`: the file that its next check is held against.
    """
    from ndtool.export.summary import record_fit, summarize
    from ndtool.rundir import find_run

    run = find_run(name)
    with run.lock():
        summary = summarize(run, template=template, target=board, baseline=baseline)
        record_fit(run, summary.fit)
    return summary


def _end(document: dict[str, object], summary: "Summary") -> None:
    """Print the result; exit 4 when it does not fit the target."""
    print_summary(summary)
    console.out_json(document | {"summary": summary.document()})
    end_if_too_large(summary)


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
