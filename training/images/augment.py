"""Batches: uint8 (N, H, W, C) samples in, augmented float (B, C, H, W) out, on the device.

A sample's crop follows from (run seed, epoch, its index in the set) alone, so that no batch size
and no number of processes changes it (training-methods, section 8).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ndtool.contract import Contract
from ndtool.data.types import Augment
from ndtool.training.seeds import Use, generator


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """One epoch's random numbers for every sample of the set."""

    top: Tensor  # (N,) int64, first row of the crop in the padded image, 0 .. 2 crop_px
    left: Tensor  # (N,) int64
    flip: Tensor  # (N,) bool

    def of(self, index: Tensor) -> Draws:
        """Those of the samples `index` (B,)."""
        return Draws(self.top[index], self.left[index], self.flip[index])


def draw_epoch(
    augment: Augment, samples: int, *, seed: int, epoch: int, device: torch.device | str = "cpu"
) -> Draws:
    """Crop positions and flips of one epoch, by sample index."""
    gen = generator(seed, Use.AUGMENT, epoch)
    places = torch.randint(0, 2 * augment.crop_px + 1, (2, samples), generator=gen)
    flip = torch.rand(samples, generator=gen) < (0.5 if augment.flip else 0.0)
    top, left = places.to(device)
    return Draws(top, left, flip.to(device))


def augment_batch(images: Tensor, index: Tensor, augment: Augment, draws: Draws) -> Tensor:
    """The samples `index` (B,) of a set, each cropped and perhaps flipped; uint8 (B, H, W, C)."""
    return crop_and_flip(images[index], augment, draws.of(index))


def crop_and_flip(images: Tensor, augment: Augment, draws: Draws) -> Tensor:
    """A batch (B, H, W, C), each image cropped and perhaps flipped as drawn for it.

    The image is padded by `crop_px` zeros on each side, cut at its drawn place, then mirrored.
    """
    if augment.crop_px == 0 and not augment.flip:
        return images
    pad = augment.crop_px
    _, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, pad, pad, pad, pad))  # (B, H + 2p, W + 2p, C)
    batch, rows, cols, _ = padded.shape
    x = torch.arange(width, device=images.device)[None]  # (1, W)
    x = torch.where(draws.flip[:, None], width - 1 - x, x) + draws.left[:, None]  # (B, W)
    y = torch.arange(height, device=images.device)[None] + draws.top[:, None]  # (B, H)
    y = y + rows * torch.arange(batch, device=images.device)[:, None]
    pixel = y[:, :, None] * cols + x[:, None, :]  # (B, H, W), into all pixels of the batch
    cropped = padded.view(-1, channels).index_select(0, pixel.view(-1))
    return cropped.view(batch, height, width, channels)


class Normalizer:
    """uint8 NHWC to normalised float32 NCHW in channels_last memory format.

    The same float32 operations as `ndtool.quant.pixels.normalize_pixels`; tensors of one element
    instead of Python numbers, since a GPU turns division by a number into a multiplication.
    """

    def __init__(self, contract: Contract, device: torch.device | str = "cpu") -> None:
        norm = contract.normalize
        self._full = torch.full((1,), 255.0, device=device)
        self._unit = norm.kind == "u8/255"
        self._mean = torch.tensor(norm.mean, dtype=torch.float32, device=device)  # (C,)
        self._std = torch.tensor(norm.std, dtype=torch.float32, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, H, W, C) uint8 -> (B, C, H, W) float32, without a copy for the layout."""
        values = images.to(torch.float32) / self._full
        if not self._unit:
            values = (values - self._mean) / self._std
        return values.permute(0, 3, 1, 2)
