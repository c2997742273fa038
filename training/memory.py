"""Keep freed memory in the process while training.

A step frees its activations and the next one asks for the same sizes again. glibc gives blocks of
that size back to the system in between, and faulting the pages in once more took a third (ds-cnn,
batch 128) to 40 % (mbv2 .35, 96x96, batch 32) of a step's CPU time. Keeping them costs memory in
the gaps between blocks: measured at most 1.8 times the peak. Only on glibc.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_MIB: Final = 1024**2
# Parameters of mallopt, malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BLOCK: Final = 128 * _MIB  # larger ones go back: few, and gaps of their size would be dear
_KEPT_TOP: Final = 2**31 - 1
# What glibc's own adjustment ends at in a process that has freed large blocks; older versions
# refuse more.
_USUAL_BLOCK: Final = 32 * _MIB
_USUAL_TOP: Final = 64 * _MIB


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, blocks up to 128 MiB stay on the heap when freed; afterwards the heap is trimmed."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    if not libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK):
        libc.mallopt(_M_MMAP_THRESHOLD, _USUAL_BLOCK)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_TOP)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _USUAL_BLOCK)
        libc.mallopt(_M_TRIM_THRESHOLD, _USUAL_TOP)
        libc.malloc_trim(0)
