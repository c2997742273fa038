"""Small int8 networks that `kernel_costs.py` measures: single kernels, and chains of many.

Weights and inputs are random; scales are such that outputs use most of int8's range, as trained
networks do. Shapes are spread over what networks for microcontrollers have, odd ones included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ndtool.contract import Contract
from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    DType,
    FullyConnected,
    Graph,
    Mean,
    Op,
    Pad,
    PaddingKind,
    Pool2D,
    Reshape,
    ResizeNearest,
    Softmax,
    Split,
    StridedSlice,
    Tensor,
    TensorId,
    Unary,
    UnaryKind,
)
from ndtool.quant.kernels import Window
from ndtool.quant.pixels import input_quantization

SEED = 1
SCALE = float(np.float32(0.02))  # of activations: -128..127 is about -2.5..2.5
WEIGHT_SCALE = float(np.float32(0.005))
SPREAD = 73.0  # standard deviation of a uniformly random int8
RELU_ZERO = -128

Shape = tuple[int, int, int]


@dataclass
class Net:
    """A network in the making; each method appends an operation and gives its output."""

    tensors: list[Tensor] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    inputs: list[TensorId] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(SEED))

    def image(self, shape: Sequence[int], contract: Contract | None = None) -> TensorId:
        """An input of the network; of a contract, as that quantises it."""
        scale, zero = (SCALE, 0) if contract is None else input_quantization(contract)
        x = self._activation((1, *shape), scale, zero)
        self.inputs.append(x)
        return x

    def conv(
        self,
        x: TensorId,
        c_out: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        dilation: int = 1,
    ) -> TensorId:
        """SAME convolution and RELU."""
        c_in = self.shape(x)[3]
        sizes = self._sizes(x, kernel, stride, dilation)
        weight, bias, scale = self._weights(x, (c_out, *kernel, c_in), 0)
        out = self._activation((1, *sizes, c_out), scale, RELU_ZERO)
        return self._layer(
            Conv2D(
                x=x,
                weight=weight,
                bias=bias,
                out=out,
                stride=(stride, stride),
                dilation=(dilation, dilation),
                padding=PaddingKind.SAME,
                act=Activation.RELU,
            )
        )

    def depthwise(
        self,
        x: TensorId,
        kernel: tuple[int, int] = (3, 3),
        stride: int = 1,
        dilation: int = 1,
        multiplier: int = 1,
    ) -> TensorId:
        """SAME depthwise convolution and RELU."""
        sizes, c_out = self._sizes(x, kernel, stride, dilation), self.shape(x)[3] * multiplier
        weight, bias, scale = self._weights(x, (1, *kernel, c_out), 3)
        out = self._activation((1, *sizes, c_out), scale, RELU_ZERO)
        return self._layer(
            DepthwiseConv2D(
                x=x,
                weight=weight,
                bias=bias,
                out=out,
                stride=(stride, stride),
                dilation=(dilation, dilation),
                padding=PaddingKind.SAME,
                act=Activation.RELU,
                multiplier=multiplier,
            )
        )

    def dense(self, x: TensorId, c_out: int) -> TensorId:
        """A fully connected layer of all of `x`."""
        n = int(np.prod(self.shape(x)))
        if len(self.shape(x)) != 2:
            flat = self._like(x, (1, n))
            x = self._layer(Reshape(x=x, shape_id=None, out=flat))
        weight, bias, scale = self._weights(x, (c_out, n), 0)
        out = self._activation((1, c_out), scale)
        act = Activation.NONE
        return self._layer(
            FullyConnected(x=x, weight=weight, bias=bias, out=out, act=act, keep_num_dims=False)
        )

    def binary(self, kind: BinaryKind, a: TensorId, b: TensorId) -> TensorId:
        """Of two activations, broadcast."""
        shape = np.broadcast_shapes(self.shape(a), self.shape(b))
        scales = self.tensors[a].scale, self.tensors[b].scale
        scale = 64 * scales[0] * scales[1] if kind is BinaryKind.MUL else sum(scales)
        out = self._activation(shape, scale)
        return self._layer(Binary(kind=kind, a=a, b=b, out=out, act=Activation.NONE))

    def pool(
        self, x: TensorId, kernel: Sequence[int], stride: int, *, is_max: bool, same: bool = False
    ) -> TensorId:
        """A pool of either kind."""
        sizes = self._sizes(x, kernel, stride, 1, same=same)
        return self._layer(
            Pool2D(
                is_max=is_max,
                x=x,
                out=self._like(x, (1, *sizes, self.shape(x)[3])),
                kernel=(kernel[0], kernel[1]),
                stride=(stride, stride),
                padding=PaddingKind.SAME if same else PaddingKind.VALID,
                act=Activation.NONE,
            )
        )

    def mean(self, x: TensorId, axes: tuple[int, ...] = (1, 2)) -> TensorId:
        """Dimensions stay, with one element."""
        shape = [1 if i in axes else n for i, n in enumerate(self.shape(x))]
        out = self._activation(shape, SCALE / 4)
        op = Mean(x=x, axes_id=self._numbers(axes), out=out, axes=axes, keep_dims=True)
        return self._layer(op)

    def pad(self, x: TensorId, paddings: Sequence[tuple[int, int]]) -> TensorId:
        """Of each dimension but the first."""
        pairs = ((0, 0), *paddings)
        shape = [n + p + q for n, (p, q) in zip(self.shape(x), pairs, strict=True)]
        out = self._like(x, shape)
        return self._layer(Pad(x=x, paddings_id=self._numbers(pairs), out=out, paddings=pairs))

    def concat(self, xs: Sequence[TensorId], axis: int = 3) -> TensorId:
        """Of equal sizes but along `axis`."""
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        return self._layer(Concat(xs=tuple(xs), out=self._like(xs[0], shape), axis=axis))

    def split(self, x: TensorId, parts: int, axis: int = 3) -> tuple[TensorId, ...]:
        """Equal parts along `axis`."""
        shape = list(self.shape(x))
        shape[axis] //= parts
        outs = tuple(self._like(x, shape) for _ in range(parts))
        self.ops.append(Split(x=x, axis_id=self._numbers(axis), outs=outs, axis=axis))
        return outs

    def slice(self, x: TensorId, strides: Sequence[int]) -> TensorId:
        """Every `strides`-th element of each dimension."""
        shape = self.shape(x)
        sizes = tuple(-(-n // step) for n, step in zip(shape, strides, strict=True))
        constants = (
            self._numbers((0,) * len(shape)),
            self._numbers(shape),
            self._numbers(strides),
        )
        op = StridedSlice(
            x=x,
            constants=constants,
            out=self._like(x, sizes),
            begin=(0,) * len(shape),
            strides=tuple(strides),
            sizes=sizes,
        )
        return self._layer(op)

    def resize(self, x: TensorId, size: tuple[int, int]) -> TensorId:
        """To the nearest pixels."""
        out = self._like(x, (1, *size, self.shape(x)[3]))
        op = ResizeNearest(
            x=x,
            size_id=self._numbers(size),
            out=out,
            align_corners=False,
            half_pixel_centers=False,
        )
        return self._layer(op)

    def softmax(self, x: TensorId) -> TensorId:
        """Over the last axis."""
        out = self._activation(self.shape(x), 1 / 256, -128)
        return self._layer(Softmax(x=x, out=out, beta=1.0))

    def table(self, x: TensorId) -> TensorId:
        """HARD_SWISH."""
        return self._layer(Unary(kind=UnaryKind.HARD_SWISH, x=x, out=self._like(x, self.shape(x))))

    def done(self, *outputs: TensorId) -> Graph:
        """The network."""
        return Graph(
            tensors=tuple(self.tensors),
            ops=tuple(self.ops),
            inputs=tuple(self.inputs),
            outputs=outputs,
        )

    def shape(self, x: TensorId) -> tuple[int, ...]:
        """Of a tensor."""
        return self.tensors[x].shape

    def _layer(self, op: Op) -> TensorId:
        assert not isinstance(op, Split)
        self.ops.append(op)
        return op.out

    def _add(self, **fields: object) -> TensorId:
        name = f"t{len(self.tensors)}"
        self.tensors.append(Tensor(name=name, **fields))  # type: ignore[arg-type]
        return TensorId(len(self.tensors) - 1)

    def _activation(self, shape: Sequence[int], scale: float = SCALE, zero: int = 0) -> TensorId:
        scales = (float(np.float32(scale)),)
        return self._add(shape=tuple(shape), dtype=DType.INT8, scales=scales, zero_points=(zero,))

    def _like(self, x: TensorId, shape: Sequence[int]) -> TensorId:
        tensor = self.tensors[x]
        return self._activation(shape, tensor.scale, tensor.zero_point)

    def _numbers(self, values: object) -> TensorId:
        array = np.asarray(values, "<i4")
        return self._add(shape=array.shape, dtype=DType.INT32, data=array.tobytes())

    def _weights(
        self, x: TensorId, shape: tuple[int, ...], axis: int
    ) -> tuple[TensorId, TensorId, float]:
        """(weights, biases, output scale) of a layer: its sums fill int8 after the scale."""
        c_out = shape[axis]
        drawn = (WEIGHT_SCALE * self.rng.uniform(0.5, 1, c_out)).astype(np.float32)
        values = self.rng.integers(-127, 128, shape).astype(np.int8)
        weight = self._add(
            shape=shape,
            dtype=DType.INT8,
            scales=tuple(map(float, drawn)),
            zero_points=(0,) * c_out,
            quantized_dim=axis,
            data=values.tobytes(),
        )
        k, scale = values.size // c_out, self.tensors[x].scale
        deviation = SPREAD * SPREAD * np.sqrt(k)
        bias = self._add(
            shape=(c_out,),
            dtype=DType.INT32,
            scales=tuple(map(float, np.float32(scale) * drawn)),
            zero_points=(0,) * c_out,
            data=self.rng.normal(0, deviation / 4, c_out).astype("<i4").tobytes(),
        )
        return weight, bias, scale * WEIGHT_SCALE * float(deviation) / 50

    def _sizes(
        self, x: TensorId, kernel: Sequence[int], stride: int, dilation: int, *, same: bool = True
    ) -> list[int]:
        pairs = zip(kernel, self.shape(x)[1:3], strict=True)
        return [Window(k, stride, dilation, same).output(n) for k, n in pairs]


# -- single kernels --------------------------------------------------------------------------------


def kernel_cases() -> Iterator[tuple[str, str, Graph]]:
    """(name, kernel, network whose calls are all of that kernel)."""
    for kernel, graphs in _GRIDS.items():
        for index, graph in enumerate(graphs()):
            yield f"{kernel}.{index}", kernel, graph


def _pointwise(*, with_sum: bool) -> Iterator[Graph]:
    for *shape, c_out in (
        (8, 8, 16, 32),
        (5, 5, 3, 8),
        (6, 6, 7, 5),
        (12, 12, 8, 48),
        (4, 4, 96, 24),
        (16, 16, 4, 4),
        (7, 7, 33, 10),
        (2, 2, 128, 17),
        (10, 10, 24, 40),
        (3, 3, 64, 64),
        (1, 2, 12, 96),
        (9, 1, 20, 1),
        (20, 20, 1, 6),
    ):
        net = Net()
        x = net.image(shape)
        other = net.image((*shape[:2], c_out)) if with_sum else None
        made = net.conv(x, c_out)
        yield net.done(made if other is None else net.binary(BinaryKind.ADD, made, other))


def _conv(*, with_sum: bool) -> Iterator[Graph]:
    for shape, c_out, kernel, stride, dilation in (
        ((16, 16, 3), 8, (3, 3), 2, 1),
        ((17, 15, 3), 16, (3, 3), 2, 1),
        ((12, 12, 1), 16, (3, 3), 1, 1),
        ((8, 8, 8), 8, (3, 3), 1, 1),
        ((8, 8, 16), 16, (3, 3), 2, 1),
        ((9, 9, 3), 16, (5, 5), 2, 1),
        ((25, 10, 1), 32, (10, 4), 2, 1),
        ((10, 10, 4), 6, (3, 1), 1, 1),
        ((8, 8, 16), 32, (1, 1), 2, 1),
        ((10, 10, 3), 8, (3, 3), 1, 2),
        ((7, 9, 5), 7, (3, 3), 1, 1),
        ((24, 24, 3), 4, (3, 3), 2, 1),
        ((6, 6, 32), 12, (3, 3), 1, 1),
        ((12, 6, 2), 3, (1, 5), 1, 1),
        ((16, 16, 1), 1, (3, 3), 1, 1),
        ((3, 3, 24), 24, (3, 3), 1, 1),
        ((10, 10, 6), 5, (3, 3), 3, 1),
        ((9, 9, 4), 4, (3, 3), 1, 3),
    ):
        net = Net()
        x = net.image(shape)
        rows, columns = (
            Window(kernel[i], stride, dilation, same=True).output(shape[i]) for i in (0, 1)
        )
        other = net.image((rows, columns, c_out)) if with_sum else None
        made = net.conv(x, c_out, kernel, stride, dilation)
        yield net.done(made if other is None else net.binary(BinaryKind.ADD, made, other))


def _depthwise() -> Iterator[Graph]:
    for shape, kernel, stride, dilation, multiplier in (
        ((8, 8, 16), 3, 1, 1, 1),
        ((16, 16, 8), 3, 1, 1, 1),
        ((48, 48, 4), 3, 1, 1, 1),
        ((48, 48, 4), 3, 2, 1, 1),
        ((24, 24, 6), 3, 2, 1, 1),
        ((12, 12, 24), 3, 2, 1, 1),
        ((3, 3, 96), 3, 1, 1, 1),
        ((6, 6, 48), 3, 2, 1, 1),
        ((25, 5, 16), 3, 1, 1, 1),
        ((7, 9, 5), 3, 1, 1, 1),
        ((8, 8, 3), 3, 1, 1, 2),
        ((8, 8, 1), 3, 2, 1, 8),
        ((16, 16, 4), 3, 1, 2, 1),
        ((12, 12, 8), 5, 1, 1, 1),
        ((24, 24, 4), 5, 2, 1, 1),
        ((6, 6, 24), 5, 1, 1, 1),
        ((3, 3, 40), 5, 1, 1, 1),
        ((12, 12, 8), 7, 1, 1, 1),
        ((20, 20, 3), 7, 2, 1, 1),
        ((6, 6, 16), 7, 1, 1, 1),
        ((80, 60, 2), 3, 1, 1, 1),
        ((64, 64, 2), 5, 2, 1, 1),
        ((10, 10, 4), 2, 1, 1, 2),
        ((4, 4, 64), 4, 1, 1, 1),
        ((1, 30, 8), 3, 1, 1, 1),
        ((10, 11, 8), 3, 3, 1, 1),
    ):
        net = Net()
        x = net.image(shape)
        yield net.done(net.depthwise(x, (kernel, kernel), stride, dilation, multiplier))


def _dense() -> Iterator[Graph]:
    for n, c_out in ((16, 10), (64, 10), (256, 64), (1024, 5), (100, 1), (33, 12), (8, 100)):
        net = Net()
        yield net.done(net.dense(net.image((n,)), c_out))


def _binary(kind: BinaryKind) -> Iterator[Graph]:
    for a, b in (
        ((8, 8, 16), (8, 8, 16)),
        ((5, 5, 3), (5, 5, 3)),
        ((12, 12, 24), (1, 1, 24)),
        ((24, 24, 4), (1, 1, 4)),
        ((6, 6, 72), (1, 1, 72)),
        ((16, 16, 8), (1, 1, 1)),
        ((10, 10, 5), (10, 10, 1)),
        ((3, 3, 96), (3, 3, 96)),
    ):
        net = Net()
        yield net.done(net.binary(kind, net.image(a), net.image(b)))


def _pool(*, is_max: bool) -> Iterator[Graph]:
    for shape, kernel, stride, same in (
        ((8, 8, 16), (2, 2), 2, False),
        ((12, 12, 6), (3, 3), 2, True),
        ((3, 3, 128), (3, 3), 1, False),
        ((7, 7, 40), (7, 7), 7, False),
        ((25, 5, 32), (25, 5), 1, False),
        ((10, 10, 1), (2, 2), 2, True),
        ((9, 9, 12), (3, 3), 1, True),
        ((20, 20, 4), (1, 4), 4, False),
    ):
        net = Net()
        yield net.done(net.pool(net.image(shape), kernel, stride, is_max=is_max, same=same))


def _mean() -> Iterator[Graph]:
    for shape, axes in (
        ((3, 3, 128), (1, 2)),
        ((7, 7, 40), (1, 2)),
        ((12, 12, 16), (1, 2)),
        ((24, 24, 8), (1, 2)),
        ((1, 1, 64), (1, 2)),
        ((6, 6, 72), (1, 2)),
        ((8, 9, 10), (1,)),
        ((8, 9, 10), (3,)),
        ((5, 20, 6), (2,)),
        ((8, 9, 10), (1, 3)),
        ((4, 6, 12), (1, 3)),
    ):
        net = Net()
        yield net.done(net.mean(net.image(shape), axes))


def _pad() -> Iterator[Graph]:
    for shape, paddings in (
        ((8, 8, 16), ((1, 1), (1, 1), (0, 0))),
        ((12, 12, 3), ((0, 1), (0, 1), (0, 0))),
        ((24, 24, 1), ((2, 2), (2, 2), (0, 0))),
        ((6, 6, 8), ((0, 0), (0, 0), (0, 8))),
        ((9, 5, 5), ((1, 0), (3, 0), (1, 2))),
        ((4, 4, 40), ((3, 3), (0, 0), (0, 0))),
        ((5, 7, 30), ((1, 1), (0, 2), (0, 0))),
        ((10, 4, 6), ((0, 0), (2, 2), (1, 0))),
    ):
        net = Net()
        yield net.done(net.pad(net.image(shape), paddings))


def _copy() -> Iterator[Graph]:
    for shape, parts, axis in (
        ((8, 8, 16), 2, 3),
        ((5, 5, 9), 3, 3),
        ((12, 12, 4), 4, 1),
        ((3, 3, 64), 2, 3),
        ((10, 6, 7), 2, 2),
        ((4, 4, 66), 2, 3),
        ((200,), 2, 1),
        ((6, 6, 10), 2, 3),
        ((16, 16, 12), 2, 3),
    ):
        net = Net()
        yield net.done(net.concat(net.split(net.image(shape), parts, axis), axis))


def _slice() -> Iterator[Graph]:
    for shape, strides in (
        ((8, 8, 16), (1, 1, 2, 1)),
        ((12, 12, 3), (1, 2, 2, 1)),
        ((9, 9, 12), (1, 1, 1, 2)),
        ((16, 16, 4), (1, 1, 1, 3)),
        ((24, 10, 5), (1, 3, 1, 1)),
        ((5, 5, 40), (1, 2, 1, 4)),
        ((30, 6, 1), (1, 1, 5, 1)),
        ((6, 6, 33), (1, 2, 1, 1)),
        ((4, 8, 20), (1, 1, 3, 1)),
        ((7, 7, 2), (1, 1, 2, 1)),
        ((12, 8, 8), (1, 2, 2, 1)),
        ((6, 10, 18), (1, 1, 2, 1)),
    ):
        net = Net()
        yield net.done(net.slice(net.image(shape), strides))


def _resize() -> Iterator[Graph]:
    for shape, size in (
        ((4, 4, 16), (8, 8)),
        ((3, 5, 3), (9, 10)),
        ((6, 6, 1), (12, 12)),
        ((2, 2, 64), (7, 7)),
        ((10, 10, 6), (5, 5)),
        ((1, 1, 32), (6, 4)),
        ((3, 3, 10), (6, 6)),
        ((2, 3, 21), (4, 5)),
    ):
        net = Net()
        yield net.done(net.resize(net.image(shape), size))


def _softmax() -> Iterator[Graph]:
    for shape in ((2,), (3,), (5,), (10,), (12,), (35,), (100,), (6, 4), (3, 20)):
        net = Net()
        yield net.done(net.softmax(net.image(shape)))


def _table() -> Iterator[Graph]:
    for shape in ((10,), (8, 8, 16), (5, 5, 3), (12, 12, 24), (1, 1, 72)):
        net = Net()
        yield net.done(net.table(net.image(shape)))


_GRIDS = {
    "nd_add_s8": lambda: _binary(BinaryKind.ADD),
    "nd_average_pool_s8": lambda: _pool(is_max=False),
    "nd_conv_add_s8": lambda: _conv(with_sum=True),
    "nd_conv_s8": lambda: _conv(with_sum=False),
    "nd_copy_s8": _copy,
    "nd_depthwise_s8": _depthwise,
    "nd_fully_connected_s8": _dense,
    "nd_max_pool_s8": lambda: _pool(is_max=True),
    "nd_mean_s8": _mean,
    "nd_mul_s8": lambda: _binary(BinaryKind.MUL),
    "nd_pad_s8": _pad,
    "nd_pointwise_add_s8": lambda: _pointwise(with_sum=True),
    "nd_pointwise_s8": lambda: _pointwise(with_sum=False),
    "nd_resize_nearest_s8": _resize,
    "nd_slice_s8": _slice,
    "nd_softmax_s8": _softmax,
    "nd_table_s8": _table,
}


# -- chains ----------------------------------------------------------------------------------------


def chain_cases() -> Iterator[tuple[str, Graph]]:
    """(name, network of up to some dozens of calls), for the size of what calls the kernels."""
    for index, (blocks, side, width) in enumerate(
        ((0, 8, 4), (1, 8, 8), (2, 16, 8), (3, 16, 5), (4, 24, 8), (6, 24, 6), (8, 32, 8))
    ):
        for name, family in (("separable", separable), ("residual", _residual), ("gated", _gated)):
            yield f"{name}.{index}", family(blocks, side, width)


def separable(blocks: int, side: int, width: int, contract: Contract | None = None) -> Graph:
    """Depthwise and pointwise convolutions, a mean, five classes."""
    net = Net()
    x = net.conv(net.image((side, side, 3), contract), width, (3, 3), 2)
    for index in range(blocks):
        x = net.conv(net.depthwise(x, stride=1 + index % 2), width + 2 * index)
    return net.done(net.softmax(net.dense(net.mean(x), 5)))


def _residual(blocks: int, side: int, width: int) -> Graph:
    net = Net()
    x = net.conv(net.image((side, side, 1)), width, (3, 3))
    for index in range(blocks):
        inner = net.conv(net.depthwise(net.conv(x, 2 * width), (5, 5)), width)
        x = net.binary(BinaryKind.ADD, inner, x)
        if index % 3 == 2:
            x = net.binary(BinaryKind.ADD, net.conv(x, width, (3, 3)), x)
    return net.done(net.dense(net.pool(x, (2, 2), 2, is_max=True), 10))


def _gated(blocks: int, side: int, width: int) -> Graph:
    net = Net()
    x = net.table(net.conv(net.image((side, side, 3)), width, (3, 3), 2))
    for index in range(blocks):
        gate = net.table(net.conv(net.conv(net.mean(x), 3), width))
        x = net.binary(BinaryKind.MUL, x, gate)
        if index % 2:
            x = net.pool(net.concat(net.split(x, 1)), (3, 3), 1, is_max=False, same=True)
    return net.done(net.dense(x, 4))
