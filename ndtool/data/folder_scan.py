"""Walking a folder of class folders: which files are images, of which class and given part.

Nothing is decoded or hashed here. What users.md, 3 wants refused is collected, not raised, so that
all of it can be shown at once.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Final

from ndtool.console import visible
from ndtool.data.files import MAX_FILE_BYTES, open_regular, read_regular
from ndtool.data.image import HEAD_BYTES, UNMISTAKABLE, sniff
from ndtool.data.labels import listing, nfc
from ndtool.data.problems import data_error
from ndtool.errors import DataError
from ndtool.types import Part, Sha256

MAX_FILES: Final = 5_000_000
IGNORE_FILE: Final = ".ndignore"
_MAX_IGNORE_BYTES: Final = 1024 * 1024
_PARTS: Final = {
    "train": Part.TRAIN,
    "val": Part.VAL,
    "valid": Part.VAL,
    "validation": Part.VAL,
    "test": Part.TEST,
}
_SYSTEM: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})  # beside all dot files
_SUFFIXES: Final = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One image file. `path` is what the system opens, `id` what people and files are shown."""

    path: str
    id: str  # relative to the folder, `/`, always encodable as UTF-8
    label: str  # name of its class folder
    part: Part | None  # None: decided by content
    size_bytes: int
    sha256: Sha256 | None = None


@dataclass(slots=True, kw_only=True)
class Scan:
    """What walking a folder has found; `scan_folder` makes it."""

    root: str  # as the user wrote it
    ignore: tuple[str, ...]  # lines of .ndignore
    given: bool = False  # the user made the split
    labels: list[str] = field(default_factory=list)
    files: list[ImageFile] = field(default_factory=list)
    problems: list[tuple[str, DataError]] = field(default_factory=list)  # id, what is wrong
    foreign: list[str] = field(default_factory=list)  # files in class folders that are no images
    nested: list[str] = field(default_factory=list)  # folders in class folders
    loose: int = 0  # images outside class folders
    hidden: int = 0  # hidden and system entries
    excluded: int = 0  # by .ndignore
    unused: list[str] = field(default_factory=list)  # lines of .ndignore that match nothing


def scan_folder(root: str) -> Scan:
    """List PATH/<class>/* or PATH/{train,val,test}/<class>/*.

    Raises:
        DataError: no such folder, another layout, too many files, a folder that cannot be listed.
            Files that cannot be used are in `problems`.
    """
    if not os.path.isdir(root):  # noqa: PTH112  # a path of any bytes, as written
        raise data_error(
            "no such folder",
            where=root,
            remedy="name a folder of class folders",
            code="data.no-folder",
        )
    ignore = _read_ignore(root)
    walk = _Walk(Scan(root=root, ignore=ignore), _IgnoreRule(ignore))
    walk.all_classes()
    return walk.scan


def _read_ignore(root: str) -> tuple[str, ...]:
    """Lines of PATH/.ndignore: relative paths or globs, without comments and blanks."""
    path = f"{root}/{IGNORE_FILE}"
    if not os.path.lexists(path):
        return ()
    content = read_regular(path, where=path, limit=_MAX_IGNORE_BYTES)
    lines = (line.strip() for line in content.decode("utf-8", "surrogateescape").split("\n"))
    return tuple(line for line in lines if line and not line.startswith("#"))


class _IgnoreRule:
    """`*` matches `/` too; a line that names a folder excludes all in it."""

    def __init__(self, lines: Sequence[str]) -> None:
        names = {nfc(line.removeprefix("./").strip("/")): line for line in lines}
        self._lines = names
        self._globs = [
            (line, re.compile(fnmatch.translate(name)))
            for name, line in names.items()
            if re.search(r"[*?\[]", name)
        ]
        self._used: set[str] = set()

    def matches(self, relative: str) -> bool:
        """Whether a line excludes this path."""
        name = nfc(relative)
        hits = {line for line, pattern in self._globs if pattern.match(name)}
        if name in self._lines:
            hits.add(self._lines[name])
        self._used |= hits
        return bool(hits)

    def unused(self) -> list[str]:
        """Lines that have matched nothing so far."""
        return [line for line in self._lines.values() if line not in self._used]


