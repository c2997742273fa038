"""Processes that decode: order, refusals, and that none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pictures import contract_of, make_folder
from processes import in_session

from ndtool.data.folder import Listed, open_folder
from ndtool.data.readers import CHUNK, Chunk, Plain, Readers, chunks_of, read_chunk
from ndtool.data.types import DataOptions
from ndtool.errors import DataError, InputError
from ndtool.types import Part


def listed(root: Path) -> Listed:
    return open_folder(str(root), DataOptions()).listed(Part.TRAIN, contract_of())


@pytest.mark.parametrize("count", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_chunks_hold_every_row_once_and_in_order(tmp_path: Path, count: int) -> None:
    part = listed(make_folder(tmp_path / "d"))
    rows = np.random.default_rng(0).integers(0, len(part), count).tolist()
    chunks = list(chunks_of(part.files, rows, epoch=7))
    assert [row for chunk in chunks for row in chunk.rows] == rows
    for chunk in chunks:
        assert chunk.files == tuple(part.files[row] for row in chunk.rows)
        assert len(chunk.files) <= CHUNK and chunk.epoch == 7
    assert len(chunks) == -(-count // CHUNK)


def test_all_bad_files_of_a_chunk_are_named(tmp_path: Path) -> None:
    part = listed(make_folder(tmp_path / "d"))
    (chunk,) = chunks_of(part.files, range(6), epoch=0)
    good = read_chunk(Plain(part.decoder), chunk)
    assert isinstance(good, np.ndarray) and good.shape == (6, 8, 8, 3)
    Path(part.files[1].path).unlink()
    Path(part.files[4].path).write_bytes(b"other")
    problems = read_chunk(Plain(part.decoder), chunk)
    assert isinstance(problems, list)
    assert [problem.code for problem in problems] == ["data.unreadable", "data.changed"]
    assert [Path(problem.where).name for problem in problems] == [
        Path(part.files[row].path).name for row in (1, 4)
    ]


def test_a_pool_gives_the_decoders_pixels_and_ends(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    source = open_folder(str(root), DataOptions())
    part, decoded = source.listed(Part.TRAIN, contract_of()), source.load(Part.TRAIN, contract_of())
    rows = [5, 0, 3, 3, 1, 2, 4]
    chunks = [Chunk(files=(part.files[row],), rows=(row,), epoch=0) for row in rows]
    read = Plain(part.decoder)
    with Readers(2) as readers:
        got = list(readers.pixels(read, chunks, ahead=0))
        assert np.array_equal(np.concatenate(got), decoded.images[rows])

        half = readers.pixels(read, chunks * 50, ahead=4)
        next(half)
        half.close()  # what was begun is not waited for
        assert len(list(readers.pixels(read, chunks[:2], ahead=100))) == 2

        Path(part.files[3].path).write_bytes(b"other")
        rest = readers.pixels(read, chunks, ahead=0)
        assert np.array_equal(next(rest), decoded.images[[5]])
        assert np.array_equal(next(rest), decoded.images[[0]])
        with pytest.raises(DataError) as caught:
            next(rest)
        assert caught.value.code == "data.changed"
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        assert not any(loads_torch(worker.pid) for worker in workers)
    assert not multiprocessing.active_children()


def loads_torch(pid: int | None) -> bool:
    """Whether a process holds torch, which decoding does not need."""
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def test_a_killed_process_is_told_at_once(tmp_path: Path) -> None:
    part = listed(make_folder(tmp_path / "d"))
    chunks = list(chunks_of(part.files, [0] * 2000, epoch=0))
    with Readers(1) as readers:
        pixels = readers.pixels(Plain(part.decoder), chunks, ahead=0)
        next(pixels)
        (worker,) = multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(InputError) as caught:
            list(pixels)
    assert caught.value.code == "data.loader-killed"
    assert "--loaders" in str(caught.value)


LIVING = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from pictures import contract_of
from ndtool.data.folder import open_folder
from ndtool.data.readers import Plain, Readers, chunks_of
from ndtool.data.types import DataOptions
from ndtool.types import Part
if __name__ == "__main__":
    part = open_folder(sys.argv[1], DataOptions()).listed(Part.TRAIN, contract_of())
    with Readers(2) as readers:
        list(readers.pixels(Plain(part.decoder), chunks_of(part.files, [0] * 64, epoch=0), ahead=0))
        print("ready", flush=True)
        time.sleep(100)
"""


@pytest.mark.slow
def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "d")
    script = tmp_path / "living.py"
    script.write_text(LIVING)
    lib = Path(__file__).resolve().parents[2] / "lib"
    with subprocess.Popen(
        [sys.executable, str(script), str(root), str(lib)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        assert len(in_session(parent.pid)) >= 4  # itself, the fork server, two loaders
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 20
        while in_session(parent.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not in_session(parent.pid)
