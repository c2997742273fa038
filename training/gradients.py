"""How a narrower network's gradient joins the flat one: plain sum, or gradient surgery.

On a layer's slice, with g_t the wider network's gradient there and g_s the narrower one's
(NetDistiller, equation 2; training-methods, 1.3):

    d = <g_s, g_t>    n = <g_s, g_s>    c = min(0, d / n)
    sum:      g = g_t + g_s
    surgery:  g = (g_t - c g_s) + g_s = g_t + (1 - c) g_s

so surgery is one scalar per layer. With several wider networks g_t is what the widest one's
gradient has become by then, the sum that moves the narrower one's weights: an assistant joins the
teacher, the student both of them. (Training-methods, 5, projects each wider gradient by itself,
which also undoes conflicts that the sum does not have.) Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from ndtool.training.supernet import SharedSlice

CONFLICT_RATE: Final = "conflict_rate"  # share of layers with d < 0
LARGEST_C: Final = "largest_c"  # max |c|


def add_gradients(grad: Tensor, narrow: SharedSlice) -> Mapping[str, Tensor]:
    """Add the narrower gradient to the flat `grad` in place; gives the conflict figures."""
    wide = grad[narrow.index]  # (n,)
    _, figures = _conflict(wide, narrow)
    grad[narrow.index] = wide + narrow.grad  # indices are unique: deterministic
    return figures


def project_gradients(grad: Tensor, narrow: SharedSlice) -> Mapping[str, Tensor]:
    """The same with the wider gradient projected, layer by layer, where the two conflict."""
    wide = grad[narrow.index]  # (n,)
    c, figures = _conflict(wide, narrow)
    weight = (1 - c)[narrow.layer_of]  # (L,) -> (n,)
    grad[narrow.index] = torch.addcmul(wide, weight, narrow.grad)
    return figures


def _conflict(wide: Tensor, narrow: SharedSlice) -> tuple[Tensor, Mapping[str, Tensor]]:
    """c of each layer (L,), and the figures for the history."""
    products = torch.stack((wide, narrow.grad)) * narrow.grad  # (2, n)
    sums = [part.sum(1) for part in torch.split(products, list(narrow.sizes), dim=1)]
    d, n = torch.stack(sums, dim=1)  # (L,) each
    smallest = torch.finfo(n.dtype).tiny  # n = 0 has d = 0, hence c = 0
    c = (d / n.clamp_min(smallest)).clamp_max(0)
    return c, {CONFLICT_RATE: (d < 0).float().mean(), LARGEST_C: -c.min()}