class _Walk:
    """One walk over the folder, filling a Scan. Folders and files are named relative to it."""

    def __init__(self, scan: Scan, rule: _IgnoreRule) -> None:
        self.scan = scan
        self._rule = rule
        self._real_root = os.path.realpath(scan.root)
        self._seen = 0

    def all_classes(self) -> None:
        top = self._folders("")
        if "train" in top and self._holds_folders("train"):
            self._given_parts(top)
        elif not top:
            flat = f" but {self.scan.loose:,} images" if self.scan.loose else ""
            raise self._layout(f"no class folders{flat}")
        elif len(top) == 1 and self._holds_folders(top[0]):
            raise self._layout(
                f"only one class folder, '{visible(top[0])}', and it holds folders",
                f"perhaps folder:{visible(f'{self.scan.root}/{top[0]}')} is meant",
            )
        else:
            self.scan.labels = top
            for name in top:
                self._add_class(name, name, None)
        self.scan.unused = self._rule.unused()

    def _given_parts(self, top: list[str]) -> None:
        """PATH/{train,val,test}/<class>; without test, val is the test part (users.md, 3)."""
        strange = [name for name in top if name not in _PARTS]
        if strange:
            raise self._layout(f"beside train there are folders of no part: {listing(strange)}")
        parts = [_PARTS[name] for name in top]
        if len(set(parts)) < len(parts):
            raise self._layout(f"two folders for one part: {listing(top)}")
        if parts == [Part.TRAIN]:
            raise self._layout(
                "there is a train folder but neither val nor test",
                f"use folder:{visible(f'{self.scan.root}/train')} to have it split",
            )
        labels: dict[str, None] = {}
        for name in top:
            part: Part | None = _PARTS[name]
            if part is Part.VAL and Part.TEST not in parts:
                part = Part.TEST
            elif part is Part.TRAIN and len(parts) < 3:
                part = None  # train or val, by content
            for label in self._folders(name):
                labels[label] = None
                self._add_class(f"{name}/{label}", label, part)
        self.scan.labels = list(labels)
        self.scan.given = True

    def _layout(self, what: str, remedy: str = "") -> DataError:
        usual = f"use PATH/CLASS/* or PATH/train|val|test/CLASS/*; {IGNORE_FILE} excludes folders"
        return data_error(what, where=self.scan.root, remedy=remedy or usual, code="data.layout")

    def _folders(self, folder: str) -> list[str]:
        """Names of the folders in `folder`; images among its files are counted as loose."""
        names = []
        for entry in self._entries(folder):
            found = self._status(entry, _join(folder, entry.name))
            if found is not None and stat.S_ISDIR(found.st_mode):
                names.append(entry.name)
            elif found is not None and _has_image_suffix(entry.name):
                self.scan.loose += 1
        return names

    def _holds_folders(self, folder: str) -> bool:
        try:
            with os.scandir(f"{self.scan.root}/{folder}") as listed:
                return any(entry.is_dir() and not _is_hidden(entry.name) for entry in listed)
        except OSError as error:
            raise self._unlistable(folder, error) from error

    def _unlistable(self, folder: str, error: OSError) -> DataError:
        return data_error(
            f"cannot list the folder: {error.strerror}",
            where=_join(self.scan.root, folder),
            remedy="check its permissions",
            code="data.unreadable",
        )

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """Entries that are neither hidden nor ignored, by name."""
        found = []
        try:
            with os.scandir(_join(self.scan.root, folder)) as listed:
                for entry in listed:
                    self._seen += 1
                    if self._seen > MAX_FILES:
                        raise data_error(
                            f"more than {MAX_FILES:,} files",
                            where=self.scan.root,
                            remedy="is it the right folder?",
                            code="data.too-many-files",
                        )
                    found.append(entry)
        except OSError as error:
            raise self._unlistable(folder, error) from error
        for entry in sorted(found, key=lambda e: e.name):
            if _is_hidden(entry.name):
                self.scan.hidden += entry.name != IGNORE_FILE
            elif self._rule.matches(_join(folder, entry.name)):
                self.scan.excluded += 1
            else:
                yield entry

    def _status(self, entry: os.DirEntry[str], relative: str) -> os.stat_result | None:
        """What the entry leads to; None, and a problem, if it leads out or nowhere."""
        try:
            if entry.is_symlink():
                real = os.path.realpath(entry.path)
                if os.path.commonpath([real, self._real_root]) != self._real_root:
                    self._refuse(relative, "the link leads out of the folder", "data.symlink")
                    return None
            return entry.stat()
        except OSError as error:
            self._refuse(relative, f"cannot read: {error.strerror}", "data.unreadable")
            return None

    def _refuse(self, relative: str, what: str, code: str) -> None:
        shown = shown_path(relative)
        problem = data_error(
            what,
            where=f"{self.scan.root}/{shown}",
            remedy=f"replace it by a copy, or list it in {visible(self.scan.root)}/{IGNORE_FILE}",
            code=code,
        )
        self.scan.problems.append((shown, problem))

    def _add_class(self, folder: str, label: str, part: Part | None) -> None:
        for entry in self._entries(folder):
            relative = _join(folder, entry.name)
            found = self._status(entry, relative)
            if found is None:
                continue
            if stat.S_ISDIR(found.st_mode):
                self.scan.nested.append(relative)
            elif not stat.S_ISREG(found.st_mode):
                self._refuse(
                    relative, "not a regular file: a FIFO, socket or device", "data.not-a-file"
                )
            elif not _is_image(entry):
                self.scan.foreign.append(relative)
            elif found.st_size > MAX_FILE_BYTES:
                what = f"file is larger than {MAX_FILE_BYTES:,} bytes"
                self._refuse(relative, what, "data.file-too-large")
            else:
                file = ImageFile(
                    path=entry.path,
                    id=shown_path(relative),
                    label=label,
                    part=part,
                    size_bytes=found.st_size,
                )
                self.scan.files.append(file)


def shown_path(relative: str) -> str:
    r"""The path with bytes that are no UTF-8 as \xNN, so that any file can hold it."""
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _has_image_suffix(name: str) -> bool:
    return PurePath(name).suffix.lower() in _SUFFIXES


def _is_image(entry: os.DirEntry[str]) -> bool:
    """By suffix, or by unmistakable first bytes under another name."""
    if _has_image_suffix(entry.name):
        return True
    try:
        with open_regular(entry.path, where=entry.path) as handle:
            return sniff(handle.read(HEAD_BYTES)) in UNMISTAKABLE
    except (DataError, OSError):
        return False  # no image by its name, so nobody misses it
