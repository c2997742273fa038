"""Losses that several recipes use, in nats."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ndtool.training.recipes.method import Figures, Loss, Targets


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of logits (N, K) with smoothed labels (N,)."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def label_pass(name: str, smoothing: float) -> Loss:
    """A network that learns from the labels alone; its figure `name` is the loss."""

    def loss(logits: Tensor, targets: Targets, _: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        value = label_loss(logits, targets.labels, smoothing)
        return value, {name: value.detach()}

    return loss


def divergence(logits: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)) of each sample, (N, K) -> (N,).

    T^2 keeps the size of the gradient whatever T is (training-methods, section 4).
    """
    log_s = F.log_softmax(logits / temperature, dim=1)
    log_p = F.log_softmax(teacher / temperature, dim=1)
    value = F.kl_div(log_s, log_p, reduction="none", log_target=True).sum(1)
    return value * temperature**2


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) of each sample in nats, (N, K) -> (N,)."""
    log_s = F.log_softmax(logits, dim=1)
    return -(log_s.exp() * log_s).sum(1)
