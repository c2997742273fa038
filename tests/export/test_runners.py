"""Int8 workers and onnxruntime against the engines called directly, and everything that can die."""

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
from int8_models import aborting_model, softmax_model, tiny_model

from ndtool.errors import InputError, ToolMissingError, UnsupportedError
from ndtool.export import runners
from ndtool.export.runners import choose_runtime, run_int8, tflm_arena_bytes
from ndtool.types import Runtime

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
BOTH = [Runtime.TFLM, Runtime.LITERT]

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="tflite-micro's wheel is for Linux"
)


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


def children() -> list[int]:
    """Process ids of this process's children."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return found


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
    path = MODELS / f"{name}.tflite"
    if not path.is_file():
        pytest.skip("the yardstick models are not beside this checkout")
    x = np.random.default_rng(1).integers(-128, 128, size=(20, *shape)).astype(np.int8)
    result = run_int8(path.read_bytes(), x, runtime=Runtime.TFLM, workers=2, progress=ignore)
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
        pytest.param(lambda: tiny_model(classes=10, side=28), 16, id="printed"),
        # more than is printed while it is set up, found in steps that double
        pytest.param(tiny_model, 512, id="more"),
    ],
)
def test_arena_is_what_tflm_needs_and_not_much_more(make: Callable[[], bytes], slack: int) -> None:
    model = make()
    arena = tflm_arena_bytes(model)
    # In processes of their own: an arena that is much too small aborts.
    assert runners._runs_in_arena(model, arena + 16)
    assert not runners._runs_in_arena(model, arena - slack)


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
