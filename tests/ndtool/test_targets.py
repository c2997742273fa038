"""Boards: the list, those of users, the rule of what fits, and files that are wrong."""

import contextlib
import itertools
import os
from pathlib import Path

import pytest
from hostile_names import HOSTILE_NAMES
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool import console, targets
from ndtool.errors import ConfigError, InputError
from ndtool.export.codegen.costs import CORES as COSTED
from ndtool.targets import (
    CORES,
    Need,
    Target,
    built_in_targets,
    find_target,
    judge_fit,
    load_targets,
    read_boards,
    uncertain,
)

Capture = pytest.CaptureFixture[str]
BOARD = {
    "core": "cortex-m4f",
    "clock_mhz": 100,
    "ram": 65536,
    "ram_total": 131072,
    "flash": 524288,
    "source": "data sheet; linker script",
}
TEXT = "[boards.mine]\n" + "".join(
    f"{key} = {value!r}\n".replace("'", '"') for key, value in BOARD.items()
)


def board(**changes: object) -> Target:
    return read_boards({"boards": {"mine": BOARD | changes}}, "x.toml")[0]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of its own, without an ndtool.toml above it."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    console.configure(quiet=False, verbose=False, as_json=False)
    return tmp_path


# -- the list --------------------------------------------------------------------------------------


def test_the_built_in_boards() -> None:
    boards = built_in_targets()
    assert len(boards) == 26 and list(boards)[:2] == ["nucleo-f446re", "nucleo-h743zi"]
    assert boards["pico"].core == "cortex-m0+" and boards["esp32"].core == "xtensa"
    assert all(board.source for board in boards.values())
    assert boards["frdm-k64f"].ram == 192 * 1024  # its banks are not one
    assert set(CORES) == set(COSTED)  # what every core costs is known


@pytest.mark.parametrize(
    ("name", "ram", "flash"),
    [
        ("nucleo-f446re", 131072 - 13108, 524288 - 26215),  # 10 and 5 %, rounded up
        ("bluepill-f103c8", 20480 - 4096, 65536 - 16384),  # the floors
        ("teensy41", 524288 - 52429, 8126464 - 406324),
        ("xiao-nrf52840", 262144 - 13312, 1048576 - 233472),  # its own
    ],
)
def test_budgets_by_hand(name: str, ram: int, flash: int) -> None:
    fit = judge_fit(Need(arena_bytes=0, flash_bytes=0), built_in_targets()[name])
    assert (fit.ram_budget, fit.flash_budget) == (ram, flash)


def test_boards_of_one_source_are_marked() -> None:
    doubted = {name for name, board in built_in_targets().items() if uncertain(board)}
    assert doubted >= {"metro-m4", "pico2", "apollo4p-evb", "lpcxpresso55s69", "ek-ra8m1"}
    assert not doubted & {"nucleo-f446re", "pico", "esp32-c3", "teensy41"}


# -- the rule --------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(1, 2**24), st.integers(1, 2**26), st.integers(0, 2**20), st.integers(0, 2**20))
def test_exactly_full_fits_and_a_byte_more_does_not(
    ram: int, flash: int, ram_reserve: int, flash_reserve: int
) -> None:
    target = board(ram=ram, ram_total=ram, flash=flash)
    for given_ram, given_flash in itertools.product((None, ram_reserve), (None, flash_reserve)):
        # The rule in floating point is the one that users.md writes.
        keep_ram = max(4096, 0.1 * ram) if given_ram is None else given_ram
        keep_flash = max(16384, 0.05 * flash) if given_flash is None else given_flash
        for over, under in itertools.product((-1, 0, 1), repeat=2):
            arena = int(ram - keep_ram) - 2048 + over
            need = Need(arena_bytes=arena, flash_bytes=int(flash - keep_flash) + under)
            fit = judge_fit(need, target, ram_reserve=given_ram, flash_reserve=given_flash)
            if ram >= keep_ram and flash >= keep_flash:
                assert fit.fits == (over <= 0 and under <= 0)
                assert (fit.ram_free, fit.flash_free) == (-over, -under)
            else:
                assert fit.ram_budget == 0 or fit.flash_budget == 0


