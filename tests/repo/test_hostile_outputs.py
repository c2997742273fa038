"""Hostile labels, files and tensor names through every output (users.md, 5.7).

No line that a command prints is a command to the CI runner but the annotations of --github, no
control character reaches a terminal, and what programs read parses and gives the same text back.

Of the formats, C strings, comments and constants are held by tests/export/codegen/test_strings.py,
test_naming.py, test_emit.py, test_array.py, test_engine_project.py and test_arena_picture.py; XML
and Markdown by tests/ndtool/gates/test_junit.py and test_markdown.py.
"""

import csv
import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from ci_runner import Command, commands
from command import ndtool, ndtool_here
from engine_graphs import many_layers
from hostile_names import BLANK_NAMES, HOSTILE_NAMES, LABELS
from markdown_page import read_page
from PIL import Image
from verdicts import make_verdict, recalls

from ndtool import console
from ndtool.cli.check import print_check
from ndtool.config import table_text
from ndtool.export.layers import layers_csv
from ndtool.export.tflite.writer import write_tflite
from ndtool.gates.baseline import Accepted, Baseline, Bounds, Hashes, Result
from ndtool.gates.baseline_file import baseline_text, parse_baseline
from ndtool.gates.github import annotation_lines
from ndtool.gates.verdict import Verdict
from ndtool.identity import write_start
from ndtool.options import TrainOptions
from ndtool.prepare import prepare
from ndtool.rundir import SPLIT
from ndtool.types import Sha256

names = pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
# What a terminal obeys, or reads in another direction
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


# One printable line, as a reason has to be
REASON = " ".join(name for name in LABELS if name.isprintable() and len(name) < 100)


@pytest.fixture(autouse=True)
def in_actions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a step of GitHub; the console as every command finds it."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    console.configure(quiet=False, verbose=False, as_json=False)
    yield
    console.configure(quiet=False, verbose=False, as_json=False)


def require_harmless(*texts: str) -> None:
    for text in texts:
        assert commands(text) == []
        assert not CONTROLS.search(text), repr(text)


def hostile_verdict(name: str) -> Verdict:
    return make_verdict(recalls([name]), labels=(name, "b"), notices=[name], run=name, against=name)


# -- the model of the runner ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("::error::x", Command("error", "x")),
        (" \t\u00a0::error a=b,c=3::%0Ac%25", Command("error", "\nc%", {"a": "b", "c": "3"})),
        ("::stop-commands::word", Command("stop-commands", "word")),
        ("::error title=a%3A%2C%25::", Command("error", "", {"title": "a:,%"})),
        ("text ##[error]y", Command("error", "y")),
        ("text ##[group a=b]y", Command("group", "y")),
        ("first\r::error::x", Command("error", "x")),
    ],
)  # fmt: skip
def test_the_runner_finds_commands(line: str, command: Command) -> None:
    assert commands(f"before\n{line}\nafter") == [command]


@pytest.mark.parametrize(
    "line", [".::error::x", "x ::error::y", "##\\[error]y", "::", ":: :", "#[a]"]
)
def test_the_runner_passes_other_lines(line: str) -> None:
    assert commands(line) == []


# -- streams --------------------------------------------------------------------------------------


