"""What the C of a program costs on a core, before it is built: flash and instructions.

Code sizes and instructions per unit of work of each kernel were measured by
`benchmarks/kernel_costs.py`, which writes `costs.toml` beside this file, with its versions.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

import numpy as np

from ndtool.contract import Contract
from ndtool.export.codegen.emit import MAX_BYTE_TABLE
from ndtool.export.codegen.engine import Compiled
from ndtool.export.codegen.program import Call, Struct, Table
from ndtool.export.codegen.runtime import runtime_files
from ndtool.export.codegen.work import call_work
from ndtool.quant.pixels import pixel_table

FIELD_BYTES: Final = 4  # of a struct: all are int32
REGISTER_ARGUMENTS: Final = 4  # the others of a call lie on the stack (AAPCS, 6.4)

# Core of boards.toml -> core measured, and whether that executes the same instructions: M0+ has
# those of M0, and neither an FPU nor RISC-V's atomic instructions make a difference to the kernels.
# The others stand in: M55 for M85, which the measuring compiler does not know; RISC-V for Xtensa,
# which like it has no load that moves its pointer.
CORES: Final[Mapping[str, tuple[str, bool]]] = MappingProxyType(
    {
        "cortex-m0+": ("m0", True),
        "cortex-m3": ("m3", True),
        "cortex-m4": ("m4", True),
        "cortex-m4f": ("m4", True),
        "cortex-m7": ("m7", True),
        "cortex-m33": ("m33", True),
        "cortex-m55": ("m55", True),
        "cortex-m85": ("m55", False),
        "rv32imac": ("rv32imc", True),
        "rv32imc": ("rv32imc", True),
        "xtensa": ("rv32imc", False),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """An estimate. `weights_bytes` is exact: the tables that the C has.

    `flash_bytes`: design, 9. `measured_core`: the core whose figures were taken; `exact_core`: it
    is the one asked for, or executes the same instructions.
    """

    weights_bytes: int
    code_bytes: int
    flash_bytes: int
    instructions: int
    call_instructions: tuple[int, ...]  # of each call
    measured_core: str
    exact_core: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreCosts:
    """One core of costs.toml, which explains the tables; `rest` is (code, constants)."""

    rest: Mapping[str, tuple[int, int]]
    run: Mapping[str, float]
    code: Mapping[str, int]
    instructions: Mapping[str, Mapping[str, float]]


def estimate(compiled: Compiled, core: str, *, contract: Contract | None = None) -> Cost:
    """Flash and instructions of `compiled` on `core`, a word of boards.toml (`cortex-m4f`).

    With the model's `contract`, its pixel quantiser counts too, as the self-test links it.
    """
    measured, exact = CORES[core]
    costs, calls = core_costs(measured), compiled.program.calls
    tables = {(table.ctype, table.data) for call in calls for table in call.tables}
    structs = {arg for call in calls for arg in call.args if isinstance(arg, Struct)}
    kernels = (name for name in runtime_files(compiled.program.kernels) if name.endswith(".c"))
    kind, pixel_bytes = _pixels(contract)
    rest_code, rest_const = costs.rest[kind]
    code = (
        sum(costs.code.get(name.removesuffix(".c"), 0) for name in kernels)
        + round(_total(costs.run, run_terms(calls)))
        + rest_code
    )
    stored = sum(len(data) + _word_padding(ctype, data) for ctype, data in tables)
    struct_bytes = sum(FIELD_BYTES * len(struct.fields) for struct in structs)
    counts = tuple(call_cost(call, measured) for call in calls)
    return Cost(
        weights_bytes=sum(len(data) for _, data in tables),
        code_bytes=code,
        flash_bytes=stored + struct_bytes + rest_const + pixel_bytes + code,
        instructions=sum(counts),
        call_instructions=counts,
        measured_core=measured,
        exact_core=exact,
    )


def call_cost(call: Call, measured_core: str) -> int:
    """Instructions of one call."""
    costs = core_costs(measured_core).instructions
    return round(_total(costs[call.kernel], call_work(call)))


def run_terms(calls: Sequence[Call]) -> Mapping[str, int]:
    """What the run function's code is made of: calls, their arguments, and addresses it keeps."""
    args = [arg for call in calls for arg in call.args]
    addresses = {
        (arg.ctype, arg.data) if isinstance(arg, Table) else arg
        for arg in args
        if isinstance(arg, Struct | Table)
    }
    constants = sum(isinstance(arg, Struct | Table) for arg in args)
    terms = {
        "fixed": 1,
        "call": len(calls),
        "address": len(addresses),
        "constant": constants,
        "place": len(args) - constants,
        "stacked": sum(max(len(call.args) - REGISTER_ARGUMENTS, 0) for call in calls),
    }
    return MappingProxyType(terms)


@cache
def core_costs(name: str) -> CoreCosts:
    """The measured core `name` (`m4`) of costs.toml."""
    file = resources.files("ndtool.export.codegen") / "costs.toml"
    rows = tomllib.loads(file.read_text("utf-8"))[name]
    return CoreCosts(
        rest=MappingProxyType(
            {kind: (code, const) for kind, (code, const) in rows["rest"].items()}
        ),
        run=MappingProxyType(rows["run"]),
        code=MappingProxyType(rows["code"]),
        instructions=MappingProxyType(rows["instructions"]),
    )


def _total(factors: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """Factors that the fit found to be 0 are not in the file."""
    return sum(factors.get(name, 0.0) * count for name, count in counts.items())


def _word_padding(ctype: str, data: bytes) -> int:
    """Bytes that a long table of bytes has more in C, where it is words."""
    is_words = ctype in ("int8_t", "uint8_t") and len(data) > MAX_BYTE_TABLE
    return -len(data) % 4 if is_words else 0


def _pixels(contract: Contract | None) -> tuple[str, int]:
    """The kind of pixel quantiser, and the bytes of its table."""
    if contract is None:
        return "none", 0
    if (pixel_table(contract) == np.arange(-128, 128)).all():
        return "pixels", 0
    return "table", 256 * contract.input.channels
