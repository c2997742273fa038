"""benchmarks/datasets.py with a stub of the shared pack and its tool."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tiny_data

from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.types import Part

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "datasets.py"
PARTS = {part: np.full((2, 4, 4, 3), k, np.uint8) for k, part in enumerate(("train", "test"))}
TOOL = """
import pathlib, sys
import numpy as np
pack, out = sys.argv[1:]
with open(pathlib.Path(pack, "calls"), "a") as calls:
    calls.write("called ")
train, test = (np.full((2, 4, 4, 3), k, np.uint8) for k in (0, {test}))
np.savez(out, x_train=train, x_test=test)
"""


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, with a pack of two arrays in place of the shared one."""
    spec = importlib.util.spec_from_file_location("benchmark_datasets", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SHARED", tmp_path / "shared")
    (tmp_path / "shared" / "cifar100").mkdir(parents=True)
    write_tool(tmp_path)
    digests = {part: hashlib.sha256(x.tobytes()).hexdigest() for part, x in PARTS.items()}
    manifest = {"parts": {part: {"sha256_x": digest} for part, digest in digests.items()}}
    (tmp_path / "shared" / "cifar100" / "manifest.json").write_text(json.dumps(manifest))
    return module


def write_tool(root: Path, *, test: int = 1, text: str = TOOL) -> None:
    (root / "shared" / "cifar_pack.py").write_text(text.replace("{test}", str(test)))


def test_unpacked_once(
    datasets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "a" / "cache"
    path = datasets.cifar100_npz(cache)
    assert datasets.cifar100_npz(cache) == path
    assert list(cache.iterdir()) == [path]
    assert (tmp_path / "shared" / "cifar100" / "calls").read_text() == "called "
    with np.load(path) as arrays:
        assert np.array_equal(arrays["x_test"], PARTS["test"])
    assert capsys.readouterr() == ("", "")
    manifest = tmp_path / "shared" / "cifar100" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")  # a pack that was made anew
    assert datasets.cifar100_npz(cache) != path


def test_other_pixels_are_told_each_time(
    datasets: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tool(tmp_path, test=2)
    for _ in range(2):
        path = datasets.cifar100_npz(tmp_path / "cache")
        said = capsys.readouterr().err
        assert said.startswith(f"{path}: the pixels are not those of the manifest")
        assert said.count("\n") == 1


def test_an_absent_pack_is_one_line(datasets: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "shared" / "cifar_pack.py").unlink()
    with pytest.raises(SystemExit, match=r"^the shared CIFAR-100 pack .* not beside [^\n]*$"):
        datasets.cifar100_npz(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("text", ["raise SystemExit('no AVIF')", "print('no AVIF')"])
def test_a_tool_that_fails_is_quoted(datasets: ModuleType, tmp_path: Path, text: str) -> None:
    write_tool(tmp_path, text=text)
    with pytest.raises(SystemExit, match=r"cifar_pack\.py .*\nno AVIF$"):
        datasets.cifar100_npz(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_file_is_named(datasets: ModuleType, tmp_path: Path) -> None:
    path = datasets.cifar100_npz(tmp_path / "cache")
    for content in (b"", b"PK", path.read_bytes()[:300]):
        path.write_bytes(content)
        with pytest.raises(SystemExit, match=f"^{path} is damaged"):
            datasets.cifar100_npz(tmp_path / "cache")


@pytest.fixture
def tiny(tmp_path: Path) -> Prepared:
    path = tiny_data.write_npz(tmp_path / "tiny.npz")
    return prepare(TrainOptions(data=f"npz:{path}"), name="", out=tmp_path)


def test_a_subset_is_balanced_and_of_its_seed(
    datasets: ModuleType, tiny: Prepared, tmp_path: Path
) -> None:
    cache = tmp_path / "subsets"
    paths = [datasets.subset_npz(tiny, 31, seed, cache) for seed in (0, 0, 1)]
    assert paths[0] == paths[1] != paths[2]
    parts = [prepare(TrainOptions(data=f"npz:{path}"), name="", out=tmp_path) for path in paths]
    whole, first, _, second = (
        {part: one.source.load(part, one.contract) for part in Part} for one in (tiny, *parts)
    )
    assert parts[0].contract == tiny.contract
    assert np.bincount(first[Part.TRAIN].labels).tolist() == [10, 10, 10]
    assert set(first[Part.TRAIN].digests) < set(whole[Part.TRAIN].digests)
    assert set(first[Part.TRAIN].digests) != set(second[Part.TRAIN].digests)
    for part in (Part.VAL, Part.TEST):
        assert first[part].digests == whole[part].digests == second[part].digests
        assert np.array_equal(first[part].labels, whole[part].labels)


@pytest.mark.parametrize("count", [2, 100_000])
def test_a_subset_that_cannot_be_drawn_is_refused(
    datasets: ModuleType, tiny: Prepared, tmp_path: Path, count: int
) -> None:
    with pytest.raises(SystemExit, match="class 0 has"):
        datasets.subset_npz(tiny, count, 0, tmp_path / "subsets")
