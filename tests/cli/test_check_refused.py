"""`ndtool check` that ends without a verdict: what it leaves in its output files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ci_runner import commands
from command import ndtool_here
from hostile_names import HOSTILE_NAMES
from markdown_page import read_page

from ndtool import console
from ndtool.console import visible
from ndtool.errors import DataError, NdError, ToolMissingError

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
OUTPUTS = ("--junit", "j.xml", "--markdown", "v.md")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: Patch) -> Iterator[Path]:
    """With the output files of an older check that passed, one of them a link."""
    (tmp_path / ".git").mkdir()  # no ndtool.toml is looked for above
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "j.xml").write_text("passed")
    (tmp_path / "old.md").write_text("passed")
    (tmp_path / "v.md").symlink_to("old.md")
    yield tmp_path
    console.configure(quiet=False, verbose=False, as_json=False)


def refuse_with(problem: BaseException, monkeypatch: Patch) -> None:
    def check_run(*_args: object, **_more: object) -> None:
        raise problem

    monkeypatch.setattr("ndtool.cli.check.check_run", check_run)


def junit_error() -> ElementTree.Element:
    root = ElementTree.parse("j.xml").getroot()
    assert (root.get("tests"), root.get("errors"), root.get("failures")) == ("1", "1", "0")
    error = root.find("testsuite/testcase[@name='check']/error")
    assert error is not None
    return error


@pytest.mark.parametrize(
    ("problem", "code", "slug"),
    [
        (DataError("bad", where="w", remedy="r", code="data.x"), 2, "data.x"),
        (ToolMissingError("gcc", install="apt install gcc"), 7, "tool.missing"),
        (PermissionError(13, "Permission denied", "runs/x"), 2, "os.error"),
    ],
)
def test_every_output_says_why(
    problem: NdError | OSError, code: int, slug: str, monkeypatch: Patch, capsys: Capture
) -> None:
    refuse_with(problem, monkeypatch)
    done = ndtool_here("check", "x", *OUTPUTS, "--github", capsys=capsys)
    assert done.code == code
    assert junit_error().get("type") == slug
    page = Path("v.md").read_text()
    assert read_page(page).paragraphs[:2] == ["ndtool check: ERROR", "Run x: no verdict"]
    assert f"[{slug}]" in read_page(page).paragraphs[2]
    assert Path("summary.md").read_text() == page
    (annotation,) = commands(done.out)
    assert annotation.name == "error" and annotation.data.endswith(f"[{slug}]")
    assert Path("old.md").read_text() == "passed"  # not what the link led to


def test_a_run_that_is_missing(capsys: Capture) -> None:
    done = ndtool_here("check", "none", *OUTPUTS, capsys=capsys)
    assert done.code == 2 and junit_error().get("type") == "run.missing"
    assert not Path("summary.md").exists()  # only with --github
    done = ndtool_here("check", "n" * 300, *OUTPUTS, capsys=capsys)
    assert done.code == 2 and junit_error().get("type") == "os.error"


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_no_older_file_stands_whatever_happens(
    problem: BaseException, monkeypatch: Patch, capsys: Capture
) -> None:
    refuse_with(problem, monkeypatch)
    assert ndtool_here("check", "x", *OUTPUTS, capsys=capsys).code in (1, 130)
    assert not Path("j.xml").exists() and not Path("v.md").is_symlink()


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_hostile_names(name: str, monkeypatch: Patch, capsys: Capture) -> None:
    refuse_with(DataError(name, where=name, remedy=name, code="data.x"), monkeypatch)
    done = ndtool_here("check", "--github", *OUTPUTS, "--", name, capsys=capsys)
    assert done.code == 2
    assert [command.name for command in commands(done.out) + commands(done.err)] == ["error"]
    message = junit_error().get("message") or ""
    assert visible(name, 2000) in message
    assert len(read_page(Path("v.md").read_text("utf-8")).paragraphs) == 3
