"""ndtool analyze and --target of train, through the real entry point."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Done, ndtool, ndtool_here
from int8_models import tiny_model
from nets import contract_of
from random_networks import random_tensors
from shared_models import shared_model
from tiny_data import write_npz

from ndtool import console
from ndtool.arch import ArchSpec
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.models import make_spec
from ndtool.rundir import CONFIG, CONTRACT, ONNX, STUDENT_SPEC, TFLITE, RunDir

Capture = pytest.CaptureFixture[str]
DOCUMENT = {
    *("schema", "kind", "network", "core", "measured_core", "exact_core", "params", "macs"),
    *("arena_bytes", "ram_bytes", "weights_bytes", "code_bytes", "flash_bytes", "instructions"),
    *("upper_bound", "dead_channels", "layers", "peak_layer", "targets"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / ".git").mkdir()  # no ndtool.toml is looked for above
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    console.configure(quiet=False, verbose=False, as_json=False)


def small_spec() -> ArchSpec:
    return make_spec("ds-cnn", width=0.5, size_px=16, in_channels=3, classes=4)


def make_run(path: Path, spec: ArchSpec, config: str = "") -> RunDir:
    """A run folder with a contract; what of the network it has is added by the test."""
    run = RunDir(path)
    run.write_text(CONTRACT, contract_of(spec).to_file_text())
    if config:
        run.write_text(CONFIG, config)
    return run


def config_of(spec: ArchSpec, **more: str) -> str:
    rows = {"model": f'"{spec.model}"', "width": f"{spec.width}", **more}
    return "[train]\n" + "".join(f"{key} = {value}\n" for key, value in rows.items())


def analyzed(*args: object, capsys: Capture, code: int = 0) -> dict:
    """The one document of --json."""
    done = ndtool_here("analyze", *args, "--json", capsys=capsys)
    assert done.code == code, done.err
    return done.document


def refused(*args: object, capsys: Capture, code: int = 2) -> str:
    """The one error line of a command that printed nothing else."""
    done = ndtool_here(*args, capsys=capsys)
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (code, "", 1), done
    assert lines[0].startswith("ndtool: error: ")
    return lines[0]


# ---- what can be named ---------------------------------------------------------------------------


def test_a_model_name(capsys: Capture) -> None:
    args = ("ds-cnn", "--width", ".5", "--resolution", "16", "--classes", "4")
    found = analyzed(*args, capsys=capsys)
    assert set(found) == DOCUMENT and found["schema"] == "ndtool.analyze/1"
    assert found["kind"] == "model" and found["network"] == "ds-cnn width 0.5, 16x16x3, 4 classes"
    assert found["upper_bound"] and found["targets"] == [] and found["core"] == "cortex-m4"
    assert sum(row["macs"] for row in found["layers"]) == found["macs"]
    assert found["ram_bytes"] == found["arena_bytes"] + 2048
    default = analyzed("ds-cnn", capsys=capsys)
    assert default["network"] == "ds-cnn width 1, 32x32x3, 10 classes"
    assert default["arena_bytes"] == 8481  # the C of the trained one has this, too
    gray = analyzed("ds-cnn", "--gray", "--stem-stride", "1", capsys=capsys)
    assert "x1," in gray["network"] and gray["macs"] > default["macs"]


def test_the_screen_names_bounds_estimates_and_the_next_command(capsys: Capture) -> None:
    args = ("analyze", "mbv2", "--width", ".35", "--resolution", "96", "--classes", "5")
    done = ndtool_here(*args, "--target", "nucleo-f446re", capsys=capsys)
    assert done.code == 0 and done.err == ""
    lines = done.out.splitlines()
    assert lines[0] == "network  mbv2 width 0.35, 96x96x3, 5 classes"
    assert lines[1].startswith("figures  upper bounds") and "~ is estimated" in lines[1]
    assert lines[2] == "RAM      113,081 B (110.4 KiB)   arena 111,033 B + stack 2,048 B"
    assert [line.split()[2] for line in lines if line.endswith("peak")] == ["3x3"]
    assert any(line.startswith("fits     nucleo-f446re: FITS (RAM 110.4") for line in lines)
    room = "room     RAM 4,883 B free, flash ~38,097 B free; RAM is the limit"
    assert room in lines  # 131,072 - 13,108 - 113,081 and 524,288 - 26,215 - the forecast
    assert "reserve  RAM 13,108 B, flash 26,215 B, kept for the application" in lines
    (time,) = (line for line in lines if line.startswith("time"))
    assert "at 1 instruction per cycle; flash wait states, cache and dual issue not" in time
    assert lines[-1] == (
        "next     ndtool train --model mbv2 --width 0.35 --resolution 96"
        " --target nucleo-f446re --data SPEC"
    )


def test_a_tflite_is_exact(folder: Path, capsys: Capture) -> None:
    (folder / "net.bin").write_bytes(tiny_model())  # known by its content
    found = analyzed("net.bin", capsys=capsys)
    assert found["kind"] == "tflite" and found["network"] == "net.bin"
    assert not found["upper_bound"] and found["params"] is None
    assert "exact" in ndtool_here("analyze", "net.bin", capsys=capsys).out.splitlines()[1]


def test_csv_overwrites_no_input(folder: Path, capsys: Capture) -> None:
    (folder / "net.tflite").write_bytes(tiny_model())
    (folder / "my.toml").write_text("[analyze]\n")
    (folder / "link").symlink_to("net.tflite")
    make_run(folder / "runs/r", small_spec())
    for what, name, more in (
        ("net.tflite", "net.tflite", ()),
        ("net.tflite", "link", ()),
        ("link", "net.tflite", ()),
        ("ds-cnn", "my.toml", ("-c", "my.toml")),
        ("r", "runs/r/layers.csv", ()),
        ("runs/r", "runs/r/contract.json", ()),
        ("ds-cnn", "/proc/x.csv", ()),
    ):
        line = refused("analyze", what, "--csv", name, *more, capsys=capsys)
        assert "[option.output-file]" in line and f"(--csv {name})" in line
    assert (folder / "net.tflite").read_bytes() == tiny_model()
    assert [path.name for path in (folder / "runs/r").iterdir()] == [CONTRACT]


def test_dead_channels_of_a_file_are_told(folder: Path, capsys: Capture) -> None:
    (folder / "net.tflite").write_bytes(shared_model("vww_96"))
    found = analyzed("net.tflite", capsys=capsys)
    assert found["dead_channels"] == 2080 and found["macs"] == 3_880_529
    lines = ndtool_here("analyze", "net.tflite", capsys=capsys).out.splitlines()
    assert "without 2,080 dead channels" in lines[1]
    # The converter's names of fused tensors are shortened, but not for machines.
    assert lines[5].endswith(", model/activation_2/Relu") and ";" not in "".join(lines[2:])
    assert ";" in found["layers"][2]["tensor"]


def test_an_onnx_file_has_the_plan_of_its_model(folder: Path, capsys: Capture) -> None:
    spec = small_spec()
    (folder / "net.onnx").write_bytes(write_onnx(spec, random_tensors(spec)))
    found = analyzed("net.onnx", capsys=capsys)
    args = ("ds-cnn", "--width", ".5", "--resolution", "16", "--classes", "4")
    model = analyzed(*args, capsys=capsys)
    assert found["kind"] == "onnx" and found["upper_bound"] and found["params"] > 0
    assert (found["arena_bytes"], found["macs"]) == (model["arena_bytes"], model["macs"])


def test_a_run_from_its_first_file_to_its_int8_file(folder: Path, capsys: Capture) -> None:
    spec = small_spec()
    run = make_run(folder / "runs/one", spec, config_of(spec))
    begun = analyzed("one", capsys=capsys)
    run.write_text(STUDENT_SPEC, spec.to_json())
    trained = analyzed("runs/one", capsys=capsys)
    assert begun == trained and begun["kind"] == "run" and begun["upper_bound"]
    assert begun["network"] == "runs/one: ds-cnn width 0.5, 16x16x3, 4 classes"
    run.write_bytes(TFLITE, tiny_model())
    exact = analyzed("runs/one", capsys=capsys)
    assert not exact["upper_bound"] and exact["params"] == begun["params"]
    assert exact["arena_bytes"] != begun["arena_bytes"]
    run.write_bytes(TFLITE, b"no such thing")
    assert "(runs/one/export/model_int8.tflite)" in refused("analyze", "one", capsys=capsys)


def test_an_imported_run(folder: Path, capsys: Capture) -> None:
    spec = small_spec()
    run = make_run(folder / "other", spec, "[export]\nint8 = true\n")
    assert "no network" in refused("analyze", "other", capsys=capsys)
    run.write_bytes(ONNX, write_onnx(spec, random_tensors(spec)))
    found = analyzed("other", capsys=capsys)
    assert (found["kind"], found["network"], found["upper_bound"]) == ("run", "other", True)
    line = refused("analyze", "other", "--fit", "pico", capsys=capsys)
    assert "[analyze.no-design]" in line


# ---- boards --------------------------------------------------------------------------------------


def test_what_does_not_fit_is_reported_first_and_exits_4(capsys: Capture) -> None:
    args = ("analyze", "mbv2", "--width", ".35", "--resolution", "128", "--target")
    done = ndtool_here(*args, "nucleo-f446re", capsys=capsys)
    assert done.code == 4 and "DOES NOT FIT" in done.out and "peak" in done.out
    assert "next" not in done.out
    assert re.fullmatch(
        r"ndtool: error: mbv2 .* does not fit nucleo-f446re: RAM is [\d,]+ B over, fullest at layer"
        r" 4 \(.*\) \(--target nucleo-f446re\); use .*--resolution 96 \[fit.target\]\n",
        done.err,
    )
    found = analyzed(*args[1:], "nucleo-f446re", capsys=capsys, code=4)
    (row,) = found["targets"]
    assert row["fits"] is False and row["binding"] == "RAM"
    assert row["ram_bytes"] > row["ram_budget_bytes"]


def test_all_targets(folder: Path, capsys: Capture) -> None:
    (folder / "boards.toml").write_text(
        '[boards.mine]\ncore = "cortex-m3"\nclock_mhz = 1\nram = 8192\nram_total = 8192\n'
        'flash = 65536\nsource = "a"\n'
    )
    found = analyzed("ds-cnn", "--all-targets", "--boards", "boards.toml", capsys=capsys)
    rows = {row["target"]: row for row in found["targets"]}
    assert len(rows) >= 27 and rows["nucleo-f446re"]["fits"] and not rows["mine"]["fits"]
    assert rows["mine"]["seconds_at_one_instruction_per_cycle"] == pytest.approx(
        rows["mine"]["instructions"] / 1e6
    )
    done = ndtool_here("analyze", "ds-cnn", "--all-targets", capsys=capsys)
    assert done.code == 0 and "fits     26 of 26 boards" in done.out
    assert "at 1 instruction per cycle" in done.out
    table = done.out.split("\n\n")[2].splitlines()
    assert table[0].startswith("board") and max(map(len, table)) <= 100
    assert "xtensa as of rv32imc, cortex-m85 as of m55" in done.out


def test_what_is_proposed_can_be_typed(folder: Path, capsys: Capture) -> None:
    """A board of --boards is found by --boards again; train has no reserves of the command line."""
    (folder / "my boards.toml").write_text(
        '[boards.mine]\ncore = "cortex-m3"\nclock_mhz = 1\nram = 20480\nram_total = 20480\n'
        'flash = 65536\nsource = "a"\n'
    )
    boards = ("--boards", "my boards.toml")
    size = ("ds-cnn", "--width", "1", "--resolution")
    named = " --target mine --boards 'my boards.toml' --data SPEC"
    done = ndtool_here("analyze", *size, "32", "--target", "mine", *boards, capsys=capsys)
    assert done.code == 0 and done.out.splitlines()[-1].endswith(f"--resolution 32{named}")
    sizes = analyzed("ds-cnn", "--fit", "mine", *boards, capsys=capsys)["sizes"]
    assert all(row["command"].endswith(named) for row in sizes)
    built_in = ("--target", "pico", *boards)
    done = ndtool_here("analyze", *size, "32", *built_in, capsys=capsys)
    assert done.out.endswith("--resolution 32 --target pico --data SPEC\n")
    tight = ("--target", "mine", *boards, "--ram-reserve", "1k", "--flash-reserve", "0")
    assert ndtool_here("analyze", *size, "44", "--target", "mine", *boards, capsys=capsys).code == 4
    done = ndtool_here("analyze", *size, "44", *tight, capsys=capsys)
    assert done.code == 0 and done.out.endswith("--resolution 44 --data SPEC\n")


def test_reserves_take_sizes(capsys: Capture) -> None:
    args = ("ds-cnn", "--target", "nucleo-f446re", "--ram-reserve")
    (row,) = analyzed(*args, "64K", "--flash-reserve", "1k", capsys=capsys)["targets"]
    assert (row["ram_budget_bytes"], row["flash_budget_bytes"]) == (65536, 524288 - 1024)
    (row,) = analyzed(*args, "1M", capsys=capsys, code=4)["targets"]
    assert row["ram_budget_bytes"] == 0
    for wrong in ("64Q", "-1", "1.5K", "", "9" * 13, "K"):
        assert "64K" in refused("analyze", *args, wrong, capsys=capsys)


def test_a_configuration_file_sets_reserves_and_sizes(folder: Path, capsys: Capture) -> None:
    (folder / "ndtool.toml").write_text(
        '[analyze]\nwidth = 0.5\nram_reserve = 65536\nflash_reserve = "64K"\n'
    )
    (row,) = (found := analyzed("ds-cnn", "--target", "pico", capsys=capsys))["targets"]
    assert "width 0.5" in found["network"] and row["ram_budget_bytes"] == 270336 - 65536
    assert row["flash_budget_bytes"] == 2097152 - 65536


def test_sizes_that_fit(capsys: Capture) -> None:
    args = ("analyze", "ds-cnn", "--gray", "--fit", "bluepill-f103c8")
    done = ndtool_here(*args, "--json", capsys=capsys)
    assert done.code == 0 and done.document["schema"] == "ndtool.analyze.fit/1"
    sizes = done.document["sizes"]
    assert [row["macs"] for row in sizes] == sorted((r["macs"] for r in sizes), reverse=True)
    assert all(row["fits"] and row["ram_bytes"] <= row["ram_budget_bytes"] for row in sizes)
    shown = ndtool_here(*args, capsys=capsys)
    assert sizes[0]["command"] in shown.out.splitlines()[-1]
    # The command's own figures: what it proposes, analyze finds to fit.
    size = sizes[0]["command"].split()[4:8]
    assert (size[0], size[2]) == ("--width", "--resolution")
    again = analyzed("ds-cnn", "--gray", *size, "--target", "bluepill-f103c8", capsys=capsys)
    assert again["arena_bytes"] == sizes[0]["arena_bytes"]


def test_sizes_of_a_run_keep_its_strides_and_classes(folder: Path, capsys: Capture) -> None:
    spec = make_spec(
        "ds-cnn", width=0.5, size_px=16, in_channels=3, classes=4, strides=(2, 2, 1, 1)
    )
    run = make_run(folder / "one", spec, config_of(spec, strides='"2,2,1,1"'))
    run.write_text(STUDENT_SPEC, spec.to_json())
    args = ("one", "--fit", "pico", "--resolution", "16", "--width", "0.5")
    (row,) = analyzed(*args, capsys=capsys)["sizes"]
    assert "--strides 2,2,1,1" in row["command"]
    assert row["macs"] == analyzed("one", capsys=capsys)["macs"]
    # A student that is not the one of config.toml has no other sizes.
    run.write_text(STUDENT_SPEC, small_spec().to_json())
    assert "[analyze.no-design]" in refused("analyze", "one", "--fit", "pico", capsys=capsys)


def test_nothing_fits(capsys: Capture) -> None:
    line = refused("analyze", "mbv2", "--fit", "bluepill-f103c8", capsys=capsys, code=4)
    assert "[fit.nothing]" in line


def test_the_layers_as_csv(folder: Path, capsys: Capture) -> None:
    found = analyzed("ds-cnn", "--csv", "layers.csv", capsys=capsys)
    with (folder / "layers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["macs"]) for row in rows] == [row["macs"] for row in found["layers"]]
    assert [int(r["layer"]) for r in rows if r["peak"]] == [found["peak_layer"]]


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("mbv9",), ("did you mean mbv", "[analyze.unknown]")),
        (("nowhere/at/all",), ("no such model, run or file", "[analyze.unknown]")),
        ((".",), ("no run in this folder", "[analyze.unknown]")),
        (("x" * 5000,), ("too long",)),
        (("mbv2", "--target", "nucleo-f446"), ("did you mean nucleo-f446re", "[target.unknown]")),
        (("mbv2", "--target", "pico", "--all-targets"), ("do not go together", "[usage]")),
        (("mbv2", "--fit", "pico", "--target", "pico"), ("do not go together", "[usage]")),
        (("mbv2", "--fit", "pico", "--csv", "x.csv"), ("do not go together", "[usage]")),
        (("mbv2", "--resolution", "8", "--stem-stride", "2"), ("[model.resolution]",)),
        (("mbv2", "--strides", "1,2"), ("[model.strides]",)),
        (("mbv2", "--width", "0"), ("[model.width]",)),
        (("mbv2", "--width", "nan"), ("finite",)),
        (("mbv2", "--classes", "1"), ("--classes",)),
        (("mbv2", "--ram-reserve", "1k"), ("--ram-reserve needs a board", "[usage]")),
        (("mbv2", "--flash-reserve", "1k"), ("--flash-reserve needs a board", "[usage]")),
        (("mbv2", "--boards", "none.toml"), ("--boards needs a board", "[usage]")),
        (("mbv2", "--width", "8"), ("[analyze.too-large]",)),
        (("mbv2", "--boards", "none.toml", "--all-targets"), ("none.toml",)),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_wrong_question_is_one_line(
    args: tuple[str, ...], words: tuple[str, ...], capsys: Capture
) -> None:
    line = refused("analyze", *args, capsys=capsys)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.onnx", b""),
        ("empty.tflite", b""),
        ("noise.onnx", bytes(range(256)) * 9),
        ("noise.tflite", bytes(range(256)) * 9),
        ("half.tflite", tiny_model()[:300]),
        ("text.txt", b"mbv2\n"),
        ("mark.tflite", b"\xff\xff\xff\xffTFL3" + b"\xff" * 64),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(
    name: str, data: bytes, folder: Path, capsys: Capture
) -> None:
    (folder / name).write_bytes(data)
    assert name in refused("analyze", name, capsys=capsys)


@pytest.mark.parametrize(
    "config",
    [
        '[train]\nmodel = 7\nwidth = "x"\n',
        '[train]\nmodel = "ds-cnn"\nwidth = 0.5\nstrides = "1,2,x"\n',
        '[train]\nmodel = "ds-cnn"\nwidth = 0.5\nstrides = "2,2"\n',
        '[train]\nmodel = "no\\u001bsuch"\nwidth = 0.5\n',
        '[train]\nmodel = "ds-cnn"\nwidth = inf\n',
        "[train]\nwidth = 1e999\n",
    ],
)
def test_a_damaged_configuration_of_a_run_is_one_line(
    config: str, folder: Path, capsys: Capture
) -> None:
    make_run(folder / "one", small_spec(), config)
    assert "\x1b" not in refused("analyze", "one", capsys=capsys)


def test_words_of_models_are_refused_for_files(folder: Path, capsys: Capture) -> None:
    (folder / "net.tflite").write_bytes(tiny_model())
    for words in (("--width", ".5"), ("--gray",), ("--classes", "3"), ("--strides", "1,1")):
        line = refused("analyze", "net.tflite", *words, capsys=capsys)
        assert f"{words[0]} is for model names" in line


# ---- train --target ------------------------------------------------------------------------------


TRAIN = (
    *("train", "--data", "npz:tiny.npz", "--name", "t", "--target"),
    *("bluepill-f103c8", "--width", "4", "--resolution", "64"),
)


def test_train_refuses_before_the_first_epoch_and_writes_nothing(
    folder: Path, capsys: Capture
) -> None:
    write_npz(folder / "tiny.npz")
    line = refused(*TRAIN, capsys=capsys, code=4)
    assert "does not fit bluepill-f103c8" in line and "--width" in line and "[fit.target]" in line
    assert not (folder / "runs").exists()
    assert "[target.unknown]" in refused(*TRAIN[:6], "nobody", capsys=capsys)
    assert not (folder / "runs").exists()


def test_train_refuses_without_loading_torch(folder: Path) -> None:
    write_npz(folder / "tiny.npz")
    script = (
        "import sys\nfrom ndtool.cli.main import main\n"
        f"code = main({list(TRAIN)!r})\nassert 'torch' not in sys.modules\nsys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 4, done.stderr


def test_run_refuses_as_train_does(folder: Path, capsys: Capture) -> None:
    write_npz(folder / "tiny.npz")
    assert "[fit.target]" in refused("run", *TRAIN[1:], capsys=capsys, code=4)
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_what_was_foretold_is_what_the_trained_run_has(
    tiny_chain: tuple[Path, Done], tmp_path: Path
) -> None:
    """The tiny run loses no channel, so its C has exactly the arena of its bare architecture."""
    folder = tmp_path / "work"
    shutil.copytree(tiny_chain[0], folder)
    metrics = json.loads((folder / "runs/tiny/metrics.json").read_text())
    args = ("--width", ".5", "--resolution", "8", "--classes", "3", "--gray")
    model = ndtool("analyze", "ds-cnn", *args, "--json", cwd=folder).document
    run = ndtool("analyze", "tiny", "--json", cwd=folder).document
    assert run["arena_bytes"] == metrics["arena_bytes"] <= model["arena_bytes"]
    assert run["weights_bytes"] == metrics["weights_bytes"] <= model["weights_bytes"]
    assert run["params"] == model["params"] == metrics["params"]
    if "flash_bytes" in metrics:  # measured in QEMU
        assert run["flash_bytes"] == pytest.approx(metrics["flash_bytes"], rel=0.03)
        assert run["instructions"] == pytest.approx(metrics["instructions_cortex_m4"], rel=0.15)


@pytest.mark.slow
def test_train_for_a_target_says_that_it_fits(folder: Path) -> None:
    write_npz(folder / "tiny.npz")
    args = ("--data", "npz:tiny.npz", "--epochs", "1", "--width", ".25", "--recipe", "plain")
    done = ndtool("train", *args, "--target", "bluepill-f103c8", cwd=folder)
    assert done.code == 0, done.err
    assert "target   bluepill-f103c8: FITS (RAM" in done.err
    assert 'target = "bluepill-f103c8"  # flag' in next(folder.rglob("config.toml")).read_text()
