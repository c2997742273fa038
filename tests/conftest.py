"""Environment of a test process, and the optional packages that a test can ask for by fixture.

Set before numpy or torch is imported: one thread a test process, and no spinning threads.
"""

import os
import signal
from pathlib import Path

import pytest
from host_tools import require_package

from ndtool import console

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.pop("GITHUB_ACTIONS", None)  # our own output is guarded there; tests that need it set it
# A job in a shell's background ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def loud_console() -> None:
    """A test that runs a command with --quiet or --json must not silence those after it."""
    console.configure(quiet=False, verbose=False, as_json=False)


@pytest.fixture(scope="session")
def tflite_micro() -> None:
    """For tests that run the reference interpreter (its wheel is for Linux x86-64)."""
    require_package("tflite_micro")


@pytest.fixture(scope="session")
def tensorflow() -> None:
    """For tests that convert with TensorFlow."""
    require_package("tensorflow")


@pytest.fixture(scope="session")
def firmware(tflite_micro: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cortex-m-qemu project of `tiny_model`, prefix m, built for the default board.

    It is every test's: one that changes a file takes a copy, which `make` finds up to date.
    """
    from int8_models import tiny_model
    from qemu_engine import require_cross_tools, write_firmware

    from ndtool.export import qemu
    from ndtool.export.codegen.boards import DEFAULT_BOARD
    from ndtool.export.tflite.reader import read_tflite

    require_cross_tools()
    folder = tmp_path_factory.mktemp("firmware") / "project"
    write_firmware(read_tflite(tiny_model()), folder)
    qemu.build(folder, "m", DEFAULT_BOARD)
    return folder
