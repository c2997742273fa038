"""Which tensors keep the values that they start with, epoch by epoch.

It follows from the options and the epoch alone, so a resumed run needs no state for it. Batch
norms are among what is held in either way: they use their stored statistics while it lasts.
"""

from __future__ import annotations

from ndtool.arch import LOGITS, ArchSpec, lower, tensor_shapes
from ndtool.options import TrainOptions
from ndtool.training.build import BN_PARAMETERS, is_statistic
from ndtool.training.supernet import Supernet
from ndtool.types import Freeze


def hold_frozen(net: Supernet, options: TrainOptions, epoch: int) -> None:
    """Hold or free the tensors of `net` for `epoch`, counted from 0."""
    lasting = options.freeze_epochs == 0 or epoch < options.freeze_epochs
    spec = net.layout.specs[-1]
    net.hold(frozen_names(options.freeze if lasting else Freeze.NONE, spec))


def frozen_names(freeze: Freeze, spec: ArchSpec) -> frozenset[str]:
    """The parameters that `freeze` means in a network of `spec`."""
    names = tensor_shapes(lower(spec))
    match freeze:
        case Freeze.NONE:
            return frozenset()
        case Freeze.BACKBONE:
            return frozenset(n for n in names if not (is_statistic(n) or in_head(n)))
        case Freeze.NORMS:
            return frozenset(n for n in names if n.endswith(BN_PARAMETERS))


def in_head(name: str) -> bool:
    """Whether the tensor `name` is the classifier's, whose shape depends on the classes."""
    return name.startswith(f"{LOGITS}.")
