"""ndtool targets."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from ndtool import console
from ndtool.cli.params import Boards
from ndtool.cli.verbs import (
    config_files,
    verb,
)
from ndtool.targets import KEYS, Target, load_targets, uncertain

CsvFile = Annotated[
    Path | None, typer.Option("--csv", metavar="FILE", help="Write the list as CSV, too.")
]
LEGEND = (
    "sources: Z the board's files in Zephyr, P in PlatformIO, V the vendor, [K] general knowledge"
)
COLUMNS = ("name", *KEYS)


@verb()
def targets(ctx: typer.Context, boards: Boards = "", csv: CsvFile = None) -> None:
    """List the boards that --target takes; with -v where each one's figures are from.

    RAM is the largest contiguous block, which an arena cannot leave, and the total. Your own boards
    are [boards.NAME] in ndtool.toml or in the file of --boards.
    """
    from ndtool.export.codegen.boards import BOARDS, DEFAULT_BOARD
    from ndtool.files import (
        require_outputs,
        write_text_atomic,
    )

    files = (Path(boards),) if boards else ()
    require_outputs({"--csv": csv}, inputs=[*files, *config_files(ctx)])
    found = load_targets(files)
    if csv is not None:
        write_text_atomic(csv, _csv_text(found.values()))
    console.out(_table(found.values()))
    if console.STATE.verbose:
        console.out(f"\n{LEGEND}")
    if any(uncertain(board) for board in found.values()):
        console.out("\n~ behind a figure: it has one source, or an unsure one; see -v")
    emulated = [(board.name, f"cortex-{board.core}") for board in BOARDS]
    console.out("\nnot targets, but places to run C (ndtool verify RUN --on qemu:BOARD)\n")
    console.out(console.table(("board", "core"), emulated))
    console.out("\nnext: ndtool analyze MODEL --target TARGET")
    console.out_json(
        {
            "schema": "ndtool.targets/1",
            "targets": [_facts(board) for board in found.values()],
            "qemu": [
                {"name": name, "core": core, "default": name == DEFAULT_BOARD}
                for name, core in emulated
            ],
        }
    )


def _table(boards: Iterable[Target]) -> str:
    rows = []
    for board in boards:
        doubt = "~" if uncertain(board) else ""
        row = [
            board.name,
            board.core,
            f"{board.clock_mhz}",
            f"{_kib(board.ram)} / {_kib(board.ram_total)}{doubt}",
            f"{_kib(board.flash)}{doubt}",
        ]
        rows.append((*row, _origin(board)) if console.STATE.verbose else row)
    head = ("target", "core", "MHz", "RAM, KiB", "flash, KiB")
    return console.table((*head, "source") if console.STATE.verbose else head, rows)


def _kib(size: int) -> str:
    """`128`, `511.4`, `2,048`."""
    return f"{size / 1024:,.1f}".removesuffix(".0")


def _origin(board: Target) -> str:
    return f"{board.source}; {board.note}" if board.note else board.source


def _facts(board: Target) -> Mapping[str, object]:
    """The board with units in its keys, for --json."""
    facts = dataclasses.asdict(board)
    for key in ("ram", "ram_total", "flash", "ram_reserve", "flash_reserve"):
        facts[f"{key}_bytes"] = facts.pop(key)
    return facts | {"uncertain": uncertain(board)}


def _csv_text(boards: Iterable[Target]) -> str:
    """One line a board, in the keys of boards.toml."""
    lines = [",".join(COLUMNS)]
    for board in boards:
        facts = dataclasses.asdict(board) | {"aliases": " ".join(board.aliases)}
        cells = ("" if facts[key] is None else f"{facts[key]}" for key in COLUMNS)
        lines.append(",".join(map(console.csv_cell, cells)))
    return "\n".join(lines) + "\n"
