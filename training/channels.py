"""The channels inside a block, the most important ones first (NetAug; training-methods, section 2).

A permutation of a block's mid channels, applied to every tensor that writes or reads them, leaves
the block's function as it is. The narrower networks are leading slices, so it decides which
channels they have: those whose readers have the largest weights.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ndtool.arch import BlockKind
from ndtool.training.supernet import Field, Supernet


@torch.no_grad()
def sort_channels(net: Supernet) -> None:
    """Sort the mid channels of every block of an augmented supernet; momentum moves with them.

    The order is that of the L1 norm of the weights that read a channel (`sort_channels_inner` of
    mit-han-lab/tinyml, which sorts inverted blocks only, and leaves momentum where it was).
    """
    for index, block in enumerate(net.layout.widest.blocks):
        name = f"blocks.{index}"
        match block.kind:
            case BlockKind.SEPARABLE:
                if block.se:
                    _sort_squeeze(net, name)
            case BlockKind.INVERTED:
                inner = ("expand", "depthwise", "se.gate") if block.se else ("expand", "depthwise")
                readers = ("project", "se.reduce") if block.se else ("project",)
                _sort(net, name, written_by=inner, read_by=readers)
                if block.se:
                    _sort_squeeze(net, name)
            case BlockKind.BASIC:
                _sort(net, name, written_by=("conv1",), read_by=("conv2",))


def _sort_squeeze(net: Supernet, block: str) -> None:
    _sort(net, block, written_by=("se.reduce",), read_by=("se.gate",))


def _sort(
    net: Supernet, block: str, *, written_by: tuple[str, ...], read_by: tuple[str, ...]
) -> None:
    """Put the channels between layers of a block into order; the first reader's weights decide."""
    fields: Mapping[str, Field] = {**net.layout.shared, **net.layout.norms[0]}
    weight = fields[f"{block}.{read_by[0]}.weight"].view(net.theta)  # (c_out, c_in, k, k)
    order = weight.abs().sum((0, 2, 3)).argsort(descending=True, stable=True)  # (c_in,)
    parts = ("weight", "bias", "bn.weight", "bn.bias")
    moves = [(f"{block}.{layer}.{part}", 0) for layer in written_by for part in parts]
    moves += [(f"{block}.{layer}.weight", 1) for layer in read_by]
    for name, dim in moves:
        if name in fields:
            for flat in (net.theta, net.momentum):
                view = fields[name].view(flat)
                view.copy_(view.index_select(dim, order))
