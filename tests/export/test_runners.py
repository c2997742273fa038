"""Int8 workers and onnxruntime against the engines called directly, and everything that can die."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from float_ends import with_float_ends
from int8_models import aborting_model, softmax_model, tiny_model
from shared_models import shared_model
from single_op import CASES
from tflm import stop_tflm

from ndtool.contract import Contract, InputSpec, Resize, mean_std_normalize
from ndtool.errors import InputError, ToolMissingError, UnsupportedError
from ndtool.export import runners
from ndtool.export.int8 import reference
from ndtool.export.int8.ir import Graph, op_outputs
from ndtool.export.runners import (
    choose_runtime,
    run_int8,
    run_onnx,
    run_tensors,
    tflm_arena_bytes,
)
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite
from ndtool.types import Runtime

BOTH = [Runtime.TFLM, Runtime.LITERT]

pytestmark = pytest.mark.usefixtures("tflite_micro")


def ignore(done: int) -> None:
    """No progress wanted."""


def images(count: int, side: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-128, 128, (count, side, side, 1), np.int8)


def direct_tflm(model: bytes, x: np.ndarray) -> np.ndarray:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model, arena_size=1 << 20)
    rows = []
    for image in x:
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        rows.append(interpreter.get_output(0).reshape(-1))
    return np.stack(rows)


EARLIER: set[int] = set()  # children that the tests before left: Python keeps its fork server


@pytest.fixture(autouse=True)
def _no_other_child() -> None:
    """The oracle of other tests in this process would be counted among the children."""
    stop_tflm()
    EARLIER.clear()
    EARLIER.update(children())


def children() -> list[int]:
    """Process ids of this process's children, those of the running test alone."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return [child for child in found if child not in EARLIER]


# --- ONNX -----------------------------------------------------------------------------------------


