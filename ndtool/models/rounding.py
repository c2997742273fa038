"""How MobileNets round a scaled width."""

from __future__ import annotations


def div8(value: float) -> int:
    """Nearest multiple of 8, at least 8, never below 90 % of `value` (training-methods, 3.0)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded
