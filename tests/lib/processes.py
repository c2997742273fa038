"""Which processes are left, by /proc."""

from __future__ import annotations

from pathlib import Path


def in_session(session: int) -> list[int]:
    """Process numbers of the living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:  # ended meanwhile
            continue
        state, _, _, its_session = text.rpartition(")")[2].split()[:4]
        if int(its_session) == session and state != "Z":
            found.append(int(path.parent.name))
    return sorted(found)
