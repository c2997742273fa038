"""NetAug: the student trained as a part of wider networks, too.

Cai et al., arXiv 2110.08890; the rules are those of training-methods, section 2. Every step trains
the student and one randomly drawn wider network that holds it, both on labels; their gradients add
up. Neither distillation nor projection. In the second half of a run only mid channels are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.training.channels import sort_channels
from ndtool.training.gradients import add_gradients
from ndtool.training.recipes.losses import label_loss, label_pass
from ndtool.training.recipes.method import Figures, Method, Pass, Targets
from ndtool.training.schedule import Moment
from ndtool.training.seeds import Use, generator
from ndtool.training.subnet import draw
from ndtool.training.supernet import Supernet

STUDENT: Final = "student_loss"
AUGMENTED: Final = "augmented_loss"


def method(options: TrainOptions, classes: int) -> Method:
    """Student pass, then the drawn network's."""

    student = label_pass(STUDENT, options.label_smoothing)
    augmented = label_pass(AUGMENTED, options.label_smoothing)

    def twice(logits: Tensor, targets: Targets, _: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        loss = label_loss(logits, targets.labels, options.label_smoothing)
        return 2 * loss, {STUDENT: loss.detach(), AUGMENTED: loss.detach()}

    def passes(net: Supernet, moment: Moment) -> tuple[Pass, ...]:
        spec = net.student.spec
        drawn = draw(
            spec,
            generator(options.seed, Use.WIDTHS, moment.step),
            vary_widths=widths_vary(moment),
        )
        if drawn == spec:  # always so in the second half where no block has mid channels
            return (Pass(net.student, twice),)
        return (Pass(net.student, student), Pass(net.between(drawn), augmented))

    return Method(
        rates=(),
        passes=passes,
        combine=add_gradients,
        means=(STUDENT, AUGMENTED),
        augmented=True,
        before_epoch=_before_epoch,
    )


def widths_vary(moment: Moment) -> bool:
    """Whether output widths are drawn, too: in the first half of the run."""
    return 2 * moment.step < moment.steps


def _before_epoch(net: Supernet, moment: Moment) -> bool:
    """Sort channels while widths vary; the very first weights have no order worth that."""
    sort = moment.step > 0 and widths_vary(moment)
    if sort:
        sort_channels(net)
    return sort
