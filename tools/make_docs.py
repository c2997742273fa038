"""Writes the pages of docs/ that are printed from the code: commands, errors, operators, the IR.

`python tools/make_docs.py` rewrites them; tests/repo/test_docs.py checks that they are current.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
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
    ("baseline", "show"),
    ("baseline", "accept"),
    ("analyze",),
    ("models",),
    ("targets",),
    ("data", "inspect"),
    ("doctor",),
)
SOURCES = ("ndtool", "training", "export")


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
    """One place in the source that makes an error with a code."""

    code: str
    exit_code: int
    what: str
    remedy: str


@dataclass(frozen=True, order=True)
class WarningSite:
    """One place in the source that warns with a code."""

    code: str
    text: str


@dataclass(frozen=True)
class Maker:
    """A class of errors, or a function with a parameter `code` that makes one.

    `parameters` are those of a call by position. The code is `before` and the argument, or
    `default`; what follows `what` on the line is `end`.
    """

    exit_code: int
    parameters: tuple[str, ...]
    before: str = ""
    default: str | None = None
    end: str = ""

    def arguments(self, call: ast.Call) -> dict[str, ast.expr]:
        """Parameter -> expression."""
        named = {k.arg: k.value for k in call.keywords if k.arg is not None}
        return dict(zip(self.parameters, call.args, strict=False)) | named


Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def source_trees() -> tuple[ast.Module, ...]:
    """The product's modules."""
    paths = [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in paths)


def error_sites() -> list[ErrorSite]:
    """Every error with a literal `code`, by code; made by its class or by a function of ours."""
    trees = source_trees()
    shared = _error_classes()
    for tree in trees:
        shared |= {k: v for k, v in _makers(tree, shared).items() if not k.startswith("_")}
    found = set()
    for tree in trees:
        makers = shared | _makers(tree, shared)
        for scope in (tree, *(n for n in ast.walk(tree) if isinstance(n, Function))):
            choices = _choices(scope)
            for call in _own_calls(scope):
                if (maker := makers.get(_called(call))) is not None:
                    found |= _sites(maker, call, choices)
    return sorted(found)


def warning_sites() -> list[WarningSite]:
    """Every call of `console.warn`, by code."""
    calls = (n for tree in source_trees() for n in ast.walk(tree) if isinstance(n, ast.Call))
    return sorted({WarningSite(*map(_text, c.args)) for c in calls if _called(c) == "warn"})


def _error_classes() -> dict[str, Maker]:
    from ndtool import errors

    def maker(cls: type[errors.NdError]) -> Maker:
        if issubclass(cls, errors.ToolMissingError):
            default = inspect.signature(cls).parameters["code"].default
            return Maker(cls.exit_code, ("what",), default=default, end=" not found")
        return Maker(cls.exit_code, ("what",))

    classes = (value for value in vars(errors).values() if isinstance(value, type))
    return {cls.__name__: maker(cls) for cls in classes if issubclass(cls, errors.NdError)}


def _makers(tree: ast.Module, known: Mapping[str, Maker]) -> dict[str, Maker]:
    """Functions of a module that pass their parameter `code` on to a maker."""
    found: dict[str, Maker] = {}
    for function in ast.walk(tree):
        if not isinstance(function, Function):
            continue
        names = tuple(arg.arg for arg in function.args.args if arg.arg != "self")
        if "code" not in (*names, *(arg.arg for arg in function.args.kwonlyargs)):
            continue
        for call in _own_calls(function):
            inner = (dict(known) | found).get(_called(call))
            code = None if inner is None else inner.arguments(call).get("code")
            if inner is not None and code is not None and _reads_code(code):
                before = inner.before + _text(code).removesuffix("...")
                found[function.name] = Maker(inner.exit_code, names, before)
    return found


def _reads_code(node: ast.expr) -> bool:
    return any(isinstance(n, ast.Name) and n.id == "code" for n in ast.walk(node))


