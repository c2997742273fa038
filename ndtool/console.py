"""All output. Results on stdout; progress, warnings and errors on stderr (users.md, 2.5)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from ndtool.errors import ConfigError, InputError, NdError

MAX_VISIBLE: Final = 200
MAX_SENTENCE: Final = 2000  # of our own sentences, where a page or a service would choke on more
LINE_EVERY_S: Final = 10.0  # progress lines in a log
# C0, DEL, C1, line and paragraph separators, bidi controls, BOM, what XML has no form for, lone
# surrogates
_HIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff"
    "\ud800-\udfff]"
)


def visible(text: str, limit: int = MAX_VISIBLE) -> str:
    """Foreign text safe for a terminal and a log: controls escaped, at most `limit` characters."""
    shown = visible_line(text)
    if len(shown) > limit:
        half = (limit - 3) // 2
        shown = f"{shown[:half]}...{shown[-half:]}"
    return shown


def visible_line(text: str) -> str:
    """`visible` without the length limit: our own sentences around foreign names."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _HIDDEN.sub(escape, text)


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def csv_cell(text: str) -> str:
    """RFC 4180, and no formula for a spreadsheet (users.md, 5.6)."""
    if text[:1] in ("=", "+", "-", "@", "\t", "\r"):
        text = "'" + text
    if any(c in text for c in ',"\n\r'):
        text = '"' + text.replace('"', '""') + '"'
    return text


def error_line(error: NdError) -> str:
    """`ndtool: error: WHAT (WHERE); REMEDY [CODE]` on one line."""
    return f"ndtool: error: {visible_line(str(error))}"


def file_error(problem: OSError) -> InputError:
    """What a file or folder would not let us do, as the error that a user meets."""
    return InputError(
        problem.strerror or type(problem).__name__,
        where=visible(os.fsdecode(problem.filename or "file system")),
        remedy="check the path, its permissions and the free space",
        code="os.error",
    )


@dataclass
class _State:
    """What the options after the verb decided."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    muted: bool = False  # another process of the same training speaks
    log_file: Path | None = None  # what goes to stderr is also appended here
    resume_hint: str = ""  # what to do after an interrupt
    warnings: list[tuple[str, str]] = field(default_factory=list)


STATE: Final = _State()


def configure(*, quiet: bool, verbose: bool, as_json: bool, log_file: Path | None = None) -> None:
    """Set the output mode of this process; called by the command line.

    Raises:
        ConfigError: the log file cannot be written.
    """
    STATE.quiet, STATE.verbose, STATE.as_json = quiet, verbose, as_json
    STATE.log_file, STATE.resume_hint, STATE.muted = None, "", False
    STATE.warnings.clear()
    if log_file is not None:
        try:
            if log_file.exists() and not log_file.is_file():
                raise OSError(errno.EINVAL, "not a regular file")
            _append(log_file, "")
        except OSError as problem:
            raise ConfigError(
                f"cannot write the log: {problem.strerror}",
                where=f"--log-file {log_file}",
                remedy="name a file in a folder that exists",
                code="option.log-file",
            ) from None
        STATE.log_file = log_file


def set_resume_hint(text: str) -> None:
    """What a user should know and type if this command is interrupted from now on."""
    STATE.resume_hint = text


def mute(*, on: bool = True) -> None:
    """Say nothing from now on, or speak again: of several processes one speaks."""
    STATE.muted = on


@contextmanager
def muted() -> Iterator[None]:
    """Say nothing inside: it has been said, or will be."""
    before = STATE.muted
    STATE.muted = True
    try:
        yield
    finally:
        STATE.muted = before


def _append(path: Path, text: str) -> None:
    # Opened for every line: a killed process leaves every line it showed.
    with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.write(text)


def _to_stderr(text: str) -> None:
    """A line on stderr and in the log file; a log that breaks is told once, and given up."""
    if STATE.muted:
        return
    safe = _harmless(text)
    _write(sys.stderr, safe)
    if STATE.log_file is None:
        return
    path, problem = STATE.log_file, ""
    try:
        _append(path, f"{safe}\n")
    except OSError as broken:
        STATE.log_file, problem = None, str(broken.strerror)
    if problem:
        warn("log-file.broken", f"{path}: {problem}; nothing more is written to it")


def _harmless(text: str) -> str:
    """Lines without control characters, of which no CI runner takes one for a command.

    The last lock: whatever was put into them, and a traceback too (users.md, 5.6).
    """
    lines = [visible_line(line) for line in text.split("\n")]
    if os.environ.get("GITHUB_ACTIONS") == "true":
        lines = [line.replace("##[", "##\\[") for line in lines]
        lines = [f".{line}" if line.lstrip().startswith("::") else line for line in lines]
    return "\n".join(lines)


class OutputLost(BaseException):
    """stdout cannot be written, as on a full disk; past `except Exception`, up to `main`."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


