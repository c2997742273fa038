"""The template folders themselves."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import jinja2
import pytest

from ndtool.export.codegen.render import TEMPLATES, render_project, template_files

ROOT = Path(__file__).parents[2]
PROJECTS = resources.files("ndtool.firmware_templates") / "projects"
# Variables that hold text of a stranger
FOREIGN = r"label\.text|golden_(origin|engine)|\.name\b"


@pytest.mark.parametrize("template", TEMPLATES)
def test_licence_is_the_project_s(template: str) -> None:
    assert template_files(template)["LICENSE"] == (ROOT / "LICENSE").read_bytes()


def test_every_folder_is_of_some_template() -> None:
    folders = {entry.name for entry in PROJECTS.iterdir() if entry.is_dir()}
    assert folders == {name for names in TEMPLATES.values() for name in names}


@pytest.mark.parametrize("template", TEMPLATES)
def test_missing_variable_is_an_error(template: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        render_project(template, {"tool_version": "1"}, prefix="x")


@pytest.mark.parametrize("template", TEMPLATES)
def test_foreign_text_goes_through_a_filter(template: str) -> None:
    """Labels and golden words are the only foreign text that a template sees."""
    for name, page in template_files(template).items():
        if name.endswith(".j2"):
            for expression in re.findall(r"{{(.*?)}}", page.decode("utf-8")):
                if re.search(FOREIGN, expression) and not expression.startswith(" board"):
                    assert re.search(r"\| c_(string|comment) $", expression), (name, expression)


def test_no_page_is_dead() -> None:
    pages = {n: d for t in TEMPLATES for n, d in template_files(t).items() if n.endswith(".j2")}
    text = b"".join(pages.values()).decode("utf-8")
    included = {name for name in pages if name.startswith("_")}
    assert included == set(re.findall(r'{%-? (?:include|from) "([^"]+)"', text))
