"""PAD goes into the convolution that alone reads it, and stays everywhere else."""

from __future__ import annotations

import numpy as np
import pytest
from dead_networks import Net, differences, telling_images

from ndtool.export.codegen.passes import padding
from ndtool.export.codegen.passes.padding import fold_pad
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.int8 import spec
from ndtool.export.int8.ir import Graph, Pad, Padding, PaddingKind, Pads, TensorId
from ndtool.quant.kernels import Window

SIDES = ((0, 0), (1, 2), (3, 0), (0, 0))  # top, bottom; left, right


class Image(Net):
    def __init__(self) -> None:
        super().__init__(3)
        self.x = self.activation((1, 5, 6, 2), (0.1, 17))

    def conv(
        self, x: TensorId, own: Padding = PaddingKind.VALID, *, multiplier: int = 0
    ) -> TensorId:
        shape = (1, 3, 3, 2) if multiplier else (4, 3, 3, 2)
        windows = [Window(3, 2, 1, same=False), Window(3, 1, 1, same=False)]
        return self.layer(
            x,
            self.rng.integers(-128, 128, shape),
            self.rng.integers(-99, 99, shape[3 if multiplier else 0]),
            scales=(0.01,),
            out=(0.2, 3),
            windows=windows,
            padding=own,
            multiplier=multiplier,
        )


def folded(graph: Graph) -> Passed:
    spec.verify(graph)
    passed = fold_pad(Passed(graph=graph))
    spec.verify(passed.graph)
    assert differences(graph, passed, telling_images(graph)) == []
    return passed


@pytest.mark.parametrize("multiplier", [0, 1])
@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (PaddingKind.VALID, Pads(top=1, bottom=2, left=3, right=0)),
        # of the padded 8x9: stride 2 on 8 rows adds one at the end, stride 1 on 9 one on each side
        (PaddingKind.SAME, Pads(top=1, bottom=3, left=4, right=1)),
        (
            Pads(top=1, bottom=0, left=0, right=2),
            Pads(top=2, bottom=2, left=3, right=2),
        ),
    ],
)
def test_padding_is_added_to_the_convolutions_own(
    own: Padding, expected: Pads, multiplier: int
) -> None:
    n = Image()
    wide = n.pad_by(n.x, SIDES)
    graph = n.graph(n.conv(wide, own, multiplier=multiplier))
    passed = folded(graph)
    (op,) = passed.graph.ops
    assert (op.x, op.padding) == (n.x, expected)
    assert passed.fused == {wide}
    assert passed.graph.tensors == graph.tensors


def test_two_pads_in_a_row_both_go() -> None:
    n = Image()
    first = n.pad_by(n.x, SIDES)
    second = n.pad_by(first, SIDES)
    passed = folded(n.graph(n.conv(second)))
    (op,) = passed.graph.ops
    assert op.padding == Pads(top=2, bottom=4, left=6, right=0)
    assert passed.fused == {first, second}


def two_readers(n: Image) -> Graph:
    wide = n.pad_by(n.x, SIDES)
    return n.graph(n.conv(wide), n.conv(wide))


def an_output(n: Image) -> Graph:
    wide = n.pad_by(n.x, SIDES)
    return n.graph(n.conv(wide), wide)


def a_pool(n: Image) -> Graph:
    return n.graph(n.pool(n.pad_by(n.x, SIDES)))


def channels(n: Image) -> Graph:
    wide = n.pad_by(n.x, (*SIDES[:3], (1, 0)))
    weight = n.rng.integers(-128, 128, (2, 1, 1, 3))
    return n.graph(n.layer(wide, weight, [0, 0]))


def five_dimensions(n: Image) -> Graph:
    deep = n.reshaped(n.x, (1, 5, 3, 2, 2))
    wide = n.pad_by(deep, ((0, 0), (1, 0), (1, 0), (0, 0), (0, 0)))
    return n.graph(n.conv(n.reshaped(wide, (1, 6, 8, 2))), n.unary(wide))


def a_flat_layer(n: Image) -> Graph:
    wide = n.pad_by(n.x, SIDES)
    return n.graph(n.dense(wide, np.ones((2, 8 * 9 * 2)), [0, 0], scales=(0.01,)))


def nobody(n: Image) -> Graph:
    n.pad_by(n.x, SIDES)
    return n.graph(n.conv(n.x))


@pytest.mark.parametrize(
    "made", [two_readers, an_output, a_pool, channels, five_dimensions, a_flat_layer, nobody]
)
def test_a_pad_stays_for(made) -> None:
    graph = made(Image())
    assert folded(graph) == Passed(graph=graph)
    assert any(isinstance(op, Pad) for op in graph.ops)


def test_padding_beyond_the_spec_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    n = Image()
    graph = n.graph(n.conv(n.pad_by(n.x, SIDES)))
    monkeypatch.setattr(padding, "MAX_STEP", 3)
    assert folded(graph).fused
    monkeypatch.setattr(padding, "MAX_STEP", 2)
    assert folded(graph) == Passed(graph=graph)
