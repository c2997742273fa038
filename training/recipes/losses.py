"""Losses that several recipes use; each a scalar or one value a sample, in nats."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of logits (N, K) with smoothed labels (N,)."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


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
