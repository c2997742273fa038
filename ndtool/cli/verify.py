"""ndtool verify."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndtool import console
from ndtool.cli.params import Force
from ndtool.cli.verbs import (
    build,
    origins,
    verb,
)
from ndtool.options import VERIFY, VerifyOptions

if TYPE_CHECKING:
    from ndtool.export.profile import Profile

MAX_FUNCTIONS = 20  # of the table on screen; --json has all
Target = Annotated[str, typer.Argument(metavar="RUN|DIR", help="Run folder, or a C project.")]
ProfileOpt = Annotated[
    bool, typer.Option("--profile", help="Count instructions by function, in QEMU.")
]


@verb(VERIFY)
def verify(
    ctx: typer.Context,
    target: Target,
    profile: ProfileOpt = False,
    force: Force = False,
    **values: Any,
) -> None:
    """Build the C, run it, compare every byte with TFLite Micro; exit 6 if one differs.

    Compared are the outputs of made inputs, of the project's golden vectors and, of a run on the
    host, of all test images; with --layers also every tensor that the C forms of the made inputs.
    """
    from ndtool.export.c_project import is_project, no_project
    from ndtool.rundir import is_run

    options = build(VERIFY, values)
    if is_project(Path(target)):
        document = _verify_folder(Path(target), options, profile=profile)
    elif not is_run(target):
        raise no_project(Path(target))
    else:
        # What `run -c` repeats is the verification of this machine.
        given = origins(ctx) if options.on == VERIFY.on else None
        document = verify_run(target, options, given, force=force)
        _show(document, options)
        if profile:
            document |= _profile_run(target, options.on)
        console.out(f"files    {console.visible(str(document['project']))}")
        if others := document["not_verified"]:
            assert isinstance(others, list)
            names = ", ".join(console.visible(name) for name in others)
            console.info(f"not verified: {names}; ndtool verify PATH")
        console.out(f"next     ndtool check {console.visible_line(str(document['run']))}")
    console.out_json(document)


def verify_run(
    name: str,
    options: VerifyOptions,
    given: dict[str, str] | None,
    *,
    force: bool,
) -> dict[str, object]:
    """Verify the C of one run; shared by `verify` and `run`. Gives the --json document.

    `given`: origins of the options, which config.toml keeps; None leaves it as it is.
    """
    from ndtool.config import write_config
    from ndtool.export.verify_run import other_projects, require_run_project, verify_stage
    from ndtool.rundir import find_run

    run = find_run(name)
    with run.lock():
        figures = verify_stage(run, options, force=force)
        project = require_run_project(run, options.on)
        if given is not None:
            write_config(run, "verify", asdict(options), given)
    document: dict[str, object] = {"schema": "ndtool.verify/1", "run": str(run.path)}
    document["project"] = str(project.folder)
    document["not_verified"] = [str(folder) for folder in other_projects(run, project)]
    return document | {"on": options.on, "random": options.random, **figures}


def _profile_run(name: str, on: str) -> dict[str, object]:
    from ndtool.export.verify_run import count_instructions, require_run_project
    from ndtool.rundir import find_run

    return _profile(count_instructions(require_run_project(find_run(name), on), on))


def _verify_folder(folder: Path, options: VerifyOptions, *, profile: bool) -> dict[str, object]:
    from ndtool.export.c_project import arrays_beside, load_projects
    from ndtool.export.verify_run import count_instructions, verify_project

    console.set_resume_hint("repeat the command: it starts from the beginning")
    models = []
    projects = load_projects(folder)
    if arrays := [console.visible(prefix) for prefix in arrays_beside(folder)]:
        console.info(f"left out, arrays without an engine: {', '.join(arrays)}")
    several = len(projects) + len(arrays) > 1
    for project in projects:
        figures = verify_project(project, options)
        _show(figures, options, name=console.visible(project.prefix) if several else "")
        row: dict[str, object] = {"prefix": project.prefix, **figures}
        models.append(row | (_profile(count_instructions(project, options.on)) if profile else {}))
    console.out(f"files    {console.visible(str(folder))}")
    return {
        "schema": "ndtool.verify/1",
        "project": str(folder),
        "on": options.on,
        "random": options.random,
        "models": models,
    }


def _show(figures: Mapping[str, object], options: VerifyOptions, *, name: str = "") -> None:
    """What was found equal, then sizes and counts as far as they are known.

    `name`: the model's, in a folder of several.
    """
    from ndtool.export.verify_run import settled

    exact = next(value for key, value in figures.items() if key.startswith("bit_exact"))
    count = next(value for key, value in figures.items() if key.startswith("verified_tensors"))
    words = {"arena_bytes": "arena", "weights_bytes": "weights", "flash_bytes": "flash"}
    words |= {"code_bytes": "code", "stack_bytes": "stack"}
    compared = "outputs"
    if settled(options).layers:
        compared += f", of {options.random} all {count} tensors"
    parts = [name] if name else []
    parts.append(f"bit-exact {exact} ({options.on}: {compared})")
    parts += [f"{word} {figures[key]:,} B" for key, word in words.items() if key in figures]
    for key, value in figures.items():
        if key.startswith("instructions_"):
            core = key.removeprefix("instructions_").replace("_", "-")
            parts.append(f"instructions {value:,} ({core})")
    console.out(f"C code   {'   '.join(parts)}")


def _profile(found: "Profile") -> dict[str, object]:
    """Print the functions that take most; gives all of them for --json."""
    rows = [
        (name, f"{count:,}", f"{100 * count / found.instructions:.1f} %")
        for name, count in found.functions
    ]
    console.out("")
    console.out(console.table(("function", "instructions", "share"), rows[:MAX_FUNCTIONS]))
    if len(rows) > MAX_FUNCTIONS:
        console.out(f"and {len(rows) - MAX_FUNCTIONS} more: --json")
    console.out("")
    functions = [{"name": name, "instructions": count} for name, count in found.functions]
    return {"profile": functions}
