"""Who may import whom (docs/architecture.md): one direction, and nothing heavy at module top.

An import counts wherever it stands: at the top, inside a function, or as the text that `require`
and `import_module` are given.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ndtool.errors import EXTRA_OF

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "ndtool": "ndtool",
    "ndtool.training": "training",
    "ndtool.export": "export",
    "ndtool.firmware_templates": "firmware_templates",
}
LIGHT = [
    "ndtool.errors",
    "ndtool.types",
    "ndtool.contract",
    "ndtool.rundir",
    "ndtool.files",
    "ndtool.arch",
    "ndtool.options",
    "ndtool.console",
    "ndtool.config",
    "ndtool.machine",
    "ndtool.targets",
    "ndtool.teacher",
]
CORE = [*LIGHT, "ndtool.models", "ndtool.data", "ndtool.quant", "ndtool.evaluate"]
PREPARE = [*LIGHT, "ndtool.models", "ndtool.data"]
RUN = ["ndtool.prepare", "ndtool.identity"]
# Files in, files out: no data set, no other stage; each of these builds on those before it.
GRAPH = [*LIGHT, "ndtool.models", "ndtool.quant", "ndtool.export.graph"]
INT8 = [*GRAPH, "ndtool.export.int8"]
TFLITE = [*INT8, "ndtool.export.tflite"]
CODEGEN = [*TFLITE, "ndtool.export.codegen"]
TOP_OK = {"typer", "rich"}

# importer, what of the project it may import, third party at module top; special ones first
RULES: list[tuple[str, list[str], set[str]]] = [
    ("ndtool.cli", ["ndtool"], {"typer"}),
    ("ndtool.quant", ["ndtool.errors", "ndtool.contract", "ndtool.quant"], {"numpy"}),
    ("ndtool.evaluate", [*LIGHT, "ndtool.quant"], {"numpy"}),
    ("ndtool.models", [*LIGHT, "ndtool.models"], set()),
    ("ndtool.data", [*LIGHT, "ndtool.data"], {"numpy"}),
    ("ndtool.gates", [*LIGHT, "ndtool.evaluate", "ndtool.gates"], {"numpy"}),
    ("ndtool.prepare", PREPARE, set()),
    ("ndtool.identity", [*PREPARE, "ndtool.prepare"], set()),
    ("ndtool.environment", LIGHT, set()),
    ("ndtool.training", [*CORE, *RUN, "ndtool.training"], {"torch", "numpy"}),
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
    ("ndtool.export.graph", GRAPH, {"numpy"}),
    ("ndtool.export.int8", INT8, {"numpy"}),
    ("ndtool.export.tflite", TFLITE, {"numpy", "flatbuffers"}),
    ("ndtool.export.codegen", CODEGEN, {"numpy"}),
    ("ndtool.export", [*CORE, "ndtool.gates", "ndtool.prepare", "ndtool.export"], {"numpy"}),
    ("ndtool.firmware_templates", [], set()),
    ("ndtool", [*LIGHT, "ndtool.cli"], set()),
]

# the only modules that may import an optional package, in whatever way
HOMES: dict[str, list[str]] = {
    "torch": ["ndtool.training", "ndtool.export.extract"],
    "torchvision": ["ndtool.training"],
    "onnx": [
        "ndtool.export.graph",
        "ndtool.export.ranges",
        "ndtool.training.teachers.onnx_teacher",
    ],
    "onnxruntime": [
        "ndtool.export.onnx_session",
        "ndtool.export.ranges",
        "ndtool.training.teachers.onnx_teacher",
    ],
    "tensorflow": ["ndtool.export.tensorflow_converter", "ndtool.export.tensorflow_worker"],
    "tflite_micro": ["ndtool.export.runner_worker", "ndtool.export.tflite.schema"],
    "tflite_runtime": ["ndtool.export.runner_worker"],
    "ai_edge_litert": [
        "ndtool.export.runners",
        "ndtool.export.runner_worker",
        "ndtool.export.tflite.schema",
    ],
    "flatbuffers": ["ndtool.export.tflite"],
    "safetensors": ["ndtool.export.extract", "ndtool.export.student"],
    "jinja2": ["ndtool.export.codegen.render"],
    "elftools": ["ndtool.export.elf_facts"],
    "sklearn": ["ndtool.data"],
    "PIL": ["ndtool.data"],
    "matplotlib": ["ndtool.training"],
    "tensorboard": ["ndtool.training"],
}
# `require("torch")` as a statement of its own: asks early for the extra, and uses nothing of it.
PROBES = {("ndtool.cli.processes", "torch"), ("ndtool.export.chain", "torch")}
# `require(name)` of a computed name, which no test can follow
COMPUTED = {
    "ndtool.errors",
    "ndtool.models.own",  # the user's own module
    "ndtool.training.vision",
    "ndtool.export.runners",
    "ndtool.export.runner_worker",
}
IMPORTERS = {"require", "import_module", "__import__"}


def within(name: str, prefixes: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{p}.") for p in prefixes)


def modules() -> list[tuple[str, Path]]:
    found = []
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found.append((".".join((package, *(p for p in parts if p != "__init__"))), path))
    return found


@dataclass(frozen=True)
class Import:
    """One import; `target` is None for a name that is computed."""

    target: str | None
    at_top: bool = False  # runs when the module is imported
    probe: bool = False  # a call whose result nobody takes


def imports(tree: ast.AST, *, at_top: bool = True) -> list[Import]:
    """Every import of a syntax tree; what stands under `if TYPE_CHECKING` is left out."""
    found: list[Import] = []
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                found += [Import(alias.name, at_top) for alias in node.names]
            case ast.ImportFrom():
                module = "." * node.level + (node.module or "")
                found += [Import(f"{module}.{alias.name}", at_top) for alias in node.names]
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                found += imports(ast.Module(node.orelse, []), at_top=at_top)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                found += imports(node, at_top=False)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in IMPORTERS:
                given = node.args[0] if node.args else None
                literal = isinstance(given, ast.Constant) and isinstance(given.value, str)
                target = given.value if literal else None
                found.append(Import(target, at_top, probe=isinstance(tree, ast.Expr)))
                found += imports(node, at_top=at_top)
            case _:
                found += imports(node, at_top=at_top)
    return found


def rule_of(name: str) -> tuple[str, list[str], set[str]]:
    return next(rule for rule in RULES if within(name, [rule[0]]))


def violations(name: str, source: str) -> list[str]:
    return [problem for found in imports(ast.parse(source)) if (problem := violation(name, found))]


def violation(name: str, found: Import) -> str:
    """What is wrong with an import of module `name`; "" for nothing."""
    _, allowed, third_party = rule_of(name)
    target = found.target
    if target is None:
        return "" if name in COMPUTED else "imports a computed name"
    if target in ("ndtool", "ndtool.__version__"):
        return ""  # the version: ndtool/__init__.py imports nothing
    if within(target, ["ndtool"]):
        if not within(target, allowed):
            return f"imports {target}"
        light = [*LIGHT, "ndtool.cli", "ndtool.models"]
        if found.at_top and within(name, ["ndtool.cli"]) and not within(target, light):
            return f"imports {target} outside a function"
        return ""
    root = target.split(".")[0]
    if root == "":
        return f"imports {target}, a relative name"
    if root in HOMES and not within(name, HOMES[root]):
        return "" if found.probe and (name, target) in PROBES else f"imports {target}"
    if found.at_top and root not in sys.stdlib_module_names | TOP_OK | third_party:
        return f"imports {target} at the top"
    return ""


@pytest.mark.parametrize(("name", "path"), [pytest.param(*m, id=m[0]) for m in modules()])
def test_imports_obey_the_layers(name: str, path: Path) -> None:
    assert violations(name, path.read_text()) == []


def test_no_rule_is_dead() -> None:
    """A rule after a wider one, or of a name that is gone, would hold nothing."""
    names = [name for name, _ in modules()]
    assert {rule_of(name)[0] for name in names} == {rule[0] for rule in RULES}
    assert set(HOMES) == set(EXTRA_OF)
    listed = [home for homes in HOMES.values() for home in homes]
    listed += [*(name for name, _ in PROBES), *COMPUTED]
    assert [home for home in listed if not any(within(name, [home]) for name in names)] == []


LOADS = (
    "import {0}",
    "from {0} import part",
    "def f():\n    import {0}.part",
    "async def f():\n    from {0} import part",
    "class C:\n    def f(self):\n        return 1 + require('{0}').part",
    "def f():\n    module = errors.require('{0}.part')",
    "f = lambda: importlib.import_module('{0}')",
    "import_module('{0}.part')",
    "__import__('{0}')",
    "if not TYPE_CHECKING:\n    import {0}",
    "if TYPE_CHECKING:\n    pass\nelse:\n    import {0}",
)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    ("name", "target"),
    [
        # stages and core
        ("ndtool.training.loop", "ndtool.export.chain"),
        ("ndtool.training.loop", "ndtool.gates.paired"),
        ("ndtool.export.chain", "ndtool.training.build"),
        ("ndtool.export.extract", "ndtool.training.loop"),
        ("ndtool.data.folder", "ndtool.quant.pixels"),
        ("ndtool.quant.scales", "ndtool.export.int8.ir"),
        ("ndtool.arch", "ndtool.data.types"),
        ("ndtool.gates.paired", "ndtool.export.runners"),
        ("ndtool.firmware_templates", "ndtool.errors"),
        # inside export
        ("ndtool.export.graph.fuse", "ndtool.data.types"),
        ("ndtool.export.graph.fuse", "ndtool.export.int8.ir"),
        ("ndtool.export.int8.convert", "ndtool.data.types"),
        ("ndtool.export.int8.convert", "ndtool.export.tflite.writer"),
        ("ndtool.export.tflite.writer", "ndtool.data.types"),
        ("ndtool.export.tflite.writer", "ndtool.export.codegen.array"),
        ("ndtool.export.codegen.array", "ndtool.data.types"),
        ("ndtool.export.codegen.array", "ndtool.gates.paired"),
        ("ndtool.export.codegen.array", "ndtool.export.runners"),
        ("ndtool.export.codegen.array", "ndtool.export.chain"),
        # optional packages
        ("ndtool.arch", "torch"),
        ("ndtool.cli.check", "torch"),
        ("ndtool.evaluate", "torch"),
        ("ndtool.export.hops", "torch"),
        ("ndtool.export.graph.to_onnx", "torch"),
        ("ndtool.export.runners", "onnx"),
        ("ndtool.export.int8.convert", "onnx"),
        ("ndtool.training.train", "onnx"),
        ("ndtool.export.runners", "onnxruntime"),
        ("ndtool.export.hops", "onnxruntime"),
        ("ndtool.export.chain", "tensorflow"),
        ("ndtool.training.train", "tensorflow"),
        ("ndtool.export.codegen.array", "tflite_micro"),
        ("ndtool.export.predictions", "PIL"),
    ],
)
def test_the_rule_finds_planted_imports(name: str, target: str, load: str) -> None:
    assert violations(name, load.format(target))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ndtool.arch", "import numpy"),
        ("ndtool.export.ranges", "import onnx"),  # allowed in its functions only
        ("ndtool.cli.train", "from ndtool.training.train import train"),
        ("ndtool.export.chain", "from . import hops"),
        ("ndtool.export.chain", "def f():\n    from .hops import g"),
        ("ndtool.export.chain", "def f(name):\n    return require(name)"),
        ("ndtool.export.chain", "def f(name):\n    return import_module(name=name)"),
        ("ndtool.export.chain", "def f():\n    torch = require('torch')"),
        ("ndtool.export.hops", "def f():\n    require('torch')"),
        ("ndtool.cli.train", "def f():\n    require('torch').manual_seed(0)"),
    ],
)
def test_the_rule_finds_what_depends_on_place(name: str, source: str) -> None:
    assert violations(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ndtool.cli.train", "def f():\n    from ndtool.training.train import train"),
        ("ndtool.cli.processes", "def f():\n    require('torch')\n    g()"),
        ("ndtool.export.chain", "def f():\n    require('torch')"),
        ("ndtool.export.hops", "def f():\n    return find_spec('torch') is not None"),
        ("ndtool.export.ranges", "def f():\n    return require('onnx').ValueInfoProto"),
        ("ndtool.export.graph.fuse", "if TYPE_CHECKING:\n    from onnx import NodeProto"),
        ("ndtool.export.extract", "import torch\nfrom torch import Tensor"),
        ("ndtool.export.codegen.array", "from ndtool.export.tflite.reader import read_tflite"),
    ],
)
def test_the_rule_lets_good_imports_pass(name: str, source: str) -> None:
    assert violations(name, source) == []


HELP = (
    "import sys; from ndtool.cli.main import main; code = main({args!r});"
    "bad = {heavy!r} & set(sys.modules); assert not bad, bad; sys.exit(code)"
)


@pytest.mark.parametrize(
    ("args", "heavy"),
    [
        (["--help"], {"torch", "numpy", "pydantic", "onnx", "tensorflow"}),
        (["train", "--help"], {"torch", "numpy", "onnx", "tensorflow"}),
        (["models", "--help"], {"torch", "numpy", "onnx", "tensorflow"}),
        (["models"], {"torch", "onnxruntime", "tensorflow", "tflite_micro"}),
        (["targets"], {"torch", "numpy", "onnx", "tensorflow"}),
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
