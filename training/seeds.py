"""Random generators that follow from the run's seed and a place, never from earlier draws.

Nothing random is carried from epoch to epoch, so a resumed run needs no generator state.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Use(IntEnum):
    """What a generator is for; part of its seed, so that no two uses share a stream."""

    INIT = 0
    ORDER = 1
    AUGMENT = 2
    REMAINDER = 3  # of a teacher that joins a student already trained
    WIDTHS = 4  # of the networks that netaug draws


def generator(seed: int, use: Use, number: int = 0) -> torch.Generator:
    """A CPU generator for one use in one epoch or step, `number`, of the run with `seed`."""
    mixed = np.random.SeedSequence([seed, int(use), number]).generate_state(1, np.uint32)
    return torch.Generator().manual_seed(int(mixed[0]))
