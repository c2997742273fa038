from __future__ import annotations

import json
from pathlib import Path

import pytest

from ndtool.errors import InputError
from ndtool.export.codegen import project
from ndtool.export.codegen.model import ALONE, names_beside_others
from ndtool.export.codegen.project import SCHEMA, folder_names, with_marker, write_project

OLD = with_marker(
    {"a.c": b"old a", "gone.c": b"gone", "same.c": b"same"}, marker="m.json", facts={}
)
NEW = with_marker({"a.c": b"new a", "b.c": b"b", "same.c": b"same"}, marker="m.json", facts={})


def read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_new_folder_with_its_parents(tmp_path: Path) -> None:
    write_project(tmp_path / "x" / "y", OLD, marker="m.json")
    assert read(tmp_path / "x" / "y") == OLD
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["y"]


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    write_project(tmp_path, OLD, marker="m.json")
    assert read(tmp_path) == OLD


def test_project_of_ours_is_replaced(tmp_path: Path) -> None:
    write_project(tmp_path, OLD, marker="m.json")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "a.o").write_bytes(b"object")
    (tmp_path / "mine.c").write_bytes(b"mine")
    untouched = (tmp_path / "same.c").stat()
    write_project(tmp_path, NEW, marker="m.json")
    assert read(tmp_path) == {**NEW, "mine.c": b"mine"}
    assert (tmp_path / "build" / "a.o").read_bytes() == b"object"
    assert (tmp_path / "same.c").stat() == untouched


def test_only_model_takes_the_place_of_all_others(tmp_path: Path) -> None:
    write_project(tmp_path, OLD, marker="m.json")
    other = with_marker({"other.c": b"x"}, marker="other.json", facts={})
    write_project(tmp_path, other, marker="other.json", only=True)
    assert read(tmp_path) == other


def test_edited_file_is_not_removed(tmp_path: Path) -> None:
    write_project(tmp_path, OLD, marker="m.json")
    (tmp_path / "gone.c").write_bytes(b"edited by hand")
    write_project(tmp_path, NEW, marker="m.json")
    assert (tmp_path / "gone.c").read_bytes() == b"edited by hand"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"mine"),
        ("m.json", b"{}"),
        ("m.json", b"[1, 2]"),
        ("m.json", b"\xff not json"),
        ("m.json", b"[" * 100_000),
        ("m.json", b'{"schema": "other/1"}'),
        (".hidden", b""),
    ],
)
def test_folder_of_others_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        write_project(tmp_path, NEW, marker="m.json")
    assert caught.value.code == "codegen.not-ours"
    assert read(tmp_path) == {name: content}


def test_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(InputError, match="is not a folder"):
        write_project(tmp_path / "out", NEW, marker="m.json")
    with pytest.raises(InputError) as caught:
        write_project(tmp_path / "out" / "deeper", NEW, marker="m.json")
    assert caught.value.code == "codegen.write"


def test_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a folder"):
        write_project(tmp_path / "out", NEW, marker="m.json")


def test_marker_cannot_reach_outside(tmp_path: Path) -> None:
    """A marker of unknown origin names files elsewhere: they stay."""
    (tmp_path / "victim").write_bytes(b"v")
    sha256 = project.sha256_bytes(b"v")
    folder = tmp_path / "p"
    (folder / "sub" / "sub").mkdir(parents=True)
    (folder / "sub" / "sub" / "victim").write_bytes(b"v")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "victim").write_bytes(b"v")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    names = ["../victim", str(tmp_path / "victim"), "sub/sub/victim", "sub\\victim", "link/victim"]
    names += ["", "..", "sub/..", "sub/../../victim", "x\0y", "/"]
    files: dict[str, object] = {**dict.fromkeys(names, sha256), "n": 3, "o": None, "": ""}
    (folder / "m.json").write_text(json.dumps({"schema": SCHEMA, "files": files}))
    write_project(folder, NEW, marker="m.json")
    for place in (tmp_path, folder / "sub" / "sub", tmp_path / "elsewhere"):
        assert (place / "victim").exists()


def test_link_in_the_place_of_the_runtime_is_not_followed(tmp_path: Path) -> None:
    files = with_marker({"rt/k.c": b"k"}, marker="m.json", facts={})
    write_project(tmp_path / "p", OLD, marker="m.json")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "p" / "rt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="link") as caught:
        write_project(tmp_path / "p", files, marker="m.json")
    assert caught.value.code == "codegen.not-ours"
    assert list((tmp_path / "elsewhere").iterdir()) == []


# -- two models in one folder ----------------------------------------------------------------------


def model_files(prefix: str, kernels: str, *, version: int = 1) -> dict[str, bytes]:
    """A model that needs these kernels of the runtime, one letter each."""
    runtime = {f"rt/{kernel}.c": f"{kernel}{version}".encode() for kernel in kernels}
    files = {f"{prefix}.c": prefix.encode(), "LICENSE": b"free", **runtime}
    return with_marker(files, marker=f"{prefix}.json", facts={"prefix": prefix})


