"""ndtool models, and a network of the user's own from training to C."""

import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import ndtool, ndtool_here
from tiny_data import write_npz

from ndtool.arch import count_macs, count_parameters, parse_spec, peak_activation
from ndtool.cli import models as cli_models
from ndtool.errors import ToolMissingError
from ndtool.export.analyze import analyze_spec, compile_spec
from ndtool.models import MODELS, make_spec

OWN = """
from ndtool.arch import Act, ArchSpec, Block, BlockKind, Head, Stem

CHANNELS = 8

def net(*, width, size_px, in_channels, classes):
    block = Block(kind=BlockKind.BASIC, kernel=3, stride=2, mid=CHANNELS, c_out=CHANNELS,
                  act=Act.RELU, act_out=Act.RELU, shortcut=True)
    return ArchSpec(model="net", width=width, height_px=size_px, width_px=size_px,
                    in_channels=in_channels, classes=classes,
                    stem=Stem(c_out=4, kernel=3, stride=1, act=Act.RELU6),
                    blocks=(block,), head=Head())
"""
NAME = "own_nets:net"
TRAIN = ("train", "--data", "npz:tiny.npz", "--model", NAME, "--epochs", "1", "--batch-size", "16",
         "--crop", "0", "--no-flip", "--threads", "1", "--name", "own")  # fmt: skip


# ---- the list ------------------------------------------------------------------------------------


def test_every_model_is_listed_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    done = ndtool_here("models", "--json", capsys=capsys)
    assert done.code == 0 and done.document["schema"] == "ndtool.models/1"
    rows = {row["name"]: row for row in done.document["models"]}
    assert list(rows) == list(MODELS)
    for name, row in rows.items():
        model = MODELS[name]
        side, classes = model.resolution, model.classes
        spec = make_spec(name, width=1.0, size_px=side, in_channels=3, classes=classes)
        assert (row["resolution"], row["classes"]) == (side, classes)
        assert (row["params"], row["macs"]) == (count_parameters(spec), count_macs(spec))
        assert row["peak_activation_bytes"] == peak_activation(spec)
        if row["macs"] < 10_000_000:  # for time
            assert row["arena_bytes"] == compile_spec(spec).plan.total
        assert row["strides"] == list(model.strides) and "build" not in row
    assert rows["mcunet-320kb"]["params"] == 737_408 and rows["resnet8"]["arena_bytes"] == 33_088


def test_the_table_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = ndtool_here("models", "--width", ".5", capsys=capsys).out.splitlines()
    for column in cli_models.HEAD:
        assert column in head
    by_name = {row.split()[0]: row.split() for row in rows if row}
    spec = make_spec("mbv2", width=0.5, size_px=160, in_channels=3, classes=1000)
    assert by_name["mbv2"][1:4] == ["160", "1000", "1,968,680"]
    assert by_name["mbv2"][6] == f"{analyze_spec(spec, core='cortex-m4').arena_bytes:,}"


def test_networks_that_no_board_holds_have_no_arena(capsys: pytest.CaptureFixture[str]) -> None:
    done = ndtool_here("models", "--width", "8", "--json", capsys=capsys)
    rows = {row["name"]: row for row in done.document["models"]}
    assert "arena_bytes" not in rows["mbv2"] and "arena_bytes" in rows["ds-cnn"]


def test_without_the_extra_the_list_is_there_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ToolMissingError(f"Python package {name}", install="pip", code="tool.extra-missing")

    monkeypatch.setattr("ndtool.export.graph.to_onnx.require", missing)
    done = ndtool_here("models", capsys=capsys)
    assert done.code == 0
    assert [line.split()[6] for line in done.out.splitlines()[1:12]] == ["-"] * 11