def test_reserves_given_win_over_the_boards_own() -> None:
    target, nothing = board(ram_reserve=1000, flash_reserve=0), Need(arena_bytes=0, flash_bytes=0)
    assert judge_fit(nothing, target).ram_budget == 64536
    assert judge_fit(nothing, target).flash_budget == 524288
    assert judge_fit(nothing, target, ram_reserve=0).ram_budget == 65536
    assert judge_fit(nothing, target, flash_reserve=2**30).flash_budget == 0


def test_what_is_said_of_a_fit() -> None:
    need = Need(arena_bytes=12288, flash_bytes=41320)
    fit = judge_fit(need, built_in_targets()["nucleo-f446re"])
    assert fit.text == "nucleo-f446re: FITS (RAM 14.0 of 115.2 KiB, flash 40.4 of 486.4 KiB)"
    assert fit.binding == "RAM"
    guess = Need(arena_bytes=1, flash_bytes=2**20, flash_estimated=True)
    fit = judge_fit(guess, built_in_targets()["metro-m4"])
    text = "metro-m4: DOES NOT FIT (RAM 2.0 of 172.8~ KiB, flash 1,024.0~ of 486.4~ KiB)"
    assert (fit.text, fit.binding) == (text, "flash")


# -- boards of users -------------------------------------------------------------------------------


def test_boards_of_the_configuration_and_of_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (folder / "ndtool.toml").write_text(f"[train]\nepochs = 3\n{TEXT}")
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")  # found in a parent, up to the repository
    found = load_targets()
    assert len(found) == 27 and list(found)[-1] == "mine" and found["mine"].ram == 65536
    (folder / "more.toml").write_text(TEXT.replace("65536", "4096"))
    found = load_targets((folder / "more.toml",))
    assert len(found) == 27 and found["mine"].ram == 4096
    assert "more.toml: board mine replaces mine" in capsys.readouterr().err


def test_the_same_file_twice_is_read_once(folder: Path, capsys: Capture) -> None:
    (folder / "ndtool.toml").write_text(TEXT)
    load_targets((Path("ndtool.toml"),))
    assert capsys.readouterr().err == ""


def test_a_built_in_board_is_replaced_with_a_notice(folder: Path, capsys: Capture) -> None:
    (folder / "b.toml").write_text(TEXT.replace("mine", "Nucleo_F446RE"))
    found = load_targets((Path("b.toml"),))
    assert len(found) == 26 and "nucleo-f446re" not in found
    assert find_target("nucleo-f446re", found).clock_mhz == 100
    assert "b.toml: board Nucleo_F446RE replaces nucleo-f446re" in capsys.readouterr().err


def test_an_alias_names_a_board_and_replaces_one(folder: Path, capsys: Capture) -> None:
    (folder / "b.toml").write_text(TEXT + 'aliases = ["pico", "px"]\n')
    (folder / "c.toml").write_text(TEXT.replace("mine", "px"))
    first = load_targets((Path("b.toml"),))
    assert find_target("pico", first).name == find_target("PX", first).name == "mine"
    both = load_targets((Path("b.toml"), Path("c.toml")))
    assert find_target("px", both).name == "px" and find_target("pico", both).name == "mine"
    said = capsys.readouterr().err
    assert "board mine replaces pico" in said and "px is px, no longer mine" in said


@pytest.mark.parametrize(
    ("word", "name"),
    [("PICO", "pico"), ("nucleo_f446re", "nucleo-f446re"), ("esp32-S3", "esp32-s3")],
)
def test_names_as_others_write_them(word: str, name: str) -> None:
    assert find_target(word, built_in_targets()).name == name


