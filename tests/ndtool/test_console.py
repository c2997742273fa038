"""Foreign text is harmless on every stream; numbers line up."""

import json

import pytest

from ndtool import console
from ndtool.console import csv_cell

HOSTILE = [
    "a\n::error::x",
    "  ::error file=a::b",
    "x ##[error]y",
    "\x1b[31mred",
    "\u202eabc",
    "\ud800",
    "\ufeffx",
    "a" * 300,
    "[bold]x[/bold]",
    "tab\there",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_visible_is_one_harmless_line(text: str) -> None:
    shown = console.visible(text)
    assert len(shown) <= console.MAX_VISIBLE
    assert shown.isprintable()
    shown.encode("utf-8")


def test_visible_keeps_ordinary_text() -> None:
    for text in ("daisy", "Gänseblümchen", "雛菊", "a [b] c", "::x"):
        assert console.visible(text) == text


@pytest.mark.parametrize("text", ["::error::x", "  ::warning ::x", "a\n::error::b", "x ##[group]y"])
def test_no_line_starts_a_ci_command(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    console.configure(quiet=False, verbose=False, as_json=False)
    console.out(text)
    console.info(text)
    for stream in capsys.readouterr():
        assert not any(line.lstrip().startswith("::") for line in stream.splitlines())
        assert "##[" not in stream


def test_what_is_not_one_line_is_no_command_either(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runner ends a line at a carriage return, too; a traceback shows what was put into it."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    console.configure(quiet=False, verbose=False, as_json=False)
    console.out("a\r::error::x")
    console.error("Traceback:\n\x1b[31m\n  ::error::x")
    out, err = capsys.readouterr()
    assert out == "a\\x0d::error::x\n"
    assert err == "Traceback:\n\\x1b[31m\n.  ::error::x\n"


def test_commands_to_the_runner_go_where_no_document_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    console.configure(quiet=True, verbose=False, as_json=False)
    console.out_command("::error title=a::b")
    console.configure(quiet=True, verbose=False, as_json=True)
    console.out_command("::notice title=c::d")
    console.out_json({"name": "x ##[error]y"})
    console.configure(quiet=False, verbose=False, as_json=False)
    out, err = capsys.readouterr()
    assert err == "::notice title=c::d\n"
    command, document = out.split("\n", 1)
    assert command == "::error title=a::b"
    assert "##[" not in document and json.loads(document) == {"name": "x ##[error]y"}


def test_json_mode_leaves_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(quiet=False, verbose=False, as_json=True)
    console.out("a table")
    console.out_json({"b": 1, "a": "ä"})
    console.configure(quiet=False, verbose=False, as_json=False)
    assert capsys.readouterr().out == '{\n "a": "\\u00e4",\n "b": 1\n}\n'


def test_quiet_keeps_results_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(quiet=True, verbose=False, as_json=False)
    console.out("result")
    console.info("progress")
    console.warn("a.b", "careful")
    console.configure(quiet=False, verbose=False, as_json=False)
    seen = capsys.readouterr()
    assert seen.out == "result\n"
    assert seen.err == "ndtool: warning: careful [a.b]\n"


def test_table_aligns_numbers_right() -> None:
    text = console.table(("name", "n"), [("a", "5"), ("bb", "1,234")])
    assert text.splitlines() == ["name  n", "a         5", "bb    1,234"]


def test_progress_prints_no_bar_into_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("train", 100) as bar:
        for i in range(100):
            bar.update(i)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "cell"),
    [("a", "a"), ("a,b", '"a,b"'), ('a"b', '"a""b"'), ("=1+1", "'=1+1"), ("-x", "'-x")],
)
def test_csv_cells(text: str, cell: str) -> None:
    assert csv_cell(text) == cell
