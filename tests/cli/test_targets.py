"""`ndtool targets`, and how boards of a file reach the verbs."""

import csv
import io
import json
from pathlib import Path

import pytest
import typer
from command import ndtool_here

from ndtool.options import CODEGEN, TRAIN
from ndtool.targets import built_in_targets

MINE = """[boards.mine]
core = "cortex-m4f"
clock_mhz = 100
ram = 65536
ram_total = 65536
flash = 524288
source = "=1+1, me"
note = "a\\u202e|b\\n::error::x"
"""

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text(f"[train]\nepochs = 3\n{MINE}")
    return tmp_path


def test_the_list(capsys: Capture) -> None:
    lines = ndtool_here("targets", capsys=capsys).out.splitlines()
    assert lines[1].split() == ["nucleo-f446re", "cortex-m4f", "180", "128", "/", "128", "512"]
    assert lines[19].split() == ["metro-m4", "cortex-m4f", "120", "192", "/", "192~", "512~"]
    assert any(line.startswith("~ behind a figure") for line in lines)
    boards, places = lines[1:27], lines[lines.index("board          core") + 1 :]
    assert len(boards) == 26 and places[1].split() == ["mps2-an386", "cortex-m4"]
    assert "Zephyr" not in "".join(lines)


def test_the_sources_with_v(capsys: Capture) -> None:
    done = ndtool_here("targets", "-v", capsys=capsys)
    for board in built_in_targets().values():
        assert board.source in done.out
    assert "64K bootloader" in done.out and "sources: Z the board's files in Zephyr" in done.out


def test_json(capsys: Capture) -> None:
    document = ndtool_here("targets", "--json", "--boards", "my.toml", capsys=capsys).document
    assert document["schema"] == "ndtool.targets/1"
    first, mine = document["targets"][0], document["targets"][-1]
    assert (first["name"], first["ram_bytes"], first["uncertain"]) == (
        "nucleo-f446re",
        131072,
        False,
    )
    assert (mine["note"], mine["uncertain"]) == ("a\u202e|b\n::error::x", True)
    assert [board["name"] for board in document["qemu"] if board["default"]] == ["mps2-an386"]


def test_csv(folder: Path, capsys: Capture) -> None:
    done = ndtool_here("targets", "--boards", "my.toml", "--csv", "t.csv", capsys=capsys)
    assert done.code == 0
    rows = list(csv.DictReader(io.StringIO((folder / "t.csv").read_text(), newline="")))
    assert len(rows) == 27 and rows[0]["flash"] == "524288"
    # no formula for a spreadsheet, and the text back
    assert rows[-1]["source"] == "'=1+1, me" and rows[-1]["note"] == "a\u202e|b\n::error::x"
    done = ndtool_here("targets", "--csv", folder, capsys=capsys)
    assert done.code == 2 and done.out == "" and len(done.err.splitlines()) == 1


def test_csv_overwrites_no_input(folder: Path, capsys: Capture) -> None:
    (folder / "ndtool.toml").write_text(MINE)
    (folder / "link").symlink_to("my.toml")
    before = (folder / "my.toml").read_bytes()
    for name in ("my.toml", "link", "ndtool.toml", "/proc/x.csv"):
        given = ("targets", "--boards", "my.toml", "--csv", name)
        done = ndtool_here(*given, capsys=capsys)
        assert done.code == 2 and done.out == "", done
        assert "[option.output-file]" in done.err and f"(--csv {name})" in done.err
    assert (
        "[option.output-file]"
        in ndtool_here("targets", "-c", "my.toml", "--csv", folder / "my.toml", capsys=capsys).err
    )
    assert (folder / "my.toml").read_bytes() == before
    assert (folder / "ndtool.toml").read_text() == MINE and (folder / "link").is_symlink()


def test_foreign_text_is_harmless(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    out = ndtool_here("targets", "-v", "--boards", "my.toml", capsys=capsys).out
    assert "a\\u202e|b\\x0a::error::x" in out
    assert not any(line.lstrip().startswith("::") for line in out.splitlines())


@pytest.mark.parametrize("words", [("-c", "my.toml"), ("--boards", "my.toml")])
def test_boards_of_the_file_that_c_names(words: tuple[str, ...], capsys: Capture) -> None:
    assert "\nmine " in ndtool_here("targets", *words, capsys=capsys).out


def test_ndtool_toml_is_found(folder: Path, capsys: Capture) -> None:
    (folder / "my.toml").rename(folder / "ndtool.toml")
    assert "\nmine " in ndtool_here("targets", capsys=capsys).out
    assert "\nmine " in ndtool_here("targets", "-c", "ndtool.toml", capsys=capsys).out


def test_a_wrong_board_stops_only_who_asks_for_boards(folder: Path, capsys: Capture) -> None:
    (folder / "ndtool.toml").write_text(MINE.replace("cortex-m4f", "z80"))
    done = ndtool_here("targets", "--json", capsys=capsys)
    assert done.code == 2 and json.loads(done.out)["code"] == "target.board"
    assert "ndtool.toml: boards.mine.core" in done.err
    assert ndtool_here("models", capsys=capsys).code == 0


def test_boards_of_c_are_an_option_of_every_verb_that_takes_them(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}

    def train(options: object, given: object, **_rest: object) -> tuple[str, dict[str, object]]:
        seen.update(train=options, given=given)
        raise typer.Exit

    monkeypatch.setattr("ndtool.cli.train.train_run", train)
    for words, boards in (
        (("-c", "my.toml"), "my.toml"),
        (("-c", "my.toml", "--boards", "o.toml"), "o.toml"),
    ):
        ndtool_here("train", *words, capsys=capsys)
        assert seen["train"].boards == boards and seen["train"].epochs == 3
    assert (TRAIN.boards, CODEGEN.boards) == ("", "")
