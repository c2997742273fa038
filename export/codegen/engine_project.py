"""The projects of the C engine (design, 5; users.md, 4): a model as C without an interpreter.

Pure: an `EngineModel` in, file names and bytes out; the same model gives the same bytes anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from ndtool.export.codegen.arena import memory_csv, memory_rows, tensor_offset
from ndtool.export.codegen.arena_picture import arena_svg
from ndtool.export.codegen.boards import BOARDS, DEFAULT_BOARD
from ndtool.export.codegen.emit import ProgramText, emit_program
from ndtool.export.codegen.engine import Compiled
from ndtool.export.codegen.layers import layer_facts
from ndtool.export.codegen.model import (
    ALONE,
    OF_CONTRACT,
    FolderNames,
    Macro,
    Model,
    check_contract,
    io_macros,
    io_names,
    marker_name,
    model_context,
    model_facts,
    prefixed_macros,
)
from ndtool.export.codegen.naming import check_prefix
from ndtool.export.codegen.plan import ALIGN
from ndtool.export.codegen.project import with_marker
from ndtool.export.codegen.render import render_project
from ndtool.export.codegen.runtime import FOLDER, runtime_files, runtime_version
from ndtool.export.int8.ir import TensorId, op_name

CORE: Final = "portable"  # the tier
_FNV_BASIS: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineModel(Model):
    """Everything the generated files say. `arena_bytes_tflm`: what TFLM needs, None if unknown."""

    compiled: Compiled
    arena_bytes_tflm: int | None


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output: its macros begin with PREFIX_ROLE (`INPUT`, or `INPUT0` of several).

    `pointer` is the C expression of its place in the arena `arena`; `offset` that in bytes from
    the arena's start; `start` its first byte in a sample of all inputs, or outputs, in order.
    """

    role: str
    pointer: str
    offset: int
    start: int


def emit_engine(
    model: EngineModel, template: str, *, names: FolderNames = ALONE
) -> dict[str, bytes]:
    """File name -> content of the whole project of `template`: posix, cmake or cortex-m-qemu.

    Raises:
        ConfigError: the prefix is not usable.
        ContractError: the contract belongs to another model, or a label fits no C string.
    """
    prefix = check_prefix(model.prefix)
    if model.contract is not None:
        check_contract(model.graph, model.contract)
    text = emit_program(model.compiled, prefix=prefix)
    files = render_project(
        template,
        engine_context(model, text, names),
        prefix=prefix,
        without=OF_CONTRACT if model.contract is None else frozenset(),
        rename={"README.md": names.readme},
    )
    program, plan = model.compiled.program, model.compiled.plan
    rows = memory_rows(program, plan)
    files |= project_runtime(model.compiled)
    files[names.tflite] = model.tflite
    files[f"{prefix}_memory.csv"] = memory_csv(rows)
    files[f"{prefix}_arena.svg"] = arena_svg(program, plan, title=prefix)
    facts = {**_facts(model, text, names), "template": template}
    return with_marker(files, marker=marker_name(prefix), facts=facts)


def project_runtime(compiled: Compiled) -> dict[str, bytes]:
    """The runtime's files that the program needs, as they are named in a project."""
    files = runtime_files(compiled.program.kernels)
    return {f"{FOLDER}/{name}": data for name, data in files.items()}


def engine_context(model: EngineModel, text: ProgramText, names: FolderNames) -> dict[str, object]:
    """Variables of the engine's templates, beside those of `model_context`.

    core              tier, such as "portable"
    runtime_version   0xMMmmpp
    runtime_sources   the .c files of nd_runtime/ that this model needs, with the folder
    kernel_headers    the kernels' headers, without folder
    sources           the model's own .c files: what a firmware compiles, without the test program
    size_macros       `#define`s of arena, inputs and outputs
    arena_bytes       exact
    inputs, outputs   Port of each, in the model's order
    structs, tables, body, layers   the texts of `emit.ProgramText`
    has_words         some table is packed into words
    weights_bytes     bytes of all tables
    golden_hashes     FNV-1a of each golden input, as the self-test computes it
    arena_bytes_tflm  None if unknown;  operators: TFLite's names;  macs: of one inference
    boards            `boards.BOARDS`, for QEMU;  default_board: the name of one
    """
    program, plan = model.compiled.program, model.compiled.plan
    graph = model.graph
    macros: list[Macro] = [
        ("ARENA_BYTES", str(plan.total), "exact: activations and scratch, input and output"),
        ("ARENA_ALIGN", str(ALIGN), "of the arena's start"),
        ("CORE", f'"{CORE}"', "the cores it was generated for"),
    ]
    runtime = project_runtime(model.compiled)
    own = [".c", "_data.c", "_golden.c"]
    own += [] if model.contract is None else ["_labels.c", "_pixels.c"]
    return {
        **model_context(model, names),
        "core": CORE,
        "runtime_version": runtime_version(),
        "runtime_sources": [name for name in runtime if name.endswith(".c")],
        "kernel_headers": [f"{kernel}.h" for kernel in program.kernels],
        "sources": [f"{model.prefix}{end}" for end in own],
        "size_macros": prefixed_macros(model.prefix, [*macros, *io_macros(model)]),
        "arena_bytes": plan.total,
        "inputs": _ports(model, "INPUT", graph.inputs),
        "outputs": _ports(model, "OUTPUT", graph.outputs),
        "structs": text.structs,
        "tables": text.tables,
        "body": text.body,
        "layers": text.layers,
        "has_words": any(table.is_words for table in text.tables),
        "weights_bytes": text.weights_bytes,
        "golden_hashes": [f"0x{fnv1a(row.tobytes()):08x}U" for row in model.golden.inputs],
        "arena_bytes_tflm": model.arena_bytes_tflm,
        "operators": sorted({op_name(op) for op in graph.ops}),
        "macs": sum(call.macs for call in program.calls),
        "boards": BOARDS,
        "default_board": DEFAULT_BOARD,
    }


def _ports(model: EngineModel, role: str, tensors: Sequence[TensorId]) -> list[Port]:
    program, plan = model.compiled.program, model.compiled.plan
    call = f"{model.prefix}_{role.lower()}"
    ports, start = [], 0
    for index, (name, tensor) in enumerate(io_names(role, tensors)):
        pointer = f"{call}(arena)" if len(tensors) == 1 else f"{call}_at(arena, {index})"
        ports.append(Port(name, pointer, tensor_offset(program, plan, tensor), start))
        start += model.graph.tensor(tensor).elements
    return ports


def fnv1a(data: bytes) -> int:
    """The 32-bit FNV-1a hash."""
    value = _FNV_BASIS
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return value


def _facts(model: EngineModel, text: ProgramText, names: FolderNames) -> dict[str, object]:
    """The marker's content beside template and hashes."""
    program, plan = model.compiled.program, model.compiled.plan
    return {
        **model_facts(model, names),
        "core": CORE,
        "runtime_version": runtime_version(),
        "kernels": list(program.kernels),
        "arena_bytes": plan.total,
        "arena_bytes_tflm": model.arena_bytes_tflm,
        "weights_bytes": text.weights_bytes,
        "macs": sum(call.macs for call in program.calls),
        "layers": [layer_facts(layer) for layer in text.layers],
        "calls": [asdict(row) for row in memory_rows(program, plan)],
    }
