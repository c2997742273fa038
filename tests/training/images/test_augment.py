"""Crops are true sub-windows that follow from (seed, epoch, sample) alone; normalisation."""

import nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ndtool.contract import mean_std_normalize, unit_normalize
from ndtool.data.types import Augment
from ndtool.quant.pixels import normalize_pixels
from ndtool.training.images.augment import Draws, Normalizer, augment_batch, draw_epoch
from ndtool.training.seeds import Use, generator


def pictures(count: int, height: int, width: int, channels: int) -> Tensor:
    gen = torch.Generator().manual_seed(0)
    shape = (count, height, width, channels)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=gen)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from((1, 3)),
    st.integers(0, 4),
    st.sampled_from(("flip", "")),
    st.integers(0, 2**63 - 1),
)
def test_each_image_is_its_window_of_the_padded_one(
    height: int, width: int, channels: int, crop: int, flip: str, seed: int
) -> None:
    images = pictures(5, height, width, channels)
    augment = Augment(crop_px=crop, flip=bool(flip))
    draws = draw_epoch(augment, 5, seed=seed, epoch=3)
    index = torch.tensor([4, 0, 0, 2])
    got = augment_batch(images, index, augment, draws).numpy()
    assert got.shape == (4, height, width, channels)
    for made, sample in zip(got, index.tolist(), strict=True):
        sides = ((crop, crop), (crop, crop), (0, 0))
        padded = np.pad(images[sample].numpy(), sides)
        top, left = int(draws.top[sample]), int(draws.left[sample])
        assert 0 <= top <= 2 * crop
        assert 0 <= left <= 2 * crop
        window = padded[top : top + height, left : left + width]
        assert np.array_equal(made, window[:, ::-1] if draws.flip[sample] else window)
        assert flip or not draws.flip[sample]


def test_nothing_is_drawn_without_crop_and_flip() -> None:
    images = pictures(6, 4, 5, 3)
    augment = Augment(crop_px=0, flip=False)
    draws = draw_epoch(augment, 6, seed=0, epoch=0)
    index = torch.tensor([5, 1, 1])
    assert torch.equal(augment_batch(images, index, augment, draws), images[index])


def same(a: Draws, b: Draws) -> bool:
    pairs = ((a.top, b.top), (a.left, b.left), (a.flip, b.flip))
    return all(torch.equal(x, y) for x, y in pairs)


def test_draws_follow_from_seed_and_epoch() -> None:
    augment = Augment(crop_px=4, flip=True)
    first = draw_epoch(augment, 100, seed=1, epoch=2)
    assert same(first, draw_epoch(augment, 100, seed=1, epoch=2))
    assert not same(first, draw_epoch(augment, 100, seed=2, epoch=2))
    assert not same(first, draw_epoch(augment, 100, seed=1, epoch=3))
    assert 30 < int(first.flip.sum()) < 70
    assert len(set(first.top.tolist())) == 9


def test_uses_have_their_own_streams() -> None:
    drawn = {use: torch.rand(4, generator=generator(0, use)).tolist() for use in Use}
    assert len({tuple(values) for values in drawn.values()}) == len(Use)


@pytest.mark.parametrize("parts", [[10], [3, 7], [1] * 10])
def test_no_partition_changes_a_sample(parts: list[int]) -> None:
    images = pictures(10, 6, 6, 1)
    augment = Augment(crop_px=2, flip=True)
    draws = draw_epoch(augment, 10, seed=0, epoch=0)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    whole = augment_batch(images, order, augment, draws)
    pieces = [augment_batch(images, part, augment, draws) for part in torch.split(order, parts)]
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize(
    "normalize",
    [unit_normalize(3), mean_std_normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))],
)
def test_normaliser_gives_the_contracts_float32(normalize: object) -> None:
    base = nets.contract_of(nets.se_spec())
    made = type(base)(
        input=base.input,
        resize=base.resize,
        normalize=normalize,  # type: ignore[arg-type]
        labels=base.labels,
    )
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    got = Normalizer(made)(torch.from_numpy(pixels))
    assert got.shape == (1, 3, 16, 16)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(got.permute(0, 2, 3, 1).numpy(), normalize_pixels(pixels, made))
