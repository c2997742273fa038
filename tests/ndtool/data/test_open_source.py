"""Data specs: `digits`, `folder:PATH`, `npz:FILE`, `fashion-mnist:DIR`, `cifar10:DIR`, ..."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pictures import make_folder

from ndtool.data import SOURCES, open_source
from ndtool.data.types import DataOptions
from ndtool.errors import DataError


def refusal(spec: str) -> DataError:
    with pytest.raises(DataError) as caught:
        open_source(spec, DataOptions())
    return caught.value


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("digit", "digits"),
        ("folders:x", "folder:PATH"),
        ("fashion_mnist:x", "fashion-mnist:DIR"),
        ("cifar-100:x", "cifar100:DIR"),
    ],
)
def test_unknown_kinds_get_the_nearest_one_and_the_list(spec: str, near: str) -> None:
    problem = refusal(spec)
    assert (problem.code, problem.exit_code, problem.where) == ("data.unknown-source", 2, spec)
    assert f"did you mean {near}?" in problem.remedy
    assert all(kind in problem.remedy for kind in SOURCES)


def test_a_bare_folder_is_understood(tmp_path: Path) -> None:
    assert f"did you mean folder:{tmp_path}?" in refusal(str(tmp_path)).remedy


@pytest.mark.parametrize("spec", ["", "x\n::error::y", "\x1b[31m", "C:\\photos"])
def test_nonsense(spec: str) -> None:
    problem = refusal(spec)
    assert problem.code == "data.unknown-source"
    assert "\n" not in str(problem)
    assert "\x1b" not in str(problem)


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        ("folder", "folder:PATH"),
        ("npz:", "npz:FILE"),
        ("digits:x", "digits"),
        ("digits:", "digits"),
    ],
)
def test_a_path_where_it_belongs(spec: str, form: str) -> None:
    problem = refusal(spec)
    assert problem.code == "data.spec"
    assert problem.remedy == f"write {form}"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("folder:~/photos", DataOptions()).info.labels == ("a", "b")


@pytest.mark.parametrize(
    "kind", ["folder:none", "npz:none", "fashion-mnist:none", "cifar10:none", "cifar100:none"]
)
def test_missing_paths(kind: str) -> None:
    problem = refusal(kind)
    assert problem.exit_code == 2
    assert problem.where.startswith("none")


def test_only_what_is_needed_is_imported() -> None:
    code = (
        "import sys, ndtool.data.folder, ndtool.data.npz, ndtool.data.inspect\n"
        "assert not {'PIL', 'sklearn', 'torch', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
