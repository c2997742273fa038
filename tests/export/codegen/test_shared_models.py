"""Published models as C: every tensor of them equal to tflite_micro's, and the arena they need."""

from __future__ import annotations

from pathlib import Path

import c_engine
import numpy as np
import pytest
from shared_models import shared_model
from tflm import run_tflm

from ndtool.export.tflite.reader import read_tflite

pytestmark = [pytest.mark.usefixtures("tflite_micro"), pytest.mark.slow]
# bytes; TFLM's own arena is 82,308, 22,820, 100,708 and 54,996
MAX_ARENA = {"person_detect": 40_000, "kws": 11_000, "vww_96": 50_000, "resnet8": 36_000}
SAMPLES = 100


def made_inputs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Half random bytes, half smooth: a few waves over the whole range."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(-128, 128, (SAMPLES // 2, *shape))
    rows, columns = np.meshgrid(*(np.linspace(0, 6, n) for n in shape[:2]), indexing="ij")
    smooth = []
    for _ in range(SAMPLES // 2):
        a, b, phase = rng.uniform(-2, 2, 3)
        wave = 127 * np.sin(a * rows + b * columns + phase + rng.uniform(-1, 1))
        smooth.append(np.repeat(wave[..., None], shape[2], axis=2) * rng.uniform(0.3, 1, shape[2]))
    return np.concatenate([noise, np.rint(smooth)]).astype(np.int8)


@pytest.mark.parametrize("name", MAX_ARENA)
def test_every_tensor_and_the_arena(name: str, tmp_path: Path) -> None:
    tflite = shared_model(name)
    graph = read_tflite(tflite)
    library = c_engine.build([graph], tmp_path / "c", flags=("-O2",))
    program = library.models[0].program
    assert library.models[0].plan.total <= MAX_ARENA[name]
    inputs = made_inputs(graph.tensor(graph.inputs[0]).shape[1:], seed=len(name))
    layers = library.run_layers(0, inputs)
    formed = {op.out for op in graph.ops} - program.fused  # type: ignore[union-attr]
    assert set(layers) == formed
    wanted = run_tflm(tflite, inputs, tensors=list(layers))
    assert library.differences(0, layers, wanted) == []
    output = graph.outputs[0]
    assert library.run(0, inputs)[0].tobytes() == layers[output].tobytes()