def onnx_model(batch: int | str = "batch", *, classes: int = 3, side: int = 5) -> bytes:
    """Conv 3x3 (stride 2, 4 channels) -> Flatten -> Gemm, with random weights."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "b": rng.standard_normal(4).astype(np.float32),
        "fc": rng.standard_normal((4 * 4, classes)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=[2, 2]),
            helper.make_node("Flatten", ["c"], ["f"]),
            helper.make_node("MatMul", ["f", "fc"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


def pixels_contract() -> Contract:
    return Contract(
        input=InputSpec(height=5, width=5, channels=3, color="RGB"),
        resize=Resize(),
        normalize=mean_std_normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
        labels=("a", "b", "c"),
    )


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, 5, 5, 3), np.uint8)


@pytest.mark.parametrize("fixed", ["batch", 1])
def test_onnx_outputs_equal_numpys(fixed: int | str) -> None:
    x = pictures(9)
    outputs = run_onnx(onnx_model(fixed), x, pixels_contract(), batch=4)
    rng = np.random.default_rng(0)
    w, b, fc = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3, 3, 3), 4, (16, 3)))
    real = (x / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
    conv = np.zeros((9, 4, 2, 2))
    for i, j in np.ndindex(2, 2):
        patch = real[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        conv[:, :, i, j] = np.einsum("nhwc,ochw->no", patch, w) + b
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, conv.reshape(9, 16) @ fc, atol=1e-4)


def test_onnx_outputs_are_the_same_bytes_for_any_batch() -> None:
    x = pictures(9)
    one, many = (run_onnx(onnx_model(), x, pixels_contract(), batch=n) for n in (1, 9))
    np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: b"", InputError, "cannot run the model"),
        (lambda: b"no protobuf" * 9, InputError, "cannot run the model"),
        (lambda: onnx_model().replace(b"MatMul", b"MatMil"), InputError, "MatMil"),
        (lambda: onnx_model(2), UnsupportedError, "fixed to 2"),
        (lambda: onnx_model(side=6), UnsupportedError, "contract asks for"),
        (lambda: onnx_model(classes=4), UnsupportedError, "3 classes"),
    ],
)
def test_an_onnx_file_that_does_not_fit_is_one_error(
    make: Callable[[], bytes], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        run_onnx(make(), pictures(2), pixels_contract())
    assert "\n" not in str(caught.value)


# --- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_outputs_do_not_depend_on_workers_and_keep_their_order(workers: int) -> None:
    model, x = tiny_model(), images(50)
    seen: list[int] = []
    result = run_int8(model, x, runtime=Runtime.TFLM, workers=workers, progress=seen.append)
    assert result.outputs.dtype == np.int8
    np.testing.assert_array_equal(result.outputs, direct_tflm(model, x))
    assert len(np.unique(result.outputs, axis=0)) > 10  # the order could show
    assert seen == sorted(seen)
    assert seen[-1] == 50
    assert result.engine.startswith("tflite-micro 0.dev")
    assert (result.scale, result.zero_point) == (float(np.float32(0.1)), 3)


def test_litert_reference_kernels_run_by_the_same_protocol() -> None:
    x = images(20)
    lite = run_int8(tiny_model(), x, runtime=Runtime.LITERT, workers=1, progress=ignore)
    tflm = run_int8(tiny_model(), x, runtime=Runtime.TFLM, workers=1, progress=ignore)
    # FULLY_CONNECTED may differ by a step (quantisation, 1.6)
    assert np.abs(lite.outputs.astype(int) - tflm.outputs).max() <= 1
    assert lite.engine.startswith("ai-edge-litert ")


@pytest.mark.parametrize(
    ("name", "shape", "digest"),
    [
        ("person_detect", (96, 96, 1), "458b165415df0e5e"),
        ("kws", (49, 10, 1), "41103df760fab03f"),
        ("vww_96", (96, 96, 3), "02a45cbcb5f83be3"),
        ("resnet8", (32, 32, 3), "08a867dc1f39d3ed"),
    ],
)
def test_published_models_give_the_published_bytes(
    name: str, shape: tuple[int, ...], digest: str
) -> None:
    model = shared_model(name)
    x = np.random.default_rng(1).integers(-128, 128, size=(20, *shape)).astype(np.int8)
    result = run_int8(model, x, runtime=Runtime.TFLM, workers=2, progress=ignore)
    assert hashlib.sha256(result.outputs.tobytes()).hexdigest()[:16] == digest


def test_a_folder_named_as_our_modules_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ndtool", "numpy", "tflite_micro"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    result = run_int8(tiny_model(), images(3), runtime=Runtime.TFLM, workers=1, progress=ignore)
    assert result.outputs.shape == (3, 3)


@pytest.mark.parametrize(
    ("total", "workers", "expected"),
    [
        (1, 8, [(0, 1)]),
        (16, 8, [(0, 16)]),
        (17, 8, [(0, 8), (8, 17)]),
        (100, 3, [(0, 33), (33, 66), (66, 100)]),
    ],
)
def test_shares_cover_all_images_once(
    total: int, workers: int, expected: list[tuple[int, int]]
) -> None:
    assert runners._shares(total, workers) == expected


@pytest.mark.parametrize(
    ("make", "slack"),
    [
        pytest.param(
            lambda: tiny_model(classes=10, side=28), 16, id="printed", marks=pytest.mark.slow
        ),
        # more than is printed while it is set up, found in steps that double
        pytest.param(tiny_model, 512, id="more", marks=pytest.mark.slow),
    ],
)
def test_arena_is_what_tflm_needs_and_not_much_more(make: Callable[[], bytes], slack: int) -> None:
    model = make()
    arena = tflm_arena_bytes(model)
    # In processes of their own: an arena that is much too small aborts.
    assert runners._runs_in_arena(model, arena + 16)
    assert not runners._runs_in_arena(model, arena - slack)


# --- every tensor ---------------------------------------------------------------------------------


def every_tensor(model: bytes, samples: np.ndarray, folder: Path, workers: int = 1) -> np.ndarray:
    """(N, bytes) of all activations that an operation forms, in order; by tflite_micro."""
    graph = read_tflite(model)
    tensors = [tensor for op in graph.ops for tensor in op_outputs(op)]
    out = folder / "tensors"
    engine = run_tensors(model, graph, samples, tensors, out=out, workers=workers, progress=ignore)
    assert engine.startswith("tflite-micro ")
    return np.fromfile(out, np.int8).reshape(len(samples), -1)


def by_numpy(graph: Graph, *inputs: np.ndarray) -> np.ndarray:
    """The same by the integer-exact forward in numpy."""
    found = reference.run_tensors(graph, *inputs)
    rows = [found[tensor] for op in graph.ops for tensor in op_outputs(op)]
    return np.concatenate([row.reshape(len(inputs[0]), -1) for row in rows], axis=1)


@pytest.mark.parametrize("workers", [1, 3])
def test_every_tensor_is_what_numpy_computes(tmp_path: Path, workers: int) -> None:
    x, graph = images(50), read_tflite(tiny_model())
    found = every_tensor(tiny_model(), x.reshape(50, -1), tmp_path, workers)
    assert (found == by_numpy(graph, x)).all()


@pytest.mark.parametrize("name", ["ADD", "SPLIT"])
def test_several_inputs_or_outputs(tmp_path: Path, name: str) -> None:
    graph = next(
        graph
        for seed in range(20)
        if (graph := CASES[name](np.random.default_rng(seed)))
        and len(graph.inputs) + len(graph.outputs) > 2
    )
    rng = np.random.default_rng(0)
    shapes = [(4, *graph.tensor(index).shape[1:]) for index in graph.inputs]
    inputs = [rng.integers(-128, 128, shape, np.int8) for shape in shapes]
    samples = np.concatenate([x.reshape(4, -1) for x in inputs], axis=1)
    model = write_tflite(graph, description="test")
    assert (every_tensor(model, samples, tmp_path) == by_numpy(graph, *inputs)).all()


def test_floats_before_and_behind_the_integers_give_the_same(tmp_path: Path) -> None:
    """Every int8 value survives the way to float and back through the file's QUANTIZE."""
    x = np.arange(-128, 160).astype(np.int8).reshape(8, 6, 6, 1)
    model = with_float_ends(read_tflite(tiny_model()))
    found = every_tensor(model, x.reshape(8, -1), tmp_path)
    assert (found == by_numpy(read_tflite(tiny_model()), x)).all()


