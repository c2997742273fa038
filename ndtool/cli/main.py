"""The entry point: arguments in, exit code out."""

import sys

from typer.exceptions import TyperException

from ndtool import console
from ndtool.cli.exits import guarded, interrupted, show
from ndtool.errors import ConfigError, NdError


def main(argv: list[str] | None = None) -> int:
    """Run one command; gives the exit code of design section 9."""
    args = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _invoke(args), args)


def _invoke(args: list[str]) -> int:
    import typer.main

    from ndtool.cli.app import app

    command = typer.main.get_command(app)
    try:
        code = command.main(args=args, prog_name="ndtool", standalone_mode=False)
    except TyperException as problem:
        ctx = getattr(problem, "ctx", None)  # of the command that could not read its words
        if ctx is not None and problem.message == ctx.get_help():
            console.error(problem.message)  # `ndtool` alone
        else:
            show(_usage_error(problem, "ndtool" if ctx is None else ctx.command_path))
        return 2
    except SystemExit as stop:  # completion
        return int(stop.code or 0)
    if code == 130:  # Typer turns Ctrl-C into this
        return interrupted(130)
    return int(code or 0)


def _usage_error(problem: TyperException, command: str) -> NdError:
    text = problem.format_message().strip().rstrip(".")
    return ConfigError(text, where="command line", remedy=f"see {command} --help", code="usage")
