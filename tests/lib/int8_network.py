"""A small int8 network with most operations, without a lint finding: (1, 8, 8, 3) to 5 logits."""

import numpy as np
from single_op import Builder, f32

from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Mean,
    Op,
    PaddingKind,
    Pool2D,
    TensorId,
    Unary,
    UnaryKind,
)

PIXEL = (1 / 255, -128)
ONE = (1, 1)


class Network(Builder):
    """Appends operations; every layer has scales per channel unless told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.rng = np.random.default_rng(11)

    def push(self, op: Op) -> TensorId:
        self.ops.append(op)
        return op.out

    def weights(
        self, x: TensorId, shape: tuple[int, ...], axis: int, scales: int
    ) -> tuple[TensorId, TensorId]:
        values = self.rng.integers(-127, 128, shape)
        chosen = [f32(v) for v in self.rng.uniform(0.002, 0.004, scales)]
        bias = self.rng.integers(-2000, 2000, shape[axis])
        products = [float(np.float32(self.tensors[x].scale) * np.float32(s)) for s in chosen]
        return self.int8(values, chosen, axis), self.int32(bias, products)

    def conv(self, x: TensorId, c_out: int, kernel: int, out: tuple[int, ...], stride: int = 1):
        weight, bias = self.weights(x, (c_out, kernel, kernel, self.tensors[x].shape[3]), 0, c_out)
        return self.push(
            Conv2D(
                x=x,
                weight=weight,
                bias=bias,
                out=self.activation((*out, c_out), (0.03, -100)),
                stride=(stride, stride),
                dilation=ONE,
                padding=PaddingKind.SAME,
                act=Activation.NONE,
            )
        )


def network(fc_scales: int = 5) -> Graph:
    n = Network()
    x = n.activation((1, 8, 8, 3), PIXEL)
    stem = n.conv(x, 6, 3, (1, 4, 4), stride=2)
    swish = n.push(
        Unary(kind=UnaryKind.HARD_SWISH, x=stem, out=n.activation((1, 4, 4, 6), (0.025, -112)))
    )
    weight, bias = n.weights(swish, (1, 3, 3, 6), 3, 6)
    deep = n.push(
        DepthwiseConv2D(
            x=swish,
            weight=weight,
            bias=bias,
            out=n.activation((1, 4, 4, 6), (6 / 255, -128)),
            stride=ONE,
            dilation=ONE,
            padding=PaddingKind.SAME,
            act=Activation.RELU6,
            multiplier=1,
        )
    )
    squeezed = n.push(
        Mean(
            x=deep,
            axes_id=n.int32([1, 2]),
            out=n.activation((1, 1, 1, 6), (0.01, -128)),
            axes=(1, 2),
            keep_dims=True,
        )
    )
    gate = n.push(
        Unary(kind=UnaryKind.LOGISTIC, x=squeezed, out=n.activation((1, 1, 1, 6), (1 / 256, -128)))
    )
    gated = n.push(
        Binary(
            kind=BinaryKind.MUL,
            a=deep,
            b=gate,
            out=n.activation((1, 4, 4, 6), (0.015, -128)),
            act=Activation.NONE,
        )
    )
    total = n.push(
        Binary(
            kind=BinaryKind.ADD,
            a=gated,
            b=swish,
            out=n.activation((1, 4, 4, 6), (0.03, -110)),
            act=Activation.NONE,
        )
    )
    pools = [
        n.push(
            Pool2D(
                is_max=is_max,
                x=total,
                out=n.activation((1, 2, 2, 6), (0.03, -110)),
                kernel=(2, 2),
                stride=(2, 2),
                padding=PaddingKind.VALID,
                act=Activation.NONE,
            )
        )
        for is_max in (True, False)
    ]
    joined = n.push(Concat(xs=tuple(pools), out=n.activation((1, 2, 2, 12), (0.03, -110)), axis=3))
    pooled = n.push(
        Mean(
            x=joined,
            axes_id=n.int32([1, 2]),
            out=n.activation((1, 12), (0.02, -90)),
            axes=(1, 2),
            keep_dims=False,
        )
    )
    weight, bias = n.weights(pooled, (5, 12), 0, fc_scales)
    logits = n.push(
        FullyConnected(
            x=pooled,
            weight=weight,
            bias=bias,
            out=n.activation((1, 5), (0.02, 3)),
            act=Activation.NONE,
            keep_num_dims=False,
        )
    )
    return Graph(tensors=tuple(n.tensors), ops=tuple(n.ops), inputs=(x,), outputs=(logits,))
