"""The C engine on Cortex-M3, M4, M7 and M55 in QEMU: instructions, memory, and whether it is exact.

    python benchmarks/engine.py [MODEL.tflite ...] [--out benchmarks/results]

The four models of ../shared/models, if they are there, and every model given. Each runs on 20
random inputs, byte for byte against tflite_micro; instructions are those of one inference of the
first. Writes engine.json and engine.md. Definitions: the end of engine.md; the yardstick beside our
figures, of the same models and the same first input: yardstick.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ndtool.export import qemu
from ndtool.export.codegen.boards import BOARDS, Board
from ndtool.export.elf_facts import read_elf_facts
from ndtool.export.layers import op_macs
from ndtool.export.profile import profile
from ndtool.export.project_stage import codegen_file
from ndtool.export.runners import run_int8
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.toolchain import version_of
from ndtool.files import sha256_bytes
from ndtool.options import CODEGEN
from ndtool.types import Runtime

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "models"
NAMES = ("person_detect", "kws", "vww_96", "resnet8")
PREFIX = "model"
CORES = ("mps2-an385", "mps2-an386", "mps2-an500", "mps3-an547")
SEED, INPUTS = 1, 20
TOP_FUNCTIONS = 8

Row = dict[str, Any]

DEFINITIONS = f"""
- instructions: guest instructions from the entry of `{PREFIX}_run` to its return, one inference of
  the first input after one warm-up; TFLM: of `Invoke`.
- per MAC: divided by the multiply-accumulates of convolutions and fully connected layers of the
  model file, padding counted as if computed, channels that we prove constant and leave out too.
- arena: `{PREFIX.upper()}_ARENA_BYTES`, with scratch, input and output; TFLM: `arena_used_bytes()`.
- flash: code, constants and initialised data of model and engine after `--gc-sections`, without
  start-up code and libc; TFLM: with the int8 kernels alone registered.
- code: the executable part of it. stack: the deepest of `{PREFIX}_run` over all inputs, painted.
- exact: inputs whose outputs equal tflite_micro's byte for byte, of {INPUTS}.
- In brackets: ours divided by the yardstick's.
"""


def measure(path: Path, yardstick: Mapping[str, Any]) -> list[Row]:
    """A row a core for one model."""
    data = path.read_bytes()
    graph = read_tflite(data, where=str(path))
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise SystemExit(f"{path}: more than one input or output")
    shape = graph.tensor(graph.inputs[0]).shape
    x = np.random.default_rng(SEED).integers(-128, 128, (INPUTS, *shape[1:])).astype(np.int8)
    wanted = run_int8(data, x, runtime=Runtime.TFLM, workers=0, progress=lambda _: None).outputs
    sha256 = sha256_bytes(data)
    with TemporaryDirectory(prefix="bench-engine-") as scratch:
        folder = Path(scratch) / "project"
        options = replace(CODEGEN, template="cortex-m-qemu", prefix=PREFIX, golden=1)
        codegen_file(path, contract_path=None, options=options, out=folder)
        marker = json.loads((folder / f"{PREFIX}.json").read_text())
        about = {
            "model": path.stem,
            "model_sha256": sha256,
            "macs": sum(op_macs(graph, op) for op in graph.ops),
            "macs_executed": marker["macs"],
            "arena_bytes": marker["arena_bytes"],
            "weights_bytes": marker["weights_bytes"],
        }
        known = yardstick["models"].get(sha256, {})
        boards = [board for board in BOARDS if board.name in CORES]
        return [
            about | on_core(folder, board, x, wanted, about["macs"], known.get(board.core))
            for board in boards
        ]


def on_core(
    folder: Path,
    board: Board,
    x: np.ndarray,
    wanted: np.ndarray,
    macs: int,
    yardstick: Mapping[str, int] | None,
) -> Row:
    """What is measured on one core."""
    elf = qemu.build(folder, PREFIX, board.name)
    done = qemu.run(elf, board.name, x.tobytes())
    outputs = np.frombuffer(done.outputs, np.int8).reshape(len(x), -1)
    exact = int((outputs == wanted.reshape(len(x), -1)).all(axis=1).sum())
    counted = profile(elf, board.name, PREFIX, x[0].tobytes())
    facts = read_elf_facts(elf, PREFIX)
    return {
        "core": board.core,
        "board": board.name,
        "cpu": board.cpu,
        "instructions": counted.instructions,
        "instructions_per_mac": round(counted.instructions / max(macs, 1), 4),
        "functions": dict(counted.functions[:TOP_FUNCTIONS]),
        "flash_bytes": facts.flash_bytes,
        "code_bytes": facts.code_bytes,
        "ram_bytes": facts.ram_bytes,
        "stack_bytes": done.stack_bytes,
        "bit_exact": f"{exact}/{len(x)}",
        "yardstick": yardstick,
    }


def table(rows: list[Row]) -> str:
    """engine.md's table: a row a model and core."""
    lines = [
        "| model | core | instructions | per MAC | arena | flash | code | stack | exact |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        other = row["yardstick"] or {}
        cells = [
            row["model"],
            row["core"].upper(),
            beside(row["instructions"], other.get("instructions")),
            f"{row['instructions_per_mac']:.3f}",
            beside(row["arena_bytes"], other.get("arena")),
            beside(row["flash_bytes"], other.get("flash_int8_only")),
            f"{row['code_bytes']:,}",
            f"{row['stack_bytes']:,}",
            row["bit_exact"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def beside(value: int, other: int | None) -> str:
    """`37,014 (0.45 of 82,308)`."""
    return f"{value:,}" if other is None else f"{value:,} ({value / other:.2f} of {other:,})"


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    arguments = parser.parse_args()
    shared = [SHARED / f"{name}.tflite" for name in NAMES]
    for path in shared:
        if not path.is_file():
            print(f"skipped: {path.name} is not in ../shared/models")
    yardstick = json.loads((HERE / "yardstick.json").read_text())
    rows: list[Row] = []
    for path in [*(path for path in shared if path.is_file()), *arguments.models]:
        rows += measure(path, yardstick)
        print(table(rows[-len(CORES) :]), flush=True)
    if not rows:
        raise SystemExit("no model to measure")
    versions = {tool: version_of(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm")}
    versions |= {name: metadata.version(name) for name in ("ndtool", "tflite-micro", "numpy")}
    document = {
        "versions": versions,
        "flags": "-std=c99 -O2 -ffunction-sections -fdata-sections, linked with --gc-sections",
        "seed": SEED,
        "inputs": INPUTS,
        "yardstick": {key: value for key, value in yardstick.items() if key != "models"},
        "rows": rows,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "engine.json").write_text(json.dumps(document, indent=1) + "\n")
    said = "\n".join(f"- {tool}: {version}" for tool, version in versions.items())
    page = f"# The C engine, portable tier\n\n{table(rows)}\n\n{DEFINITIONS.strip()}\n\n{said}\n"
    (arguments.out / "engine.md").write_text(page)


if __name__ == "__main__":
    main()
