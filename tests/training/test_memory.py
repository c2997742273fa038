"""Freed blocks stay in the process inside `kept_memory`, and go back after it."""

import platform
import subprocess
import sys

import pytest

from ndtool.training.memory import kept_memory

# A fresh process: what other tests left on the heap decides how many pages are faulted in.
CODE = """
import resource
import torch
from ndtool.training.memory import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.full((32 * 1024 * 1024,), 1, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * resource.getpagesize()

with kept_memory():
    first = faults()
    for _ in range(20):  # until the gaps between blocks fit the next one
        faults()
    again = max(faults() for _ in range(5))
    inside = resident()
print(first, again, inside - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_freed_blocks_are_used_again_inside_and_given_back_after() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], check=True, capture_output=True, text=True, timeout=120
    )
    first, again, given_back = map(int, done.stdout.split())
    assert again < first / 10  # also with huge pages, where `first` is small
    assert given_back > 30 * 1024 * 1024


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("called into the C library"))
    with kept_memory():
        pass
