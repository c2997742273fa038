"""The engine's comparison with tflite_micro finds deliberate faults in every kernel."""

import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import c_engine
import numpy as np
import pytest
import wide_ops
from c_mutants import Mutant, with_fault
from int8_network import network
from residual_network import narrow_network, residual_network
from single_op import CASES, inputs_for
from tflm import run_tflm

from ndtool.export.int8.ir import Graph
from ndtool.export.tflite.writer import write_tflite

MODELS_OF_A_KIND = 12

MUTANTS = (
    Mutant("product rounded too low", "nd_requant.h", "(int64_t)1 << 30", "(int64_t)1 << 29"),
    Mutant("product truncated", "nd_requant.h", " + ((int64_t)1 << 30)", ""),
    Mutant("ties of a shift go up", "nd_requant.h", "(x + (x >> 31))", "x"),
    Mutant("shift truncates", "nd_requant.h", ">> (right - 1)) + 1) >> 1", ">> (right - 1))) >> 1"),
    Mutant("left shift forgotten", "nd_requant.h", "acc * ((int32_t)1 << shift)", "acc"),
    Mutant(
        "no clamp in the second row",
        "nd_gemm_s8.c",
        "nd_clamp(y1, shape->act_min, shape->act_max)",
        "nd_clamp(y1, -128, 127)",
    ),
    Mutant("a row taken for the other", "nd_gemm_s8.c", "s11 += x1", "s11 += x0"),
    Mutant(
        "output zero point left out", "nd_gemm_s8.c", "shift) + shape->out_zp", "shift)", times=2
    ),
    Mutant("axes of padding swapped", "nd_patch_s8.c", "- shape->pad_top", "- shape->pad_left"),
    Mutant("padding one column off", "nd_patch_s8.c", "nd_clamp(-x, 0", "nd_clamp(1 - x, 0"),
    Mutant(
        "padding with 0",
        "nd_patch_s8.c",
        "memset(patch, shape->in_zp, (size_t)(left",
        "memset(patch, 0, (size_t)(left",
    ),
    Mutant(
        "axes of dilation swapped",
        "nd_patch_s8.c",
        "y += shape->dilation_h",
        "y += shape->dilation_w",
    ),
    Mutant(
        "operands of a fused sum swapped",
        "nd_conv_add_s8.c",
        "conv[o], other[at + o]",
        "other[at + o], conv[o]",
    ),
    Mutant("a pixel left out", "nd_pointwise_s8.c", "(shape->pixels + 1) / 2", "shape->pixels / 2"),
    Mutant("always upwards", "nd_conv_s8.c", "shape->down, i", "0, i"),
    Mutant(
        "depthwise padding swapped",
        "nd_depthwise_s8.c",
        "- shape->pad_top +",
        "- shape->pad_left +",
    ),
    Mutant("a tap of 3x3 off", "nd_depthwise_s8.c", "w12 * r1[2]", "w12 * r1[1]"),
    Mutant(
        "strides of any kernel swapped",
        "nd_depthwise_s8.c",
        "x * shape->stride_w;",
        "x * shape->stride_h;",
    ),
    Mutant(
        "rows gathered again in place",
        "nd_depthwise_s8.c",
        "(needed > band_step) ? needed - band_step : 0",
        "0",
    ),
    Mutant(
        "depthwise padding with 0",
        "nd_depthwise_s8.c",
        "memset(scratch, shape->in_zp",
        "memset(scratch, 0",
    ),
    Mutant("one input short", "nd_fully_connected_s8.c", "i < shape->c_in", "i < shape->c_in - 1"),
    Mutant(
        "dense clamp forgotten",
        "nd_fully_connected_s8.c",
        "shape->act_min, shape->act_max",
        "-128, 127",
    ),
    Mutant("sum lifted too little", "nd_add.h", "(int32_t)1 << 20", "(int32_t)1 << 19"),
    Mutant("sign of a difference", "nd_add.h", "f->b_sign * b_term", "b_term"),
    Mutant(
        "broadcast by the other's step",
        "nd_broadcast.h",
        "at->b += shape->b_row",
        "at->b += shape->a_row",
    ),
    Mutant("factor's zero point forgotten", "nd_mul_s8.c", "(*y - factors->b_zp)", "(*y)"),
    Mutant("mean rounds up below 0", "nd_average_pool_s8.c", "-(count / 2)", "(count / 2)"),
    Mutant(
        "mean counts padding",
        "nd_average_pool_s8.c",
        "window.rows * window.columns",
        "shape->kh * shape->kw",
    ),
    Mutant("smallest for largest", "nd_max_pool_s8.c", "*in > largest", "*in < largest"),
    Mutant("pool padding swapped", "nd_pool.h", "- shape->pad_left", "- shape->pad_top"),
    Mutant("zero point of a mean", "nd_mean_s8.c", " + shape->out_zp", ""),
    Mutant("two Newton steps less", "nd_softmax_s8.c", "step < 3", "step < 1"),
    Mutant("softmax twice as large", "nd_softmax_s8.c", "SUM_RIGHT + 31 - 8", "SUM_RIGHT + 31 - 9"),
    Mutant("rows of a part", "nd_copy_s8.c", "in += shape->in_step", "in += shape->n"),
    Mutant("pad with 0", "nd_pad_s8.c", "memset(out, shape->fill", "memset(out, 0"),
    Mutant("slice without stride", "nd_slice_s8.c", "from[i * shape->step]", "from[i]"),
    Mutant(
        "first column only", "nd_resize_nearest_s8.c", "(int32_t)columns[x]", "(int32_t)columns[0]"
    ),
    Mutant(
        "table upside down",
        "nd_table_s8.c",
        "= table[in[i] + 128];\n    }",
        "= table[127 - in[i]];\n    }",
    ),
)


