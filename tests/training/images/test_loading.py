"""Streamed batches are those from memory, bit for bit; random windows follow from the sample."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from pictures import contract_of, encoded, make_given, noise
from PIL import Image
from small_runs import Silent

from ndtool.data.folder import Decoder, FolderSource, Listed, open_folder
from ndtool.data.folder_scan import ImageFile
from ndtool.data.image import quiet_pillow
from ndtool.data.readers import Chunk, Plain, Read, read_chunk
from ndtool.data.types import U8, Augment, DataOptions, Split
from ndtool.errors import ConfigError, DataError, raise_all
from ndtool.models import make_spec
from ndtool.rundir import CHECKPOINT, RunDir
from ndtool.training import checkpoint, collectives
from ndtool.training.checks import check_options
from ndtool.training.images import loading
from ndtool.training.images.batches import Batch, EvalBatches, Shuffled, TrainBatches, to_device
from ndtool.training.images.loading import open_batches
from ndtool.training.images.resized_crop import ResizedCrop
from ndtool.training.train import TrainResult, train
from ndtool.training.vision import import_torchvision
from ndtool.types import Augmentation, Part, Recipe

CPU = torch.device("cpu")
CONTRACT = contract_of(("a", "b"), side=8)


class Here:
    """`Readers` without processes."""

    def __init__(self, processes: int, *, preload: Sequence[str] = ()) -> None:
        pass

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def pixels(
        self, read: Read, chunks: Iterable[Chunk], *, ahead: int
    ) -> Generator[U8, None, None]:
        for chunk in chunks:
            result = read_chunk(read, chunk)
            if isinstance(result, list):
                raise_all(result)
            else:
                yield result


@pytest.fixture(scope="module")
def torchvision() -> None:
    """Loaded beforehand: it takes seconds."""
    import_torchvision()
    importlib.import_module("torchvision.transforms.v2")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> FolderSource:
    return open_folder(str(made(tmp_path_factory.mktemp("d") / "d")), DataOptions())


def made(root: Path) -> Path:
    """PATH/{train,val,test}/<class>; pictures of many sizes, some larger than the input."""
    make_given(root, ("train", "val", "test"))
    rng = np.random.default_rng(0)
    for number in range(20):
        height, width = rng.integers(5, 40, 2)
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = root / "train" / "ab"[number % 2] / f"more {number}.png"
        path.write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    return root


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "Readers", Here)


def opened(
    train_part: Split | Listed, val: Split | Listed, **changes: object
) -> tuple[TrainBatches, EvalBatches]:
    options = nets.options(loaders=1, **changes)
    with open_batches(train_part, val, options=options, device=CPU) as both:
        return both


def equal(first: Iterable[Batch], second: Iterable[Batch]) -> int:
    """Number of batches, all equal."""
    pairs = list(zip(first, second, strict=True))
    for (pixels, labels), (other_pixels, other_labels) in pairs:
        assert pixels.dtype == torch.uint8 and labels.dtype == torch.int64
        assert torch.equal(pixels, other_pixels)
        assert torch.equal(labels, other_labels)
    return len(pairs)


@pytest.mark.parametrize("batch_size", [6, 21, 1000])
@pytest.mark.parametrize("crop", [0, 3])
@pytest.mark.parametrize("world", [1, 3])
def test_streamed_batches_are_those_from_memory(
    source: FolderSource,
    here: None,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    crop: int,
    world: int,
) -> None:
    parts = (Part.TRAIN, Part.VAL)
    listed = [source.listed(part, CONTRACT) for part in parts]
    loaded = [source.load(part, CONTRACT) for part in parts]
    assert [part.sha256() for part in listed] == [part.sha256() for part in loaded]
    steps = max(1, len(listed[0]) // batch_size)
    evaluated = 0
    monkeypatch.setattr(collectives, "world", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        streamed = opened(listed[0], listed[1], crop_px=crop, flip=crop > 0)
        in_memory = opened(loaded[0], loaded[1], crop_px=crop, flip=crop > 0)
        assert len(streamed[0]) == len(in_memory[0]) and len(streamed[1]) == len(in_memory[1])
        for epoch in (0, 1):
            pair = (one[0].epoch(epoch, batch_size) for one in (streamed, in_memory))
            assert equal(*pair) == steps
        evaluated += equal(*(one[1].ordered(batch_size) for one in (streamed, in_memory)))
    assert evaluated == -(-len(listed[1]) // batch_size)


@pytest.mark.parametrize(("crop", "flip"), [(0, False), (3, False), (0, True), (2, True)])
def test_the_options_decide_how_images_vary(
    source: FolderSource,
    here: None,
    crop: int,
    flip: bool,  # noqa: FBT001
) -> None:
    part = source.load(Part.TRAIN, CONTRACT)
    images, _ = opened(part, part, crop_px=crop, flip=flip, seed=4)
    expected = Shuffled(to_device(part, CPU), Augment(crop_px=crop, flip=flip), 4)
    assert equal(images.epoch(1, 6), expected.epoch(1, 6)) == len(part) // 6


def test_as_many_processes_as_asked_for_decode(
    source: FolderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Counted(Here):
        def __init__(self, processes: int, *, preload: Sequence[str] = ()) -> None:
            asked.append(processes)

    monkeypatch.setattr(loading, "Readers", Counted)
    part = source.listed(Part.TRAIN, CONTRACT)
    for loaders in (1, 3):
        with open_batches(part, part, options=nets.options(loaders=loaders), device=CPU):
            pass
    assert asked == [1, 3]


def test_each_process_reads_its_own_share_only(
    source: FolderSource, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = source.listed(Part.TRAIN, CONTRACT)
    seen: list[list[int]] = []

    def noted(self: Plain, file: ImageFile, row: int, epoch: int) -> U8:
        assert file == part.files[row]
        seen[-1].append(row)
        return np.zeros(self.shape, np.uint8)

    monkeypatch.setattr(Plain, "__call__", noted)
    monkeypatch.setattr(collectives, "world", lambda: 2)
    for rank in (0, 1):
        seen.append([])
        monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
        list(opened(part, part, flip=False, crop_px=0)[0].epoch(0, 8))
    read = seen[0] + seen[1]
    assert len(read) == len(set(read)) == len(part) // 8 * 8
    assert len(seen[0]) == len(seen[1])


def windows(source: FolderSource, **changes: object) -> ResizedCrop:
    fixed = {"decoder": source.listed(Part.TRAIN, CONTRACT).decoder, "flip": True, "seed": 0}
    return ResizedCrop(**(fixed | changes))  # type: ignore[arg-type]


def window(read: ResizedCrop, file: ImageFile, row: int, epoch: int) -> U8:
    with quiet_pillow():
        return read(file, row, epoch)


def test_a_window_follows_from_seed_epoch_and_sample(
    source: FolderSource, torchvision: None
) -> None:
    file = max(source.listed(Part.TRAIN, CONTRACT).files, key=lambda file: file.size_bytes)
    state = torch.random.get_rng_state()
    first = window(windows(source), file, 3, 5)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's numbers are used up
    torch.manual_seed(9)
    again = window(windows(source), file, 3, 5)
    torch.random.set_rng_state(state)
    assert np.array_equal(first, again)
    for read, row, epoch in (
        (windows(source), 4, 5),
        (windows(source), 3, 6),
        (windows(source, seed=1), 3, 5),
    ):
        assert not np.array_equal(window(read, file, row, epoch), first)


@pytest.mark.parametrize("channels", [1, 3])
def test_any_picture_gives_the_contracts_shape(
    tmp_path: Path, channels: int, torchvision: None
) -> None:
    contract = contract_of(("a", "b"), side=9, height=6, channels=channels)
    decoder = Decoder(root=str(tmp_path), contract=contract, max_pixels=10**6)
    for width, height in ((1, 1), (1, 32), (64, 2), (200, 100)):
        path = tmp_path / "x.png"
        picture = Image.fromarray(noise(1, width, height))
        path.write_bytes(encoded(picture, "PNG"))
        file = ImageFile(path=str(path), id="x.png", label="a", part=None, size_bytes=1)
        for row in range(20):
            read = ResizedCrop(decoder=decoder, flip=True, seed=0)
            assert window(read, file, row, 0).shape == (6, 9, channels)


def test_windows_are_cut_mirrored_and_coloured(tmp_path: Path, torchvision: None) -> None:
    """A picture whose red grows to the right and whose green grows downwards."""
    x, y = np.meshgrid(np.linspace(0, 200, 100), np.linspace(0, 200, 100))
    pixels = np.stack([x, y, np.full_like(x, 50)], axis=2).astype(np.uint8)
    path = tmp_path / "x.png"
    path.write_bytes(encoded(Image.fromarray(pixels), "PNG"))
    file = ImageFile(path=str(path), id="x.png", label="a", part=None, size_bytes=1)
    decoder = Decoder(root=str(tmp_path), contract=CONTRACT, max_pixels=10**6)
    mirrored, heights, blues = 0, set(), set()
    for row in range(60):
        cut = window(ResizedCrop(decoder=decoder, flip=True, seed=0), file, row, 0).astype(int)
        mirrored += int(cut[0, 0, 0] > cut[0, -1, 0])
        assert cut[0, 0, 1] < cut[-1, 0, 1]  # never upside down
        heights.add(int(cut[-1, 0, 1] - cut[0, 0, 1]) // 20)
        blues.add(int(cut[4, 4, 2]))
        straight = window(ResizedCrop(decoder=decoder, flip=False, seed=0), file, row, 0)
        assert straight[0, 0, 0] < straight[0, -1, 0]
    assert 15 < mirrored < 45
    assert len(heights) > 4  # windows of many sizes
    assert len(blues) > 10  # brightness and saturation


def test_a_streamed_epoch_of_windows_is_that_of_its_samples(
    source: FolderSource, here: None, torchvision: None
) -> None:
    part, val = source.listed(Part.TRAIN, CONTRACT), source.load(Part.VAL, CONTRACT)
    options = {"augment": Augmentation.RESIZED_CROP, "crop_px": 0, "flip": True, "seed": 6}
    batches, _ = opened(part, val, **options)
    by_size = {
        size: torch.cat([pixels for pixels, _ in batches.epoch(2, size)])[:12] for size in (3, 12)
    }
    assert torch.equal(by_size[3], by_size[12])
    order = loading.epoch_order(len(part), seed=6, epoch=2)[:12].tolist()
    alone = [window(windows(source, seed=6), part.files[row], row, 2) for row in order]
    assert np.array_equal(by_size[12].numpy(), np.stack(alone))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"loaders": 0}, "--augment"),
        ({"loaders": 1, "crop_px": 4}, "--crop"),
        ({"loaders": 61}, "--loaders"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, object], where: str) -> None:
    fixed = {"augment": Augmentation.RESIZED_CROP, "crop_px": 0}
    with pytest.raises(ConfigError) as caught:
        check_options(nets.options(**(fixed | changes)))
    assert caught.value.where == where


def go(
    path: Path,
    part: Split | Listed,
    val: Split | Listed,
    *,
    resume: bool = False,
    **changes: object,
) -> TrainResult:
    spec = make_spec("ds-cnn", width=0.25, size_px=8, in_channels=3, classes=2)
    return train(
        nets.options(**{"recipe": Recipe.PLAIN, "batch_size": 6} | changes),
        RunDir(path),
        spec=spec,
        contract=CONTRACT,
        train=part,
        val=val,
        resume=resume,
        progress=Silent(),
    )


@pytest.mark.slow
def test_a_streamed_run_gives_the_same_weights_and_either_resumes_the_other(
    source: FolderSource, tmp_path: Path
) -> None:
    listed = [source.listed(part, CONTRACT) for part in (Part.TRAIN, Part.VAL)]
    loaded = [source.load(part, CONTRACT) for part in (Part.TRAIN, Part.VAL)]
    go(tmp_path / "memory", *loaded, epochs=2)
    go(tmp_path / "streamed", *listed, epochs=2, loaders=2)
    assert not multiprocessing.active_children()
    a, b = (
        checkpoint.load(RunDir(tmp_path / name) / CHECKPOINT) for name in ("memory", "streamed")
    )
    assert torch.equal(a.theta, b.theta) and torch.equal(a.statistics, b.statistics)
    assert a.best_accuracy == b.best_accuracy
    assert a.identity.data == b.identity.data
    resumed = go(tmp_path / "memory", *listed, epochs=2, loaders=1, resume=True)
    assert resumed.resumed_from == 2
    with pytest.raises(ConfigError) as caught:
        go(tmp_path / "memory", loaded[0], loaded[0], epochs=2, resume=True)
    assert "data" in caught.value.what


def test_a_bad_file_ends_a_streamed_run_with_one_clear_error(tmp_path: Path, here: None) -> None:
    root = made(tmp_path / "d")
    path = root / "train" / "a" / "bad.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n no more")
    source = open_folder(str(root), DataOptions())
    listed = source.listed(Part.TRAIN, CONTRACT)
    val = source.load(Part.VAL, CONTRACT)
    with pytest.raises(DataError) as streamed:
        go(tmp_path / "run", listed, val, batch_size=len(listed))
    with pytest.raises(DataError) as in_memory:
        source.load(Part.TRAIN, CONTRACT)
    assert str(streamed.value) == str(in_memory.value)
    assert streamed.value.where.endswith("bad.png")