def test_a_full_disk_is_no_fault_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before any work, not by a worker that dies."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    samples = np.zeros((4, 36), np.int8)
    for module, name in ((np, "save"), (os, "posix_fallocate")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(InputError, match=r"No space left .*TMPDIR") as refusal:
                every_tensor(tiny_model(), samples, tmp_path)
        assert refusal.value.code == "runner.no-room"
    assert children() == []


def test_no_tensors_of_a_model_that_aborts(tmp_path: Path) -> None:
    graph, samples = read_tflite(softmax_model()), np.zeros((2, 4), np.int8)
    with pytest.raises(UnsupportedError, match="aborts"):
        run_tensors(
            aborting_model(),
            graph,
            samples,
            graph.outputs,
            out=tmp_path / "tensors",
            workers=1,
            progress=ignore,
        )
    assert children() == []


# --- what is missing ------------------------------------------------------------------------------


def test_tflm_is_the_reference_where_it_is_installed() -> None:
    assert choose_runtime() == (Runtime.TFLM, "")


def test_litert_stands_in_for_a_missing_tflm_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "find_spec", lambda name: None)
    runtime, warning = choose_runtime()
    assert runtime is Runtime.LITERT
    assert "LiteRT" in warning


def test_tflite_runtime_needs_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolMissingError, match="tflite_runtime"):
        run_int8(
            tiny_model(), images(1), runtime=Runtime.TFLITE_RUNTIME, workers=1, progress=ignore
        )
    monkeypatch.setitem(sys.modules, "tflite_runtime", sys)
    with pytest.raises(ToolMissingError, match="numpy < 2"):
        run_int8(
            tiny_model(), images(1), runtime=Runtime.TFLITE_RUNTIME, workers=1, progress=ignore
        )


