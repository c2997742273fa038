"""NetDistiller: a weight-sharing wide teacher on labels, the student on the teacher's soft labels.

Equations 1 to 3 of the paper (arXiv 2310.19820) as training-methods, 1.2 to 1.4, gives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
from ndtool.training.recipes.method import Figures, Loss, Method
from ndtool.types import StudentLoss


def method(options: TrainOptions, classes: int) -> Method:
    """Teacher pass, student pass, surgery; each option of 1.2 and 1.3 switchable."""
    smoothing = options.label_smoothing
    threshold = uncertainty_threshold(options.uncertainty, classes)

    def teacher(logits: Tensor, labels: Tensor, _: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        value = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        return value, {"teacher_loss": value.detach()}

    def student_ud(
        logits: Tensor, labels: Tensor, earlier: Sequence[Tensor]
    ) -> tuple[Tensor, Figures]:
        soft = divergence(logits, earlier[-1])  # (N,)
        hard = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
        unsure = entropy(logits.detach()) > threshold  # (N,)
        value = torch.where(unsure, soft, hard).mean()
        return value, {"student_loss": value.detach(), "kl_share": unsure.float().mean()}

    def student_kl(logits: Tensor, _: Tensor, earlier: Sequence[Tensor]) -> tuple[Tensor, Figures]:
        value = divergence(logits, earlier[-1]).mean()
        return value, {"student_loss": value.detach(), "kl_share": torch.ones_like(value.detach())}

    student: Loss
    match options.student_loss:
        case StudentLoss.UD:
            student = student_ud
        case StudentLoss.KL:
            student = student_kl
    return Method(
        rates=(options.expand,),
        losses=(teacher, student),
        combine=project_gradients if options.surgery else add_gradients,
        means=("teacher_loss", "student_loss", "kl_share", CONFLICT_RATE),
        peaks=(LARGEST_C,),
    )


def uncertainty_threshold(share: float, classes: int) -> float:
    """T = f ln K in nats: the paper's 3.75 is .543 of ln 1000 (1.4)."""
    return share * math.log(classes)


def divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(logits)) of each sample, (N, K) -> (N,), temperature 1."""
    log_s = F.log_softmax(logits, dim=1)
    log_p = F.log_softmax(teacher, dim=1)
    return F.kl_div(log_s, log_p, reduction="none", log_target=True).sum(1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) of each sample in nats, (N, K) -> (N,)."""
    log_s = F.log_softmax(logits, dim=1)
    return -(log_s.exp() * log_s).sum(1)
