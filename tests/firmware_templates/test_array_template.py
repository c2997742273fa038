"""The files of the template `array` themselves."""

from __future__ import annotations

import re
import subprocess
from importlib import resources
from pathlib import Path

import jinja2
import pytest
from array_models import tiny_contract, tiny_model
from host_tools import require_tool

from ndtool.contract import Contract, mean_std_normalize, unit_normalize
from ndtool.export.codegen.array import emit_array
from ndtool.export.codegen.project import render_project

ROOT = Path(__file__).parents[2]
FOLDER = resources.files("ndtool.firmware_templates") / "projects" / "array"


def test_licence_is_the_project_s() -> None:
    assert (FOLDER / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_every_file_is_shipped_under_its_name() -> None:
    files = emit_array(tiny_model(tiny_contract(unit_normalize(1)), prefix="abc"))
    names = [entry.name for entry in FOLDER.iterdir() if not entry.name.startswith("_")]
    shipped = {name.removesuffix(".j2").replace("PREFIX", "abc") for name in names}
    assert set(files) == shipped | {"model.tflite", "abc.json"}


def test_missing_variable_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render_project("array", {"tool_version": "1"}, prefix="x")


def test_foreign_text_goes_through_a_filter() -> None:
    """Labels and golden words are the only foreign text that a template sees."""
    for entry in FOLDER.iterdir():
        if entry.name.endswith(".j2"):
            for expression in re.findall(r"{{(.*?)}}", entry.read_text(encoding="utf-8")):
                if re.search(r"label\.text|golden_(origin|engine)", expression):
                    assert re.search(r"\| c_(string|comment) $", expression), entry.name


@pytest.mark.parametrize(
    "contract",
    [
        tiny_contract(unit_normalize(1)),
        tiny_contract(mean_std_normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))),
        None,
    ],
    ids=["unit", "mean_std", "foreign"],
)
def test_layout_is_clang_format_s(contract: Contract | None, tmp_path: Path) -> None:
    """Users have no clang-format, so the generator lays out; tables are marked as off limits."""
    formatter = require_tool("clang-format")
    files = emit_array(tiny_model(contract))
    sources = {name: data for name, data in files.items() if name.endswith((".c", ".h"))}
    assert sources
    for name, data in sources.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".clang-format").write_bytes((ROOT / ".clang-format").read_bytes())
    for name, data in sources.items():
        done = subprocess.run([formatter, name], check=True, capture_output=True, cwd=tmp_path)
        assert done.stdout.decode() == data.decode()


def test_generated_lines_fit() -> None:
    files = emit_array(tiny_model(tiny_contract(unit_normalize(3))))
    for name, data in files.items():
        if name.endswith((".c", ".h", ".S")):
            assert max(len(line) for line in data.decode().splitlines()) <= 100, name
