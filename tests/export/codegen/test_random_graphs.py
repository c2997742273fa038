"""Random graphs of many inputs and outputs as C: every tensor equal to tflite_micro's."""

from __future__ import annotations

from pathlib import Path

import c_engine
import numpy as np
import pytest
from random_graphs import random_graph
from tflm import run_tflm

from ndtool.export.int8.ir import op_outputs
from ndtool.export.int8.spec import find_problems
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite

pytestmark = [pytest.mark.usefixtures("tflite_micro"), pytest.mark.slow]
GRAPHS = 40  # of a library
FILLS = (0x5A, 0xA5)


def images(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Random bytes, and the least and the largest of them."""
    made = rng.integers(-128, 128, (6, *shape))
    made[0], made[1] = -128, 127
    return made.astype(np.int8)


@pytest.mark.parametrize("first", range(0, 3 * GRAPHS, GRAPHS))
def test_every_tensor_of_random_graphs(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the arena held before: a byte that no call formed would show."""
    legal = {seed: random_graph(seed) for seed in range(first, first + GRAPHS)}
    legal = {seed: graph for seed, graph in legal.items() if not find_problems(graph)}
    assert len(legal) > 0.8 * GRAPHS
    files = {seed: write_tflite(graph, description="test") for seed, graph in legal.items()}
    graphs = [read_tflite(data) for data in files.values()]
    library = c_engine.build(graphs, tmp_path / "c", flags=c_engine.UBSAN)
    for k, (seed, data) in enumerate(files.items()):
        graph, rng = graphs[k], np.random.default_rng(seed)
        inputs = [images(graph.tensor(t).shape[1:], rng) for t in graph.inputs]
        outputs = run_tflm(data, *inputs, outputs=len(graph.outputs))
        for fill in FILLS:
            monkeypatch.setattr(c_engine, "FILL", fill)
            layers = library.run_layers(k, *inputs)
            formed = {t for op in graph.ops for t in op_outputs(op)}
            assert layers.keys() == formed - library.models[k].program.fused, f"seed {seed}"
            wanted = run_tflm(data, *inputs, tensors=list(layers))
            assert library.differences(k, layers, wanted) == [], f"seed {seed}"
            for got, expected in zip(library.run(k, *inputs), outputs, strict=True):
                assert got.tobytes() == expected.tobytes(), f"seed {seed}"
