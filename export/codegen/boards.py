"""Boards that the template cortex-m-qemu builds for and QEMU runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ndtool.console import visible
from ndtool.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board of qemu-system-arm; `name` is its `-M`.

    `core` is the name figures carry (`instructions_m4`), `cpu` the compiler's flags (mcu, 4.4) and
    `linker` the script with its memory map.
    """

    name: str
    core: str
    cpu: str
    linker: str


BOARDS: Final = (
    Board(
        name="mps2-an385",
        core="m3",
        cpu="-mthumb -mcpu=cortex-m3 -mfloat-abi=soft",
        linker="mps2.ld",
    ),
    Board(
        name="mps2-an386",
        core="m4",
        cpu="-mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard",
        linker="mps2.ld",
    ),
    Board(
        name="mps2-an500",
        core="m7",
        cpu="-mthumb -mcpu=cortex-m7 -mfpu=fpv5-sp-d16 -mfloat-abi=hard",
        linker="mps2.ld",
    ),
    Board(
        name="mps3-an547",
        core="m55",
        cpu="-mthumb -mcpu=cortex-m55 -mfpu=auto -mfloat-abi=hard",
        linker="mps3-an547.ld",
    ),
    Board(
        name="netduinoplus2",
        core="m4",
        cpu="-mthumb -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard",
        linker="netduinoplus2.ld",
    ),
    Board(
        name="microbit",
        core="m0",
        cpu="-mthumb -mcpu=cortex-m0 -mfloat-abi=soft",
        linker="microbit.ld",
    ),
)
DEFAULT_BOARD: Final = "mps2-an386"


def find_board(name: str) -> Board:
    """The board called `name`.

    Raises:
        ConfigError: there is none.
    """
    for board in BOARDS:
        if board.name == name:
            return board
    raise ConfigError(
        f"unknown board {visible(name)}",
        where=f"qemu:{visible(name)}",
        remedy=f"use {', '.join(board.name for board in BOARDS)}",
        code="qemu.board",
    )
