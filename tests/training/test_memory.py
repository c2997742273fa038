"""Freed blocks stay in the process inside `kept_memory`, and go back after it."""

import platform
import resource

import pytest
import torch

from ndtool.training.memory import kept_memory

PAGE = resource.getpagesize()
BLOCK = 32 * 1024 * 1024


def faults_of_a_block() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.full((BLOCK,), 1, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc only")
def test_freed_blocks_are_used_again_inside_and_given_back_after() -> None:
    with kept_memory():
        faults_of_a_block()
        again = min(faults_of_a_block() for _ in range(3))
    after = min(faults_of_a_block() for _ in range(3))
    assert again < BLOCK // PAGE // 20
    assert after > again  # a system with huge pages needs few faults, but some


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", lambda _: pytest.fail("called into the C library"))
    with kept_memory():
        pass