# ---- the user's own ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.npz, own_nets.py and runs/own."""
    folder = tmp_path_factory.mktemp("own")
    write_npz(folder / "tiny.npz")
    (folder / "own_nets.py").write_text(OWN)
    done = ndtool(*TRAIN, cwd=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "work"))


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.slow
def test_a_run_needs_the_module_no_more(here: Path) -> None:
    (here / "own_nets.py").write_text("raise SystemExit('imported')\n")
    run = ("runs/own",)
    spec = parse_spec((here / "runs/own/train/spec.json").read_text(), where="test")
    assert spec.model == NAME
    before = ndtool("analyze", *run, "--json", cwd=here)
    assert before.code == 0, before.err
    for words in (("export", *run, "--int8", "--calib", "50"), ("codegen", *run)):
        done = ndtool(*words, cwd=here)
        assert done.code == 0, done.err
    done = ndtool("verify", *run, "--random", "10", "--json", cwd=here)
    assert done.code == 0, done.err
    assert done.document["bit_exact"] == "78/78"  # 10 random, 8 golden, 60 of the test part
    after = ndtool("analyze", *run, "--json", cwd=here)
    assert after.document["params"] == before.document["params"] == count_parameters(spec)
    done = ndtool("check", *run, "--max-drop", "50", cwd=here)
    assert done.code == 0, done.err
    assert "imported" not in done.err


@pytest.mark.slow
def test_another_network_under_the_same_name_is_refused(here: Path) -> None:
    again = ndtool(*TRAIN, cwd=here)
    assert again.code == 0 and "up to date" in again.err
    (here / "own_nets.py").write_text(OWN.replace("CHANNELS = 8", "CHANNELS = 12"))
    before = digests(here / "runs")
    refused = ndtool(*TRAIN, cwd=here)
    assert refused.code == 2 and "run.other-training" in refused.err
    assert f"the network that {NAME} gives has changed" in refused.err
    assert digests(here / "runs") == before
    forced = ndtool(*TRAIN, "--force", cwd=here)
    assert forced.code == 0, forced.err
    spec = parse_spec((here / "runs/own/train/spec.json").read_text(), where="test")
    assert spec.blocks[0].c_out == 12


def test_the_word_of_a_run_folder_is_not_imported(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder may be another's: naming it must not run any code, not even what it names."""
    (here / "trap_module.py").write_text("import pathlib\npathlib.Path('sprung').touch()\n")
    config = here / "runs/own/config.toml"
    config.write_text(config.read_text().replace(NAME, "trap_module:net"))
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    assert ndtool_here("analyze", "runs/own", capsys=capsys).code == 0
    sizes = ndtool_here("analyze", "runs/own", "--fit", "nucleo-f446re", capsys=capsys)
    assert sizes.code == 2 and "analyze.no-design" in sizes.err
    (here / "runs/own/train/spec.json").unlink()
    assert ndtool_here("analyze", "runs/own", capsys=capsys).code == 2
    assert not (here / "sprung").exists() and "trap_module" not in sys.modules


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_here.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_here", None)


def test_its_memory_before_training(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = ndtool_here("analyze", "own_here:net", "--resolution", "32", "--json", capsys=capsys)
    assert done.code == 0
    spec = make_spec("own_here:net", width=1.0, size_px=32, in_channels=3, classes=10)
    assert done.document["arena_bytes"] == compile_spec(spec).plan.total
    sized = ndtool_here("analyze", "own_here:net", "--fit", "nucleo-f446re", capsys=capsys)
    assert sized.code == 0 and "--model own_here:net" in sized.out
    asked = ndtool_here("analyze", "own_here:net", capsys=capsys)
    assert asked.code == 2 and "add --resolution" in asked.err


@pytest.mark.parametrize("name", ["no_module_x:net", "own_here:nothing", "own_here:CHANNELS"])
def test_errors_are_one_line(
    name: str, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(own_folder / "tiny.npz")
    words = ("train", "--data", "npz:tiny.npz", "--model", name)
    done = ndtool_here(*words, capsys=capsys)
    assert done.code == 2 and not (own_folder / "runs").exists()
    (line,) = [x for x in done.err.splitlines() if "error" in x]
    assert line.startswith("ndtool: error: ") and line.endswith("[model.import]")


def test_a_target_is_asked_with_its_sizes(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sizes that the function does not have are passed over, not told as an error."""
    text = OWN + "\n\ndef fixed(*, width, **asked):\n    assert width == 1\n"
    (own_folder / "own_here.py").write_text(text + "    return net(width=width, **asked)\n")
    words = ("analyze", "own_here:fixed", "--resolution", "224", "--target", "nucleo-f446re")
    done = ndtool_here(*words, capsys=capsys)
    assert done.code == 4 and "use --resolution" in done.err and "--width" not in done.err
