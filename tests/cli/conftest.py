"""One tiny run, made once by the real command and copied for each test."""

import shutil
from pathlib import Path

import pytest
from command import Done, ndtool
from tiny_data import write_npz

TRAIN = ("--data", "npz:tiny.npz", "--width", ".5", "--epochs", "6", "--batch-size", "16",
         "--crop", "0", "--no-flip", "--threads", "1", "--name", "tiny")  # fmt: skip


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """(working folder with tiny.npz and runs/tiny, what `ndtool run` said)."""
    folder = tmp_path_factory.mktemp("chain")
    write_npz(folder / "tiny.npz")
    done = ndtool("run", *TRAIN, "--max-drop", "20", "--calib", "50", cwd=folder)
    assert done.code == 0, done.err
    return folder, done


@pytest.fixture
def tiny(tiny_chain: tuple[Path, Done], tmp_path: Path) -> Path:
    """A copy of the working folder."""
    folder = tmp_path / "work"
    shutil.copytree(tiny_chain[0], folder)
    return folder
