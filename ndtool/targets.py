"""Boards that a model may have to fit (users.md, 6), and whether it does.

The built-in ones are `boards.toml`; users add theirs as `[boards.NAME]` in ndtool.toml or by
`--boards FILE`, with the same keys: the fields of `Target`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from ndtool import console
from ndtool.config import BOARDS, find_config, parse_toml, read_toml
from ndtool.console import visible
from ndtool.errors import ConfigError

BUILT_IN: Final = "boards.toml"
STACK_BYTES: Final = 2048  # of the caller and `nd_model_run` together
# Reserves of a board that has none of its own: the larger of a floor and a share (percent)
RAM_RESERVE: Final = (4 * 1024, 10)
FLASH_RESERVE: Final = (16 * 1024, 5)
CORES: Final = (
    *("cortex-m0+", "cortex-m3", "cortex-m4", "cortex-m4f", "cortex-m7"),
    *("cortex-m33", "cortex-m55", "cortex-m85", "rv32imac", "rv32imc", "xtensa"),
)
MAX_BYTES: Final = 2**32  # a 32-bit core addresses no more
MAX_MHZ: Final = 10_000
MAX_BOARDS: Final = 1000  # of one file
MAX_TEXT: Final = 1000  # characters of `source` and `note`
# Key of a board's table -> what it must be
KEYS: Final = MappingProxyType(
    {
        "core": f"one of {', '.join(CORES)}",
        "clock_mhz": f"MHz, a whole number, 1 to {MAX_MHZ:,}",
        "ram": "bytes of the largest contiguous block, a whole number, at most ram_total",
        "ram_total": f"bytes of all RAM, a whole number, at most {MAX_BYTES:,}",
        "flash": f"bytes, a whole number, at most {MAX_BYTES:,}",
        "source": f"where the figures are from, at most {MAX_TEXT:,} characters",
        "ram_reserve": "bytes, a whole number, at most ram",
        "flash_reserve": "bytes, a whole number, at most flash",
        "aliases": "a list of names",
        "note": f"text, at most {MAX_TEXT:,} characters",
    }
)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
# Words of a source that say it is not as good as two that agree
_DOUBTS: Final = ("[K]", "one source", "secondary sources", "inferred")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One board. `ram` is the largest contiguous block that a plain linker script gives.

    Sizes in bytes; `source` says where each figure is from, several apart by `;`. Reserves are what
    the application keeps for itself; None: the rule of `judge_fit`. `file`: that --boards named to
    find it, which a command must name again; empty: it is found without.
    """

    name: str
    core: str  # one of CORES
    clock_mhz: int
    ram: int
    ram_total: int
    flash: int
    source: str
    ram_reserve: int | None = None
    flash_reserve: int | None = None
    aliases: tuple[str, ...] = ()
    note: str = ""
    file: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The options by which any command finds it."""
        return ("--target", self.name, *(("--boards", self.file) if self.file else ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a model takes: arena, and code with its tables, in bytes."""

    arena_bytes: int
    flash_bytes: int
    stack_bytes: int = STACK_BYTES
    flash_estimated: bool = False  # not measured on a built image


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Whether `need` fits `target`: bytes taken, and bytes there are beside the reserves."""

    target: Target
    need: Need
    ram_budget: int
    flash_budget: int

    @property
    def ram_used(self) -> int:
        """Arena and stack."""
        return self.need.arena_bytes + self.need.stack_bytes

    @property
    def ram_free(self) -> int:
        """Bytes left of the budget; negative: bytes over."""
        return self.ram_budget - self.ram_used

    @property
    def flash_free(self) -> int:
        """Bytes left of the budget; negative: bytes over."""
        return self.flash_budget - self.need.flash_bytes

    @property
    def fits(self) -> bool:
        """Both budgets hold; exactly full fits."""
        return self.ram_free >= 0 and self.flash_free >= 0

    @property
    def binding(self) -> str:
        """`RAM` or `flash`: the one that is full first when the model grows."""
        # used / budget of both, as products: a budget may be 0
        ram = self.ram_used * self.flash_budget
        return "RAM" if ram >= self.need.flash_bytes * self.ram_budget else "flash"

    @property
    def text(self) -> str:
        """`nucleo-f446re: FITS (RAM 14.0 of 115.2 KiB, flash 40.4 of 486.4 KiB)`.

        A figure with `~` behind it is estimated, or of a board whose figures are not sure.
        """
        word = "FITS" if self.fits else "DOES NOT FIT"
        doubt = "~" if uncertain(self.target) else ""
        guess = "~" if self.need.flash_estimated else ""
        flash = self.need.flash_bytes / 1024
        ram = f"RAM {self.ram_used / 1024:,.1f} of {self.ram_budget / 1024:,.1f}{doubt} KiB"
        return (
            f"{self.target.name}: {word} ({ram},"
            f" flash {flash:,.1f}{guess} of {self.flash_budget / 1024:,.1f}{doubt} KiB)"
        )


# -- whether it fits -------------------------------------------------------------------------------


def judge_fit(
    need: Need, target: Target, *, ram_reserve: int | None = None, flash_reserve: int | None = None
) -> Fit:
    """Whether `need` fits; reserves given here win over the board's own (users.md, 6)."""
    return Fit(
        target=target,
        need=need,
        ram_budget=_budget(target.ram, (ram_reserve, target.ram_reserve), RAM_RESERVE),
        flash_budget=_budget(target.flash, (flash_reserve, target.flash_reserve), FLASH_RESERVE),
    )


