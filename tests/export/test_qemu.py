"""Programs in QEMU: what comes back, and that no program can hang or crash the caller."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from int8_models import tiny_model
from qemu_engine import write_script
from tflm import run_tflm

from ndtool.errors import ConfigError, InputError, MismatchError, ToolMissingError
from ndtool.export import qemu
from ndtool.export.tflite.reader import read_tflite

M4 = "mps2-an386"
MAIN = """
#include "board/semihost.h"
int main(void) {{ {body} return 0; }}
"""


@pytest.fixture(scope="module")
def project(firmware: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The firmware of a tiny model, and beside it small programs of one line each."""
    folder = tmp_path_factory.mktemp("programs") / "project"
    shutil.copytree(firmware, folder)
    bodies = {
        "unmapped": "return *(volatile int *)0xF0000000;",
        "undefined": '__asm volatile("udf #0");',
        "lockup": "*(volatile uint32_t *)0xE000ED08 = 0xF0000000;"  # VTOR: no vectors
        ' __asm volatile("udf #0");',
        "hang": 'host_print("begun\\n"); for (;;) { }',
        "talk": 'for (;;) { host_print("0123456789\\n"); }',
        "fill": 'const int f = host_open("output.bin", HOST_WRITE); for (;;)'
        " { host_write(f, (const void *)0, 65536); }",
        "status": 'host_print("\\x1b[31mwords\\n"); return 7;',
    }
    for name, body in bodies.items():
        text = MAIN.replace("{body}", body).replace("{{", "{").replace("}}", "}")
        (folder / f"{name}_main.c").write_text(text)
    return folder


def samples(count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.integers(-128, 128, (count, 6, 6, 1)).astype(np.int8)


def test_outputs_are_tflms(project: Path) -> None:
    x = samples(10)
    done = qemu.run(qemu.build(project, "m", M4), M4, x.tobytes())
    (wanted,) = run_tflm(tiny_model(), x)
    assert done.outputs == wanted.tobytes()
    assert done.layers == b""
    assert done.stack_bytes is not None
    assert 16 <= done.stack_bytes <= 512


def test_layers_are_tflms(project: Path) -> None:
    """Conv, mean and dense, in the order of the hook."""
    x = samples(3)
    done = qemu.run(qemu.build(project, "m", M4, layers=True), M4, x.tobytes())
    tensors = [int(op.out) for op in read_tflite(tiny_model()).ops]  # type: ignore[union-attr]
    parts = run_tflm(tiny_model(), x, tensors=tensors)
    wanted = b"".join(part.reshape(3, -1)[i].tobytes() for i in range(3) for part in parts)
    assert done.layers == wanted
    assert done.outputs == parts[-1].tobytes()
    assert done.stack_bytes is None


def test_without_samples_the_self_test_runs(project: Path) -> None:
    elf = qemu.build(project, "m", M4)
    assert qemu.run(elf, M4, None).log == "m: 2 golden vectors: ok\n"


def test_no_samples_give_no_outputs(project: Path) -> None:
    done = qemu.run(qemu.build(project, "m", M4), M4, b"")
    assert done.outputs == b""


def test_cut_input_is_told(project: Path) -> None:
    elf = qemu.build(project, "m", M4)
    with pytest.raises(MismatchError, match=r"input\.bin ends within a sample"):
        qemu.run(elf, M4, samples(2).tobytes()[:-1])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unmapped", r"HardFault: pc=0000[0-9a-f]{4} lr=.* CFSR=00008200 .* BFAR=f0000000"),
        ("undefined", r"HardFault: pc=.* CFSR=00010000"),
        ("lockup", r"faulted within a fault at pc=[0-9a-f]{8}: Lockup: "),
    ],
)
def test_fault_is_reported(project: Path, name: str, words: str) -> None:
    elf = qemu.build(project, name, M4)
    with pytest.raises(MismatchError, match=words) as caught:
        qemu.run(elf, M4, b"", timeout_s=30)
    assert (caught.value.exit_code, caught.value.code) == (6, "qemu.fault")
    assert f"{name}.elf on {M4}" in caught.value.where


def test_fault_on_a_core_without_fault_registers(project: Path) -> None:
    elf = qemu.build(project, "undefined", "microbit")
    with pytest.raises(MismatchError, match=r"HardFault: pc=[0-9a-f]{8} lr=[0-9a-f]{8}\b"):
        qemu.run(elf, "microbit", b"", timeout_s=30)


def test_hang_is_ended(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(qemu, "PATIENCE_S", 0.2)
    elf = qemu.build(project, "hang", M4)
    with pytest.raises(MismatchError, match="does not end within 1 s: begun") as caught:
        qemu.run(elf, M4, b"", timeout_s=1)
    assert caught.value.code == "qemu.timeout"
    assert capsys.readouterr().err == "hang.elf still runs in QEMU; given up after 1 s\n"


@pytest.mark.parametrize("name", ["talk", "fill"])
def test_endless_output_is_ended(project: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "MAX_OUTPUT_BYTES", 10**6)
    monkeypatch.setattr(qemu, "MAX_LOG_BYTES", 10**5)
    elf = qemu.build(project, name, M4)
    with pytest.raises(MismatchError, match="writes without end"):
        qemu.run(elf, M4, b"", timeout_s=60)


def test_status_is_told_with_what_was_said(project: Path) -> None:
    elf = qemu.build(project, "status", M4)
    with pytest.raises(MismatchError, match=r"exit status 7: \\x1b\[31mwords"):
        qemu.run(elf, M4, b"")


def test_unknown_board(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown board x\\x1b.*mps2-an386") as caught:
        qemu.build(project, "m", "x\x1b")
    assert caught.value.exit_code == 2


# -- a QEMU that is not as ours ------------------------------------------------------------------


@pytest.fixture
def fake_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that stands for qemu-system-arm; the test writes its lines."""
    script = tmp_path / "qemu-system-arm"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return script


def run_fake(script: Path, line: str) -> qemu.QemuRun:
    write_script(script, line)
    return qemu.run(Path("x.elf"), M4, b"")


def test_old_qemu_names_what_is_needed(fake_qemu: Path) -> None:
    line = "echo 'qemu-system-arm: unsupported machine type' >&2; exit 1"
    with pytest.raises(ToolMissingError, match=r"knows the board mps2-an386.*QEMU 6\.2"):
        run_fake(fake_qemu, line)


def test_killed_qemu_is_not_a_difference(fake_qemu: Path) -> None:
    with pytest.raises(InputError, match="ended by SIGKILL"):
        run_fake(fake_qemu, "kill -9 $$")


def test_absurd_stack_is_not_taken(fake_qemu: Path) -> None:
    assert run_fake(fake_qemu, "echo stack 99999999999999999999").stack_bytes is None


def test_outputs_that_are_no_files_are_refused(fake_qemu: Path) -> None:
    assert run_fake(fake_qemu, "mkdir output.bin").outputs == b""


def test_missing_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolMissingError, match=r"apt-get install .*qemu-system-arm"):
        qemu.run(Path("x.elf"), M4, b"")
