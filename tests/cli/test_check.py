"""`ndtool check` by the real command: every gate is tested by breaking the thing, in two forms.

Form 1: an artifact is edited, and integrity names it. Form 2: manifest and metrics are made to
agree with it again, so that integrity passes, and what the artifact does must be caught.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import safetensors.numpy
from command import Done, ndtool, ndtool_here
from forged_run import (
    edit_int8,
    edit_text,
    flipped_weights,
    regenerate,
    rehash,
    reseal,
    save_baseline,
    with_pool,
    without_class,
    without_last_output,
)

from ndtool.contract import load_contract
from ndtool.evaluate import accuracy, predicted_class
from ndtool.export.int8.ir import Graph
from ndtool.export.int8.reference import run_graph
from ndtool.export.project_stage import codegen_stage
from ndtool.files import json_text
from ndtool.options import CODEGEN
from ndtool.quant.pixels import quantize_pixels
from ndtool.rundir import (
    STUDENT,
    RunDir,
)

pytestmark = pytest.mark.slow

INT8 = "export/model_int8.tflite"
HAS_QEMU = all(shutil.which(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm"))
HASHES = {"integrity", "labels", "contract", "evaluation_set"}
Check = Callable[..., Done]


@pytest.fixture(scope="session")
def accepted(tiny_chain: tuple[Path, Done], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of the tiny run, its run accepted as baselines/main.toml."""
    folder = tmp_path_factory.mktemp("accepted") / "work"
    shutil.copytree(tiny_chain[0], folder)
    spec = f"npz:{folder / 'tiny.npz'}"
    save_baseline(RunDir(folder / "runs/tiny"), folder / "baselines/main.toml", data=spec)
    return folder


