"""The networks of NetAug between a student and its widest form, and one of them drawn at random.

The rules are those of mit-han-lab/tinyml, `netaug/models/netaug` (training-methods, section 2): a
factor on every output width and one on every block's mid channels, no rounding to multiples of 8.
Every network's tensors are leading slices of the widest one's. Pure: specs and draws in, specs out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import torch

from ndtool.arch import ArchSpec, Block, BlockKind

EXPANDS: Final = (1.0, 1.6, 2.2, 2.8)  # factors on the ratio of mid channels to a block's input
WIDTHS: Final = (1.0, 1.8, 2.6)  # factors on output widths, where the family has no list of its own
_MCUNET: Final = (1.0, 1.6, 2.2)
WIDTHS_OF: Final[Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "mcunet-256kb": _MCUNET,
        "mcunet-320kb": _MCUNET,
        "mcunet-512kb": _MCUNET,
        "mcunet-5fps": _MCUNET,
        "mcunet-10fps": _MCUNET,
        "mbv3": (1.0, 2.0, 3.0),
    }
)


def maximal(spec: ArchSpec) -> ArchSpec:
    """The network that holds every drawn one: the largest factor everywhere."""
    factor = max(WIDTHS_OF.get(spec.model, WIDTHS))
    return widen(spec, [factor] * width_count(spec), [max(EXPANDS)] * len(spec.blocks))


def draw(spec: ArchSpec, generator: torch.Generator, *, vary_widths: bool) -> ArchSpec:
    """A network between the student `spec` and its widest form.

    Each factor is drawn uniformly, independently of the others.

    Args:
        generator: of the CPU; the draw follows from its state alone.
        vary_widths: without, only mid channels differ from the student's.
    """
    choices = WIDTHS_OF.get(spec.model, WIDTHS) if vary_widths else (1.0,)
    return widen(
        spec,
        _pick(choices, width_count(spec), generator),
        _pick(EXPANDS, len(spec.blocks), generator),
    )


def _pick(choices: Sequence[float], count: int, generator: torch.Generator) -> list[float]:
    index: list[int] = torch.randint(len(choices), (count,), generator=generator).tolist()
    return [choices[i] for i in index]


def width_count(spec: ArchSpec) -> int:
    """Number of factors on output widths: stem, blocks, the head's convolution and hidden layer."""
    return len(spec.blocks) + 3


def widen(spec: ArchSpec, widths: Sequence[float], expands: Sequence[float]) -> ArchSpec:
    """`spec` with a factor on each of its widths; factors of 1 give `spec` itself.

    Args:
        widths: `width_count` factors on output widths. A block that adds its input as it is to its
            end keeps that input's factor.
        expands: one factor a block on mid channels, over what the input's factor already gives.
    """
    stem, *ends, conv, hidden = widths
    base, factor = spec.stem.c_out, stem  # channels in front of a block, and the factor on them
    blocks = []
    for block, width, expand in zip(spec.blocks, ends, expands, strict=True):
        c_in = round(base * factor)
        mid = round(block.mid * expand * c_in / base)
        # A squeeze keeps its ratio to the channels that it gates.
        plain = block.kind is BlockKind.SEPARABLE
        inner, gated = (base, c_in) if plain else (block.mid, mid)
        factor = _end_factor(block, base, factor, width)
        base = block.c_out
        c_out, se = round(base * factor), round(block.se * gated / inner)
        blocks.append(replace(block, mid=mid, c_out=c_out, se=se))
    head = replace(
        spec.head, conv=round(spec.head.conv * conv), hidden=round(spec.head.hidden * hidden)
    )
    wide_stem = replace(spec.stem, c_out=round(spec.stem.c_out * stem))
    return replace(spec, stem=wide_stem, blocks=tuple(blocks), head=head)


def _end_factor(block: Block, base: int, factor: float, drawn: float) -> float:
    """The factor on a block's output, given the one on its input of `base` channels."""
    if not block.shortcut or block.stride != 1:
        return drawn
    identity = block.c_out == base
    # A 1x1 convolution as shortcut, too, where unequal widths would become equal: `lower` would
    # leave it out. Equal factors keep them apart.
    vanishes = round(block.c_out * drawn) == round(base * factor)
    return factor if identity or vanishes else drawn
