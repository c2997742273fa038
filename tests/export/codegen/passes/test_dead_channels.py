"""Which constant channels go and which stay, case by case, with the numbers worked out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from dead_networks import Net, dead_network, differences, telling_images
from tflm import run_tflm

from ndtool.export.codegen.passes import dead_channels
from ndtool.export.codegen.passes.dead_channels import drop_dead_channels
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.codegen.program import Removed
from ndtool.export.int8 import derive, spec
from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Graph,
    PaddingKind,
    Softmax,
    TensorId,
)
from ndtool.export.tflite.writer import write_tflite

PAIR = (1.0, -128)  # out = clamp(-128 + accumulator) with scales 1


def dropped(graph: Graph) -> Passed:
    spec.verify(graph)
    passed = drop_dead_channels(Passed(graph=graph))
    spec.verify(passed.graph)
    assert differences(graph, passed, telling_images(graph)) == []
    return passed


def column(*weights: int) -> np.ndarray:
    """(c_out, 1, 1, 1): a 1x1 kernel of one input channel."""
    return np.array(weights, np.int8).reshape(-1, 1, 1, 1)


class Three(Net):
    """A first layer of three channels: the image, and the constants `values`."""

    def __init__(self, *values: int, channel_scales: bool = True) -> None:
        super().__init__(5)
        self.image = self.activation((1, 3, 3, 1), PAIR)
        bias = [0, *(v + 128 for v in values)]
        scales = (1.0,) * len(bias) if channel_scales else (1.0,)
        self.x = self.layer(
            self.image, column(1, *[0] * len(values)), bias, scales=scales, out=PAIR
        )

    def read(self, weight: object, bias: object | None, x: TensorId | None = None, **more):
        return self.layer(self.x if x is None else x, weight, bias, out=PAIR, **more)


def test_a_dead_channel_goes_and_its_constant_into_the_bias() -> None:
    n = Three(-128, -121)
    weight = np.array([[1, 50, 3], [2, 60, -4]], np.int8)[:, None, None]
    out = n.read(weight, [100, 200], scales=(0.5, 0.25))
    passed = dropped(n.graph(out))
    assert passed.removed == {n.x: Removed(live=(0,), constants={1: -128, 2: -121})}
    first, second = passed.graph.ops
    weights = [derive.int8_values(passed.graph.tensor(op.weight)) for op in (first, second)]
    biases = [derive.int32_values(passed.graph.tensor(op.bias)) for op in (first, second)]
    assert [w.ravel().tolist() for w in weights] == [[1], [1, 2]]
    # -121 is 7 above the zero point
    assert [b.tolist() for b in biases] == [[0], [100 + 3 * 7, 200 - 4 * 7]]
    assert passed.graph.tensor(n.x).shape == (1, 3, 3, 1)
    assert passed.graph.tensor(first.weight).scales == (1.0,)
    assert passed.graph.tensor(second.weight).scales == (0.5, 0.25)


def test_one_scale_for_all_channels_stays_one() -> None:
    n = Three(-128, channel_scales=False)
    passed = dropped(n.graph(n.read(np.ones((2, 1, 1, 2)), [0, 0], scales=(0.5,))))
    assert passed.removed[n.x].live == (0,)


def test_one_channel_is_always_kept() -> None:
    n = Net(0)
    image = n.activation((1, 3, 3, 1), PAIR)
    x = n.layer(image, column(0, 0, 0), [0, 5, 9], scales=(1.0,) * 3, out=PAIR)
    passed = dropped(n.graph(n.layer(x, np.ones((2, 1, 1, 3)), [0, 0])))
    assert passed.removed == {x: Removed(live=(0,), constants={1: -123, 2: -119})}


def test_graph_outputs_lose_nothing() -> None:
    n = Three(-128, -121)
    out = n.read(np.zeros((2, 1, 1, 3)), [5, 6])
    graph = n.graph(out)
    assert out not in dropped(graph).removed
    both = replace(graph, outputs=(out, n.x))
    assert dropped(both) == Passed(graph=both)


# ------------------------------------------------------------------------------------- padding

KERNEL = np.ones((2, 3, 3, 3), np.int8)
CENTRE = np.zeros((2, 3, 3, 3), np.int8)
CENTRE[:, 1, 1] = 1


@pytest.mark.parametrize(
    ("weight", "padding", "gone"),
    [
        (KERNEL, PaddingKind.SAME, {1}),  # -121 is not what padding means
        (KERNEL, PaddingKind.VALID, {1, 2}),
        (CENTRE, PaddingKind.SAME, {1, 2}),  # the taps that meet padding have no weight
    ],
)
def test_padding_reads_the_zero_point(
    weight: np.ndarray, padding: PaddingKind, gone: set[int]
) -> None:
    n = Three(-128, -121)
    passed = dropped(n.graph(n.read(weight, [0, 0], padding=padding, scales=(0.1,))))
    assert passed.removed[n.x].constants.keys() == gone


def test_a_layer_without_bias_has_no_place_for_a_constant() -> None:
    weight = np.ones((2, 1, 1, 3), np.int8)
    n = Three(-128, -121)
    assert dropped(n.graph(n.read(weight, None))).removed[n.x].constants == {1: -128}
    weight[..., 2] = 0
    n = Three(-128, -121)
    assert dropped(n.graph(n.read(weight, None))).removed[n.x].live == (0,)


# ----------------------------------------------------------------------------------- depthwise


def depthwise(n: Three, multiplier: int, **more: object) -> TensorId:
    channels = 3 * multiplier
    weight = np.arange(1, 9 * channels + 1).reshape(1, 3, 3, channels) % 7
    return n.read(weight, [0] * channels, multiplier=multiplier, scales=(0.01,), **more)


def test_a_depthwise_channel_goes_with_its_input() -> None:
    n = Three(-128, -121)
    deep = depthwise(n, 1)
    out = n.read(np.ones((2, 1, 1, 3)), [0, 0], deep)
    # at the borders -121 is not constant any more
    assert dropped(n.graph(out)).removed == {
        n.x: Removed(live=(0, 2), constants={1: -128}),
        deep: Removed(live=(0, 2), constants={1: -128}),
    }


def test_without_padding_it_takes_any_constant_along() -> None:
    n = Three(-128, -29)
    deep = depthwise(n, 2, padding=PaddingKind.VALID)
    passed = dropped(n.graph(n.read(np.ones((2, 1, 1, 6)), [0, 0], deep, scales=(0.1,))))
    assert passed.removed[n.x].live == (0,)
    assert passed.removed[deep].live == (0, 1)
    assert passed.removed[deep].constants.keys() == {2, 3, 4, 5}


def test_an_input_of_a_live_depthwise_channel_stays() -> None:
    """Channel 0 of 2 made from the image is dead: there is nothing to go with it."""
    n = Three(-128)
    weight = np.zeros((1, 1, 1, 4), np.int8)
    weight[..., 1] = 1
    deep = n.read(weight, [9, 0, 8, 7], multiplier=2, scales=(1.0,))
    passed = dropped(n.graph(n.read(np.ones((2, 1, 1, 4)), [0, 0], deep)))
    assert passed.removed[n.x].constants == {1: -128}
    assert passed.removed[deep].constants == {2: -120, 3: -121}


# -------------------------------------------------------------------------- layers on flat tensors


def test_fully_connected_over_pixels_takes_constants() -> None:
    n = Three(-121)
    weight = np.arange(1, 37).reshape(2, 18).astype(np.int8)  # of 9 pixels and 2 channels
    passed = dropped(n.graph(n.dense(n.x, weight, [0, 0], scales=(0.01, 0.01))))
    op = passed.graph.ops[-1]
    assert np.array_equal(derive.int8_values(passed.graph.tensor(op.weight)), weight[:, ::2])
    bias = derive.int32_values(passed.graph.tensor(op.bias))
    assert np.array_equal(bias, 7 * weight[:, 1::2].sum(axis=1))


def test_flattened_channels_stay_apart() -> None:
    n = Three(-121)
    flat = n.reshaped(n.x, (1, 18))
    passed = dropped(n.graph(n.dense(flat, np.ones((2, 18)), [0, 0], scales=(0.01,))))
    assert passed.removed[n.x].live == (0,)
    assert passed.removed[flat].live == tuple(range(0, 18, 2))
    assert passed.graph.tensor(flat).shape == (1, 9)


def mixed(n: Three) -> TensorId:
    return n.unary(n.reshaped(n.x, (1, 2, 3, 3)))


def softmax(n: Three) -> TensorId:
    out = n.activation(n.shape(n.x), (1 / 256, -128))
    return n.push(Softmax(x=n.x, out=out, beta=1.0))


def mean_over_channels(n: Three) -> TensorId:
    return n.mean(n.x, axes=(2, 3))


def more_channels(n: Three) -> TensorId:
    return n.pad(n.x, (1, 0))


def selected(n: Three) -> TensorId:
    return n.sliced(n.x)


def parted(n: Three) -> TensorId:
    return n.split(n.reshaped(n.x, (1, 1, 9, 2)))


@pytest.mark.parametrize(
    "mixing", [mixed, softmax, mean_over_channels, more_channels, selected, parted]
)
def test_what_mixes_or_selects_channels_keeps_them(mixing: Callable[[Three], TensorId]) -> None:
    n = Three(-121)
    graph = n.graph(mixing(n))
    assert dropped(graph) == Passed(graph=graph)


def test_an_unscaled_bias_keeps_the_outputs_of_a_dense_layer() -> None:
    """One weight scale left would be TFLM's older kernel, which checks the bias scale."""
    n = Three(-121)
    x = n.dense(n.mean(n.x), [[1, 1], [0, 0]], [0, 5], scales=(0.9, 0.9), out=PAIR)
    graph = n.graph(n.dense(x, np.ones((2, 2)), [0, 0]))
    assert x in dropped(graph).removed
    bias = graph.ops[-2].bias
    tensors = list(graph.tensors)
    tensors[bias] = replace(tensors[bias], scales=(), zero_points=())
    assert x not in dropped(replace(graph, tensors=tuple(tensors))).removed


