"""A small int8 network of inverted residual and plain residual blocks on 33x33 pixels.

Made for what only chains show: widening and narrowing convolutions in place, a depthwise one over
its own input, sums that become part of a convolution.
"""

from dataclasses import replace

from int8_network import ONE, Network
from single_op import f32

from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    DepthwiseConv2D,
    Graph,
    PaddingKind,
    TensorId,
)


class Residual(Network):
    """Blocks of MobileNetV2 and of ResNet."""

    def depthwise(self, x: TensorId, kernel: int) -> TensorId:
        shape = self.tensors[x].shape
        weight, bias = self.weights(x, (1, kernel, kernel, shape[3]), 3, shape[3])
        return self.push(
            DepthwiseConv2D(
                x=x,
                weight=weight,
                bias=bias,
                out=self.activation(shape, (0.03, -100)),
                stride=ONE,
                dilation=ONE,
                padding=PaddingKind.SAME,
                act=Activation.RELU6,
                multiplier=1,
            )
        )

    def sum(self, a: TensorId, b: TensorId) -> TensorId:
        """a + b, whose scales differ so that neither can stand for the other."""
        self.tensors[a] = replace(self.tensors[a], scales=(f32(0.045),), zero_points=(-60,))
        out = self.activation(self.tensors[a].shape, (0.05, -90))
        return self.push(Binary(kind=BinaryKind.ADD, a=a, b=b, out=out, act=Activation.NONE))


def residual_network() -> Graph:
    n = Residual()
    size = (1, 33, 33)
    x = n.activation((*size, 5), (0.02, -3))
    stem = n.conv(x, 6, 3, size)
    deep = n.depthwise(n.conv(stem, 20, 1, size), 3)
    block = n.sum(n.conv(deep, 6, 1, size), stem)
    again = n.depthwise(n.conv(block, 40, 1, size), 5)
    narrow = n.conv(again, 6, 1, size)
    plain = n.sum(n.conv(n.conv(narrow, 6, 3, size), 6, 3, size), narrow)
    return Graph(tensors=tuple(n.tensors), ops=tuple(n.ops), inputs=(x,), outputs=(plain,))


def narrow_network() -> Graph:
    """One widening convolution: its arena is smallest when it walks down over its input."""
    n = Residual()
    x = n.activation((1, 9, 9, 2), (0.02, -3))
    wide = n.conv(x, 6, 3, (1, 9, 9))
    return Graph(tensors=tuple(n.tensors), ops=tuple(n.ops), inputs=(x,), outputs=(wide,))
