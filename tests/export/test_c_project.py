"""What is believed of a C project's marker, and what a copy of the folder holds."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from array_models import tiny_contract
from c_projects import write_c_project
from int8_models import tiny_model

from ndtool.contract import unit_normalize
from ndtool.errors import InputError
from ndtool.export import c_project
from ndtool.export.c_project import (
    CProject,
    is_project,
    load_projects,
    private_copy,
    project_as,
)

Marker = dict[str, Any]
CONTRACT = tiny_contract(unit_normalize(1))
CONTRACT_FACTS = json.loads(CONTRACT.canonical_json())


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
    assert (project.prefix, project.template) == ("nd_model", "posix")
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
        put("layers", 0, "bytes", value=int("9" * 4000)),
        put("layers", 0, "constants", value={"9" * 4000: 1}),
        put("arena_bytes", value="x"),
        put("arena_bytes", value=-1),
        put("weights_bytes", value=10**30),
        put("contract", value={"version": int("9" * 4000)}),
        put("contract", value=CONTRACT_FACTS | {"labels": ["one"]}),
        lambda marker: marker.pop("layers") and marker.pop("model_sha256"),
    ],
)
def test_a_crafted_marker_is_refused(folder: Path, change: Callable[[Marker], object]) -> None:
    edit(folder, change)
    assert code_of(folder) == "verify.marker"


def test_numbers_that_are_no_numbers_are_refused(folder: Path) -> None:
    path = folder / "nd_model.json"
    for value in ("1e400", "1" + "0" * 5000, "NaN", "[" * 100_000 + "]" * 100_000):
        edit(folder, put("arena_bytes", value="HERE"))
        path.write_text(path.read_text().replace('"HERE"', value))
        assert code_of(folder) == "verify.marker"
        path.write_text(path.read_text().replace(value, "1"))


def test_a_contract_is_read(folder: Path) -> None:
    edit(folder, put("contract", value=CONTRACT_FACTS))
    assert load_projects(folder)[0].contract == CONTRACT


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
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "shared.h").write_text("/* shared */")
    (folder / "own.h").write_text("/* the user's */")
    (folder / "linked.h").symlink_to(outside / "shared.h")
    for name, target in (("away", outside), ("loop", folder), ("zero", "/dev/zero"), ("gone", "x")):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe")
    with private_copy(folder) as copy:
        names = {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()}
        assert {"own.h", "linked.h", "nd_runtime/nd_runtime.c"} <= names
        left_out = ("build", "pipe", "away", "loop", "zero", "gone")
        assert not any(name.startswith(left_out) for name in names)
        assert not any(path.is_symlink() for path in copy.rglob("*"))
        (copy / "nd_model.c").write_text("")
    assert not copy.exists() and (folder / "nd_model.c").stat().st_size > 0


def test_a_home_folder_is_not_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_project, "MAX_COPY_FILES", 10)
    with pytest.raises(InputError, match="far more"), private_copy(folder):
        pass


def test_a_full_disk_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    monkeypatch.setattr(c_project.shutil, "copyfile", full)
    words = r"No space left.* to .*ndtool-build-.*TMPDIR"
    with pytest.raises(InputError, match=words) as refusal, private_copy(folder):
        pass
    assert refusal.value.code == "verify.copy"


@pytest.mark.parametrize("made", ["posix", "cortex-m-qemu", "cmake"])
@pytest.mark.parametrize("wanted", ["posix", "cortex-m-qemu"])
def test_another_form_keeps_the_project_s_own_c(
    tflite_micro: None, tmp_path: Path, made: str, wanted: str
) -> None:
    project = write_c_project(tiny_model(), tmp_path / "project", template=made)
    own = [name for name in project.files if name.endswith((".c", ".h"))]
    own = [name for name in own if name != "nd_model_main.c"]
    for name in own:
        (project.folder / name).write_text(f"/* by hand: {name} */")
    (project.folder / own[0]).unlink()
    with project_as(project, wanted) as copy:
        assert not (copy / own[0]).exists()
        assert all((copy / name).read_text() == f"/* by hand: {name} */" for name in own[1:])
        main = (copy / "nd_model_main.c").read_text()
        assert ("semihost" in main) == (wanted == "cortex-m-qemu")
        assert wanted == "posix" or (copy / "board/startup.c").is_file()
        assert (copy / "Makefile").is_file()
