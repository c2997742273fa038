"""One training step (training-methods, 1.5): passes, reduction, surgery, clipping, SGD.

Nothing here waits for the device. A step whose loss or gradient is not finite is counted, and
leaves weights, momentum and running statistics as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import torch
from torch import Tensor

from ndtool.errors import ConfigError
from ndtool.options import TrainOptions
from ndtool.training import collectives
from ndtool.training.recipes.method import Figures, Method, Pass, Targets
from ndtool.training.schedule import Moment
from ndtool.training.supernet import Supernet
from ndtool.types import Precision

GRAD_NORM: Final = "grad_norm"
CLIPPED: Final = "clipped_share"


def train_step(
    net: Supernet,
    method: Method,
    images: Tensor,
    targets: Targets,
    *,
    moment: Moment,
    lr: float | Tensor,
    options: TrainOptions,
) -> tuple[Figures, Tensor]:
    """One step on normalised images (B, C, H, W), this process's share of the batch.

    Args:
        moment: where in the run it is.
        lr: a number, or a 0-d tensor on the device.

    Returns:
        The figures, means over the processes, and whether the step was applied (0-d bool).
    """
    net.zero_grad()
    statistics = net.statistics.clone()
    passes = method.passes(net, moment)
    # Batch norms are part of whatever is held: they then normalise by their stored statistics.
    figures = _run_passes(passes, images, targets, options, training=net.held is None)

    # Before any dot product: projection is not linear.
    names = tuple(figures)
    values = collectives.average_with_(net.gradients, net.tail, torch.stack([*figures.values()]))
    figures = dict(zip(names, values.unbind(), strict=True))

    # Join the gradients on the shared slice: sum or surgery (1.3).
    for one in passes:
        if one.width.slice is not None:
            figures |= method.combine(net.grad, one.width.slice)

    # Clip what will be applied; skip where anything is not finite (1.5, 1.8).
    norm = torch.linalg.vector_norm(net.grad)
    applied = torch.stack([norm, *figures.values()]).isfinite().all()
    figures[GRAD_NORM] = norm
    figures[CLIPPED] = torch.zeros_like(norm)
    if options.clip_norm > 0:
        net.grad.mul_((options.clip_norm / (norm + 1e-6)).clamp_max(1.0))
        figures[CLIPPED] = (norm > options.clip_norm).float()

    sgd_nesterov(net, lr=lr, options=options, applied=applied)
    torch.where(applied, net.statistics, statistics, out=net.statistics)
    return figures, applied


def _run_passes(
    passes: Sequence[Pass],
    images: Tensor,
    targets: Targets,
    options: TrainOptions,
    *,
    training: bool,
) -> dict[str, Tensor]:
    """Forward and backward of each network into the flat buffers; mean figures of the parts.

    The batch goes through in `options.accumulate` parts, one after the other through all networks,
    so that memory holds the activations of one part of one network at a time. Batch norm sees a
    part as its batch.
    """
    parts = options.accumulate
    rows = len(images) // parts
    total: dict[str, Tensor] = {}
    for part in range(parts):
        share = slice(part * rows, (part + 1) * rows)
        made: list[Tensor] = []
        for one in passes:
            with _passes_in(options.precision, images.device):
                logits = one.width(images[share], training=training)
            logits = logits.float()  # losses and softmax in fp32
            loss, figures = one.loss(logits, targets.part(share), made)
            torch.autograd.backward(loss if parts == 1 else loss / parts)
            made.append(logits.detach())
            for name, value in figures.items():
                mine = value if parts == 1 else value / parts
                total[name] = total[name] + mine if name in total else mine
    return total


def _passes_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    match precision:
        case Precision.FP32:
            return nullcontext()
        case Precision.BF16:
            return torch.autocast(device.type, dtype=torch.bfloat16)


def sgd_nesterov(
    net: Supernet, *, lr: float | Tensor, options: TrainOptions, applied: Tensor
) -> None:
    """g += wd theta (shared weights only); v = mu v + g; theta -= lr (g + mu v); flat kernels.

    Where `applied` is false nothing moves: momentum is kept by a factor of 1, theta by a rate of
    0, and the gradient is replaced, since 0 times NaN is NaN. What is held never had a gradient or
    momentum; it must not decay either.
    """
    grad, momentum, theta = net.grad, net.momentum, net.theta
    decayed = net.layout.decayed
    grad[:decayed].add_(theta[:decayed], alpha=options.weight_decay)
    grad.masked_fill_(~applied if net.held is None else net.held | ~applied, 0.0)
    momentum.mul_(torch.where(applied, options.momentum, 1.0)).add_(grad)
    grad.add_(momentum, alpha=options.momentum)
    theta.addcmul_(grad, torch.where(applied, -lr, 0.0))


class Guard:
    """Counts steps without a finite gradient, on the device (training-methods, 1.8)."""

    def __init__(self, in_row: int, allowed: int, device: torch.device | str) -> None:
        """`in_row` steps were skipped just before; `allowed` in a row end the run."""
        self._allowed = allowed
        self._in_row = torch.full((), in_row, dtype=torch.int64, device=device)
        self._longest = torch.zeros((), dtype=torch.int64, device=device)
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)

    def count(self, applied: Tensor) -> None:
        """Note one step; `applied` is a 0-d bool tensor."""
        self._in_row = torch.where(applied, 0, self._in_row + 1)
        self._longest = torch.maximum(self._longest, self._in_row)
        self._skipped += ~applied

    def read(self, epoch: int) -> tuple[int, int]:
        """(steps skipped in a row up to now, steps skipped since the start); waits for the device.

        Raises:
            ConfigError: as many steps in a row were skipped as end a run.
        """
        in_row, longest, skipped = torch.stack(
            (self._in_row, self._longest, self._skipped)
        ).tolist()
        if longest >= self._allowed:
            kept = f"; the checkpoint of epoch {epoch - 1} is kept" if epoch > 1 else ""
            raise ConfigError(
                f"training diverged: {longest} steps in a row had a loss or gradient that is not"
                f" finite{kept}",
                where=f"epoch {epoch}",
                remedy="use a smaller --lr, or clip harder with --clip-norm",
                code="train.diverged",
            )
        return in_row, skipped
