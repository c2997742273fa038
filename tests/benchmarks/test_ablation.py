"""The pure parts of benchmarks/ablation*.py: rows, plan, statistics, page, what is left to do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_data
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ndtool.export.extract import extract_student, float_logits
from ndtool.prepare import prepare
from ndtool.rundir import RunDir
from ndtool.training.stage import train_stage
from ndtool.types import Part

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import ablation
import ablation_report as report
import ablation_rows as rows
import ablation_run as run

RATIOS = {"baseline": 1.0, "full": 3.4, "first-third": 1.8, "every-4th": 1.6}


def result(row: str, seed: int, last: float, **more: Any) -> dict[str, Any]:
    return {
        "row": row,
        "seed": seed,
        "epochs": 10,
        "test_last": last,
        "test_best": last + 0.01,
        "train_last": None,
        "val_teacher": None,
        "cpu_s": 2.0,
        "step_s": 3.0,
        "step_ratio": None,
        "time_s": 2.0,
        "images_per_s": 100.0,
        "gpu_percent": None,
        "arithmetic": 1.0,
        "conflict_rate": None,
        "kl_share": None,
        **more,
    }


# ---- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "baseline",
        "baseline@2",
        "full@0.5",
        "baseline@full",
        "full:lr=.2",
        "first-third:lr=.2:no-surgery@full:expand=2",
    ],
)
def test_a_row_is_read_and_written_alike(text: str) -> None:
    assert rows.parse_row(text).name == text


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "full@", "full@0", "full@-1", "full@nan", "full@inf", "full@x", "full@1e9"],
)
def test_a_row_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no row|neither|times"):
        rows.parse_row(text)


@pytest.mark.parametrize("text", ["kd@full", "baseline@kd", "baseline@full+kd", "baseline@teacher"])
def test_an_unknown_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="outer teacher"):
        rows.parse_row(text)


def test_every_row_of_the_tables_is_known_and_taken_by_the_command() -> None:
    for names in rows.TABLES.values():
        for name in names:
            rows.parse_row(name)
    for form, flags in rows.FORMS.items():
        options = run.parse_options(flags)
        assert (options.recipe.value == "plain") == (form in (rows.BASELINE, rows.TEACHER))


@pytest.mark.parametrize("preset", ablation.PRESETS)
def test_presets_are_taken_by_the_command(preset: str) -> None:
    options = run.parse_options(ablation.PRESETS[preset].flags)
    assert (options.model, options.width) == ("mbv2", 0.35)


def test_epochs_by_number_and_by_time() -> None:
    def epochs(text: str) -> int:
        return rows.epochs_of(rows.parse_row(text), 20, RATIOS.__getitem__)

    assert epochs("full") == 20
    assert epochs("full@2") == 40
    assert epochs("baseline@full") == 68
    assert epochs("first-third@full") == round(20 * 3.4 / 1.8)
    assert epochs("full@baseline") == 6
    assert epochs("full@.001") == 1


def test_teachers_come_before_their_pupils_and_seeds_one_after_the_other() -> None:
    wanted = [rows.parse_row(text) for text in ("baseline", "kd", "full+kd", "baseline")]
    jobs = rows.plan(wanted, (0, 5), 7, RATIOS.__getitem__)
    assert [job.name for job in jobs] == [
        *("teacher-s0", "baseline-s0", "kd-s0", "full-kd-s0"),
        *("teacher-s5", "baseline-s5", "kd-s5", "full-kd-s5"),
    ]
    assert [job.needs for job in jobs[:4]] == ["", "", "teacher-s0", "teacher-s0"]
    assert all(job.epochs == 7 for job in jobs)


@given(text=st.sampled_from(list(rows.FORMS)), seed=st.integers(0, 99), factor=st.floats(0.01, 9))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_names_of_runs_are_names_of_folders(text: str, seed: int, factor: float) -> None:
    row = rows.parse_row(f"{text}@{factor}")
    name = rows.Job(row=row, seed=seed, epochs=1).name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") and name[0] not in ".-"


def test_a_row_is_held_against_plain_training_of_equal_epochs_and_of_equal_time() -> None:
    there = ["baseline", "baseline@2", "baseline@full", "baseline:lr=.2", "baseline@first-third"]

    def against(text: str) -> list[str]:
        return rows.opponents(rows.parse_row(text), there)

    assert against("full") == ["baseline", "baseline@full"]
    assert against("full@2") == ["baseline@2"]
    assert against("surgery") == ["baseline"]
    assert against("full:lr=.2") == ["baseline", "baseline:lr=.2", "baseline@full"]
    assert against("full:expand=2") == ["baseline"]  # another time than that of `full`
    assert against("first-third@full") == ["baseline@full"]
    assert against("first-third@baseline") == ["baseline"]
    assert against("baseline@full") == against("teacher") == []


# ---- statistics ----------------------------------------------------------------------------------


def test_summary_by_hand() -> None:
    one = report.summarise([1.0, 2.0, 6.0])
    assert (one.mean, one.n) == (3.0, 3)
    assert one.sd == pytest.approx(7**0.5)
    assert report.summarise([4.0]).sd is None


def test_the_interval_of_three_pairs_by_hand() -> None:
    found = report.difference({0: 3.0, 1: 5.0, 2: 7.0, 9: 1.0}, {0: 1.0, 1: 2.0, 2: 3.0})
    assert found is not None and found.interval is not None
    assert (found.mean, found.n) == (3.0, 3)
    half = 4.302652729696142 / 3**0.5  # t_.975 of 2 degrees of freedom; the differences' sd is 1
    assert found.interval == pytest.approx((3 - half, 3 + half))


def test_no_interval_of_one_pair_and_no_difference_without() -> None:
    found = report.difference({0: 3.0}, {0: 1.0, 1: 1.0})
    assert found is not None and found.interval is None and found.mean == 2.0
    assert report.difference({0: 3.0}, {1: 1.0}) is None


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=9, unique_by=sum)
)
@settings(derandomize=True, deadline=None, max_examples=50)
def test_the_interval_is_that_of_scipys_paired_test(pairs: list[tuple[float, float]]) -> None:
    a, b = (dict(enumerate(side)) for side in zip(*pairs, strict=True))
    found = report.difference(a, b)
    assert found is not None and found.interval is not None
    gaps = np.subtract(list(a.values()), list(b.values()))
    if gaps.std() < 1e-9:  # scipy divides by it
        assert found.interval == pytest.approx((found.mean, found.mean))
        return
    low, high = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high), abs=1e-6)


# ---- page ----------------------------------------------------------------------------------------


def test_table_and_differences() -> None:
    results = [result("full", s, 0.5 + 0.1 * s, time_s=6.0) for s in (1, 0)]
    results += [result("baseline", s, 0.4) for s in (0, 1, 2)] + [result("other", 0, 0.1)]
    found = report.by_row(results, ["baseline", "netaug", "full"])
    assert list(found) == ["baseline", "full"]
    assert [r["seed"] for r in found["full"]] == [0, 1]
    base, full = report.tabulate(found)
    assert (base["n"], base["test_last"], base["test_last_sd"]) == (3, 40.0, 0.0)
    assert (full["test_last"], full["test_last_sd"]) == (55.0, 7.07)
    assert full["test_last_values"] == [50.0, 60.0]
    assert (full["time_of_baseline"], full["conflict_rate"]) == (3.0, None)
    (line,) = report.compare(found)
    assert (line["row"], line["minus"]) == ("full", "baseline")
    assert line["test_last"]["mean"] == 15.0 and line["test_last"]["n"] == 2


def test_held_against_plain_rows_that_took_as_long() -> None:
    """A row with an outer teacher took that one's training, too."""
    times = {"baseline": 1.0, "baseline@2": 2.0, "baseline@4": 4.3, "teacher": 2.5, "kd": 1.5}
    results = [result(name, 0, 0.5, time_s=time) for name, time in {**times, "mix": 2.1}.items()]
    found = report.by_row(results, [*times, "mix"])
    lines = [(line["row"], line["minus"]) for line in report.compare(found)]
    assert ("kd", "baseline@4") in lines and ("mix", "baseline@2") in lines
    assert ("kd", "baseline@2") not in lines and ("mix", "baseline@4") not in lines
    assert not any(row.startswith(("baseline", "teacher")) for row, _ in lines)
    assert len(lines) == len(set(lines))
    table = {line["row"]: line for line in report.tabulate(found)}
    assert (table["kd"]["time_of_baseline"], table["kd"]["time_with_teacher"]) == (1.5, 4.0)
    alone = report.by_row([*results[:3], result("kd", 0, 0.5)], ["baseline", "kd"])
    assert report.tabulate(alone)[-1]["time_with_teacher"] is None


