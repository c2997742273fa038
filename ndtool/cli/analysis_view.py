"""What `ndtool analyze` shows: figures, layers, boards and sizes, on screen and as JSON."""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ndtool import console
from ndtool.console import visible, visible_line

if TYPE_CHECKING:
    from ndtool.export.analyze import Analysis
    from ndtool.export.fit import Design, Proposal, Size
    from ndtool.targets import Fit

MAX_NAME = 24  # characters of a layer in the table
# users.md, 6: no time without it
ONE_PER_CYCLE = "at 1 instruction per cycle; flash wait states, cache and dual issue not modelled"


def show_figures(analysis: "Analysis") -> None:
    """The network's figures, then a row for every layer."""
    from ndtool.targets import STACK_BYTES

    cost, peak = analysis.cost, analysis.peak
    other = cost.flash_bytes - cost.weights_bytes - cost.code_bytes
    params = "" if analysis.params is None else f"   {analysis.params:,} parameters"
    console.out(f"network  {visible(analysis.what)}")
    dead = f", without {analysis.dead_channels:,} dead channels" if analysis.dead_channels else ""
    exact = f"RAM and weights exact, as codegen writes them{dead}"
    above = "upper bounds: the C leaves out channels that die in training"
    console.out(f"figures  {above if analysis.upper_bound else exact}; ~ is estimated")
    console.out(
        f"RAM      {_bytes(analysis.ram_bytes)}   arena {analysis.arena_bytes:,} B"
        f" + stack {STACK_BYTES:,} B"
    )
    console.out(
        f"flash    ~{_bytes(cost.flash_bytes)}   weights {cost.weights_bytes:,} B"
        f" + code ~{cost.code_bytes:,} B + other constants ~{other:,} B"
    )
    console.out(
        f"work     {analysis.macs:,} MAC{params}   instructions ~{cost.instructions:,}"
        f" ({_core(analysis)})"
    )
    console.out(f"peak     {peak.live_bytes:,} B in layer {peak.index}, {visible(peak.name)}")
    console.out(f"\n{_layer_table(analysis)}\n")


def _core(analysis: "Analysis") -> str:
    """The core, and which one was measured in its stead."""
    cost = analysis.cost
    return analysis.core if cost.exact_core else f"{analysis.core}, as of {cost.measured_core}"


def _bytes(size: int) -> str:
    return f"{size:,} B ({size / 1024:,.1f} KiB)"


def _layer_table(analysis: "Analysis") -> str:
    columns = ("operation", "tensor", "output", "MACs", "weights, B", "arena, B", "instructions~")
    head = ("#", *columns, "")
    top = analysis.peak.live_bytes
    rows = [
        (
            f"{row.index}",
            row.title,
            visible(row.name, MAX_NAME),
            "x".join(map(str, row.shape)),
            f"{row.macs:,}",
            f"{row.weights_bytes:,}",
            f"{row.live_bytes:,}",
            f"{row.instructions:,}",
            "peak" if row.live_bytes == top else "",
        )
        for row in analysis.layers
    ]
    return console.table(head, rows)


# -- boards ----------------------------------------------------------------------------------------


def show_fit(analysis: "Analysis", fit: "Fit") -> None:
    """The verdict on one board."""
    console.out(f"fits     {visible(fit.text)}")
    ram, flash = f"RAM {_left(fit.ram_free)}", f"flash ~{_left(fit.flash_free)}"
    console.out(f"room     {ram}, {flash}; {fit.binding} is the limit")
    ram_kept, flash_kept = fit.target.ram - fit.ram_budget, fit.target.flash - fit.flash_budget
    kept = f"RAM {ram_kept:,} B, flash {flash_kept:,} B, kept for the application"
    console.out(f"reserve  {kept}")
    console.out(f"time     ~{_seconds(analysis, fit):.3g} s {ONE_PER_CYCLE}")


def _left(free: int) -> str:
    """`4,883 B free`, or `12 B over` where it is negative."""
    return f"{abs(free):,} B {'over' if free < 0 else 'free'}"


def show_targets(judged: Sequence[tuple["Analysis", "Fit"]]) -> None:
    """The verdicts on many boards."""
    from ndtool.targets import uncertain

    doubts = ["~" if uncertain(fit.target) else "" for _, fit in judged]
    stand_ins = {
        f"{analysis.core} as of {analysis.cost.measured_core}": None
        for analysis, _ in judged
        if not analysis.cost.exact_core
    }
    head = ("board", "core", "verdict", "RAM, KiB", "flash, KiB", "limit", "time, s")
    rows = [
        (
            fit.target.name,
            analysis.core if analysis.cost.exact_core else f"{analysis.core}~",
            "FITS" if fit.fits else "DOES NOT FIT",
            f"{fit.ram_used / 1024:,.1f} of {fit.ram_budget / 1024:,.1f}{doubt}",
            f"{fit.need.flash_bytes / 1024:,.1f}~ of {fit.flash_budget / 1024:,.1f}{doubt}",
            fit.binding,
            f"{_seconds(analysis, fit):.3g}",
        )
        for (analysis, fit), doubt in zip(judged, doubts, strict=True)
    ]
    console.out(console.table(head, rows))
    console.out("\n~ behind a figure: estimated, or of a board whose figures are not sure")
    if stand_ins:
        console.out(f"~ behind a core: code and time of {', '.join(stand_ins)}")
    console.out(f"fits     {sum(fit.fits for _, fit in judged)} of {len(judged)} boards")
    console.out(f"time     {ONE_PER_CYCLE}")


