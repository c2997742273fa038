"""The whole chain by the real command, on a data set it learns in seconds."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from command import Done, ndtool

RUN = Path("runs/tiny")
FILES = [
    *("config.toml", "contract.json", "labels.txt", "manifest.json", "metrics.json"),
    *(f"train/{n}" for n in ("checkpoint.pt", "best.pt", "history.csv", "split.csv", "train.log")),
    *("export/student.safetensors", "export/student.json", "export/model.onnx"),
    *("export/tensors.json", "export/ranges.json", "export/model_int8.tflite"),
    *("export/layers.csv", "export/predictions/float.npz", "export/predictions/onnx.npz"),
    *("export/predictions/int8.npz", "codegen/posix/nd_model.h", "codegen/posix/model.tflite"),
    "export/predictions/c.npz",
]
HAS_QEMU = all(shutil.which(tool) for tool in ("arm-none-eabi-gcc", "qemu-system-arm"))
TINY_TRAIN = ("--data", "npz:tiny.npz", "--width", ".5", "--epochs", "6", "--batch-size", "16",
              "--crop", "0", "--no-flip", "--threads", "1", "--name", "tiny")  # fmt: skip

pytestmark = pytest.mark.slow


def test_every_file_of_the_layout_is_there(tiny_chain: tuple[Path, Done]) -> None:
    folder, done = tiny_chain
    missing = [name for name in FILES if not (folder / RUN / name).is_file()]
    assert missing == []
    assert not list((folder / RUN).rglob("*.tmp")) and not (folder / RUN / ".lock").exists()
    assert "\nPASS  60 test images\n\naccuracy    float " in done.out


def test_metrics_have_the_fixed_keys_and_plain_numbers(tiny_chain: tuple[Path, Done]) -> None:
    metrics = json.loads((tiny_chain[0] / RUN / "metrics.json").read_text())
    for key in ("accuracy_float", "accuracy_onnx", "accuracy_int8", "agreement_onnx", "accuracy_c"):
        assert 0 <= metrics[key] <= 1
    assert metrics["accuracy_float"] >= 0.9
    assert metrics["eval_count"] == 60 and metrics["eval_set"] == "test"
    assert metrics["max_abs_diff_onnx"] <= 1e-4
    model = tiny_chain[0] / RUN / "export/model_int8.tflite"
    assert metrics["tflite_bytes"] == model.stat().st_size
    assert metrics["bit_exact"] == "168/168" and metrics["agreement_c"] == 1  # 100 + 8 + 60
    assert metrics["accuracy_c"] == metrics["accuracy_int8"]
    sizes = ("arena_bytes", "weights_bytes")
    sizes += ("flash_bytes", "code_bytes", "stack_bytes", "instructions_cortex_m4") * HAS_QEMU
    assert all(metrics[key] > 0 for key in sizes)


def test_manifest_hashes_are_true_and_name_no_machine(tiny_chain: tuple[Path, Done]) -> None:
    import hashlib

    run = tiny_chain[0] / RUN
    text = (run / "manifest.json").read_text()
    manifest = json.loads(text)
    assert set(manifest["stages"]) == {
        "train", "extract", "onnx", "ranges", "int8", "predict", "codegen:posix", "verify",
    } | ({"verify:mps2-an386"} if HAS_QEMU else set())  # fmt: skip
    for name, row in manifest["files"].items():
        data = (run / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (row["bytes"], row["sha256"]), name
    assert str(tiny_chain[0]) not in text and str(Path.home()) not in text
    assert str(tiny_chain[0]).encode() not in (run / "export/model.onnx").read_bytes()


def test_second_run_skips_everything(tiny: Path) -> None:
    before = (tiny / RUN / "manifest.json").read_text()
    done = ndtool("run", *TINY_TRAIN, "--max-drop", "20", "--calib", "50", cwd=tiny)
    assert done.code == 0
    for stage in ("train", "extract", "onnx", "ranges", "int8", "predict", "codegen:posix"):
        assert f"{stage}: up to date" in done.err
    assert (tiny / RUN / "manifest.json").read_text() == before


def test_config_of_the_run_repeats_it(tiny: Path) -> None:
    config = tomllib.loads((tiny / RUN / "config.toml").read_text())
    assert config["train"]["epochs"] == 6
    text = (tiny / RUN / "config.toml").read_text()
    assert "epochs = 6  # flag" in text and "# default" in text
    assert config["check"]["max_drop"] == 20 and config["train"]["name"] == "tiny"
    done = ndtool("run", "-c", RUN / "config.toml", cwd=tiny)
    assert done.code == 0 and "train: up to date" in done.err, done.err


def test_same_bytes_again(tiny: Path) -> None:
    names = ("export/model.onnx", "export/model_int8.tflite", "export/student.safetensors",
             "export/tensors.json", "codegen/posix/nd_model.h")  # fmt: skip
    before = {name: (tiny / RUN / name).read_bytes() for name in names}
    shutil.rmtree(tiny / RUN / "codegen")
    assert ndtool("export", RUN, "--int8", "--calib", "50", "--force", cwd=tiny).code == 0
    assert ndtool("codegen", RUN, cwd=tiny).code == 0
    assert {name: (tiny / RUN / name).read_bytes() for name in names} == before


def test_run_folder_without_train_and_elsewhere_is_complete(tiny: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(tiny / RUN, moved)
    shutil.rmtree(moved / "train")
    done = ndtool("export", moved, "--int8", "--calib", "60", cwd=tiny)
    assert done.code == 0, done.err
    assert "no train/ here" in done.err and "ranges: calib 50 -> 60" in done.err
    assert "codegen:posix is older" in ndtool("check", moved, "--max-drop", "20", cwd=tiny).out
    assert ndtool("codegen", moved, cwd=tiny).code == 0
    assert ndtool("check", moved, "--max-drop", "20", cwd=tiny).code == 0


def test_gate_fails_with_3_and_a_full_document(tiny: Path) -> None:
    done = ndtool("check", "tiny", "--min-accuracy", "1.0", "--max-drop", "20", "--json", cwd=tiny)
    document = done.document
    gate = next(g for g in document["gates"] if g["gate"] == "accuracy")
    int8 = document["hops"][-1]
    assert gate["passed"] == (int8["correct"] == int8["count"])
    assert done.code == (0 if document["verdict"] == "pass" else 3)
    failing = ndtool("check", "tiny", "--max-drop", "20", "--data", "npz:flipped.npz", cwd=tiny)
    assert failing.code == 2  # no such file
    arrays = dict(np.load(tiny / "tiny.npz"))
    arrays["y_test"] = (arrays["y_test"] + 1) % 3
    np.savez(tiny / "wrong.npz", **arrays)
    other = ("--min-accuracy", "50", "--data", "npz:wrong.npz")
    wrong = ndtool("check", "tiny", *other, cwd=tiny)
    assert wrong.code == 3 and "FAIL  evaluation_set" in wrong.out and "SKIP  acc" in wrong.out
    assert "FAIL  accuracy" in ndtool("check", "tiny", *other, "--keep-going", cwd=tiny).out


def test_a_broken_int8_file_fails_the_gates_of_accuracy(tiny: Path) -> None:
    """The gate is tested by breaking the thing: weights of the classifier zeroed."""
    from dataclasses import replace

    from ndtool.export.int8.ir import FullyConnected
    from ndtool.export.tflite.reader import read_tflite
    from ndtool.export.tflite.writer import write_tflite

    path = tiny / RUN / "export/model_int8.tflite"
    graph = read_tflite(path.read_bytes())
    (dense,) = (op for op in graph.ops if isinstance(op, FullyConnected))
    tensors = list(graph.tensors)
    weights = tensors[dense.weight]
    tensors[dense.weight] = replace(weights, data=bytes(weights.elements))
    path.write_bytes(write_tflite(replace(graph, tensors=tuple(tensors)), description="broken"))
    done = ndtool("check", "tiny", "--keep-going", cwd=tiny)
    assert done.code == 3
    assert "FAIL  float_int8" in done.out and "FAIL  integrity: export/model_int8" in done.out


def test_other_training_options_are_refused_and_force_replaces(tiny: Path) -> None:
    done = ndtool("train", *TINY_TRAIN, "--lr", "0.05", cwd=tiny)
    assert done.code == 2
    assert "lr 0.1 -> 0.05" in done.err and "--force" in done.err
    assert ndtool("train", *TINY_TRAIN, "--lr", "0.05", "--force", cwd=tiny).code == 0
    # The old student, ONNX and int8 files are still there: nothing may take them for the new net.
    check = ndtool("check", "tiny", "--max-drop", "100", cwd=tiny)
    assert check.code == 3 and "extract is older than what it reads" in check.out
    refused = ndtool("codegen", "tiny", cwd=tiny)
    assert refused.code == 2 and "ndtool export" in refused.err
    onnx_only = ndtool("export", "tiny", cwd=tiny)
    assert onnx_only.code == 0 and "int8 -" in onnx_only.out.split("files")[0], onnx_only.out
    assert "of an older model" in onnx_only.err
    assert ndtool("export", "tiny", "--int8", "--calib", "50", cwd=tiny).code == 0
    assert ndtool("codegen", "tiny", cwd=tiny).code == 0
    assert ndtool("check", "tiny", "--max-drop", "20", cwd=tiny).code == 0


def test_a_refused_attempt_does_not_bar_the_next_one(tiny: Path) -> None:
    args = ("train", "--data", "npz:tiny.npz", "--name", "fresh", "--epochs", "1", "--width", ".25")
    assert ndtool(*args, "--device", "cuda:9", cwd=tiny).code == 2
    assert ndtool(*args, "--batch-size", "300", "--lr", "1e30", cwd=tiny).code in (0, 2)
    assert ndtool(*args, "--batch-size", "16", "--force", cwd=tiny).code == 0


def test_changed_data_is_noticed(tiny: Path) -> None:
    arrays = dict(np.load(tiny / "tiny.npz"))
    arrays["x_test"] = arrays["x_test"][:50]
    arrays["y_test"] = arrays["y_test"][:50]
    np.savez(tiny / "tiny.npz", **arrays)
    done = ndtool("check", "tiny", "--max-drop", "20", cwd=tiny)
    assert done.code == 3 and "FAIL  evaluation_set" in done.out
    export = ndtool("export", "tiny", "--int8", "--calib", "50", cwd=tiny)
    assert export.code == 0 and "predict: data changed" in export.err
    assert "verify: to be done again" in export.err
    assert "accuracy_c" not in json.loads((tiny / RUN / "metrics.json").read_text())
    assert not (tiny / RUN / "export/predictions/c.npz").exists()
    assert ndtool("check", "tiny", "--max-drop", "20", cwd=tiny).code == 0


def test_damaged_models_fail_and_are_not_generated_from(tiny: Path) -> None:
    path = tiny / RUN / "export/model_int8.tflite"
    path.write_bytes(b"junk")
    check = ndtool("check", "tiny", cwd=tiny)
    assert check.code == 3 and "model_int8.tflite is not what int8 wrote" in check.out
    codegen = ndtool("codegen", "tiny", cwd=tiny)
    assert codegen.code == 2 and "model_int8.tflite is not what int8 wrote" in codegen.err
    path.unlink()
    assert ndtool("check", "tiny", "--max-drop", "20", cwd=tiny).code == 3
    (tiny / RUN / "export/model.onnx").unlink()
    missing = ndtool("check", "tiny", "--max-drop", "20", cwd=tiny)
    assert missing.code == 3 and "export/model.onnx is missing" in missing.out


def test_edited_metrics_fail(tiny: Path) -> None:
    path = tiny / RUN / "metrics.json"
    path.write_text(path.read_text().replace('"accuracy_int8"', '"accuracy_intx"'))
    done = ndtool("check", "tiny", "--max-drop", "20", cwd=tiny)
    assert done.code == 3 and "metrics.json" in done.out


def test_json_is_one_document_for_every_verb(tiny: Path) -> None:
    for args in (
        ("export", "tiny", "--int8", "--calib", "50"),
        ("codegen", "tiny"),
        ("check", "tiny", "--max-drop", "20"),
        ("models",),
        ("data", "inspect", "npz:tiny.npz"),
        ("doctor",),
        ("run", *TINY_TRAIN, "--max-drop", "20", "--calib", "50"),
    ):
        done = ndtool(*args, "--json", cwd=tiny)
        assert done.code == 0, (args, done.err)
        assert done.document["schema"].startswith("ndtool.")


def test_codegen_of_any_tflite_file(tiny: Path) -> None:
    source = tiny / RUN / "export/model_int8.tflite"
    done = ndtool("codegen", "--tflite", source, "--out", "bare", "--prefix", "my_net", cwd=tiny)
    assert done.code == 0, done.err
    header = (tiny / "bare/my_net.h").read_text()
    assert "CONTRACT_HASH" not in header
    again = ndtool("codegen", "--tflite", source, "--out", "runs", "--prefix", "my_net", cwd=tiny)
    assert again.code == 2 and "not a project of ndtool" in again.err


def test_foreign_onnx_goes_the_same_way(tiny: Path) -> None:
    given = ("--onnx", RUN / "export/model.onnx", "--contract", RUN / "contract.json")
    rest = ("--calib-data", "npz:tiny.npz", "--out", "runs/foreign", "--int8", "--calib", "50")
    done = ndtool("export", *given, *rest, cwd=tiny)
    assert done.code == 0, done.err
    ours = (tiny / RUN / "export/model_int8.tflite").read_bytes()
    assert (tiny / "runs/foreign/export/model_int8.tflite").read_bytes() == ours
    assert ndtool("check", "foreign", cwd=tiny).code == 0
    again = ndtool("run", "-c", "runs/foreign/config.toml", cwd=tiny)
    assert again.code == 2 and "nothing to train" in again.err
    # into the trained run: refused; another ONNX under the same name: noticed
    rest = ("--calib-data", "npz:tiny.npz", "--out", RUN)
    assert ndtool("export", *given, *rest, cwd=tiny).code == 2
    train = ("--data", "npz:tiny.npz", "--width", ".25", "--epochs", "1", "--batch-size", "16")
    assert ndtool("train", *train, "--name", "other", cwd=tiny).code == 0
    assert ndtool("export", "other", cwd=tiny).code == 0
    shutil.copy(tiny / "runs/other/export/model.onnx", tiny / RUN / "export/model.onnx")
    rest = ("--calib-data", "npz:tiny.npz", "--out", "runs/foreign")
    assert "import: onnx changed" in ndtool("export", *given, *rest, cwd=tiny).err


def test_without_torch_everything_after_extract_works(tiny: Path) -> None:
    block = tiny / "block"
    block.mkdir()
    (block / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    hide = (
        "import importlib.util as u, sys\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n.split('.')[0] == 'torch' else real(n, *a)\n"
    )
    (block / "sitecustomize.py").write_text(hide)
    env = {"PYTHONPATH": str(block)}
    up_to_date = ndtool("export", "tiny", "--int8", "--calib", "50", cwd=tiny, env=env)
    assert up_to_date.code == 0, up_to_date.err
    assert ndtool("train", *TINY_TRAIN, cwd=tiny, env=env).code == 0
    shutil.rmtree(tiny / RUN / "train")
    done = ndtool("export", "tiny", "--int8", "--calib", "50", "--force", cwd=tiny, env=env)
    assert done.code == 0, done.err
    assert "float hop not run again: torch is not installed" in done.err
    assert ndtool("check", "tiny", "--max-drop", "20", cwd=tiny, env=env).code == 0
    arrays = dict(np.load(tiny / "tiny.npz"))
    arrays["x_test"] = 255 - arrays["x_test"]
    np.savez(tiny / "other.npz", **arrays)
    elsewhere = ("--data", "npz:other.npz", "--keep-going")
    other = ndtool("check", "tiny", *elsewhere, cwd=tiny, env=env)
    assert "float hop left out" in other.err and "of other images" in other.err
    train = ndtool("train", "--data", "npz:tiny.npz", "--name", "new", cwd=tiny, env=env)
    assert train.code == 7 and "[train]" in train.err
