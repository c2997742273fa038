"""`ndtool train --loaders`: errors of other processes are one line, and none of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command import CODE, ndtool_here
from pictures import make_given
from processes import in_session

from ndtool.rundir import CHECKPOINT, SKIPPED

TRAIN = ("train", "--model", "ds-cnn", "--width", ".25", "--resolution", "16", "--recipe", "plain")


def folder(root: Path) -> Path:
    return make_given(root, ("train", "val", "test"))


@pytest.mark.slow
def test_a_bad_image_is_one_line_and_can_be_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "d")
    (root / "train" / "a" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    words = [*TRAIN, "--data", f"folder:{root}", "--epochs", 1, "--batch-size", 19]
    words += ["--out", tmp_path, "--name", "x"]
    done = ndtool_here(*words, "--loaders", 2, capsys=capsys)
    assert done.code == 2
    errors = [line for line in done.err.splitlines() if "error" in line]
    assert len(errors) == 1 and errors[0].endswith("[data.corrupt-image]")
    assert "bad.png" in errors[0]
    assert "Traceback" not in done.err

    words[-1] = "skipping"
    words += ["--bad-files", "skip"]
    skipped = ndtool_here(*words, "--loaders", 2, capsys=capsys)
    assert skipped.code == 0, skipped.err
    assert "bad.png" in (tmp_path / "skipping" / SKIPPED).read_text()
    again = ndtool_here(*words, capsys=capsys)
    assert again.code == 0 and "up to date" in again.err  # how it is decoded is no other training


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_a_checkpoint(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    words = [*TRAIN, "--data", f"folder:{root}", "--epochs", "100000", "--loaders", "2"]
    with subprocess.Popen(
        [sys.executable, "-c", CODE, *words, "--batch-size", "4", "--name", "x"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        deadline = time.monotonic() + 120
        while not (tmp_path / "runs" / "x" / CHECKPOINT).exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
        assert process.stderr is not None
        text = process.stderr.read()
        assert process.wait() == 130
    assert "Traceback" not in text
    assert "interrupted" in text.splitlines()[-1]
    deadline = time.monotonic() + 10
    while in_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not in_session(process.pid)
