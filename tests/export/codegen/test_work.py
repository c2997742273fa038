"""How often the loops of a kernel run: what is moved is counted by the kernels themselves.

Whether the other counts are the right ones shows in costs.toml: no fit is off by much.
"""

from __future__ import annotations

import ctypes
from collections import Counter

import numpy as np
import pytest
import single_op
from host_tools import C99, compile_ok
from kernel_calls import RUNTIME, Heap, run_calls
from single_op import Builder

from ndtool.export.codegen import work
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.codegen.lower import layers
from ndtool.export.codegen.program import Call, Read, Struct, Write
from ndtool.export.codegen.runtime import runtime_stems
from ndtool.export.codegen.work import call_work, known_kernels
from ndtool.export.int8.ir import Graph, Pad, TensorId

CASES_EACH = 40
INNER = {"nd_gemm_s8", "nd_patch_s8"}  # called by kernels only
MOVES = ("word_copy", "copied_word", "copied_byte", "filled_word", "filled_byte")
# The loops of the template's board/memory.c, as counters in the order of MOVES
COUNTED = """
#include <stdint.h>
#include <string.h>

extern int64_t moves[5];
int64_t moves[5];

void *memcpy(void *to, const void *from, size_t n)
{
    int8_t *out = (int8_t *)to;
    const int8_t *in = (const int8_t *)from;
    int64_t words = 0;

    if ((((uintptr_t)out ^ (uintptr_t)in) & 3U) == 0U) {
        for (; n > 0U && ((uintptr_t)out & 3U) != 0U; --n, ++moves[2]) {
            *out++ = *in++;
        }
        for (; n >= 4U; n -= 4U, ++words) {
            for (int i = 0; i < 4; ++i) {
                *out++ = *in++;
            }
        }
    }
    moves[0] += words > 0;
    moves[1] += words;
    for (; n > 0U; --n, ++moves[2]) {
        *out++ = *in++;
    }
    return to;
}

void *memset(void *to, int value, size_t n)
{
    int8_t *out = (int8_t *)to;

    for (; n > 0U && ((uintptr_t)out & 3U) != 0U; --n, ++moves[4]) {
        *out++ = (int8_t)value;
    }
    for (; n >= 4U; n -= 4U, ++moves[3]) {
        for (int i = 0; i < 4; ++i) {
            *out++ = (int8_t)value;
        }
    }
    for (; n > 0U; --n, ++moves[4]) {
        *out++ = (int8_t)value;
    }
    return to;
}
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All kernels, which count what they move."""
    folder = tmp_path_factory.mktemp("counting")
    (folder / "counted.c").write_text(COUNTED)
    sources = [folder / "counted.c", *sorted(RUNTIME.glob("*.c"))]
    renamed = ("-Dmemcpy=counted_memcpy", "-Dmemset=counted_memset")
    options = ("-O1", "-fPIC", "-shared", *renamed, "-o", "kernels.so")
    compile_ok(C99, sources, *options, cwd=folder)
    return ctypes.CDLL(str(folder / "kernels.so"))


def pad_of_rows(rng: np.random.Generator) -> Graph:
    """Padding in every dimension, and rows long enough to have words."""
    b, shared = Builder(), (0.5, 3)
    shape = (1, *(int(n) for n in rng.integers(2, 4, 3)), int(rng.integers(4, 10)))
    pairs = ((0, 0), *((int(p), int(q)) for p, q in rng.integers(1, 4, (4, 2))))
    x = b.activation(shape, shared)
    out = b.activation([n + p + q for n, (p, q) in zip(shape, pairs, strict=True)], shared)
    return b.graph(Pad(x=x, paddings_id=b.int32(pairs), out=out, paddings=pairs), x)


CASES = {**single_op.CASES, "PAD of rows": pad_of_rows}


def random_graph(name: str, number: int) -> Graph:
    return CASES[name](np.random.default_rng([sorted(CASES).index(name), 5, number]))


def added(calls: tuple[Call, ...]) -> Counter[str]:
    total: Counter[str] = Counter()
    for call in calls:
        total.update(call_work(call))
    return total


@pytest.mark.parametrize("name", sorted(CASES))
def test_moved_bytes_are_those_that_the_kernels_move(
    name: str, kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "BAND_SCRATCH", 60)  # so that small images have several bands
    counters = (ctypes.c_int64 * len(MOVES)).in_dll(kernels, "moves")
    for number in range(CASES_EACH):
        program = compile_graph(random_graph(name, number)).program
        tensors = {t for call in program.calls for t in (*call.reads, call.out)}
        memory = Heap({t: program.graph.tensor(t).elements for t in sorted(tensors)})
        counters[:] = [0] * len(MOVES)
        run_calls(kernels, program.calls, memory)
        memory.free()
        found = added(program.calls)
        assert [found[m] for m in MOVES] == list(counters), (name, number)


def test_a_large_image_is_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = [random_graph("CONV_2D", number) for number in range(CASES_EACH)]
    calls = [call for graph in graphs for call in compile_graph(graph).program.calls]
    whole = [call_work(call) for call in calls]
    monkeypatch.setattr(work, "MAX_AT_ONCE", 7)
    assert [call_work(call) for call in calls] == whole


def test_many_rows_are_counted_at_once() -> None:
    shape = Struct(
        type="nd_copy_shape",
        fields=(("rows", 2**30), ("n", 4), ("in_step", 5), ("out_step", 4)),
    )
    call = Call(
        kernel="nd_copy_s8",
        op=0,
        title="",
        args=(shape, Read(tensor=TensorId(0)), Write(tensor=TensorId(1))),
    )
    found = call_work(call)
    # every fourth row has both sides aligned alike
    assert (found["copied_word"], found["copied_byte"]) == (2**28, 3 * 2**30)


def test_every_kernel_is_known_and_an_unknown_one_is_a_bug() -> None:
    sources = {path.stem for path in RUNTIME.glob("*.c")}
    assert known_kernels() == sources - INNER - {"nd_runtime"}
    assert known_kernels() <= runtime_stems()
    with pytest.raises(AssertionError, match="nd_gemm_s8 has no entry"):
        call_work(Call(kernel="nd_gemm_s8", op=0, title="", args=()))


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_names_of_a_kernel_are_always_the_same(name: str) -> None:
    names: dict[str, set[str]] = {}
    for number in range(CASES_EACH):
        for call in compile_graph(random_graph(name, number)).program.calls:
            found = set(call_work(call))
            assert names.setdefault(call.kernel, found) == found
            assert all(count >= 0 for count in call_work(call).values())
