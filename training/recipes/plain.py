"""Plain training: the student on smoothed labels, no teacher."""

from __future__ import annotations

from ndtool.options import TrainOptions
from ndtool.training.gradients import add_gradients
from ndtool.training.recipes.losses import label_pass
from ndtool.training.recipes.method import Method, Pass
from ndtool.training.schedule import Moment
from ndtool.training.supernet import Supernet


def method(options: TrainOptions, classes: int) -> Method:
    """One pass with cross-entropy."""

    loss = label_pass("student_loss", options.label_smoothing)

    def passes(net: Supernet, moment: Moment) -> tuple[Pass, ...]:
        return (Pass(net.student, loss),)

    return Method(rates=(), passes=passes, combine=add_gradients, means=("student_loss",))
