"""The wheel holds every module of the four folders, and no folder imports under its wrong name."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {
    "ndtool": "ndtool",
    "training": "ndtool.training",
    "export": "ndtool.export",
    "firmware_templates": "ndtool.firmware_templates",
}


def test_every_folder_with_python_is_a_named_package() -> None:
    found = set()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *parts)))
    assert found == set(PYPROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize("name", ["training", "export", "firmware_templates"])
def test_wrong_names_are_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert f"import ndtool.{name}" in done.stderr


def test_versions_agree() -> None:
    import ndtool

    assert PYPROJECT["project"]["version"] == ndtool.__version__


def test_all_is_the_union_of_its_extras() -> None:
    assert PYPROJECT["project"]["optional-dependencies"]["all"] == [
        "ndtool[train,export,verify,report,tensorflow]"
    ]


def test_pins_of_the_constraints_satisfy_the_extras() -> None:
    from packaging.requirements import Requirement

    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
    )
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    groups = PYPROJECT["project"]["optional-dependencies"]
    for extra in ("train", "export", "verify", "tensorflow", "report", "dev"):
        for text in groups[extra]:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            name = requirement.name.lower().replace("_", "-")
            assert name in pins, f"{name} is not pinned"
            assert requirement.specifier.contains(pins[name], prereleases=True), text