def _budget(size: int, reserves: Iterable[int | None], rule: tuple[int, int]) -> int:
    """`size` without the first reserve that is given, else that of the rule, rounded up."""
    floor, percent = rule
    by_rule = max(floor, -(-size * percent // 100))
    reserve = next((given for given in reserves if given is not None), by_rule)
    return max(size - reserve, 0)


def uncertain(target: Target) -> bool:
    """Whether the figures have one source only, or one that is less than a vendor's page."""
    several = target.source.count(";") > 0
    return not several or any(word in target.source for word in _DOUBTS)


# -- which there are -------------------------------------------------------------------------------


@functools.cache
def built_in_targets() -> Mapping[str, Target]:
    """The boards that come with ndtool, by name."""
    text = resources.files("ndtool").joinpath(BUILT_IN).read_bytes()
    tables = parse_toml(text, where=BUILT_IN)
    return MappingProxyType({board.name: board for board in read_boards(tables, BUILT_IN)})


def load_targets(files: tuple[Path, ...] = ()) -> Mapping[str, Target]:
    """By name: the built-in ones, those of ndtool.toml, those of `files`; later ones replace.

    Raises:
        ConfigError: not TOML, an unknown key or core, a size out of bounds.
        InputError: a file cannot be read.
    """
    found = dict(built_in_targets())
    config = find_config(Path.cwd())
    if config is not None and BOARDS in (tables := read_toml(config)):
        _merge(found, read_boards(tables, config.name), config.name)
    for path in files:
        if config is None or not _is_same(path, config):
            boards = [dataclasses.replace(board, file=str(path)) for board in _load_boards(path)]
            _merge(found, boards, str(path))
    return found


def find_target(name: str, targets: Mapping[str, Target]) -> Target:
    """The board of that name or alias; `_` is `-`, and small letters are large ones.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    by_word = {_fold(word): board for board in targets.values() for word in _words(board)}
    if (found := by_word.get(_fold(name))) is not None:
        return found
    near = difflib.get_close_matches(_fold(name), by_word, n=1)
    raise ConfigError(
        f"unknown target '{visible(name)}'",
        where="--target",
        remedy=f"did you mean {by_word[near[0]].name}?" if near else "see ndtool targets",
        code="target.unknown",
    )


def _fold(word: str) -> str:
    """One form of the names that Zephyr, PlatformIO and vendors write with `_` or capitals."""
    return word.lower().replace("_", "-")


def _words(board: Target) -> tuple[str, ...]:
    return (board.name, *board.aliases)


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and path.samefile(other)


def _load_boards(path: Path) -> list[Target]:
    tables = read_toml(path)
    if BOARDS not in tables:
        near = difflib.get_close_matches(BOARDS, tables, n=1)
        raise ConfigError(
            "no boards in the file",
            where=visible(str(path)),
            remedy=f"{visible(near[0])} should be {BOARDS}" if near else "write [boards.NAME]",
            code="target.no-boards",
        )
    return read_boards(tables, str(path))


def _merge(found: dict[str, Target], boards: Iterable[Target], where: str) -> None:
    """Add boards; earlier ones of a name give way, with a notice."""
    for board in boards:
        words = {_fold(word) for word in _words(board)}
        for name, old in list(found.items()):
            if _fold(name) in words:
                del found[name]
                console.info(f"{visible(where)}: board {board.name} replaces {name}")
            elif taken := [alias for alias in old.aliases if _fold(alias) in words]:
                rest = tuple(alias for alias in old.aliases if alias not in taken)
                found[name] = dataclasses.replace(old, aliases=rest)
                for alias in taken:
                    console.info(f"{visible(where)}: {alias} is {board.name}, no longer {name}")
        found[board.name] = board


# -- reading ---------------------------------------------------------------------------------------


def read_boards(tables: Mapping[str, object], where: str) -> list[Target]:
    """The boards of a TOML file, each checked; no two of one name or alias."""
    rows = tables[BOARDS]
    if not isinstance(rows, dict):
        raise _bad("boards is no table", where, BOARDS, "write [boards.NAME]")
    if len(rows) > MAX_BOARDS:
        raise _bad(f"more than {MAX_BOARDS:,} boards", where, BOARDS, "split the file")
    boards = [_read_board(name, row, where) for name, row in rows.items()]
    seen: set[str] = set()
    for board in boards:
        for word in map(_fold, _words(board)):
            if word in seen:
                key = f"{BOARDS}.{board.name}"
                raise _bad(f"the name {word} a second time", where, key, "rename one of them")
            seen.add(word)
    return boards


def _read_board(name: str, row: object, where: str) -> Target:
    key = f"{BOARDS}.{name}"
    if not _NAME.fullmatch(name):
        raise _bad("not a name for a board", where, key, "use letters, digits and . _ + -")
    if not isinstance(row, dict):
        raise _bad("a board is a table", where, key, f"write [boards.{name}] and its keys below")
    fields = {field.name: field for field in dataclasses.fields(Target) if field.name in KEYS}
    for word in row:
        if word not in fields:
            raise _bad("unknown key", where, f"{key}.{word}", _nearest(word, tuple(fields)))
    for word, field in fields.items():
        if word not in row and field.default is dataclasses.MISSING:
            raise _bad(f"{word} is missing", where, key, KEYS[word])
    for word, value in row.items():
        if problem := _problem(word, value, row):
            raise _bad(problem, where, f"{key}.{word}", KEYS[word])
    values: dict[str, Any] = row | {"aliases": tuple(row.get("aliases", ()))}
    return Target(name=name, **values)


def _problem(word: str, value: object, row: Mapping[str, object]) -> str:
    """What is wrong with one value; "" for nothing."""
    if word == "core":
        return "" if value in CORES else _unknown_core(value)
    if word in ("source", "note"):
        good = isinstance(value, str) and len(value) <= MAX_TEXT and (value or word == "note")
        return "" if good else "not a text of that length"
    if word == "aliases":
        good = isinstance(value, list) and all(
            isinstance(alias, str) and _NAME.fullmatch(alias) for alias in value
        )
        return "" if good else "not a list of names"
    low, high = _bounds(word, row)
    if type(value) is not int:  # not true and false, which are integers to Python
        return "not a whole number"
    return "" if low <= value <= high else f"not between {low:,} and {high:,}"


def _unknown_core(value: object) -> str:
    if not isinstance(value, str):
        return "not the name of a core"
    by_word = {core: core for core in CORES} | {core.partition("-")[2]: core for core in CORES}
    near = difflib.get_close_matches(value, by_word, n=1)
    hint = f", did you mean {by_word[near[0]]}?" if near else ""
    return f"unknown core {visible(value)}{hint}"


def _bounds(word: str, row: Mapping[str, object]) -> tuple[int, int]:
    """Lowest and highest value of a number; that of another key is believed if it is one."""

    def size(key: str) -> int:
        value = row.get(key)
        return min(value, MAX_BYTES) if isinstance(value, int) else MAX_BYTES

    match word:
        case "clock_mhz":
            return 1, MAX_MHZ
        case "ram":
            return 1, size("ram_total")
        case "ram_reserve":
            return 0, size("ram")
        case "flash_reserve":
            return 0, size("flash")
        case _:
            return 1, MAX_BYTES


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def _bad(what: str, where: str, key: str, remedy: str) -> ConfigError:
    place = f"{visible(where)}: {visible(key)}"
    return ConfigError(what, where=place, remedy=remedy, code="target.board")