def tree(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_second_model_adds_its_files(tmp_path: Path) -> None:
    first, second = model_files("a", "xy"), model_files("b", "yz")
    write_project(tmp_path, first, marker="a.json")
    write_project(tmp_path, second, marker="b.json")
    assert tree(tmp_path) == first | second


def test_regenerating_one_keeps_what_the_other_needs(tmp_path: Path) -> None:
    second = model_files("b", "yz")
    write_project(tmp_path, model_files("a", "xy"), marker="a.json")
    write_project(tmp_path, second, marker="b.json")
    write_project(tmp_path, model_files("a", "w"), marker="a.json")
    assert tree(tmp_path) == model_files("a", "w") | second  # x is gone, y is b's
    write_project(tmp_path, model_files("b", "w"), marker="b.json")
    assert tree(tmp_path) == model_files("a", "w") | model_files("b", "w")


def test_folder_of_the_last_kernel_goes_with_it(tmp_path: Path) -> None:
    write_project(tmp_path, model_files("a", "x"), marker="a.json")
    write_project(tmp_path, model_files("a", ""), marker="a.json")
    assert not (tmp_path / "rt").exists()


def test_another_version_of_a_shared_file_is_refused(tmp_path: Path) -> None:
    first = model_files("a", "xy")
    write_project(tmp_path, first, marker="a.json")
    with pytest.raises(InputError, match=r"a\.json .* needs another rt/y\.c") as caught:
        write_project(tmp_path, model_files("b", "yz", version=2), marker="b.json")
    assert caught.value.code == "codegen.shared-file"
    assert tree(tmp_path) == first
    write_project(tmp_path, model_files("a", "xy", version=2), marker="a.json")  # alone: may change


def test_model_whose_file_is_another_s_is_refused(tmp_path: Path) -> None:
    """Prefixes `a` and `a_data` would both write a_data.c."""
    write_project(
        tmp_path, with_marker({"a_data.c": b"1"}, marker="a.json", facts={}), marker="a.json"
    )
    other = with_marker({"a_data.c": b"2"}, marker="a_data.json", facts={})
    with pytest.raises(InputError, match=r"needs another a_data\.c"):
        write_project(tmp_path, other, marker="a_data.json")


def test_names_that_do_not_begin_with_the_prefix(tmp_path: Path) -> None:
    """The first model has them, another one its own; each keeps them when generated again."""
    beside = names_beside_others("b")
    assert folder_names(tmp_path / "nowhere", "a") == folder_names(tmp_path, "a") == ALONE
    write_project(
        tmp_path, with_marker({ALONE.tflite: b"a"}, marker="a.json", facts={}), marker="a.json"
    )
    assert folder_names(tmp_path, "a") == ALONE
    assert folder_names(tmp_path, "b") == beside
    write_project(
        tmp_path, with_marker({beside.tflite: b"b"}, marker="b.json", facts={}), marker="b.json"
    )
    assert folder_names(tmp_path, "a") == ALONE
    assert folder_names(tmp_path, "b") == beside
    assert len({ALONE.tflite, ALONE.readme, beside.tflite, beside.readme}) == 4


def test_link_in_the_folder_is_replaced_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"target")
    folder = tmp_path / "p"
    write_project(folder, OLD, marker="m.json")
    (folder / "a.c").unlink()
    (folder / "a.c").symlink_to(target)
    write_project(folder, NEW, marker="m.json")
    assert target.read_bytes() == b"target"
    assert read(folder) == NEW


def test_failure_in_a_new_folder_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_after(1, monkeypatch)
    with pytest.raises(InputError) as caught:
        write_project(tmp_path / "p", NEW, marker="m.json")
    assert caught.value.code == "codegen.write"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_interrupted_replacement_is_mended_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Whole files only, the old marker until the end, and the next run needs no help."""
    folder = tmp_path / "p"
    write_project(folder, OLD, marker="m.json")
    with monkeypatch.context() as patch:
        break_after(writes, patch)
        with pytest.raises(InputError):
            write_project(folder, NEW, marker="m.json")
    found = read(folder)
    assert found["m.json"] == OLD["m.json"]
    assert all(data in (OLD.get(name), NEW.get(name)) for name, data in found.items())
    write_project(folder, NEW, marker="m.json")
    assert read(folder) == NEW


def break_after(writes: int, patch: pytest.MonkeyPatch) -> None:
    """The disk is full after so many files."""
    done = 0
    real = project.write_atomic

    def write(path: Path, data: bytes) -> None:
        nonlocal done
        if done == writes:
            raise OSError(28, "No space left on device")
        done += 1
        real(path, data)

    patch.setattr(project, "write_atomic", write)
