"""What several processes of one training tell each other; alone, nothing happens.

One flat reduction a step, of the gradients of all networks together, before surgery: projection
is not linear (training-methods, section 8). Evaluation reduces counts, never ratios.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 writes the files."""
    return dist.get_rank() if world() > 1 else 0


def share(index: Tensor) -> Tensor:
    """This process's part of a global batch (B,); B is a multiple of the number of processes."""
    return index.chunk(world())[rank()]


def average_(flat: Tensor) -> None:
    """Mean over the processes, in place. With two the sum has no order: equal to the last bit."""
    if world() > 1:
        dist.all_reduce(flat, op=dist.ReduceOp.SUM)
        flat /= world()


def total_(counts: Tensor) -> None:
    """Sum over the processes, in place."""
    if world() > 1:
        dist.all_reduce(counts, op=dist.ReduceOp.SUM)


def average_with_(flat: Tensor, tail: Tensor, figures: Tensor) -> Tensor:
    """`average_` of a buffer and, in the same call, of a few figures (F,), which it returns.

    Args:
        flat: (n,) the whole buffer.
        tail: its last elements, at least F, free for the figures.
    """
    if world() == 1:
        return figures
    place = tail[: len(figures)]
    place.copy_(figures)
    average_(flat)
    return torch.clone(place)
