"""Activation ranges: equal to numpy's minima and maxima, and ranges.json of unknown origin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import F32, model, node, run
from random_networks import random_images, settled_tensors

from ndtool.errors import InputError, UnsupportedError
from ndtool.export.graph.from_onnx import read_onnx
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.export.ranges import load_ranges, measure_ranges, ranges_text
from ndtool.models import make_spec
from ndtool.types import Sha256

SPEC = make_spec(
    "mbv3", width=0.1, size_px=16, in_channels=3, classes=5, strides=(1, 1, 2, 1, 1, 2)
)
TESTS_LIB = Path(__file__).parents[1] / "lib"
HASH = Sha256("0" * 64)
RELU = model([node("Relu", "x", "r"), node("Mul", "r big", "y")], {"big": np.float32(2)})


@pytest.fixture(scope="module")
def network() -> bytes:
    return write_onnx(SPEC, settled_tensors(SPEC))


@pytest.fixture(scope="module")
def images() -> F32:
    return random_images(SPEC, 7)


def sources(data: bytes) -> list[str]:
    graph = read_onnx(data, where="t")
    return [t.source for t in graph.tensors.values() if t.data is None]


def test_ranges_are_those_of_the_intermediate_tensors(network: bytes, images: F32) -> None:
    names = sources(network)
    ranges = measure_ranges(network, images, names, batch=3)
    assert list(ranges) == sorted(names)
    others = [name for name in names if name != "input"]
    # Image by image: batches of another size may not change anything but the last bit.
    for name, values in zip(
        others, zip(*(run(network, x[None], others) for x in images), strict=True), strict=True
    ):
        low, high = min(v.min() for v in values), max(v.max() for v in values)
        np.testing.assert_allclose(ranges[name], (low, high), rtol=1e-5, atol=1e-6, err_msg=name)
    assert ranges["input"] == (float(images.min()), float(images.max()))


def test_ranges_are_exactly_numpys_on_the_same_batch(network: bytes, images: F32) -> None:
    names = [name for name in sources(network) if name != "input"]
    ranges = measure_ranges(network, images, names, batch=len(images))
    for name, values in zip(names, run(network, images, names), strict=True):
        assert ranges[name] == (float(values.min()), float(values.max()))


def test_the_value_after_the_fused_activation_is_measured(network: bytes, images: F32) -> None:
    ranges = measure_ranges(network, images, [*sources(network), "blocks.0.depthwise.pre"])
    assert ranges["blocks.0.depthwise.pre"][0] < 0
    assert ranges["blocks.0.depthwise"][0] == 0


def test_an_iterable_of_arrays_is_the_same_as_one_array(network: bytes, images: F32) -> None:
    names = sources(network)
    parts = (images[i : i + 4] for i in range(0, len(images), 4))
    assert measure_ranges(network, parts, names, batch=4) == measure_ranges(
        network, images, names, batch=4
    )


def test_a_model_of_batch_one_is_fed_one_by_one() -> None:
    data = model([node("Relu", "x", "y")], image=(1, 3, 4, 4))
    images = np.random.default_rng(0).normal(0, 1, (5, 3, 4, 4)).astype(np.float32)
    assert measure_ranges(data, images, ["y"]) == {"y": (0.0, float(images.max()))}


def test_ranges_do_not_depend_on_the_hash_seed_and_nothing_is_written(tmp_path: Path) -> None:
    script = (
        "import numpy as np\n"
        "from random_networks import random_images, random_tensors\n"
        "from ndtool.export.graph.to_onnx import write_onnx\n"
        "from ndtool.export.ranges import measure_ranges, ranges_text\n"
        "from ndtool.models import make_spec\n"
        "spec = make_spec('ds-cnn', width=.5, size_px=16, in_channels=3, classes=5)\n"
        "names = {'input', 'logits', 'stem', 'pool', 'blocks.0.project', 'blocks.1.depthwise'}\n"
        "data = write_onnx(spec, random_tensors(spec))\n"
        "found = measure_ranges(data, random_images(spec, 5), names)\n"
        "print(list(found), ranges_text(found, ids=[], digests=[]))\n"
    )
    outputs = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS_LIB)},
        )
        assert done.stderr == ""
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_bad_pixel_is_refused_by_name(value: float) -> None:
    images = np.zeros((40, 3, 8, 8), np.float32)
    images[35, 1, 2, 3] = value
    with pytest.raises(UnsupportedError, match="tensor x holds NaN or infinite"):
        measure_ranges(RELU, images, ["x", "y"])


def test_an_overflow_inside_the_network_is_refused_by_name() -> None:
    images = np.full((2, 3, 8, 8), 2e38, np.float32)
    with pytest.raises(UnsupportedError, match="tensor y holds NaN or infinite"):
        measure_ranges(RELU, images, ["r", "x", "y"])


@pytest.mark.parametrize(
    ("images", "names", "words"),
    [
        (np.zeros((0, 3, 8, 8), np.float32), ["y"], "no images"),
        (np.zeros((2, 8, 8, 3), np.float32), ["y"], "the model takes"),
        (np.zeros((2, 3, 8, 8), np.float64), ["y"], "float64"),
        (np.zeros((2, 3, 8, 8), np.float32), ["y", "z\x1b"], r"no tensor z\\x1b"),
        (np.zeros((2, 3, 8, 8), np.float32), ["big"], "no tensor big"),
    ],
)
def test_wrong_input_is_refused(images: F32, names: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        measure_ranges(RELU, images, names)


def test_a_model_that_onnxruntime_refuses_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    data = model([node("Conv", "x w", "y")], {"w": np.zeros((4, 7, 3, 3))})
    with pytest.raises(InputError) as caught:
        measure_ranges(data, np.zeros((1, 3, 8, 8), np.float32), ["y"])
    assert "onnxruntime cannot run the model" in caught.value.what
    assert "\n" not in caught.value.what
    assert capfd.readouterr() == ("", "")


# -- ranges.json -----------------------------------------------------------------------------------


def store(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(max_size=5), st.tuples(finite32, finite32).map(sorted), max_size=4))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_every_float32_survives(found: dict[str, list[float]]) -> None:
    ranges = {name: (low, high) for name, (low, high) in found.items()}
    text = ranges_text(ranges, ids=["a"], digests=[HASH])
    # The text is parsed here as the file's reader does, without a file for each example.
    parsed = json.loads(text)["ranges"]
    assert {n: tuple(float(np.float32(v)) for v in pair) for n, pair in parsed.items()} == ranges


def test_a_file_is_read_back_exactly(tmp_path: Path) -> None:
    ranges = {"b": (-0.1, float(np.float32(1 / 3))), "a": (0.0, 6.0)}
    ranges["b"] = (float(np.float32(-0.1)), ranges["b"][1])
    text = ranges_text(ranges, ids=["train/1", "bad\udcff\n"], digests=[HASH, HASH])
    assert load_ranges(store(tmp_path / "ranges.json", text)) == ranges
    content = json.loads(text)
    assert list(content) == sorted(content)
    assert list(content["ranges"]) == ["a", "b"]
    assert content["ranges"]["b"] == [-0.1, 0.33333334], "short, and exact as float32"
    assert content["method"] == "min-max"
    assert content["samples"][1]["id"].isprintable()


GOOD: dict[str, Any] = {
    "schema": "ndtool.ranges/1",
    "method": "min-max",
    "onnxruntime": "1.31.1",
    "samples": [],
    "ranges": {"a": [0.0, 1.0]},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("ranges"), "ranges: Field required"),
        (lambda d: d.update(more=1), "more: Unexpected"),
        (lambda d: d.update(schema="ndtool.ranges/2"), "schema: Input should be"),
        (lambda d: d.update(method="entropy"), "method: Input should be"),
        (lambda d: d["ranges"].update(a=[0.0]), "ranges.a.1: Field required"),
        (lambda d: d["ranges"].update(a=[0.0, 1.0, 2.0]), "ranges.a: Tuple should have"),
        (lambda d: d["ranges"].update(a=["0", "1"]), "ranges.a.0: Input should be"),
        (lambda d: d["ranges"].update(a=[1.0, 0.0]), "a: 1.0 to 0.0 is not a range"),
        (lambda d: d["ranges"].update(a=[0.0, 1e39]), "1e+39 is not a range"),
        (lambda d: d["ranges"].update(a=[0.0, float("nan")]), "finite number"),
        (lambda d: d["ranges"].update(a=[0.0, float("inf")]), "finite number"),
        (lambda d: d.update(samples=[{"id": 1, "sha256": ""}]), "samples.0.id"),
        (lambda d: d["ranges"].update({"\x1b[31m": [1.0, 0.0]}), "\\x1b[31m: 1.0"),
    ],
)
def test_a_bad_file_names_the_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    content = json.loads(json.dumps(GOOD))
    assert load_ranges(store(tmp_path / "good.json", json.dumps(content))) == {"a": (0.0, 1.0)}
    change(content)
    with pytest.raises(InputError) as caught:
        load_ranges(store(tmp_path / "ranges.json", json.dumps(content)))
    assert words in caught.value.what
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, "\x00"])
def test_a_file_that_is_no_object(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="bad ranges"):
        load_ranges(store(tmp_path / "ranges.json", text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_ranges(tmp_path / "ranges.json")
