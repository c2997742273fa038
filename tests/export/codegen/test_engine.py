"""Graphs as C against tflite_micro: outputs, every tensor, and what the API promises."""

from __future__ import annotations

import ctypes
from pathlib import Path

import c_engine
import numpy as np
import pytest
from c_engine import Library
from engine_graphs import many_layers, two_ports
from single_op import inputs_for
from tflm import run_tflm

from ndtool.export.int8.ir import Graph
from ndtool.export.tflite.writer import write_tflite

pytestmark = pytest.mark.usefixtures("tflite_micro")
GRAPHS = (two_ports(), many_layers(), many_layers(37, seed=5))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return c_engine.build(GRAPHS, tmp_path_factory.mktemp("engine"), flags=c_engine.UBSAN)


def inputs_of(graph: Graph, n: int = 5) -> list[np.ndarray]:
    return inputs_for(graph, np.random.default_rng(9), n)


@pytest.mark.parametrize("k", range(len(GRAPHS)))
def test_outputs_are_the_reference_s(library: Library, k: int) -> None:
    inputs = inputs_of(GRAPHS[k])
    wanted = run_tflm(
        write_tflite(GRAPHS[k], description="test"), *inputs, outputs=len(GRAPHS[k].outputs)
    )
    for got, expected in zip(library.run(k, *inputs), wanted, strict=True):
        assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("k", range(len(GRAPHS)))
def test_every_tensor_is_the_reference_s(library: Library, k: int) -> None:
    inputs = inputs_of(GRAPHS[k])
    layers = library.run_layers(k, *inputs)
    wanted = run_tflm(write_tflite(GRAPHS[k], description="test"), *inputs, tensors=list(layers))
    for (tensor, got), expected in zip(layers.items(), wanted, strict=True):
        assert got.tobytes() == expected.tobytes(), tensor


def test_what_the_arena_held_before_does_not_matter(library: Library) -> None:
    """The library fills it with one byte; a second sample finds what the first one left."""
    inputs = inputs_of(GRAPHS[1])
    backwards = [x[::-1] for x in inputs]
    assert np.array_equal(library.run(1, *inputs)[0][::-1], library.run(1, *backwards)[0])


def aligned(size: int) -> tuple[np.ndarray, int]:
    """Memory of `size` bytes and its address, a multiple of 16."""
    memory = np.zeros(size + 16, np.int8)
    skip = -memory.ctypes.data % 16
    return memory[skip:], memory.ctypes.data + skip


def function(library: Library, name: str, result: type = ctypes.c_int) -> ctypes._FuncPointer:
    found = getattr(library.loaded, name)
    found.restype = result
    return found


@pytest.mark.parametrize("k", range(len(GRAPHS)))
def test_arena_is_checked(library: Library, k: int) -> None:
    total = library.models[k].plan.total
    _, address = aligned(total + 1)
    check = function(library, f"m{k}_check_arena")
    check.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    assert check(address, total) == 0
    assert check(None, total) == -1
    assert check(address, total - 1) == -2
    assert check(address + 1, total) == -3
    run = function(library, f"m{k}_run")
    run.argtypes = [ctypes.c_void_p]
    assert run(None) == -1
    assert run(address + 4) == -3
    assert run(address) == 0


def test_ports_are_known_by_their_numbers(library: Library) -> None:
    model = library.models[0]
    _, address = aligned(model.plan.total)
    for name, tensors in (("input", GRAPHS[0].inputs), ("output", GRAPHS[0].outputs)):
        port = function(library, f"m0_{name}_at", ctypes.c_void_p)
        port.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        offsets = [model.plan.offsets[f"t{tensor}"] for tensor in tensors]
        assert [port(address, i) - address for i in range(2)] == offsets
        assert [port(address, i) for i in (-1, 2, 2**31 - 1, -(2**31))] == [None] * 4
        assert port(None, 0) is None
        assert not hasattr(library.loaded, f"m0_{name}")


def test_port_of_a_null_arena_is_null(library: Library) -> None:
    for name in ("m1_input", "m1_output"):
        port = function(library, name, ctypes.c_void_p)
        port.argtypes = [ctypes.c_void_p]
        assert port(None) is None


def test_status_has_words(library: Library) -> None:
    words = function(library, "nd_status_str", ctypes.c_char_p)
    found = {words(code) for code in range(0, -7, -1)}
    assert len(found) == 7
    assert words(0) == b"ok"
    assert words(-6) == words(1) == b"unknown status"


def test_guards_find_what_is_written_outside(tmp_path: Path) -> None:
    """The library's own check: a kernel that writes one byte too many."""
    arena = c_engine.Arena(32)
    arena.check()
    ctypes.memset(arena.address + 32, 0, 1)
    with pytest.raises(AssertionError, match="above"):
        arena.check()
    arena = c_engine.Arena(32)
    ctypes.memset(arena.address - 1, 0, 1)
    with pytest.raises(AssertionError, match="below"):
        arena.check()
