"""The interpreter against a slow numpy one, names, counts and initialisation."""

import math

import nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndtool.arch import (
    INPUT,
    Act,
    ArchSpec,
    Block,
    BlockKind,
    Head,
    Layer,
    LayerOp,
    Stem,
    count_parameters,
    expand,
    lower,
    tensor_shapes,
)
from ndtool.errors import InputError
from ndtool.models import make_spec
from ndtool.training.build import Network, bind, draw_tensors, forward

F64 = NDArray[np.float64]
FLOAT32 = 2e-5  # float32 against float64 over a dozen layers of values near 1

MODELS = [("ds-cnn", 1.0), ("mbv2", 0.35), ("mbv2-tiny", 0.35), ("mbv3", 0.35)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def convolution(x: F64, layer: Layer, weight: F64, bias: F64 | None) -> F64:
    """SAME from its definition: ceil(n / s) outputs, the odd pixel of padding at the end."""
    batch, _, *size = x.shape
    groups = layer.c_out if layer.op is LayerOp.DEPTHWISE else 1
    out_size = [math.ceil(n / layer.stride) for n in size]
    out = np.zeros((batch, layer.c_out, *out_size))
    before = [
        max((o - 1) * layer.stride + layer.kernel - n, 0) // 2
        for o, n in zip(out_size, size, strict=True)
    ]
    per_group = x.shape[1] // groups
    for c in range(layer.c_out):
        first = c * per_group if groups > 1 else 0
        for i, j in np.ndindex(*out_size):
            for ky, kx in np.ndindex(layer.kernel, layer.kernel):
                y = i * layer.stride + ky - before[0]
                z = j * layer.stride + kx - before[1]
                if 0 <= y < size[0] and 0 <= z < size[1]:
                    taps = x[:, first : first + per_group, y, z]
                    out[:, c, i, j] += taps @ weight[c, :, ky, kx]
    return out if bias is None else out + bias[:, None, None]


def activation(x: F64, act: Act) -> F64:
    gate = np.clip(x + 3, 0, 6) / 6
    table = {
        Act.NONE: x,
        Act.RELU: np.maximum(x, 0),
        Act.RELU6: np.clip(x, 0, 6),
        Act.HARD_SWISH: x * gate,
        Act.HARD_SIGMOID: gate,
    }
    return table[act]


def slow_forward(x: F64, spec: ArchSpec, tensors: dict[str, F64]) -> F64:
    """Eval mode in float64 numpy, layer by layer."""
    values = {INPUT: x}
    for layer in lower(spec):
        first, *rest = (values[name] for name in layer.inputs)
        weight, bias = (tensors.get(f"{layer.name}.{part}") for part in ("weight", "bias"))
        if layer.op in (LayerOp.CONV, LayerOp.DEPTHWISE):
            assert weight is not None
            out = convolution(first, layer, weight, bias)
        elif layer.op is LayerOp.LINEAR:
            assert weight is not None
            assert bias is not None
            out = first @ weight.T + bias
        elif layer.op is LayerOp.MEAN:
            out = first.mean((2, 3), keepdims=layer.keep_dims)
        else:
            out = first + rest[0] if layer.op is LayerOp.ADD else first * rest[0]
        if layer.bn:
            parts = ("weight", "bias", "running_mean", "running_var")
            names = [f"{layer.name}.bn.{part}" for part in parts]
            gamma, beta, mean, var = (tensors[name][:, None, None] for name in names)
            out = (out - mean) / np.sqrt(var + spec.bn_eps) * gamma + beta
        values[layer.name] = activation(out, layer.act)
    return values[lower(spec)[-1].name]


def with_random_norms(network: Network) -> Network:
    """Batch norms that are no identity."""
    gen = seeded(7)
    for name, tensor in network.named().items():
        if ".bn." in name:
            tensor.copy_(torch.rand(tensor.shape, generator=gen) + 0.5)
    return network.eval()


@pytest.mark.parametrize("spec", [nets.ds_spec(), nets.se_spec(), nets.se_spec(size_px=8)])
def test_forward_equals_slow_numpy(spec: ArchSpec) -> None:
    network = with_random_norms(Network(spec, seeded()))
    x = torch.rand(2, spec.in_channels, spec.height_px, spec.width_px, generator=seeded(1))
    tensors = {name: t.numpy().astype(np.float64) for name, t in network.named().items()}
    expected = slow_forward(x.numpy().astype(np.float64), spec, tensors)
    with torch.no_grad():
        assert np.abs(network(x).numpy() - expected).max() < FLOAT32 * np.abs(expected).max()


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from((1, 3, 5, 7)), st.sampled_from((1, 2)))
def test_same_padding_for_every_size(height: int, width: int, kernel: int, stride: int) -> None:
    block = Block(
        kind=BlockKind.SEPARABLE, kernel=kernel, stride=stride, mid=0, c_out=2, act=Act.NONE
    )
    spec = ArchSpec(
        model="one",
        width=1.0,
        height_px=height,
        width_px=width,
        in_channels=1,
        classes=2,
        stem=Stem(c_out=2, kernel=kernel, stride=stride, act=Act.NONE),
        blocks=(block,),
        head=Head(),
    )
    network = Network(spec, seeded()).eval()
    x = torch.rand(1, 1, height, width, generator=seeded(1))
    tensors = {name: t.numpy().astype(np.float64) for name, t in network.named().items()}
    expected = slow_forward(x.numpy().astype(np.float64), spec, tensors)
    with torch.no_grad():
        assert np.abs(network(x).numpy() - expected).max() < FLOAT32


