"""The student's crop as another network wants its input: colour, size and normalisation.

An external teacher must see the very crop that the student sees, or its soft label describes
another image (training-methods, section 4).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ndtool.contract import Contract, InputSpec, Normalize
from ndtool.training.images.augment import Normalizer


def with_input(
    contract: Contract, *, height: int, width: int, channels: int, normalize: Normalize
) -> Contract:
    """The contract of a network for the same classes that takes other pixels."""
    spec = InputSpec(
        height=height,
        width=width,
        channels=channels,
        color="RGB" if channels == 3 else "GRAY",
    )
    return replace(contract, input=spec, normalize=normalize)


class View:
    """Pixels of any contract, (B, H, W, C) uint8, as the input of a network of another one.

    Of the same size and colour they stay as they are, so that a network sees what it was trained
    on to the last bit.
    """

    def __init__(self, contract: Contract, device: torch.device | str) -> None:
        """`contract` is that of the network."""
        spec = contract.input
        self._size = (spec.height, spec.width)
        self._channels = spec.channels
        self._normalize = Normalizer(contract, device)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float32 (B, C', H', W')."""
        return self._normalize(self.pixels(images))

    def pixels(self, images: Tensor) -> Tensor:
        """0 .. 255 in the network's colour and size, (B, H', W', C'); float32 where resized."""
        colored = _recolor(images, self._channels)
        if colored.shape[1:3] == self._size:
            return colored
        nchw = colored.permute(0, 3, 1, 2).to(torch.float32)
        resized = F.interpolate(nchw, self._size, mode="bilinear", antialias=True)
        return resized.permute(0, 2, 3, 1)


def _recolor(images: Tensor, channels: int) -> Tensor:
    """(B, H, W, C) uint8 in 1 or 3 channels; grey by Pillow's integer luma, as `data` makes it."""
    if images.shape[3] == channels:
        return images
    if channels == 3:
        return images.expand(-1, -1, -1, 3)
    red, green, blue = images.to(torch.int32).unbind(3)
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return luma.to(torch.uint8)[..., None]
