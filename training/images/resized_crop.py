"""A random window of the original picture, scaled to the input, in random colours.

`RandomResizedCrop` and `ColorJitter` of torchvision's v2 transforms with the values of NetAug's
ImageNet code (training-methods, 1.7). It runs in the processes that decode (`ndtool.data.readers`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from ndtool.data.folder import Decoder
from ndtool.data.folder_scan import ImageFile
from ndtool.data.types import U8
from ndtool.training.seeds import Use
from ndtool.training.vision import import_torchvision

if TYPE_CHECKING:
    from PIL.Image import Image

SCALE: Final = (0.08, 1.0)  # of the picture's area
BRIGHTNESS: Final = 32 / 255
SATURATION: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizedCrop:
    """Reads a picture varied by its own random numbers (`ndtool.data.readers.Read`).

    They follow from (run seed, epoch, number of the sample): no number of processes, of either
    kind, changes a picture.
    """

    decoder: Decoder
    flip: bool
    seed: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.decoder.shape

    def __call__(self, file: ImageFile, row: int, epoch: int) -> U8:
        """The pixels of sample `row` in `epoch`; raises DataError."""
        height, width, _ = self.shape
        picture = self.decoder.picture(file)[0].image
        vary = _transform(height, width, flip=self.flip)
        mixed = np.random.SeedSequence([self.seed, int(Use.AUGMENT), epoch, row])
        with torch.random.fork_rng(devices=[]):  # the transforms draw from the global generator
            torch.default_generator.manual_seed(int(mixed.generate_state(1, np.uint64)[0]))
            varied = vary(picture)
        return np.asarray(varied, dtype=np.uint8).reshape(self.shape)


@cache
def _transform(height: int, width: int, *, flip: bool) -> Callable[[Image], Image]:
    import_torchvision()
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop((height, width), scale=SCALE),
            v2.RandomHorizontalFlip(0.5 if flip else 0.0),
            v2.ColorJitter(brightness=BRIGHTNESS, saturation=SATURATION),
        ]
    )
