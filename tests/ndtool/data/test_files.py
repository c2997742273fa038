"""Only regular files, never more than a bound."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from ndtool.data import files
from ndtool.data.files import open_regular, read_regular, require_memory
from ndtool.errors import DataError


def refusal(path: str) -> DataError:
    with pytest.raises(DataError) as caught:
        read_regular(path, where=path)
    return caught.value


def test_reads_a_regular_file_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_regular(str(path), where="x", limit=5) == b"12345"
    with pytest.raises(DataError) as caught:
        read_regular(str(path), where="x", limit=4)
    assert caught.value.code == "data.file-too-large"


def test_fifo_folder_device_and_socket_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")  # without a writer: a plain open() would wait for ever
    assert refusal(str(tmp_path / "fifo")).code == "data.not-a-file"
    assert refusal("/dev/zero").code == "data.not-a-file"
    assert refusal(str(tmp_path)).code == "data.not-a-file"
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        assert refusal("socket").code == "data.unreadable"


def test_missing_files_and_impossible_paths(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "none")).code == "data.unreadable"
    assert refusal("a\0b").where == "a\\x00b"
    with pytest.raises(DataError), open_regular("x" * 5000, where="long"):
        pass


def test_a_file_that_grows_while_it_is_read_is_bounded() -> None:
    """/proc files say 0 bytes and hold more."""
    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    with pytest.raises(DataError):
        read_regular("/proc/self/status", where="status", limit=10)


def test_memory_is_judged_against_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "available_memory_bytes", lambda: 1000)
    require_memory(750, where="x")
    with pytest.raises(DataError) as caught:
        require_memory(751, where="x")
    assert caught.value.code == "data.memory"
    monkeypatch.setattr(files, "available_memory_bytes", lambda: None)
    require_memory(10**15, where="x")
