"""The summary block: what is known at each stage of a run, what is not, and the command for it."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from array_models import tiny_contract
from c_projects import write_c_project
from engine_models import contract_graph
from hostile_names import HOSTILE_NAMES
from int8_models import tiny_model

from ndtool import console
from ndtool.cli.summary import print_summary, short_count, summary_lines
from ndtool.config import write_config
from ndtool.contract import unit_normalize
from ndtool.errors import ConfigError, InputError, UnsupportedError
from ndtool.evaluate import Accuracy
from ndtool.export.codegen.costs import estimate
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.int8.ir import Graph
from ndtool.export.summary import (
    BASELINE,
    STAGE,
    Summary,
    named_target,
    record_fit,
    recorded_target,
    summarize,
    summarize_project,
    wanted_target,
)
from ndtool.export.tflite.writer import write_tflite
from ndtool.options import CODEGEN
from ndtool.rundir import CONTRACT, ONNX, TFLITE, RunDir, StageKey, Value
from ndtool.targets import Need, built_in_targets, judge_fit
from ndtool.types import Hop

Lines = dict[str, str]
PREDICT = {
    "eval_set": "test",
    "eval_count": 360,
    "accuracy_float": 351 / 360,
    "accuracy_onnx": 351 / 360,
    "accuracy_int8": 350 / 360,
}
SMALL = (
    "[boards.small]\ncore = 'cortex-m4f'\nclock_mhz = 16\nram = 8192\nram_total = 8192\n"
    "flash = 20480\nsource = 'a; b'\n"
)


def record(
    run: RunDir,
    stage: str,
    figures: Mapping[str, Value],
    *,
    reads: tuple[str, ...] = (),
    writes: Mapping[str, bytes] = {},
) -> None:
    """A stage as it records itself."""
    for name, data in writes.items():
        run.write_bytes(name, data)
    key = StageKey(stage=stage, version=1, options={}, files=reads)
    run.record(key, files=tuple(writes), figures=figures, packages=(), seed=None, started=0.0)


def record_int8(run: RunDir, seed: int = 0) -> None:
    tflite = write_tflite(contract_graph(run.contract(), seed=seed), description="test")
    record(run, "int8", {}, reads=(ONNX,), writes={TFLITE: tflite})
    record(run, "predict", PREDICT, reads=(TFLITE,))


def record_codegen(run: RunDir, template: str = "posix") -> None:
    folder = f"codegen/{template}"
    names = ("nd_model.c", "nd_model.h", f"{template}.txt", "nd_model_main.c")
    writes = {f"{folder}/{name}": name.encode() for name in names}
    writes[f"{folder}/nd_model_main.c"] = template.encode()
    figures: dict[str, Value] = {"arena_bytes": 900, "arena_bytes_tflm": 2000, "tflite_bytes": 1500}
    record(run, f"codegen:{template}", figures, reads=(TFLITE,), writes=writes)


def record_verify(run: RunDir, template: str = "posix") -> None:
    folder = f"codegen/{template}"
    reads = tuple(f"{folder}/{name}" for name in ("nd_model.c", "nd_model.h", "nd_model_main.c"))
    figures: dict[str, Value] = {"bit_exact": "460/460", "accuracy_c": 350 / 360}
    record(run, "verify", figures, reads=(TFLITE, *reads))


def record_qemu(run: RunDir) -> None:
    figures: dict[str, Value] = {
        "bit_exact_cortex_m4": "18/18",
        "flash_bytes": 5000,
        "stack_bytes": 312,
        "instructions_cortex_m4": 1_204_511,
    }
    reads = ("codegen/posix/nd_model.c", "codegen/posix/nd_model.h")
    record(run, "verify:mps2-an386", figures, reads=(TFLITE, *reads))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run of which the ONNX file is written, and no more."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    made = RunDir(Path("runs/x"))
    contract = tiny_contract(unit_normalize(1)).to_file_text()
    record(made, "train", {}, writes={CONTRACT: contract.encode()})
    record(made, "onnx", {"params": 38_412, "macs": 544}, writes={ONNX: b"onnx"})
    record(made, "predict", {k: v for k, v in PREDICT.items() if not k.endswith("int8")})
    return made


@pytest.fixture
def done(run: RunDir) -> RunDir:
    """A run of which everything is measured."""
    for step in (record_int8, record_codegen, record_verify, record_qemu):
        step(run)
    return run


def lines_of(summary: Summary) -> Lines:
    return dict(summary_lines(summary))


# -- a run, stage by stage -------------------------------------------------------------------------


def test_the_block_of_a_finished_run(done: RunDir) -> None:
    target = built_in_targets()["nucleo-f446re"]
    lines = lines_of(summarize(done, target=target, baseline="b/main.toml"))
    assert list(lines) == ["accuracy", "C code", "work", "fits", "files", "next"]
    arena = compile_graph(contract_graph(done.contract())).plan.total
    assert lines["accuracy"] == (
        "float 97.50 % (351/360)   int8 97.22 % (350/360)   C 97.22 %   drop 0.28 points"
    )
    assert lines["C code"] == (
        "bit-exact 460/460   arena 900 B   flash 5,000 B   stack 312 B"
        "   instructions 1,204,511 (cortex-m4)"
    )
    assert lines["work"] == "544 MAC   38,412 parameters   ops FULLY_CONNECTED RESHAPE"
    ram = f"{(arena + 2048) / 1024:.1f}"
    assert lines["fits"] == (
        f"nucleo-f446re: FITS (RAM {ram} of 115.2 KiB, flash 4.9 of 486.4 KiB)"
    )
    assert lines["files"] == "runs/x/codegen/posix"
    assert lines["next"] == "ndtool check runs/x --baseline b/main.toml"


def test_before_int8(run: RunDir) -> None:
    lines = lines_of(summarize(run))
    command = "ndtool export runs/x --int8"
    assert lines["accuracy"] == f"float 97.50 % (351/360)   int8 -   C -   drop -   ({command})"
    assert lines["C code"] == (
        f"bit-exact -   arena -   flash -   stack -   instructions -   ({command})"
    )
    assert lines["work"] == f"544 MAC   38,412 parameters   ops -   ({command})"
    assert lines["fits"] == f"-   ({command})"
    assert (lines["files"], lines["next"]) == ("runs/x/export/model.onnx", command)


def test_before_codegen(run: RunDir) -> None:
    record_int8(run)
    lines = lines_of(summarize(run))
    assert lines["accuracy"].endswith("C -   drop 0.28 points   (ndtool codegen runs/x)")
    assert lines["C code"].startswith("bit-exact -   arena -")
    assert lines["fits"] == "26 of 26 targets   (ndtool analyze runs/x --all-targets)"
    assert lines["files"] == "runs/x/export/model_int8.tflite"
    assert lines["next"] == "ndtool codegen runs/x"


def test_before_verify(run: RunDir) -> None:
    record_int8(run)
    record_codegen(run)
    lines = lines_of(summarize(run))
    assert lines["C code"] == (
        "bit-exact -   arena 900 B   flash -   stack -   instructions -"
        "   (ndtool verify runs/x --on qemu)"
    )
    assert lines["accuracy"].endswith("C -   drop 0.28 points   (ndtool verify runs/x)")
    assert lines["next"] == "ndtool verify runs/x"
    record_verify(run)
    lines = lines_of(summarize(run))
    assert lines["C code"].startswith("bit-exact 460/460   arena 900 B   flash -")
    accept = f"ndtool baseline accept runs/x --baseline {BASELINE} --reason 'first model'"
    assert lines["next"] == accept


def test_an_array_is_never_verified_and_fits_nothing_we_know(run: RunDir) -> None:
    record_int8(run)
    record_codegen(run, "array")
    lines = lines_of(summarize(run))
    assert lines["accuracy"].endswith("int8 97.22 % (350/360)   drop 0.28 points")
    assert lines["C code"] == "TFLM arena 2,000 B   model 1,500 B"
    assert lines["fits"] == "-   (ndtool codegen runs/x --template posix)"
    assert lines["next"] == "ndtool check runs/x"


def test_figures_of_another_model_are_not_known(done: RunDir) -> None:
    record_int8(done, seed=1)
    summary = summarize(done)
    assert (summary.template, summary.bit_exact, summary.arena_bytes) == ("", None, None)
    assert summary.flash_bytes is None and summary.next == "ndtool codegen runs/x"
    assert set(summary.accuracies or {}) == {Hop.FLOAT, Hop.ONNX, Hop.INT8}


def test_the_same_c_in_another_template_is_as_exact(done: RunDir) -> None:
    record_codegen(done, "cmake")
    assert summarize(done, template="cmake").bit_exact == "460/460"
    record(done, "codegen:cmake", {}, reads=(TFLITE,), writes={"codegen/cmake/nd_model.c": b"2"})
    summary = summarize(done, template="cmake")
    assert summary.bit_exact is None and summary.files == Path("runs/x/codegen/cmake")
    assert summarize(done).bit_exact == "460/460"  # of posix, which is the run's


def test_in_qemu_only(run: RunDir) -> None:
    for step in (record_int8, record_codegen, record_qemu):
        step(run)
    lines = lines_of(summarize(run))
    assert lines["C code"].startswith("bit-exact 18/18   arena 900 B   flash 5,000 B")
    assert lines["accuracy"].endswith("C -   drop 0.28 points   (ndtool verify runs/x)")


def test_an_imported_run_has_no_float_hop(run: RunDir) -> None:
    figures = {key: value for key, value in PREDICT.items() if key != "accuracy_float"}
    record_int8(run)
    record(run, "predict", figures, reads=(TFLITE,))
    assert lines_of(summarize(run))["accuracy"].startswith("onnx 97.50 % (351/360)   int8 97.22 %")


def test_a_gain_is_a_negative_drop_and_nothing_is_minus_nothing(done: RunDir) -> None:
    summary = summarize(done)
    rows = {Hop.FLOAT: Accuracy(1, 4), Hop.INT8: Accuracy(2, 4)}
    gained = replace(summary, accuracies=rows)
    assert gained.drop == Fraction(-25) and "drop -25.00 points" in lines_of(gained)["accuracy"]
    rows = {Hop.FLOAT: Accuracy(0, 10**6), Hop.INT8: Accuracy(1, 10**6)}
    assert "drop 0.00 points" in lines_of(replace(summary, accuracies=rows))["accuracy"]


# -- boards ----------------------------------------------------------------------------------------


def test_flash_is_measured_on_its_own_core_and_estimated_on_others(done: RunDir) -> None:
    compiled, contract = compile_graph(contract_graph(done.contract())), done.contract()
    fits = {fit.target.name: fit for fit in summarize(done).fits}
    assert fits["nucleo-f446re"].need.flash_bytes == 5000
    assert not fits["nucleo-f446re"].need.flash_estimated
    for name in ("teensy41", "pico", "esp32"):
        need, core = fits[name].need, fits[name].target.core
        assert need.flash_estimated
        assert need.flash_bytes == estimate(compiled, core, contract=contract).flash_bytes


def test_boards_that_it_does_not_fit_are_named(done: RunDir) -> None:
    boards = list(built_in_targets().values())
    need = Need(arena_bytes=80_000, flash_bytes=1)
    summary = replace(summarize(done), fits=tuple(judge_fit(need, board) for board in boards))
    text = "25 of 26 targets; not bluepill-f103c8   (ndtool analyze runs/x --all-targets)"
    assert lines_of(summary)["fits"] == text
    need = Need(arena_bytes=10**9, flash_bytes=1)
    summary = replace(summary, fits=tuple(judge_fit(need, board) for board in boards))
    text = "0 of 26 targets; not nucleo-f446re, nucleo-h743zi, nucleo-l476rg, 23 more"
    assert lines_of(summary)["fits"].startswith(text)


def test_too_large_is_said_with_its_layer(done: RunDir) -> None:
    Path("b.toml").write_text(SMALL.replace("20480", "16500"))
    target = named_target(replace(CODEGEN, target="small", boards="b.toml"))
    summary = summarize(done, target=target)
    assert lines_of(summary)["fits"].startswith("small: DOES NOT FIT (RAM 2.")
    assert summary.refusal is not None and summary.refusal.exit_code == 4
    line = console.error_line(summary.refusal)
    assert "flash is 4,884 B over" in line and "FULLY_CONNECTED" in line
    assert line.endswith("; ndtool analyze runs/x --target small --boards b.toml [fit.target]")


def test_what_does_not_fit_is_not_to_be_accepted(run: RunDir) -> None:
    """At every stage, next is to see what is too large; neither verify nor a baseline."""
    Path("b.toml").write_text(SMALL.replace("20480", "16500"))
    target = named_target(replace(CODEGEN, target="small", boards="b.toml"))
    for step in (record_int8, record_codegen, record_verify):
        step(run)
        for baseline in ("", "b/main.toml"):
            told = summarize(run, target=target, baseline=baseline).next
            assert told == "ndtool analyze runs/x --target small --boards b.toml"
            assert "analyze" not in summarize(run, baseline=baseline).next


def test_the_verdict_is_kept_with_what_it_rests_on(done: RunDir) -> None:
    Path("b.toml").write_text(SMALL)
    target = named_target(replace(CODEGEN, target="small", boards="b.toml"))
    for flash, fits in ((20480, False), (40960, True)):
        Path("b.toml").write_text(SMALL.replace("20480", f"{flash}"))
        target = named_target(replace(CODEGEN, target="small", boards="b.toml"))
        record_fit(done, summarize(done, target=target).fit)
        assert done.manifest().stages[STAGE].figures == {"target": "small", "fits": fits}
        assert (done / "metrics.json").read_text().count('"fits"') == 1
    before = (done / "manifest.json").read_text()
    record_fit(done, summarize(done, target=target).fit)
    assert (done / "manifest.json").read_text() == before
    assert done.problems() == []
    record_fit(done, summarize(done).fit)
    assert STAGE not in done.manifest().stages
    assert "fits" not in (done / "metrics.json").read_text()


def test_the_board_is_that_of_codegen_else_that_of_the_training(
    done: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    def name(options: object = CODEGEN) -> str:
        target = wanted_target(done, options)
        return "" if target is None else target.name

    assert name() == "" and recorded_target(done) is None
    Path("b.toml").write_text(SMALL)
    write_config(done, "train", {"target": "small", "boards": "b.toml"}, {})
    assert name() == "small" and name(replace(CODEGEN, target="pico")) == "pico"
    write_config(done, "codegen", {"target": "PICO2", "boards": ""}, {})
    found = recorded_target(done)
    assert found is not None and found.name == "pico2"
    write_config(done, "codegen", {"target": "", "boards": ""}, {})
    Path("b.toml").unlink()
    with pytest.raises(InputError, match=r"b\.toml"):
        name()
    assert recorded_target(done) is None
    assert "[summary.target]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "boards", "words"),
    [
        ("train", "", "the run was trained for board small, which is not known here: it is in no"),
        ("train", "", "write [boards.small] in ndtool.toml, or ndtool codegen RUN --target small"),
        ("train", "b.toml", "no file b.toml (runs/x/config.toml: train.target); write"),
        ("train", "b.toml", "[boards.small] in b.toml, or"),
        ("codegen", "", "the run was made into C for board small"),
    ],
)
def test_a_board_that_is_not_known_here_is_the_runs(
    done: RunDir, capsys: pytest.CaptureFixture[str], verb: str, boards: str, words: str
) -> None:
    write_config(done, verb, {"target": "small", "boards": boards}, {})
    if verb == "train":
        with pytest.raises(ConfigError) as caught:
            wanted_target(done, CODEGEN)
        assert caught.value.code == "target.not-here" and words in str(caught.value)
        assert wanted_target(done, replace(CODEGEN, target="pico")) is not None
    assert recorded_target(done) is None
    assert words in " ".join(capsys.readouterr().err.split())
    Path(boards or "ndtool.toml").write_text(SMALL)
    found = recorded_target(done)
    assert found is not None and found.name == "small"


def test_a_wrong_list_of_boards_is_no_fault_of_the_run(done: RunDir) -> None:
    write_config(done, "train", {"target": "small", "boards": ""}, {})
    Path("ndtool.toml").write_text(SMALL.replace("8192", "0"))
    with pytest.raises(ConfigError) as caught:
        wanted_target(done, CODEGEN)
    assert caught.value.code == "target.board"
    write_config(done, "train", {"target": "", "boards": "gone.toml"}, {})
    Path("ndtool.toml").unlink()
    assert wanted_target(done, CODEGEN) is None


def test_a_target_needs_an_engine() -> None:
    with pytest.raises(ConfigError, match="array"):
        named_target(replace(CODEGEN, target="pico", template="array"))
    assert named_target(replace(CODEGEN, template="array")) is None


def test_a_model_without_c_is_explained_by_codegen(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_graph: Graph) -> None:
        raise UnsupportedError("no C for it", where="x", remedy="y", code="z")

    record_int8(run)
    monkeypatch.setattr("ndtool.export.summary.compile_graph", refuse)
    assert lines_of(summarize(run))["fits"] == "-   (ndtool codegen runs/x)"


# -- a lone file -----------------------------------------------------------------------------------


def test_a_lone_file(tflite_micro: None, tmp_path: Path) -> None:
    folder = tmp_path / "c d"
    write_c_project(tiny_model(), folder)
    figures: dict[str, Value] = {"arena_bytes": 500, "macs": 5}
    lines = lines_of(summarize_project(folder, CODEGEN, figures, None))
    assert list(lines) == ["C code", "work", "fits", "files", "next"]
    quoted = shlex.quote(str(folder))
    assert lines["C code"].endswith(f"instructions -   (ndtool verify {quoted} --on qemu)")
    assert "parameters" not in lines["work"] and " MAC   ops " in lines["work"]
    model = shlex.quote(str(folder / "model.tflite"))
    assert lines["fits"] == f"26 of 26 targets   (ndtool analyze {model} --all-targets)"
    assert lines["next"] == f"ndtool verify {quoted}"
    write_c_project(tiny_model(classes=4), folder, prefix="other")
    other = summarize_project(folder, replace(CODEGEN, prefix="other"), figures, None)
    assert "other_model.tflite" in lines_of(other)["fits"]


# -- other people's text ---------------------------------------------------------------------------


def test_hostile_names(
    done: RunDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    summary = summarize(done)
    for name in HOSTILE_NAMES:
        command = shlex.join(("ndtool", "check", name))
        print_summary(replace(summary, files=Path(name), next=command))
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 6, name
        assert not any(line.lstrip().startswith("::") or "##[" in line for line in lines), name
        assert not any(c < " " or c in "\x7f\x85\u202e" for line in lines for c in line), name


@pytest.mark.parametrize(
    "figures",
    [
        {"eval_count": "x", "accuracy_int8": 0.5},
        {"eval_count": 0, "accuracy_int8": 0.5},
        {"eval_count": -4, "accuracy_int8": 0.5},
        {"eval_count": True, "accuracy_int8": 0.5},
        {"eval_count": 4, "accuracy_int8": "much", "accuracy_float": 7.0},
        {"accuracy_int8": 0.5},
        {},
    ],
)
def test_figures_that_nobody_measured(done: RunDir, figures: dict[str, Value]) -> None:
    """A manifest is a file like any other."""
    record(done, "predict", figures, reads=(TFLITE,))
    record(done, "onnx", {"params": "x", "macs": 1.5}, writes={ONNX: b"onnx"})
    record(done, "codegen:posix", {"arena_bytes": "y"}, reads=(TFLITE,), writes={})
    odd: dict[str, Value] = {"bit_exact": 5, "flash_bytes": "z", "instructions_": 3}
    record(done, "verify", odd | {"accuracy_c": "all"})
    summary = summarize(done)
    assert not summary.accuracies and summary.params is None and summary.arena_bytes is None
    assert len(lines_of(summary)) == 6 and summary.document()["drop_points"] is None


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0 k"), (1_104_000, "1.1 M"), (2 * 10**9, "2.0 G")],
)
def test_short_counts(count: int, text: str) -> None:
    assert short_count(count) == text


def test_the_document_has_every_figure(done: RunDir) -> None:
    document = summarize(done, target=built_in_targets()["pico"]).document()
    assert document["accuracies"]["int8"] == {"accuracy": 350 / 360, "correct": 350, "count": 360}
    assert document["drop_points"] == pytest.approx(100 / 360)
    assert (document["macs"], document["params"], document["stack_bytes"]) == (544, 38_412, 312)
    assert document["target"] == "pico" and document["fits"][0]["flash_estimated"] is True
    assert document["instructions_core"] == "cortex-m4"
