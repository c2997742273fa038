"""`--extend-epochs`, `--tensorboard`, the curves and the cost, through the real command."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import Done, ndtool, ndtool_here
from tiny_data import write_npz

from ndtool import console
from ndtool.rundir import CURVES, HISTORY, TENSORBOARD
from ndtool.training.loop import TIME_COLUMNS

TRAIN = ("--data", "npz:tiny.npz", "--width", ".5", "--epochs", "2", "--batch-size", "16",
         "--crop", "0", "--no-flip", "--threads", "1", "--name", "tiny")  # fmt: skip
RUN = Path("runs/tiny")
Command = Callable[..., Done]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("extend")
    (folder / ".git").mkdir()  # no ndtool.toml is looked for above
    write_npz(folder / "tiny.npz")
    done = ndtool("train", *TRAIN, cwd=folder)
    assert done.code == 0, done.err
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


def epochs() -> int:
    return len((RUN / HISTORY).read_text().splitlines()) - 1


def recorded() -> object:
    return tomllib.loads((RUN / "config.toml").read_text())["train"].get("extend_epochs")


def train(command: Command, *more: str) -> Done:
    done = command("train", *TRAIN, *more)
    assert done.code == 0, done.err
    return done


def manifest() -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((RUN / "manifest.json").read_text())
    return found


def test_a_finished_run_goes_on_and_keeps_its_extension(command: Command) -> None:
    assert (epochs(), recorded()) == (2, None)
    first = train(command, "--extend-epochs", "1")
    assert "going on from the last checkpoint" in first.err
    assert (epochs(), recorded()) == (3, "1")
    assert 'extend_epochs = "1"  # flag' in (RUN / "config.toml").read_text()
    # The same again, and nothing: up to date. The run's own extension is told.
    again = train(command, "--extend-epochs", "1")
    assert again.err == "train: up to date\n"
    bare = train(command)
    assert bare.err == "train: extend_epochs 1 of this run\ntrain: up to date\n"
    assert re.search(r"of 3$", bare.out, re.MULTILINE)
    # Once more, counted from --epochs; by the run's own file this time.
    done = command("train", "-c", str(RUN / "config.toml"), "--extend-epochs", "3")
    assert done.code == 0, done.err
    assert (epochs(), recorded()) == (5, "1,3")
    assert train(command, "--extend-epochs", "3").err == "train: up to date\n"
    assert train(command, "--extend-epochs", "1,3").err == "train: up to date\n"
    # And that file repeats it from the start.
    done = command("train", "-c", str(RUN / "config.toml"), "--name", "twin")
    assert done.code == 0, done.err
    mine, twin = ((RUN.parent / n / HISTORY).read_text().splitlines() for n in ("tiny", "twin"))
    head = mine[0].split(",")
    timed = {head.index(name) for name in TIME_COLUMNS}
    for a, b in zip(mine, twin, strict=True):
        cells = [[c for k, c in enumerate(x.split(",")) if k not in timed] for x in (a, b)]
        assert cells[0] == cells[1]


@pytest.mark.parametrize("value", ["0", "-1", "2,2", "1.5", "x", "", "100000", "9" * 5000])
def test_numbers_that_are_none(command: Command, value: str) -> None:
    before = (RUN / "manifest.json").read_bytes()
    done = command("train", *TRAIN, f"--extend-epochs={value}")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert "--extend-epochs" in done.err
    assert (RUN / "manifest.json").read_bytes() == before and epochs() == 2


def test_fewer_than_before_is_refused(command: Command) -> None:
    train(command, "--extend-epochs", "2", "--tensorboard")
    before = (RUN / "manifest.json").read_bytes()
    done = command("train", *TRAIN, "--extend-epochs", "1")
    assert done.code == 2 and "use 2 or more" in done.err and "[train.shorter]" in done.err
    assert (RUN / "manifest.json").read_bytes() == before
    other = command("train", *TRAIN, "--extend-epochs", "1", "--lr", ".2")
    assert other.code == 2 and "lr 0.1 -> 0.2" in other.err and "extend" not in other.err
    forced = command("train", *TRAIN, "--force")  # another training: not the old one's extension
    assert forced.code == 0 and (epochs(), recorded()) == (2, None)
    assert not (RUN / TENSORBOARD).exists()


def test_a_damaged_config_is_refused(command: Command) -> None:
    path = RUN / "config.toml"
    whole = path.read_text()
    damaged = ('"x"', "true", "0", '"2,1"', '"0,1"', "[1, 2]", "1.5", '""', '"1\\u001b[2J"')
    for value in damaged:
        path.write_text(whole.replace("[train]\n", f"[train]\nextend_epochs = {value}\n"))
        done = command("train", *TRAIN)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), (value, done.err)
        assert "train.extend_epochs" in done.err and "\x1b" not in done.err


def test_a_number_in_a_file_of_the_user(command: Command) -> None:
    for text in ("0", "[2, 1]", '"1.5"', "true", "[1.5]"):
        Path("ndtool.toml").write_text(f"[train]\nextend_epochs = {text}\n")
        done = command("train", *TRAIN)
        assert done.code == 2 and "extend" in done.err, (text, done.err)
    Path("ndtool.toml").write_text("[train]\nextend_epochs = [1, 2]\n")
    train(command)
    assert (epochs(), recorded()) == (4, "1,2")
    Path("ndtool.toml").write_text("[train]\nextend_epochs = 2\n")
    assert train(command).err == "train: up to date\n"


def test_run_makes_the_rest_anew_where_a_better_epoch_came(command: Command) -> None:
    assert command("export", "tiny").code == 0
    best = (RUN / "train/best.pt").read_bytes()
    short = ("--template", "array", "--max-drop", "100", "--calib", "30", "--workers", "1")
    done = command("run", *TRAIN, *short, "--extend-epochs", "6")
    assert done.code == 0, done.err
    assert epochs() == 8
    assert "training    a step costs" in done.out
    assert (RUN / "train/best.pt").read_bytes() != best
    assert "extract: train/best.pt changed" in done.err
    again = command("run", *TRAIN, *short)
    assert again.code == 0 and "train: extend_epochs 6 of this run\ntrain: up to date" in again.err
    assert "changed" not in again.err


def test_curves_cost_and_scalars_are_part_of_the_run(command: Command) -> None:
    assert (RUN / CURVES).read_bytes().startswith(b"<?xml")
    assert not (RUN / TENSORBOARD).exists()
    names = [name for name, row in manifest()["files"].items() if row["stage"] == "train"]  # type: ignore[index]
    assert CURVES in names
    ratio = json.loads((RUN / "metrics.json").read_text())["train_step_ratio"]
    assert ratio > 1
    done = train(command)
    cost = f"cost     a step costs {ratio:.1f} plain steps: plain training of the same time"
    assert f"{cost} would have had {round(2 * ratio)} epochs\n" in done.out
    document = command("train", *TRAIN, "--json").document
    assert (document["step_ratio"], document["plain_epochs"]) == (ratio, round(2 * ratio))
    plain = command("train", *TRAIN, "--name", "plain", "--recipe", "plain", "--json")
    assert plain.code == 0 and not {"step_ratio", "plain_epochs"} & set(plain.document)
    assert "train_step_ratio" not in json.loads(Path("runs/plain/metrics.json").read_text())
    kd = ("--name", "taught", "--recipe", "kd", "--teacher", "checkpoint:runs/plain")
    assert "epochs; its teacher's own training comes on top\n" in train(command, *kd).out


def test_tensorboard_is_how_and_not_what(command: Command) -> None:
    assert train(command, "--tensorboard").err == "train: up to date\n"
    train(command, "--tensorboard", "--extend-epochs", "1")
    size = (RUN / TENSORBOARD).stat().st_size
    assert TENSORBOARD in manifest()["files"]
    train(command, "--extend-epochs", "2")  # a run that has one keeps it
    assert (RUN / TENSORBOARD).stat().st_size > size


def test_an_interrupted_run_has_its_curves(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ndtool.training import train as module

    kept = module.checkpoint.encode

    def encode(state: object, identity: object) -> bytes:
        if state.epoch == 5:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return kept(state, identity)  # type: ignore[arg-type]

    before = (RUN / CURVES).read_bytes()
    monkeypatch.setattr(module.checkpoint, "encode", encode)
    done = command("train", *TRAIN, "--extend-epochs", "5")
    assert done.code == 130
    assert (RUN / CURVES).read_bytes() != before
    monkeypatch.undo()


def test_v_shows_each_new_epoch_and_unread_flags_are_named(command: Command) -> None:
    done = train(command, "--extend-epochs", "2", "-v", "--kd-weight", ".5", "--expand", "3")
    shown = [line for line in done.err.splitlines() if re.match(r"epoch \d", line)]
    assert [line.split("  ")[0] for line in shown] == ["epoch 3", "epoch 4"]
    log = (RUN / "train/train.log").read_text().splitlines()
    assert shown == log[2:]
    assert (
        "--kd-weight: not read by --recipe netdistiller with these options [train.not-read]"
        in done.err
    )
    assert "--expand" not in done.err  # which it does read
