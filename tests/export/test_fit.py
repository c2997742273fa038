"""What is proposed fits, what is refused does not, and the size that is named is the nearest."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from nets import contract_of, options

from ndtool.contract import mean_std_normalize
from ndtool.errors import ConfigError, FitError
from ndtool.export import fit as fitting
from ndtool.export.analyze import analyze_spec, default_contract
from ndtool.export.fit import (
    RESOLUTIONS,
    WIDTHS,
    Design,
    Proposal,
    Room,
    first_fitting,
    fit_error,
    need_of,
    propose_sizes,
    remedy_for,
    require_fits,
    require_plannable,
)
from ndtool.models import make_spec
from ndtool.options import TrainOptions
from ndtool.prepare import IMAGENET_MEAN, IMAGENET_STD
from ndtool.targets import Target, built_in_targets

DS_CNN = Design(model="ds-cnn", in_channels=1, classes=10)
DS_CNN_RGB = Design(model="ds-cnn", in_channels=3, classes=10)
MBV2 = Design(model="mbv2", in_channels=3, classes=10)


def room(name: str, **reserves: int) -> Room:
    return Room(target=built_in_targets()[name], **reserves)


def small(ram: int, flash: int) -> Room:
    """A board without reserves."""
    target = Target(
        name="small",
        core="cortex-m3",
        clock_mhz=10,
        ram=ram,
        ram_total=ram,
        flash=flash,
        source="made up; for tests",
        ram_reserve=0,
        flash_reserve=0,
    )
    return Room(target=target)


def does_fit(design: Design, place: Room, width: float, resolution: int) -> bool:
    """By the whole analysis, without any short cut."""
    spec = design.spec((width, resolution))
    return place.judge(need_of(analyze_spec(spec, core=place.target.core))).fits


# ---- proposals -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "board", "resolutions"),
    [
        (DS_CNN, "bluepill-f103c8", RESOLUTIONS),
        (MBV2, "nucleo-f446re", (32, 64, 96, 128)),
        (MBV2, "teensy41", (96,)),
    ],
    ids=["ds-cnn", "mbv2", "large"],
)
def test_proposals_fit_and_the_next_width_does_not(
    design: Design, board: str, resolutions: tuple[int, ...]
) -> None:
    place, steps = room(board), []
    found = propose_sizes(
        design, place, resolutions=resolutions, progress=lambda done, _note: steps.append(done)
    )
    assert steps == list(range(1, len(resolutions) + 1))
    assert [p.analysis.macs for p in found] == sorted(
        (p.analysis.macs for p in found), reverse=True
    )
    for proposal in found:
        assert proposal.fit.fits and proposal.analysis.core == place.target.core
        assert does_fit(design, place, proposal.width, proposal.resolution)
        wider = next((w for w in WIDTHS if w > proposal.width), None)
        if wider is not None:
            assert not does_fit(design, place, wider, proposal.resolution)
    for resolution in set(resolutions) - {p.resolution for p in found}:
        assert not does_fit(design, place, WIDTHS[0], resolution)


def test_a_fixed_width_or_resolution_is_kept() -> None:
    place = room("bluepill-f103c8")
    assert {p.width for p in propose_sizes(DS_CNN, place, widths=(0.7,))} == {0.7}
    (only,) = propose_sizes(DS_CNN, place, resolutions=(28,))
    assert only.resolution == 28


def test_images_that_would_shrink_to_nothing_are_passed_over_but_wrong_strides_are_told() -> None:
    deep = Design(model="mbv2", in_channels=3, classes=2, stem_stride=2, strides=(2,) * 6)
    found = propose_sizes(deep, room("teensy41"), widths=(0.1,), resolutions=(32, 64, 128))
    assert sorted(p.resolution for p in found) == [128]  # a total stride of 128
    wrong = Design(model="mbv2", in_channels=3, classes=2, strides=(1, 2))
    with pytest.raises(ConfigError) as caught:
        propose_sizes(wrong, room("teensy41"))
    assert caught.value.code == "model.strides"


def test_nothing_fits_says_what_the_smallest_needs() -> None:
    with pytest.raises(FitError) as caught:
        propose_sizes(MBV2, room("bluepill-f103c8"))
    least = analyze_spec(MBV2.spec((WIDTHS[0], 16)), core="cortex-m3")
    assert caught.value.code == "fit.nothing" and caught.value.exit_code == 4
    assert "width 0.1, 16x16x3" in caught.value.what
    assert f"{least.ram_bytes:,} B of RAM" in caught.value.what
    with pytest.raises(FitError, match="4000x4000"):
        propose_sizes(MBV2, room("pico"), widths=(1.0,), resolutions=(4000,))


def test_large_sizes_are_passed_over_without_being_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[str] = []

    def analyze(spec: object, **_rest: object) -> object:
        planned.append(fitting.describe_spec(spec))  # type: ignore[arg-type]
        return analyze_spec(spec, **_rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting, "analyze_spec", analyze)
    sizes = [(8.0, 224), (2.0, 224), (0.1, 32)]
    found = first_fitting(DS_CNN, small(20_000, 20_000), sizes)
    assert found is not None and planned == ["ds-cnn width 0.1, 32x32x1, 10 classes"]


# ---- refusals ------------------------------------------------------------------------------------


def test_a_training_that_fits_is_let_through() -> None:
    spec = DS_CNN.spec((1.0, 32))
    given = options(model="ds-cnn", target="nucleo-f446re")
    fit = require_fits(spec, default_contract(spec), given)
    assert fit.fits and fit.target.name == "nucleo-f446re" and fit.need.flash_estimated


def refusal(design: Design, size: tuple[float, int], board: str, **more: object) -> FitError:
    spec = design.spec(size)
    given = TrainOptions(
        model=design.model,
        width=size[0],
        resolution=size[1],
        stem_stride=design.stem_stride,
        strides=design.strides,
        target=board,
        **more,  # type: ignore[arg-type]
    )
    with pytest.raises(FitError) as caught:
        require_fits(spec, contract_of(spec), given)
    assert caught.value.exit_code == 4 and caught.value.code == "fit.target"
    assert caught.value.where == f"--target {board}"
    return caught.value


@pytest.mark.parametrize(
    ("design", "size", "board"),
    [
        (MBV2, (0.35, 128), "nucleo-f446re"),
        (DS_CNN, (1.4, 48), "bluepill-f103c8"),
        (Design(model="mbv3", in_channels=3, classes=5), (0.5, 96), "nucleo-l476rg"),
        (
            Design(model="mbv2", in_channels=3, classes=5, strides=(1, 1, 2, 2, 1, 2)),
            (0.35, 96),
            "max78000fthr",
        ),
    ],
    ids=["mbv2", "ds-cnn", "mbv3", "strides"],
)
def test_the_size_that_a_refusal_names_is_the_nearest(
    design: Design, size: tuple[float, int], board: str
) -> None:
    place, (width, resolution) = room(board), size
    remedy = refusal(design, size, board).remedy
    words = re.findall(r"--(width|resolution) ([\d.]+)", remedy)
    assert words, remedy
    for word, value in words:
        if word == "width":
            assert does_fit(design, place, float(value), resolution)
            between = [w for w in WIDTHS if float(value) < w < width]
            assert not any(does_fit(design, place, w, resolution) for w in between)
        else:
            assert does_fit(design, place, width, int(value))
            between_px = [px for px in RESOLUTIONS if int(value) < px < resolution]
            assert not any(does_fit(design, place, width, px) for px in between_px)


def test_a_refusal_names_what_is_short_and_the_layer_that_takes_it() -> None:
    error = refusal(MBV2, (0.35, 128), "nucleo-f446re")
    found = analyze_spec(MBV2.spec((0.35, 128)), core="cortex-m4f")
    short = found.ram_bytes - (131072 - 13108)
    assert error.what == (
        f"mbv2 width 0.35, 128x128x3, 10 classes does not fit nucleo-f446re: RAM is {short:,} B"
        f" over, fullest at layer 4 (DEPTHWISE_CONV_2D 3x3 s2, blocks.1.depthwise)"
    )
    both = refusal(MBV2, (1.0, 128), "bluepill-f103c8")
    flash, ram = both.what.split(": ", 1)[1].split("; ")
    assert flash.startswith("flash is") and "(CONV_2D 1x1, head)" in flash
    assert ram.startswith("RAM is") and both.remedy.startswith("choose another")


def test_the_smaller_of_both_is_named_where_one_does_not_suffice() -> None:
    place = small(9_000, 40_000)
    spec = DS_CNN.spec((2.0, 64))
    text = remedy_for(DS_CNN, spec, place)
    found = re.fullmatch(r"use --width ([\d.]+) --resolution (\d+)", text)
    assert found and does_fit(DS_CNN, place, float(found[1]), int(found[2]))


def test_a_network_that_is_not_ours_gets_another_remedy() -> None:
    assert remedy_for(None, None, room("pico")).startswith("choose another model or board")


def test_what_is_too_large_to_plan_is_refused_all_the_same() -> None:
    design = Design(model="mbv2", in_channels=3, classes=10)
    spec = design.spec((8.0, 96))
    with pytest.raises(FitError, match="needs more than") as caught:
        require_plannable(spec, room("pico"), design)
    assert caught.value.code == "fit.target" and "--width" in caught.value.remedy
    require_plannable(design.spec((1.0, 96)), room("pico"), design)
    assert "needs more than" in refusal(design, (8.0, 96), "pico").what


def test_reserves_decide_to_the_byte() -> None:
    spec = DS_CNN.spec((1.0, 32))
    found = analyze_spec(spec, core="cortex-m3")
    need, target = need_of(found), built_in_targets()["bluepill-f103c8"]
    free = target.ram - found.ram_bytes
    assert Room(target=target, ram_reserve=free, flash_reserve=0).judge(need).fits
    over = Room(target=target, ram_reserve=free + 1, flash_reserve=0).judge(need)
    assert not over.fits
    assert "RAM is 1 B over" in fit_error(found, over, remedy="x").what
    free = target.flash - found.cost.flash_bytes
    assert Room(target=target, ram_reserve=0, flash_reserve=free).judge(need).fits
    over = Room(target=target, ram_reserve=0, flash_reserve=free + 1).judge(need)
    assert "flash is 1 B over" in fit_error(found, over, remedy="x").what


def test_the_pixel_quantiser_of_the_contract_counts() -> None:
    """A mean and a standard deviation need a table of 256 bytes a channel."""
    spec = make_spec("ds-cnn", width=1.0, size_px=32, in_channels=3, classes=10)
    unit = contract_of(spec)
    imagenet = replace(unit, normalize=mean_std_normalize(IMAGENET_MEAN, IMAGENET_STD))
    given = options(model="ds-cnn", target="pico")
    sizes = [require_fits(spec, c, given).need.flash_bytes for c in (unit, imagenet)]
    assert sizes[1] - sizes[0] >= 3 * 256


def test_the_size_that_is_named_fits_with_the_contract_of_the_training() -> None:
    """Its table of pixels can be what does not fit."""
    spec = DS_CNN_RGB.spec((1.0, 32))
    imagenet = replace(contract_of(spec), normalize=mean_std_normalize(IMAGENET_MEAN, IMAGENET_STD))
    unit = analyze_spec(DS_CNN_RGB.spec((0.75, 32)), core="cortex-m3")
    with_table = analyze_spec(DS_CNN_RGB.spec((0.75, 32)), core="cortex-m3", contract=imagenet)
    assert unit.cost.flash_bytes < with_table.cost.flash_bytes
    place = small(64_000, unit.cost.flash_bytes)
    assert remedy_for(DS_CNN_RGB, spec, place) == "use --width 0.75"
    trained = replace(DS_CNN_RGB, contract=imagenet)
    assert remedy_for(trained, spec, place) == "use --width 0.5"
    (only,) = propose_sizes(trained, place, resolutions=(32,))
    assert only.width == 0.5


def test_a_size_that_was_asked_for_and_does_not_fit_can_be_left_open() -> None:
    place = room("bluepill-f103c8")
    with pytest.raises(FitError) as caught:
        propose_sizes(DS_CNN, place, widths=(4.0,))
    assert caught.value.remedy.startswith("leave width and resolution open, or choose another")
    with pytest.raises(FitError) as caught:
        propose_sizes(MBV2, place)
    assert caught.value.remedy.startswith("choose another")


def test_proposals_are_plain_values() -> None:
    (found,) = propose_sizes(DS_CNN, room("pico"), widths=(0.25,), resolutions=(32,))
    assert isinstance(found, Proposal) and (found.width, found.resolution) == (0.25, 32)
    assert found.analysis.upper_bound
