"""The course of a training as one picture: small multiples of its history, as SVG.

A pure function of the history's rows: the same rows give the same bytes, of one matplotlib. No
global state of matplotlib is used or left changed, and no style file of the user is read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ndtool.errors import require
from ndtool.training.gradients import CONFLICT_RATE, LARGEST_C
from ndtool.training.loop import HistoryRow
from ndtool.training.step import CLIPPED, GRAD_NORM

COLUMNS: Final = 3
PANEL_INCHES: Final = (4.0, 2.7)  # three of them are 1,200 px wide at 100 px an inch
MANY_POINTS: Final = 40  # with fewer, each epoch has its dot
LARGEST: Final = 1e30  # above it a figure is as good as infinite, and an axis breaks
ROOM: Final = 1.08  # above the highest value
DECADES: Final = 2  # of a logarithmic axis that has room for numbers between the powers of ten
_STYLE: Final = {
    "svg.hashsalt": "ndtool",  # ids of clip paths, random otherwise
    "svg.fonttype": "path",  # the same look wherever it is opened
    "font.size": 9,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.4,
}
# By what is drawn, so that a network has one colour in every panel
_COLOURS: Final = {
    "student": "#0072b2",
    "assistant": "#009e73",
    "teacher": "#d55e00",
    "drawn network": "#cc79a7",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure over the epochs; NaN where an epoch has none."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram: lines of the same unit."""

    title: str
    lines: tuple[Line, ...]
    logarithmic: bool = False
    from_zero: bool = False
    best: int | None = None  # number of the epoch to be marked on the first line


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A panel that a history may have: name of the line -> its column."""

    title: str
    columns: tuple[tuple[str, str], ...]
    scale: float = 1.0
    logarithmic: bool = False
    from_zero: bool = False
    best: bool = False


_WANTED: Final = (
    _Wanted(
        "accuracy on the validation part, %",
        (("student", "val_accuracy"), ("teacher", "val_accuracy_teacher")),
        scale=100,
        best=True,
    ),
    _Wanted(
        "training loss, nats",
        (
            ("student", "student_loss"),
            ("assistant", "assistant_loss"),
            ("teacher", "teacher_loss"),
            ("drawn network", "augmented_loss"),
        ),
    ),
    _Wanted("learning rate at the epoch's end", (("", "lr"),), from_zero=True),
    _Wanted("gradient norm before clipping", (("", GRAD_NORM),), logarithmic=True),
    _Wanted("steps with a clipped gradient, %", (("", CLIPPED),), scale=100, from_zero=True),
    _Wanted("seconds of an epoch", (("", "seconds"),), from_zero=True),
    _Wanted(
        "layers whose gradients conflict, %", (("", CONFLICT_RATE),), scale=100, from_zero=True
    ),
    _Wanted("largest coefficient of surgery, |c|", (("", LARGEST_C),), logarithmic=True),
    _Wanted(
        "samples that learn from the teacher, %", (("", "kl_share"),), scale=100, from_zero=True
    ),
)


def plan_panels(rows: Sequence[HistoryRow]) -> tuple[Panel, ...]:
    """The panels for which the history has at least one finite figure.

    Args:
        rows: one for each epoch, in order.
    """
    panels = []
    for wanted in _WANTED:
        named = [
            Line(name, tuple(_drawable(row.get(column), wanted.scale) for row in rows))
            for name, column in wanted.columns
        ]
        lines = tuple(line for line in named if any(map(math.isfinite, line.values)))
        if lines:
            first = lines[0].values
            best = max(range(len(first)), key=lambda k: (_rank(first[k]), -k)) + 1
            panels.append(
                Panel(
                    title=wanted.title,
                    lines=lines,
                    logarithmic=wanted.logarithmic,
                    from_zero=wanted.from_zero,
                    best=best if wanted.best else None,
                )
            )
    return tuple(panels)


def _drawable(value: float | None, scale: float) -> float:
    """The value in the panel's unit; NaN, which leaves a gap, where it cannot be drawn."""
    return scale * value if value is not None and abs(value) < LARGEST else math.nan


def _rank(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def draw_curves(rows: Sequence[HistoryRow]) -> bytes:
    """SVG of `plan_panels(rows)`.

    Raises:
        ToolMissingError: matplotlib is not installed.
    """
    matplotlib = require("matplotlib")
    panels = plan_panels(rows)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = _figure(panels, len(rows))
        buffer = io.BytesIO()
        # Date and Creator would name the day and the version.
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _figure(panels: Sequence[Panel], epochs: int) -> Any:
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    width, height = PANEL_INCHES
    # Not through pyplot, which keeps every figure and chooses a window system.
    figure = require("matplotlib.figure").Figure(
        figsize=(columns * width, rows * height), layout="constrained"
    )
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        _draw(axes, panel, epochs)
        if number + columns >= len(panels):
            axes.set_xlabel("epoch")
    return figure


def _draw(axes: Any, panel: Panel, epochs: int) -> None:
    ticker = require("matplotlib.ticker")
    axes.set_title(panel.title, loc="left", fontsize="medium")
    numbers = range(1, epochs + 1)
    marker = "." if epochs <= MANY_POINTS else None
    for line in panel.lines:
        colour = _COLOURS.get(line.name, "#444444")
        axes.plot(numbers, line.values, marker=marker, color=colour, label=line.name)
    if panel.best is not None:
        score = panel.lines[0].values[panel.best - 1]
        label = f"best: {score:.2f} at epoch {panel.best}"
        axes.plot([panel.best], [score], "o", mfc="none", color="#222222", label=label)
    if any(line.name for line in panel.lines):
        axes.legend(frameon=False, fontsize="small")
    finite = [value for line in panel.lines for value in line.values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    # Within a decade a logarithmic axis has but one or two numbers on it.
    if panel.logarithmic and low > 0 and high >= 10 * low:
        axes.set_yscale("log")
        between = (1, 2, 5) if high / low < 10**DECADES else (1,)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=between))
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    elif (panel.from_zero or panel.logarithmic) and low >= 0:
        axes.set_ylim(0, ROOM * (high or 1.0))  # of nothing but zeros, matplotlib shows -0.05 too
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
