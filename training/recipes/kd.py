"""Knowledge distillation from an external teacher (Hinton et al.; training-methods, section 4).

L = (1 - a) CE(labels, smoothed) + a T^2 KL(softmax(z_t / T) || softmax(z_s / T))
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.training.gradients import add_gradients
from ndtool.training.recipes.losses import divergence, label_loss
from ndtool.training.recipes.method import Figures, Method, Pass, Targets
from ndtool.training.schedule import Moment
from ndtool.training.supernet import Supernet


def method(options: TrainOptions, classes: int) -> Method:
    """The student alone, on labels and on the external teacher's soft labels."""
    weight = options.kd_weight

    def loss(logits: Tensor, targets: Targets, _: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        assert targets.external is not None
        hard = label_loss(logits, targets.labels, options.label_smoothing)
        soft = divergence(logits, targets.external, options.temperature).mean()
        value = (1 - weight) * hard + weight * soft
        return value, {"student_loss": value.detach()}

    def passes(net: Supernet, moment: Moment) -> tuple[Pass, ...]:
        return (Pass(net.student, loss),)

    return Method(
        rates=(), passes=passes, combine=add_gradients, means=("student_loss",), external=True
    )
