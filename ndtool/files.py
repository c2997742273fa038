"""Files of any kind: replaced at once, read within bounds, hashed; outputs refused in time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from ndtool import console
from ndtool.errors import ConfigError, InputError
from ndtool.types import Sha256

MAX_JSON_BYTES: Final = 64 * 1024 * 1024


def sha256_file(path: Path) -> Sha256:
    """Hash of a file's bytes, read in pieces."""
    with path.open("rb") as handle:
        return Sha256(hashlib.file_digest(handle, "sha256").hexdigest())


def sha256_bytes(data: bytes) -> Sha256:
    """Hash of `data`."""
    return Sha256(hashlib.sha256(data).hexdigest())


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data` at once: temporary name beside it, fsync, rename.

    Raises:
        InputError: `path` is a folder, device or pipe. A link is replaced, not followed.
        OSError: it cannot be written; names `path`.
    """
    if not path.is_symlink() and path.exists() and not path.is_file():
        raise InputError(
            "will not replace what is no regular file",
            where=str(path),
            remedy="name another file",
            code="output.not-a-file",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:  # a full disk names no file, and nobody knows the temporary one
        error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_atomic` of UTF-8 text with line feeds as they are."""
    write_atomic(path, text.encode("utf-8"))


def require_writable(path: Path, option: str) -> None:
    """Refuse an output file before work is done for it; makes the folder it is to be in.

    Raises:
        ConfigError: `path`, given by `option`, cannot be written.
    """
    try:
        if "\0" in str(path) or (path.exists() and not path.is_file()):
            raise OSError(errno.EINVAL, "not a regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = _temporary(path)
        probe.touch()
        probe.unlink()
    except OSError as problem:
        what = f"cannot write the file: {problem.strerror}"
        remedy = "name a file in a folder that can be written"
        raise _output_error(what, option, path, remedy) from None


def require_outputs(
    outputs: Mapping[str, Path | None], *, inputs: Iterable[Path], run: Path | None = None
) -> None:
    """Refuse output files before work is done for them, and before any is touched.

    Links count as themselves and as what they lead to; --log-file is an output, too.

    Args:
        outputs: option -> its file; None where it was not given.
        inputs: files that the command reads.
        run: folder of a run, which only the stages write into.

    Raises:
        ConfigError: a file is an input, inside `run`, that of two options, or cannot be written.
    """
    read = [path for path in inputs if "\0" not in str(path)]
    inside = set() if run is None else _places(run)
    taken: dict[str, Path] = {}
    if console.STATE.log_file is not None:
        taken["--log-file"] = console.STATE.log_file
    given = {option: path for option, path in outputs.items() if path is not None}
    for option, path in given.items():
        if "\0" in str(path):  # which no file can have, for `require_writable` to say
            continue
        if any(_is_same_file(path, other) for other in read):
            what = "the command reads this file, and would overwrite it"
            raise _output_error(what, option, path)
        if any(place.is_relative_to(folder) for place in _places(path) for folder in inside):
            what = "inside the run folder, which only its stages write into"
            raise _output_error(what, option, path)
        for other, used in taken.items():
            if _is_same_file(path, used):
                raise _output_error(f"{other} names the same file", option, path)
        taken[option] = path
    for option, path in given.items():
        require_writable(path, option)


def _output_error(
    what: str, option: str, path: Path, remedy: str = "name another file"
) -> ConfigError:
    where = console.visible(f"{option} {path}")
    return ConfigError(what, where=where, remedy=remedy, code="option.output-file")


def _places(path: Path) -> set[Path]:
    """What `path` leads to, and where it is itself: two for a link. Of no path an error."""
    # not Path.resolve, which raises for links in a circle
    return {Path(os.path.realpath(path)), Path(os.path.realpath(path.parent), path.name)}


def _is_same_file(path: Path, other: Path) -> bool:
    if _places(path) & _places(other):
        return True
    with contextlib.suppress(OSError):
        return path.samefile(other)  # a second hard link, or another case of letters
    return False


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def json_text(value: object) -> str:
    """Sorted, ASCII, one space of indent: the form of every JSON file in a run folder."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def read_bounded(path: Path, limit: int = MAX_JSON_BYTES) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        InputError: missing, not a regular file, or too large.
    """
    with _readable(path, limit):
        return path.read_bytes()


def sha256_bounded(path: Path, limit: int) -> Sha256:
    """Hash of a regular file of at most `limit` bytes.

    Raises:
        InputError: missing, not a regular file, or too large.
    """
    with _readable(path, limit):
        return sha256_file(path)


@contextlib.contextmanager
def _readable(path: Path, limit: int) -> Iterator[None]:
    """Check the file before the block, and name it where the block cannot read it."""
    try:
        if not path.is_file():
            what = "not a regular file" if path.exists() else "no such file"
            raise InputError(what, where=str(path), remedy="check the path", code="input.missing")
        if path.stat().st_size > limit:
            raise InputError(
                f"file is larger than {limit:,} bytes",
                where=str(path),
                remedy="is it the right file?",
                code="input.too-large",
            )
        yield
    except OSError as error:
        raise InputError(
            f"cannot read: {error.strerror}",
            where=str(path),
            remedy="check its permissions",
            code="input.unreadable",
        ) from error