def test_tflite_runtime_runs_in_the_same_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package of that name with LiteRT inside stands in: its wheel needs numpy 1."""
    (tmp_path / "tflite_runtime").mkdir()
    (tmp_path / "tflite_runtime/__init__.py").touch()
    text = "from ai_edge_litert.interpreter import Interpreter, OpResolverType\n"
    (tmp_path / "tflite_runtime/interpreter.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(np, "__version__", "1.26.4")
    x = images(5)
    old = run_int8(tiny_model(), x, runtime=Runtime.TFLITE_RUNTIME, workers=1, progress=ignore)
    new = run_int8(tiny_model(), x, runtime=Runtime.LITERT, workers=1, progress=ignore)
    np.testing.assert_array_equal(old.outputs, new.outputs)
    assert old.engine == "tflite-runtime"


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", BOTH)
@pytest.mark.parametrize(
    ("model", "x", "words"),
    [
        pytest.param(lambda: b"", images(2), "refuses it", id="empty"),
        pytest.param(lambda: b"not a model" * 40, images(2), "refuses it", id="garbage"),
        pytest.param(lambda: tiny_model()[:300], images(2), "refuses it", id="cut"),
        pytest.param(tiny_model, images(2, side=5), "input is [1, 6, 6, 1]", id="shape"),
    ],
)
def test_a_refused_model_is_one_error(
    runtime: Runtime, model: Callable[[], bytes], x: np.ndarray, words: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        run_int8(model(), x, runtime=runtime, workers=1, progress=ignore)
    assert words in caught.value.what
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", BOTH)
def test_an_aborting_interpreter_is_one_error(runtime: Runtime) -> None:
    x = np.zeros((40, 1, 1, 4), np.int8)
    good = run_int8(softmax_model(), x, runtime=runtime, workers=2, progress=ignore)
    assert good.outputs.shape == (40, 4)
    with pytest.raises(UnsupportedError, match=r"aborts on this model \(SIGABRT\)") as caught:
        run_int8(aborting_model(), x, runtime=runtime, workers=2, progress=ignore)
    assert caught.value.exit_code == 5
    assert children() == []


def test_a_dying_worker_takes_the_others_with_it() -> None:
    def kill_one(done: int) -> None:
        alive = children()
        assert len(alive) == 2
        os.kill(alive[1], signal.SIGKILL)

    with pytest.raises(InputError, match="killed by SIGKILL") as caught:
        run_int8(tiny_model(), images(200_000), runtime=Runtime.TFLM, workers=2, progress=kill_one)
    assert "--workers 1" in caught.value.remedy
    assert children() == []


def test_a_hanging_worker_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "STALL_S", 1.5)

    def stop_one(done: int) -> None:
        os.kill(children()[0], signal.SIGSTOP)

    start = time.monotonic()
    with pytest.raises(UnsupportedError, match="hangs: no image done in 2 s"):
        run_int8(tiny_model(), images(200_000), runtime=Runtime.TFLM, workers=1, progress=stop_one)
    assert time.monotonic() - start < 10
    assert children() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_in_the_caller_leaves_no_child(error: type[BaseException]) -> None:
    def fail(done: int) -> None:
        if done:
            raise error

    with pytest.raises(error):
        run_int8(tiny_model(), images(200_000), runtime=Runtime.TFLM, workers=2, progress=fail)
    assert children() == []


_ALONE = """
import sys
import numpy as np
from ndtool.export.runners import run_int8
from ndtool.types import Runtime
model = open(sys.argv[1], "rb").read()
x = np.zeros((3_000_000, 6, 6, 1), np.int8)
run_int8(model, x, runtime=Runtime.TFLM, workers=2,
         progress=lambda done: done and print(done, flush=True))
"""


def start_alone(tmp_path: Path) -> tuple[subprocess.Popen[bytes], set[Path], list[int]]:
    """A process of its own group that runs two workers, both busy; their folder and ids."""
    (tmp_path / "m.tflite").write_bytes(tiny_model())
    process = subprocess.Popen(
        [sys.executable, "-c", _ALONE, str(tmp_path / "m.tflite")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        process_group=0,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    workers = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    assert len(workers) == 2
    return process, set(tmp_path.glob("ndtool-*")), workers


def gone(pids: list[int], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # not yet reaped by whoever inherited it


def test_ctrl_c_on_the_process_group_leaves_nothing(tmp_path: Path) -> None:
    process, folders, workers = start_alone(tmp_path)
    assert folders
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    assert process.wait(10) == -signal.SIGINT
    assert gone(workers, 1.0)
    assert not any(folder.exists() for folder in folders)
    assert process.stdout is not None
    process.stdout.close()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    process, _, workers = start_alone(tmp_path)
    process.kill()
    process.wait(10)
    assert gone(workers, 5.0)
    assert process.stdout is not None
    process.stdout.close()


def test_no_images_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no images"):
        run_int8(tiny_model(), images(0), runtime=Runtime.TFLM, workers=1, progress=ignore)
