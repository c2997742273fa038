"""NetDistiller: a weight-sharing wide teacher on labels, the student on the teacher's soft labels.

Equations 1 to 3 of the paper (arXiv 2310.19820) as training-methods, 1.2 to 1.4, gives them. With
several wider networks each learns from the next wider one (teacher assistants: Ozerov and Duong,
arXiv 2105.08369). An external teacher is added to every network's loss (the paper's
table 5), in the steps in which the wider networks take part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.training.gradients import (
    CONFLICT_RATE,
    LARGEST_C,
    add_gradients,
    project_gradients,
)
from ndtool.training.recipes import plain
from ndtool.training.recipes.losses import divergence, entropy, label_loss, label_pass
from ndtool.training.recipes.method import Figures, Loss, Method, Pass, Targets
from ndtool.training.schedule import Moment, Teaching
from ndtool.training.supernet import Supernet
from ndtool.types import StudentLoss

STUDENT: Final = "student_loss"
KL_SHARE: Final = "kl_share"  # of samples that learn from the wider network


def method(options: TrainOptions, classes: int) -> Method:
    """Teacher pass, assistants, student pass, surgery; each option of 1.2 and 1.3 switchable."""
    teaching = Teaching(options.teacher_start, options.teacher_stop, options.teacher_every)
    wide = _with_external(label_pass("teacher_loss", options.label_smoothing), options)
    assistant = _with_external(_narrow_pass("assistant_loss", options, classes), options)
    student = _with_external(_narrow_pass(STUDENT, options, classes), options)
    rates = tuple(sorted(options.expand, reverse=True))
    losses = (wide, *(assistant for _ in rates[1:]), student)

    def passes(net: Supernet, moment: Moment) -> tuple[Pass, ...]:
        return tuple(Pass(width, loss) for width, loss in zip(net.widths, losses, strict=True))

    soft = () if options.student_loss is StudentLoss.CE else (KL_SHARE,)
    between = ("assistant_loss",) if len(rates) > 1 else ()
    return Method(
        rates=rates,
        passes=passes,
        combine=project_gradients if options.surgery else add_gradients,
        means=("teacher_loss", *between, STUDENT, *soft, CONFLICT_RATE),
        peaks=(LARGEST_C,),
        teaching=teaching,
        alone=None if teaching.always else plain.method(options, classes),
        external=bool(options.teacher),
    )


def uncertainty_threshold(share: float, classes: int) -> float:
    """T = f ln K in nats: the paper's 3.75 is .543 of ln 1000 (1.4)."""
    return share * math.log(classes)


def _narrow_pass(name: str, options: TrainOptions, classes: int) -> Loss:
    """The loss of a network that learns from the next wider one."""
    smoothing = options.label_smoothing
    threshold = uncertainty_threshold(options.uncertainty, classes)

    def figures(value: Tensor, share: Tensor) -> Figures:
        shown = {name: value.detach()}
        return shown | {KL_SHARE: share} if name == STUDENT else shown

    def ud(logits: Tensor, targets: Targets, earlier: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        soft = divergence(logits, earlier[-1])  # (N,)
        hard = F.cross_entropy(logits, targets.labels, label_smoothing=smoothing, reduction="none")
        unsure = entropy(logits.detach()) > threshold  # (N,)
        value = torch.where(unsure, soft, hard).mean()
        return value, figures(value, unsure.float().mean())

    def kl(logits: Tensor, _: Targets, earlier: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        value = divergence(logits, earlier[-1]).mean()
        return value, figures(value, torch.ones_like(value.detach()))

    def mix(logits: Tensor, targets: Targets, earlier: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        soft = divergence(logits, earlier[-1]).mean()
        value = soft + label_loss(logits, targets.labels, smoothing)
        return value, figures(value, torch.ones_like(value.detach()))

    match options.student_loss:
        case StudentLoss.UD:
            return ud
        case StudentLoss.KL:
            return kl
        case StudentLoss.MIX:
            return mix
        case StudentLoss.CE:
            return label_pass(name, smoothing)


def _with_external(loss: Loss, options: TrainOptions) -> Loss:
    """`loss` plus the divergence from an external teacher, where the run has one."""
    if not options.teacher:
        return loss

    def both(logits: Tensor, targets: Targets, earlier: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        value, figures = loss(logits, targets, earlier)
        assert targets.external is not None
        soft = divergence(logits, targets.external, options.temperature).mean()
        return value + soft, figures

    return both
