"""A C project's files out of its template (users.md, 4.1).

A template is a list of folders of ndtool.firmware_templates: files that end in `.j2` are rendered,
others are copied, names that begin with `_` are only included by others; a file of a later folder
takes the place of an earlier one's. `PREFIX` in a file's name becomes the model's prefix. Foreign
text reaches a page through the filters `c_string` and `c_comment` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ndtool.errors import require
from ndtool.export.codegen.strings import c_comment, c_string

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import jinja2

# Folders of each template. `_common`: every model; `_engine`: models of the C engine; `_program`:
# test programs that read samples and show layers.
TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "array": ("_common", "array"),
        "posix": ("_common", "_engine", "_program", "posix"),
        "cmake": ("_common", "_engine", "cmake"),
        "cortex-m-qemu": ("_common", "_engine", "_program", "cortex-m-qemu"),
    }
)


def render_project(
    template: str,
    context: Mapping[str, object],
    *,
    prefix: str,
    without: frozenset[str] = frozenset(),
    rename: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """File name -> content of the project template `template`, sorted by name.

    `without` names files (with `PREFIX`, without `.j2`) that this model has no use for; `rename`
    gives some another name.

    Raises:
        ToolMissingError: jinja2 is not installed.
    """
    sources, environment = template_files(template), _environment(template)
    files: dict[str, bytes] = {}
    for source, content in sources.items():
        name = source.removesuffix(".j2")
        if source.rpartition("/")[2].startswith("_") or name in without:
            continue
        if source.endswith(".j2"):
            content = environment.get_template(source).render(context).encode("utf-8")
        files[(rename or {}).get(name, name).replace("PREFIX", prefix)] = content
    return dict(sorted(files.items()))


@cache
def template_files(template: str) -> Mapping[str, bytes]:
    """Name in the folder -> content of the files of a template, before rendering."""
    projects = resources.files("ndtool.firmware_templates") / "projects"
    found: dict[str, bytes] = {}
    for folder in TEMPLATES[template]:
        found |= dict(_files_below(projects / folder, ""))
    return MappingProxyType(found)


def _files_below(folder: Traversable, start: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files_below(entry, f"{start}{entry.name}/")
        else:
            yield f"{start}{entry.name}", entry.read_bytes()


@cache
def _environment(template: str) -> jinja2.Environment:
    jinja = require("jinja2")
    sources = template_files(template)
    pages = {name: data.decode("utf-8") for name, data in sources.items() if name.endswith(".j2")}
    environment: jinja2.Environment = jinja.Environment(
        loader=jinja.DictLoader(pages),
        undefined=jinja.StrictUndefined,
        autoescape=False,  # C and Markdown: HTML escapes would break them
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        newline_sequence="\n",
    )
    environment.filters |= {"c_string": c_string, "c_comment": c_comment}
    return environment
