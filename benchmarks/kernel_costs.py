"""What the C engine's kernels cost on each core that QEMU has: bytes of code, and instructions.

    python benchmarks/kernel_costs.py [--work DIR] [--core NAME]

Builds the networks of `kernel_cases.py` as one firmware a core, counts the instructions of each in
QEMU, and fits them to how often the loops of its kernel run (`ndtool.export.codegen.work`). Writes
export/codegen/costs.toml, from which `ndtool analyze` predicts; of one core alone, only prints.
Counts are kept in DIR as they are made: a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import numpy as np
from kernel_cases import chain_cases, kernel_cases, separable
from scipy.optimize import nnls

from ndtool.contract import Contract, InputSpec, Resize, mean_std_normalize, unit_normalize
from ndtool.export import toolchain
from ndtool.export.codegen.boards import find_board
from ndtool.export.codegen.costs import run_terms
from ndtool.export.codegen.emit import emit_program
from ndtool.export.codegen.engine import Compiled, compile_graph
from ndtool.export.codegen.engine_project import (
    EngineModel,
    emit_engine,
    engine_context,
    project_runtime,
)
from ndtool.export.codegen.model import ALONE, Golden
from ndtool.export.codegen.render import render_project
from ndtool.export.codegen.work import call_work
from ndtool.export.elf_facts import Piece, pieces
from ndtool.export.profile import profile, profile_by

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "lib"))
from rv32_board import GCC, build_rv32, run_rv32  # beside the tests that use it

TEMPLATE = "cortex-m-qemu"
FIRMWARE = "bench"
SINGLE = "nd_model"
RISC_V = "virt"
SEED = 1
OUT = Path(__file__).resolve().parents[1] / "export" / "codegen" / "costs.toml"


@dataclass(frozen=True)
class Core:
    """What is compiled for, and the board of QEMU that executes it; RISC-V's is `virt`."""

    name: str
    board: str
    cpu: str
    compiler: str = "arm-none-eabi-gcc"


# The board's core need not be the one compiled for, as long as it has all its instructions: M3
# executes M0's, M55 executes M33's, and these boards have room for every network.
CORES = (
    Core("m0", "mps2-an385", "-mthumb -mcpu=cortex-m0 -mfloat-abi=soft"),
    Core("m3", "mps2-an385", find_board("mps2-an385").cpu),
    Core("m4", "mps2-an386", find_board("mps2-an386").cpu),
    Core("m7", "mps2-an500", find_board("mps2-an500").cpu),
    Core("m33", "mps3-an547", "-mthumb -mcpu=cortex-m33 -mfpu=fpv5-sp-d16 -mfloat-abi=hard"),
    Core("m55", "mps3-an547", find_board("mps3-an547").cpu),
    Core("rv32imc", RISC_V, "-march=rv32imc -mabi=ilp32", GCC),
)

# A sample: number of the network, bytes of its arena, then these bytes.
_MAIN = """
#include "board/semihost.h"
#include "board/stack.h"
{includes}

typedef nd_status (*run_function)(void *arena);
static const run_function runs[] = {{{runs}}};
static int8_t arena[{arena_bytes}] __attribute__((aligned(16), section(".noinit")));

int main(void)
{{
    const int file = host_open("input.bin", HOST_READ);
    uint32_t head[2];

    while (host_read(file, head, sizeof head) == sizeof head) {{
        if ((host_read(file, arena, head[1]) != head[1]) || (runs[head[0]](arena) != ND_OK)) {{
            return 1;
        }}
        (void)stack_used();
    }}
    return 0;
}}
"""


@dataclass(frozen=True)
class Case:
    """One network; `kernel` is that of all its calls, None for a chain of many."""

    name: str
    kernel: str | None
    compiled: Compiled


def cases() -> list[Case]:
    """All networks, in the order of their numbers."""
    found = []
    for name, kernel, graph in kernel_cases():
        compiled = compile_graph(graph)
        if set(compiled.program.kernels) != {kernel}:
            raise SystemExit(f"{name} calls {compiled.program.kernels}")
        found.append(Case(name, kernel, compiled))
    return found + [Case(name, None, compile_graph(graph)) for name, graph in chain_cases()]


