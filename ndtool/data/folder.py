"""`folder:PATH`: images in class folders, split by the content of the files or by the user.

Opening lists the files, hashes what the split needs and settles labels and parts. Loading reads
each file of a part once, compares its hash, decodes and resizes it; a part that is too large for
that is only listed, and its files are decoded by the same `Decoder` as they are needed.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Final, TypeVar

import numpy as np

from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.data.files import read_regular, require_memory
from ndtool.data.folder_scan import IGNORE_FILE, ImageFile, Scan, scan_folder
from ndtool.data.image import Decoded, check_max_pixels, decode_image, fit, quiet_pillow
from ndtool.data.labels import (
    check_labels,
    label_numbers,
    listing,
    nfc,
    number_order_note,
    reordered,
)
from ndtool.data.problems import data_error
from ndtool.data.splits import (
    count_classes,
    digest,
    part_of,
    repeat_notes,
    require_all_classes,
    training_part_of,
)
from ndtool.data.types import (
    I64,
    U8,
    Augment,
    DataOptions,
    Facts,
    SourceInfo,
    Split,
    samples_sha256,
)
from ndtool.errors import DataError, raise_all
from ndtool.rundir import slug
from ndtool.types import Part, Sha256

RESOLUTION: Final = 96
EPOCHS: Final = 60
AUGMENT: Final = Augment(crop_px=RESOLUTION // 8, flip=True)
_THREADS: Final = 4  # decoders release the interpreter lock; each may hold a large image
_T = TypeVar("_T")
_R = TypeVar("_R")


def open_folder(path: str, options: DataOptions) -> FolderSource:
    """The folder as a source; no image is decoded yet.

    Raises:
        DataError: no such folder or another layout; unusable class names; files that are no
            files; one image in two classes; a class without an image in some part. Independent
            problems of one kind all at once.
    """
    check_max_pixels(options.max_pixels)
    scan = scan_folder(path)
    check_labels(scan.labels, where=path)
    _raise_unless_skipped(scan.problems, options)
    if options.labels_file:
        labels = reordered(scan.labels, options.labels_file, where=path)
    else:
        labels = tuple(sorted(scan.labels, key=nfc))
    _require_images(scan)
    files, unreadable = _assign_parts(scan)
    _raise_unless_skipped(unreadable, options)
    _require_one_class_each(files, path)
    index = {label: k for k, label in enumerate(labels)}
    counts = count_classes(((_part(f), index[f.label]) for f in files), len(labels))
    require_all_classes(labels, counts, where=path, given=scan.given)
    skipped = scan.problems + unreadable
    info = SourceInfo(
        name=slug(PurePath(os.path.realpath(path)).name),
        labels=labels,
        channels=3,
        resolution=RESOLUTION,
        epochs=EPOCHS,
        augment=AUGMENT,
        counts=counts,
        notes=_notes(scan, files, labels, options),
        ignore=scan.ignore,
    )
    return FolderSource(info, path, files, [(id_, error.what) for id_, error in skipped], options)


class FolderSource:
    """Images in class folders; `open_folder` makes it. `files` are in the order of evaluation."""

    def __init__(
        self,
        info: SourceInfo,
        root: str,
        files: Sequence[ImageFile],
        skipped: Iterable[tuple[str, str]],
        options: DataOptions,
    ) -> None:
        self.info = info
        self._root = root
        self._files = files
        self._skipped = dict(skipped)
        self._options = options
        self._digests = {file.path: file.sha256 for file in files if file.sha256 is not None}

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """(id, reason) of the files left out so far; grows as parts are loaded."""
        return tuple(self._skipped.items())

    def load(self, part: Part, contract: Contract) -> Split:
        """Decode the files of one part, in the order of their ids.

        Raises:
            DataError: the labels are not the contract's; or, with all of them attached, the files
                that cannot be used, unless they are to be skipped.
        """
        decoder = self._decoder(contract)
        files = self._of(part)
        labels = self._labels(files, contract)
        require_memory(len(files) * math.prod(decoder.shape), where=self._root)
        images = np.empty((len(files), *decoder.shape), np.uint8)

        def read(row: int) -> _Seen | DataError:
            return decoder.read(files[row], images[row])

        seen = self._used(part, files, _in_threads(read, range(len(files))))
        rows = list(seen)
        return Split(
            images=images[rows] if len(rows) < len(files) else images,
            labels=labels[rows],
            ids=tuple(files[row].id for row in rows),
            digests=tuple(one.sha256 for one in seen.values()),
            facts=_facts(list(seen.values())),
        )

    def check(self, part: Part, contract: Contract) -> None:
        """Decode the files of one part and keep no pixels; refuses and skips as `load` does.

        Raises:
            DataError: as `load`.
        """
        decoder = self._decoder(contract)
        files = self._of(part)

        def read(file: ImageFile) -> _Seen | DataError:
            return decoder.read(file, np.empty(decoder.shape, np.uint8))

        self._used(part, files, _in_threads(read, files))

    def listed(self, part: Part, contract: Contract) -> Listed:
        """The files of one part without those known to be bad, hashed but not decoded.

        Raises:
            DataError: the labels are not the contract's, or a file cannot be read.
        """
        self._hash_all()
        files = [file for file in self._of(part) if file.id not in self._skipped]
        self._require_all_left(files, part)
        return Listed(
            files=tuple(files),
            labels=self._labels(files, contract),
            decoder=self._decoder(contract),
        )

    def _of(self, part: Part) -> list[ImageFile]:
        """The files of one part, each with its hash where it is known by now."""
        return [
            replace(file, sha256=self._digests.get(file.path))
            for file in self._files
            if file.part is part
        ]

    def _decoder(self, contract: Contract) -> Decoder:
        return Decoder(root=self._root, contract=contract, max_pixels=self._options.max_pixels)

    def _labels(self, files: Sequence[ImageFile], contract: Contract) -> I64:
        """(N,) numbers of the files' classes in the contract."""
        numbers = label_numbers(self.info.labels, contract.labels, where=self._root)
        number = dict(zip(self.info.labels, numbers.tolist(), strict=True))
        return np.array([number[file.label] for file in files], dtype=np.int64)

    def _used(
        self, part: Part, files: Sequence[ImageFile], results: Iterable[_Seen | DataError]
    ) -> dict[int, _Seen]:
        """The rows of the good files; bad ones are refused or noted as skipped."""
        with quiet_pillow():
            read = list(results)
        problems = [
            (file.id, result)
            for file, result in zip(files, read, strict=True)
            if isinstance(result, DataError)
        ]
        _raise_unless_skipped(problems, self._options)
        self._skipped.update((id_, problem.what) for id_, problem in problems)
        seen = {row: result for row, result in enumerate(read) if isinstance(result, _Seen)}
        self._require_all_left([files[row] for row in seen], part)
        self._digests |= {files[row].path: one.sha256 for row, one in seen.items()}
        return seen

    def _require_all_left(self, used: Sequence[ImageFile], part: Part) -> None:
        """Skipping must not empty a class."""
        left = {file.label for file in used}
        gone = [label for label in self.info.labels if label not in left]
        if gone:
            raise data_error(
                f"no good image is left in {part.value} of the classes {listing(gone)}",
                where=self._root,
                remedy="mend the bad files, see ndtool data inspect",
                code="data.too-few-images",
            )

    def split_table(self) -> list[tuple[str, Sha256, Part]]:
        """(id, sha256 of the file, part) of every sample; hashes what was not read so far."""
        self._hash_all()
        return [(file.id, self._digests[file.path], _part(file)) for file in self._files]

    def _hash_all(self) -> None:
        fresh = [file for file in self._files if file.path not in self._digests]
        hashed, unreadable = _hashed(fresh, self._root)
        raise_all([problem for _, problem in unreadable])
        self._digests |= {file.path: file.sha256 for file in hashed if file.sha256 is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """How the files of one folder become pixels; small, and fit to be sent to another process."""

    root: str  # as the user wrote it, for messages
    contract: Contract
    max_pixels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what `pixels` gives."""
        spec = self.contract.input
        return spec.height, spec.width, spec.channels

    def picture(self, file: ImageFile) -> tuple[Decoded, Sha256]:
        """The picture, not yet resized, and the hash of its file; under `quiet_pillow`.

        Raises:
            DataError: unreadable, no good image, or another content than `file.sha256` says.
        """
        where = f"{self.root}/{file.id}"
        content = read_regular(file.path, where=where)
        sha256 = digest(content)
        if file.sha256 not in (None, sha256):
            raise data_error(
                "the file changed while ndtool was reading the folder",
                where=where,
                remedy="run it again",
                code="data.changed",
            )
        decoded = decode_image(
            content,
            where=where,
            color=self.contract.input.color,
            alpha=self.contract.alpha,
            max_pixels=self.max_pixels,
        )
        return decoded, sha256

    def pixels(self, file: ImageFile) -> U8:
        """The contract's pixels (H, W, C); under `quiet_pillow`. Raises as `picture`."""
        return fit(self.picture(file)[0].image, self.contract)

    def read(self, file: ImageFile, out: U8) -> _Seen | DataError:
        """Put the pixels into `out`, (H, W, C); gives what the file was, or is refused for."""
        try:
            decoded, sha256 = self.picture(file)
        except DataError as error:
            return error
        out[...] = fit(decoded.image, self.contract)
        return _Seen(
            sha256=sha256,
            size=decoded.image.size,
            mode=decoded.mode,
            rotated=decoded.rotated,
            animated=decoded.animated,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Listed:
    """The files of one part in evaluation order, to be decoded when they are needed."""

    files: tuple[ImageFile, ...]  # hashed
    labels: I64  # (N,), the contract's
    decoder: Decoder

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of a sample, as `Split.shape`."""
        return self.decoder.shape

    def sha256(self) -> Sha256:
        """The same as that of the decoded part."""
        digests = [file.sha256 for file in self.files if file.sha256 is not None]
        return samples_sha256(digests, self.labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What reading one file has shown."""

    sha256: Sha256
    size: tuple[int, int]  # width, height; upright
    mode: str
    rotated: bool
    animated: bool


def _raise_unless_skipped(problems: Sequence[tuple[str, DataError]], options: DataOptions) -> None:
    if not options.skip_bad_files:
        raise_all([problem for _, problem in problems])


def _part(file: ImageFile) -> Part:
    assert file.part is not None, "settled by _assign_parts"
    return file.part


def _require_images(scan: Scan) -> None:
    if scan.files:
        return
    what = "no images in the class folders"
    if scan.foreign:
        what += f", {len(scan.foreign):,} other files, the first: {visible(scan.foreign[0])}"
    raise data_error(
        what,
        where=scan.root,
        remedy="put JPEG, PNG, BMP, GIF, WebP, TIFF or PPM files into them",
        code="data.no-images",
    )


def _assign_parts(scan: Scan) -> tuple[list[ImageFile], list[tuple[str, DataError]]]:
    """Every file with its part, by id, hashed where that was needed; and the unreadable ones.

    Where the user made the split, only test files and those whose size occurs twice are hashed.
    """
    sizes = Counter(file.size_bytes for file in scan.files)
    needed: list[ImageFile] = []
    done: list[ImageFile] = []
    for file in scan.files:
        wanted = file.part in (None, Part.TEST) or sizes[file.size_bytes] > 1
        (needed if wanted else done).append(file)
    rule = training_part_of if scan.given else part_of
    hashed, unreadable = _hashed(needed, scan.root)
    for file in hashed:
        if file.part is None and file.sha256 is not None:
            file = replace(file, part=rule(file.sha256))
        done.append(file)
    return sorted(done, key=lambda file: file.id), unreadable


def _hashed(
    files: Sequence[ImageFile], root: str
) -> tuple[list[ImageFile], list[tuple[str, DataError]]]:
    """The files with their sha256, and those that cannot be read with the reason."""

    def one(file: ImageFile) -> ImageFile | tuple[str, DataError]:
        try:
            content = read_regular(file.path, where=f"{root}/{file.id}")
        except DataError as error:
            return file.id, error
        return replace(file, sha256=digest(content))

    good: list[ImageFile] = []
    bad: list[tuple[str, DataError]] = []
    for result in _in_threads(one, files):
        if isinstance(result, ImageFile):
            good.append(result)
        else:
            bad.append(result)
    return good, bad


def _in_threads(work: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """`map`, in order, on a few threads; an interrupt does not wait for what is queued."""
    pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _require_one_class_each(files: Sequence[ImageFile], root: str) -> None:
    """Raises DataError naming every image that lies in two classes."""
    first: dict[Sha256, ImageFile] = {}
    problems: list[DataError] = []
    for file in files:
        if file.sha256 is None:
            continue
        other = first.setdefault(file.sha256, file)
        if other.label != file.label:
            problem = data_error(
                f"the same image is in two classes: also {visible(f'{root}/{other.id}')}",
                where=f"{root}/{file.id}",
                remedy=f"delete one, or list it in {visible(root)}/{IGNORE_FILE}",
                code="data.two-classes",
            )
            problems.append(problem)
    raise_all(problems)


def _notes(
    scan: Scan, files: Sequence[ImageFile], labels: Sequence[str], options: DataOptions
) -> tuple[str, ...]:
    """What the user should be told of the folder."""
    notes = list(repeat_notes((f.sha256, _part(f)) for f in files if f.sha256 is not None))
    order = None if options.labels_file else number_order_note(labels)
    if order is not None:
        notes.append(order)
    for what, names in (
        ("files are no images and were left out", scan.foreign),
        ("folders inside class folders were not read", scan.nested),
    ):
        if names:
            notes.append(f"{len(names):,} {what}; the first: {visible(names[0])}")
    for what, count in (
        ("images lie outside the class folders and were left out", scan.loose),
        ("hidden or system files and folders were left out", scan.hidden),
        (f"files or folders were left out by {IGNORE_FILE}", scan.excluded),
    ):
        if count:
            notes.append(f"{count:,} {what}")
    if scan.unused:
        notes.append(f"lines of {IGNORE_FILE} that match nothing: {listing(scan.unused)}")
    return tuple(notes)


def _facts(seen: Sequence[_Seen]) -> Facts:
    """Sizes, modes and counts over the files of a part, at least one."""
    widths, heights = zip(*(one.size for one in seen), strict=True)
    return Facts(
        width_px=(min(widths), max(widths)),
        height_px=(min(heights), max(heights)),
        modes=_sorted_counts(one.mode for one in seen),
        rotated=sum(one.rotated for one in seen),
        animated=sum(one.animated for one in seen),
    )


def _sorted_counts(words: Iterable[str]) -> Mapping[str, int]:
    return dict(sorted(Counter(words).items()))
