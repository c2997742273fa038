"""What `analyze` says before training, held against what the finished run has.

    python benchmarks/forecast.py RUN ... [--out benchmarks/results]

Of each run, which has a student and its int8 file: arena, flash and instructions as `analyze` has
them for the bare architecture, and as the C that is made of the int8 file has them, built and run
in QEMU on each core. Writes forecast.json and forecast.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ndtool.export.analyze import analyze_spec, describe_spec
from ndtool.export.c_project import load_projects
from ndtool.export.codegen.boards import BOARDS
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.project_stage import codegen_file
from ndtool.export.student import load_student_spec
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.toolchain import version_of
from ndtool.export.verify_run import measure_firmware
from ndtool.options import CODEGEN
from ndtool.rundir import CONTRACT, TFLITE, RunDir, find_run

HERE = Path(__file__).resolve().parent
CORES = ("mps2-an385", "mps2-an386", "mps2-an500", "mps3-an547")

Row = dict[str, Any]


def measure(run: RunDir) -> list[Row]:
    """A row a core for one run."""
    spec = load_student_spec(run)
    contract = run.contract()
    data = (run / TFLITE).read_bytes()
    removed = compile_graph(read_tflite(data)).program.removed
    rows = []
    with TemporaryDirectory(prefix="bench-forecast-") as scratch:
        folder = Path(scratch) / "project"
        options = replace(CODEGEN, template="cortex-m-qemu", golden=1)
        codegen_file(run / TFLITE, contract_path=run / CONTRACT, options=options, out=folder)
        (project,) = load_projects(folder)
        for board in (board for board in BOARDS if board.name in CORES):
            said = analyze_spec(spec, core=f"cortex-{board.core}", contract=contract)
            found = measure_firmware(project, board, count=True)
            assert found.instructions is not None and project.arena_bytes is not None
            rows.append(
                {
                    "network": describe_spec(spec),
                    "core": board.core,
                    "dead_channels": sum(len(row.constants) for row in removed.values()),
                    "arena_bytes": figure(said.arena_bytes, project.arena_bytes),
                    "flash_bytes": figure(said.cost.flash_bytes, found.flash_bytes),
                    "instructions": figure(said.cost.instructions, found.instructions),
                }
            )
    return rows


def figure(said: int, found: int) -> dict[str, float]:
    """Forecast, fact, and how far the first is off."""
    return {
        "forecast": said,
        "measured": found,
        "error_percent": round(100 * (said / found - 1), 3),
    }


def table(rows: list[Row]) -> str:
    """forecast.md's table."""
    lines = [
        "| network | core | dead channels | arena | flash | instructions |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["network"], row["core"].upper(), f"{row['dead_channels']}"]
        for key in ("arena_bytes", "flash_bytes", "instructions"):
            one = row[key]
            error = one["error_percent"]
            off = "exact" if one["forecast"] == one["measured"] else f"{error:+.2f} %"
            cells.append(f"{one['forecast']:,} of {one['measured']:,} ({off})")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.runs:
        rows += measure(find_run(name))
        print(table(rows[-len(CORES) :]), flush=True)
    versions = {tool: version_of(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm")}
    versions |= {name: metadata.version(name) for name in ("ndtool", "numpy")}
    arguments.out.mkdir(parents=True, exist_ok=True)
    document = {"versions": versions, "rows": rows}
    (arguments.out / "forecast.json").write_text(json.dumps(document, indent=1) + "\n")
    said = "\n".join(f"- {tool}: {version}" for tool, version in versions.items())
    page = f"# `ndtool analyze` before training against the trained network's C\n\n{table(rows)}\n"
    page += "\nForecast of measured; with dead channels removed afterwards, an upper bound.\n"
    (arguments.out / "forecast.md").write_text(f"{page}\n{said}\n")


if __name__ == "__main__":
    main()
