"""Curves of a training: which panels there are, the same bytes, and nothing that breaks them."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import nets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import Silent

from ndtool.options import TrainOptions
from ndtool.rundir import RunDir
from ndtool.training.loop import HISTORY_COLUMNS, HistoryRow
from ndtool.training.records.curves import COLUMNS, LARGEST, _figure, draw_curves, plan_panels
from ndtool.training.train import train
from ndtool.types import Recipe, StudentLoss

SPEC = nets.ds_spec()
ALWAYS = ("accuracy", "training loss", "learning rate", "gradient norm", "steps with", "seconds")
DISTILLED = ("layers whose", "largest coefficient")
cells = st.none() | st.floats(width=64) | st.floats(0, 1)
histories = st.lists(
    st.fixed_dictionaries(dict.fromkeys(HISTORY_COLUMNS, cells)), min_size=1, max_size=4
)


def row(**figures: float) -> HistoryRow:
    return dict.fromkeys(HISTORY_COLUMNS) | figures


def history_of(path: Path, options: TrainOptions) -> list[HistoryRow]:
    rows: list[HistoryRow] = []

    def watch(history: list[HistoryRow]) -> None:
        rows[:] = history

    train(
        options,
        RunDir(path),
        spec=SPEC,
        contract=nets.contract_of(SPEC),
        train=nets.split_of(SPEC, 16),
        val=nets.split_of(SPEC, 6, seed=1),
        resume=False,
        progress=Silent(),
        watch=watch,
    )
    return rows


@pytest.mark.parametrize(
    ("changes", "more", "lines"),
    [
        ({"recipe": Recipe.PLAIN}, (), (1, 1)),
        ({"recipe": Recipe.NETAUG}, (), (1, 2)),
        ({}, (*DISTILLED, "samples that learn"), (2, 2)),
        ({"student_loss": StudentLoss.CE}, DISTILLED, (2, 2)),
        ({"expand": (2, 3)}, (*DISTILLED, "samples that learn"), (2, 3)),
        ({"teacher_stop": 0.5}, (*DISTILLED, "samples that learn"), (2, 2)),
    ],
)
def test_panels_of_each_recipe(
    tmp_path: Path, changes: dict[str, object], more: tuple[str, ...], lines: tuple[int, int]
) -> None:
    rows = history_of(tmp_path, nets.options(epochs=2, **changes))
    assert [r["epoch"] for r in rows] == [1, 2]
    panels = plan_panels(rows)
    wanted = (*ALWAYS, *more)
    assert len(panels) == len(wanted)
    assert all(p.title.startswith(w) for p, w in zip(panels, wanted, strict=True))
    assert (len(panels[0].lines), len(panels[1].lines)) == lines
    assert panels[0].lines[0].values == tuple(100 * (r["val_accuracy"] or 0) for r in rows)


def test_each_line_shows_its_own_column() -> None:
    figures = {column: (number + 1) / 64 for number, column in enumerate(HISTORY_COLUMNS)}
    shown = {
        (panel.title, line.name): line.values[0]
        for panel in plan_panels([row(**figures)])
        for line in panel.lines
    }
    columns = {
        ("accuracy on the validation part, %", "student"): ("val_accuracy", 100),
        ("accuracy on the validation part, %", "teacher"): ("val_accuracy_teacher", 100),
        ("training loss, nats", "student"): ("student_loss", 1),
        ("training loss, nats", "assistant"): ("assistant_loss", 1),
        ("training loss, nats", "teacher"): ("teacher_loss", 1),
        ("training loss, nats", "drawn network"): ("augmented_loss", 1),
        ("learning rate at the epoch's end", ""): ("lr", 1),
        ("gradient norm before clipping", ""): ("grad_norm", 1),
        ("steps with a clipped gradient, %", ""): ("clipped_share", 100),
        ("seconds of an epoch", ""): ("seconds", 1),
        ("layers whose gradients conflict, %", ""): ("conflict_rate", 100),
        ("largest coefficient of surgery, |c|", ""): ("largest_c", 1),
        ("samples that learn from the teacher, %", ""): ("kl_share", 100),
    }
    assert shown == {key: scale * figures[column] for key, (column, scale) in columns.items()}


def test_the_best_epoch_is_the_first_of_a_tie() -> None:
    rows = [row(val_accuracy=score) for score in (0.2, 0.7, 0.7, 0.5)]
    (panel,) = plan_panels(rows)
    assert panel.best == 2


def test_a_gap_stays_a_gap() -> None:
    rows = [row(val_accuracy=0.5, val_accuracy_teacher=0.6), row(val_accuracy=0.5)]
    first, second = plan_panels(rows)[0].lines[1].values
    assert first == 60 and math.isnan(second)


@pytest.mark.slow
def test_svg_is_whole_and_the_same_again_whatever_the_user_has_set() -> None:
    rows = [row(epoch=e, lr=0.1 / e, val_accuracy=1 - 1 / e, grad_norm=9.0**-e) for e in (1, 2, 3)]
    data = draw_curves(rows)
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "none"}):
        assert draw_curves(rows) == data
    assert dict(matplotlib.rcParams) == before
    tree = ET.fromstring(data)
    assert tree.tag.endswith("svg")
    width_pt = float((tree.get("width") or "").removesuffix("pt"))
    assert width_pt == pytest.approx(1200 / 100 * 72, rel=0.01)
    for word in (b"<dc:date", b"matplotlib.org", b"/home", b"/usr"):
        assert word not in data


@settings(max_examples=50, derandomize=True, deadline=None)
@given(histories)
def test_no_figure_breaks_a_panel(rows: list[HistoryRow]) -> None:
    for panel in plan_panels(rows):
        for line in panel.lines:
            assert len(line.values) == len(rows)
            assert all(math.isnan(v) or abs(v) <= 100 * LARGEST for v in line.values)


@pytest.mark.slow
@settings(max_examples=6, derandomize=True, deadline=None)  # drawing is what takes the time
@given(histories)
def test_no_figure_breaks_the_picture(rows: list[HistoryRow]) -> None:
    assert ET.fromstring(draw_curves(rows)).tag.endswith("svg")


def test_a_history_of_nothing_is_a_picture_too() -> None:
    assert plan_panels([row()]) == ()
    assert ET.fromstring(draw_curves([row()])).tag.endswith("svg")


def test_long_histories_stay_small() -> None:
    rows = [row(epoch=e, lr=0.1, val_accuracy=(e * 37 % 101) / 101) for e in range(1, 5001)]
    assert len(draw_curves(rows)) < 2_000_000
    assert COLUMNS == 3


def numbers_beside(rows: list[HistoryRow], title: str) -> list[float]:
    """The numbers on the vertical axis of the panel `title`, from below."""
    axes = next(
        a for a in _figure(plan_panels(rows), len(rows)).axes if a.get_title("left") == title
    )
    low, high = axes.get_ylim()
    return [tick for tick in axes.get_yticks() if low <= tick <= high]


@pytest.mark.parametrize("largest", [0.8, 1.5, 7.9, 8.0, 90.0, 1e4])
def test_every_axis_has_numbers_to_read_it_by(largest: float) -> None:
    rows = [row(epoch=1, grad_norm=0.8), row(epoch=2, grad_norm=largest)]
    assert len(numbers_beside(rows, "gradient norm before clipping")) >= 3


def test_an_axis_of_zeros_starts_at_zero() -> None:
    rows = [row(epoch=1, clipped_share=0.0), row(epoch=2, clipped_share=0.0)]
    assert min(numbers_beside(rows, "steps with a clipped gradient, %")) == 0
