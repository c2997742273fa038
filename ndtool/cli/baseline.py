"""ndtool baseline show, ndtool baseline accept."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ndtool import console
from ndtool.cli.params import (
    EvalData,
    PolicyOpt,
    RunArg,
    RuntimeOpt,
    Workers,
)
from ndtool.cli.verbs import verb
from ndtool.options import CHECK

if TYPE_CHECKING:
    from ndtool.export.baseline import Outcome
    from ndtool.gates.accept import Comparison

FileOpt = Annotated[
    Path,
    typer.Option(
        "--baseline", metavar="FILE", help="Such as baselines/main.toml; to be committed."
    ),
]
Reason = Annotated[
    str,
    typer.Option("--reason", metavar="TEXT", help="Why this is the one; 10 characters or more."),
]
SetOpt = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A key under [bounds]; may be repeated."),
]
LowerFloor = Annotated[
    bool, typer.Option("--lower-floor", help="Lower the floors that this run is under.")
]
BORROWED = {"baseline": "check", "runtime": "check", "workers": "check"}


@verb(borrowed=BORROWED)
def show(
    run: RunArg,
    baseline: FileOpt,
    data: EvalData = "",
    runtime: RuntimeOpt = CHECK.runtime,
    workers: Workers = CHECK.workers,
) -> None:
    """Evaluate RUN as check does, and show each gate: what is, and the baseline's bound."""
    from ndtool.export.baseline import show_baseline
    from ndtool.gates.verdict import WORDS
    from ndtool.rundir import find_run

    shown = show_baseline(find_run(run), baseline, data=data, runtime=runtime, workers=workers)
    accepted, verdict = shown.baseline.accepted, shown.verdict
    console.out(console.visible_line(verdict.against))
    console.out(f"accepted  {console.visible(accepted.reason)}")
    console.out(f"model     {console.visible(f'{accepted.model}, ndtool {accepted.tool}')}\n")
    rows = [
        (
            WORDS[j.passed],
            j.name,
            j.present or (j.text if j.passed is None else "-"),
            j.bound or "-",
        )
        for j in verdict.judgements
    ]
    _columns([("", "gate", "present", "bound"), *rows])
    for notice in verdict.notices:
        console.out(f"\n{console.visible_line(notice)}")
    document = verdict.document() | {"baseline": str(baseline), "accepted": asdict(accepted)}
    console.out_json(document | {"schema": "ndtool.baseline-show/1"})


@verb(borrowed=BORROWED)
def accept(
    run: RunArg,
    baseline: FileOpt,
    reason: Reason,
    settings: SetOpt = None,
    policy: PolicyOpt = None,
    lower_floor: LowerFloor = False,
    data: EvalData = "",
    runtime: RuntimeOpt = CHECK.runtime,
    workers: Workers = CHECK.workers,
) -> None:
    """Evaluate RUN as check does, and write it as the result that others are held against.

    Bounds that are there stay as they are, but for --set.
    """
    from ndtool.export.baseline import AcceptOptions, accept_baseline
    from ndtool.gates.baseline_file import predictions_of
    from ndtool.rundir import find_run

    options = AcceptOptions(
        reason=reason,
        settings=tuple(settings or ()),
        policy=policy,
        lower_floor=lower_floor,
        runtime=runtime,
        workers=workers,
    )
    outcome = accept_baseline(find_run(run), baseline, options, data=data)
    if outcome.changes:
        _columns([(change.key, f"{change.old} -> {change.new}") for change in outcome.changes])
        console.out("")
    _show_comparison(outcome)
    files = [str(baseline), str(predictions_of(baseline))]
    following = f"ndtool check {shlex.quote(run)} --baseline {shlex.quote(str(baseline))}"
    console.out(f"files    {' '.join(map(console.visible, files))}; commit both")
    console.out(f"next     {console.visible_line(following)}")
    for judgement in outcome.failing:
        console.warn(
            "baseline.out-of-bounds",
            f"check will fail: {judgement.name}: {judgement.text};"
            " --set KEY=VALUE gives another bound",
        )
    console.out_json(_document(outcome, run, files, following))


def _columns(rows: Sequence[Sequence[str]]) -> None:
    """Cells under each other, all from the left: texts with numbers in them."""
    shown = [[console.visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.out("  ".join(cells).rstrip())


def _show_comparison(outcome: "Outcome") -> None:
    """b, c, p and the classes that lost most."""
    found = outcome.comparison
    if found is None:
        why = "the first baseline"
        if not outcome.first:
            why = "another evaluation set than the old baseline's; the next drop is on this one"
        console.out(f"drop     not compared: {why}")
        return
    pair = found.pair
    console.out(
        f"drop     {float(pair.drop_points):.2f} points: {console.counted(pair.lost, 'image')}"
        f" lost, {pair.gained} gained of {pair.count}, p = {pair.p_value:.4g}"
    )
    for change in found.worst:
        console.out(
            f"class    {console.visible(change.label)}  {change.before.text} -> {change.after.text}"
        )


def _document(outcome: "Outcome", run: str, files: list[str], following: str) -> dict[str, object]:
    return {
        "schema": "ndtool.baseline-accept/1",
        "run": run,
        "files": files,
        "first": outcome.first,
        "changes": [asdict(change) for change in outcome.changes],
        "comparison": None if outcome.comparison is None else _numbers(outcome.comparison),
        "failing": [asdict(judgement) for judgement in outcome.failing],
        "next": following,
    }


def _numbers(found: "Comparison") -> dict[str, object]:
    return {
        "lost": found.pair.lost,
        "gained": found.pair.gained,
        "count": found.pair.count,
        "drop_points": float(found.pair.drop_points),
        "p_value": found.pair.p_value,
        "classes": [
            {
                "label": change.label,
                "recall_before": change.before.fraction,
                "recall_after": change.after.fraction,
            }
            for change in found.worst
        ],
    }