def _seconds(analysis: "Analysis", fit: "Fit") -> float:
    return analysis.cost.instructions / (fit.target.clock_mhz * 1e6)


# -- sizes -----------------------------------------------------------------------------------------


def show_proposals(design: "Design", found: Sequence["Proposal"]) -> None:
    """The sizes that fit a board, and how to train the first."""
    fit = found[0].fit
    colour = "gray" if design.in_channels == 1 else "RGB"
    console.out(f"network  {design.model}, {design.classes} classes, {colour}")
    console.out(
        f"sizes    the largest width of each resolution that fits {visible(fit.target.name)}:"
        f" RAM {fit.ram_budget / 1024:,.1f}, flash {fit.flash_budget / 1024:,.1f} KiB\n"
    )
    head = ("px", "width", "MACs", "parameters", "RAM, B", "flash~, B", "limit", "time, s")
    rows = [
        (
            f"{size.resolution}",
            f"{size.width:g}",
            f"{size.analysis.macs:,}",
            f"{size.analysis.params:,}",
            f"{size.fit.ram_used:,}",
            f"{size.fit.need.flash_bytes:,}",
            size.fit.binding,
            f"{_seconds(size.analysis, size.fit):.3g}",
        )
        for size in found
    ]
    console.out(console.table(head, rows))
    console.out("\nfigures  upper bounds; flash and time are estimated")
    console.out(f"time     {ONE_PER_CYCLE}")
    show_next(design, (found[0].width, found[0].resolution), fit)


def show_next(design: "Design", size: "Size", fit: "Fit | None") -> None:
    """The command that trains it."""
    console.out(f"next     {visible_line(_train_line(design, size, fit))}")


def _train_line(design: "Design", size: "Size", fit: "Fit | None") -> str:
    """It names the board where it fits beside the board's own reserves: train knows no others."""
    from ndtool.targets import judge_fit

    target = None if fit is None else fit.target
    if fit is not None and not judge_fit(fit.need, fit.target).fits:
        target = None
    return f"{shlex.join(design.train_words(size, target))} --data SPEC"


# -- JSON ------------------------------------------------------------------------------------------


def document(analysis: "Analysis", judged: Sequence[tuple["Analysis", "Fit"]]) -> dict[str, object]:
    """The document of one network."""
    layers = [
        {
            "index": row.index,
            "operation": row.title,
            "tensor": row.tensor,
            "shape": list(row.shape),
            "macs": row.macs,
            "weights_bytes": row.weights_bytes,
            "live_bytes": row.live_bytes,
            "instructions": row.instructions,
        }
        for row in analysis.layers
    ]
    return {
        "schema": "ndtool.analyze/1",
        "network": analysis.what,
        "layers": layers,
        "peak_layer": analysis.peak.index,
        "targets": [_target_facts(*row) for row in judged],
        **_figures(analysis),
    }


def _figures(analysis: "Analysis") -> Mapping[str, object]:
    cost = analysis.cost
    return {
        "core": analysis.core,
        "measured_core": cost.measured_core,
        "exact_core": cost.exact_core,
        "params": analysis.params,
        "macs": analysis.macs,
        "arena_bytes": analysis.arena_bytes,
        "ram_bytes": analysis.ram_bytes,
        "weights_bytes": cost.weights_bytes,
        "code_bytes": cost.code_bytes,
        "flash_bytes": cost.flash_bytes,
        "instructions": cost.instructions,
        "upper_bound": analysis.upper_bound,
        "dead_channels": analysis.dead_channels,
    }


def _target_facts(analysis: "Analysis", fit: "Fit") -> Mapping[str, object]:
    return {
        "target": fit.target.name,
        "core": fit.target.core,
        "fits": fit.fits,
        "binding": fit.binding,
        "ram_bytes": fit.ram_used,
        "ram_budget_bytes": fit.ram_budget,
        "flash_bytes": fit.need.flash_bytes,
        "flash_budget_bytes": fit.flash_budget,
        "ram_free_bytes": fit.ram_free,
        "flash_free_bytes": fit.flash_free,
        "clock_mhz": fit.target.clock_mhz,
        "instructions": analysis.cost.instructions,
        "seconds_at_one_instruction_per_cycle": _seconds(analysis, fit),
    }


def proposal_document(design: "Design", found: Sequence["Proposal"]) -> dict[str, object]:
    """The document of --fit, in the order of the table."""
    sizes = [
        {
            "width": size.width,
            "resolution": size.resolution,
            "command": _train_line(design, (size.width, size.resolution), size.fit),
            **_figures(size.analysis),
            **_target_facts(size.analysis, size.fit),
        }
        for size in found
    ]
    return {
        "schema": "ndtool.analyze.fit/1",
        "model": design.model,
        "classes": design.classes,
        "in_channels": design.in_channels,
        "target": found[0].fit.target.name,
        "sizes": sizes,
    }
