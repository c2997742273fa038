"""ndtool export."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ndtool import console
from ndtool.cli.params import (
    EvalData,
    Force,
    Int8,
)
from ndtool.cli.summary import next_baseline, print_summary
from ndtool.cli.verbs import (
    build,
    inherit,
    origins,
    verb,
)
from ndtool.errors import ConfigError
from ndtool.options import EXPORT, ExportOptions

MaybeRun = Annotated[
    str,
    typer.Argument(metavar="[RUN]", help="Run folder; left out with --onnx.", show_default=False),
]
Onnx = Annotated[Path | None, typer.Option(help="Instead of RUN: somebody else's ONNX file.")]
CalibData = Annotated[str, typer.Option(help="With --onnx: data to calibrate and to evaluate on.")]
ContractFile = Annotated[Path | None, typer.Option(help="With --onnx: its input contract.")]
OutDir = Annotated[Path | None, typer.Option("--out", "-o", help="With --onnx: the run folder.")]


@verb(EXPORT)
def export(
    ctx: typer.Context,
    run: MaybeRun = "",
    int8: Int8 = EXPORT.int8,
    onnx: Onnx = None,
    calib_data: CalibData = "",
    contract: ContractFile = None,
    out: OutDir = None,
    data: EvalData = "",
    force: Force = False,
    **values: Any,
) -> None:
    """Write the student as ONNX and, with --int8, as int8 TFLite; measure every hop."""
    options = build(EXPORT, values | {"int8": int8})
    if (onnx is None) == (run == ""):
        raise ConfigError(
            "name a run folder, or an ONNX file with --onnx",
            where="command line",
            remedy="ndtool export RUN --int8",
            code="usage",
        )
    if onnx is not None:
        if data:
            raise ConfigError(
                "--data goes with a run folder",
                where="command line",
                remedy="with --onnx, name the data by --calib-data",
                code="usage",
            )
        if contract is None or out is None or not calib_data:
            raise ConfigError(
                "--onnx needs --contract, --calib-data and --out",
                where="command line",
                remedy="see docs/contract.md for a contract file",
                code="usage",
            )
        from ndtool.export.foreign import import_onnx

        run = str(
            import_onnx(
                onnx, contract_path=contract, calib_data=calib_data, out=out, force=force
            ).path
        )
    from ndtool.export.summary import recorded_target, summarize
    from ndtool.rundir import find_run

    document = export_run(run, options, origins(ctx), ctx=ctx, force=force, data=data)
    exported = find_run(run)
    summary = summarize(exported, target=recorded_target(exported), baseline=next_baseline())
    print_summary(summary)
    console.out_json(document | {"summary": summary.document()})


def export_run(
    name: str,
    options: ExportOptions,
    given: dict[str, str],
    *,
    ctx: typer.Context,
    force: bool,
    data: str = "",
) -> dict[str, object]:
    """Export one run folder; shared by `export` and `run`. Gives the --json document."""
    from dataclasses import asdict

    from ndtool.config import write_config
    from ndtool.export import chain
    from ndtool.rundir import CONFIG, find_run

    run = find_run(name)
    with run.lock():
        options, given = inherit(ctx, EXPORT, options, given, run / CONFIG)
        result = chain.export_run(run, options, force=force, data=data)
        write_config(run, "export", asdict(options), given)
    warnings = [f for f in result.findings if f.severity.value == "warning"]
    for finding in warnings:
        console.warn(f"lint.{finding.rule}", finding.text)
    return {
        "schema": "ndtool.export/1",
        "run": str(run.path),
        "hops": {row.hop.value: row.accuracy.fraction for row in result.rows},
        "warnings": [{"rule": f.rule, "text": f.text} for f in warnings],
    }