def test_the_page_has_a_line_for_each_row() -> None:
    results = [result("full", 0, 0.5, conflict_rate=[0.5, 0.25], kl_share=[1.0, 0.5])]
    found = report.by_row([*results, result("baseline", 0, 0.4)], ["baseline", "full"])
    text = report.page(
        {
            "paper_table": 1,
            "data": "DATA",
            "set_up": "SET-UP",
            "commands": ["COMMAND"],
            "machine": {"torch": "2"},
            "table": report.tabulate(found),
            "differences": report.compare(found),
            "unfinished": ["full-s1"],
        }
    )
    lines = text.splitlines()
    widths = {line.count("|") for line in lines if line.startswith("| ")}
    assert widths == {16, 6}
    assert any(line.startswith("| full | 1 | 10 | 50.00 (50.00) |") for line in lines)
    assert "| full | baseline | 1 | +10.00 | +10.00 |" in lines
    assert "0.50 -> 0.25" in text and "Not finished: full-s1." in text


# ---- what is left to do --------------------------------------------------------------------------


def test_settings_as_flags() -> None:
    assert run.as_flags(["precision=bf16", "no-flip", "weight_decay=1e-4"]) == [
        *("--precision=bf16", "--no-flip", "--weight-decay=1e-4"),
    ]
    options = run.parse_options(run.as_flags(["precision=bf16", "no-flip", "lr=.3", "expand=2,3"]))
    assert (options.precision.value, options.flip, options.lr) == ("bf16", False, 0.3)
    assert options.expand == (2, 3)


