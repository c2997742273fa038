"""The history as a TensorBoard event file: one scalar for each column and epoch.

Written with tensorboard's own records. `torch.utils.tensorboard` would do the same, but loads
TensorFlow wherever that is installed, and puts the machine's name into the name of the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from ndtool.errors import require
from ndtool.training.loop import HistoryRow

FILE_VERSION: Final = "brain.Event:2"  # what every event file begins with


class EventFile:
    """Scalars by epoch. The file always has what the history has, each point once.

    It is begun anew by whoever goes on with a run, and filled from the history. The same rows have
    the same length, so a TensorBoard that is reading it goes on where it was.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._records = require("tensorboard.summary.writer.record_writer").RecordWriter(file)
        self._event: Any = require("tensorboard.compat.proto.event_pb2").Event
        self._written = 0  # rows
        self._write(self._event(wall_time=time.time(), file_version=FILE_VERSION))

    def update(self, history: Sequence[HistoryRow]) -> None:
        """Append the rows that are new; the last one has just ended."""
        ended = time.time() - sum(row["seconds"] or 0.0 for row in history[self._written :])
        for row in history[self._written :]:
            ended += row["seconds"] or 0.0
            event = self._event(wall_time=ended, step=int(row["epoch"] or 0))
            for column, value in row.items():
                if column != "epoch" and value is not None:
                    event.summary.value.add(tag=column, simple_value=value)
            self._write(event)
        self._written = len(history)
        self._file.flush()

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString())


@contextmanager
def open_events(path: Path) -> Iterator[EventFile]:
    """A new event file at `path`; what was there is gone.

    Raises:
        ToolMissingError: tensorboard is not installed.
    """
    require("tensorboard")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()  # replaced, not followed
    with path.open("wb") as file:
        yield EventFile(file)
