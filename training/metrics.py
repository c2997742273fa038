"""Figures of an epoch, added up on the device and read once at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class EpochFigures:
    """Means and peaks of 0-d device tensors over the steps that were applied."""

    def __init__(
        self, means: Sequence[str], peaks: Sequence[str], device: torch.device | str
    ) -> None:
        self._means = tuple(means)
        self._peaks = tuple(peaks)
        self._sums = torch.zeros(len(means) + 1, device=device)  # the last one counts steps
        self._largest = torch.zeros(len(peaks), device=device)

    def add(self, figures: Mapping[str, Tensor], applied: Tensor) -> None:
        """One step's figures; left out where the 0-d bool `applied` is false."""
        one = torch.ones_like(self._sums[0])
        step = torch.stack([*(figures[name] for name in self._means), one])
        self._sums += torch.where(applied, step, 0.0)
        if self._peaks:
            peaks = torch.stack([figures[name] for name in self._peaks])
            self._largest = torch.maximum(self._largest, torch.where(applied, peaks, 0.0))

    def read(self) -> dict[str, float | None]:
        """Values by name, None without any applied step; waits for the device."""
        *sums, steps = self._sums.tolist()
        if steps == 0:
            return dict.fromkeys((*self._means, *self._peaks))
        means = {name: total / steps for name, total in zip(self._means, sums, strict=True)}
        return means | dict(zip(self._peaks, self._largest.tolist(), strict=True))
