"""The printed pages are current; commands, options, files and C that pages name are real."""

import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import typer
from array_models import tiny_contract
from engine_models import contract_graph, golden_model
from host_tools import C99, CPP11, compile_ok, require_tool, run_program

from ndtool.cli.app import app
from ndtool.contract import unit_normalize
from ndtool.export.codegen.engine_project import emit_engine
from ndtool.export.codegen.model import marker_name
from ndtool.export.codegen.project import write_project
from ndtool.gates.accept import read_settings
from ndtool.gates.baseline import Baseline, Bounds
from ndtool.gates.baseline_file import known_keys
from ndtool.gates.verdict import GATES, HASHES
from ndtool.options import TRAIN, TrainOptions
from ndtool.training.checks import check_options
from ndtool.types import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = {path.name: path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
PRINTED = ("cli.md", "errors.md", "ir.md", "operators.md", "targets.md")
WRITTEN = sorted(set(PAGES) - set(PRINTED))


def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools/make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_docs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def text_of(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


def block(page: str, language: str) -> str:
    """The only code block of that language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)
    return found


# -- printed pages ---------------------------------------------------------------------------------


def test_every_printed_page_is_known() -> None:
    assert tuple(make_docs().PAGES) == PRINTED


@pytest.mark.slow
@pytest.mark.parametrize("page", PRINTED)
def test_printed_page_is_current(page: str) -> None:
    assert text_of(page) == make_docs().PAGES[page](), "run: make docs"


def test_codes_are_slugs_and_have_one_exit_code() -> None:
    exits: dict[str, set[int]] = {}
    for site in make_docs().error_sites():
        assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", site.code), site.code
        exits.setdefault(site.code, set()).add(site.exit_code)
    assert {code: e for code, e in exits.items() if len(e) > 1} == {}
    assert len(exits) > 30


def test_every_code_in_the_source_is_on_the_page() -> None:
    """Found by text, not by the syntax tree that the page is made from."""
    text = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("ndtool", "training", "export")
        for path in sorted((ROOT / folder).rglob("*.py"))
    )
    slug = r'"([a-z0-9]+(?:[.-][a-z0-9]+)*)"'
    errors = set(re.findall(rf"\bcode(?:: str)? ?= ?{slug}", text))
    docs = make_docs()
    assert errors <= {site.code for site in docs.error_sites()}
    warnings = set(re.findall(rf"\bwarn\(\s*{slug}", text))
    assert len(warnings) > 10 and warnings <= {site.code for site in docs.warning_sites()}


def test_codes_made_by_helpers_are_found() -> None:
    assert {site.code for site in make_docs().error_sites()} >= {
        "data.label-twice",  # a variable
        "data.symlink",  # a method of ours
        "os.output",
        "quant.group",  # by position
        "tflite.operator",  # a prefix and an argument
        "tflite.tensor",
        "tool.missing",  # a default
    }


def test_constant_texts_of_errors_are_whole() -> None:
    for site in make_docs().error_sites():
        for text in (site.what, site.remedy):
            assert text and (text.endswith("...") or not text.endswith(".")), site


def test_operands_of_the_ir_page_are_those_of_the_spec() -> None:
    """Names are found by numbering an operation's fields: one line a tensor, in their order."""
    lines = text_of("ir.md").splitlines()
    start = lines.index("### StridedSlice")
    rows = [line for line in lines[start : start + 15] if line.startswith("| `")][:3]
    assert rows == [
        "| `x` | int8 activation, one scale |",
        "| `constants` | int32 constant |",
        "| `out` | written: int8 activation, one scale |",
    ]


# -- what pages name -------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(page)):
        if "://" not in target:
            assert (PAGES[page].parent / target).exists(), target


@pytest.mark.parametrize("page", WRITTEN)
def test_source_files_exist(page: str) -> None:
    """Paths in code marks; what lies in export/ may be named without it."""
    for path in re.findall(r"`([\w./-]+/[\w.-]*\.(?:py|toml|md|sh|c|h))`", text_of(page)):
        assert any((folder / path).is_file() for folder in (ROOT, ROOT / "export")), path


@pytest.mark.parametrize("page", WRITTEN)
def test_make_targets_exist(page: str) -> None:
    targets = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    used = re.findall(r"(?:^|`)make ([a-z-]+)", text_of(page), re.MULTILINE)
    assert set(used) <= set(targets)


@pytest.mark.parametrize("page", WRITTEN)
def test_commands_and_options_exist(page: str) -> None:
    """Of each `ndtool VERB ...` in code, against the help that docs/cli.md prints."""
    sections = text_of("cli.md").split("\n## ndtool")
    helps = {head.strip(): body for head, _, body in (s.partition("\n") for s in sections[1:])}
    for verb, rest in re.findall(
        r"\bndtool ((?:(?:data|baseline) )?[a-z]+)\b([^\n#]*)", code(page)
    ):
        assert verb in helps, verb
        for option in re.findall(r"(?<![\w-])--[a-z0-9-]+", rest):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", helps[verb]), f"{verb} {option}"


def code(page: str) -> str:
    """Shell blocks and code marks, a command a line."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    shell = [body for language, body in fence.findall(text_of(page)) if language == "sh"]
    marks = re.findall(r"`([^`]+)`", fence.sub("", text_of(page)))
    return "\n".join([*shell, *(" ".join(mark.split()) for mark in marks)])


def test_the_documented_c_is_a_firmware(tflite_micro: None, tmp_path: Path) -> None:
    """docs/engine.md: its C compiles without a warning, and its Makefile lines build and link."""
    contract = tiny_contract(unit_normalize(1))
    model = golden_model(contract_graph(contract), contract=contract)
    files = emit_engine(model, "posix")
    write_project(tmp_path / "models", files, marker=marker_name("nd_model"))
    start = "#include <stdint.h>\nint classify(const uint8_t *pixels);\n"
    end = "int main(void)\n{\n    const uint8_t pixels[ND_MODEL_INPUT_BYTES] = {0};\n"
    end += "    return (classify(pixels) < 0) ? 1 : 0;\n}\n"
    (tmp_path / "app.c").write_text(f"{start}{block('engine.md', 'c')}\n{end}")
    for compiler in (C99, CPP11):
        compile_ok(compiler, [Path("app.c")], "-Imodels", "-fsyntax-only", cwd=tmp_path)
    rule = "app: app.c $(SOURCES)\n\tgcc -std=c99 $(CFLAGS) $(LDFLAGS) -o $@ $^\n"
    (tmp_path / "Makefile").write_text(f"all: app\n{block('engine.md', 'make')}{rule}")
    subprocess.run([require_tool("make")], cwd=tmp_path, check=True, timeout=300)
    assert run_program(tmp_path / "app") == 0


def test_every_key_of_a_baseline_and_its_default_is_on_the_page() -> None:
    page = text_of("ci.md").partition("## The baseline file")[2].partition("\n## ")[0]
    words = set(re.findall(r"`([^`]+)`", page))
    for key in known_keys(Baseline):
        assert key.rpartition(".")[2] in words or f"[{key}]" in words, key
    cells = {row.split("|")[1].strip(" `"): row.split("|")[3].strip() for row in rows_of(page)}
    defaults = Bounds()
    for name in ("max_drop", "max_float_int8_drop", "c_mismatch"):
        assert cells[name] == str(getattr(defaults, name))
    assert cells["policy"] == f'`"{defaults.policy.value}"`' and not defaults.require
    paired = defaults.paired
    assert cells["paired"] == f"{paired.alpha}, {paired.floor}, {paired.cap}"
    for gate in GATES:
        assert f"`{gate}`" in text_of("ci.md"), gate
    assert all(f"`{gate}`" in page for gate in HASHES)


def rows_of(page: str) -> list[str]:
    """Lines of tables with four columns."""
    return [line for line in page.splitlines() if line.count("|") == 5]


def test_the_settings_that_the_page_shows_are_taken() -> None:
    """A setting of the page is one that `baseline accept` reads."""
    page = text_of("ci.md").partition("## The baseline file")[2].partition("\n## ")[0]
    (shown,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    words = shlex.split(shown)
    settings = [after for word, after in pairwise(words) if word == "--set"]
    assert len(settings) == 6
    assert len(read_settings(settings, ["daisy", "rose"], None)) == len(settings)


def test_the_trainings_shown_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/training.md: each command and its configuration file are what `train` takes."""
    taken: list[TrainOptions] = []

    def train_run(options: TrainOptions, _given: object, **_rest: object) -> None:
        taken.append(options)
        raise typer.Exit

    monkeypatch.setattr("ndtool.cli.train.train_run", train_run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.toml").write_text(block("training.md", "toml"))
    shell = re.findall(r"^```sh\n(.*?)^```", text_of("training.md"), re.DOTALL | re.MULTILINE)
    lines = "".join(shell).replace("\\\n", " ").splitlines()
    trainings = [line.partition("ndtool train ")[2] for line in lines if "ndtool train " in line]
    assert len(trainings) > 20
    ndtool = typer.main.get_command(app)
    for words in ("-c my.toml", *trainings):
        ndtool.main(["train", *shlex.split(words, comments=True)], standalone_mode=False)
        check_options(replace(taken[-1], epochs=taken[-1].epochs or 1, crop_px=0))
    assert len(taken) == 1 + len(trainings)
    assert taken[0] == replace(TRAIN, recipe=Recipe.PLAIN, epochs=8, weight_decay=1e-3)
    shown = {key for one in taken for key, _ in asdict(one).items() - asdict(TRAIN).items()}
    assert shown >= {
        "student_loss", "surgery", "expand", "teacher_start", "teacher_stop", "teacher_every",
        "teacher", "temperature", "init_from", "freeze", "freeze_epochs", "extend_epochs", "ema",
        "accumulate", "precision", "loaders", "augment", "tensorboard", "nproc",
    }  # fmt: skip