# ----------------------------------------------------------------------------------- two operands


def added(n: Three, other: TensorId) -> Passed:
    out = n.activation(n.shape(n.x), (2.0, -128))
    n.push(Binary(kind=BinaryKind.ADD, a=n.x, b=other, out=out, act=Activation.NONE))
    return dropped(n.graph(n.read(np.ones((2, 1, 1, 2)), [0, 0], out)))


def test_both_operands_lose_a_channel_or_none() -> None:
    n = Three(-121)
    live = n.layer(n.image, column(1, 1), [0, 0], scales=(1.0, 1.0), out=PAIR)
    assert added(n, live).removed == {}
    n = Three(-121)
    dead = n.layer(n.image, column(1, 0), [0, 9], scales=(1.0, 1.0), out=PAIR)
    passed = added(n, dead)
    assert [r.constants.keys() for r in passed.removed.values()] == [{1}, {1}, {1}]


@pytest.mark.parametrize("shape", [(2,), (1, 1, 1, 2), (1, 3, 3, 2), (1,), ()])
def test_a_constant_operand_is_cut(shape: tuple[int, ...]) -> None:
    n = Three(-121)
    values = np.resize([1, 2], shape).astype(np.int8)
    passed = added(n, n.int8(values, (1.0,)))
    constant = passed.graph.tensor(passed.graph.ops[1].b)
    assert constant.shape == (*shape[:-1], 1 if shape else 0)[: len(shape)]
    assert set(derive.int8_values(constant).ravel().tolist()) == {1}


