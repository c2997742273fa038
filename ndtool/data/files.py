"""Reading files of unknown origin: regular ones only, never more than a bound.

A FIFO or a device would block or never end, so the check is made on the opened descriptor, which
nobody can exchange in between.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

from ndtool.data.problems import data_error
from ndtool.machine import available_memory_bytes

MAX_FILE_BYTES: Final = 64 * 1024 * 1024  # one image (users.md, 3)
_MEMORY_SHARE: Final = 0.75  # of the available memory that pixels may take
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO without a writer must not wait
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


@contextmanager
def open_regular(path: str, *, where: str) -> Iterator[BinaryIO]:
    """An open regular file; `where` is its name as the user wrote it.

    Raises:
        DataError: missing, unreadable, a folder, a FIFO, a device or a socket.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise data_error(
            f"cannot open: {reason}",
            where=where,
            remedy="check the path and its permissions",
            code="data.unreadable",
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise data_error(
            "not a regular file",
            where=where,
            remedy="name a file, not a folder, FIFO or device",
            code="data.not-a-file",
        )
    with os.fdopen(descriptor, "rb") as handle:
        yield handle


def read_regular(path: str, *, where: str, limit: int = MAX_FILE_BYTES) -> bytes:
    """All bytes of a regular file of at most `limit` bytes; raises DataError."""
    with open_regular(path, where=where) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size <= limit:
            try:
                content = handle.read(limit + 1)
            except OSError as error:
                raise data_error(
                    f"cannot read: {error.strerror}",
                    where=where,
                    remedy="copy the file again",
                    code="data.unreadable",
                ) from error
            if len(content) <= limit:
                return content
        raise data_error(
            f"file is larger than {limit:,} bytes",
            where=where,
            remedy="make it smaller, or list it in .ndignore",
            code="data.file-too-large",
        )


def require_memory(
    needed_bytes: int, *, where: str, remedy: str = "use a smaller --resolution or fewer images"
) -> None:
    """Refuse pixels that this machine cannot hold, before they are allocated.

    Raises:
        DataError: more than three quarters of the memory that is available now.
    """
    available = available_memory_bytes()
    if available is not None and needed_bytes > available * _MEMORY_SHARE:
        raise data_error(
            f"the pixels take {needed_bytes:,} bytes, {available:,} are available",
            where=where,
            remedy=remedy,
            code="data.memory",
        )
