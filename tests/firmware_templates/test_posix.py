"""The template posix with its own Makefile: the program, its protocol, two models in one folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from array_models import tiny_contract
from engine_graphs import many_layers, two_ports
from engine_models import contract_graph, golden_model
from host_tools import C99, compile_ok, require_tool, run_program
from single_op import inputs_for
from tflm import run_tflm

from ndtool.contract import unit_normalize
from ndtool.export.codegen.engine_project import EngineModel, emit_engine
from ndtool.export.codegen.layers import formed_layers
from ndtool.export.codegen.model import marker_name
from ndtool.export.codegen.project import folder_names, write_project
from ndtool.export.int8.ir import Graph

pytestmark = pytest.mark.usefixtures("tflite_micro")
CONTRACT = tiny_contract(unit_normalize(1))
PREFIXES = ("left", "right")


@pytest.fixture(scope="module")
def models() -> dict[str, EngineModel]:
    right = golden_model(contract_graph(CONTRACT), prefix="right", contract=CONTRACT)
    return {"left": golden_model(two_ports(), prefix="left"), "right": right}


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    require_tool("gcc")
    return subprocess.run(
        [require_tool("make"), "CC=gcc", "CFLAGS=-O1 -Werror", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def generate(model: EngineModel, folder: Path, template: str = "posix") -> None:
    names = folder_names(folder, model.prefix)
    files = emit_engine(model, template, names=names)
    write_project(folder, files, marker=marker_name(model.prefix))


@pytest.fixture(scope="module")
def folder(models: dict[str, EngineModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, both programs of each built."""
    folder = tmp_path_factory.mktemp("both") / "project"
    for model in models.values():
        generate(model, folder)
    for words in ([], ["LAYERS=1"]):
        done = make(folder, *words)
        assert done.returncode == 0, done.stderr
    return folder


def run(program: Path, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *args], capture_output=True, text=True, check=False, timeout=60)


def samples(graph: Graph, n: int = 4) -> tuple[list[np.ndarray], bytes]:
    """Inputs, and the file of them."""
    inputs = inputs_for(graph, np.random.default_rng(1), n)
    return inputs, np.concatenate([x.reshape(n, -1) for x in inputs], axis=1).tobytes()


def rows(tensors: list[np.ndarray], n: int = 4) -> bytes:
    return np.concatenate([t.reshape(n, -1) for t in tensors], axis=1).tobytes()


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["host", "host_layers"])
def test_self_test(folder: Path, prefix: str, kind: str) -> None:
    done = run(folder / "build" / f"{prefix}_{kind}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{prefix}: 2 golden vectors: ok\n"


def test_make_check_runs_every_self_test(folder: Path) -> None:
    done = make(folder, "check")
    assert done.returncode == 0
    assert "left: 2 golden vectors: ok" in done.stdout
    assert "right: 2 golden vectors: ok" in done.stdout


@pytest.mark.parametrize("prefix", PREFIXES)
def test_outputs_of_samples(
    models: dict[str, EngineModel], folder: Path, prefix: str, tmp_path: Path
) -> None:
    model = models[prefix]
    inputs, data = samples(model.graph)
    (tmp_path / "in").write_bytes(data)
    program = folder / "build" / f"{prefix}_host"
    done = run(program, tmp_path / "in", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    wanted = run_tflm(model.tflite, *inputs, outputs=len(model.graph.outputs))
    assert (tmp_path / "out").read_bytes() == rows(wanted)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_layers_of_samples(
    models: dict[str, EngineModel], folder: Path, prefix: str, tmp_path: Path
) -> None:
    model = models[prefix]
    inputs, data = samples(model.graph)
    (tmp_path / "in").write_bytes(data)
    program = folder / "build" / f"{prefix}_host_layers"
    done = run(program, tmp_path / "in", tmp_path / "out", tmp_path / "layers")
    assert (done.returncode, done.stderr) == (0, "")
    tensors = [layer.tensor for layer in formed_layers(model.compiled)]
    assert (tmp_path / "layers").read_bytes() == rows(
        run_tflm(model.tflite, *inputs, tensors=tensors)
    )
    without = run(program, tmp_path / "in", tmp_path / "again")
    assert without.returncode == 0
    assert (tmp_path / "again").read_bytes() == (tmp_path / "out").read_bytes()


def test_no_samples_no_outputs(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"")
    done = run(folder / "build" / "left_host", tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == b""


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["in"], "usage"),
        (["in", "out", "layers"], "usage"),
        (["in", "out", "layers", "x"], "usage"),
        (["nowhere", "out"], "cannot open"),
        (["in", "no/out"], "cannot open"),
        (["part", "out"], "end within a sample"),
        (["in", "/dev/full"], "cannot write the outputs"),
    ],
)
def test_what_goes_wrong_is_said(folder: Path, args: list[str], told: str, tmp_path: Path) -> None:
    _, data = samples(two_ports())
    (tmp_path / "in").write_bytes(data)
    (tmp_path / "part").write_bytes(data[:-1])
    paths = [tmp_path / arg for arg in args]
    done = run(folder / "build" / "left_host", *paths)
    assert done.returncode == 1
    assert told in done.stderr


