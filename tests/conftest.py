"""Environment of a test process, and the optional packages that a test can ask for by fixture.

Set before numpy or torch is imported: one thread a test process, and no spinning threads.
"""

import os

import pytest
from host_tools import require_package

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.pop("GITHUB_ACTIONS", None)  # our own output is guarded there; tests that need it set it


@pytest.fixture(scope="session")
def tflite_micro() -> None:
    """For tests that run the reference interpreter (its wheel is for Linux x86-64)."""
    require_package("tflite_micro")


@pytest.fixture(scope="session")
def tensorflow() -> None:
    """For tests that convert with TensorFlow."""
    require_package("tensorflow")