def _write(stream: TextIO | None, text: str) -> None:
    """Lines on a stream; nothing when the process was started with it closed."""
    if stream is None or STATE.muted:
        return
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except BrokenPipeError:
        # `ndtool check RUN | head -1`: the reader has what it wanted, and the exit code is still
        # the verdict. What is left goes nowhere, also what Python flushes at its end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as broken:
        if stream is sys.stdout:
            raise OutputLost(broken) from broken
        # stderr is gone: there is nobody to tell


def out(text: str) -> None:
    """A line of the result; nothing in --json mode."""
    if not STATE.as_json:
        _write(sys.stdout, _harmless(text))


def out_command(line: str) -> None:
    """A command of `gates.github` to the CI runner, as it is.

    In --json mode, where stdout is one document, on stderr: the runner reads both.
    """
    assert "\n" not in line, line
    _write(sys.stderr if STATE.as_json else sys.stdout, line)


def out_json(document: object) -> None:
    """The one JSON document of --json mode."""
    if STATE.as_json:
        text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)
        # A CI runner finds its old form of a command anywhere in a line; JSON has another spelling.
        _write(sys.stdout, text.replace("##[", "##\\u005b"))


def info(text: str) -> None:
    """What is being done; silent with --quiet."""
    if not STATE.quiet:
        _to_stderr(text)


def detail(text: str) -> None:
    """Decisions and timings; only with --verbose."""
    if STATE.verbose:
        _to_stderr(text)


def warn(code: str, text: str) -> None:
    """A warning the user should act on; shown even with --quiet."""
    STATE.warnings.append((code, text))
    _to_stderr(f"ndtool: warning: {visible_line(text)} [{code}]")


def error(text: str) -> None:
    """An error line."""
    _to_stderr(text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Plain text columns; numbers (cells that start with a digit or sign) to the right."""
    body = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(head), *body]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            c.rjust(w) if c[:1].isdigit() or c[:1] in "+-." else c.ljust(w)
            for c, w in zip(cells, widths, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(head), *(line(row) for row in body)])


def _bar_wanted() -> bool:
    plain = os.environ.get("CI") or os.environ.get("TERM") == "dumb" or STATE.quiet
    return sys.stderr is not None and sys.stderr.isatty() and not (plain or STATE.muted)


@contextmanager
def progress(title: str, total: int) -> Iterator[Progress]:
    """A progress bar on a terminal, else at most one line in 10 s."""
    if not _bar_wanted():
        yield Progress(title, total, None, -1)
        return
    from rich import console as rich_console
    from rich import progress as rich_progress

    color = False if os.environ.get("NO_COLOR") else None
    columns = (
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    screen = rich_console.Console(stderr=True, no_color=color is False)
    with rich_progress.Progress(*columns, console=screen, transient=True) as bar:
        yield Progress(title, total, bar, bar.add_task(title, total=total))


class Progress:
    """Steps done of `total`; `update` is cheap enough to call at every step."""

    def __init__(self, title: str, total: int, bar: object, task: int) -> None:
        self._title, self._total, self._bar, self._task = title, total, bar, task
        self._last = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """`done` steps are finished; `note` is a short state such as the epoch."""
        if self._bar is not None:
            from rich.progress import Progress as Bar
            from rich.progress import TaskID

            assert isinstance(self._bar, Bar)
            self._bar.update(
                TaskID(self._task), completed=done, description=f"{self._title} {note}"
            )
        elif time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            info(f"{self._title} {note} {done}/{self._total}")