@dataclass(frozen=True)
class Suite:
    """Models of every operator as C, inputs for each, and what tflite_micro makes of them."""

    library: c_engine.Library
    folder: Path
    inputs: list[list[np.ndarray]]
    wanted: list[list[np.ndarray]]

    def differing(self, library: c_engine.Library) -> int:
        """Number of models of which any output byte differs."""
        return sum(
            any(
                (got != want.reshape(got.shape)).any()
                for got, want in zip(library.run(k, *inputs), self.wanted[k], strict=True)
            )
            for k, inputs in enumerate(self.inputs)
        )

    def is_right(self, library: c_engine.Library) -> bool:
        """Whether all models run, within a minute, and none differs.

        In a process of its own: a fault may crash or hang it.
        """
        fork = multiprocessing.get_context("fork")
        child = fork.Process(target=lambda: sys.exit(min(self.differing(library), 100)))
        child.start()
        child.join(timeout=60)
        child.kill()
        child.join()
        return child.exitcode == 0


def models() -> Iterator[Graph]:
    yield network()
    yield residual_network()
    yield narrow_network()
    for name, make in {**CASES, **wide_ops.WIDE}.items():
        rng = np.random.default_rng(list(name.encode()))
        for _ in range(MODELS_OF_A_KIND):
            yield make(rng)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("mutants") / "engine"
    graphs = list(models())
    rng = np.random.default_rng(11)
    inputs = [inputs_for(graph, rng, images=4) for graph in graphs]
    wanted = [
        run_tflm(write_tflite(graph, description="mutants"), *given, outputs=len(graph.outputs))
        for graph, given in zip(graphs, inputs, strict=True)
    ]
    return Suite(c_engine.build(graphs, folder), folder, inputs, wanted)


@pytest.mark.slow
def test_without_a_fault_nothing_differs(suite: Suite) -> None:
    assert suite.is_right(suite.library)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_is_found(suite: Suite, mutant: Mutant) -> None:
    assert not suite.is_right(with_fault(suite.library, suite.folder, mutant))
