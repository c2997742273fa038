"""ndtool check."""

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndtool import console
from ndtool.cli.params import (
    EvalData,
    RunArg,
)
from ndtool.cli.verbs import (
    build,
    config_files,
    verb,
)
from ndtool.errors import NdError
from ndtool.files import require_outputs
from ndtool.options import CHECK, CheckOptions
from ndtool.rundir import run_folder

if TYPE_CHECKING:
    from ndtool.gates.verdict import Verdict

GATE_FAILED = 3
ENGINES = ("torch", "onnxruntime", "tflite-micro", "ai-edge-litert", "tflite-runtime", "numpy")
JunitFile = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write the gates as JUnit XML.")
]
MarkdownFile = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Write the verdict as Markdown.")
]
Github = Annotated[
    bool, typer.Option("--github", help="Annotations and step summary for GitHub Actions.")
]


@verb(CHECK)
def check(
    ctx: typer.Context,
    run: RunArg,
    data: EvalData = "",
    junit: JunitFile = None,
    github: Github = False,
    markdown: MarkdownFile = None,
    **values: Any,
) -> None:
    """Run every hop's model on the test images and judge; exit 3 when a gate fails.

    With a baseline, against what was accepted; without one, only by absolute and hop bounds.
    """
    options = build(CHECK, values)
    inputs = [*_files_read(run, options.baseline, data), *config_files(ctx)]
    outputs = {"--junit": junit, "--markdown": markdown}
    require_outputs(outputs, inputs=inputs, run=run_folder(run))
    for path in (junit, markdown):
        if path is not None:  # whatever happens, nobody takes an older verdict for this one's
            path.unlink(missing_ok=True)
    began, start_s = time.gmtime(), time.monotonic()
    try:
        verdict = check_run(run, options, data=data)
    except (NdError, OSError) as problem:
        refusal = problem if isinstance(problem, NdError) else console.file_error(problem)
        seconds = time.monotonic() - start_s
        write_refusal(
            refusal, run=run, junit=junit, markdown=markdown, began=began, seconds=seconds
        )
        if github:
            tell_github_refusal(refusal, run)
        raise
    write_files(verdict, junit=junit, markdown=markdown, began=began)
    console.out_json(verdict.document())
    print_check(verdict)
    if github:
        tell_github(verdict, options.baseline)
    end_check(verdict)


def _files_read(name: str, baseline: str, data: str) -> list[Path]:
    """The files of the baseline, and of the data that the run says or `data`."""
    from ndtool.export.run_data import data_row
    from ndtool.gates.baseline_file import predictions_of
    from ndtool.rundir import find_run

    files = []
    if baseline:
        files = [Path(baseline)]
        if files[0].name:
            files.append(predictions_of(files[0]))
    specs = [data]
    with contextlib.suppress(NdError, OSError):  # for the check itself to say
        specs.append(str(data_row(find_run(name)).get("data")))
    for spec in specs:
        _, _, place = spec.partition(":")
        if place:
            files.append(Path(os.path.expanduser(place)))  # noqa: PTH111  # as open_source does
    return files


def check_run(
    name: str, options: CheckOptions, *, data: str, given: dict[str, str] | None = None
) -> "Verdict":
    """Run and judge; shared by `check` and `run`, which keeps the bounds `given` in config.toml."""
    from ndtool.config import write_config
    from ndtool.export import checking
    from ndtool.rundir import find_run

    run = find_run(name)
    if given is not None:
        with run.lock():
            write_config(run, "check", dataclasses.asdict(options), given)
    return checking.check_run(run, options, data=data)


def end_check(verdict: "Verdict") -> None:
    """Exit 3 when a gate failed."""
    if not verdict.passed:
        raise typer.Exit(GATE_FAILED)


def print_check(verdict: "Verdict") -> None:
    """The table of hops, every gate, and in the last line what failed."""
    from ndtool.gates.verdict import HOP_HEAD, WORDS

    console.out(f"{console.visible_line(verdict.against)}\n")
    if verdict.rows:
        console.out(console.table(HOP_HEAD, [row.cells for row in verdict.rows]))
        console.out("")
    if verdict.recall:
        label, worst = min(verdict.recall.items(), key=lambda item: item[1].exact)
        console.out(f"worst class  {console.visible(label)}  {worst.text} found\n")
    for judgement in verdict.judgements:
        name, text = console.visible(judgement.name), console.visible_line(judgement.text)
        console.out(f"{WORDS[judgement.passed]}  {name}: {text}")
    for notice in verdict.notices:
        console.out(f"note  {console.visible_line(notice)}")
    names = ", ".join(console.visible(judgement.name) for judgement in verdict.failed)
    word = f"FAIL  {names};" if names else "PASS "
    console.out(f"\n{word} {verdict.eval_count} test images")


def write_files(
    verdict: "Verdict", *, junit: Path | None, markdown: Path | None, began: time.struct_time
) -> None:
    """The verdict in other forms, also when a gate failed."""
    from ndtool.files import write_text_atomic
    from ndtool.rundir import package_versions

    if junit is not None:
        from ndtool.gates.junit import junit_text

        versions = package_versions(ENGINES)
        write_text_atomic(junit, junit_text(verdict, timestamp=_stamp(began), versions=versions))
    if markdown is not None:
        from ndtool.gates.markdown import markdown_text

        write_text_atomic(markdown, markdown_text(verdict))


def write_refusal(
    refusal: NdError,
    *,
    run: str,
    junit: Path | None,
    markdown: Path | None,
    began: time.struct_time,
    seconds: float,
) -> None:
    """Why there is no verdict, in the forms that it would have had."""
    from ndtool.files import write_text_atomic
    from ndtool.rundir import package_versions

    if junit is not None:
        from ndtool.gates.junit import refusal_junit

        text = refusal_junit(
            refusal,
            run=run,
            timestamp=_stamp(began),
            seconds=seconds,
            versions=package_versions(ENGINES),
        )
        write_text_atomic(junit, text)
    if markdown is not None:
        from ndtool.gates.markdown import refusal_markdown

        write_text_atomic(markdown, refusal_markdown(refusal, run=run))


def _stamp(began: time.struct_time) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", began)


def tell_github(verdict: "Verdict", baseline: str) -> None:
    """Annotations on stdout, and the page of the step where the runner has named a file for it."""
    from ndtool.gates.baseline_file import anchor_line
    from ndtool.gates.github import annotation_lines, inside_checkout, step_summary

    place, text = None, ""
    if baseline:
        place = inside_checkout(Path(baseline), Path(os.environ.get("GITHUB_WORKSPACE", "")))
        text = Path(baseline).read_text("utf-8")
    for line in annotation_lines(
        verdict, baseline_file=place, lines=lambda key: anchor_line(text, key)
    ):
        console.out_command(line)
    _append_summary(step_summary(verdict))


def tell_github_refusal(refusal: NdError, run: str) -> None:
    """Why there is no verdict, where GitHub shows one."""
    from ndtool.gates.github import refusal_line
    from ndtool.gates.markdown import refusal_markdown

    console.out_command(refusal_line(refusal))
    _append_summary(refusal_markdown(refusal, run=run))


def _append_summary(page: str) -> None:
    """To the page of the step, where the runner has named a file for it."""
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(page)
        except OSError as problem:
            why = f"the step summary cannot be written: {problem.strerror}"
            console.warn("check.step-summary", why)