@pytest.mark.parametrize(("model", "width"), MODELS)
@pytest.mark.parametrize("rate", [1, 3])
def test_parameters_are_those_counted(model: str, width: float, rate: int) -> None:
    spec = make_spec(model, width=width, size_px=32, in_channels=3, classes=10)
    shapes = tensor_shapes(lower(expand(spec, rate)))
    total = sum(math.prod(shape) for name, shape in shapes.items() if "running" not in name)
    assert total == count_parameters(expand(spec, rate))
    if rate == 1:
        assert sum(p.numel() for p in Network(spec).parameters()) == total


def test_state_dict_has_the_layers_names() -> None:
    network = Network(nets.se_spec())
    assert list(network.named()) == list(network.state_dict())
    assert set(network.state_dict()) == set(tensor_shapes(lower(nets.se_spec())))
    assert "blocks.1.se.gate.bias" in network.state_dict()
    assert not [name for name, _ in network.named_parameters() if "running" in name]


def test_load_named_copies_and_refuses_what_does_not_fit() -> None:
    source, target = (Network(nets.ds_spec(), seeded(k)) for k in (0, 1))
    target.load_named(source.named())
    assert all(torch.equal(t, target.named()[n]) for n, t in source.named().items())
    short = source.named()
    short.pop("stem.weight")
    for wrong in (short, source.named() | {"stem.weight": torch.zeros(1)}, {}):
        with pytest.raises(InputError, match="weights do not fit") as caught:
            target.load_named(wrong)
        assert caught.value.code == "train.tensors"


def test_initialisation_follows_the_generator_and_the_fan_in() -> None:
    layers = lower(make_spec("mbv3", width=0.35, size_px=32, in_channels=3, classes=10))
    drawn, again, other = (draw_tensors(layers, seeded(k)) for k in (0, 0, 1))
    assert all(torch.equal(drawn[n], again[n]) for n in drawn)
    assert not torch.equal(drawn["stem.weight"], other["stem.weight"])
    for name, tensor in drawn.items():
        if name.endswith((".bn.weight", "running_var")):
            assert torch.equal(tensor, torch.ones_like(tensor))
        elif tensor.dim() == 1:
            assert not tensor.any()
        elif tensor.dim() == 4:
            bound = 1 / math.sqrt(math.prod(tensor.shape[1:]))
            assert 0.8 * bound < tensor.abs().max() <= bound
        else:
            assert 0.018 < tensor.std() < 0.022


def test_batch_norm_momentum_is_a_tenth() -> None:
    spec = nets.ds_spec()
    tensors = draw_tensors(lower(spec), seeded())
    x = torch.rand(4, 1, 8, 8, generator=seeded(1))
    stem = bind(lower(spec), tensors)[:1]
    forward(x, stem, eps=spec.bn_eps, training=True)
    tensors["stem.bn.running_mean"].div_(0.1)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))  # 8 px, kernel 3, stride 2: one at the end
    raw = torch.nn.functional.conv2d(padded, tensors["stem.weight"], stride=2)
    assert torch.allclose(tensors["stem.bn.running_mean"], raw.mean((0, 2, 3)), atol=1e-6)
