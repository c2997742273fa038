"""A C project: rendered from a template folder, written so that a kill leaves no half of it.

A template is a folder of ndtool.firmware_templates: files that end in `.j2` are rendered, others
are copied, names that begin with `_` are only included by others. `PREFIX` in a file's name becomes
the model's prefix. Foreign text reaches a page through the filters `c_string` and `c_comment` only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ndtool.console import visible
from ndtool.errors import InputError, require
from ndtool.export.codegen.strings import c_comment, c_string
from ndtool.rundir import sha256_bytes, sha256_file, write_atomic

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import jinja2

SCHEMA: Final = "ndtool.project/1"
MAX_MARKER_BYTES: Final = 16 * 1024 * 1024


# -- rendering -----------------------------------------------------------------------------------


def render_project(
    template: str,
    context: Mapping[str, object],
    *,
    prefix: str,
    without: frozenset[str] = frozenset(),
) -> dict[str, bytes]:
    """File name -> content of the project template `template`, sorted by name.

    `without` names files (with `PREFIX`, without `.j2`) that this model has no use for.

    Raises:
        ToolMissingError: jinja2 is not installed.
    """
    sources = _template_files(template)
    environment = _environment(sources)
    files: dict[str, bytes] = {}
    for source, content in sources.items():
        name = source.removesuffix(".j2")
        if source.startswith("_") or name in without:
            continue
        if source.endswith(".j2"):
            content = environment.get_template(source).render(context).encode("utf-8")
        files[name.replace("PREFIX", prefix)] = content
    return dict(sorted(files.items()))


def _template_files(template: str) -> dict[str, bytes]:
    folder: Traversable = resources.files("ndtool.firmware_templates") / "projects" / template
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


def _environment(sources: Mapping[str, bytes]) -> jinja2.Environment:
    jinja = require("jinja2")
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


# -- writing -------------------------------------------------------------------------------------


def with_marker(
    files: Mapping[str, bytes], *, marker: str, facts: Mapping[str, object]
) -> dict[str, bytes]:
    """`files` and the JSON file `marker`: `facts`, and the hash of every file.

    The marker tells a later run that the folder is ours, and which files in it.
    """
    hashes = {name: sha256_bytes(data) for name, data in files.items()}
    document = {"schema": SCHEMA, **facts, "files": hashes}
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return dict(sorted({**files, marker: f"{text}\n".encode("ascii")}.items()))


def write_project(folder: Path, files: Mapping[str, bytes], *, marker: str) -> None:
    """Make `folder` hold the project `files`, among them `marker` (see `with_marker`).

    A new folder appears complete, by one rename. In a folder of ours each file is replaced by one
    rename, unchanged ones are not touched (a build after it compiles only what changed), files of
    an earlier project are removed if nobody edited them, and the marker comes last. Other files,
    such as build outputs, stay.

    Raises:
        InputError: `folder` is a file, or holds something that is not a project of ours, or
            cannot be written.
    """
    with _write_errors(folder):
        if not folder.exists() and not folder.is_symlink():
            _create(folder, files)
            return
        if not folder.is_dir():
            raise _not_ours(folder, "is not a folder")
        before = _files_of_project(folder)
        if before is None and any(folder.iterdir()):
            raise _not_ours(folder, "holds files that are not a project of ndtool")
        for name in sorted(files, key=lambda name: (name == marker, name)):
            path = folder / name
            if path.is_symlink() or not path.is_file() or path.read_bytes() != files[name]:
                write_atomic(path, files[name])
        for name, sha256 in (before or {}).items():
            path = folder / name
            if name not in files and path.is_file() and sha256 in ("", sha256_file(path)):
                path.unlink()


def _create(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        for name, data in files.items():
            write_atomic(temporary / name, data)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _files_of_project(folder: Path) -> dict[str, str] | None:
    """Name -> sha256 of the files an earlier project left; None when there is no marker.

    The markers themselves are listed with an empty hash. They may have been written by anyone, so
    only plain names count.
    """
    found: dict[str, str] | None = None
    for path in sorted(folder.glob("*.json")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_MARKER_BYTES:
            continue
        try:
            document = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            continue
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            continue
        listed = document.get("files")
        rows = listed.items() if isinstance(listed, dict) else ()
        plain = {n: h for n, h in rows if _is_plain(n) and isinstance(h, str) and h}
        found = (found or {}) | plain | {path.name: ""}
    return found


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not any(c in name for c in "/\\\0")


def _not_ours(folder: Path, what: str) -> InputError:
    return InputError(
        f"output {what}",
        where=visible(str(folder)),
        remedy="name a new or empty folder with --out",
        code="codegen.not-ours",
    )


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write the project: {error.strerror}",
            where=visible(str(folder)),
            remedy="check permissions and free space, or name another folder with --out",
            code="codegen.write",
        ) from error
