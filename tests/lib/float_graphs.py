"""Small float graphs of any operation, and the ranges of their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from float_eval import evaluate
from numpy.typing import NDArray

from ndtool.export.graph import ir
from ndtool.quant.kernels import Window

F32 = NDArray[np.float32]
NO_PADDING = ir.Padding(top=0, left=0, bottom=0, right=0)


def same_padding(
    shape: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> ir.Padding:
    """TensorFlow's SAME for an image (1, h, w, c)."""
    top, bottom = Window(kernel[0], stride[0], dilation[0], same=True).padding(shape[1])
    left, right = Window(kernel[1], stride[1], dilation[1], same=True).padding(shape[2])
    return ir.Padding(top=top, left=left, bottom=bottom, right=right)


@dataclass
class Maker:
    """Appends operations to a graph; each method returns the name of what it made."""

    seed: int = 0
    tensors: dict[str, ir.FloatTensor] = field(default_factory=dict)
    ops: list[ir.FloatOp] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def input(self, *shape: int) -> str:
        self.inputs.append(self.tensor("x", shape))
        return self.inputs[-1]

    def tensor(self, kind: str, shape: Sequence[int], data: F32 | None = None) -> str:
        name = f"{kind}{len(self.tensors)}"
        self.tensors[name] = ir.FloatTensor(name, tuple(shape), data, source=f"onnx/{name}")
        return name

    def constant(self, values: NDArray[np.floating]) -> str:
        data = np.array(values, np.float32)
        data.flags.writeable = False
        return self.tensor("constant", data.shape, data)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def conv(
        self,
        x: str,
        c_out: int,
        kernel: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        act: ir.Fused = ir.Fused.NONE,
        *,
        depthwise: bool = False,
        padding: ir.Padding | None = None,
        weight: NDArray[np.floating] | None = None,
        bias: NDArray[np.floating] | None = None,
    ) -> str:
        _, height, width, c_in = self.shape(x)
        pad = padding or same_padding(self.shape(x), kernel, stride, dilation)
        shape = (1, *kernel, c_out) if depthwise else (c_out, *kernel, c_in)
        if weight is None:
            fan_in = kernel[0] * kernel[1] * (1 if depthwise else c_in)
            weight = self.rng.normal(size=shape) / np.sqrt(fan_in)
        if bias is None:
            bias = self.rng.normal(size=c_out) * 0.1
        rows = Window(kernel[0], stride[0], dilation[0], same=False)
        columns = Window(kernel[1], stride[1], dilation[1], same=False)
        out = (
            1,
            rows.output(height + pad.top + pad.bottom),
            columns.output(width + pad.left + pad.right),
            c_out,
        )
        names = self.constant(weight), self.constant(bias), self.tensor("conv", out)
        self.ops.append(
            ir.Conv(
                name=f"op/{names[2]}",
                x=x,
                weight=names[0],
                bias=names[1],
                out=names[2],
                depthwise=depthwise,
                stride=stride,
                dilation=dilation,
                padding=pad,
                act=act,
            )
        )
        return names[2]

    def fully_connected(
        self,
        x: str,
        c_out: int,
        act: ir.Fused = ir.Fused.NONE,
        weight: NDArray[np.floating] | None = None,
        bias: NDArray[np.floating] | None = None,
    ) -> str:
        c_in = int(np.prod(self.shape(x)))
        if weight is None:
            weight = self.rng.normal(size=(c_out, c_in)) / np.sqrt(c_in)
        if bias is None:
            bias = self.rng.normal(size=c_out) * 0.1
        names = self.constant(weight), self.constant(bias), self.tensor("fc", (1, c_out))
        self.ops.append(
            ir.FullyConnected(
                name=f"op/{names[2]}", x=x, weight=names[0], bias=names[1], out=names[2], act=act
            )
        )
        return names[2]

    def mean(self, x: str, *, keep_dims: bool) -> str:
        channels = self.shape(x)[3]
        out = self.tensor("mean", (1, 1, 1, channels) if keep_dims else (1, channels))
        self.ops.append(ir.Mean(name=f"op/{out}", x=x, out=out, keep_dims=keep_dims))
        return out

    def binary(self, kind: ir.BinaryKind, a: str, b: str, act: ir.Fused = ir.Fused.NONE) -> str:
        out = self.tensor(kind.value, np.broadcast_shapes(self.shape(a), self.shape(b)))
        self.ops.append(ir.Binary(name=f"op/{out}", kind=kind, a=a, b=b, out=out, act=act))
        return out

    def unary(self, kind: ir.UnaryKind, x: str, alpha: float = 0.0) -> str:
        out = self.tensor(kind.value, self.shape(x))
        self.ops.append(ir.Unary(name=f"op/{out}", kind=kind, x=x, out=out, alpha=alpha))
        return out

    def pool(
        self,
        x: str,
        kernel: tuple[int, int] = (2, 2),
        stride: tuple[int, int] = (2, 2),
        padding: ir.Padding = NO_PADDING,
        *,
        is_max: bool,
    ) -> str:
        _, height, width, channels = self.shape(x)
        rows = (height + padding.top + padding.bottom - kernel[0]) // stride[0] + 1
        columns = (width + padding.left + padding.right - kernel[1]) // stride[1] + 1
        out = self.tensor("pool", (1, rows, columns, channels))
        self.ops.append(
            ir.Pool(
                name=f"op/{out}",
                x=x,
                out=out,
                is_max=is_max,
                kernel=kernel,
                stride=stride,
                padding=padding,
            )
        )
        return out

    def pad(self, x: str, padding: ir.Padding) -> str:
        _, height, width, channels = self.shape(x)
        high, wide = height + padding.top + padding.bottom, width + padding.left + padding.right
        out = self.tensor("pad", (1, high, wide, channels))
        self.ops.append(ir.Pad(name=f"op/{out}", x=x, out=out, padding=padding))
        return out

    def reshape(self, x: str, *shape: int) -> str:
        out = self.tensor("reshape", shape)
        self.ops.append(ir.Reshape(name=f"op/{out}", x=x, out=out))
        return out

    def concat(self, *xs: str, axis: int = 3) -> str:
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        out = self.tensor("concat", shape)
        self.ops.append(ir.Concat(name=f"op/{out}", xs=xs, out=out, axis=axis))
        return out

    def softmax(self, x: str) -> str:
        out = self.tensor("softmax", self.shape(x))
        self.ops.append(ir.Softmax(name=f"op/{out}", x=x, out=out))
        return out

    def graph(self, *outputs: str) -> ir.FloatGraph:
        return ir.FloatGraph(
            dict(self.tensors), tuple(self.ops), tuple(self.inputs), outputs or (self.ops[-1].out,)
        )


def images(graph: ir.FloatGraph, count: int, seed: int = 7) -> list[F32]:
    """Random pixels in 0..1 for a graph of one input, on the int8 grid of u8/255."""
    rng = np.random.default_rng(seed)
    shape = graph.tensors[graph.inputs[0]].shape
    return [rng.integers(0, 256, shape).astype(np.float32) / 255 for _ in range(count)]


def measured_ranges(graph: ir.FloatGraph, samples: Sequence[F32]) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every activation over the samples, keyed by `source`."""
    found: dict[str, tuple[float, float]] = {}
    for sample in samples:
        for name, value in evaluate(graph, {graph.inputs[0]: sample}).items():
            key = graph.tensors[name].source
            low, high = found.get(key, (np.inf, -np.inf))
            found[key] = (min(low, float(value.min())), max(high, float(value.max())))
    return found
