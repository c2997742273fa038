"""Whether a network fits a board, and which sizes of it do: asked before the first epoch.

The rule is `ndtool.targets.judge_fit` (users.md, 6); the bytes are `analyze`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ndtool.arch import ArchSpec, lower
from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.errors import FitError, InputError
from ndtool.export.analyze import (
    Analysis,
    LayerRow,
    analyze_spec,
    describe_spec,
    is_too_large,
    largest_activation,
)
from ndtool.models import make_spec
from ndtool.options import TrainOptions
from ndtool.targets import Fit, Need, Target, find_target, judge_fit, load_targets

# The sizes that are tried: those of the papers' tables, and what lies between and beyond them.
WIDTHS: Final = (0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 0.75, 1.0, 1.4, 2.0, 3.0, 4.0)
RESOLUTIONS: Final = (16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224)

_ANOTHER: Final = "choose another model or board: ndtool models, ndtool targets"
Size = tuple[float, int]  # width, resolution in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A board and the bytes that the application keeps for itself; None: the board's own rule."""

    target: Target
    ram_reserve: int | None = None
    flash_reserve: int | None = None

    def judge(self, need: Need) -> Fit:
        """Whether `need` fits beside the reserves."""
        return judge_fit(
            need, self.target, ram_reserve=self.ram_reserve, flash_reserve=self.flash_reserve
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A network of ours whose width and resolution are still open.

    `contract`: what it is trained with, its image of any size; None: the default of `ndtool train`.
    """

    model: str
    in_channels: int
    classes: int
    stem_stride: int | None = None
    strides: tuple[int, ...] | None = None
    contract: Contract | None = None

    def spec(self, size: Size) -> ArchSpec:
        """The network of that size; raises as `make_spec`."""
        width, resolution = size
        return make_spec(
            self.model,
            width=width,
            size_px=resolution,
            in_channels=self.in_channels,
            classes=self.classes,
            stem_stride=self.stem_stride,
            strides=self.strides,
        )

    def analyze(self, spec: ArchSpec, core: str) -> Analysis:
        """The figures of one size of it."""
        return analyze_spec(spec, core=core, contract=self.contract)

    def train_words(self, size: Size, target: Target | None = None) -> list[str]:
        """The command that trains it in that size, without its data."""
        width, resolution = size
        words = ["ndtool", "train", "--model", self.model, "--width", f"{width:g}"]
        words += ["--resolution", f"{resolution}"]
        words += ["--gray"] if self.in_channels == 1 else []
        words += [] if self.stem_stride is None else ["--stem-stride", f"{self.stem_stride}"]
        words += [] if self.strides is None else ["--strides", ",".join(map(str, self.strides))]
        return words if target is None else [*words, *target.words]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A size that fits."""

    width: float
    resolution: int
    analysis: Analysis
    fit: Fit


def need_of(analysis: Analysis) -> Need:
    """What a board must have for it; the flash is an estimate."""
    return Need(
        arena_bytes=analysis.arena_bytes,
        flash_bytes=analysis.cost.flash_bytes,
        flash_estimated=True,
    )


def least_need(spec: ArchSpec) -> Need:
    """Less than which no plan of the network takes, known without planning it.

    Every activation, the image too, lies whole in the arena at some time; a weight is a byte.
    """
    weights = (math.prod(layer.weight_shape) for layer in lower(spec) if layer.weight_shape)
    return Need(arena_bytes=largest_activation(spec), flash_bytes=sum(weights))


# ---- which sizes fit -----------------------------------------------------------------------------


def first_fitting(design: Design, room: Room, sizes: Iterable[Size]) -> Proposal | None:
    """The first of `sizes` that fits; those that the network does not have are passed over."""
    for width, resolution in sizes:
        spec = _spec_if_any(design, (width, resolution))
        if spec is None or is_too_large(spec) or not room.judge(least_need(spec)).fits:
            continue
        analysis = design.analyze(spec, room.target.core)
        fit = room.judge(need_of(analysis))
        if fit.fits:
            return Proposal(width=width, resolution=resolution, analysis=analysis, fit=fit)
    return None


def _spec_if_any(design: Design, size: Size) -> ArchSpec | None:
    """None where the image would shrink below 1x1, or the user's own model has no such size."""
    try:
        return design.spec(size)
    except InputError as problem:
        if problem.code not in ("model.resolution", "model.own", "arch.invalid"):
            raise
        return None


def propose_sizes(
    design: Design,
    room: Room,
    *,
    widths: Sequence[float] = WIDTHS,
    resolutions: Sequence[int] = RESOLUTIONS,
    progress: Callable[[int, str], None] = lambda _done, _note: None,
) -> tuple[Proposal, ...]:
    """For each resolution the largest width that fits, by multiply-accumulates, most first.

    Every width above it was tried: neither the arena nor the flash need grow with each step.

    Args:
        progress: told how many resolutions are done, and the last one.

    Raises:
        FitError: none fits; says what the smallest needs.
        ConfigError: no such model, or strides that it does not have.
    """
    # Tells wrong strides from small images, which are no error here.
    smallest = design.spec((min(widths), max(resolutions)))
    found = []
    for done, resolution in enumerate(resolutions, 1):
        wide_first = [(width, resolution) for width in sorted(widths, reverse=True)]
        best = first_fitting(design, room, wide_first)
        found += [] if best is None else [best]
        progress(done, f"{resolution} px")
    if not found:
        raise _nothing_fits(design, room, smallest, widths, resolutions)
    return tuple(sorted(found, key=lambda p: (-p.analysis.macs, p.resolution)))


def _nothing_fits(
    design: Design,
    room: Room,
    smallest: ArchSpec,
    widths: Sequence[float],
    resolutions: Sequence[int],
) -> FitError:
    every = (_spec_if_any(design, (min(widths), px)) for px in sorted(resolutions))
    spec = next((spec for spec in every if spec is not None), smallest)
    fit = room.judge(
        least_need(spec) if is_too_large(spec) else need_of(design.analyze(spec, room.target.core))
    )
    all_tried = set(widths) >= set(WIDTHS) and set(resolutions) >= set(RESOLUTIONS)
    return FitError(
        f"no size of {design.model} fits; the smallest tried, {describe_spec(spec)}, needs"
        f" {fit.ram_used:,} B of RAM, {fit.need.flash_bytes:,} B of flash;"
        f" there are {fit.ram_budget:,} B and {fit.flash_budget:,} B",
        where=f"--fit {room.target.name}",
        remedy=_ANOTHER if all_tried else f"leave width and resolution open, or {_ANOTHER}",
        code="fit.nothing",
    )


def remedy_for(design: Design | None, spec: ArchSpec | None, room: Room) -> str:
    """What to do about a network that does not fit: the nearest smaller sizes that do.

    `design` is None for a network whose size is not ours to change.
    """
    if design is None or spec is None:
        return _ANOTHER
    width, resolution = spec.width, spec.height_px
    widths = [w for w in sorted(WIDTHS, reverse=True) if w < width]
    resolutions = [px for px in sorted(RESOLUTIONS, reverse=True) if px < resolution]
    narrower = first_fitting(design, room, [(w, resolution) for w in widths])
    smaller = first_fitting(design, room, [(width, px) for px in resolutions])
    words = [] if narrower is None else [f"--width {narrower.width:g}"]
    words += [] if smaller is None else [f"--resolution {smaller.resolution}"]
    if words:
        return f"use {', or '.join(words)}"
    both = first_fitting(design, room, [(w, px) for px in resolutions for w in widths])
    if both is not None:
        return f"use --width {both.width:g} --resolution {both.resolution}"
    return _ANOTHER


# ---- refusals ------------------------------------------------------------------------------------


def require_fits(spec: ArchSpec, contract: Contract, options: TrainOptions) -> Fit:
    """That the network which is to be trained fits `options.target`.

    Raises:
        FitError: names what is short, the layer that takes most of it, and the nearest size.
        ConfigError: no such board, or a wrong file of boards.
    """
    files = (Path(options.boards),) if options.boards else ()
    room = Room(target=find_target(options.target, load_targets(files)))
    design = Design(
        model=options.model,
        in_channels=spec.in_channels,
        classes=spec.classes,
        stem_stride=options.stem_stride,
        strides=options.strides,
        contract=contract,
    )
    require_plannable(spec, room, design)
    analysis = design.analyze(spec, room.target.core)
    fit = room.judge(need_of(analysis))
    if not fit.fits:
        raise fit_error(analysis, fit, remedy=remedy_for(design, spec, room))
    return fit


def require_plannable(spec: ArchSpec, room: Room, design: Design) -> None:
    """Refuse a network of a size that is not even planned; raises FitError."""
    if is_too_large(spec):
        least = room.judge(least_need(spec))
        raise FitError(
            f"{describe_spec(spec)} does not fit {room.target.name}: it needs more than"
            f" {least.ram_used:,} B of RAM and {least.need.flash_bytes:,} B of flash,"
            f" there are {least.ram_budget:,} B and {least.flash_budget:,} B",
            where=f"--target {room.target.name}",
            remedy=remedy_for(design, spec, room),
            code="fit.target",
        )


def fit_error(analysis: Analysis, fit: Fit, *, remedy: str) -> FitError:
    """Why it does not fit: what is short first, and which layer takes most of it."""
    short = []
    if fit.ram_free < 0:
        short.append(f"RAM is {-fit.ram_free:,} B over, fullest at {_layer(analysis.peak)}")
    if fit.flash_free < 0:
        text = f"flash is {-fit.flash_free:,} B over, most of it {_layer(analysis.heaviest)}"
        short.insert(0 if fit.binding == "flash" else 1, text)
    return FitError(
        f"{analysis.what} does not fit {fit.target.name}: {'; '.join(short)}",
        where=f"--target {fit.target.name}",
        remedy=remedy,
        code="fit.target",
    )


def _layer(row: LayerRow) -> str:
    return f"layer {row.index} ({row.title}, {visible(row.name)})"
