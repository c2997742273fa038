"""ArchSpec and weights -> ONNX: equal to torch, standard, readable, the same bytes everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx_models import run
from random_networks import random_images, random_tensors, settled_tensors
from tolerances import LOGITS_ABS

from ndtool.arch import ArchSpec, lower
from ndtool.errors import InputError, NdError, UnsupportedError
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.export.graph.weights import fold_tensors
from ndtool.models import make_spec
from ndtool.training.build import Network

TESTS_LIB = Path(__file__).parents[2] / "lib"


def spec_of(name: str, width: float, size_px: int, channels: int = 3) -> ArchSpec:
    return make_spec(name, width=width, size_px=size_px, in_channels=channels, classes=10)


SPECS = [
    pytest.param(spec_of("ds-cnn", 1.0, 32), id="ds-cnn-32"),
    pytest.param(spec_of("ds-cnn", 1.0, 28, 1), id="ds-cnn-28-grey"),
    pytest.param(spec_of("mbv2", 0.35, 32), id="mbv2-32"),
    pytest.param(spec_of("mbv2", 0.35, 33), id="mbv2-33-odd"),
    pytest.param(spec_of("mbv2-tiny", 0.35, 32), id="mbv2-tiny-32"),
    pytest.param(spec_of("mbv3", 0.35, 32), id="mbv3-32"),
]
SMALL = spec_of("ds-cnn", 0.5, 16)


@pytest.mark.parametrize("spec", SPECS)
def test_logits_equal_torch(spec: ArchSpec) -> None:
    tensors = settled_tensors(spec)
    network = Network(spec)
    network.load_named({name: torch.from_numpy(values) for name, values in tensors.items()})
    images = random_images(spec, 4)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images)).numpy()
    (logits,) = run(write_onnx(spec, tensors), images)
    assert np.ptp(expected, axis=0).max() > 100 * LOGITS_ABS, "it ignores its input"
    np.testing.assert_allclose(logits, expected, rtol=0, atol=LOGITS_ABS)


@pytest.mark.parametrize("spec", SPECS)
def test_the_file_is_standard_and_readable(spec: ArchSpec) -> None:
    data = write_onnx(spec, random_tensors(spec))
    model = onnx.ModelProto.FromString(data)
    onnx.checker.check_model(model, full_check=True)
    assert (model.producer_name, model.producer_version, model.ir_version) == ("ndtool", "", 8)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.doc_string == model.graph.doc_string == ""
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    image = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert image == ["batch", spec.in_channels, spec.height_px, spec.width_px]
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["input", "logits"]
    layers = [layer.name for layer in lower(spec)]
    assert [n.name for n in model.graph.node if not n.name.endswith(".act")] == layers
    known = {v.name for v in model.graph.value_info}
    assert known == set(layers) - {"classifier"}, "a viewer shows every layer's shape"


def test_operators_and_attributes_of_mbv3() -> None:
    spec = spec_of("mbv3", 0.35, 32)
    nodes = onnx.ModelProto.FromString(write_onnx(spec, random_tensors(spec))).graph.node
    ops = Counter(node.op_type for node in nodes)
    assert set(ops) == {
        *("Conv", "Relu", "HardSwish", "HardSigmoid", "ReduceMean", "Mul", "Add", "Gemm")
    }
    by_name = {node.name: node for node in nodes}
    gate = next(node for node in nodes if node.op_type == "HardSigmoid")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in gate.attribute}
    assert attributes == {"alpha": float(np.float32(1 / 6)), "beta": 0.5}
    assert by_name["stem.act"].input[0] == by_name["stem"].output[0] == "stem.pre"
    assert by_name["stem.act"].output[0] == "stem"
    gemm = {a.name: a.i for a in by_name["classifier"].attribute}
    assert gemm == {"transB": 1}


def test_relu6_is_clip_0_to_6() -> None:
    graph = onnx.ModelProto.FromString(write_onnx(SMALL, random_tensors(SMALL))).graph
    values = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    clip = next(node for node in graph.node if node.op_type == "Clip")
    assert [values[name].item() for name in clip.input[1:]] == [0.0, 6.0]


@pytest.mark.parametrize(("size_px", "pads"), [(32, [0, 0, 1, 1]), (33, [1, 1, 1, 1])])
def test_same_padding_is_written_out(size_px: int, pads: list[int]) -> None:
    spec = spec_of("ds-cnn", 1.0, size_px)
    assert spec.stem.stride == 2
    stem = onnx.ModelProto.FromString(write_onnx(spec, random_tensors(spec))).graph.node[0]
    found = {a.name: list(a.ints) for a in stem.attribute}
    assert found["pads"] == pads
    assert found["strides"] == [2, 2]


def test_batch_norm_is_folded_in_float64_and_rounded_once() -> None:
    tensors = random_tensors(SMALL)
    folded = fold_tensors(SMALL, tensors)
    wide = {name: values.astype(np.longdouble) for name, values in tensors.items()}
    name = "blocks.0.project"
    gamma, beta, mean, var = (
        wide[f"{name}.bn.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(var + np.longdouble(SMALL.bn_eps))
    weight = wide[f"{name}.weight"] * scale[:, None, None, None]
    np.testing.assert_array_equal(folded[f"{name}.weight"], weight.astype(np.float32))
    np.testing.assert_array_equal(folded[f"{name}.bias"], (beta - mean * scale).astype(np.float32))
    assert folded[f"{name}.weight"].dtype == np.float32


def test_the_bytes_do_not_depend_on_the_hash_seed() -> None:
    script = (
        "import hashlib, sys\n"
        "from random_networks import random_tensors\n"
        "from ndtool.export.graph.to_onnx import write_onnx\n"
        "from ndtool.models import make_spec\n"
        "spec = make_spec('mbv3', width=.35, size_px=32, in_channels=3, classes=10)\n"
        "print(hashlib.sha256(write_onnx(spec, random_tensors(spec))).hexdigest())\n"
    )
    spec = spec_of("mbv3", 0.35, 32)
    # Another order of the mapping must not matter either.
    shuffled = dict(sorted(random_tensors(spec).items(), reverse=True))
    expected = hashlib.sha256(write_onnx(spec, shuffled)).hexdigest()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS_LIB)}
        done = subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
        )
        assert done.stdout.strip() == expected


@pytest.mark.parametrize(
    ("name", "value", "kind", "words"),
    [
        ("stem.weight", None, InputError, "tensor stem.weight is missing"),
        ("stem.bn.momentum", np.zeros(8, np.float32), InputError, "stem.bn.momentum is not part"),
        ("stem.bn.bias", np.zeros(7, np.float32), InputError, "shape (7,), not (8,)"),
        ("classifier.bias", np.zeros(10), InputError, "is float64, not float32"),
        ("classifier.bias", np.full(10, np.nan, np.float32), UnsupportedError, "holds NaN"),
        ("stem.bn.running_var", np.full(8, -1, np.float32), UnsupportedError, "stem.weight holds"),
    ],
)
def test_a_wrong_tensor_is_named(
    name: str, value: np.ndarray | None, kind: type[NdError], words: str
) -> None:
    tensors = random_tensors(SMALL)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    with pytest.raises(kind) as caught:
        write_onnx(SMALL, tensors)
    assert words in caught.value.what
