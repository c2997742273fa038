"""Verify finds a difference wherever it is, and names the first tensor that has one."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from c_projects import write_c_project
from host_tools import require_tool
from hypothesis import given, settings
from hypothesis import strategies as st
from int8_models import activation, tiny_model

from ndtool.errors import ConfigError, InputError, MismatchError, ToolMissingError
from ndtool.export import verify as verify_module
from ndtool.export.c_project import CProject, Layer, load_projects
from ndtool.export.codegen.boards import DEFAULT_BOARD
from ndtool.export.int8.ir import Graph, TensorId
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.verify import compare_samples, make_samples, require_bounded
from ndtool.export.verify_run import count_instructions, find_place, verify_project
from ndtool.options import VERIFY

I8 = np.ndarray
FEW = replace(VERIFY, random=6, workers=1, layers=False)


# -- inputs ----------------------------------------------------------------------------------------


def graph_of(*shapes: tuple[int, ...]) -> Graph:
    ids = tuple(TensorId(i) for i in range(len(shapes)))
    tensors = tuple(activation(f"x{i}", shape, 0.1, 0) for i, shape in enumerate(shapes))
    return Graph(tensors=tensors, ops=(), inputs=ids, outputs=())


def test_half_of_the_samples_are_smooth_and_all_use_the_full_range() -> None:
    samples = make_samples(graph_of((1, 24, 24, 3)), 20, 0)
    assert samples.shape == (20, 24 * 24 * 3) and samples.dtype == np.int8
    steps = np.abs(np.diff(samples.reshape(20, 24, 24, 3).astype(int), axis=2)).mean((1, 2, 3))
    assert steps[:10].max() < 60 < 75 < steps[10:].min()
    assert (samples.min(1) == -128).all() and (samples.max(1) == 127).all()


def test_samples_are_seeded_and_hold_every_input() -> None:
    graph = graph_of((1, 5, 1), (1, 1), (3,))
    samples = make_samples(graph, 7, 1)
    assert samples.shape == (7, 9)
    assert (samples == make_samples(graph, 7, 1)).all()
    assert (samples != make_samples(graph, 7, 2)).any()
    assert make_samples(graph, 1, 0).shape == (1, 9)


# -- comparing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeEngine:
    """Gives what it was made with; `chunk` samples at a time."""

    outputs: I8
    formed: I8
    layers: bool = True
    chunk: int = 2

    def run(self, samples: I8) -> tuple[I8, I8 | None]:
        rows = samples[:, 0].view(np.uint8)
        return self.outputs[rows], self.formed[rows] if self.layers else None


def fake_project() -> CProject:
    """`tiny_model` whose tensor `conv` has channels 0 and 2 only; 1 is always 7, 3 is -9."""
    tflite = tiny_model()
    conv = Layer(
        tensor=TensorId(3),
        name="conv",
        bytes=72,
        channels=2,
        live=(0, 2),
        constants={1: 7, 3: -9},
    )
    mean = Layer(tensor=TensorId(5), name="mean", bytes=4, channels=4)
    return CProject(
        folder=Path("somewhere"),
        prefix="nd_model",
        template="posix",
        tflite=tflite,
        graph=read_tflite(tflite),
        layers=(conv, mean),
        files={},
        contract=None,
        arena_bytes=None,
        weights_bytes=None,
    )


SAMPLES = np.zeros((5, 36), np.int8)
SAMPLES[:, 0] = range(5)
# of five samples: conv (6, 6, 4), mean (4), logits (3)
REFERENCE = np.random.default_rng(0).integers(-128, 128, (5, 144 + 4 + 3), np.int8)
REFERENCE[:, :144].reshape(5, 36, 4)[:, :, 1] = 7
REFERENCE[:, :144].reshape(5, 36, 4)[:, :, 3] = -9


def engine_of(reference: I8, **fields: object) -> FakeEngine:
    """The C that forms exactly `reference`."""
    conv = reference[:, :144].reshape(5, 36, 4)[:, :, [0, 2]].reshape(5, -1)
    formed = np.concatenate([conv, reference[:, 144:148]], axis=1)
    return FakeEngine(reference[:, 148:].copy(), formed, **fields)  # type: ignore[arg-type]


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """tflite_micro gives REFERENCE from now on."""

    def run(model: bytes, graph: Graph, samples: I8, tensors: list[int], **rest: object) -> str:
        columns = {3: slice(0, 144), 5: slice(144, 148), 8: slice(148, 151)}
        rows = REFERENCE[samples[:, 0].view(np.uint8)]
        found = np.concatenate([rows[:, columns[t]] for t in tensors], axis=1)
        Path(str(rest["out"])).write_bytes(found.tobytes())
        return "tflite-micro"

    patch.setattr(verify_module, "run_tensors", run)


def compare(*engines: FakeEngine) -> str:
    """What the comparison says; "" for no difference."""
    try:
        compare_samples(fake_project(), engines, SAMPLES, workers=1)
    except MismatchError as found:
        return str(found)
    return ""


@pytest.mark.usefixtures("reference")
def test_equal_bytes_are_silent() -> None:
    assert compare(engine_of(REFERENCE), engine_of(REFERENCE, layers=False)) == ""
    assert compare(engine_of(REFERENCE, layers=False, chunk=1)) == ""


@settings(derandomize=True, deadline=None, max_examples=60)
@given(sample=st.integers(0, 4), column=st.integers(0, 150), chunk=st.integers(1, 6))
def test_one_flipped_bit_is_found_and_named(sample: int, column: int, chunk: int) -> None:
    wrong = REFERENCE.copy()
    wrong[sample, column] ^= 1
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        seen = compare(engine_of(wrong, chunk=chunk))
    if column < 144 and column % 4 in (1, 3):
        # The C does not form it: the proof of the constant is what differs from the reference.
        assert seen == ""
        return
    name, at = ("conv", 0) if column < 144 else ("mean", 144) if column < 148 else ("logits", 148)
    kind = {"conv": "layer 0", "mean": "layer 1", "logits": "output"}[name]
    shape = {"conv": (1, 6, 6, 4), "mean": (1, 4), "logits": (1, 3)}[name]
    place = ", ".join(str(int(i)) for i in np.unravel_index(column - at, shape))
    expected, got = int(REFERENCE[sample, column]), int(wrong[sample, column])
    assert f"differs from tflite_micro in {kind}: tensor #" in seen
    assert f"'{name}'" in seen and f"sample {sample}, element [{place}]" in seen
    assert f"expected {expected}, got {got}; 1 of " in seen and "1 samples have" in seen


@pytest.mark.usefixtures("reference")
def test_the_first_tensor_in_order_of_execution_is_named() -> None:
    wrong = REFERENCE.copy()
    wrong[0, 150] ^= 1  # an output of an early sample
    wrong[3:, 145:148] ^= 1  # a layer of later ones
    text = compare(engine_of(wrong))
    assert "layer 1" in text and "of MEAN (#1), sample 3, element [0, 1]" in text
    assert "3 of 4 elements differ there, 2 samples have" in text
    outputs = compare(engine_of(wrong, layers=False))
    assert "output: tensor #8 'logits' of FULLY_CONNECTED (#2), sample 0" in outputs
    assert "--layers" in outputs and "--layers" not in text


@pytest.mark.usefixtures("reference")
def test_a_removed_channel_is_held_against_its_constant() -> None:
    project = fake_project()
    layer = replace(project.layers[0], constants={1: 7, 3: -8})
    wrong = replace(project, layers=(layer, project.layers[1]))
    with pytest.raises(MismatchError, match=r"element \[0, 0, 0, 3\]: expected -9, got -8; 36 of"):
        compare_samples(wrong, [engine_of(REFERENCE)], SAMPLES, workers=1)


def test_more_than_memory_or_disk_should_bear_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    project = fake_project()
    monkeypatch.setattr(verify_module, "MAX_BYTES", 151 * 10)
    monkeypatch.setattr(verify_module, "MAX_INPUT_BYTES", 36 * 20)
    require_bounded(project, 10, layers=True)
    require_bounded(project, 20, layers=False)
    for count, layers in ((11, True), (21, False)):
        with pytest.raises(ConfigError, match=f"--random.*at most {count - 1}"):
            require_bounded(project, count, layers=layers)


# -- the real thing --------------------------------------------------------------------------------


@pytest.fixture
def project(tflite_micro: None, tmp_path: Path) -> CProject:
    for tool in ("gcc", "make"):
        require_tool(tool)
    return write_c_project(tiny_model(), tmp_path / "project")


@pytest.mark.slow
def test_good_c_is_bit_exact_in_every_tensor(project: CProject) -> None:
    figures = verify_project(project, replace(FEW, layers=True))
    assert figures["bit_exact"] == "8/8"  # 6 and two golden vectors
    assert figures["verified_tensors"] == len(project.layers) == 3
    assert figures["arena_bytes"] == project.arena_bytes
    assert not (project.folder / "build").exists()


def flip_weight(project: CProject, name: str) -> None:
    """Change one weight of a layer in the generated C."""
    path = project.folder / "nd_model_data.c"
    text = path.read_text()
    table = re.search(rf"\b{name}\w*\[.*?\] = \{{(.*?)\}}", text, re.DOTALL)
    assert table is not None, text
    number = re.search(r"-?\b(0x[0-9a-fA-F]+|\d+)", table[1])
    assert number is not None
    at = table.start(1) + number.start()
    path.write_text(f"{text[:at]}{int(number[0], 0) ^ 0x40}{text[at + len(number[0]) :]}")


@pytest.mark.slow
def test_a_flipped_weight_is_found_and_its_layer_named(
    project: CProject, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_weight(project, "nd_model_l0_w")
    with pytest.raises(MismatchError, match=r"layer 0: tensor #3 'conv' of CONV_2D \(#0\)"):
        verify_project(project, replace(FEW, layers=True))
    assert "not what codegen wrote: nd_model_data.c [" in capsys.readouterr().err
    with pytest.raises(MismatchError, match="output: tensor #8 'logits'"):
        verify_project(project, FEW)


@pytest.mark.slow
def test_a_broken_golden_byte_is_found_and_its_vector_named(project: CProject) -> None:
    """On the host and on a board: the self-test is part of both."""
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        require_tool(tool)
    path = project.folder / "nd_model_golden.c"
    text = path.read_text()
    start = text.index("nd_model_golden_output[")
    row = text.rindex("{", start, text.index("};", start))  # of the second vector
    broken = re.sub(r"-?\d+", lambda m: str(int(m[0]) ^ 1), text[row:], count=1)
    path.write_text(text[:row] + broken)
    for on in ("host", "qemu", "qemu:microbit"):
        with pytest.raises(MismatchError, match=r"nd_model: golden vector \[1\] of 2: selftest"):
            verify_project(project, replace(FEW, on=on))


def test_of_many_edited_files_a_few_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    many = replace(fake_project(), folder=tmp_path, files=dict.fromkeys(map(str, range(2000)), ""))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolMissingError):
        verify_project(many, FEW)
    assert "not what codegen wrote: 0, 1, 10, 1,997 more [" in capsys.readouterr().err


@pytest.mark.slow
def test_c_that_does_not_compile(project: CProject) -> None:
    require_tool("arm-none-eabi-gcc")
    path = project.folder / "nd_model.c"
    path.write_text(path.read_text() + "int broken(void) { return nowhere; }\n")
    for on in ("host", "qemu"):
        with pytest.raises(InputError, match=r"nd_model.c.*nowhere") as refusal:
            verify_project(project, replace(FEW, on=on))
        assert refusal.value.code == "verify.build"
        assert refusal.value.where == str(project.folder)  # not the copy, which is gone


@pytest.mark.slow
def test_missing_tools_are_named(project: CProject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for on, tool in (("host", "gcc"), ("qemu", "arm-none-eabi-gcc")):
        with pytest.raises(ToolMissingError, match=f"{tool} not found; install: apt-get install"):
            verify_project(project, replace(FEW, on=on))


@pytest.mark.parametrize("word", ["qemu:nonsense", "hots", "serial:/dev/null", "qemu:mps2-an386 "])
def test_unknown_places(word: str) -> None:
    with pytest.raises(ConfigError, match="mps2-an385"):
        find_place(word)


def test_places() -> None:
    assert find_place("host") is None
    boards = [find_place(word) for word in ("qemu", "qemu:", f"qemu:{DEFAULT_BOARD}")]
    assert len(set(boards)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("template", ["posix", "cortex-m-qemu"])
def test_every_form_of_the_project_runs_everywhere(
    tflite_micro: None, tmp_path: Path, template: str
) -> None:
    """Another form is made around this project's own C: a fault in it is found there too."""
    for tool in ("gcc", "make", "arm-none-eabi-gcc", "qemu-system-arm"):
        require_tool(tool)
    project = write_c_project(tiny_model(), tmp_path / "project", template=template)
    assert verify_project(project, FEW)["bit_exact"] == "8/8"
    figures = verify_project(project, replace(FEW, on="qemu", layers=True))
    assert figures["bit_exact_cortex_m4"] == "8/8"
    assert 0 < int(str(figures["stack_bytes"])) <= 512
    found = count_instructions(project, "host")
    assert found.instructions == sum(count for _, count in found.functions)
    assert figures["instructions_cortex_m4"] == found.instructions
    flip_weight(project, "nd_model_l0_w")
    (edited,) = load_projects(project.folder)
    with pytest.raises(MismatchError, match="differs from tflite_micro in output"):
        verify_project(edited, replace(FEW, on="qemu"))
