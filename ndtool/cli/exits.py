"""How a command ends: errors, signals and lost outputs become text and an exit code, only here."""

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from types import FrameType

from typer.exceptions import Abort

from ndtool import __version__, console
from ndtool.errors import InputError, NdError, ToolMissingError, listed

ISSUES = "the project's issue tracker"


class _Terminated(BaseException):
    """SIGTERM: unwinds like Ctrl-C, so that locks and temporary files go."""


def _on_sigterm(_signal: int, _frame: FrameType | None) -> None:
    raise _Terminated


def guarded(work: Callable[[], int], args: list[str]) -> int:
    """The exit code that `work` gives or fails with; its errors are shown.

    Args:
        args: the words of the command that it is part of.
    """
    show_traceback = "--traceback" in args or os.environ.get("NDTOOL_DEBUG") == "1"
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _on_sigterm)
    # Read once, when torch is loaded: spinning threads cost 5 to 30 times on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # --json holds for errors too, also for those met before the options are parsed.
    console.configure(quiet=False, verbose=False, as_json="--json" in args)
    try:
        return _run(work, args, show_traceback=show_traceback)
    except console.OutputLost as lost:
        return _output_lost(lost.cause)


def _run(work: Callable[[], int], args: list[str], *, show_traceback: bool) -> int:
    try:
        return work()
    except NdError as problem:
        if show_traceback:
            console.error(traceback.format_exc())
        show(problem)
        return problem.exit_code
    except (KeyboardInterrupt, Abort):
        return interrupted(130)
    except _Terminated:
        return interrupted(143)
    except OSError as problem:
        if show_traceback:
            console.error(traceback.format_exc())
        shown = console.file_error(problem)
        show(shown)
        return shown.exit_code
    except Exception:  # noqa: BLE001 - the one place where a bug becomes exit 1
        return _crash(args, show_traceback=show_traceback)


def show(problem: NdError) -> None:
    """Tell the error, with --json as a document, too."""
    lines = listed(problem)
    for line in lines:
        console.error(console.error_line(line))
    hidden = 1 + len(problem.more) - len(lines)
    if hidden > 0:
        console.error(f"ndtool: error: and {hidden} more of this kind")
    install = {"install": problem.install} if isinstance(problem, ToolMissingError) else {}
    console.out_json(
        {
            "schema": "ndtool.error/1",
            "code": problem.code,
            "message": console.visible_line(problem.what),
            "where": console.visible_line(problem.where),
            "remedy": console.visible_line(problem.remedy),
            "exit": problem.exit_code,
            "more": [console.visible_line(str(p)) for p in problem.more],
        }
        | install
    )


def interrupted(code: int) -> int:
    """Tell how to go on after Ctrl-C or SIGTERM; gives `code`."""
    hint = console.STATE.resume_hint or "what was done is kept: repeat the command to go on"
    console.error(f"ndtool: interrupted; {console.visible_line(hint)}")
    return code


def _output_lost(cause: OSError) -> int:
    """A result that nobody gets, as on a full disk, is an error."""
    with contextlib.suppress(OSError, ValueError):  # what Python flushes at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    error = InputError(
        f"cannot write the result: {cause.strerror}",
        where="stdout",
        remedy="free some space, or write to another place",
        code="os.output",
    )
    console.error(console.error_line(error))
    return error.exit_code


def _crash(args: list[str], *, show_traceback: bool) -> int:
    text = traceback.format_exc()
    if show_traceback:
        console.error(text)
    handle, name = tempfile.mkstemp(prefix="ndtool-crash-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"ndtool {__version__}\n{' '.join(args)}\n\n{text}")
    last = text.strip().splitlines()[-1]
    show(
        NdError(
            f"internal error: {console.visible(last)}",
            where=name,
            remedy=f"a bug of ours: please report that file to {ISSUES}",
            code="internal",
        )
    )
    return 1
