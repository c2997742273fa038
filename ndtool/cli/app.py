"""The Typer application. Nothing heavy is imported here: `ndtool --help` must stay fast."""

from typing import Annotated

import typer

from ndtool import __version__
from ndtool.cli import (
    analyze,
    baseline,
    check,
    codegen,
    data,
    doctor,
    export,
    models,
    run,
    targets,
    train,
    verify,
)
from ndtool.cli.processes import require_no_place

app = typer.Typer(
    name="ndtool",
    help="From a folder of images to a network that runs, proven, on a microcontroller.",
    epilog="First try: ndtool run --data digits",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
data_app = typer.Typer(help="Look at a data set.", no_args_is_help=True, rich_markup_mode=None)
baseline_app = typer.Typer(
    help="Accepted results, which check holds others against.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ndtool {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")
    ] = False,
) -> None:
    """From a folder of images to a network that runs, proven, on a microcontroller."""
    if ctx.invoked_subcommand not in (None, "train"):
        require_no_place(f"ndtool {ctx.invoked_subcommand}")


app.command("run")(run.run)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("codegen")(codegen.codegen)
app.command("verify")(verify.verify)
app.command("check")(check.check)
app.command("analyze")(analyze.analyze)
app.command("models")(models.models)
app.command("targets")(targets.targets)
app.command("doctor")(doctor.doctor)
data_app.command("inspect")(data.inspect)
app.add_typer(data_app, name="data")
baseline_app.command("show")(baseline.show)
baseline_app.command("accept")(baseline.accept)
app.add_typer(baseline_app, name="baseline")