@pytest.mark.parametrize("flag", ["--lr=x", "--nothing=1", "--lr=-1"])
def test_a_wrong_setting_ends_the_program_with_its_message(flag: str) -> None:
    with pytest.raises(SystemExit, match=flag.partition("=")[0]):
        run.parse_options([flag])


def test_the_teacher_is_wide_and_has_no_strides(tmp_path: Path) -> None:
    common = ("--model=mbv2", "--stem-stride=1", "--strides=1,1,2,2,1,2", "--lr=0.2")
    teacher, kd = rows.plan([rows.parse_row("kd")], [3], 4, RATIOS.__getitem__)
    flags = run.flags_of(teacher, common, {3: "digits"}, tmp_path)
    assert flags[0] == "--data=digits" and "--epochs=4" in flags and "--lr=0.2" in flags
    assert [f for f in flags if f.startswith(("--model", "--str", "--stem"))] == [
        "--model=wide_teacher:wide"
    ]
    best = tmp_path / "runs" / "teacher-s3" / "train" / "best.pt"
    assert run.flags_of(kd, common, {3: "digits"}, tmp_path)[-1] == f"--teacher=checkpoint:{best}"


def test_a_pupil_waits_for_its_teacher(tmp_path: Path) -> None:
    (tmp_path / run.RESULTS).mkdir()
    jobs = rows.plan(map(rows.parse_row, ("baseline", "kd")), [0], 4, RATIOS.__getitem__)
    assert [j.name for j in ablation.startable(jobs, tmp_path)] == ["teacher-s0", "baseline-s0"]
    ablation.result_path(tmp_path, jobs[0]).write_text("{}")
    assert [j.name for j in ablation.startable(jobs, tmp_path)] == [j.name for j in jobs]