# -- programs --------------------------------------------------------------------------------------


def write_firmware(rows: Sequence[Case], folder: Path) -> None:
    """The project of one program that runs any of the networks."""
    files: dict[str, bytes] = {}
    for k, case in enumerate(rows):
        model = zeros_model(case.compiled, f"m{k}", None)
        context = engine_context(model, emit_program(case.compiled, prefix=f"m{k}"), ALONE)
        rendered = render_project(TEMPLATE, context, prefix=f"m{k}")
        own = {f"m{k}{end}" for end in (".h", ".c", "_data.h", "_data.c")}
        files |= {n: data for n, data in rendered.items() if n in own or not n.startswith(f"m{k}")}
        files |= project_runtime(case.compiled)
    numbers = range(len(rows))
    files[f"{FIRMWARE}_main.c"] = _MAIN.format(
        includes="\n".join(f'#include "m{k}.h"' for k in numbers),
        runs=", ".join(f"m{k}_run" for k in numbers),
        arena_bytes=max(case.compiled.plan.total for case in rows),
    ).encode()
    write(files, folder)


def zeros_model(compiled: Compiled, prefix: str, contract: Contract | None) -> EngineModel:
    """A model whose golden vector is of zeros: the self-test is not what is measured."""
    graph = compiled.graph
    inputs, outputs = (
        np.zeros((1, sum(graph.tensor(t).elements for t in ids)), np.int8)
        for ids in (graph.inputs, graph.outputs)
    )
    shape = graph.tensor(graph.inputs[0]).shape
    return EngineModel(
        tflite=b"",
        graph=graph,
        prefix=prefix,
        contract=contract,
        golden=Golden(
            pixels=None if contract is None else np.zeros(shape, np.uint8),
            inputs=inputs,
            outputs=outputs,
            engine="none",
            origin="zeros",
        ),
        tool_version="0",
        compiled=compiled,
        arena_bytes_tflm=None,
    )


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Leave unchanged files alone, so that make does."""
    for name, data in files.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def build(folder: Path, core: Core, name: str) -> Path:
    """The ELF of the project in `folder`, whose main program is NAME_main.c."""
    if core.board == RISC_V:
        return build_rv32(folder, name, march="rv32imc")
    # The Makefile links what RUNTIME_OBJECTS names into every program.
    found = sorted([*folder.glob("*.c"), *folder.glob("nd_runtime/*.c")])
    built = " ".join(
        f"build/{core.board}/objects/{path.relative_to(folder).with_suffix('.o')}"
        for path in found
        if not path.stem.endswith("_layers")
    )
    target = f"build/{core.board}/{name}.elf"
    arguments = (f"BOARD={core.board}", f"CPU={core.cpu}", f"RUNTIME_OBJECTS={built}", target)
    toolchain.make(folder, *arguments, tools=["arm-none-eabi-gcc"])
    return folder / target


# -- measurements ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Of one core: bytes of each kernel's file, of the rest of a model, and of each network.

    `rest`: everything of a model and nd_runtime.c but kernels, tables, structs and run function,
    as (code, constants), without a contract and with each kind of it.
    """

    code: Mapping[str, int]
    rest: Mapping[str, tuple[int, int]]
    run_bytes: Mapping[str, int]
    instructions: Mapping[str, int]


def measure(core: Core, rows: Sequence[Case], work: Path) -> Measured:
    """Build, and count what was not counted before."""
    folder = work / core.name
    write_firmware(rows, folder / "firmware")
    elf = build(folder / "firmware", core, FIRMWARE)
    found = list(pieces(elf.with_suffix(".map")))
    kernels = [p for p in found if p.object.parent.name == "nd_runtime" and p.output == ".text"]
    code: Counter[str] = Counter()
    for piece in kernels:
        code[piece.object.stem] += piece.size
    return Measured(
        code={name: size for name, size in sorted(code.items()) if name != "nd_runtime"},
        rest=dict(rest_bytes(core, folder)),
        run_bytes={
            case.name: run_bytes(found, f"m{k}")
            for k, case in enumerate(rows)
            if case.kernel is None
        },
        instructions=count(elf, core, rows, folder / "instructions.json"),
    )