def test_layers_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(samples(two_ports())[1])
    program = folder / "build" / "left_host_layers"
    for place in ("/dev/full", str(tmp_path / "no" / "layers")):
        done = run(program, tmp_path / "in", tmp_path / "out", place)
        assert done.returncode == 1
        assert "cannot write the layers" in done.stderr


def test_only_what_changed_is_built_again(folder: Path, tmp_path: Path) -> None:
    done = make(folder)
    assert done.returncode == 0
    assert "-c -o" not in done.stdout
    (folder / "left.c").touch()
    done = make(folder)
    assert done.stdout.count("-c -o") == 1
    assert "right" not in done.stdout


def test_selftest_of_another_model_fails(tmp_path: Path) -> None:
    """A weight that changed after the golden vectors were made."""
    generate(golden_model(many_layers(), prefix="m"), tmp_path)
    other = emit_engine(golden_model(many_layers(seed=1), prefix="m"), "posix")
    swapped = other["m_data.c"].decode().split("/* clang-format off */")[1]
    kept = (tmp_path / "m_data.c").read_text().split("/* clang-format off */")[0]
    (tmp_path / "m_data.c").write_text(f"{kept}/* clang-format off */{swapped}")
    assert make(tmp_path).returncode == 0
    done = run(tmp_path / "build" / "m_host")
    assert done.returncode == 1
    assert done.stdout == "m: golden vector [0] of 2: selftest failed\n"


FIRMWARE = """
#include "left.h"
#include "right.h"

static LEFT_ALIGN16 int8_t left_arena[LEFT_ARENA_BYTES];
static RIGHT_ALIGN16 int8_t right_arenas[2][(RIGHT_ARENA_BYTES + 15) / 16 * 16];

/* Both models in turn, the second one with two arenas that are under way at the same time. */
int main(void)
{
    for (int i = 0; i < 3; ++i) {
        if (left_selftest(left_arena) != ND_OK || right_selftest(right_arenas[i % 2]) != ND_OK) {
            return 1;
        }
    }
    for (int32_t k = 0; k < RIGHT_INPUT_BYTES; ++k) {
        right_input(right_arenas[0])[k] = (int8_t)(k % 127);
        right_input(right_arenas[1])[k] = (int8_t)(k % 61);
    }
    if (right_run(right_arenas[0]) != ND_OK || right_run(right_arenas[1]) != ND_OK) {
        return 2;
    }
    const int8_t first = right_output(right_arenas[0])[0];
    for (int32_t k = 0; k < RIGHT_INPUT_BYTES; ++k) {
        right_input(right_arenas[0])[k] = (int8_t)(k % 127);
    }
    if (right_run(right_arenas[0]) != ND_OK || right_output(right_arenas[0])[0] != first) {
        return 3;
    }
    return (left_selftest(left_arena) == ND_OK) ? 0 : 4;
}
"""


def test_two_models_in_one_firmware(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "firmware.c").write_text(FIRMWARE)
    programs = {"left_main.c", "right_main.c", "left_layers.c", "right_layers.c"}
    sources = [p for p in sorted(folder.glob("*.c")) if p.name not in programs]
    sources += [*sorted(folder.glob("nd_runtime/*.c")), tmp_path / "firmware.c"]
    flags = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{folder}")
    compile_ok(C99, sources, *flags, "-o", "firmware", cwd=tmp_path)
    assert run_program(tmp_path / "firmware") == 0


def test_models_are_known_by_their_own_names(models: dict[str, EngineModel], folder: Path) -> None:
    assert (folder / "model.tflite").read_bytes() == models["left"].tflite
    assert (folder / "right_model.tflite").read_bytes() == models["right"].tflite
    assert "# left" in (folder / "README.md").read_text()
    assert "# right" in (folder / "right_README.md").read_text()
    needed = {
        f"nd_runtime/{kernel}.c" for m in models.values() for kernel in m.compiled.program.kernels
    }
    assert all((folder / name).is_file() for name in needed)
