"""Plain training: the student on smoothed labels, no teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.training.gradients import add_gradients
from ndtool.training.recipes.losses import label_loss
from ndtool.training.recipes.method import Figures, Method, Pass, Targets
from ndtool.training.schedule import Moment
from ndtool.training.supernet import Supernet


def method(options: TrainOptions, classes: int) -> Method:
    """One pass with cross-entropy."""

    def loss(logits: Tensor, targets: Targets, _: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        value = label_loss(logits, targets.labels, options.label_smoothing)
        return value, {"student_loss": value.detach()}

    def passes(net: Supernet, moment: Moment) -> tuple[Pass, ...]:
        return (Pass(net.student, loss),)

    return Method(rates=(), passes=passes, combine=add_gradients, means=("student_loss",))
