"""Plain training: the student on smoothed labels, no teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.training.gradients import add_gradients
from ndtool.training.recipes.method import Figures, Method


def method(options: TrainOptions, classes: int) -> Method:
    """One pass with cross-entropy."""

    def loss(logits: Tensor, labels: Tensor, _: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        value = F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing)
        return value, {"student_loss": value.detach()}

    return Method(rates=(), losses=(loss,), combine=add_gradients, means=("student_loss",))
