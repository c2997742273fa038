"""What is believed of a C project's marker, and what a copy of the folder holds."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from c_projects import write_c_project
from int8_models import tiny_model

from ndtool.errors import InputError
from ndtool.export import c_project
from ndtool.export.c_project import CProject, is_project, load_projects, private_copy

Marker = dict[str, Any]


@pytest.fixture(scope="module")
def files(tflite_micro: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Name -> content of a posix project."""
    folder = tmp_path_factory.mktemp("made") / "project"
    write_c_project(tiny_model(), folder)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def folder(files: dict[str, bytes], tmp_path: Path) -> Path:
    made = tmp_path / "project"
    for name, data in files.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(data)
    return made


def edit(folder: Path, change: Callable[[Marker], object]) -> None:
    path = folder / "nd_model.json"
    marker = json.loads(path.read_bytes())
    change(marker)
    path.write_text(json.dumps(marker))


def code_of(folder: Path) -> str:
    with pytest.raises(InputError) as refusal:
        load_projects(folder)
    return refusal.value.code


def test_a_good_project(folder: Path) -> None:
    (project,) = load_projects(folder)
    assert isinstance(project, CProject)
    assert (project.prefix, project.template, project.golden) == ("nd_model", "posix", 2)
    assert (project.input_bytes, project.output_bytes) == (36, 3)
    assert [project.graph.tensor(layer.tensor).name for layer in project.layers][-1] == "logits"
    assert project.layer_bytes == sum(layer.bytes for layer in project.layers)
    assert project.edited() == []
    (folder / "nd_model.c").write_text("int x;")
    (folder / "nd_model.h").unlink()
    assert project.edited() == ["nd_model.c", "nd_model.h"]


def test_two_models_of_one_folder(tflite_micro: None, folder: Path) -> None:
    write_c_project(tiny_model(classes=4), folder, prefix="other")
    first, second = load_projects(folder)
    assert (first.prefix, second.prefix) == ("nd_model", "other")
    assert (first.output_bytes, second.output_bytes) == (3, 4)


@pytest.mark.parametrize("name", ["nothing", "empty", "file"])
def test_what_is_no_project(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    (tmp_path / "empty" / "other.json").write_text('{"schema": "x"}')
    assert not is_project(tmp_path / name)
    assert code_of(tmp_path / name) == "verify.no-project"


def test_another_model_is_refused(folder: Path) -> None:
    path = folder / "model.tflite"
    path.write_bytes(path.read_bytes() + b"\0")
    assert code_of(folder) == "verify.model-changed"
    path.unlink()
    assert code_of(folder) == "input.missing"


def test_the_array_has_nothing_to_verify(folder: Path) -> None:
    edit(folder, lambda marker: marker.update(template="array"))
    assert code_of(folder) == "verify.array"


def put(*keys: str | int, value: object) -> Callable[[Marker], object]:
    """Set marker[keys...] to `value`."""

    def change(marker: Any) -> None:
        for key in keys[:-1]:
            marker = marker[key]
        marker[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("prefix", value=3),
        put("prefix", value="other"),
        put("layers", value="x"),
        put("layers", 0, "tensor", value=10**9),
        put("layers", 0, "tensor", value=-1),
        put("layers", 0, "tensor", value=1),  # a constant
        put("layers", 0, "bytes", value=10**12),
        put("layers", 0, "bytes", value=0),
        put("layers", 0, "channels", value=5),
        put("layers", 0, "live", value=[1, 0, 2, 3]),
        put("layers", 0, "live", value=[0, 1, 2, 9]),
        put("layers", 0, "live", value=[0]),
        put("layers", 0, "constants", value={"0": 1}),
        put("layers", 0, "constants", value={"x": 1}),
        put("files", value=[]),
        put("files", "../../etc/passwd", value="0" * 64),
        put("tflite", value="/etc/passwd"),
        put("tflite", value="../model.tflite"),
        put("golden", value=None),
        put("golden", "count", value="many"),
        put("golden", "count", value=-1),
        put("golden", "count", value=10**9),
        put("arena_bytes", value="x"),
        lambda marker: marker.pop("layers") and marker.pop("model_sha256"),
    ],
)
def test_a_crafted_marker_is_refused(folder: Path, change: Callable[[Marker], object]) -> None:
    edit(folder, change)
    assert code_of(folder) == "verify.marker"


def test_removed_channels_are_taken(folder: Path) -> None:
    def change(marker: Marker) -> None:
        row = marker["layers"][0]
        row |= {"live": [0, 2], "constants": {"1": -3, "3": 4}, "channels": 2}
        row["bytes"] //= 2

    edit(folder, change)
    layer = load_projects(folder)[0].layers[0]
    assert (layer.live, layer.constants) == ((0, 2), {1: -3, 3: 4})


def test_a_copy_has_everything_but_build_outputs(folder: Path) -> None:
    (folder / "build").mkdir()
    (folder / "build" / "nd_model_host").write_text("stale")
    (folder / "own.h").write_text("/* the user's */")
    os.mkfifo(folder / "pipe")
    with private_copy(folder) as copy:
        names = {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()}
        assert "own.h" in names and "nd_runtime/nd_runtime.c" in names
        assert not any(name.startswith(("build", "pipe")) for name in names)
        (copy / "nd_model.c").write_text("")
    assert not copy.exists() and (folder / "nd_model.c").stat().st_size > 0


def test_a_home_folder_is_not_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_project, "MAX_COPY_FILES", 10)
    with pytest.raises(InputError, match="far more"), private_copy(folder):
        pass
