"""From a .tflite to a project: graph, golden vectors of the reference, arena."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import int8_models
import numpy as np
import pytest
from array_models import tiny_contract
from engine_graphs import two_ports
from float_ends import with_float_ends
from host_tools import C99, compile_ok
from shared_models import shared_model
from tflm import run_tflm

from ndtool.contract import Contract, InputSpec, Resize, unit_normalize
from ndtool.errors import ConfigError, ContractError, InputError, require
from ndtool.export.codegen import tflm
from ndtool.export.codegen.array import ArrayModel, emit_array
from ndtool.export.codegen.model import Model
from ndtool.export.firmware import Source, build_array_model, build_engine_model
from ndtool.export.runners import tflm_arena_bytes
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite
from ndtool.files import sha256_bytes
from ndtool.quant.pixels import quantize_pixels

pytestmark = pytest.mark.usefixtures("tflite_micro")

SIDE = 6
CONTRACT = Contract(
    input=InputSpec(height=SIDE, width=SIDE, channels=1, color="GRAY"),
    resize=Resize(),
    normalize=unit_normalize(1),
    labels=("a", "b", "c"),
)
TFLITE = int8_models.tiny_model(classes=3, side=SIDE)
IMAGES = np.random.default_rng(5).integers(0, 256, (10, SIDE, SIDE, 1)).astype(np.uint8)


Builder = Callable[..., Model]


def source(
    *,
    tflite: bytes = TFLITE,
    contract: Contract | None = CONTRACT,
    golden: int = 4,
    prefix: str = "nd_model",
) -> Source:
    return Source(tflite=tflite, contract=contract, pixels=IMAGES, prefix=prefix, golden=golden)


def build(
    *, contract: Contract | None = CONTRACT, golden: int = 4, prefix: str = "nd_model"
) -> ArrayModel:
    made = source(contract=contract, golden=golden, prefix=prefix)
    return build_array_model(made, progress=lambda done: None)


@pytest.fixture(scope="module")
def built() -> ArrayModel:
    return build()


def reference(tflite: bytes, inputs: np.ndarray, arena_bytes: int) -> np.ndarray:
    """tflite_micro in this process, with an arena of that size."""
    runtime = require("tflite_micro").runtime
    interpreter = runtime.Interpreter.from_bytes(tflite, arena_size=arena_bytes)
    rows = []
    for row in inputs:
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        rows.append(interpreter.get_output(0)[0])
    return np.stack(rows)


def test_golden_vectors_are_the_reference_s(built: ArrayModel) -> None:
    """Evenly spaced images; and the arena that we print is one that works."""
    golden = built.golden
    assert golden.pixels is not None
    assert np.array_equal(golden.pixels, IMAGES[[0, 2, 5, 7]])
    quantized = quantize_pixels(golden.pixels, CONTRACT)
    assert np.array_equal(golden.inputs, quantized.reshape(4, -1))
    assert np.array_equal(golden.outputs, reference(TFLITE, quantized, built.arena_bytes))
    assert "0, 2, 5, 7" in golden.origin
    assert golden.engine.startswith("tflite-micro 0.")


def test_no_more_vectors_than_images() -> None:
    golden = build(golden=11).golden
    assert golden.pixels is not None
    assert np.array_equal(golden.pixels, IMAGES)


def test_foreign_model_gets_random_inputs() -> None:
    model = build(contract=None)
    assert model.golden.pixels is None
    assert model.golden.inputs.shape == (4, SIDE * SIDE)
    assert len(np.unique(model.golden.inputs)) > 64
    images = model.golden.inputs.reshape(4, SIDE, SIDE, 1)
    assert np.array_equal(model.golden.outputs, reference(TFLITE, images, model.arena_bytes))
    assert "nd_model_labels.c" not in emit_array(model)


def test_project_is_the_same_every_time(built: ArrayModel) -> None:
    assert emit_array(built) == emit_array(build())


@pytest.mark.parametrize("golden", [0, -1, 257])
def test_number_of_vectors_is_bounded(golden: int) -> None:
    with pytest.raises(ConfigError) as caught:
        build(golden=golden)
    assert caught.value.code == "codegen.golden"


def test_bad_input_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError):
        build(prefix="Bad")
    with pytest.raises(ContractError):
        build(contract=tiny_contract(unit_normalize(3)))
    for make in (build_array_model, build_engine_model):
        with pytest.raises(InputError):
            make(source(tflite=b"not a model"), progress=lambda done: None)
        with pytest.raises(ConfigError):
            make(source(prefix="Bad"), progress=lambda done: None)
        of_another_model = source(contract=tiny_contract(unit_normalize(3)))
        with pytest.raises(ContractError):
            make(of_another_model, progress=lambda done: None)


def test_engine_model_has_the_same_vectors(built: ArrayModel) -> None:
    model = build_engine_model(source(), progress=lambda done: None)
    assert np.array_equal(model.golden.inputs, built.golden.inputs)
    assert np.array_equal(model.golden.outputs, built.golden.outputs)
    assert model.arena_bytes_tflm == built.arena_bytes


def test_vectors_of_several_inputs_and_outputs() -> None:
    """All inputs of a vector in order, all outputs likewise, by the reference."""
    graph = two_ports()
    tflite = write_tflite(graph, description="test")
    made = source(tflite=tflite, contract=None, golden=3)
    golden = build_engine_model(made, progress=lambda done: None).golden
    sizes = [graph.tensor(t).elements for t in graph.inputs]
    first, second = np.split(golden.inputs, [sizes[0]], axis=1)
    shapes = [graph.tensor(t).shape[1:] for t in graph.inputs]
    inputs = [x.reshape(3, *shape) for x, shape in zip((first, second), shapes, strict=True)]
    wanted = run_tflm(tflite, *inputs, outputs=2)
    assert (
        golden.outputs.tobytes()
        == np.concatenate([y.reshape(3, -1) for y in wanted], axis=1).tobytes()
    )


# arena_used_bytes() measured on M4, M3 and M55 with CMSIS-NN (mcu.md, 1.3); the smallest arena
# that works on M4 was up to 8 bytes more
MEASURED = {
    "person_detect": (82_308, 82_308, 82_356),
    "kws": (22_820, 22_820, 27_348),
    "vww_96": (100_708, 100_708, 100_772),
    "resnet8": (54_996, 54_980, 55_028),
}


@pytest.mark.parametrize("name", MEASURED)
def test_arena_is_enough_where_it_was_measured(name: str) -> None:
    tflite = shared_model(name)
    arena = tflm.arena_bytes(read_tflite(tflite), tflm_arena_bytes(tflite))
    assert arena >= max(MEASURED[name]) + 16
    assert arena <= max(MEASURED[name]) * 1.1


@pytest.mark.parametrize("name", ["kws", "person_detect"])
def test_project_of_a_foreign_model_compiles(name: str, tmp_path: Path) -> None:
    tflite = shared_model(name)
    made = Source(tflite=tflite, contract=None, pixels=None, prefix=name, golden=2)
    model = build_array_model(made, progress=lambda done: None)
    assert tflm.oldest_tflm(model.graph) == tflm.FIRST
    for file, data in emit_array(model).items():
        (tmp_path / file).write_bytes(data)
    compile_ok(C99, sorted(tmp_path.glob("*.c")), "-c", cwd=tmp_path)


@pytest.mark.parametrize("build_model", [build_array_model, build_engine_model])
def test_a_file_with_float_ends_becomes_its_int8_part(build_model: Builder) -> None:
    """What the project ships and is compared with takes and gives what the C interface does."""
    graph = read_tflite(TFLITE)
    made = source(tflite=with_float_ends(graph), golden=2)
    model = build_model(made, progress=lambda done: None)
    assert model.graph.ops == graph.ops
    assert model.graph == read_tflite(model.tflite)
    plain = build_model(source(golden=2), progress=lambda done: None)
    assert np.array_equal(model.golden.outputs, plain.golden.outputs)
    (ours,) = run_tflm(model.tflite, model.golden.inputs.reshape(2, SIDE, SIDE, 1))
    assert np.array_equal(ours.reshape(2, -1), model.golden.outputs)
    assert model.source_sha256 == sha256_bytes(made.tflite)
    assert plain.source_sha256 is None