def test_an_unknown_board_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean bluepill-f103c8"):
        find_target("bluepil-f103", built_in_targets())
    for name in (*HOSTILE_NAMES, "", "x" * 100_000):
        with pytest.raises(ConfigError) as caught:
            find_target(name, built_in_targets())
        line = console.error_line(caught.value)
        assert "\n" not in line and "[target.unknown]" in line and len(line) < 400


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEXT + 'zzz = "red"', ("unknown key", "boards.mine.zzz", "known: core")),
        (TEXT + "clock = 3", ("unknown key", "boards.mine.clock", "did you mean clock_mhz?")),
        (TEXT.replace("cortex-m4f", "m4f"), ("unknown core m4f, did you mean cortex-m4f?",)),
        (TEXT.replace('"cortex-m4f"', "4"), ("not the name of a core", "boards.mine.core")),
        (TEXT.replace("65536", "0"), ("boards.mine.ram", "not between 1 and 131,072")),
        (TEXT.replace("65536", "131073"), ("boards.mine.ram", "not between")),
        (TEXT.replace("65536", "-1"), ("boards.mine.ram", "not between")),
        (TEXT.replace("65536", "true"), ("boards.mine.ram", "not a whole number")),
        (TEXT.replace("65536", "65536.0"), ("boards.mine.ram", "not a whole number")),
        (TEXT.replace("65536", '"64K"'), ("boards.mine.ram", "not a whole number")),
        (TEXT.replace("524288", "0x" + "f" * 9000), ("boards.mine.flash", "not between")),
        (TEXT.replace("100", "0"), ("boards.mine.clock_mhz", "not between 1 and 10,000")),
        (TEXT + "ram_reserve = 65537", ("ram_reserve", "not between 0 and 65,536")),
        (TEXT + "flash_reserve = -1", ("flash_reserve", "not between")),
        (TEXT.replace("flash = 524288\n", ""), ("flash is missing", "boards.mine")),
        (TEXT.replace('"data sheet; linker script"', '""'), ("boards.mine.source", "not a text")),
        (TEXT + "note = 3", ("boards.mine.note",)),
        (TEXT + f'note = "{"x" * 1001}"', ("boards.mine.note", "1,000")),
        (TEXT + 'aliases = "a"', ("not a list of names",)),
        (TEXT + 'aliases = [""]', ("not a list of names",)),
        (TEXT + 'aliases = ["a", "A"]', ("the name a a second time",)),
        (TEXT + TEXT.replace("mine", "MINE"), ("the name mine a second time",)),
        (TEXT.replace("mine", '"a b"'), ("not a name for a board",)),
        (TEXT.replace("mine", '"a\\u0000\\u202e\\n::error::"'), ("not a name for a board",)),
        ("boards = 3", ("boards is no table",)),
        ("[boards]\nmine = 3", ("a board is a table", "boards.mine")),
        ("[board.mine]", ("no boards in the file", "board should be boards")),
        ("[train]", ("no boards in the file", "write [boards.NAME]")),
        ("[boards", ("not a TOML file",)),
        ("x = " + "[" * 5000, ("not a TOML file",)),
        ("x = " + "9" * 5000, ("not a TOML file",)),
        ("\x00", ("not a TOML file",)),
        ("\n".join(TEXT.replace("mine", f"b{i}") for i in range(1001)), ("more than 1,000",)),
    ],
)
def test_refusals_are_one_line(folder: Path, text: str, words: tuple[str, ...]) -> None:
    (folder / "b.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_targets((Path("b.toml"),))
    line = console.error_line(caught.value)
    assert all(word in line for word in ("b.toml", *words)), line
    assert caught.value.exit_code == 2 and "\n" not in line and len(line) < 1000


def test_files_that_are_none(folder: Path) -> None:
    (folder / "big.toml").write_bytes(b"#" * (1024 * 1024 + 1))
    (folder / "latin.toml").write_bytes(TEXT.encode() + b"# \xff\n")
    os.mkfifo(folder / "pipe")
    for name in ("none.toml", "big.toml", "latin.toml", "pipe", "."):
        with pytest.raises(InputError) as caught:
            load_targets((Path(name),))
        assert name in str(caught.value)


plain = st.one_of(
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(CORES),
    st.lists(st.text(max_size=5), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.dates(),
)
KEYS = st.one_of(st.sampled_from(sorted(targets.KEYS)), st.text(max_size=12))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(max_size=8), st.dictionaries(KEYS, plain, max_size=4))
def test_any_table_is_a_board_or_a_refusal(name: str, changes: dict[str, object]) -> None:
    with contextlib.suppress(ConfigError):
        (made,) = read_boards({"boards": {name: BOARD | changes}}, "x.toml")
        assert 1 <= made.ram <= made.ram_total and made.flash >= 1 and made.core in CORES
        assert judge_fit(Need(arena_bytes=0, flash_bytes=0), made).ram_budget >= 0
