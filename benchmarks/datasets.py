"""Data sets of the benchmarks, made once into a cache folder outside the repository.

The shared CIFAR-100 pack, and subsets of any data set's training part.

    python benchmarks/datasets.py [--cache ~/.cache/ndtool]

Prints the npz's path, for `--data npz:PATH`. The pack is lossy: name it "CIFAR-100, recompressed
(40.5 dB)" in every table. Another AVIF decoder may give other pixels, which is told each time the
file is asked for: all rows of a table are measured on one npz.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ndtool.data.types import source_sha256
from ndtool.prepare import Prepared
from ndtool.types import Part

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CACHE = Path("~/.cache/ndtool")
TIMEOUT_S = 600  # it takes 9 s on an idle core
LAST_LINES = 20  # of the tool's output, when it fails


def cifar100_npz(cache: Path = CACHE) -> Path:
    """The npz of CIFAR-100 in `cache`, unpacked by the pack's own tool where it is not there yet.

    Raises:
        SystemExit: the pack is not beside this checkout, or cannot be unpacked; what and where.
    """
    tool, pack = SHARED / "cifar_pack.py", SHARED / "cifar100"
    manifest = pack / "manifest.json"
    if not (tool.is_file() and manifest.is_file()):
        raise SystemExit("the shared CIFAR-100 pack (../shared/data) is not beside this checkout")
    described = manifest.read_bytes()
    # A pack that was made anew gets a file of its own.
    name = f"cifar100-{hashlib.sha256(described).hexdigest()[:12]}.npz"
    folder = cache.expanduser().resolve()
    path = folder / name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # Runs that start side by side unpack each for itself; the renaming leaves one whole file.
        with TemporaryDirectory(dir=folder) as temporary:
            _unpack(tool, pack, Path(temporary) / name)
            (Path(temporary) / name).replace(path)
    parts = json.loads(described)["parts"]
    if not _is_as_described(path, {f"x_{part}": parts[part]["sha256_x"] for part in parts}):
        print(
            f"{path}: the pixels are not those of the manifest (another AVIF decoder); "
            "compare accuracies only among runs on this file",
            file=sys.stderr,
        )
    return path


def _unpack(tool: Path, pack: Path, out: Path) -> None:
    """Write the npz; raises SystemExit with the last lines of a tool that failed."""
    command = [sys.executable, str(tool), str(pack), str(out)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=out.parent
    )
    if done.returncode or not out.is_file():
        said = (done.stdout + done.stderr).splitlines()[-LAST_LINES:]
        raise SystemExit("\n".join([f"failed: {' '.join(command)}", *said]))


def _is_as_described(path: Path, digests: dict[str, str]) -> bool:
    """Whether the sha256 of each named array is the given one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return all(
                hashlib.sha256(np.ascontiguousarray(arrays[key]).data).hexdigest() == digest
                for key, digest in digests.items()
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise SystemExit(f"{path} is damaged ({error}); delete it and start again") from None


def subset_npz(prepared: Prepared, count: int, seed: int, cache: Path = CACHE) -> Path:
    """An npz with `count` training images, as many of each class, drawn by `seed`.

    Validation and test part are whole; all pixels are as the contract has them.

    Raises:
        SystemExit: a class has too few images.
    """
    source, contract = prepared.source, prepared.contract
    described = f"{source_sha256(source)} {contract.sha256()}".encode("ascii")
    digest = hashlib.sha256(described).hexdigest()[:12]
    folder = cache.expanduser().resolve()
    path = folder / f"{source.info.name}-{digest}-{count}-s{seed}.npz"
    if not path.is_file():
        splits = {part: source.load(part, contract) for part in Part}
        chosen = stratified(splits[Part.TRAIN].labels, contract.num_classes, count, seed)
        arrays = {"class_names": np.array(contract.labels)}
        for part, split in splits.items():
            rows = chosen if part is Part.TRAIN else slice(None)
            arrays[f"x_{part.value}"] = split.images[rows]
            arrays[f"y_{part.value}"] = split.labels[rows]
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            np.savez(Path(temporary) / path.name, allow_pickle=False, **arrays)
            (Path(temporary) / path.name).replace(path)
    return path


def stratified(labels: NDArray[np.int64], classes: int, count: int, seed: int) -> NDArray[np.intp]:
    """Places of `count` // `classes` random samples of each class, rising."""
    each = count // classes
    rng = np.random.default_rng(seed)
    places = []
    for label in range(classes):
        own = np.flatnonzero(labels == label)
        if not 1 <= each <= len(own):
            raise SystemExit(f"class {label} has {len(own)} training images, {each} are asked for")
        places.append(rng.permutation(own)[:each])
    return np.sort(np.concatenate(places))


def main() -> None:
    """Unpack if need be, and print the path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE)
    print(cifar100_npz(parser.parse_args().cache))


if __name__ == "__main__":
    main()