# ------------------------------------------------------------------------------------- the whole


def test_layers_that_share_constants_are_cut_apart() -> None:
    n = Three(-121)
    weight = np.ones((2, 1, 1, 2), np.int8)
    first = n.read(weight, [0, 0])
    second = n.layer(n.image, column(1, 2), [0, 0], out=PAIR)
    graph = n.graph(first, n.read(weight, [0, 0], second))
    shared = replace(graph.ops[-1], weight=graph.ops[1].weight, bias=graph.ops[1].bias)
    graph = replace(graph, ops=(*graph.ops[:-1], shared))
    passed = dropped(graph)
    assert passed.graph.ops[-1] == shared
    assert passed.graph.ops[1].weight != shared.weight
    assert passed.graph.tensor(shared.weight) == graph.tensor(shared.weight)


def test_a_crafted_number_of_channels_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    n = Three(-128, -121)
    graph = n.graph(n.read(np.ones((2, 1, 1, 3)), [0, 0]))
    monkeypatch.setattr(dead_channels, "MAX_CHANNELS", 1 + 3 + 2)
    assert dropped(graph).removed
    monkeypatch.setattr(dead_channels, "MAX_CHANNELS", 1 + 3 + 1)
    assert dropped(graph) == Passed(graph=graph)


@pytest.mark.parametrize("seed", [1, 3, 8, 9, 11, 12])
def test_tflite_micro_computes_the_same_from_what_is_left(seed: int) -> None:
    graph = dead_network(seed)
    passed = dropped(graph)
    assert passed.removed
    images = telling_images(graph, seed, count=3)
    before, after = (
        run_tflm(write_tflite(g, description=""), images, outputs=len(g.outputs))
        for g in (graph, passed.graph)
    )
    for a, b in zip(before, after, strict=True):
        assert np.array_equal(a, b)
