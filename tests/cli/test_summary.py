"""The block at the end of `run`, `export` and `codegen`, and exit 4, by the real command."""

import functools
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Done, ndtool_here

RUN = Path("runs/tiny")
EASY = ("--max-drop", "20")
TITLES = ("accuracy", "C code", "work", "fits", "files", "next")
HAS_QEMU = all(shutil.which(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm"))
BOARD = """[boards.small]
core = "cortex-m4f"
clock_mhz = 16
ram = {ram}
ram_total = {ram}
flash = 65536
source = "made up; for tests"
"""

Command = Callable[..., Done]

pytestmark = pytest.mark.slow


@pytest.fixture
def ndtool(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command in this process, in the copy of the working folder."""
    monkeypatch.chdir(tiny)
    return functools.partial(ndtool_here, capsys=capsys)


def block(done: Done) -> dict[str, str]:
    """The block by title; each title stands there once, at the end."""
    lines = done.out.splitlines()
    found = {line[:12].strip(): line[12:] for line in lines if line[:12].strip() in TITLES}
    assert [line[:12].strip() for line in lines[-len(found) :]] == list(found)
    assert sum(line[:12].strip() in TITLES for line in lines) == len(found)
    return found


def test_run_ends_with_one_block(tiny_chain: tuple[Path, Done]) -> None:
    folder, done = tiny_chain
    lines = block(done)
    metrics = json.loads((folder / RUN / "metrics.json").read_text())
    assert tuple(lines) == TITLES
    for hop in ("float", "int8"):
        assert f"{hop} {100 * metrics[f'accuracy_{hop}']:.2f} % (" in lines["accuracy"]
    assert f"bit-exact 168/168   arena {metrics['arena_bytes']:,} B" in lines["C code"]
    if HAS_QEMU:
        count = metrics["instructions_cortex_m4"]
        assert f"instructions {count:,} (cortex-m4)" in lines["C code"]
        assert (
            " - " not in lines["C code"]
            and f"flash {metrics['flash_bytes']:,} B" in lines["C code"]
        )
    assert f"{metrics['params']:,} parameters   ops {metrics['ops']}" in lines["work"]
    assert lines["fits"].startswith("26 of 26 targets   (ndtool analyze runs/tiny --all")
    assert lines["files"] == "runs/tiny/codegen/posix"
    assert lines["next"].startswith(
        "ndtool baseline accept runs/tiny --baseline baselines/main.toml"
    )


def test_macs_of_the_int8_file_are_those_of_the_architecture(tiny: Path) -> None:
    manifest = json.loads((tiny / RUN / "manifest.json").read_text())
    stages = manifest["stages"]
    assert stages["codegen:posix"]["figures"]["macs"] == stages["onnx"]["figures"]["macs"] > 0


def test_the_next_check_is_against_the_baseline_that_there_is(tiny: Path, ndtool: Command) -> None:
    accept = block(ndtool("codegen", RUN))["next"]
    done = ndtool(*shlex.split(accept)[1:])  # what it says can be typed
    assert done.code == 0, done.err
    for words in (("codegen", RUN), ("export", RUN, "--int8", "--calib", "50")):
        check = "ndtool check runs/tiny --baseline baselines/main.toml"
        assert block(ndtool(*words))["next"] == check
    again = block(ndtool("run", "-c", RUN / "config.toml"))
    assert again["next"] == "ndtool check runs/tiny --baseline baselines/main.toml"


def test_every_verb_has_the_same_figures(tiny: Path, ndtool: Command) -> None:
    codegen = ndtool("codegen", RUN, "--json").document["summary"]
    export = ndtool("export", RUN, "--int8", "--calib", "50", "--json").document["summary"]
    run = ndtool("run", "-c", RUN / "config.toml", "--json").document["summary"]
    assert codegen == export == run
    assert codegen["accuracies"]["c"]["count"] == 60 and codegen["bit_exact"] == "168/168"
    metrics = json.loads((tiny / RUN / "metrics.json").read_text())
    for key in ("arena_bytes", "tflite_bytes", "macs", "params"):
        assert codegen[key] == metrics[key], key


def test_onnx_alone(tiny: Path, ndtool: Command) -> None:
    shutil.rmtree(tiny / RUN)
    train = ("--data", "npz:tiny.npz", "--width", ".25", "--epochs", "1", "--batch-size", "16")
    assert ndtool("train", *train, "--name", "tiny").code == 0
    lines = block(ndtool("export", RUN))
    assert lines["fits"] == "-   (ndtool export runs/tiny --int8)"
    assert lines["next"] == "ndtool export runs/tiny --int8"


def test_codegen_ends_with_4_after_everything_is_written(tiny: Path, ndtool: Command) -> None:
    (tiny / "small.toml").write_text(BOARD.format(ram=2048))
    board = ("--target", "small", "--boards", "small.toml")
    done = ndtool("codegen", RUN, *board)
    assert done.code == 4, done.err
    assert block(done)["fits"].startswith("small: DOES NOT FIT (RAM ")
    error = done.err.splitlines()[-1]
    assert error.startswith("ndtool: error: runs/tiny does not fit small: RAM is ")
    assert "fullest at layer" in error and error.endswith("[fit.target]")
    metrics = json.loads((tiny / RUN / "metrics.json").read_text())
    assert (metrics["target"], metrics["fits"]) == ("small", False)
    document = ndtool("codegen", RUN, *board, "--json")
    assert document.code == 4
    (fit,) = document.document["summary"]["fits"]
    assert fit["fits"] is False and fit["ram_bytes"] > fit["ram_budget_bytes"]
    # the board is enlarged: nothing but the verdict is made again
    (tiny / "small.toml").write_text(BOARD.format(ram=65536))
    done = ndtool("codegen", RUN, *board)
    assert done.code == 0 and "codegen:posix: up to date" in done.err
    assert json.loads((tiny / RUN / "metrics.json").read_text())["fits"] is True
    assert ndtool("check", RUN, *EASY).code == 0
    # without a board there is no verdict to keep
    assert ndtool("codegen", RUN).code == 0
    assert "fits" not in json.loads((tiny / RUN / "metrics.json").read_text())


def test_a_wrong_board_is_refused_before_anything_is_written(tiny: Path, ndtool: Command) -> None:
    before = (tiny / RUN / "manifest.json").read_text()
    shutil.rmtree(tiny / RUN / "codegen")
    for words, text in (
        (("--target", "nosuch"), "unknown target 'nosuch'"),
        (("--target", "pico", "--template", "array"), "cannot be told"),
        (("--target", "pico", "--boards", "none.toml"), "no such file (none.toml)"),
    ):
        done = ndtool("codegen", RUN, *words)
        assert done.code == 2 and text in done.err and done.out == ""
        bare = ("codegen", "--tflite", RUN / "export/model_int8.tflite", "--out", "bare")
        assert ndtool(*bare, *words).code == 2 and not (tiny / "bare").exists()
    assert (tiny / RUN / "manifest.json").read_text() == before
    assert not (tiny / RUN / "codegen").exists()


def test_run_with_a_board(tiny: Path, ndtool: Command) -> None:
    (tiny / "small.toml").write_text(BOARD.format(ram=65536))
    config = tiny / RUN / "config.toml"
    words = ("--target", "small", "--boards", "small.toml")
    done = ndtool("run", "-c", RUN / "config.toml", *words)
    assert done.code == 0, done.err
    assert block(done)["fits"].startswith("small: FITS (RAM ")
    # codegen without words holds it against the board of the training
    text = config.read_text()
    for key, value in (("target", "small"), ("boards", "small.toml")):
        assert f'{key} = ""' in text  # of [train], which is done and stays as it was
        text = text.replace(f'{key} = ""', f'{key} = "{value}"')
    config.write_text(text)
    assert block(ndtool("codegen", RUN))["fits"].startswith("small: FITS")
    (tiny / "small.toml").write_text(BOARD.format(ram=2048))
    assert ndtool("codegen", RUN).code == 4
    assert ndtool("codegen", RUN, "--target", "pico").code == 0


def test_a_lone_file(tiny: Path, ndtool: Command) -> None:
    source = tiny / RUN / "export/model_int8.tflite"
    done = ndtool("codegen", "--tflite", source, "--out", "my c")
    lines = block(done)
    assert done.code == 0 and list(lines) == list(TITLES[1:])
    assert lines["next"] == "ndtool verify 'my c'"
    assert lines["fits"].endswith("(ndtool analyze 'my c/model.tflite' --all-targets)")
    (tiny / "small.toml").write_text(BOARD.format(ram=2048))
    small = ("--target", "small", "--boards", "small.toml", "--json")
    done = ndtool("codegen", "--tflite", source, "--out", "my c", *small)
    assert done.code == 4 and done.document["summary"]["fits"][0]["target"] == "small"
    array = ("--template", "array", "--out", "a")
    lines = block(ndtool("codegen", "--tflite", source, *array))
    assert list(lines) == ["C code", "work", "files"]


def test_an_imported_network_has_parameters_and_work(tiny: Path, ndtool: Command) -> None:
    given = ("--onnx", RUN / "export/model.onnx", "--contract", RUN / "contract.json")
    rest = ("--calib-data", "npz:tiny.npz", "--out", "runs/foreign", "--int8", "--calib", "50")
    lines = block(ndtool("export", *given, *rest))
    assert lines["accuracy"].startswith("onnx ") and " - " not in lines["work"]
    assert ndtool("codegen", "foreign").code == 0
    ours, theirs = (
        json.loads((tiny / f"runs/{name}/metrics.json").read_text()) for name in ("tiny", "foreign")
    )
    assert theirs["macs"] == ours["macs"] and 0 < theirs["params"] <= ours["params"]
