"""The option --teacher: its parts, and which recipes have one."""

from dataclasses import replace
from pathlib import Path

import pytest

from ndtool.errors import ConfigError
from ndtool.options import TrainOptions
from ndtool.prepare import prepare
from ndtool.teacher import check_teacher, read_teacher
from ndtool.training.checks import check_options
from ndtool.types import Recipe, TeacherKind


@pytest.mark.parametrize(
    "text",
    ["x", "checkpoint:", "onnx:", ":f", "torchvision:f", "torchvision::f", "torch:f", "onnx:\x1b"],
)
def test_texts_that_name_no_teacher(text: str) -> None:
    with pytest.raises(ConfigError, match="names no teacher") as caught:
        check_teacher(TrainOptions(recipe=Recipe.KD, teacher=text))
    assert "torchvision:NAME:FILE" in caught.value.remedy
    assert "\x1b" not in str(caught.value)


def test_the_parts_of_the_option() -> None:
    read = read_teacher("torchvision:resnet18:a:b.pt")
    assert (read.kind, read.network, read.path) == (
        TeacherKind.TORCHVISION,
        "resnet18",
        Path("a:b.pt"),
    )
    assert read_teacher("onnx:a:b").path == Path("a:b")


@pytest.mark.parametrize(
    ("recipe", "teacher", "words"),
    [
        (Recipe.KD, "", "--recipe kd needs a teacher"),
        (Recipe.PLAIN, "onnx:t.onnx", "--recipe plain learns from no external teacher"),
        (Recipe.NETAUG, "onnx:t.onnx", "--recipe netaug learns from no external teacher"),
    ],
)
def test_recipe_and_teacher_go_together(
    tmp_path: Path, recipe: Recipe, teacher: str, words: str
) -> None:
    options = TrainOptions(recipe=recipe, teacher=teacher)
    with pytest.raises(ConfigError, match=words):
        prepare(options, name="", out=tmp_path)
    with pytest.raises(ConfigError, match=words):
        check_options(replace(options, epochs=1, crop_px=0))