def test_a_folder_keeps_its_settings(tmp_path: Path) -> None:
    base = ["--table", "1", "--data", "digits", "--epochs", "3", "--out", str(tmp_path)]
    mine = ablation.parse_arguments(base)
    first, images = ablation.find_images(mine, tmp_path)
    for _ in range(2):
        ablation.settle(tmp_path, mine.flags, images.title, first, mine)
    other = ablation.parse_arguments([*base, "--set", "lr=.2"])
    with pytest.raises(SystemExit, match="other settings"):
        ablation.settle(tmp_path, other.flags, images.title, first, other)
    tiny = f"npz:{tiny_data.write_npz(tmp_path / 'tiny.npz')}"
    other_data = prepare(replace(first.options, data=tiny), name="step", out=tmp_path)
    with pytest.raises(SystemExit, match="other settings"):
        ablation.settle(tmp_path, mine.flags, images.title, other_data, mine)


def test_rows_stay_in_a_table_with_their_seeds(tmp_path: Path) -> None:
    assert ablation.remember_rows(tmp_path, 1, ["baseline"], [0, 1]) == {"baseline": [0, 1]}
    assert ablation.remember_rows(tmp_path, 2, ["full"], [0]) == {"full": [0]}
    both = {"baseline": [0, 1, 4], "full": [4]}
    assert ablation.remember_rows(tmp_path, 1, ["full", "baseline"], [4]) == both
    assert ablation.remember_rows(tmp_path, 1, [], []) == both


def test_places_are_not_in_what_is_published(tmp_path: Path) -> None:
    words = ["--table", "2", "--data", f"npz:{tmp_path}/cifar.npz", "--epochs", "3"]
    found = ablation.parse_arguments([*words, "--seeds", "2,0", "--out", str(tmp_path)])
    assert found.seeds == [0, 2] and found.label == "cifar"
    two, one = ablation.command_lines(found, {"baseline": [3], "full": [0, 1], "mix": [0, 1]})
    assert str(tmp_path) not in one + two
    assert "--seeds 0,1 --rows full,mix" in two and "--seeds 3 --rows baseline" in one
    (whole,) = ablation.command_lines(found, {row: [0, 2] for row in rows.TABLES[2]})
    assert "--rows" not in whole
    assert ablation.find_data(found.data) == (found.data, "cifar")


def test_each_seed_has_images_of_its_own_with_the_sources_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    whole = f"npz:{tiny_data.write_npz(tmp_path / 'tiny.npz')}"
    base = ["--table", "1", "--data", whole, "--epochs", "1", "--seeds", "0,1", "--out", "x"]
    first, images = ablation.find_images(ablation.parse_arguments(base), tmp_path)
    assert images == ablation.Images(of_seed={0: whole, 1: whole}, flags=(), title="tiny")

    few = ablation.parse_arguments([*base, "--train-images", "30", "--set", "crop=2"])
    first, images = ablation.find_images(few, tmp_path)
    assert images.title == "tiny, 30 training images a seed"
    assert images.flags == ("--crop=2", "--flip" if first.options.flip else "--no-flip")
    assert len({*images.of_seed.values(), whole}) == 3
    for seed, spec in images.of_seed.items():
        drawn = prepare(replace(first.options, data=spec, seed=seed), name="", out=tmp_path)
        assert sum(drawn.source.info.counts[Part.TRAIN]) == 30


@pytest.mark.parametrize(
    "words", [[], ["--data", "digits"], ["--preset", "cifar10"], ["--rows", "x"], ["--seeds", "a"]]
)
def test_a_call_without_what_it_needs_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    complete = (
        ["--data", "digits", "--epochs", "1"] if words[:1] in (["--rows"], ["--seeds"]) else []
    )
    with pytest.raises(SystemExit) as stopped:
        ablation.parse_arguments(["--table", "1", "--out", "x", *complete, *words])
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


# ---- with runs -----------------------------------------------------------------------------------


def test_a_gpus_use_is_noted_for_every_run_that_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / run.GPU).mkdir()
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '80\\n40\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (job,) = rows.plan([rows.parse_row("full")], [0], 4, RATIOS.__getitem__)
    for _ in range(2):
        ablation.note_gpu(tmp_path, [job])
    assert (tmp_path / run.GPU / "full-s0.txt").read_text() == "60.0\n60.0\n"
    tool.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    ablation.note_gpu(tmp_path, [job])
    assert (tmp_path / run.GPU / "full-s0.txt").read_text() == "60.0\n60.0\n"


