"""Who may import whom (docs/architecture.md): one direction, and nothing heavy at module top."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"ndtool": "ndtool", "ndtool.training": "training", "ndtool.export": "export"}
LIGHT = [
    "ndtool.errors",
    "ndtool.types",
    "ndtool.contract",
    "ndtool.rundir",
    "ndtool.arch",
    "ndtool.options",
    "ndtool.console",
    "ndtool.config",
]
CORE = [*LIGHT, "ndtool.models", "ndtool.data", "ndtool.quant", "ndtool.evaluate"]
TOP_OK = {"typer", "rich"}

# importer, what of the project it may import, third party at module top; special ones first
RULES: list[tuple[str, list[str], set[str]]] = [
    ("ndtool.cli", ["ndtool"], {"typer"}),
    ("ndtool.quant", ["ndtool.errors", "ndtool.contract", "ndtool.quant"], {"numpy"}),
    ("ndtool.evaluate", [*LIGHT, "ndtool.quant"], {"numpy"}),
    ("ndtool.models", [*LIGHT, "ndtool.models"], set()),
    ("ndtool.data", [*LIGHT, "ndtool.data"], {"numpy"}),
    ("ndtool.gates", [*LIGHT, "ndtool.evaluate", "ndtool.gates"], {"numpy"}),
    ("ndtool.prepare", [*LIGHT, "ndtool.models", "ndtool.data"], set()),
    ("ndtool.environment", LIGHT, set()),
    ("ndtool.training", [*CORE, "ndtool.prepare", "ndtool.training"], {"torch", "numpy"}),
    (
        "ndtool.export.extract",
        [
            *CORE,
            "ndtool.export",
            "ndtool.training.build",
            "ndtool.training.supernet",
            "ndtool.training.checkpoint",
        ],
        {"torch", "numpy"},
    ),
    ("ndtool.export.graph", [*CORE, "ndtool.export.graph"], {"numpy"}),
    ("ndtool.export.int8", [*CORE, "ndtool.export.graph", "ndtool.export.int8"], {"numpy"}),
    (
        "ndtool.export.tflite",
        [*CORE, "ndtool.export.graph", "ndtool.export.int8", "ndtool.export.tflite"],
        {"numpy", "flatbuffers"},
    ),
    ("ndtool.export", [*CORE, "ndtool.gates", "ndtool.prepare", "ndtool.export"], {"numpy"}),
    ("ndtool", [*LIGHT, "ndtool.cli"], set()),
]


def within(name: str, prefixes: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{p}.") for p in prefixes)


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found.append((".".join((package, *(p for p in parts if p != "__init__"))), path))
    return found


def imports(tree: ast.AST, *, at_top: bool = True) -> list[tuple[str, bool]]:
    """(dotted name, does it run on import), `if TYPE_CHECKING` blocks left out."""
    found: list[tuple[str, bool]] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, at_top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(f"{node.module}.{alias.name}", at_top) for alias in node.names]
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            found += imports(node, at_top=at_top and not isinstance(node, ast.FunctionDef))
    return found


def violations(name: str, source: str) -> list[str]:
    _, allowed, third_party = next(rule for rule in RULES if within(name, [rule[0]]))
    bad = []
    for target, at_top in imports(ast.parse(source)):
        if target in ("ndtool", "ndtool.__version__"):
            continue  # the version: ndtool/__init__.py imports nothing
        if within(target, ["ndtool"]):
            if not within(target, allowed):
                bad.append(f"imports {target}")
            lazy = within(name, ["ndtool.cli"]) and not within(
                target, [*LIGHT, "ndtool.cli", "ndtool.models"]
            )
            if at_top and lazy:
                bad.append(f"imports {target} outside a function")
        elif at_top:
            root = target.split(".")[0]
            if root not in sys.stdlib_module_names | TOP_OK | third_party:
                bad.append(f"imports {target} at the top")
    return bad


@pytest.mark.parametrize(("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_imports_obey_the_layers(name: str, path: Path) -> None:
    assert violations(name, path.read_text()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ndtool.arch", "import numpy"),
        ("ndtool.training.loop", "from ndtool.export.chain import export_run"),
        ("ndtool.export.chain", "def f():\n    from ndtool.training.build import Network"),
        ("ndtool.export.chain", "import onnx"),
        ("ndtool.data.folder", "from ndtool.quant.pixels import pixel_table"),
        ("ndtool.cli.train", "from ndtool.training.train import train"),
        ("ndtool.quant.scales", "from ndtool.export.int8.ir import Graph"),
    ],
)
def test_the_rule_finds_planted_imports(name: str, source: str) -> None:
    assert violations(name, source)


HELP = (
    "import sys; from ndtool.cli.main import main; code = main({args!r});"
    "bad = {heavy!r} & set(sys.modules); assert not bad, bad; sys.exit(code)"
)


@pytest.mark.parametrize(
    ("args", "heavy"),
    [
        (["--help"], {"torch", "numpy", "pydantic", "onnx", "tensorflow"}),
        (["train", "--help"], {"torch", "numpy", "onnx", "tensorflow"}),
        (["models"], {"torch", "numpy", "onnx", "tensorflow"}),
    ],
)
def test_light_start(args: list[str], heavy: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(args=args, heavy=heavy)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