def printed(verdict: Verdict, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    print_check(verdict)
    return capsys.readouterr().out


@names
def test_check_on_the_screen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(hostile_verdict(name), capsys)
    require_harmless(out)
    assert console.visible(name)[:80].replace("##[", "##\\[") in out


@names
def test_check_on_a_screen_at_home(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = len(
        printed(make_verdict(recalls(["a"]), labels=("a", "b"), notices=["a"]), capsys).splitlines()
    )
    monkeypatch.delenv("GITHUB_ACTIONS")
    out = printed(hostile_verdict(name), capsys)
    assert not CONTROLS.search(out)
    assert len(out.splitlines()) == lines
    assert console.visible(name)[:80] in out


@names
def test_check_as_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = hostile_verdict(name).document()
    console.configure(quiet=False, verbose=False, as_json=True)
    capsys.readouterr()
    console.out_json(document)
    out = capsys.readouterr().out
    require_harmless(out)
    assert out.isascii()
    assert json.loads(out) == json.loads(json.dumps(document))
    assert json.loads(out)["gates"][0]["subject"] == name


@names
@pytest.mark.parametrize("as_json", [False, True])
def test_check_with_annotations(
    name: str, capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    """The runner gets exactly our own commands; a program that reads the JSON, only that."""
    verdict = hostile_verdict(name)
    console.configure(quiet=False, verbose=False, as_json=as_json)
    capsys.readouterr()
    console.out_json(verdict.document())
    print_check(verdict)
    for line in annotation_lines(verdict, baseline_file="b.toml", lines=lambda _key: 1):
        console.out_command(line)
    out, err = capsys.readouterr()
    found = commands(out) + commands(err)
    assert [(c.name, sorted(c.properties)) for c in found] == [
        ("error", ["file", "line", "title"]),
        ("notice", ["title"]),
    ]
    assert not CONTROLS.search(out + err)
    if as_json:
        assert json.loads(out)["run"] == name


@names
def test_log_file(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    console.configure(quiet=False, verbose=True, as_json=False, log_file=log)
    console.info(f"train: {name}")
    console.detail(name)
    console.warn("a.b", name)
    console.error(f"Traceback:\n{name}")
    console.configure(quiet=False, verbose=False, as_json=False)
    require_harmless(log.read_text("utf-8"), capsys.readouterr().err)


# -- error lines: every place of the command line that takes a name ------------------------------

LINE_NAMES = (
    "a\n::error::x",
    "  ::error file=a::b",
    "x ##[error]y",
    "%0A::error::",
    "{0}",
    "-rf",
    "\x1b[31m\u202e",
    "L" * 300,
    "\r\nx\ty\x7f\x85",
    "\r::error::x",
    "\udcff\udc80raw bytes",
)
NO_DATA = ("--data", "npz:none")  # whatever else a training is told, it cannot start
PLACES = (
    ("{}",),
    ("check", "{}"),
    ("check", "{}", "--baseline", "{}"),
    ("check", "{}", "--junit", "{}"),
    ("codegen", "{}"),
    ("codegen", "--tflite", "{}", "--out", "{}"),
    ("export", "{}"),
    ("export", "--onnx", "{}", "--contract", "{}", "--calib-data", "{}", "--out", "{}"),
    ("verify", "{}"),
    ("analyze", "{}"),
    ("analyze", "ds-cnn", "--target", "{}"),
    ("targets", "--boards", "{}"),
    ("data", "inspect", "{}"),
    ("data", "inspect", "folder:{}"),
    ("data", "inspect", "npz:{}"),
    ("data", "inspect", "npz:two.npz", "--labels", "{}"),
    ("train", *NO_DATA, "--name", "{}"),
    ("train", *NO_DATA, "--model", "{}"),
    ("train", *NO_DATA, "--width", "{}"),
    ("train", *NO_DATA, "--recipe", "{}"),
    ("train", "-c", "{}"),
    ("train", "--{}"),
    ("train", "{}"),
)


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_error_lines(
    place: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_hostile_npz(tmp_path / "two.npz", ("a", "b"), each=20)
    for name in LINE_NAMES:
        words = [word.replace("{}", name) for word in place]
        for more in ("--json", "--traceback"):
            done = ndtool_here(*words, more, capsys=capsys)
            assert done.code in (2, 3, 7), (words, done)
            require_harmless(done.out, done.err)
            errors = [line for line in done.err.splitlines() if "ndtool: error: " in line]
            assert errors and all(re.search(r"\[[a-z0-9.-]+\]$", line) for line in errors)
            if more == "--json":
                assert done.document["exit"] == done.code


# -- files ----------------------------------------------------------------------------------------


def cell_text(cell: str) -> str:
    """A cell without the mark that keeps spreadsheets from computing it."""
    return cell[1:] if cell[:2] in ("'=", "'+", "'-", "'@", "'\t", "'\r") else cell


@names
def test_layers_csv(name: str) -> None:
    graph = many_layers()
    tensors = tuple(dataclasses.replace(t, name=name) for t in graph.tensors)
    head, *rows = csv.reader(
        io.StringIO(layers_csv(dataclasses.replace(graph, tensors=tensors)), newline="")
    )
    assert len(rows) == len(graph.ops) and {len(row) for row in rows} == {len(head)}
    column = head.index("output")
    assert not any(row[column].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows)
    for row in rows:
        assert cell_text(row[column]) in (name, f"{name};{name}")  # a SPLIT has two outputs


@pytest.mark.parametrize("name", LABELS, ids=ascii)
def test_config_toml(name: str) -> None:
    text = table_text(
        "train", {"data": (name, "flag"), "labels": (name, "file"), "seed": (1, "default")}
    )
    assert tomllib.loads(text) == {"train": {"data": name, "labels": name, "seed": 1}}
    assert len(text.split("\n")) == 5
    require_harmless(text.replace("##[", ""))


def test_split_csv(tmp_path: Path) -> None:
    """Of files whose names are whatever a file can be called, bytes that are no text too."""
    rng = np.random.default_rng(3)
    # What starts with a dot is a hidden file, and left out.
    files = [n.replace("/", "_")[:200] + ".png" for n in HOSTILE_NAMES if n[0] != "."]
    for label in ("=a", "b"):
        (tmp_path / label).mkdir()
        for name in files:
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / name, "PNG")
    prepared = prepare(
        TrainOptions(data=f"folder:{tmp_path}", resolution=8), name="x", out=tmp_path / "runs"
    )
    write_start(prepared, {})
    with (prepared.run / SPLIT).open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "sha256", "split"] and {len(row) for row in rows} == {3}
    assert not any(row[0].startswith(("=", "+", "-", "@")) for row in rows)
    spelled = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in files]
    expected = {f"{label}/{name}" for label in ("=a", "b") for name in spelled}
    assert {cell_text(row[0]) for row in rows} == expected


def test_baseline_toml() -> None:
    """Labels are keys of it; the names of tables and of files are not ours either."""
    zeros = Sha256("0" * 64)
    baseline = Baseline(
        name=LABELS[0],
        accepted=Accepted(reason=REASON, tool="0.1.0", model=LABELS[1]),
        hash=Hashes(
            evaluation_set=zeros,
            model_int8=zeros,
            labels=zeros,
            contract=zeros,
            predictions=zeros,
        ),
        result=Result(
            samples=40,
            correct=38,
            accuracy_percent="95.000",
            recall_percent=dict.fromkeys(LABELS, "90.0"),
        ),
        bounds=Bounds(min_recall_percent=dict.fromkeys(LABELS, Decimal("81.5"))),
        toolchain=dict.fromkeys(LABELS, LABELS[2]),
    )  # fmt: skip
    text = baseline_text(baseline)
    assert parse_baseline(text, where="b.toml") == baseline
    assert not CONTROLS.search(text)
    found = tomllib.loads(text)
    assert set(found["result"]["recall_percent"]) == set(LABELS)
    assert set(found["bounds"]["min_recall_percent"]) == set(LABELS)


# -- commands on hostile data ---------------------------------------------------------------------


def write_hostile_npz(path: Path, labels: tuple[str, ...], *, each: int) -> Path:
    """8x8 images, `each` of a class in both parts; the class is to be seen in the pixels."""
    rng = np.random.default_rng(5)
    arrays = {}
    for part in ("train", "test"):
        y = np.repeat(np.arange(len(labels)), each)
        x = rng.integers(0, 40, (len(y), 8, 8), dtype=np.uint8)
        x[np.arange(len(y)), y % 8, y // 8] = 255
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    np.savez(path, class_names=np.array(labels), **arrays)
    return path


def test_data_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"npz:{write_hostile_npz(tmp_path / 'h.npz', LABELS, each=20)}"
    done = ndtool_here("data", "inspect", spec, "--out", tmp_path / "sheet.png", capsys=capsys)
    assert done.code == 0, done.err
    require_harmless(done.out, done.err)
    for label in LABELS:
        assert console.visible(label).replace("##[", "##\\[").strip() in done.out
    asked = ndtool_here("data", "inspect", spec, "--json", capsys=capsys)
    require_harmless(asked.out, asked.err)
    assert asked.document["labels"] == list(LABELS)


@pytest.mark.parametrize("blank", BLANK_NAMES, ids=ascii)
def test_blank_labels_are_refused(
    blank: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = f"npz:{write_hostile_npz(tmp_path / 'h.npz', ('a', blank), each=20)}"
    done = ndtool_here("data", "inspect", spec, capsys=capsys)
    assert done.code == 2 and "[data.blank-label]" in done.err


@pytest.mark.slow
def test_a_file_with_hostile_tensor_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = many_layers(4)
    made = [f"{LABELS[k % len(LABELS)]}{k}" for k in range(len(graph.tensors))]
    tensors = tuple(
        dataclasses.replace(tensor, name=name)
        for tensor, name in zip(graph.tensors, made, strict=True)
    )
    model = tmp_path / "m.tflite"
    renamed = dataclasses.replace(graph, tensors=tensors)
    model.write_bytes(write_tflite(renamed, description=LABELS[0]))
    for words in (
        ("codegen", "--tflite", model, "--out", tmp_path / "c", "--golden", 1, "-v"),
        ("analyze", model),
        ("analyze", model, "--json"),
        ("verify", tmp_path / "c", "--random", 1),
    ):
        done = ndtool_here(*words, capsys=capsys)
        assert done.code == 0, done.err
        require_harmless(done.out, done.err)


# -- the whole chain ------------------------------------------------------------------------------

OUT = "x ##[error]y\n::error::b"
RUN = f"{OUT}/h"
TRAIN = ("--data", "npz:h.npz", "--width", ".5", "--epochs", "1", "--batch-size", "32", "--crop",
         "0", "--no-flip", "--threads", "1", "--calib", "20", "--random", "2")  # fmt: skip


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of hostile labels in a hostile folder, and its baseline."""
    folder = tmp_path_factory.mktemp("hostile")
    write_hostile_npz(folder / "h.npz", LABELS, each=20)
    for words in (
        ("run", *TRAIN, "--out", OUT, "--name", "h", "--max-drop", "50"),
        ("baseline", "accept", RUN, "--baseline", "b/main.toml", "--reason", REASON),
        ("baseline", "show", RUN, "--baseline", "b/main.toml"),
        ("verify", RUN, "--random", "1"),
        ("analyze", RUN, "--all-targets"),
    ):
        done = ndtool(*words, cwd=folder, env={"GITHUB_ACTIONS": "true"})
        assert done.code == 0, done.err
        require_harmless(done.out, done.err)
    return folder


@pytest.mark.slow
def test_files_of_a_run_with_hostile_labels(chain: Path) -> None:
    run = chain / RUN
    contract = json.loads((run / "contract.json").read_text())
    assert contract["labels"] == list(LABELS)
    assert (run / "labels.txt").read_bytes() == "".join(f"{k}\n" for k in LABELS).encode()
    config = tomllib.loads((run / "config.toml").read_text("utf-8"))
    assert config["train"]["out"] == OUT
    manifest = json.loads((run / "manifest.json").read_text())
    assert OUT in shlex.split(manifest["stages"]["train"]["command"])
    with (run / "train/split.csv").open(newline="") as file:
        assert {len(row) for row in csv.reader(file)} == {3}
    baseline = tomllib.loads((chain / "b/main.toml").read_text("utf-8"))
    assert set(baseline["result"]["recall_percent"]) == set(LABELS)
    assert baseline["accepted"]["reason"] == REASON


@pytest.fixture(scope="module")
def strict(chain: Path) -> Path:
    """A baseline that demands all of every class, beside the accepted one; relative."""
    text = (chain / "b/main.toml").read_text("utf-8")
    head, title, floors = text.partition("[bounds.min_recall_percent]\n")
    demanded = re.sub(r" = [0-9.]+$", " = 100.0", floors, flags=re.MULTILINE)
    (chain / "b/strict.toml").write_text(head + title + demanded, "utf-8")
    shutil.copy(chain / "b/main.pred", chain / "b/strict.pred")
    return Path("b/strict.toml")


@pytest.mark.slow
def test_every_output_of_check(chain: Path, strict: Path, tmp_path: Path) -> None:
    junit, page, summary = (tmp_path / name for name in ("junit.xml", "page.md", "summary.md"))
    environment = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    words = ("check", RUN, "--baseline", strict, "--junit", junit, "--markdown", page)
    quiet = ndtool(*words, "--json", cwd=chain, env=environment)
    require_harmless(quiet.out, quiet.err)
    assert quiet.code == 3, quiet.err
    recall = quiet.document["recall"]
    assert list(recall) == sorted(LABELS)
    failed = [label for label in LABELS if recall[label] < 1]
    assert len(failed) > 30  # one epoch: nearly all images are taken for one class
    gates = [g for g in quiet.document["gates"] if g["passed"] is False]
    assert [g["subject"] for g in gates] == failed
    shown = [console.visible(f"recall:{label}") for label in failed]
    cases = ElementTree.fromstring(junit.read_bytes()).iter("testcase")
    assert [c.get("name") for c in cases if c.find("failure") is not None] == shown

    loud = ndtool(*words, "--github", cwd=chain, env=environment)
    assert loud.code == 3 and not CONTROLS.search(loud.out + loud.err)
    errors = [c for c in commands(loud.out + loud.err) if c.name != "notice"]
    assert [c.name for c in errors] == ["error"] * 10
    assert {c.properties["file"] for c in errors} == {str(strict)}
    assert all(int(c.properties["line"]) > 1 for c in errors)
    assert errors[-1].data.endswith(f"and {len(failed) - 10} more")
    assert all(line.replace("##[", "##\\[") in loud.out for line in shown)
    for path in (page, summary):
        cells = read_page(path.read_text("utf-8")).cells
        assert {" ".join(line.split()) for line in shown} <= set(cells)
