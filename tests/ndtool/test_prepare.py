"""From options to a run: defaults by source, names, contracts, what is compared."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_data import write_npz

from ndtool import console
from ndtool.contract import Contract
from ndtool.errors import ConfigError
from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.types import Augmentation


@pytest.fixture
def options(tmp_path: Path) -> TrainOptions:
    return TrainOptions(data=f"npz:{write_npz(tmp_path / 'tiny.npz')}", width=0.5)


def prepared(options: TrainOptions, name: str = "") -> Prepared:
    return prepare(options, name=name, out=Path("runs"))


def test_defaults_come_from_the_source(options: TrainOptions) -> None:
    made = prepared(options)
    assert made.run.path == Path("runs/tiny-ds-cnn-w0.5-8-netdistiller")
    assert (made.options.resolution, made.options.gray) == (8, True)
    assert made.options.epochs == 60 and made.options.crop_px == 1
    assert made.contract.input.color == "GRAY" and made.spec.in_channels == 1
    assert made.contract.labels == ("rows", "columns", "flat")


def test_crop_grows_with_the_resolution_and_flags_win(options: TrainOptions) -> None:
    assert prepared(replace(options, resolution=32)).options.crop_px == 4
    assert prepared(replace(options, resolution=32, crop_px=0)).options.crop_px == 0


def test_windows_of_the_original_picture_need_no_crop(options: TrainOptions) -> None:
    windows = replace(options, augment=Augmentation.RESIZED_CROP, loaders=1)
    assert prepared(windows).options.crop_px == 0
    assert prepared(replace(windows, crop_px=2)).options.crop_px == 2  # refused by training


def test_colour_and_normalisation_reach_the_contract(options: TrainOptions) -> None:
    made: Contract = prepared(replace(options, gray=False, normalize="imagenet")).contract
    assert made.input.channels == 3 and made.normalize.kind == "mean_std"
    with pytest.raises(ConfigError, match="three channels"):
        prepared(replace(options, normalize="imagenet"))


@pytest.mark.parametrize("name", ["../x", ".", "-rf", "a/b", "a\nb", "x" * 101])
def test_names_that_are_none(options: TrainOptions, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepared(options, name)
    assert caught.value.code == "option.name"


def test_a_last_map_below_2x2_is_told(
    options: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure(quiet=False, verbose=False, as_json=False)
    prepared(options)
    assert capsys.readouterr().err == ""
    prepared(replace(options, resolution=4))
    assert "the last feature map is 1x1" in capsys.readouterr().err
