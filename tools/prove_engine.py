"""Every tensor of real networks, on the host and on Cortex-M cores, against tflite_micro.

    python tools/prove_engine.py [--random 100] [--on host --on qemu:BOARD ...] [FILE.tflite ...]

Without files: the public models beside the repository (../shared/models, left out with a word
where they are missing), and two networks made by our own training and converters, MobileNetV2 at
width .35 and MobileNetV3 with hard-swish and squeeze-excite, each after one short epoch on made
images: their weights and ranges are real enough to differ, their accuracy does not matter here.
Half of the inputs are smooth images. Exit 1 when any byte differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ndtool.export.codegen.boards import BOARDS

ROOT: Final = Path(__file__).resolve().parents[1]
PUBLIC: Final = ROOT.parent / "shared" / "models"
COMMAND: Final = "import sys; from ndtool.cli.main import main; sys.exit(main())"
# The M0 board has 16 KB of RAM and the STM32 128 KB: other proofs run there.
PLACES: Final = ("host", *(f"qemu:{b.name}" for b in BOARDS if b.name.startswith("mps")))
OWN: Final = {
    "mbv2-w035": ("--model", "mbv2", "--width", ".35", "--resolution", "96"),
    "mbv3-w035": ("--model", "mbv3", "--width", ".35", "--resolution", "64"),
}
CLASSES: Final = 5


def ndtool(*arguments: str, cwd: Path) -> dict[str, object]:
    """The --json document of one command; ends the program when it fails."""
    found = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments, "--json"],
        cwd=cwd,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    if found.returncode:
        sys.exit(f"ndtool {' '.join(arguments)}: exit {found.returncode}")
    document: dict[str, object] = json.loads(found.stdout)
    return document


def own_models(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name, .tflite) of the networks that we make ourselves."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % CLASSES
    coarse = rng.integers(0, 256, (300, 6, 6, 3))
    coarse[..., 0] = (coarse[..., 0] + 40 * labels[:, None, None]) // 2
    images = np.clip(coarse, 0, 255).astype(np.uint8).repeat(16, axis=1).repeat(16, axis=2)
    np.savez(
        folder / "images.npz",
        x_train=images[:240],
        y_train=labels[:240],
        x_test=images[240:],
        y_test=labels[240:],
        class_names=np.array([f"class {k}" for k in range(CLASSES)]),
    )
    for name, options in OWN.items():
        made = ("--data", "npz:images.npz", "--recipe", "plain", "--epochs", "1", "--name", name)
        ndtool("train", *made, *options, "--batch-size", "16", cwd=folder)
        ndtool("export", f"runs/{name}", "--int8", cwd=folder)
        yield name, folder / "runs" / name / "export" / "model_int8.tflite"


def public_models() -> Iterator[tuple[str, Path]]:
    """(name, .tflite) of the public models that are here."""
    if not PUBLIC.is_dir():
        print("left out: the public models, which are not beside the repository")  # noqa: T201
    for path in sorted(PUBLIC.glob("*.tflite")):
        yield path.stem, path


def prove(name: str, tflite: Path, places: Sequence[str], count: int, folder: Path) -> None:
    """One model in every place; a line for each."""
    project = folder / f"{name}-c"
    ndtool("codegen", "--tflite", str(tflite), "--out", str(project), cwd=folder)
    for place in places:
        options = ("--on", place, "--layers", "--random", str(count))
        document = ndtool("verify", str(project), *options, cwd=folder)
        figures = document["models"]
        print(f"{name:14} {place:18} {json.dumps(figures, sort_keys=True)}", flush=True)  # noqa: T201


def main() -> None:
    """Parse the command line and prove everything named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--random", type=int, default=100)
    parser.add_argument("--on", action="append", choices=PLACES)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ndtool-prove-") as made:
        folder = Path(made)
        models = [(path.stem, path.resolve()) for path in given.files]
        for name, tflite in models or [*public_models(), *own_models(folder)]:
            prove(name, tflite, given.on or PLACES, given.random, folder)


if __name__ == "__main__":
    main()
