"""A C project on disk: written so that a kill leaves no half of it, beside other models' files.

A folder may hold several models. Each has a marker that lists its files; the runtime, the licence
and the build files are listed by several, and are the same for all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from ndtool.console import visible
from ndtool.errors import InputError
from ndtool.export.codegen.model import (
    ALONE,
    FolderNames,
    marker_name,
    names_beside_others,
)
from ndtool.files import (
    sha256_bytes,
    sha256_file,
    write_atomic,
)

SCHEMA: Final = "ndtool.project/1"
MAX_MARKER_BYTES: Final = 16 * 1024 * 1024
Listed = Mapping[str, str]  # file -> sha256


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


def folder_names(folder: Path, prefix: str) -> FolderNames:
    """Names of what belongs to the model `prefix` in `folder` without beginning with its prefix."""
    others = _markers(folder) if folder.is_dir() else {}
    taken = {
        name for marker, files in others.items() for name in files if marker != marker_name(prefix)
    }
    return names_beside_others(prefix) if {ALONE.tflite, ALONE.readme} & taken else ALONE


def write_project(
    folder: Path, files: Mapping[str, bytes], *, marker: str, only: bool = False
) -> None:
    """Make `folder` hold the project `files`, among them `marker` (see `with_marker`).

    A new folder appears complete, by one rename. In a folder of ours each file is replaced by one
    rename, unchanged ones are not touched (a build after it compiles only what changed), files that
    an earlier project of this marker has and `files` has not are removed if nobody edited them, and
    the marker comes last. Files of other models stay, unless this is the `only` one; other files,
    such as build outputs, stay always.

    Raises:
        InputError: `folder` is a file, or holds something that is not a project of ours, or
            another model in it needs another version of a file, or it cannot be written.
    """
    with _write_errors(folder):
        if not folder.exists() and not folder.is_symlink():
            _create(folder, files)
            return
        if not folder.is_dir():
            raise _not_ours(folder, "is not a folder")
        markers = _markers(folder)
        if not markers and any(folder.iterdir()):
            raise _not_ours(folder, "holds files that are not a project of ndtool")
        others = {} if only else {name: rows for name, rows in markers.items() if name != marker}
        _require_same_files(folder, files, others)
        for name in sorted(files, key=lambda name: (name == marker, name)):
            _replace(folder, name, files[name])
        kept = {*files, *others, *(name for rows in others.values() for name in rows)}
        for old in sorted(set(markers) - set(others)):
            for name, sha256 in (*markers[old].items(), (old, "")):
                if name not in kept:
                    _remove_unedited(folder, name, sha256)


def _create(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        for name, data in files.items():
            write_atomic(temporary / name, data)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    if path.parent.is_symlink():
        raise _not_ours(folder, f"has a link in the place of {path.parent.name}/")
    if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
        write_atomic(path, data)


def _remove_unedited(folder: Path, name: str, sha256: str) -> None:
    """Remove a file that still is what we wrote, and its folder in the project once empty.

    A marker's own hash is not known: "" stands for any content.
    """
    path = folder / name
    if path.parent.is_symlink() or not path.is_file() or sha256 not in ("", sha256_file(path)):
        return
    path.unlink()
    if path.parent != folder:
        with contextlib.suppress(OSError):  # not empty
            path.parent.rmdir()


def _require_same_files(
    folder: Path, files: Mapping[str, bytes], others: Mapping[str, Listed]
) -> None:
    """What other models use as well stays as it is: their code was generated for it."""
    for marker, listed in others.items():
        for name, data in files.items():
            if name in listed and listed[name] != sha256_bytes(data):
                raise InputError(
                    f"the model of {visible(marker)} in this folder needs another {visible(name)}",
                    where=visible(str(folder)),
                    remedy="name a new folder with --out, and generate both models into it",
                    code="codegen.shared-file",
                )


def _markers(folder: Path) -> dict[str, dict[str, str]]:
    """Of each model in the folder: marker's name -> its files with their hashes.

    Markers may have been written by anyone, so only plain names count.
    """
    found: dict[str, dict[str, str]] = {}
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
        found[path.name] = {
            name: sha256
            for name, sha256 in rows
            if _is_plain(name) and isinstance(sha256, str) and sha256
        }
    return found


def _is_plain(name: str) -> bool:
    """Whether it is a file of the folder, or of a folder in it."""
    parts = name.split("/")
    plain = not any(part in ("", ".", "..") for part in parts)
    return len(parts) <= 2 and plain and not any(c in name for c in "\\\0")


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
