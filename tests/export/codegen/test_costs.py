"""Flash and instructions before anything is built, against what is built and run."""

from __future__ import annotations

import itertools
import tomllib
from collections import Counter
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from array_models import tiny_contract
from engine_models import contract_graph, unproved_model
from host_tools import require_tool
from int8_network import network
from kernel_calls import RUNTIME
from qemu_engine import require_cross_tools
from random_graphs import random_graph
from residual_network import narrow_network, residual_network
from rv32_board import GCC, QEMU, build_rv32, run_rv32

from ndtool import targets
from ndtool.contract import Contract, mean_std_normalize, unit_normalize
from ndtool.export import qemu
from ndtool.export.codegen.boards import find_board
from ndtool.export.codegen.costs import CORES, core_costs, estimate
from ndtool.export.codegen.emit import emit_program
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.codegen.engine_project import emit_engine
from ndtool.export.codegen.work import call_work, known_kernels
from ndtool.export.elf_facts import pieces, read_elf_facts
from ndtool.export.int8.ir import Graph
from ndtool.export.profile import profile, profile_by
from ndtool.export.toolchain import version_of

FLASH, INSTRUCTIONS = 0.03, 0.05  # relative; the largest seen are 0.002 and 0.02
WORST_FIT_PERCENT = 6.0
OTHER_COMPILER = 0.15  # relative
PACKAGE = "ndtool.export.codegen"
TEMPLATE = "cortex-m-qemu"
WORD = {"m0": "cortex-m0+", "m3": "cortex-m3", "m4": "cortex-m4f", "m7": "cortex-m7"} | {
    "m55": "cortex-m55"
}
UNIT = tiny_contract(unit_normalize(3))
MEAN_STD = tiny_contract(mean_std_normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.2)))
BOARDS = ("microbit", "mps2-an385", "mps2-an500", "mps3-an547")
GRAPHS = {"network": network, "residual": residual_network, "narrow": narrow_network}
TOO_LARGE = ("residual", "microbit")
PAIRS = [pair for pair in itertools.product(GRAPHS, BOARDS) if pair != TOO_LARGE]


def costs_file() -> dict[str, dict]:
    return tomllib.loads((resources.files(PACKAGE) / "costs.toml").read_text("utf-8"))


def measured_cores() -> list[str]:
    return sorted({core for core, _ in CORES.values()})


def test_every_core_of_the_boards_has_figures() -> None:
    assert set(CORES) == set(targets.CORES)
    for word, (measured, exact) in CORES.items():
        cost = estimate(compile_graph(network()), word)
        assert (cost.measured_core, cost.exact_core) == (measured, exact)
        assert cost.instructions > 0
        assert cost.flash_bytes > cost.weights_bytes + cost.code_bytes


@pytest.mark.parametrize("core", measured_cores())
def test_every_kernel_has_code_and_instructions(core: str) -> None:
    costs = core_costs(core)
    assert set(costs.code) == {path.stem for path in RUNTIME.glob("*.c")} - {"nd_runtime"}
    assert set(costs.instructions) == known_kernels()
    for factors in costs.instructions.values():
        assert factors
        assert all(factor > 0 for factor in factors.values())


@pytest.mark.parametrize("seed", range(12))
def test_the_file_s_names_are_those_of_the_work(seed: int) -> None:
    for call in compile_graph(random_graph(seed)).program.calls:
        for core in measured_cores():
            assert core_costs(core).instructions[call.kernel].keys() <= call_work(call).keys()


def test_no_fit_is_off_by_much() -> None:
    rows = costs_file()
    assert set(rows) == {"about", *measured_cores()}
    for core in measured_cores():
        worst = rows[core]["worst"]
        assert set(worst) == known_kernels() | {"run"}
        assert max(worst.values()) < WORST_FIT_PERCENT, core


@pytest.mark.parametrize("seed", range(12))
def test_weights_are_exact(seed: int) -> None:
    compiled = compile_graph(random_graph(seed))
    cost = estimate(compiled, "cortex-m4")
    assert cost.weights_bytes == emit_program(compiled, prefix="m").weights_bytes
    assert len(cost.call_instructions) == len(compiled.program.calls)
    assert sum(cost.call_instructions) == cost.instructions


