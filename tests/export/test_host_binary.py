"""Whatever the program of a C project does, it ends in time and in one plain error."""

from pathlib import Path

import numpy as np
import pytest
from int8_models import tiny_model

from ndtool.errors import MismatchError
from ndtool.export import host_binary
from ndtool.export.c_project import CProject, Layer
from ndtool.export.host_binary import HostProgram
from ndtool.export.int8.ir import TensorId
from ndtool.export.tflite.reader import read_tflite

SAMPLES = np.zeros((2, 36), np.int8)


def program(folder: Path, script: str, *, layers: bool = False) -> HostProgram:
    """A shell script as the program of `tiny_model`: 36 bytes in, 3 out, 6 of layers."""
    tflite = tiny_model()
    project = CProject(
        folder=folder,
        prefix="nd_model",
        template="posix",
        tflite=tflite,
        graph=read_tflite(tflite),
        layers=(Layer(tensor=TensorId(8), name="logits", bytes=6, channels=3),),
        files={},
        contract=None,
        arena_bytes=None,
        weights_bytes=None,
    )
    path = folder / "nd_model_host"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return HostProgram(project=project, path=path, layers=layers)


def test_outputs_and_layers_come_back(tmp_path: Path) -> None:
    script = "test -s $1 || exit 1; printf abcdef > $2; printf 123456789012 > $3"
    outputs, layers = program(tmp_path, script, layers=True).run(SAMPLES)
    assert outputs.tobytes() == b"abcdef" and outputs.shape == (2, 3)
    assert layers is not None and layers.tobytes() == b"123456789012" and layers.shape == (2, 6)
    outputs, layers = program(tmp_path, 'test "$#" = 2 && printf abcdef > $2').run(SAMPLES)
    assert layers is None


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sleep 100 & sleep 100", "does not end within"),
        ("kill -SEGV $$", "died of SIGSEGV"),
        ("echo out of luck >&2; exit 3", "exit status 3: out of luck"),
        ("printf abc > $2", "wrote 3 bytes of outputs, 6 expected"),
        ("printf abcdefg > $2", "wrote 7 bytes"),
        ("true", "wrote 0 bytes"),
        ("while :; do cat $1 $1 $1 $1; done", "writes without end"),
        ("while :; do cat $1 $1 $1 $1 >> $2; done", "writes without end"),
    ],
)
def test_a_bad_program_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    monkeypatch.setattr(host_binary, "START_TIMEOUT_S", 0.3 if "sleep" in script else 20.0)
    monkeypatch.setattr(host_binary, "MAX_LOG_BYTES", 4096)
    with pytest.raises(MismatchError, match=words):
        program(tmp_path, script).run(SAMPLES)


def test_no_program_is_a_plain_error(tmp_path: Path) -> None:
    made = program(tmp_path, "true")
    made.path.write_text("not a program")
    with pytest.raises(MismatchError, match="cannot be started"):
        made.run(SAMPLES)


def test_a_failing_self_test(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="exit status 1: golden"):
        program(tmp_path, "echo golden vector 1; exit 1").self_test()


def test_the_self_test_counts_what_it_ran(tmp_path: Path) -> None:
    """The figure is what was run, not what a marker says."""
    words = "nd_model: 12 golden vectors: ok"
    assert program(tmp_path, f'test "$#" = 0 && echo {words}').self_test() == 12
    for said in ("", "other: 12 golden vectors: ok", words + "ay", "nd_model: 12 vectors: ok"):
        with pytest.raises(MismatchError, match="does not say") as caught:
            program(tmp_path, f"echo '{said}'").self_test()
        assert caught.value.code == "verify.self-test"


def test_chunks_are_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert program(tmp_path, "").chunk == host_binary.CHUNK_SAMPLES
    monkeypatch.setattr(host_binary, "CHUNK_BYTES", 20)
    assert program(tmp_path, "").chunk == 6
    assert program(tmp_path, "", layers=True).chunk == 2
    monkeypatch.setattr(host_binary, "CHUNK_BYTES", 2)
    assert program(tmp_path, "").chunk == 1