@pytest.mark.slow
def test_a_result_has_the_accuracy_that_the_exported_student_has(tmp_path: Path) -> None:
    data = tiny_data.write_npz(tmp_path / "tiny.npz")
    flags = ["--strides=1,1,1,1", "--stem-stride=1", "--batch-size=32", "--threads=1", "--lr=.3"]
    (job,) = rows.plan([rows.parse_row("full")], [1], 12, RATIOS.__getitem__)
    options = run.parse_options(run.flags_of(job, flags, {1: f"npz:{data}"}, tmp_path))
    prepared = prepare(options, name=job.name, out=tmp_path / run.RUNS)
    train_stage(prepared, {}, force=False, resume=False)
    found = run.measure_run(job, prepared)
    with np.load(data) as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    extract_student(prepared.run)
    guess = float_logits(prepared.run, x[..., None]).argmax(1)
    assert found["test_best"] == pytest.approx(float((guess == y).mean()))
    assert found["test_best"] > 0.5  # of three classes
    assert found["test_count"] == len(y) and found["epochs"] == 12
    assert found["cpu_s"] > 0 and found["time_s"] == found["cpu_s"]
    assert found["step_ratio"] > 1 and found["arithmetic"] > 2
    assert 0 <= found["train_last"] <= 1
    assert found["kl_share"][0] > found["kl_share"][1] > 0  # the student grew sure


@pytest.mark.slow
def test_a_stopped_table_is_finished_by_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = tiny_data.write_npz(tmp_path / "tiny.npz")
    words = ["--table", "1", "--data", f"npz:{data}", "--epochs", "1", "--seeds", "0"]
    words += ["--set", "batch-size=32", "--set", "resolution=16", "--jobs", "2"]
    words += ["--rows", "baseline,full"]
    words += ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    page = tmp_path / "results" / "ablation-1-tiny.md"

    assert ablation.main([*words, "--minutes", "0.0001"]) == ablation.UNFINISHED
    assert "Not finished: baseline-s0, full-s0." in page.read_text()

    assert ablation.main(words) == 0, capfd.readouterr()
    document = json.loads(page.with_suffix(".json").read_text())
    assert [line["row"] for line in document["table"]] == ["baseline", "full"]
    assert document["unfinished"] == [] and document["differences"][0]["minus"] == "baseline"
    assert str(tmp_path) not in page.read_text() + page.with_suffix(".json").read_text()

    capfd.readouterr()
    assert ablation.main(words) == 0
    assert capfd.readouterr().out.startswith("2 of 2 runs are done")

    # What other calls have left undone is told by each of them.
    more = [*words, "--rows", "mix", "--seeds", "1", "--minutes", "0.0001"]
    assert ablation.main(more) == ablation.UNFINISHED
    assert ablation.main(words) == 0
    assert "Not finished: mix-s1." in page.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_run_goes_on_when_the_program_is_ended(tmp_path: Path, number: int) -> None:
    data = tiny_data.write_npz(tmp_path / "tiny.npz")
    words = ["--table", "1", "--data", f"npz:{data}", "--epochs", "9999", "--seeds", "0"]
    words += ["--set", "resolution=16", "--rows", "baseline"]
    words += ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    history = tmp_path / "out" / "runs" / "baseline-s0" / "train" / "history.csv"
    started = subprocess.Popen(
        [sys.executable, ablation.__file__, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(history.is_file)
        started.send_signal(number)
        assert started.wait(60) == (143 if number == signal.SIGTERM else -number)
        eventually(lambda: not group_lives(started.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_run_that_another_process_is_at_is_unfinished_and_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = tiny_data.write_npz(tmp_path / "tiny.npz")
    words = ["--table", "1", "--data", f"npz:{data}", "--epochs", "1", "--seeds", "0"]
    words += ["--set", "resolution=16", "--rows", "baseline"]
    words += ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    other = RunDir(tmp_path / "out" / "runs" / "baseline-s0")
    other.path.mkdir(parents=True)
    with other.lock():
        assert ablation.main(words) == ablation.UNFINISHED
    assert ablation.main(words) == 0


def group_lives(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True


def eventually(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
