"""What `export` and `codegen` take from the run where the user types nothing, and which data."""

import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from command import Done, ndtool, ndtool_here
from tiny_data import write_npz

from ndtool import console

TRAIN = ("--data", "npz:tiny.npz", "--width", ".5", "--epochs", "1", "--batch-size", "16",
         "--crop", "0", "--no-flip", "--threads", "1", "--name", "tiny")  # fmt: skip
OWN = ("--seed", "2", "--calib", "30", "--fc", "per-tensor", "--prefix", "acme", "--golden", "3")
CONFIG = Path("runs/tiny/config.toml")
TOLD_EXPORT = "export: seed 2, calib 30, fc per-tensor of this run\n"
TOLD_CODEGEN = "codegen: prefix acme, golden 3 of this run\n"
Command = Callable[..., Done]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a run with options of its own."""
    folder = tmp_path_factory.mktemp("inherit")
    (folder / ".git").mkdir()  # no ndtool.toml is looked for above
    write_npz(folder / "tiny.npz")
    bounds = ("--max-drop", "100", "--random", "2")
    done = ndtool("run", *TRAIN, *OWN, *bounds, cwd=folder)
    assert done.code == 0, done.err
    assert "of this run" not in done.err
    return folder


@pytest.fixture
def command(
    made: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Command]:
    """`ndtool ARGS` in a copy of the working folder, which is the current one."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    yield lambda *args: ndtool_here(*args, capsys=capsys)
    console.configure(quiet=False, verbose=False, as_json=False)


def edit(pattern: str, row: str) -> None:
    """One line of config.toml replaced."""
    text, count = re.subn(pattern, lambda _: row, CONFIG.read_text())
    assert count == 1
    CONFIG.write_text(text)


def done_again(done: Done) -> list[str]:
    """The stages that were not up to date."""
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if not line.endswith(" of this run")]
    return [line for line in lines if not line.endswith(": up to date")]


def test_plain_export_and_codegen_keep_the_model_of_the_run(command: Command) -> None:
    before = CONFIG.read_text()
    assert "calib = 30  # flag\n" in before and 'prefix = "acme"  # flag\n' in before
    export, codegen = command("export", "tiny", "--int8"), command("codegen", "tiny")
    assert done_again(export) == done_again(codegen) == []
    assert export.err.count(TOLD_EXPORT) == codegen.err.count(TOLD_CODEGEN) == 1
    typed = before.replace("int8 = true  # default", "int8 = true  # flag")
    assert CONFIG.read_text() == typed  # with the origins of all that was not


def test_run_keeps_them_too(command: Command) -> None:
    done = command("run", *TRAIN, "--seed", "2", "--max-drop", "100", "--random", "2")
    assert done_again(done) == []
    assert "export: calib 30, fc per-tensor of this run\n" in done.err
    assert TOLD_CODEGEN in done.err


def test_a_flag_wins_even_with_the_default(command: Command) -> None:
    export = command("export", "tiny", "--int8", "--seed", "0")
    assert "ranges: seed 2 -> 0\n" in export.err and "calib" not in export.err.split("\n", 1)[1]
    assert "seed = 0  # flag" in CONFIG.read_text().split("[export]")[1].split("[codegen]")[0]
    assert (
        "codegen:posix: prefix acme -> nd_model"
        in command("codegen", "tiny", "--prefix", "nd_model").err
    )


def test_ndtool_toml_wins_over_the_run(command: Command) -> None:
    Path("ndtool.toml").write_text("[export]\ncalib = 40\n[codegen]\ngolden = 4\n")
    assert "ranges: calib 30 -> 40\n" in command("export", "tiny", "--int8").err
    codegen = command("codegen", "tiny")
    assert "codegen: prefix acme of this run\n" in codegen.err
    assert "calib = 40  # file\n" in CONFIG.read_text()


def test_what_is_no_part_of_the_model_is_not_taken(command: Command) -> None:
    """Neither the form of the project nor how the work is done; another form has the prefix."""
    assert command("codegen", "tiny", "--template", "array").code == 0
    assert Path("runs/tiny/codegen/array/acme.h").is_file()
    assert tomllib.loads(CONFIG.read_text())["codegen"]["template"] == "array"
    assert done_again(command("codegen", "tiny")) == []
    assert tomllib.loads(CONFIG.read_text())["codegen"]["template"] == "posix"


@pytest.mark.parametrize(
    ("verb", "key", "value"),
    [
        ("export", "calib", "0"),
        ("export", "calib", "30.5"),
        ("export", "calib", "inf"),
        ("export", "calib", "true"),
        ("export", "calib", "[30]"),
        ("export", "calib", "1979-05-27"),
        ("export", "calib", "9" * 30),
        ("export", "seed", "-1"),
        ("export", "fc", '"\\u001b[31m"'),
        ("export", "converter", '{ a = "native" }'),
        ("codegen", "golden", "65"),
        ("codegen", "prefix", "[[1]]"),
    ],
)
def test_a_value_that_no_option_takes_is_refused(
    command: Command, verb: str, key: str, value: str
) -> None:
    before = Path("runs/tiny/manifest.json").read_bytes()
    head, tail = CONFIG.read_text().split(f"[{verb}]\n")
    tail = re.sub(rf"^{key} = .*", lambda _: f"{key} = {value}", tail, count=1, flags=re.MULTILINE)
    CONFIG.write_text(f"{head}[{verb}]\n{tail}")
    done = command(verb, "tiny")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert f"{CONFIG}: {verb}.{key}" in done.err and "\x1b" not in done.err
    assert Path("runs/tiny/manifest.json").read_bytes() == before


def test_a_prefix_that_is_no_c_name_writes_nothing(command: Command) -> None:
    edit(r'prefix = "acme".*', 'prefix = "../../../x"')
    done = command("codegen", "tiny")
    assert done.code == 2 and "prefix" in done.err
    assert not Path("x.h").exists() and Path("runs/tiny/codegen/posix/acme.h").is_file()


def test_a_row_written_by_hand_is_of_a_file(command: Command) -> None:
    edit(r"calib = 30.*", "calib = 31")
    assert "ranges: calib 30 -> 31\n" in command("export", "tiny", "--int8").err
    assert "calib = 31  # file\n" in CONFIG.read_text()


@pytest.mark.parametrize("verb", [("export", "tiny", "--int8"), ("codegen", "tiny")])
def test_data_is_looked_at_where_all_is_up_to_date(command: Command, verb: tuple[str, ...]) -> None:
    arrays = dict(np.load("tiny.npz"))
    np.savez("foreign.npz", **arrays | {"class_names": np.array(["x", "y", "z"])})
    Path("wrong.npz").write_bytes(b"junk")
    shutil.copy("tiny.npz", "moved.npz")
    for spec, word in (
        ("npz:none.npz", "none.npz"),
        ("npz:wrong.npz", "wrong.npz"),
        ("npz:foreign.npz", "data.labels-differ"),
        ("nothing", "nothing"),
    ):
        done = command(*verb, "--data", spec)
        assert (done.code, done.out) == (2, "") and word in done.err, (spec, done.err)
        assert "up to date" not in done.err
    assert done_again(command(*verb, "--data", "npz:moved.npz")) == []
