"""`ndtool codegen --tflite`: any file to any template, several models in one folder."""

from __future__ import annotations

import json
from pathlib import Path

import int8_models
import pytest
from float_ends import with_float_ends

from ndtool.errors import InputError, UnsupportedError
from ndtool.export.codegen.render import TEMPLATES
from ndtool.export.project_stage import codegen_file
from ndtool.export.tflite.reader import read_tflite
from ndtool.files import sha256_bytes
from ndtool.options import CodegenOptions
from ndtool.rundir import Value

pytestmark = pytest.mark.usefixtures("tflite_micro")


def generate(
    tflite: bytes, out: Path, *, template: str = "posix", prefix: str = "nd_model"
) -> dict[str, Value]:
    file = out.parent / "file.tflite"
    file.write_bytes(tflite)
    options = CodegenOptions(template=template, prefix=prefix, golden=1)
    return codegen_file(file, contract_path=None, options=options, out=out)


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_can_be_generated(template: str, tmp_path: Path) -> None:
    tflite = int8_models.tiny_model()
    figures = generate(tflite, tmp_path / "out", template=template)
    marker = json.loads((tmp_path / "out" / "nd_model.json").read_text())
    assert marker["template"] == template
    assert figures["tflite_bytes"] == len(tflite)
    assert figures["ops"] == "CONV_2D FULLY_CONNECTED MEAN"
    assert isinstance(figures["arena_bytes_tflm"], int)
    if template != "array":
        for key in ("arena_bytes", "weights_bytes"):
            assert figures[key] == marker[key]


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_cut_float_ends_are_told(
    template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = with_float_ends(read_tflite(int8_models.tiny_model()))
    generate(whole, tmp_path / "cut", template=template)
    assert "int8 [codegen.float-ends]" in capsys.readouterr().err
    assert sha256_bytes(whole) in (tmp_path / "cut" / "README.md").read_text()
    marker = json.loads((tmp_path / "cut" / "nd_model.json").read_text())
    assert marker["source_sha256"] == sha256_bytes(whole) != marker["model_sha256"]

    generate(int8_models.tiny_model(), tmp_path / "plain", template=template)
    assert "float-ends" not in capsys.readouterr().err
    assert "QUANTIZE" not in (tmp_path / "plain" / "README.md").read_text()
    marker = json.loads((tmp_path / "plain" / "nd_model.json").read_text())
    assert marker["source_sha256"] == marker["model_sha256"]


@pytest.mark.slow
def test_second_model_joins_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(int8_models.tiny_model(), out, prefix="first")
    first = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    generate(int8_models.softmax_model(), out, prefix="second")
    assert all((out / name).read_bytes() == data for name, data in first.items())
    assert (out / "second_model.tflite").read_bytes() == int8_models.softmax_model()
    assert (out / "nd_runtime" / "nd_softmax_s8.c").is_file()
    assert (out / "nd_runtime" / "nd_mean_s8.c").is_file()
    generate(int8_models.softmax_model(), out, prefix="first")
    assert (out / "model.tflite").read_bytes() == int8_models.softmax_model()
    assert not (out / "nd_runtime" / "nd_mean_s8.c").exists()


def test_nothing_is_written_for_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        generate(b"not a model", tmp_path / "out")
    with pytest.raises(UnsupportedError):
        generate(int8_models.aborting_model(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