def run_bytes(found: Sequence[Piece], prefix: str) -> int:
    """Bytes of the run function."""
    (size,) = (p.size for p in found if p.name == f".text.{prefix}_run")
    return size


def rest_bytes(core: Core, folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """By kind of contract: (code, constants) of a model that is not a kernel, table or call."""
    for kind, contract in contracts().items():
        compiled = compile_graph(separable(2, 16, 8, contract))
        project = folder / kind
        write(emit_engine(zeros_model(compiled, SINGLE, contract), TEMPLATE), project)
        elf = build(project, core, SINGLE)
        own = {f"{SINGLE}{end}.o" for end in ("", "_pixels", "_labels")} | {"nd_runtime.o"}
        rest = [
            p
            for p in pieces(elf.with_suffix(".map"))
            if p.object.name in own
            and p.name != f".text.{SINGLE}_run"
            and not p.name.startswith((".rodata.l", f".rodata.{SINGLE}_pixel_table"))
        ]
        yield (
            kind,
            (
                sum(p.size for p in rest if p.output == ".text"),
                sum(p.size for p in rest if p.output == ".rodata"),
            ),
        )


def contracts() -> dict[str, Contract | None]:
    """Without contract, with pixels that need no table, with a table of three channels."""
    spec = InputSpec(height=16, width=16, channels=3, color="RGB")
    labels = tuple("abcde")
    return {
        "none": None,
        "pixels": Contract(input=spec, resize=Resize(), normalize=unit_normalize(3), labels=labels),
        "table": Contract(
            input=spec,
            resize=Resize(),
            normalize=mean_std_normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.2)),
            labels=labels,
        ),
    }


def count(elf: Path, core: Core, rows: Sequence[Case], kept: Path) -> dict[str, int]:
    """Instructions of one inference of each single kernel's network."""
    stamp = f"{version(core.compiler)} {core.cpu} {elf.stat().st_size}"
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    found: dict[str, int] = known["counts"] if known.get("stamp") == stamp else {}
    rng = np.random.default_rng(SEED)
    for k, case in enumerate(rows):
        size = case.compiled.plan.total
        sample = np.array([k, size], "<u4").tobytes() + rng.bytes(size)
        if case.kernel is None or case.name in found:
            continue
        found[case.name] = counted(elf, core, f"m{k}", sample)
        kept.write_text(json.dumps({"stamp": stamp, "counts": found}))
    return found


def counted(elf: Path, core: Core, prefix: str, sample: bytes) -> int:
    """Instructions of one inference of `sample`."""
    if core.board != RISC_V:
        return profile(elf, core.board, prefix, sample).instructions
    with TemporaryDirectory() as folder:

        def run(plugin: str) -> None:
            run_rv32(elf, sample * 2, cwd=Path(folder), plugin=plugin)

        return profile_by(elf, prefix, run).instructions


def version(tool: str) -> str:
    """The first line of what it says of itself."""
    done = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True)
    return done.stdout.partition("\n")[0]


# -- fits ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """Non-negative factors of named counts, and the largest relative error of a case."""

    factors: Mapping[str, float]
    worst: float


def fit(rows: Sequence[Mapping[str, int]], measured: Sequence[int]) -> Fit:
    """Least squares of relative errors."""
    names = list(rows[0])
    wanted = np.array(measured, np.float64)
    matrix = np.array([[row[name] for name in names] for row in rows]) / wanted[:, None]
    scale = np.maximum(matrix.max(axis=0), 1e-9)
    factors = nnls(matrix / scale, np.ones(len(wanted)))[0] / scale
    rounded = {name: float(f"{x:.4g}") for name, x in zip(names, factors, strict=True) if x > 0}
    errors = matrix @ np.array([rounded.get(name, 0.0) for name in names]) - 1
    return Fit(rounded, float(np.abs(errors).max()))


