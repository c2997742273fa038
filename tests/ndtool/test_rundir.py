"""The run folder: atomic writes, what is up to date and why, locks, hostile manifests."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ndtool import console
from ndtool.errors import ConfigError, InputError
from ndtool.files import (
    read_bounded,
    require_outputs,
    require_writable,
    sha256_file,
    write_atomic,
)
from ndtool.rundir import (
    LABELS,
    LOCK,
    MANIFEST,
    METRICS,
    TFLITE,
    RunDir,
    StageKey,
    StageOutput,
    find_run,
    run_folder,
    run_stage,
    slug,
)
from ndtool.types import Sha256


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def stage(run: RunDir, **changes: object) -> tuple[bool, int]:
    """Run a stage that copies a.txt to b.txt; (did it run, how often did the work run)."""
    values: dict[str, object] = {
        "stage": "copy",
        "version": 1,
        "options": {"n": 1},
        "files": ("a.txt",),
    }
    calls = []

    def work() -> StageOutput:
        calls.append(1)
        name = run.write_text("b.txt", (run / "a.txt").read_text())
        return StageOutput(files=(name,), figures={"size": 1, "absent": None})

    did = run_stage(run, StageKey(**(values | changes)), work, force=False)  # type: ignore[arg-type]
    return did, len(calls)


def test_second_time_is_up_to_date(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    run.write_text("a.txt", "one")
    assert stage(run) == (True, 1)
    assert stage(run) == (False, 0)
    assert "copy: up to date" in capsys.readouterr().err
    assert json.loads((run / METRICS).read_text()) == {"size": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"options": {"n": 2}}, "n 1 -> 2"),
        ({"options": {"n": 1, "more": 3}}, "more none -> 3"),
        ({"version": 2}, "version 1"),
        ({"sources": {"data": Sha256("0" * 64)}}, "data changed"),
    ],
)
def test_key_changes_are_named(
    run: RunDir, change: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    assert stage(run, **change) == (True, 1)
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "reason"), [("a.txt", "a.txt changed"), ("b.txt", "b.txt was changed by hand")]
)
def test_changed_files_are_named(
    run: RunDir, name: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    run.write_text(name, "two")
    assert stage(run) == (True, 1)
    assert reason in capsys.readouterr().err


def test_missing_artifact_is_made_again_and_mtime_means_nothing(run: RunDir) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    os.utime(run / "a.txt", (1, 1))
    assert stage(run) == (False, 0)
    (run / "b.txt").unlink()
    assert stage(run) == (True, 1)


def test_stale_stages_are_found(run: RunDir) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    run_stage(
        run,
        StageKey(stage="next", version=1, options={}, files=("b.txt",)),
        lambda: StageOutput(files=(run.write_text("c.txt", "x"),)),
        force=False,
    )
    assert run.stale_stages() == []
    run.write_text("a.txt", "two")
    stage(run)
    assert run.stale_stages() == ["next"]


def test_what_a_stale_stage_wrote_makes_stale_in_any_order(run: RunDir) -> None:
    """The manifest is sorted by name: a stage may stand before the one that it reads of."""
    run.write_text("a.txt", "one")
    for stage, read, written in (("c", "a.txt", "1"), ("a", "1", "2"), ("b", "2", "3")):
        run_stage(
            run,
            StageKey(stage=stage, version=1, options={}, files=(read,)),
            lambda written=written: StageOutput(files=(run.write_text(written, "x"),)),
            force=False,
        )
    assert run.stale_stages() == []
    run.write_text("a.txt", "two")
    assert run.stale_stages() == ["a", "b", "c"]


def test_manifest_holds_no_machine_path(run: RunDir) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    text = (run / MANIFEST).read_text()
    assert str(run.path.parent) not in text
    assert socket.gethostname() not in text


def test_a_failed_stage_leaves_no_row(run: RunDir) -> None:
    run.write_text("a.txt", "one")

    def broken() -> StageOutput:
        raise InputError("no", where="x", remedy="y", code="z")

    with pytest.raises(InputError):
        run_stage(run, StageKey(stage="s", version=1, options={}), broken, force=False)
    assert run.manifest().stages == {}


def test_atomic_write_keeps_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_kill_9_while_writing_leaves_a_whole_manifest(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ndtool.rundir import *\n"
        "run = RunDir(Path(sys.argv[1]))\n"
        "run.write_text('a.txt', 'x'); print('up', flush=True)\n"
        "for i in range(10**6):\n"
        "    run_stage(run, StageKey(stage=f's{i % 50}', version=i + 1, options={'i': i}),\n"
        "              lambda: StageOutput(files=('a.txt',)), force=False)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.5)
    child.kill()
    child.wait(timeout=10)
    child.stdout.close()
    assert RunDir(tmp_path).manifest().stages


def test_lock_keeps_a_second_writer_out(run: RunDir) -> None:
    with run.lock():
        with pytest.raises(InputError) as caught, RunDir(run.path).lock():
            pass
        assert caught.value.code == "run.locked"
    with run.lock():
        pass
    assert not (run / LOCK).exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_names_the_file(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ndtool.files._temporary", lambda _: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda *_args, **_rest: None)
    with pytest.raises(OSError, match="No space left") as caught:
        run.write_text("a.txt", "x")
    assert caught.value.filename == str(run / "a.txt")


def test_a_writer_that_writes_nothing_leaves_no_folder(run: RunDir) -> None:
    with run.lock():
        assert (run / LOCK).exists()
    assert not run.path.exists()
    with run.lock():
        run.write_text("kept", "x")
    assert [path.name for path in run.path.iterdir()] == ["kept"]


def test_lock_of_a_killed_process_is_free(run: RunDir) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ndtool.rundir import RunDir\n"
        "with RunDir(Path(sys.argv[1])).lock(): print('in', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"in\n"
    with pytest.raises(InputError) as caught, run.lock():
        pass
    assert caught.value.code == "run.locked"
    child.kill()
    child.wait(timeout=10)
    child.stdout.close()
    run.write_text(".half-written.1.tmp", "x")
    with run.lock():
        assert not (run / ".half-written.1.tmp").exists()


def test_only_one_of_many_writers_gets_in(run: RunDir) -> None:
    code = (
        "import sys; from pathlib import Path; from ndtool.errors import InputError\n"
        "from ndtool.rundir import RunDir\n"
        "run = RunDir(Path(sys.argv[1])); busy = run / 'busy'\n"
        "for _ in range(300):\n"
        "    try:\n"
        "        with run.lock():\n"
        "            busy.touch(exist_ok=False); busy.unlink()\n"
        "    except InputError:\n"
        "        pass\n"
    )
    arguments = [sys.executable, "-c", code, str(run.path)]
    children = [subprocess.Popen(arguments, stderr=subprocess.PIPE) for _ in range(3)]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors.decode()


def test_problems_name_what_does_not_hold_together(run: RunDir) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    assert run.problems() == []
    run.write_text("b.txt", "changed")
    assert run.problems() == ["b.txt is not what copy wrote"]
    (run / "b.txt").unlink()
    assert run.problems() == ["b.txt is missing"]
    stage(run)
    run.write_text(METRICS, "{}")
    (problem,) = run.problems()
    assert problem.startswith(f"{METRICS} is not what the stages measured: ")
    (run / METRICS).unlink()
    assert run.problems() == [f"{METRICS} is missing"]
    assert stage(run) == (False, 0)  # up to date, and metrics.json is made again
    assert run.problems() == []
    run.write_text("a.txt", "two")
    assert run.problems() == ["copy is older than what it reads"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accuracy": 0.5}, "accuracy"),
        ({"a\nb": 1, "more": True}, "a\\x0ab, more"),
        ({f"key{k}": k for k in range(7)}, "key0, key1, key2, key3, key4, 2 more"),
        ({}, "only its layout"),
    ],
)
def test_figures_that_differ_are_named(change: dict[str, object], words: str, run: RunDir) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    figures = json.loads((run / METRICS).read_text()) | change
    run.write_text(METRICS, json.dumps(figures))
    assert run.problems() == [f"{METRICS} is not what the stages measured: {words}"]


@pytest.mark.parametrize("text", ["[]", "nul", "[" * 100_000, "1" * 5000, "\udcff"])
def test_metrics_that_are_no_figures(text: str, run: RunDir) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    (run / METRICS).write_text(text, "utf-8", "surrogateescape")
    (problem,) = run.problems()
    assert problem == f"{METRICS} is not what the stages measured: no table of figures"


def test_labels_that_are_a_link_are_not_read(run: RunDir, tmp_path: Path) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    (tmp_path / "elsewhere").write_text("rows\n")
    (run / LABELS).symlink_to(tmp_path / "elsewhere")
    rows = {LABELS: {"sha256": sha256_file(run / LABELS), "bytes": 5, "stage": "copy"}}
    edit_manifest(run, lambda manifest: manifest["files"].update(rows))
    assert run.problems() == [f"{LABELS} is a link"]


def edit_manifest(run: RunDir, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((run / MANIFEST).read_text())
    change(manifest)
    run.write_text(MANIFEST, json.dumps(manifest))
    run.write_metrics()


def test_a_manifest_that_says_nothing_hides_nothing(run: RunDir) -> None:
    """Rows taken out of it: files that no stage answers for do not hold together."""
    run.write_text("a.txt", "one")
    stage(run)
    run.write_text(TFLITE, "whose?")
    assert run.problems() == [f"{TFLITE} was written by no stage"]
    (run / TFLITE).unlink()
    edit_manifest(run, lambda manifest: manifest["stages"].clear())
    assert run.problems() == ["b.txt was written by copy, of which nothing else is known"]


def test_a_stage_that_read_outside_the_folder_is_refused(run: RunDir) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    manifest = json.loads((run / MANIFEST).read_text())
    manifest["stages"]["copy"]["reads"] = {"/etc/passwd": "0" * 64}
    run.write_text(MANIFEST, json.dumps(manifest))
    with pytest.raises(InputError, match="leaves the run folder"):
        run.problems()


def test_forgotten_stage_must_run_again(run: RunDir) -> None:
    run.write_text("a.txt", "one")
    stage(run)
    run.forget("copy")
    assert run.manifest().files == {} and json.loads((run / METRICS).read_text()) == {}
    assert stage(run) == (True, 1)


def test_what_a_new_input_makes_untrue_is_dropped_with_its_files(run: RunDir) -> None:
    run.write_text("a.txt", "one")
    stage(run, stage="copy:b")
    run.forget_stale("copy")
    assert run.has("b.txt") and "copy:b" in run.manifest().stages
    run.write_text("a.txt", "two")
    run.forget_stale("cop")
    assert run.has("b.txt") and "copy:b" in run.manifest().stages
    run.forget_stale("copy")
    assert not run.has("b.txt") and run.manifest().stages == {}
    assert run.problems() == []


def test_a_stage_of_which_a_file_is_gone_is_dropped_too(run: RunDir) -> None:
    """A committed folder holds no predictions: their figures are absent until measured again."""
    run.write_text("a.txt", "one")
    stage(run)
    (run / "b.txt").unlink()
    assert run.problems() == ["b.txt is missing"]
    run.forget_stale("other")
    assert "copy" in run.manifest().stages
    run.forget_stale("copy")
    assert run.manifest().stages == {} and run.problems() == []


def test_an_output_file_is_tried_before_the_work(tmp_path: Path) -> None:
    require_writable(tmp_path / "new/folder/x.xml", "--junit")
    assert list((tmp_path / "new/folder").iterdir()) == []
    (tmp_path / "old").write_text("as it was")
    require_writable(tmp_path / "old", "--junit")
    assert (tmp_path / "old").read_text() == "as it was"
    for bad in (tmp_path, tmp_path / "old/x", tmp_path / "a\0b", tmp_path / ("n" * 255)):
        with pytest.raises(ConfigError, match="cannot write") as caught:
            require_writable(bad, "--junit")
        assert caught.value.where.startswith("--junit ")


def refused_output(**given: object) -> str:
    """What is wrong with these outputs; nothing was made for them."""
    outputs = {f"--{k}": v for k, v in given.items() if k in ("junit", "markdown", "csv")}
    with pytest.raises(ConfigError) as caught:
        require_outputs(outputs, inputs=given.get("inputs", ()), run=given.get("run"))
    assert caught.value.code == "option.output-file"
    return f"{caught.value.where}: {caught.value.what}"


def test_an_output_is_no_input_also_by_a_link(tmp_path: Path) -> None:
    read = tmp_path / "b.toml"
    read.write_text("kept")
    (tmp_path / "link").symlink_to(read)
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "hard").hardlink_to(read)
    inputs = [Path("a\0b"), read, tmp_path / "missing.pred"]
    for name in ("b.toml", "link", "folder/b.toml", "x/../b.toml", "hard", "missing.pred"):
        said = refused_output(junit=tmp_path / name, inputs=inputs)
        assert said.startswith("--junit ") and "the command reads this file" in said
    said = refused_output(junit=tmp_path / "b.toml", inputs=[tmp_path / "link"])
    assert "the command reads this file" in said
    assert read.read_text() == "kept" and not (tmp_path / "x").exists()
    require_outputs({"--junit": tmp_path / "j.xml", "--markdown": None}, inputs=inputs)


def test_an_output_is_not_inside_the_run_folder(run: RunDir, tmp_path: Path) -> None:
    run.write_text("contract.json", "{}")
    (tmp_path / "link").symlink_to(run.path)
    (run.path / "out").symlink_to(tmp_path)  # of a link itself and of what it leads to
    for place in (run.path / "new/j.xml", tmp_path / "link/j.xml", run.path / "out", run.path):
        said = refused_output(markdown=place, run=run.path)
        assert "inside the run folder" in said
    assert "inside" in refused_output(markdown=run.path / "j", run=tmp_path / "link")
    assert not (run.path / "new").exists()
    require_outputs({"--junit": run.path / "out/j.xml"}, inputs=[], run=run.path)  # leads out


def test_a_run_folder_without_its_contract_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    RunDir(Path("runs/x")).write_text("manifest.json", "{}")
    assert run_folder("x") == run_folder("runs/x") == Path("runs/x")
    assert run_folder("runs") is None and run_folder("n" * 300) is None


def test_two_outputs_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "one")
    said = refused_output(junit=tmp_path / "one", markdown=tmp_path / "link")
    assert said.startswith("--markdown ") and said.endswith("--junit names the same file")
    console.configure(quiet=False, verbose=False, as_json=False, log_file=tmp_path / "log")
    said = refused_output(csv=tmp_path / "log")
    console.configure(quiet=False, verbose=False, as_json=False)
    assert said.endswith("--log-file names the same file")
    assert not (tmp_path / "one").exists()


def test_an_output_of_no_file_is_refused_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")  # in a circle
    for bad in (Path("/proc/x.csv"), tmp_path, tmp_path / "a\0b", tmp_path / "a" / "x"):
        said = refused_output(csv=bad, inputs=[tmp_path / "c"], run=tmp_path / "run")
        assert said.startswith(console.visible(f"--csv {bad}")) and "cannot write" in said
        assert ".tmp" not in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"schema": "ndtool.manifest/9"}',
        '{"files": {"../../etc/passwd": {"sha256": "0", "bytes": 1, "stage": "x"}}}',
        '{"files": {"/etc/passwd": {"sha256": "0", "bytes": 1, "stage": "x"}}}',
        '{"unknown": 1}',
        '{"stages": {"train": {}}}',
    ],
)
def test_hostile_manifests(run: RunDir, text: str) -> None:
    run.write_text(MANIFEST, text)
    with pytest.raises(InputError) as caught:
        run.manifest()
    assert caught.value.code == "run.manifest"


def test_find_run_by_path_or_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/x").mkdir(parents=True)
    (tmp_path / "runs/x/contract.json").write_text("{}")
    assert find_run("x").path == Path("runs/x")
    assert find_run(str(tmp_path / "runs/x")).path == tmp_path / "runs/x"
    with pytest.raises(InputError):
        find_run("y")


def test_write_atomic_replaces_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder"):
        with pytest.raises(InputError):
            write_atomic(tmp_path / name, b"x")
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomic(tmp_path / "link", b"x")
    assert (tmp_path / "target").read_bytes() == b"kept"


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_lock_that_is_no_file_is_refused(run: RunDir, kind: str) -> None:
    run.path.mkdir()
    if kind == "fifo":
        os.mkfifo(run / LOCK)
    elif kind == "link":
        (run / LOCK).symlink_to("/dev/zero")
    else:
        (run / LOCK).mkdir()
    with pytest.raises(InputError), run.lock():
        pass


def test_read_bounded_refuses_devices_and_large_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path / "missing", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError):
            read_bounded(path)
    (tmp_path / "big").write_bytes(b"12345")
    with pytest.raises(InputError) as caught:
        read_bounded(tmp_path / "big", 4)
    assert caught.value.code == "input.too-large"


@pytest.mark.parametrize(
    ("text", "made"), [("A b/c", "a-b-c"), ("..", "run"), ("w0.35", "w0.35"), ("ä", "run")]
)
def test_slug(text: str, made: str) -> None:
    assert slug(text) == made


def test_a_run_folder_that_is_a_link_to_nowhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "missing" / "too")
    with pytest.raises(OSError, match="run"), RunDir(tmp_path / "run").lock():
        pass
