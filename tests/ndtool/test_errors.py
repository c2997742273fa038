"""Each error class through the real entry point: its line and its exit code."""

import json
import pickle
import subprocess
import sys

import pytest

from ndtool import console, errors
from ndtool.cli import app as app_module
from ndtool.cli import exits
from ndtool.cli import main as main_module

CASES = [
    (errors.InputError, 2),
    (errors.ConfigError, 2),
    (errors.ContractError, 2),
    (errors.DataError, 2),
    (errors.GateError, 3),
    (errors.FitError, 4),
    (errors.UnsupportedError, 5),
    (errors.MismatchError, 6),
]


def raising(problem: BaseException):  # type: ignore[no-untyped-def]
    def invoke(_args: list[str]) -> int:
        raise problem

    return invoke


@pytest.mark.parametrize(("kind", "code"), CASES)
def test_line_and_exit_code(
    kind: type[errors.NdError], code: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    problem = kind("it is broken", where="a\nb.png", remedy="mend it", code="x.y")
    monkeypatch.setattr(main_module, "_invoke", raising(problem))
    assert main_module.main(["models"]) == code
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err == "ndtool: error: it is broken (a\\x0ab.png); mend it [x.y]\n"


def test_missing_tool_names_the_install_line(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    problem = errors.ToolMissingError("gcc", install="apt-get install gcc")
    monkeypatch.setattr(main_module, "_invoke", raising(problem))
    assert main_module.main(["models"]) == 7
    assert "gcc not found; install: apt-get install gcc [tool.missing]" in capsys.readouterr().err


def test_json_error_is_one_document(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    problem = errors.DataError("bad", where="x", remedy="mend", code="a.b")
    monkeypatch.setattr(main_module, "_invoke", raising(problem))
    assert main_module.main(["models", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "ndtool.error/1"
    assert (document["code"], document["exit"]) == ("a.b", 2)


def test_more_than_twenty_problems_are_counted(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    problems = [
        errors.DataError("bad image", where=f"{i}.png", remedy="delete it", code="a.b")
        for i in range(25)
    ]
    with pytest.raises(errors.DataError) as caught:
        errors.raise_all(problems)
    monkeypatch.setattr(main_module, "_invoke", raising(caught.value))
    assert main_module.main(["models"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[-1] == "ndtool: error: and 5 more of this kind"


def test_a_bug_exits_1_and_leaves_a_crash_file(
    monkeypatch: pytest.MonkeyPatch, capsys, tmp_path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(main_module, "_invoke", raising(ZeroDivisionError("oops")))
    assert main_module.main(["models"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("ndtool: error: internal error: ZeroDivisionError: oops (")
    (crash,) = tmp_path.iterdir()
    assert "Traceback" in crash.read_text()


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device", "runs/x"), 2),
        (console.OutputLost(OSError(28, "No space left on device")), 2),
    ],
)
def test_interrupts_and_lost_streams(
    problem: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(main_module, "_invoke", raising(problem))
    monkeypatch.setattr(exits.os, "dup2", lambda *_: None)
    assert main_module.main(["models"]) == code
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.parametrize("target", ["/dev/full", "closed", "head"])
def test_real_streams_that_cannot_be_written(target: str) -> None:
    redirect = {"/dev/full": ">/dev/full", "closed": ">&-", "head": "| head -c 1"}[target]
    command = f'"{sys.executable}" -m ndtool models {redirect}; echo "code ${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert f"code {2 if target == '/dev/full' else 0}" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_does_not_change_the_verdict() -> None:
    """`ndtool check RUN | grep -q PASS` under pipefail must fail when the check does."""
    refused = f'"{sys.executable}" -m ndtool analyze mbv2 --target pico'
    command = f'{refused} | true; echo "code ${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60
    )
    assert "code 4" in done.stdout and "does not fit pico" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("kind", [kind for kind, _ in CASES])
def test_errors_come_whole_from_another_process(kind: type[errors.NdError]) -> None:
    one = kind("what", where="where", remedy="remedy", code="a.b")
    lacking = errors.ToolMissingError("cc", install="apt install gcc")
    many = kind("all", where="there", remedy="mend", code="c.d", more=(one, lacking))
    made = pickle.loads(pickle.dumps(many))  # noqa: S301  (our own)
    assert type(made) is kind and str(made) == str(many) and made.args == many.args
    assert [str(problem) for problem in made.more] == [str(one), str(lacking)]
    assert made.more[1].install == lacking.install


def test_every_optional_package_has_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(errors.EXTRA_OF, "no_such_package", "train")  # type: ignore[arg-type]
    with pytest.raises(errors.ToolMissingError) as caught:
        errors.require("no_such_package.part")
    assert caught.value.exit_code == 7
    assert "[train]" in caught.value.install


def test_app_offers_the_fixed_verbs() -> None:
    names = {c.name for c in app_module.app.registered_commands}
    assert names == {
        *("run", "train", "export", "codegen", "verify", "check", "analyze"),
        *("models", "targets", "doctor"),
    }