def _own_calls(scope: ast.AST) -> Iterator[ast.Call]:
    """Calls in a module or function, without those of functions inside it."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.Call):
            yield node
        if not isinstance(node, Function):
            yield from _own_calls(node)


def _called(call: ast.Call) -> str:
    """`f` of `f()`, `module.f()` and `self.f()`."""
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _choices(scope: ast.AST) -> list[dict[str, ast.expr]]:
    """Variable -> value, for each block of statements of a function that sets `code`."""
    found = []
    for node in ast.walk(scope):
        for block in (getattr(node, name, None) for name in ("body", "orelse")):
            values: dict[str, ast.expr] = {}
            for statement in block if isinstance(block, list) else []:
                if isinstance(statement, ast.Assign):
                    values |= _assigned(statement.targets[0], statement.value)
            if "code" in values:
                found.append(values)
    return found


def _assigned(target: ast.expr, value: ast.expr) -> dict[str, ast.expr]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(target.elts, value.elts, strict=True)
        return {k: v for one, other in pairs for k, v in _assigned(one, other).items()}
    return {target.id: value} if isinstance(target, ast.Name) else {}


def _sites(
    maker: Maker, call: ast.Call, choices: Iterable[Mapping[str, ast.expr]]
) -> set[ErrorSite]:
    """Errors of one call; several where its code is a variable, one for each value."""
    given = maker.arguments(call)
    code = given.get("code")
    if isinstance(code, ast.Name):
        ways = [
            {k: _value(v, values) for k, v in given.items()}
            for values in choices
            if code.id in values
        ]
    else:
        ways = [given]
    found = set()
    for way in ways:
        what = _text(way.get("what")) + maker.end
        remedy = _text(way.get("remedy", way.get("install")))
        for slug in _literals(way.get("code"), maker.default):
            found.add(ErrorSite(maker.before + slug, maker.exit_code, what, remedy))
    return found


def _value(node: ast.expr, values: Mapping[str, ast.expr]) -> ast.expr:
    return values.get(node.id, node) if isinstance(node, ast.Name) else node


def _literals(code: ast.expr | None, default: str | None) -> list[str]:
    """The codes that an expression can be, as far as they are written there."""
    if code is None:
        return [] if default is None else [default]
    if isinstance(code, ast.IfExp):
        return [*_literals(code.body, None), *_literals(code.orelse, None)]
    return [str(code.value)] if isinstance(code, ast.Constant) else []


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
        "`ndtool: error: WHAT (WHERE); REMEDY [CODE]`. `...` stands for what is put in. The rules",
        "`int8.*` that an int8 model is held against, exit code 5, are in [ir.md](ir.md).",
        *table(
            ("code", "exit", "what", "remedy"),
            ((s.code, str(s.exit_code), s.what, s.remedy) for s in error_sites()),
        ),
        "",
        "## Warnings",
        "",
        "A warning is one line on stderr, `ndtool: warning: TEXT [CODE]`; the command goes on.",
        *table(("code", "text"), ((s.code, s.text) for s in warning_sites())),
    ]
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


def targets_page() -> str:
    """docs/targets.md."""
    from ndtool import targets
    from ndtool.export.codegen.boards import BOARDS

    def sizes(board: targets.Target) -> list[str]:
        doubt = "~" if targets.uncertain(board) else ""
        return [f"{size:,}{doubt}" for size in (board.ram, board.ram_total, board.flash)]

    rows = [
        (
            f"**{board.name}**",
            board.core,
            str(board.clock_mhz),
            *sizes(board),
            "; ".join(filter(None, (board.source, board.note))),
        )
        for board in targets.built_in_targets().values()
    ]
    optional = {
        field.name for field in fields(targets.Target) if field.default is not dataclasses.MISSING
    }
    keys = [
        (f"`{key}`", "may be left out" if key in optional else "needed", text)
        for key, text in targets.KEYS.items()
    ]
    qemu = [(f"`{board.name}`", f"cortex-{board.core}") for board in BOARDS]
    parts = [
        "# Targets",
        "",
        "Generated from `ndtool/boards.toml` and `ndtool/targets.py` by `make docs`; do not edit.",
        "`ndtool targets -v` prints the same. Sizes in bytes; RAM is the largest contiguous block,",
        "which an arena cannot leave. Sources: Z the board's files in Zephyr, P in PlatformIO,",
        "V the vendor's page or note named, [K] general knowledge. `~` behind a figure: it has one",
        "source, or an unsure one.",
        *table(("target", "core", "MHz", "RAM", "RAM, all", "flash", "source"), rows),
        "",
        "## When a model fits",
        "",
        f"When arena and {targets.STACK_BYTES:,} bytes of stack are at most RAM without its",
        "reserve, and code and tables at most flash without its. The reserves are what your",
        "application keeps, the larger of {:,} bytes and {} % of RAM,".format(*targets.RAM_RESERVE),
        "of {:,} bytes and {} % of flash, unless the board has".format(*targets.FLASH_RESERVE),
        "its own or `ndtool analyze` is given `--ram-reserve` and `--flash-reserve`.",
        "",
        "## Your own boards",
        "",
        "In `ndtool.toml`, or in a file that `--boards` names. A board named like a built-in one,",
        "or with its name among the aliases, replaces it. `_` and `-` are the same in a name, and",
        "so are small letters and capitals.",
        "",
        "```toml",
        "[boards.my-board]",
        'core = "cortex-m4f"',
        "clock_mhz = 100",
        "ram = 98304",
        "ram_total = 131072",
        "flash = 524288",
        'source = "data sheet, rev. 3; linker script"',
        "```",
        *table(("key", "", "value"), keys),
        "",
        "## Boards of QEMU",
        "",
        "They are places to run the C, `ndtool verify RUN --on qemu:BOARD`, and no targets.",
        *table(("board", "core"), qemu),
    ]
    return "\n".join(parts) + "\n"


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
    "targets.md": targets_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8", newline="\n")
