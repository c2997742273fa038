"""Writes the pages of docs/ that are printed from the code: commands, errors, operators, the IR.

`python tools/make_docs.py` rewrites them; tests/repo/test_docs.py checks that they are current.
"""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

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
        parts.append(table_row((site.code, str(site.exit_code), site.what, site.remedy)))
    return "\n".join(parts) + "\n"


def table_row(cells: Iterable[str]) -> str:
    """One row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, an empty one before it."""
    return ["", table_row(heading), "|" + "---|" * len(heading), *map(table_row, rows)]


def operators_page() -> str:
    """docs/operators.md."""
    from ndtool.export.codegen import operators

    kernel = "[`{0}`](../firmware_templates/runtime/{0}.c)".format
    rows = [
        (
            f"**{row.name}**",
            row.supported,
            row.refused,
            row.in_place or "never",
            " ".join(map(kernel, row.kernels)) or "none",
        )
        for row in operators.OPERATORS
    ]
    parts = [
        "# Operators of the C engine",
        "",
        "Generated from the source by `make docs`; do not edit. `ndtool codegen --list-ops` prints",
        "the same.",
        "",
        *paragraphs(operators.__doc__)[1:],
        "",
        "Every rule that a model is held against, with its error code: [ir.md](ir.md).",
        *table(("operator", "supported", "refused", "output in place", "C"), rows),
    ]
    return "\n".join(parts) + "\n"


def paragraphs(doc: str | None) -> list[str]:
    """The paragraphs of a docstring, each on one line; an argument section is left out."""
    found = inspect.cleandoc(doc or "").split("\n\n")
    return [" ".join(text.split("\n")) for text in found if not text.startswith("Args:")]


# -- the int8 IR -----------------------------------------------------------------------------------


def ir_page() -> str:
    """docs/ir.md: the classes of the IR, and the rules that `verify` holds a graph against."""
    from ndtool.export.int8 import ir, spec
    from ndtool.export.int8.rules import tensors

    parts = [
        "# The int8 IR",
        "",
        "Generated from `export/int8` by `make docs`; do not edit.",
        "",
        *_separated(paragraphs(ir.__doc__)),
        "",
        "## What is legal",
        "",
        *_separated(paragraphs(spec.__doc__)[1:]),
        "",
        "A broken rule is an error `int8.RULE` with exit code 5, such as `int8.op.stride`; all of",
        "them are reported at once, each with its operation and tensor.",
        *_rules(tensors.RULES),
        "",
        "Of every operation:",
        *_rules(spec.OP_RULES),
        "",
        "## Graph and tensors",
    ]
    for data in (ir.Graph, ir.Tensor, ir.Pads):
        parts += [*_heading(data), *_attributes(data, set())]
    parts += ["", "## Operations"]
    first: dict[int, str] = {}
    for cls, row in spec.SPEC.items():
        operands = _operands(cls, row.operands(_numbered(cls)))
        parts += [*_heading(cls), *table(("tensor", "what it is"), operands.values())]
        parts += _attributes(cls, set(operands))
        known = first.setdefault(id(row), cls.__name__)
        parts += _rules(row.rules) if known == cls.__name__ else ["", f"Rules: those of {known}."]
    return "\n".join(parts) + "\n"


def _separated(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts):
        yield from ("", text) if number else (text,)


def _rules(rules: Mapping[str, str]) -> list[str]:
    return table(("rule", "demands"), ((f"`{rule}`", text) for rule, text in rules.items()))


def _heading(cls: type) -> list[str]:
    return ["", f"### {cls.__name__}", "", *_separated(paragraphs(cls.__doc__))]


def _operands(cls: type, roles: Iterable[tuple[object, str]]) -> dict[str, tuple[str, str]]:
    """Name -> cells of the fields that name tensors: `roles` by number, the others are written."""
    known, hints, found = dict(roles), get_type_hints(cls), {}
    for number, field in enumerate(fields(cls)):
        if number in known:
            found[field.name] = (f"`{field.name}`", str(known[number]))
        elif _names_tensors(hints[field.name]):
            found[field.name] = (f"`{field.name}`", "written: int8 activation, one scale")
    return found


def _attributes(cls: type, without: Set[str]) -> list[str]:
    """One line with the fields that are not in `without`, their types and closed sets."""
    hints = get_type_hints(cls)
    words = [
        f"`{field.name}: {field.type}`{_members(hints[field.name])}"
        for field in fields(cls)
        if field.name not in without
    ]
    return ["", f"Fields: {', '.join(words)}."] if words else []


def _numbered(cls: type) -> Any:
    """An operation whose field number n names tensor n."""
    values: dict[str, object] = {}
    for number, field in enumerate(fields(cls)):
        hint = get_type_hints(cls)[field.name]
        values[field.name] = (number,) if get_origin(hint) is tuple else number
    return cls(**values)


def _names_tensors(hint: object) -> bool:
    from ndtool.export.int8.ir import TensorId

    return hint is TensorId or TensorId in get_args(hint)


def _members(hint: object) -> str:
    """` (SAME or VALID)`: the members of closed sets in a field's type."""
    sets = [s for s in (hint, *get_args(hint)) if isinstance(s, type) and issubclass(s, Enum)]
    members = [str(member) for found in sets for member in found]
    return f" ({', '.join(members[:-1])} or {members[-1]})" if members else ""


PAGES = {
    "cli.md": cli_page,
    "errors.md": errors_page,
    "ir.md": ir_page,
    "operators.md": operators_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8", newline="\n")
