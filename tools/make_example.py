"""Makes examples/digits anew: a data set, a run folder as a project commits it, its baseline.

    python tools/make_example.py --reason TEXT

In a folder of its own outside any repository, since the manifest keeps the working folder's name
and the commit. The .npz comes out the same everywhere, the weights on one machine. Bounds of the
present baseline are kept.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ndtool.contract import Contract, InputSpec, Resize, unit_normalize
from ndtool.data.digits import AUGMENT, EPOCHS, RESOLUTION, open_digits
from ndtool.data.types import DataOptions
from ndtool.types import Part

ROOT: Final = Path(__file__).resolve().parents[1]
DATA: Final = Path("examples/digits/digits.npz")
RUN: Final = Path("examples/digits/ds-cnn")
BASELINE: Final = Path("examples/digits/main.toml")
SIDE: Final = 8  # pixels, of scikit-learn's digits as they are
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # numpy.savez would stamp the present time


def main() -> None:
    """Make everything, and replace the committed files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reason", required=True, help="why this model is accepted")
    reason = parser.parse_args().reason
    predictions = BASELINE.with_suffix(".pred")
    remade = tuple(remade_names(ROOT / RUN / ".gitignore"))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "ndtool"
        (work / DATA).parent.mkdir(parents=True)
        (work / DATA).write_bytes(npz_bytes(digits()))
        train_and_export(work)
        made = [path for path in sorted((work / RUN).rglob("*")) if path.is_file()]
        for path in (work / DATA, *made):
            copy(path, work, ROOT, leave_out=remade)
        for name in (BASELINE, predictions):
            if (ROOT / name).is_file():
                copy(ROOT / name, ROOT, work)
        ndtool("codegen", RUN.as_posix(), cwd=work)
        where = ("--baseline", BASELINE.as_posix())
        ndtool("baseline", "accept", RUN.as_posix(), *where, "--reason", reason, cwd=work)
        for name in (BASELINE, predictions):
            copy(work / name, work, ROOT)


def copy(path: Path, root: Path, to: Path, *, leave_out: tuple[str, ...] = ()) -> None:
    """Copy the file `path` to the same place below `to` that it has below `root`."""
    name = path.relative_to(root)
    if not name.as_posix().startswith(leave_out):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to / name)


def ndtool(*words: str, cwd: Path) -> None:
    """Run one command."""
    subprocess.run([sys.executable, "-m", "ndtool", *words], cwd=cwd, check=True)


def digits() -> dict[str, NDArray[Any]]:
    """The source `digits` in its own split, as the arrays of an npz."""
    source = open_digits(DataOptions())
    contract = Contract(
        input=InputSpec(height=SIDE, width=SIDE, channels=1, color="GRAY"),
        resize=Resize(),
        normalize=unit_normalize(1),
        labels=source.info.labels,
    )
    arrays: dict[str, NDArray[Any]] = {"class_names": np.array(source.info.labels)}
    for part in Part:
        split = source.load(part, contract)
        arrays |= {f"x_{part.value}": split.images, f"y_{part.value}": split.labels}
    return arrays


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A compressed npz whose bytes depend on the arrays alone."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def train_and_export(work: Path) -> None:
    """The demo's training on the npz, with the defaults of `digits`; then every stage to int8."""
    train = ["--data", f"npz:{DATA.as_posix()}", "--resolution", str(RESOLUTION)]
    train += ["--epochs", str(EPOCHS), "--crop", str(AUGMENT.crop_px), "--no-flip"]
    train += ["--out", RUN.parent.as_posix(), "--name", RUN.name, "--threads", "2"]
    ndtool("train", *train, cwd=work)
    ndtool("export", RUN.as_posix(), "--int8", cwd=work)


def remade_names(gitignore: Path) -> list[str]:
    """Beginnings of the paths, from the root, that are not committed: later stages make them."""
    lines = gitignore.read_text(encoding="utf-8").splitlines()
    return [f"{RUN.as_posix()}{line}" for line in lines if line.startswith("/")]


if __name__ == "__main__":
    main()
