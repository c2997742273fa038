"""Usage errors, configuration files and output options, through the real entry point."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from tiny_data import write_npz
from typer.core import TyperGroup

from ndtool import console, environment
from ndtool.cli.app import app
from ndtool.cli.main import main
from ndtool.cli.params import GROUPS
from ndtool.cli.verbs import _options_by_key
from ndtool.options import CHECK, CODEGEN, EXPORT, TRAIN, TRAIN_BOUNDS, VERIFY, WORD_OF

Capture = pytest.CaptureFixture[str]
VERBS = (
    ("run",),
    ("train",),
    ("export", "x"),
    ("codegen", "x"),
    ("verify", "x"),
    ("check", "x"),
    ("analyze", "x"),
    ("models",),
    ("targets",),
    ("doctor",),
    ("data", "inspect", "digits"),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder of its own; what `main` sets for the process is put back."""
    (tmp_path / ".git").mkdir()  # no ndtool.toml is looked for above
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
    old = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, old)
    console.configure(quiet=False, verbose=False, as_json=False)


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Call `ndtool run ARGS` without its stages; gives what each would have been given."""
    seen: dict[str, Any] = {}

    def train(options: object, given: object, **rest: object) -> tuple[str, dict[str, object]]:
        seen.update(train=options, train_given=given, rest=rest)
        return "runs/x", {}

    def export(_run: str, options: object, given: object, **_rest: object) -> dict[str, object]:
        seen.update(export=options, export_given=given)
        return {}

    def codegen(_run: str, options: object, given: object, **_rest: object) -> tuple[object, None]:
        seen.update(codegen=options, codegen_given=given)
        return {}, None

    def verify(_run: str, options: object, given: object, **_rest: object) -> dict[str, object]:
        if given is not None:  # the second time is in QEMU
            seen.update(verify=options, verify_given=given)
        return {}

    def check(_run: str, options: object, **_rest: object) -> None:
        seen.update(check=options)
        raise typer.Exit

    monkeypatch.setattr("ndtool.cli.run.train_run", train)
    monkeypatch.setattr("ndtool.cli.run.export_run", export)
    monkeypatch.setattr("ndtool.cli.run.codegen_run", codegen)
    monkeypatch.setattr("ndtool.cli.run.verify_run", verify)
    monkeypatch.setattr("ndtool.cli.run.check_run", check)

    def call(*args: str) -> dict[str, Any]:
        assert main(["run", *args]) == 0
        return seen

    return call


def refused(capsys: Capture, *args: str) -> str:
    """The error line of a command that is refused with exit 2."""
    code = main(list(args))
    seen = capsys.readouterr()
    lines = seen.err.splitlines()
    assert (code, seen.out, len(lines)) == (2, "", 1), seen
    assert lines[0].startswith("ndtool: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("trian",), ("'train'", "see ndtool --help")),
        (("data", "inspct", "digits"), ("'inspect'", "see ndtool data --help")),
        (("train", "--epoch", "3"), ("--epochs", "see ndtool train --help")),
        (("check", "x", "--max-dorp", "3"), ("--max-drop", "see ndtool check --help")),
        (("check",), ("RUN", "see ndtool check --help")),
        (("train", "--epochs", "0"), ("--epochs",)),
        (("train", "--recipe", "x"), ("--recipe", "netdistiller")),
        (("train", "--strides", "1,x"), ("--strides", "1,2,2,1")),
        (("train", "--expand", "9"), ("--expand", "8")),
        (("train", "--batch-size", "1"), ("--batch-size", "2")),
    ],
)
def test_usage_errors(capsys: Capture, args: tuple[str, ...], words: tuple[str, ...]) -> None:
    line = refused(capsys, *args)
    assert all(word in line for word in words), line
    assert line.endswith("[usage]")


@pytest.mark.parametrize(
    "args",
    [
        *((verb, "--target", "") for verb in ("train", "run")),
        *((verb, "x", "--target", "") for verb in ("codegen", "analyze")),
        *((verb, "--boards", "") for verb in ("train", "run", "targets")),
        *((verb, "x", "--boards=") for verb in ("codegen", "analyze")),
        *((verb, "--data", "") for verb in ("train", "run")),
        *((verb, "x", "--data=") for verb in ("export", "codegen", "check")),
        ("analyze", "x", "--fit", ""),
        ("train", "--fit", ""),
        ("check", "x", "--baseline", ""),
    ],
)
def test_an_option_with_nothing_in_it_is_no_missing_option(
    capsys: Capture, args: tuple[str, ...]
) -> None:
    """`--target "$BOARD"` where the variable is empty."""
    line = refused(capsys, *args)
    option = next(word.rstrip("=") for word in args if word.startswith("--"))
    assert f"Invalid value for '{option}'" in line and line.endswith("[usage]")


def test_files_may_leave_them_empty(chain: Callable[..., dict[str, Any]]) -> None:
    """As config.toml of a run does."""
    Path("c.toml").write_text('[train]\ntarget = ""\nboards = ""\n[codegen]\ntarget = ""\n')
    assert chain("-c", "c.toml")["train"].target == ""


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_float_option_takes_what_is_not_finite(capsys: Capture, value: str) -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    tried = 0
    for verb, needed in (("train", ()), ("check", ("x",)), ("models", ())):
        for option in root.commands[verb].params:
            default = getattr(option, "default", None)
            if isinstance(default, float) or option.name == "min_accuracy":
                line = refused(capsys, verb, *needed, f"{option.opts[0]}={value}")
                assert f"Invalid value for '{option.opts[0]}'" in line
                tried += 1
    assert tried >= 10


def test_no_words_show_the_help(capsys: Capture) -> None:
    assert main([]) == 2
    seen = capsys.readouterr()
    assert seen.out == "" and seen.err.startswith("Usage: ndtool") and "\\x0a" not in seen.err


def test_usage_errors_in_json(capsys: Capture) -> None:
    assert main(["train", "--epoch", "3", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "ndtool.error/1"
    assert (document["code"], document["exit"], document["where"]) == ("usage", 2, "command line")


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
@pytest.mark.parametrize("words", [("-c", "none.toml"), ("-cnone.toml",), ("-qc", "none.toml"),
                                   ("--config=none.toml",)], ids=" ".join)  # fmt: skip
def test_a_config_file_that_is_not_there(
    capsys: Capture, verb: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert "no such file (none.toml)" in refused(capsys, *verb, *words)


@pytest.mark.parametrize("words", [("-c", "my.toml"), ("-cmy.toml",), ("-qc", "my.toml"), ()])
def test_a_config_file_is_read(
    folder: Path, chain: Callable[..., dict[str, Any]], words: tuple[str, ...]
) -> None:
    name = "my.toml" if words else "ndtool.toml"
    (folder / name).write_text(
        "[train]\ncrop = 3\nstrides = [1, 2, 1, 2]\nexpand = [2, 3]\nname = 'abc'\n"
        "[check]\nmax_drop = 2.5\n"
    )
    seen = chain(*words)
    assert (seen["train"].crop_px, seen["train"].strides) == (3, (1, 2, 1, 2))
    assert seen["train"].expand == (2, 3)
    assert seen["check"].max_drop_points == 2.5
    assert seen["train_given"] == {"crop_px": "file", "strides": "file", "expand": "file"}
    assert seen["rest"]["name"] == "abc"


def test_each_verb_of_a_run_reads_its_own_table(
    folder: Path, chain: Callable[..., dict[str, Any]]
) -> None:
    (folder / "c.toml").write_text(
        "[train]\nseed = 5\n[export]\nseed = 0\nworkers = 2\nforce = true\n[codegen]\nout = 'z'\n"
    )
    seen = chain("-c", "c.toml")
    assert (seen["train"].seed, seen["export"].seed) == (5, 0)
    assert (seen["export"].workers, seen["check"].workers) == (2, CHECK.workers)
    assert (seen["train_given"], seen["export_given"]) == (
        {"seed": "file"}, {"seed": "file", "workers": "file"}
    )  # fmt: skip
    assert seen["rest"] == {"name": "", "out": Path("runs"), "force": False, "resume": False}


def test_a_flag_and_the_table_of_run_win_over_both(
    folder: Path, chain: Callable[..., dict[str, Any]]
) -> None:
    text = "[train]\nseed = 5\n[export]\nseed = 6\nworkers = 2\n[check]\nworkers = 3\n"
    (folder / "c.toml").write_text(text)
    seen = chain("-c", "c.toml", "--seed", "7", "--workers", "4", "--resume")
    assert (seen["train"].seed, seen["export"].seed) == (7, 7)
    assert (seen["export"].workers, seen["check"].workers) == (4, 4)
    assert seen["train_given"] == {"seed": "flag"}
    assert seen["rest"]["resume"] is True
    (folder / "c.toml").write_text(text + "[run]\nseed = 8\n")
    seen = chain("-c", "c.toml")
    assert (seen["train"].seed, seen["export"].seed, seen["check"].workers) == (8, 8, 3)


def test_without_a_file_a_run_has_the_defaults(chain: Callable[..., dict[str, Any]]) -> None:
    seen = chain()
    assert seen["train"] == TRAIN and seen["codegen"] == CODEGEN and seen["check"] == CHECK
    assert seen["verify"] == VERIFY and seen["verify_given"] == {}
    assert seen["export"].int8 and seen["export"].seed == EXPORT.seed
    assert seen["train_given"] == seen["export_given"] == seen["codegen_given"] == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nepochs = true", ("train.epochs", "config.value")),
        ("[train]\nflip = 'no'", ("train.flip", "true or false")),
        ("[train]\nepochs = [1]", ("train.epochs", "not a list")),
        ("[train]\nstrides = [true]", ("train.strides", "1,2,2,1")),
        ("[train]\nlr = nan", ("train.lr",)),
        ("[train]\nexpand = 9", ("train.expand", "8")),
        ("[train]\nrecipe = 'x'", ("train.recipe", "netdistiller")),
        ("[train]\ncrop_px = 1", ("did you mean train.crop?", "config.key")),
        ("[check]\nmin_accuracy = [1]", ("check.min_accuracy",)),
        ("[models]\nwidth = inf", ("--width",)),
    ],
)
def test_bad_values_are_told_with_their_key(
    capsys: Capture, folder: Path, text: str, words: tuple[str, ...]
) -> None:
    (folder / "ndtool.toml").write_text(text)
    line = refused(capsys, "models")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("words", "flag"),
    [(("--cuda-graphs", "--device", "cpu"), "--cuda-graphs"), (("--device", "cuda:9"), "--device")],
)
def test_what_this_machine_cannot_do_is_refused_before_a_run_is_touched(
    capsys: Capture, folder: Path, words: tuple[str, ...], flag: str
) -> None:
    """--force has not yet deleted the training that it was to replace."""
    write_npz(folder / "tiny.npz")
    kept = folder / "runs" / "old" / "train" / "checkpoint.pt"
    kept.parent.mkdir(parents=True)
    kept.touch()
    (folder / "runs" / "old" / "contract.json").touch()
    options = ("--data", "npz:tiny.npz", "--name", "old", "--force", "--quiet")
    assert f"({flag})" in refused(capsys, "train", *options, *words)
    assert kept.exists()


def test_keys_are_the_long_flags() -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    for group in GROUPS:
        command = root.commands[group.table]
        assert isinstance(command, typer.core.TyperCommand)
        keys = {option.name: key for key, option in _options_by_key(command).items()}
        assert {f: keys[f] for f in group.words} == {f: WORD_OF.get(f, f) for f in group.words}


def test_help_and_training_have_the_same_bounds() -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    options = {option.name: option for option in root.commands["train"].params}
    for field, bounds in TRAIN_BOUNDS.items():
        option = options[field]
        assert isinstance(option, typer.core.TyperOption)
        assert (option.min, option.max) == bounds, field


def test_inspect_tells_what_train_would_do(capsys: Capture, folder: Path) -> None:
    write_npz(folder / "tiny.npz")
    args = ["data", "inspect", "npz:tiny.npz", "--json"]
    flags = ["--resolution", "16", "--crop", "1", "--epochs", "3", "--no-flip"]
    assert main([*args, *flags]) == 0
    by_flag = json.loads(capsys.readouterr().out)
    assert (by_flag["crop_px"], by_flag["epochs"], by_flag["flip"]) == (1, 3, False)
    assert by_flag["input_shape"] == [16, 16, 1]
    (folder / "ndtool.toml").write_text(
        "[train]\nresolution = 16\ncrop = 1\nepochs = 3\nflip = false\nout = 'runs'\n"
    )
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out) == by_flag
    assert not (folder / "runs").exists()


def test_log_file_gets_what_stderr_gets(capsys: Capture, folder: Path) -> None:
    for _ in range(2):
        main(["check", "none", "--log-file", "a.log"])
    seen = capsys.readouterr()
    assert (folder / "a.log").read_text() == seen.err and seen.err.count("none") >= 2
    line = refused(capsys, "models", "--log-file", "no/such/a.log")
    assert "--log-file no/such/a.log" in line


def test_a_log_file_that_breaks_is_told_once(
    capsys: Capture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = folder / "logs" / "a.log"
    log.parent.mkdir()
    console.configure(quiet=False, verbose=False, as_json=False, log_file=log)
    log.unlink()
    log.parent.rmdir()
    console.info("one")
    console.info("two")
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "one", "ndtool", "two"
    ]  # fmt: skip


def test_no_color(capsys: Capture) -> None:
    assert main(["models", "--no-color"]) == 0
    assert os.environ["NO_COLOR"] == "1"


@pytest.mark.parametrize(
    ("where", "args"),
    [
        (
            "ndtool.export.project_stage.codegen_file",
            ("codegen", "--tflite", "x.tflite", "--out", "y"),
        ),
        ("ndtool.export.c_project.load_projects", ("verify", "y")),
    ],
)
def test_an_interrupt_without_a_run_promises_nothing(
    where: str, args: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    monkeypatch.setattr("ndtool.export.c_project.is_project", lambda folder: True)
    assert main(list(args)) == 130
    seen = capsys.readouterr().err
    assert seen == "ndtool: interrupted; repeat the command: it starts from the beginning\n"


@pytest.mark.parametrize(
    "args",
    [
        ("export", "--onnx", "x.onnx", "--contract", "c.json", "--calib-data", "digits", "-o", "y"),
        ("codegen", "--tflite", "x.tflite", "--out", "y"),
    ],
)
def test_another_place_for_the_data_is_that_of_a_run(
    args: tuple[str, ...], capsys: Capture
) -> None:
    assert main([*args, "--data", "npz:other.npz"]) == 2
    assert "--data goes with a run folder" in capsys.readouterr().err


def test_an_interrupt_tells_the_hint(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(environment, "examine", interrupted)
    assert main(["doctor"]) == 130
    assert "repeat the command" in capsys.readouterr().err

    def terminated() -> None:
        console.set_resume_hint("last checkpoint c.pt; ndtool train --resume\n")
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(environment, "examine", terminated)
    assert main(["doctor"]) == 143
    seen = capsys.readouterr().err
    assert seen == "ndtool: interrupted; last checkpoint c.pt; ndtool train --resume\\x0a\n"
    monkeypatch.setattr(environment, "examine", interrupted)
    assert main(["doctor"]) == 130
    assert "c.pt" not in capsys.readouterr().err  # the hint was of another command