@pytest.fixture
def run(accepted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """The run in a copy of that folder, which is the working directory."""
    shutil.copytree(accepted, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return RunDir(Path("runs/tiny"))


@pytest.fixture
def check(run: RunDir, capsys: pytest.CaptureFixture[str]) -> Check:
    """`ndtool check tiny --baseline baselines/main.toml ARGS --json`."""

    def command(*args: object) -> Done:
        given = ("--baseline", "baselines/main.toml", *args, "--json")
        return ndtool_here("check", "tiny", *given, capsys=capsys)

    return command


def gates(done: Done) -> dict[str, dict]:
    """Gate, with its subject -> judgement."""
    rows = done.document["gates"]
    return {":".join(filter(None, (row["gate"], row["subject"]))): row for row in rows}


def failing(done: Done) -> set[str]:
    assert done.code in (0, 3), (done.out, done.err)
    assert done.document["verdict"] == ("fail" if done.code == 3 else "pass")
    return {name for name, row in gates(done).items() if row["passed"] is False}


# -- edits -----------------------------------------------------------------------------------------


def evaluation_arrays() -> dict[str, np.ndarray]:
    with np.load("tiny.npz") as found:
        return dict(found)


def flip_a_weight(run: RunDir) -> None:
    """The first whose sign bit loses at least three of the 60 images."""
    arrays = evaluation_arrays()
    pixels = quantize_pixels(arrays["x_test"][..., None], load_contract(run / "contract.json"))

    def lost(graph: Graph) -> int:
        outputs = run_graph(graph, pixels)[0].reshape(len(pixels), -1)
        right = accuracy(predicted_class(outputs), arrays["y_test"].astype(np.int64))
        return right.count - right.correct

    edit_int8(run, lambda graph: next(g for g in flipped_weights(graph) if lost(g) >= 3))


def swap_labels(run: RunDir) -> None:
    first, second, third = (run / "labels.txt").read_text().splitlines()
    (run / "labels.txt").write_text(f"{second}\n{first}\n{third}\n")


def swap_labels_everywhere(run: RunDir) -> None:
    swap_labels(run)
    contract = json.loads((run / "contract.json").read_text())
    contract["labels"][:2] = contract["labels"][1::-1]
    (run / "contract.json").write_text(json.dumps(contract))


def other_normalisation(run: RunDir) -> None:
    contract = json.loads((run / "contract.json").read_text())
    contract["normalize"] = {"kind": "mean_std", "mean": [0.5], "std": [0.5], "range": [-1.0, 1.0]}
    (run / "contract.json").write_text(json.dumps(contract))


def larger_arena(run: RunDir) -> None:
    """The header's, the marker's, and the plan's that the C asserts."""
    project = run / "codegen/posix"
    marker = json.loads((project / "nd_model.json").read_text())
    old, new = marker["arena_bytes"], marker["arena_bytes"] + 64
    (project / "nd_model.json").write_text(json_text(marker | {"arena_bytes": new}))
    edit_text(project / "nd_model.h", f"ARENA_BYTES    {old} ", f"ARENA_BYTES    {new} ")
    edit_text(project / "nd_model.c", f"ARENA_BYTES == {old}", f"ARENA_BYTES == {new}")


def better_metrics(run: RunDir) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json_text(metrics | {"accuracy_int8": 0.12345}))


def better_metrics_of_the_stage(run: RunDir) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["predict"]["figures"]["accuracy_int8"] = 0.12345
    (run / "manifest.json").write_text(json_text(manifest))
    run.write_metrics()


def lose_a_class(run: RunDir) -> None:
    edit_int8(run, without_class)


def one_more_operator(run: RunDir) -> None:
    edit_int8(run, with_pool)


def other_c(run: RunDir) -> None:
    """A mean that is one too large."""
    kernel = run / "codegen/posix/nd_runtime/nd_mean_s8.c"
    edit_text(kernel, "+ shape->out_zp;", "+ shape->out_zp + 1;")


def other_c_and_self_test(run: RunDir) -> None:
    other_c(run)
    golden = run / "codegen/posix/nd_model_golden.c"
    edit_text(golden, "(i < ND_MODEL_GOLDEN_COUNT); ++i", "(i < 0); ++i")


def program_that_knows_the_answers(run: RunDir) -> None:
    """A wrong kernel, behind a test program that runs nothing and says that all is well."""
    other_c(run)
    main = run / "codegen/posix/nd_model_main.c"
    main.write_text(
        '#include <stdio.h>\nint main(void) { puts("nd_model: 8 golden vectors: ok"); return 0; }\n'
    )


def swap_labels_in_the_c(run: RunDir) -> None:
    labels = run / "codegen/posix/nd_model_labels.c"
    edit_text(labels, '    "rows",\n    "columns",\n', '    "columns",\n    "rows",\n')


@dataclass(frozen=True)
class Mutant:
    """An edit, the file that integrity names, what catches it when the folder agrees again.

    `also`: gates that may fail with it.
    """

    edit: Callable[[RunDir], None]
    file: str
    gate: str
    words: str
    also: frozenset[str] = frozenset()
    new_c: bool = False  # the C is generated again, so that it is of the edited model


LESS_ACCURATE = frozenset(
    {"accuracy", "float_int8", "drop"} | {f"recall:{k}" for k in ("rows", "columns", "flat")}
)
MUTANTS = {
    "a flipped weight": Mutant(flip_a_weight, INT8, "drop", "lost", also=LESS_ACCURATE, new_c=True),
    "swapped labels": Mutant(
        swap_labels,
        "labels.txt",
        "labels",
        "'columns' in line 1, the contract 'rows'",
    ),
    "swapped labels, in the contract too": Mutant(
        swap_labels_everywhere,
        "contract.json",
        "labels",
        "another order",
        also=frozenset({"contract", "evaluation_set"}),
    ),
    "another normalisation": Mutant(
        other_normalisation, "contract.json", "contract", "normalisation"
    ),
    "a larger arena": Mutant(larger_arena, "codegen/posix/nd_model.h", "arena", "bytes; at most"),
    "a lost class": Mutant(
        lose_a_class, INT8, "recall:flat", "lost class", also=LESS_ACCURATE, new_c=True
    ),
    "one more operator": Mutant(
        one_more_operator,
        INT8,
        "ops",
        "MAX_POOL_2D",
        also=frozenset({"arena"}),
        new_c=True,
    ),
    "edited C": Mutant(other_c, "codegen/posix/nd_runtime/nd_mean_s8.c", "c", "golden vector"),
    "edited C and self-test": Mutant(
        other_c_and_self_test, "nd_model_golden.c", "c", "images differ from tflite_micro"
    ),
    "edited C and test program": Mutant(
        program_that_knows_the_answers, "nd_model_main.c", "c", "golden vector"
    ),
    "swapped labels in the C": Mutant(
        swap_labels_in_the_c, "nd_model_labels.c", "c", "nd_model_labels.c has other labels"
    ),
}


def test_an_unchanged_run_passes(check: Check) -> None:
    done = check()
    assert done.code == 0, done.out
    judged = gates(done)
    assert failing(done) == set()
    assert {name for name, row in judged.items() if row["passed"] is None} == set()
    assert {*HASHES, "metrics", "determinism", "accuracy", "drop", "recall:rows", "float_int8",
            "onnx", "c", "arena", "ops"} <= judged.keys()  # fmt: skip
    assert done.document["against"].startswith("baseline main (baselines/main.toml): policy paired")


@pytest.mark.parametrize("name", MUTANTS)
def test_an_edited_artifact_fails_integrity_which_names_it(
    name: str, run: RunDir, check: Check
) -> None:
    mutant = MUTANTS[name]
    mutant.edit(run)
    done = check()
    assert done.code == 3
    judged = gates(done)
    assert judged["integrity"]["passed"] is False and mutant.file in judged["integrity"]["text"]
    assert judged["metrics"]["passed"] is None
    assert judged["metrics"]["text"].startswith("stopped by integrity")
    assert judged["drop"]["passed"] is None and "stopped by" in judged["drop"]["text"]
    assert done.document["hops"] == []


@pytest.mark.parametrize("name", MUTANTS)
def test_what_an_artifact_does_is_caught_when_the_folder_agrees_with_it(
    name: str, run: RunDir, check: Check
) -> None:
    mutant = MUTANTS[name]
    mutant.edit(run)
    if mutant.new_c:
        regenerate(run)
    reseal(run)
    done = check()
    assert done.code == 3
    judged = gates(done)
    assert judged["integrity"]["passed"] is True and judged["metrics"]["passed"] is not False
    assert mutant.words in judged[mutant.gate]["text"]
    found = {name for name in failing(done) if "required, but" not in judged[name]["text"]}
    assert mutant.gate in found <= {mutant.gate} | mutant.also


# -- figures and images ----------------------------------------------------------------------------


def test_c_of_every_template_is_run(run: RunDir, check: Check) -> None:
    """Any of them may be what is flashed."""
    codegen_stage(run, replace(CODEGEN, template="cmake"), force=False)
    assert check().code == 0
    kernel = run / "codegen/cmake/nd_runtime/nd_mean_s8.c"
    edit_text(kernel, "+ shape->out_zp;", "+ shape->out_zp + 1;")
    reseal(run)
    done = check()
    assert failing(done) == {"c"} and "golden vector" in gates(done)["c"]["text"]
    golden = run / "codegen/cmake/nd_model_golden.c"
    edit_text(golden, "(i < ND_MODEL_GOLDEN_COUNT); ++i", "(i < 0); ++i")
    reseal(run)
    done = check()
    assert failing(done) == {"c"} and "images differ" in gates(done)["c"]["text"]


def test_c_of_another_model_or_contract_beside_the_right_one_fails(
    run: RunDir, check: Check
) -> None:
    codegen_stage(run, replace(CODEGEN, template="cmake"), force=False)
    marker = run / "codegen/cmake/nd_model.json"
    project = json.loads(marker.read_text())
    project["contract"]["labels"].reverse()
    marker.write_text(json_text(project))
    reseal(run)
    done = check()
    assert failing(done) == {"c"} and "another contract" in gates(done)["c"]["text"]


def test_a_makefile_of_somebody_else_takes_no_part(run: RunDir, check: Check) -> None:
    (run / "codegen/posix/build").mkdir()
    (run / "codegen/posix/build/nd_model_host").write_text("#!/bin/sh\nexit 1\n")
    assert check().code == 0
    (run / "codegen/posix/GNUmakefile").write_text("$(error not this one)\n")
    done = check("--keep-going")
    assert failing(done) == {"integrity"} and gates(done)["c"]["passed"] is True


@pytest.mark.parametrize("name", [INT8, "codegen/posix/nd_model_data.c", "labels.txt"])
def test_a_file_that_the_manifest_leaves_out_fails_integrity(
    name: str, run: RunDir, check: Check
) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["files"][name]
    (run / "manifest.json").write_text(json_text(manifest))
    text = gates(check())["integrity"]["text"]
    if name.startswith("codegen"):
        assert text == (
            "codegen/posix: 1 file that no stage wrote; to make it right: delete"
            " runs/tiny/codegen/posix, then ndtool codegen runs/tiny --force"
        )
    else:
        assert text.startswith(f"{name} was written by no stage; to make it right: ")


def test_what_integrity_says_to_do_makes_it_right(
    run: RunDir, check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    for name in [name for name in manifest["files"] if name.startswith(("codegen/", INT8))]:
        del manifest["files"][name]
    (run / "manifest.json").write_text(json_text(manifest))
    (run / "codegen/posix/extra.c").write_text("int extra;\n")
    (run / "metrics.json").unlink()
    found = gates(check())["integrity"]
    listed, _, said = found["text"].partition("; to make it right: ")
    names = [problem.partition(":")[0] for problem in listed.split("; ")]
    assert names == [f"{INT8} was written by no stage", "metrics.json is missing", "codegen/posix"]
    steps = said.split(", then ")
    assert steps == [
        "ndtool export runs/tiny --int8 --force",
        "delete runs/tiny/codegen/posix",
        "ndtool codegen runs/tiny --force",
    ]
    for step in steps:
        program, *words = shlex.split(step)
        if program == "delete":
            shutil.rmtree(words[0])
        else:
            calib = ("--calib", "50") if words[0] == "export" else ()
            assert ndtool_here(*words, *calib, capsys=capsys).code == 0
    assert gates(check())["integrity"]["passed"] is True


def test_labels_that_are_a_link_are_refused_unread(run: RunDir, check: Check) -> None:
    secret = Path("secret").absolute()
    secret.write_text("of somebody else\n")
    (run / "labels.txt").unlink()
    (run / "labels.txt").symlink_to(secret)
    found = gates(check())
    assert found["labels"]["text"].startswith("labels.txt is a link, not a file of this folder")
    assert "labels.txt is a link; to make it right: put back" in found["integrity"]["text"]
    assert "somebody" not in json.dumps(found)


def test_edited_metrics_fail_integrity_and_edited_figures_are_named(
    run: RunDir, check: Check
) -> None:
    better_metrics(run)
    text = gates(check())["integrity"]["text"]
    assert "metrics.json is not what the stages measured: accuracy_int8; to make" in text
    assert text.endswith("ndtool export runs/tiny --int8")
    better_metrics_of_the_stage(run)
    done = check()
    assert failing(done) == {"metrics"}
    assert "accuracy_int8 recorded 0.12345, measured" in gates(done)["metrics"]["text"]


def test_edited_figures_of_the_float_hop_are_named(run: RunDir, check: Check) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["predict"]["figures"]["accuracy_float"] = 0.5
    (run / "manifest.json").write_text(json_text(manifest))
    run.write_metrics()
    assert failing(done := check()) == {"metrics"}
    assert "accuracy_float recorded 0.5, measured" in gates(done)["metrics"]["text"]


@pytest.mark.parametrize("stage", ["codegen:posix", "verify"])
def test_of_two_stages_that_recorded_a_figure_both_must_be_right(
    stage: str, run: RunDir, check: Check
) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"][stage]["figures"]["arena_bytes"] += 1
    (run / "manifest.json").write_text(json_text(manifest))
    run.write_metrics()
    assert failing(done := check()) == {"metrics"}
    assert gates(done)["metrics"]["text"].startswith("arena_bytes recorded")


def fewer(arrays: dict[str, np.ndarray]) -> None:
    arrays["x_test"], arrays["y_test"] = arrays["x_test"][:-1], arrays["y_test"][:-1]


def reordered(arrays: dict[str, np.ndarray]) -> None:
    arrays["x_test"], arrays["y_test"] = arrays["x_test"][::-1], arrays["y_test"][::-1]


def other_label(arrays: dict[str, np.ndarray]) -> None:
    arrays["y_test"][7] = (arrays["y_test"][7] + 1) % 3


def other_pixel(arrays: dict[str, np.ndarray]) -> None:
    arrays["x_test"][7, 0, 0] ^= 1


@pytest.mark.parametrize("edit", [fewer, reordered, other_label, other_pixel])
def test_another_evaluation_set_fails_in_place_and_elsewhere(
    edit: Callable[[dict[str, np.ndarray]], None], run: RunDir, check: Check
) -> None:
    arrays = evaluation_arrays()
    edit(arrays)
    np.savez("other.npz", **arrays)
    elsewhere = check("--data", "npz:other.npz")
    judged = gates(elsewhere)
    assert elsewhere.code == 3 and judged["integrity"]["passed"] is True
    assert "another evaluation set" in judged["evaluation_set"]["text"]
    assert judged["drop"]["passed"] is None and "stopped by" in judged["drop"]["text"]
    shutil.copy("other.npz", "tiny.npz")
    reseal(run)
    in_place = gates(check())
    assert in_place["integrity"]["passed"] is True
    assert "another evaluation set" in in_place["evaluation_set"]["text"]


def test_without_a_baseline_the_images_are_those_that_export_measured(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = evaluation_arrays()
    fewer(arrays)
    np.savez("tiny.npz", **arrays)
    done = ndtool_here("check", "tiny", capsys=capsys)
    assert done.code == 3
    assert done.out.startswith("no baseline: only absolute and hop bounds judged\n")
    assert "FAIL  evaluation_set: other images than export measured" in done.out


# -- what may change -------------------------------------------------------------------------------


def test_a_harmless_retrain_passes_under_paired(run: RunDir) -> None:
    folder = Path.cwd()
    args = ("--width", ".5", "--epochs", "8", "--batch-size", "16", "--crop", "0", "--no-flip")
    again = ("--data", "npz:tiny.npz", *args, "--threads", "1", "--seed", "1", "--name", "again")
    assert ndtool("train", *again, cwd=folder).code == 0
    assert ndtool("export", "again", "--int8", "--calib", "50", cwd=folder).code == 0
    assert ndtool("codegen", "again", cwd=folder).code == 0
    given = ("--baseline", "baselines/main.toml", "--json")
    done = ndtool("check", "again", *given, cwd=folder)
    judged = gates(done)
    assert failing(done) == set(), judged
    assert "policy paired" in done.document["against"]
    assert judged["determinism"]["passed"] is None  # another model
    assert (run / INT8).read_bytes() != Path("runs/again", INT8).read_bytes()


def test_a_damaged_folder_is_judged_to_the_end_with_keep_going(run: RunDir, check: Check) -> None:
    other_c(run)
    done = check("--keep-going")
    assert failing(done) == {"integrity", "c"}
    assert [hop["hop"] for hop in done.document["hops"]] == ["float", "onnx", "int8"]


@pytest.mark.parametrize("sealed", [False, True])
def test_a_model_that_cannot_be_run_is_a_failed_gate_and_no_error(
    sealed: bool,  # noqa: FBT001
    run: RunDir,
    check: Check,
) -> None:
    (run / INT8).write_bytes(b"junk")
    if sealed:
        rehash(run, {})
    done = check("--keep-going")
    assert done.code == 3 and done.document["schema"] == "ndtool.check/1"
    assert "the models cannot be run" in gates(done)["integrity"]["text"]
    assert "the models cannot be run" in gates(done)["drop"]["text"]


def test_a_model_of_another_number_of_classes_is_a_failed_gate(run: RunDir, check: Check) -> None:
    edit_int8(run, without_last_output)
    rehash(run, {})
    text = gates(check())["integrity"]["text"]
    assert "the int8 hop has 2 outputs" in text and "the contract has 3 labels" in text


def test_weights_that_are_no_numbers_fail_and_the_document_is_json(
    run: RunDir, check: Check
) -> None:
    tensors = safetensors.numpy.load((run / STUDENT).read_bytes())
    broken = {name: np.full_like(values, np.nan) for name, values in tensors.items()}
    (run / STUDENT).write_bytes(safetensors.numpy.save(broken))
    rehash(run, {})
    done = check()
    assert {"onnx"} <= failing(done)
    assert next(h for h in done.document["hops"] if h["hop"] == "onnx")["max_abs_diff"] is None


def test_an_arena_that_a_header_does_not_state_plainly_is_not_within_its_bound(
    run: RunDir, check: Check
) -> None:
    header = run / "codegen/posix/nd_model.h"
    edit_text(header, "ARENA_BYTES    ", "ARENA_BYTES    0 + ")
    reseal(run)
    arena = gates(check())["arena"]
    assert arena["passed"] is False and "none that states its arena" in arena["text"]


def test_labels_of_other_names_in_the_folder_are_its_fault(run: RunDir, check: Check) -> None:
    for name in ("contract.json", "labels.txt"):
        edit_text(run / name, "flat", "plane")
    damaged = check()
    assert damaged.code == 3 and "integrity" in failing(damaged)
    rehash(run, {})
    sealed = check()
    assert {"labels", "contract"} <= failing(sealed)
    assert "other classes than the contract" in gates(sealed)["drop"]["text"]


# -- bounds ----------------------------------------------------------------------------------------


def test_options_replace_the_baselines_bounds_and_are_said(check: Check) -> None:
    done = check("--policy", "strict", "--max-drop", "0.5", "--min-accuracy", "100")
    assert "policy strict (at most 0.5 points lost)" in done.document["against"]
    assert "--policy strict --max-drop 0.5 --min-accuracy 1.0" in done.document["against"]
    judged = gates(done)
    assert "0.5 points" in judged["float_int8"]["bound"]
    assert "100" in judged["accuracy"]["bound"]


def test_the_baseline_may_stand_in_the_configuration(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("ndtool.toml").write_text('[check]\nbaseline = "baselines/main.toml"\n')
    assert ndtool_here("check", "tiny", capsys=capsys).out.startswith("baseline main (baselines/")


def test_a_baseline_without_a_name_is_no_missing_option(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--baseline "$FILE"` where the variable is empty."""
    done = ndtool_here("check", "tiny", "--baseline", "", capsys=capsys)
    assert done.code == 2 and "--baseline" in done.err and "nothing is named" in done.err


def test_a_run_without_int8_fails_whatever_the_baseline_requires(run: RunDir, check: Check) -> None:
    baseline = Path("baselines/main.toml")
    kept = ("require", "min_accuracy_percent")
    lines = baseline.read_text().splitlines(keepends=True)
    baseline.write_text("".join(line for line in lines if not line.startswith(kept)))
    manifest = json.loads((run / "manifest.json").read_text())
    for name in [n for n in manifest["files"] if n == INT8 or n.startswith("codegen/")]:
        (run / name).unlink()
        del manifest["files"][name]
    (run / "manifest.json").write_text(json_text(manifest))
    assert failing(done := check()) == {"drop"}
    assert gates(done)["drop"]["text"] == "no int8 model was run"


def test_a_baseline_that_is_missing_or_damaged_exits_3(run: RunDir, check: Check) -> None:
    Path("baselines/main.pred").write_bytes(b"")
    assert check().document["code"] == "gate.baseline-damaged"
    Path("baselines/main.toml").unlink()
    done = check()
    assert done.code == 3 and done.document["code"] == "gate.baseline-missing"


@pytest.mark.skipif(not HAS_QEMU, reason="no arm-none-eabi-gcc or qemu-system-arm")
def test_flash_and_instructions_are_measured_for_the_core_of_their_bounds(
    run: RunDir, check: Check
) -> None:
    path = Path("baselines/main.toml")
    save_baseline(run, path, core="cortex-m3")
    on_m4 = json.loads((run / "metrics.json").read_text())["flash_bytes"]
    done = check()
    judged = gates(done)
    assert judged["flash"]["passed"] is True and judged["instructions"]["passed"] is True
    assert "cortex-m3" in judged["instructions"]["text"]
    assert abs(done.document["figures"]["flash_bytes"] - on_m4) < 500
    kernel = run / "codegen/posix/nd_runtime/nd_mean_s8.c"
    kernel.write_text("#ifdef __arm__\n#error no\n#endif\n" + kernel.read_text())
    rehash(run, {})
    done = check()
    assert failing(done) == {"flash", "instructions"}
    assert "the build failed" in gates(done)["flash"]["text"]
    edit_text(kernel, "#ifdef __arm__\n#error no\n#endif\n", "")
    rehash(run, {})
    edit_text(path, 'gcc = "', 'gcc = "another ')
    judged = gates(check())
    assert judged["flash"]["passed"] is None and "another toolchain" in judged["flash"]["text"]


# -- outputs ---------------------------------------------------------------------------------------


def test_every_output_is_written_also_when_a_gate_fails(
    run: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(Path.cwd()))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    files = ("--junit", "out/junit.xml", "--markdown", "out/verdict.md", "--github")
    given = ("check", "tiny", "--baseline", "baselines/main.toml", *files)
    passed = ndtool_here(*given, capsys=capsys)
    assert passed.code == 0 and "::error" not in passed.out
    suite = ElementTree.parse("out/junit.xml").getroot()
    assert suite.get("failures") == "0" and int(suite.get("tests") or 0) > 10

    lose_a_class(run)
    regenerate(run)
    reseal(run)
    failed = ndtool_here(*given, capsys=capsys)
    assert failed.code == 3
    assert "::error title=ndtool check%3A recall%3Aflat" in failed.out
    assert "file=baselines/main.toml,line=" in failed.out
    suite = ElementTree.parse("out/junit.xml").getroot()
    assert suite.find(".//testcase[@name='recall:flat']/failure") is not None
    assert "FAIL" in Path("out/verdict.md").read_text()
    assert summary.read_text().startswith("before\n") and "FAIL" in summary.read_text()
    as_json = ndtool_here(*given, "--json", capsys=capsys)
    assert as_json.document["verdict"] == "fail" and "::error" in as_json.err


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_output_overwrites_nothing_that_is_read(run: RunDir, check: Check) -> None:
    Path("ndtool.toml").write_text("[check]\n")
    Path("link").symlink_to("baselines/main.pred")
    before = files_of(Path())
    inside = ("runs/tiny/labels.txt", "runs/tiny/new/j.xml", "baselines/../runs/tiny/j.xml")
    read = ("baselines/main.toml", "baselines/main.pred", "link", "ndtool.toml", "tiny.npz")
    for name in (*read, *inside):
        for option in ("--junit", "--markdown"):
            done = check(option, name)
            assert (done.code, done.document["code"]) == (2, "option.output-file"), name
            assert done.document["where"] == f"{option} {name}"
    done = check("--junit", "same", "--markdown", Path.cwd() / "same")
    assert (done.code, done.document["code"]) == (2, "option.output-file")
    assert files_of(Path()) == before
    (run / "contract.json").unlink()  # a damaged folder is a run folder, too
    assert check("--junit", "runs/tiny/labels.txt").document["code"] == "option.output-file"


def test_a_missing_baseline_is_written_as_an_error(run: RunDir, check: Check) -> None:
    assert check("--junit", "j.xml", "--markdown", "v.md").code == 0
    Path("baselines/main.toml").unlink()
    done = check("--junit", "j.xml", "--markdown", "v.md")
    assert done.code == 3 and done.document["code"] == "gate.baseline-missing"
    error = ElementTree.parse("j.xml").getroot().find(".//testcase[@name='check']/error")
    assert error is not None and error.get("type") == "gate.baseline-missing"
    page = Path("v.md").read_text()
    assert page.startswith("## ndtool check: ERROR") and "PASS" not in page


def test_an_output_that_cannot_be_written_is_told_before_anything_runs(
    run: RunDir, check: Check
) -> None:
    (run / "manifest.json").unlink()  # nothing would be judged anyway
    for option, name in (("--junit", "tiny.npz/x.xml"), ("--markdown", "runs")):
        done = check(option, name)
        assert done.code == 2 and done.document["code"] == "option.output-file"
        assert option in done.document["where"]
    assert check("--junit", "a" * 300).code == 2


# -- other environments ----------------------------------------------------------------------------


def test_a_committed_folder_without_train_and_torch_is_made_whole_and_judged(run: RunDir) -> None:
    """What is committed: no checkpoint, no predictions, nothing that export and codegen remake."""
    block = Path("block").absolute()
    block.mkdir()
    (block / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    (block / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n.split('.')[0] == 'torch' else real(n, *a)\n"
    )
    kept = ("student.safetensors", "student.json", "ranges.json")
    for folder in ("train", "codegen"):
        shutil.rmtree(run / folder)
    for path in sorted((run / "export").iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in kept:
            path.unlink()

    def command(*args: str) -> Done:
        return ndtool(*args, cwd=Path.cwd(), env={"PYTHONPATH": str(block)})

    assert command("export", "tiny", "--int8", "--calib", "50").code == 0
    assert command("codegen", "tiny").code == 0
    done = command("check", "tiny", "--baseline", "baselines/main.toml")
    assert done.code == 0, (done.out, done.err)
    assert "float hop left out: torch is not installed, and none are stored" in done.err
    assert "PASS  float_int8: onnx" in done.out and "PASS  determinism" in done.out
    assert "verify: to be done again" not in done.err
    metrics = json.loads((run / "metrics.json").read_text())
    assert "accuracy_c" not in metrics and "accuracy_float" not in metrics


def test_a_missing_baseline_is_annotated_too(tiny: Path) -> None:
    done = ndtool("check", "tiny", "--baseline", "none.toml", "--github", cwd=tiny)
    assert done.code == 3 and "::error title=ndtool check::no baseline file" in done.out