def test_pixels_cost_what_the_contract_says() -> None:
    compiled = compile_graph(contract_graph(MEAN_STD))
    without, unit, table = (
        estimate(compiled, "cortex-m4", contract=contract) for contract in (None, UNIT, MEAN_STD)
    )
    assert without.flash_bytes < unit.flash_bytes < table.flash_bytes - 3 * 256
    assert without.instructions == unit.instructions == table.instructions


@pytest.mark.slow
@pytest.mark.parametrize(("name", "board"), PAIRS, ids=map(" ".join, PAIRS))
def test_estimates_are_what_is_measured(name: str, board: str, tmp_path: Path) -> None:
    require_cross_tools()
    graph = GRAPHS[name]()
    compiled = compile_graph(graph)
    elf = build(graph, tmp_path, board)
    cost = estimate(compiled, WORD[find_board(board).core])
    facts = read_elf_facts(elf, "m")
    assert cost.flash_bytes == pytest.approx(facts.flash_bytes, rel=FLASH)
    assert cost.code_bytes == pytest.approx(facts.code_bytes, rel=FLASH)
    size = sum(graph.tensor(t).elements for t in graph.inputs)
    counted = profile(elf, board, "m", np.random.default_rng(2).bytes(size))
    assert cost.instructions == pytest.approx(counted.instructions, rel=INSTRUCTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("contract", [UNIT, MEAN_STD], ids=["unit", "mean-std"])
def test_flash_with_a_contract(contract: Contract, tmp_path: Path) -> None:
    require_cross_tools()
    graph = contract_graph(contract)
    facts = read_elf_facts(build(graph, tmp_path, "mps2-an386", contract), "m")
    cost = estimate(compile_graph(graph), "cortex-m4", contract=contract)
    assert cost.flash_bytes == pytest.approx(facts.flash_bytes, rel=FLASH)


@pytest.mark.slow
def test_code_sizes_are_those_of_the_kernels_as_they_are_now(tmp_path: Path) -> None:
    """A kernel was changed: make bench-costs."""
    require_cross_tools()
    same = version_of("arm-none-eabi-gcc") == costs_file()["about"]["compiler"]
    elf = build(network(), tmp_path, "mps2-an386")
    sizes: Counter[str] = Counter()
    for piece in pieces(elf.with_suffix(".map")):
        if piece.object.parent.name == "nd_runtime" and piece.output == ".text":
            sizes[piece.object.stem] += piece.size
    del sizes["nd_runtime"]
    assert len(sizes) > 5
    wanted = {name: core_costs("m4").code[name] for name in sizes}
    assert sizes == pytest.approx(wanted, rel=0 if same else OTHER_COMPILER)


@pytest.mark.slow
def test_risc_v(tmp_path: Path) -> None:
    """Compiled for RV32IMAC: the atomic instructions of it make no difference."""
    for tool in (GCC, QEMU):
        require_tool(tool)
    require_cross_tools()  # for the counter
    graph = network()
    write(graph, tmp_path)
    elf = build_rv32(tmp_path, "m")
    (size,) = (graph.tensor(t).elements for t in graph.inputs)
    data = np.random.default_rng(2).bytes(size) * 2
    counted = profile_by(elf, "m", lambda plugin: _run(elf, data, tmp_path, plugin))
    cost = estimate(compile_graph(graph), "rv32imac")
    assert cost.instructions == pytest.approx(counted.instructions, rel=INSTRUCTIONS)
    assert cost.flash_bytes == pytest.approx(read_elf_facts(elf, "m").flash_bytes, rel=FLASH)


def _run(elf: Path, data: bytes, folder: Path, plugin: str) -> None:
    run_rv32(elf, data, cwd=folder, plugin=plugin)


def build(graph: Graph, folder: Path, board: str, contract: Contract | None = None) -> Path:
    """The ELF of `graph`."""
    write(graph, folder, contract)
    return qemu.build(folder, "m", board)


def write(graph: Graph, folder: Path, contract: Contract | None = None) -> None:
    """The project of `graph`, whose golden vector is never looked at."""
    model = unproved_model(compile_graph(graph), "m")
    if contract is not None:
        shape = graph.tensor(graph.inputs[0]).shape
        golden = replace(model.golden, pixels=np.zeros(shape, np.uint8))
        model = replace(model, contract=contract, golden=golden)
    for name, data in emit_engine(model, TEMPLATE).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
