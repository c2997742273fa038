"""ndtool check."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndtool import console
from ndtool.cli.params import RunArg, build, verb
from ndtool.options import CHECK, CheckOptions

if TYPE_CHECKING:
    from ndtool.gates.hops import Verdict

GATE_FAILED = 3
EvalData = Annotated[str, typer.Option("--data", help="Another place for the run's data.")]


@verb(CHECK)
def check(run: RunArg, data: EvalData = "", **values: Any) -> None:
    """Run every hop's model on the test images; exit 3 when accuracy is lost on the way."""
    verdict = check_run(run, build(CHECK, values), data=data)
    console.out_json(verdict.document())
    show_check(verdict)


def check_run(
    name: str, options: CheckOptions, *, data: str, given: dict[str, str] | None = None
) -> "Verdict":
    """Run and judge; shared by `check` and `run`, which keeps the bounds `given` in config.toml."""
    from ndtool.export import checking
    from ndtool.prepare import write_config
    from ndtool.rundir import find_run

    run = find_run(name)
    if given is not None:
        with run.lock():
            write_config(run, "check", dataclasses.asdict(options), given)
    return checking.check_run(run, options, data=data)


def show_check(verdict: "Verdict") -> None:
    """Print the table and the verdict; ends with exit 3 when a gate failed."""
    print_check(verdict)
    if not verdict.passed:
        raise typer.Exit(GATE_FAILED)


def print_check(verdict: "Verdict") -> None:
    """The table of hops and every gate."""
    from ndtool.evaluate import wilson_interval

    console.out("no baseline: only absolute and hop bounds judged\n")
    rows = [
        (
            row.hop.value,
            row.accuracy.text,
            "{:.1%} to {:.1%}".format(*wilson_interval(row.accuracy)),
            "-" if row.agreement is None else f"{row.agreement:.2%}",
            "-" if row.max_abs_diff is None else f"{row.max_abs_diff:.3g}",
            row.engine,
        )
        for row in verdict.rows
    ]
    head = ("hop", "accuracy", "95 % interval", "agreement", "max diff", "engine")
    console.out(console.table(head, rows))
    if verdict.recall:
        label, worst = min(verdict.recall.items(), key=lambda item: item[1].fraction)
        console.out(f"\nworst class  {console.visible(label)}  {worst.text} found")
    console.out("")
    words = {True: "PASS", False: "FAIL", None: "SKIP"}
    for judgement in verdict.judgements:
        console.out(f"{words[judgement.passed]}  {judgement.gate}: {judgement.text}")
    console.out(f"\n{'PASS' if verdict.passed else 'FAIL'}  {verdict.eval_count} test images")
