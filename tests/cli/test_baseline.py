"""`ndtool baseline` by the real command: what is accepted, what is refused, what is shown."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import Done, ndtool_here
from forged_run import edit_int8, edit_text, regenerate, reseal, without_class

from ndtool.rundir import RunDir

pytestmark = pytest.mark.slow

FILE = Path("baselines/main.toml")
REASON = ("--reason", "accepted by a test")
HAS_QEMU = all(shutil.which(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm"))
Command = Callable[..., Done]


@pytest.fixture(scope="session")
def accepted(tiny_chain: tuple[Path, Done], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of the tiny run, its run accepted by the command."""
    folder = tmp_path_factory.mktemp("baseline") / "work"
    shutil.copytree(tiny_chain[0], folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        from ndtool.cli.main import main

        settings = ("--set", "max_float_int8_drop=20")
        assert (
            main(["baseline", "accept", "tiny", "--baseline", str(FILE), *REASON, *settings]) == 0
        )
    return folder


@pytest.fixture
def run(accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """The run in a copy of that folder, which is the working directory.

    Flash and instructions have no bound there: no firmware is built.
    """
    shutil.copytree(accepted, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    lines = FILE.read_text().splitlines(keepends=True)
    FILE.write_text("".join(x for x in lines if not x.startswith(("flash_bytes", "instructions"))))
    return RunDir(Path("runs/tiny"))


@pytest.fixture
def command(run: RunDir, capsys: pytest.CaptureFixture[str]) -> Command:
    """`ndtool baseline VERB tiny --baseline baselines/main.toml ARGS`."""

    def call(verb: str, *args: object) -> Done:
        given = ("tiny", "--baseline", FILE, *(REASON if verb == "accept" else ()), *args)
        return ndtool_here("baseline", verb, *given, capsys=capsys)

    return call


def written() -> dict[str, dict]:
    return tomllib.loads(FILE.read_text())


def both_files() -> tuple[bytes, bytes]:
    return FILE.read_bytes(), FILE.with_suffix(".pred").read_bytes()


def test_the_first_baseline(accepted: Path) -> None:
    found = tomllib.loads((accepted / FILE).read_text())
    metrics = json.loads((accepted / "runs/tiny/metrics.json").read_text())
    assert found["name"] == "main" and found["accepted"]["reason"] == "accepted by a test"
    assert found["accepted"]["model"] == "ds-cnn w0.5 8x8"
    assert found["hash"]["evaluation_set"] == metrics["eval_sha256"]
    assert found["hash"]["model_int8"] == metrics["model_sha256"]
    assert found["hash"]["contract"] == metrics["contract_sha256"]
    result, bounds = found["result"], found["bounds"]
    assert result["correct"] / result["samples"] == metrics["accuracy_int8"]
    assert bounds["arena_bytes"] == {"max": metrics["arena_bytes"]}
    assert set(bounds["min_recall_percent"]) == {"rows", "columns", "flat"}
    assert bounds["max_float_int8_drop"] == 20 and bounds["policy"] == "paired"
    words = ["accuracy", "drop", "recall", "float_int8", "c", "arena", "ops", "hashes"]
    assert bounds["require"] == words
    if HAS_QEMU:
        count = metrics["instructions_cortex_m4"]
        assert bounds["instructions"]["value"] == count
        assert bounds["flash_bytes"]["value"] == metrics["flash_bytes"]
        assert set(found["toolchain"]) == {"gcc", "qemu"}
    assert (accepted / FILE).with_suffix(".pred").stat().st_size == 2 * result["samples"]


def test_show_and_check_of_what_was_accepted(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = command("show")
    assert shown.code == 0 and "FAIL" not in shown.out, (shown.out, shown.err)
    assert "accepted by a test" in shown.out and "bound" in shown.out
    document = command("show", "--json").document
    assert document["schema"] == "ndtool.baseline-show/1" and document["verdict"] == "pass"
    checked = ndtool_here("check", "tiny", "--baseline", FILE, capsys=capsys)
    assert checked.code == 0, checked.out


def test_accepting_the_same_again_changes_the_reason(command: Command) -> None:
    before = FILE.read_text()
    done = command("accept", "--json")
    assert done.code == 0 and done.document["changes"] == [] and done.document["failing"] == []
    assert done.document["schema"] == "ndtool.baseline-accept/1"
    assert FILE.read_text() == before
    done = command("accept", "--reason", "a better reason", "--set", "max_drop=.5")
    assert done.code == 0
    assert "bounds.max_drop" in done.out and "1.0 -> 0.5" in done.out
    assert "accepted by a test -> a better reason" in done.out
    assert "0 images lost, 0 gained of 60, p = 1" in done.out
    assert "next     ndtool check tiny --baseline baselines/main.toml" in done.out


def test_a_worse_model_needs_lower_floor(run: RunDir, command: Command) -> None:
    before = both_files()
    edit_int8(run, without_class)
    regenerate(run)
    reseal(run)
    refused = command("accept")
    assert (refused.code, both_files()) == (3, before), refused.err
    assert "under the floor" in refused.err and "[gate.under-floor]" in refused.err
    done = command("accept", "--lower-floor", "--json")
    assert done.code == 0, done.err
    assert written()["bounds"]["min_recall_percent"]["flat"] == 0
    found = done.document["comparison"]
    old, new = tomllib.loads(before[0].decode())["result"], written()["result"]
    assert found["lost"] - found["gained"] == old["correct"] - new["correct"] >= 4
    assert found["classes"][0]["label"] == "flat" and found["classes"][0]["recall_after"] == 0
    keys = {change["key"] for change in done.document["changes"]}
    assert {"bounds.min_accuracy_percent", "hash.predictions", "result.correct"} <= keys


def test_what_check_will_not_let_pass_is_said(command: Command) -> None:
    done = command("accept", "--set", "arena_bytes.max=10", "--set", "min_recall_percent.flat=100")
    assert done.code == 0
    assert "check will fail: arena:" in done.err
    assert (
        "; --set KEY=VALUE gives another bound" in done.err
        and "[baseline.out-of-bounds]" in done.err
    )
    assert written()["bounds"]["min_recall_percent"]["flat"] == 100


def edit_metrics(run: RunDir) -> None:
    edit_text(run / "metrics.json", '"accuracy_int8"', '"accuracy_int9"')


def edit_labels(run: RunDir) -> None:
    edit_text(run / "labels.txt", "rows", "rovs")
    reseal(run)


def edit_c(run: RunDir) -> None:
    """The C's own answer of class 0 made the lowest one."""
    source = next((run / "codegen/posix").glob("nd_model.c"))
    text = source.read_text()
    start = text.index("nd_status nd_model_run")
    at = text.index("return ND_OK", start)
    source.write_text(f"{text[:at]}((int8_t *)nd_model_output(arena))[0] = -128;\n    {text[at:]}")
    reseal(run)


@pytest.mark.parametrize(
    ("mutate", "words"),
    [
        (edit_metrics, "integrity"),
        (edit_labels, "labels"),
        (edit_c, "c:"),
    ],
)
def test_runs_that_cannot_be_a_baseline(
    run: RunDir, command: Command, mutate: Callable[[RunDir], None], words: str
) -> None:
    mutate(run)
    before = both_files()
    done = command("accept")
    assert (done.code, both_files()) == (3, before), (done.out, done.err)
    assert f"cannot be a baseline: {words}" in done.err and "[gate.not-acceptable]" in done.err
    shown = command("show")
    assert shown.code == 0 and "FAIL" in shown.out


def test_other_images_than_the_run_measured_are_refused(command: Command) -> None:
    with np.load("tiny.npz") as found:
        arrays = dict(found)
    np.savez("other.npz", **arrays | {"x_test": arrays["x_test"][::-1]})
    done = command("accept", "--data", "npz:other.npz")
    assert done.code == 3 and "evaluation_set" in done.err


@pytest.mark.parametrize(
    ("key", "words"),
    [("labels", "other classes"), ("contract", "another input contract")],
)
def test_the_baseline_of_another_project_is_not_replaced(
    key: str, words: str, command: Command
) -> None:
    lines = FILE.read_text().splitlines(keepends=True)
    other = f'{key} = "{"0" * 64}"\n'
    FILE.write_text("".join(other if x.startswith(f"{key} = ") else x for x in lines))
    before = both_files()
    done = command("accept", "--lower-floor")
    assert (done.code, both_files()) == (3, before), (done.out, done.err)
    assert f"the run has {words}" in done.err and "[gate.not-acceptable]" in done.err
    assert "--baseline OTHER.toml" in done.err and "baselines/main.pred" in done.err
    FILE.unlink()
    FILE.with_suffix(".pred").unlink()
    assert command("accept", "--set", "max_float_int8_drop=20").code == 0


def test_another_evaluation_set_is_accepted_and_not_compared(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load("tiny.npz") as found:
        arrays = dict(found)
    cut = {"x_test": arrays["x_test"][:59], "y_test": arrays["y_test"][:59]}
    np.savez("tiny.npz", **arrays | cut)
    exported = ndtool_here("export", "tiny", "--int8", "--calib", "50", capsys=capsys)
    assert exported.code == 0, exported.err
    assert ndtool_here("verify", "tiny", capsys=capsys).code == 0
    done = command("accept", "--lower-floor")
    assert done.code == 0, done.err
    assert "not compared: another evaluation set than the old baseline's" in done.out
    assert written()["result"]["samples"] == 59


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--reason", "short"), 2, "option.reason"),
        (("--reason", "two lines\nof reason"), 2, "option.reason"),
        (("--baseline", "main.pred"), 2, "baseline.name"),
        (("--baseline", "tiny.npz/main.toml"), 2, "option.output-file"),
        (("--set", "max_dorp=1"), 2, "did you mean max_drop?"),
        (("--set", "min_recall_percent.row=1"), 2, "did you mean rows?"),
        (("--policy", "lax"), 2, "usage"),
        (("--data", "npz:none.npz"), 2, "none.npz"),
    ],
)
def test_wrong_words_write_nothing(
    command: Command, args: tuple[str, ...], code: int, words: str
) -> None:
    before, there = both_files(), sorted(Path().rglob("*"))
    done = command("accept", *args)
    assert done.code == code and words in done.err, done.err
    assert both_files() == before and sorted(Path().rglob("*")) == there


def test_a_damaged_baseline_is_not_replaced(command: Command) -> None:
    FILE.with_suffix(".pred").write_bytes(b"")
    for verb in ("show", "accept"):
        done = command(verb)
        assert done.code == 3 and "[gate.baseline-damaged]" in done.err


def test_show_of_a_baseline_that_is_missing(command: Command) -> None:
    done = command("show", "--baseline", "none.toml")
    assert done.code == 3 and "[gate.baseline-missing]" in done.err
    assert command("show", "--baseline", "none.toml", "--json").document["exit"] == 3


def test_the_file_of_the_configuration(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ndtool.toml").write_text(f'[check]\nbaseline = "{FILE}"\npolicy = "strict"\n')
    done = ndtool_here("baseline", "accept", "tiny", *REASON, "--json", capsys=capsys)
    assert done.code == 0, done.err
    # the policy of check is of that one judgement, not the baseline's
    assert done.document["changes"] == [] and written()["bounds"]["policy"] == "paired"
    done = ndtool_here("baseline", "accept", "tiny", *REASON, "--policy", "strict", capsys=capsys)
    assert done.code == 0 and written()["bounds"]["policy"] == "strict"