def fit_kernels(rows: Sequence[Case], measured: Measured) -> dict[str, Fit]:
    """By kernel: instructions for each pass of its loops."""
    found = {}
    for kernel in sorted({case.kernel for case in rows if case.kernel is not None}):
        own = [case for case in rows if case.kernel == kernel]
        work = [added(call_work(c) for c in case.compiled.program.calls) for case in own]
        found[kernel] = fit(work, [measured.instructions[case.name] for case in own])
    return found


def added(parts: Iterator[Mapping[str, int]]) -> dict[str, int]:
    """Sums by name."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def fit_run(rows: Sequence[Case], measured: Measured) -> Fit:
    """Bytes of the run function."""
    chains = [case for case in rows if case.kernel is None]
    terms = [run_terms(case.compiled.program.calls) for case in chains]
    return fit(terms, [measured.run_bytes[case.name] for case in chains])


# -- the file --------------------------------------------------------------------------------------

_HEAD = """\
# SPDX-License-Identifier: Apache-2.0
# Written by benchmarks/kernel_costs.py (make bench-costs); do not edit.
#
# [CORE]               compiled for, and the board of QEMU that executed it
# [CORE.rest]          [code, constants] in bytes of a model that are no kernel, table, struct or
#                      call: without a contract; with one whose pixels need no table; with a table
# [CORE.run]           bytes of code of the run function, by what its calls are made of
# [CORE.code]          bytes of code of each file of nd_runtime/
# [CORE.instructions]  guest instructions of each kernel, for each time that a loop of it runs;
#                      the names are those of export/codegen/work.py
# [CORE.worst]         the largest error of the fit, in percent, of any network measured
"""


def core_text(core: Core, rows: Sequence[Case], measured: Measured) -> str:
    """The tables of one core."""
    run, kernels = fit_run(rows, measured), fit_kernels(rows, measured)
    worst = {"run": run.worst} | {name: found.worst for name, found in kernels.items()}
    lines = [f"[{core.name}]", f'cpu = "{core.cpu}"', f'board = "{core.board}"']
    lines += ["", f"[{core.name}.rest]"]
    lines += [f"{kind} = [{code}, {const}]" for kind, (code, const) in measured.rest.items()]
    lines += ["", f"[{core.name}.run]", *(f"{k} = {v}" for k, v in run.factors.items())]
    lines += ["", f"[{core.name}.code]", *(f"{k} = {v}" for k, v in measured.code.items())]
    lines += ["", f"[{core.name}.instructions]"]
    for name, found in kernels.items():
        cells = ", ".join(f"{k} = {v}" for k, v in found.factors.items())
        lines.append(f"{name} = {{ {cells} }}")
    lines += ["", f"[{core.name}.worst]", *(f"{k} = {100 * v:.1f}" for k, v in worst.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(gettempdir()) / "ndtool-kernel-costs")
    parser.add_argument("--core", choices=[core.name for core in CORES])
    arguments = parser.parse_args()
    rows = cases()
    print(f"{len(rows)} networks", flush=True)
    about = [
        "[about]",
        f"date = {datetime.now(UTC).date()}",
        f'compiler = "{version("arm-none-eabi-gcc")}"',
        f'compiler_rv32 = "{version(GCC)}"',
        f'qemu = "{version("qemu-system-arm")}"',
        'flags = "-std=c99 -O2 -ffunction-sections -fdata-sections, linked with --gc-sections"',
    ]
    parts = [_HEAD, "\n".join(about) + "\n"]
    for core in CORES:
        if arguments.core in (None, core.name):
            parts.append(core_text(core, rows, measure(core, rows, arguments.work)))
            print(parts[-1], flush=True)
    if arguments.core is None:
        OUT.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
