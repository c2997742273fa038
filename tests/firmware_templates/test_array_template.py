"""The layout of what the template `array` gives."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from array_models import tiny_contract, tiny_model
from host_tools import require_tool

from ndtool.contract import Contract, mean_std_normalize, unit_normalize
from ndtool.export.codegen.array import emit_array

ROOT = Path(__file__).parents[2]


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
