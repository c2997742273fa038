"""How a call is called in comments and tables."""

from __future__ import annotations

from typing import Protocol


class Sliding(Protocol):
    """One axis of a window that slides over an image, in pixels."""

    @property
    def kernel(self) -> int:
        """Taps."""

    @property
    def stride(self) -> int:
        """From one position to the next."""

    @property
    def dilation(self) -> int:
        """From one tap to the next."""


def window_title(rows: Sliding, columns: Sliding) -> str:
    """Such as `3x3`, `3x3 s2`, `5x1 s2x1 d2`."""
    words = [f"{rows.kernel}x{columns.kernel}"]
    for letter, h, w in (
        ("s", rows.stride, columns.stride),
        ("d", rows.dilation, columns.dilation),
    ):
        if (h, w) != (1, 1):
            words.append(f"{letter}{h}" if h == w else f"{letter}{h}x{w}")
    return " ".join(words)
