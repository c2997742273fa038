"""Writes docs/cli.md from the commands' help and docs/errors.md from the source.

`python tools/make_docs.py` rewrites them; tests/repo/test_docs.py checks that they are current.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 100
COMMANDS = (
    (),
    ("run",),
    ("train",),
    ("export",),
    ("codegen",),
    ("verify",),
    ("check",),
    ("models",),
    ("data", "inspect"),
    ("doctor",),
)
SOURCES = ("ndtool", "training", "export")
# Functions that make an error, and its exit code
MAKERS = {"data_error": 2}


def help_text(command: tuple[str, ...]) -> str:
    """Help of one command as a terminal of `WIDTH` columns without colour shows it."""
    plain = {"NO_COLOR": "1", "COLUMNS": str(WIDTH), "TERM": "dumb"}
    keep = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS")}
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from ndtool.cli.main import main; sys.exit(main())",
            *command,
            "--help",
        ],
        capture_output=True,
        text=True,
        check=True,
        env=keep | plain,
        timeout=60,
    )
    return "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())


def cli_page() -> str:
    """docs/cli.md."""
    parts = ["# Commands", "", "Generated from the help by `make docs`; do not edit."]
    for command in COMMANDS:
        title = " ".join(("ndtool", *command))
        parts += ["", f"## {title}", "", "```", help_text(command), "```"]
    return "\n".join(parts) + "\n"


@dataclass(frozen=True, order=True)
class ErrorSite:
    """One place in the source that raises an error with a code."""

    code: str
    exit_code: int
    what: str
    remedy: str


def error_sites() -> list[ErrorSite]:
    """Every raise with a literal `code`, by code."""
    from ndtool import errors

    classes = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.NdError)
    }
    found = set()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    name = node.func.id
                    site = _site(node, MAKERS.get(name, classes.get(name)))
                    if site is not None:
                        found.add(site)
    return sorted(found)


def _site(call: ast.Call, exit_code: int | None) -> ErrorSite | None:
    named = {k.arg: k.value for k in call.keywords}
    code = named.get("code")
    if exit_code is None or not isinstance(code, ast.Constant):
        return None
    what = call.args[0] if call.args else named.get("what")
    return ErrorSite(str(code.value), exit_code, _text(what), _text(named.get("remedy")))


def _text(node: ast.expr | None) -> str:
    """Text of a string expression, what is put in at run time as `...`."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(v) if isinstance(v, ast.Constant) else "..." for v in node.values)
    return "..."


def errors_page() -> str:
    """docs/errors.md."""
    parts = [
        "# Errors",
        "",
        "Generated from the source by `make docs`; do not edit. An error is one line:",
        "`ndtool: error: WHAT (WHERE); REMEDY [CODE]`. `...` stands for what is put in.",
        "",
        "| code | exit | what | remedy |",
        "|---|---|---|---|",
    ]
    for site in error_sites():
        cells = (site.code, str(site.exit_code), site.what, site.remedy)
        parts.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
    return "\n".join(parts) + "\n"


PAGES = {"cli.md": cli_page, "errors.md": errors_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8", newline="\n")
