"""ndtool analyze."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ndtool import console
from ndtool.cli import analysis_view as view
from ndtool.cli.params import (
    Boards,
    StemStride,
    Strides,
    Target,
    Width,
    not_empty,
    size_bytes,
)
from ndtool.cli.verbs import (
    config_files,
    origins,
    verb,
)
from ndtool.console import visible
from ndtool.errors import ConfigError
from ndtool.models import MODELS
from ndtool.models.own import is_own_model

if TYPE_CHECKING:
    from ndtool.export.fit import Design, Room
    from ndtool.export.networks import Network

OF_MODELS = ("width", "resolution", "classes", "gray", "stem_stride", "strides")
OF_BOARDS = ("boards", "ram_reserve", "flash_reserve")
What = Annotated[
    str, typer.Argument(metavar="WHAT", help="Model name, run folder, .onnx or .tflite file.")
]
Side = Annotated[
    int | None, typer.Option(min=1, max=4096, help="Side of the square input, px. [by model]")
]
Classes = Annotated[int, typer.Option(min=2, max=10_000, help="Classes of a model.")]
GrayInput = Annotated[bool, typer.Option("--gray/--rgb", help="Colour of a model's input.")]
AllTargets = Annotated[bool, typer.Option("--all-targets", help="Hold it against every board.")]
FitOpt = Annotated[
    str,
    typer.Option(
        "--fit", metavar="BOARD", callback=not_empty, help="Widths and resolutions that fit it."
    ),
]
RamReserve = Annotated[
    Any,
    typer.Option(
        parser=size_bytes, metavar="SIZE", help="RAM for the application: 64K. [by board]"
    ),
]
FlashReserve = Annotated[
    Any,
    typer.Option(parser=size_bytes, metavar="SIZE", help="Flash for it: 56000, 1M. [by board]"),
]
CsvFile = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Write the layers as CSV, too.")
]


@verb()
def analyze(
    ctx: typer.Context,
    what: What,
    width: Width = 1.0,
    resolution: Side = None,
    classes: Classes = 10,
    gray: GrayInput = False,
    stem_stride: StemStride = None,
    strides: Strides = None,
    target: Target = "",
    all_targets: AllTargets = False,
    fit: FitOpt = "",
    boards: Boards = "",
    ram_reserve: RamReserve = None,
    flash_reserve: FlashReserve = None,
    csv: CsvFile = None,
) -> None:
    """Memory, work and time of a network, before it is trained; exit 4 if it does not fit.

    RAM is the engine's own plan, exact. Flash and instructions are estimated from measured ones.
    """
    from ndtool.export.fit import Design, Room, require_plannable
    from ndtool.export.networks import load_network, spec_network
    from ndtool.files import require_outputs
    from ndtool.rundir import run_folder
    from ndtool.targets import find_target, load_targets

    given = origins(ctx)
    only_width = width if "width" in given else None
    flags = {name for name, origin in given.items() if origin == "flag"}
    _require_one_question(target=target, all_targets=all_targets, fit=fit, csv=csv)
    if not (target or all_targets or fit):
        _refuse_words_of_boards(flags)
    files = (Path(boards),) if boards else ()
    inputs = [*files, *config_files(ctx), *([] if what in MODELS else [Path(what)])]
    require_outputs({"--csv": csv}, inputs=inputs, run=run_folder(what))
    listed = load_targets(files)
    named = [find_target(target or fit, listed)] if target or fit else []
    rooms = [
        Room(target=board, ram_reserve=ram_reserve, flash_reserve=flash_reserve)
        for board in (listed.values() if all_targets else named)
    ]
    if what in MODELS or (is_own_model(what) and not Path(what).exists()):
        design = Design(
            model=what,
            in_channels=1 if gray else 3,
            classes=classes,
            stem_stride=stem_stride,
            strides=strides,
        )
        if fit:
            _propose(design, rooms[0], only_width, resolution)
            return
        side = _usual_side(what) if resolution is None else resolution
        spec = design.spec((width, side))
        if target:
            require_plannable(spec, rooms[0], design)
        network = spec_network(spec, design)
    else:
        _refuse_words_of_models(flags - ({"width", "resolution"} if fit else set()), what)
        network = load_network(what)
        if fit:
            _propose(_design_of(network), rooms[0], only_width, resolution)
            return
    _report(network, rooms, as_table=all_targets, csv=csv)


def _usual_side(model: str) -> int:
    if model not in MODELS:
        raise ConfigError(
            "your own model has no usual resolution",
            where=model,
            remedy="add --resolution PX",
            code="usage",
        )
    return MODELS[model].resolution


def _require_one_question(*, target: str, all_targets: bool, fit: str, csv: Path | None) -> None:
    given = [
        word
        for word, value in (("--target", target), ("--all-targets", all_targets), ("--fit", fit))
        if value
    ]
    given += ["--csv"] if fit and csv is not None else []
    if len(given) > 1:
        raise ConfigError(
            f"{given[0]} and {given[1]} do not go together",
            where="command line",
            remedy="ask one question at a time",
            code="usage",
        )


def _refuse_words_of_boards(flags: set[str]) -> None:
    wrong = [word for word in OF_BOARDS if word in flags]
    if wrong:
        raise ConfigError(
            f"--{wrong[0].replace('_', '-')} needs a board",
            where="command line",
            remedy="add --target BOARD, --all-targets or --fit BOARD",
            code="usage",
        )


def _refuse_words_of_models(flags: set[str], what: str) -> None:
    wrong = [word for word in OF_MODELS if word in flags]
    if wrong:
        raise ConfigError(
            f"--{wrong[0].replace('_', '-')} is for model names",
            where=visible(what),
            remedy="leave it out: a run or a file has its own",
            code="usage",
        )


def _design_of(network: "Network") -> "Design":
    if network.design is None:
        raise ConfigError(
            "its width and resolution cannot be changed: it is not one of our models",
            where=network.what,
            remedy="name a model or a run of ndtool train",
            code="analyze.no-design",
        )
    return network.design


def _report(
    network: "Network", rooms: Sequence["Room"], *, as_table: bool, csv: Path | None
) -> None:
    """Print figures, layers and verdicts; exit 4 when the one board is too small."""
    from ndtool.export.analyze import DEFAULT_CORE, analysis_csv
    from ndtool.export.fit import fit_error, need_of, remedy_for
    from ndtool.files import write_text_atomic

    cores = dict.fromkeys(room.target.core for room in rooms) or {DEFAULT_CORE: None}
    of_core = {core: network.analyze(core) for core in cores}
    judged = []
    for room in rooms:
        analysis = of_core[room.target.core]
        judged.append((analysis, room.judge(need_of(analysis))))
    first = next(iter(of_core.values()))
    if csv is not None:
        write_text_atomic(csv, analysis_csv(first))
    view.show_figures(first)
    if as_table:
        view.show_targets(judged)
    elif judged:
        view.show_fit(*judged[0])
    console.out_json(view.document(first, judged) | {"kind": network.kind.value})
    if rooms and not as_table and not judged[0][1].fits:
        # The report is out, with --json the document too: the reason goes to stderr alone.
        remedy = remedy_for(network.design, network.spec, rooms[0])
        error = fit_error(*judged[0], remedy=remedy)
        console.error(console.error_line(error))
        raise typer.Exit(error.exit_code)
    if network.kind == "model" and network.design is not None and network.spec is not None:
        size = (network.spec.width, network.spec.height_px)
        fit = None if as_table or not judged else judged[0][1]
        view.show_next(network.design, size, fit)


def _propose(design: "Design", room: "Room", width: float | None, resolution: int | None) -> None:
    """Print the sizes of one network that fit one board; None: of the usual ones."""
    from ndtool.export.fit import RESOLUTIONS, WIDTHS, propose_sizes

    widths = WIDTHS if width is None else (width,)
    resolutions = RESOLUTIONS if resolution is None else (resolution,)
    with console.progress("sizes", len(resolutions)) as bar:
        found = propose_sizes(
            design, room, widths=widths, resolutions=resolutions, progress=bar.update
        )
    view.show_proposals(design, found)
    console.out_json(view.proposal_document(design, found))
