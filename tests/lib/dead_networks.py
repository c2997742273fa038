"""Random small int8 networks in which many channels are constant, or almost, for every input.

Channels die as they do in trained networks (zero weights, a bias far out, a factor of 2^-31 or
one that is flushed to 0), and some are planted one step beside death. Around them: every
operation that can pass a dead channel on or has to keep it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from single_op import Builder, Params, Rng, f32, pick

from ndtool.export.codegen.passes.passed import Passed
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
    Pad,
    Padding,
    PaddingKind,
    Pads,
    Pool2D,
    Reshape,
    ResizeNearest,
    Softmax,
    Split,
    Squeeze,
    StridedSlice,
    TensorId,
    Unary,
    UnaryKind,
)
from ndtool.export.int8.reference import run_tensors
from ndtool.quant.kernels import Window

ACTS = (Activation.NONE, Activation.RELU, Activation.RELU, Activation.RELU6)
BYTES = 255  # largest difference of two int8


class Net(Builder):
    """Appends operations; every method returns the tensor it makes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng: Rng = np.random.default_rng([19, seed])
        self.ops: list[Op] = []

    def push(self, op: Op) -> TensorId:
        self.ops.append(op)
        return op.out

    def shape(self, x: TensorId) -> tuple[int, ...]:
        return self.tensors[x].shape

    def like(self, x: TensorId) -> Params:
        return self.tensors[x].scale, self.tensors[x].zero_point

    def some(self) -> Params:
        zero = pick(self.rng, [-128, -128, 0, int(self.rng.integers(-128, 128))])
        return f32(10 ** self.rng.uniform(-1.5, 0)), zero

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def size(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def graph(self, *outputs: TensorId) -> Graph:
        return Graph(
            tensors=tuple(self.tensors),
            ops=tuple(self.ops),
            inputs=(TensorId(0),),
            outputs=outputs,
        )

    # ---- layers with weights

    def numbers(
        self, x: TensorId, weight: np.ndarray, axis: int, out: Params
    ) -> tuple[np.ndarray | None, list[float]]:
        """Biases and weight scales for `weight`, changed in place; half of the channels live."""
        (s_in, zero), c_out = self.like(x), weight.shape[axis]
        rows = np.moveaxis(weight, axis, 0).reshape(c_out, -1)  # a view: `weight` is written
        typical = np.sqrt(rows.shape[1]) * 80  # accumulator
        real = self.rng.uniform(0.2, 1.5, c_out) * 60 / typical
        bias = self.rng.integers(-typical, typical + 1, c_out).astype(np.int64)
        per_tensor = self.chance(0.15)
        for o in range(c_out):
            row, far = rows[o].astype(np.int64), int(BYTES * np.abs(rows[o]).sum() + 400 / real[o])
            ends = np.maximum(row * (-128 - zero), row * (127 - zero)).sum()
            match pick(self.rng, ["live"] * 6 + ["zero", "low", "low", "high", "edge", "tiny"]):
                case "zero":
                    rows[o] = 0
                case "low":
                    bias[o] = pick(self.rng, [-far, -(2**29)])
                case "high":
                    bias[o] = far
                case "edge":
                    bias[o] = -ends + int(self.rng.integers(0, 3) / real[o])
                case "tiny" if not per_tensor:
                    real[o] = pick(self.rng, [2.0**-31.5, 2.0**-35, 2.0**-28])
        weight[...] = np.moveaxis(rows.reshape(np.moveaxis(weight, axis, 0).shape), 0, axis)
        scales = [f32(v * out[0] / s_in) for v in (real[:1] if per_tensor else real)]
        return bias if self.chance(0.85) else None, scales

    def window(self, x: TensorId, kernels: tuple[int, ...]) -> tuple[PaddingKind, list[Window]]:
        padding = pick(self.rng, list(PaddingKind))
        same, windows = padding is PaddingKind.SAME, []
        for n in self.shape(x)[1:3]:
            fitting = [k for k in kernels if same or k <= n]
            dilation = 2 if self.chance(0.1) and same else 1
            windows.append(Window(pick(self.rng, fitting), self.size(1, 2), dilation, same))
        return padding, windows

    def convolution(
        self,
        x: TensorId,
        *,
        c_out: int = 0,
        multiplier: int = 0,
        plain: bool = False,
        out: Params | None = None,
    ) -> TensorId:
        """Depthwise where `multiplier` is given; `plain`: 1x1, so that the image keeps its size."""
        padding, windows = self.window(x, (1, 2, 3))
        if plain:
            padding, windows = PaddingKind.SAME, [Window(1, 1, 1, same=True)] * 2
        c_in = self.shape(x)[3]
        channels = c_in * multiplier if multiplier else c_out or self.size(2, 6)
        kernel = tuple(w.kernel for w in windows)
        shape = (1, *kernel, channels) if multiplier else (channels, *kernel, c_in)
        weight, out = self.rng.integers(-128, 128, shape), out or self.some()
        bias, scales = self.numbers(x, weight, 3 if multiplier else 0, out)
        return self.layer(
            x,
            weight,
            bias,
            scales=scales,
            out=out,
            windows=windows,
            padding=padding,
            act=pick(self.rng, ACTS),
            multiplier=multiplier,
        )

    def layer(
        self,
        x: TensorId,
        weight: object,
        bias: object | None,
        *,
        scales: Sequence[float] = (0.1,),
        out: Params = (0.1, -128),
        windows: Sequence[Window] | None = None,
        padding: Padding = PaddingKind.SAME,
        act: Activation = Activation.RELU,
        multiplier: int = 0,
    ) -> TensorId:
        """CONV_2D, or with `multiplier` DEPTHWISE_CONV_2D, by its numbers; stride 1 by default."""
        values, axis = np.asarray(weight), 3 if multiplier else 0
        _, h, w, _ = self.shape(x)
        rows, columns = windows or [Window(k, 1, 1, same=False) for k in values.shape[1:3]]
        if isinstance(padding, Pads):
            sides = ((padding.top, padding.bottom), (padding.left, padding.right))
            rows, columns = (
                a._replace(pads=p) for a, p in zip((rows, columns), sides, strict=True)
            )
        same = padding is PaddingKind.SAME
        rows, columns = (a._replace(same=same) for a in (rows, columns))
        fields = {
            "x": x,
            "weight": self.int8(values, scales, axis),
            "bias": None if bias is None else self.bias(x, bias, scales),
            "out": self.activation((1, rows.output(h), columns.output(w), values.shape[axis]), out),
            "stride": (rows.stride, columns.stride),
            "dilation": (rows.dilation, columns.dilation),
            "padding": padding,
            "act": act,
        }
        if multiplier:
            return self.push(DepthwiseConv2D(**fields, multiplier=multiplier))
        return self.push(Conv2D(**fields))

    def bias(self, x: TensorId, values: object, scales: Sequence[float]) -> TensorId:
        return self.int32(values, [f32(self.tensors[x].scale * f32(s)) for s in scales])

    def fully_connected(self, x: TensorId, c_out: int) -> TensorId:
        keep = self.chance(0.3)
        c_in = self.shape(x)[-1] if keep else int(np.prod(self.shape(x)))
        weight, out = self.rng.integers(-128, 128, (c_out, c_in)), self.some()
        bias, scales = self.numbers(x, weight, 0, out)
        act = pick(self.rng, ACTS)
        return self.dense(x, weight, bias, scales=scales, out=out, act=act, keep=keep)

    def dense(
        self,
        x: TensorId,
        weight: object,
        bias: object | None,
        *,
        scales: Sequence[float] = (0.1,),
        out: Params = (0.1, -128),
        act: Activation = Activation.RELU,
        keep: bool = False,
    ) -> TensorId:
        """FULLY_CONNECTED by its numbers."""
        values = np.asarray(weight)
        shape = (*self.shape(x)[:-1], len(values)) if keep else (1, len(values))
        return self.push(
            FullyConnected(
                x=x,
                weight=self.int8(values, scales),
                bias=None if bias is None else self.bias(x, bias, scales),
                out=self.activation(shape, out),
                act=act,
                keep_num_dims=keep,
            )
        )

    # ---- the others

    def unary(self, x: TensorId) -> TensorId:
        scale, _ = self.like(x)
        gates = (UnaryKind.LOGISTIC, UnaryKind.TANH) if scale > 7 else ()  # too far for them
        kinds = [k for k in UnaryKind if k is not UnaryKind.RELU6 and k not in gates]
        kind = pick(self.rng, kinds)
        out = {
            UnaryKind.LOGISTIC: (1 / 256, -128),
            UnaryKind.TANH: (1 / 128, 0),
        }.get(kind, (scale * self.rng.uniform(0.5, 1.5), self.some()[1]))
        alpha = f32(self.rng.uniform(-1, 1)) if kind is UnaryKind.LEAKY_RELU else 0.0
        return self.push(
            Unary(kind=kind, x=x, out=self.activation(self.shape(x), out), alpha=alpha)
        )

    def pool(self, x: TensorId) -> TensorId:
        padding, windows = self.window(x, (1, 2))
        windows = [w._replace(dilation=1) for w in windows]
        sizes = [w.output(n) for w, n in zip(windows, self.shape(x)[1:3], strict=True)]
        image = self.shape(x)[1:3]
        kernel = tuple(1 if n == 1 else w.kernel for w, n in zip(windows, image, strict=True))
        return self.push(
            Pool2D(
                is_max=self.chance(0.5),
                x=x,
                out=self.activation((1, *sizes, self.shape(x)[3]), self.like(x)),
                kernel=kernel,
                stride=tuple(w.stride for w in windows),
                padding=padding,
                act=pick(self.rng, ACTS),
            )
        )

    def mean(self, x: TensorId, *, axes: tuple[int, ...] = (1, 2), keep: bool = True) -> TensorId:
        kept = [1 if i in axes else n for i, n in enumerate(self.shape(x))]
        dropped = [n for i, n in enumerate(self.shape(x)) if i not in axes]
        scale, _ = self.like(x)
        return self.push(
            Mean(
                x=x,
                axes_id=self.int32(axes),
                out=self.activation(
                    kept if keep else dropped, (scale * self.rng.uniform(0.3, 1), self.some()[1])
                ),
                axes=axes,
                keep_dims=keep,
            )
        )

    def pad(self, x: TensorId, channels: tuple[int, int] = (0, 0), most: int = 2) -> TensorId:
        sides = [(self.size(0, most), self.size(0, most)) for _ in range(2)]
        return self.pad_by(x, ((0, 0), *sides, channels))

    def pad_by(self, x: TensorId, pairs: tuple[tuple[int, int], ...]) -> TensorId:
        shape = [n + a + b for n, (a, b) in zip(self.shape(x), pairs, strict=True)]
        out = self.activation(shape, self.like(x))
        return self.push(Pad(x=x, paddings_id=self.int32(pairs), out=out, paddings=pairs))

    def padded(self, x: TensorId) -> TensorId:
        """PAD and what reads it: a convolution, another PAD, a pool, or two of them."""
        wide = self.pad(x, (1, 2)) if self.chance(0.15) else self.pad(x)
        if self.chance(0.15):
            wide = self.pad(wide)
        if self.chance(0.2):
            wide_too = self.pool(wide)
            return wide_too if self.chance(0.5) else self.convolution(wide)
        y = self.convolution(wide, multiplier=1 if self.chance(0.4) else 0)
        return self.pool(self.pad(y)) if self.chance(0.2) else y

    def binary(self, a: TensorId, b: TensorId, out_shape: tuple[int, ...]) -> TensorId:
        kind = pick(self.rng, list(BinaryKind))
        (s_a, s_b) = (self.tensors[t].scale for t in (a, b))
        typical = s_a * s_b * 80 if kind is BinaryKind.MUL else s_a + s_b
        out = self.activation(out_shape, (typical * self.rng.uniform(0.5, 1.5), self.some()[1]))
        if self.chance(0.5):
            a, b = b, a
        return self.push(Binary(kind=kind, a=a, b=b, out=out, act=pick(self.rng, ACTS)))

    def residual(self, x: TensorId) -> TensorId:
        y = self.convolution(x, plain=True, c_out=self.shape(x)[3])
        return self.binary(self.unary(x) if self.chance(0.3) else x, y, self.shape(x))

    def twins(self, x: TensorId) -> TensorId:
        """Both operands may lose the same channels."""
        y = self.convolution(x, plain=True, c_out=4)
        return self.binary(y, self.unary(y), self.shape(y))

    def gate(self, x: TensorId) -> TensorId:
        gate = self.convolution(self.mean(x), plain=True, c_out=self.shape(x)[3])
        return self.binary(x, gate, self.shape(x))

    def with_constant(self, x: TensorId) -> TensorId:
        c = self.shape(x)[3]
        shape = pick(self.rng, [(c,), (1, 1, 1, c), (), (1,), self.shape(x)])
        scale, zero = self.some()
        values = self.rng.integers(-128, 128, shape)
        return self.binary(x, self.int8(np.asarray(values), (scale,), zero=zero), self.shape(x))

    def joined(self, xs: list[TensorId], axis: int = 3) -> TensorId:
        shape = list(self.shape(xs[0]))
        shape[axis] = sum(self.shape(x)[axis] for x in xs)
        return self.push(
            Concat(xs=tuple(xs), out=self.activation(shape, self.like(xs[0])), axis=axis)
        )

    def concat(self, x: TensorId) -> TensorId:
        out = self.some()
        axis = pick(self.rng, [1, 2, 3, 3])
        parts = [self.convolution(x, plain=True, c_out=3, out=out) for _ in range(2)]
        return self.joined([*parts, parts[0]] if self.chance(0.3) else parts, axis)

    def split(self, x: TensorId) -> TensorId:
        axis = pick(self.rng, [i for i in (1, 2, 3) if self.shape(x)[i] % 2 == 0] or [0])
        if axis == 0:
            return x
        shape = list(self.shape(x))
        shape[axis] //= 2
        outs = tuple(self.activation(shape, self.like(x)) for _ in range(2))
        self.ops.append(Split(x=x, axis_id=self.int32(axis), outs=outs, axis=axis))
        return self.joined([outs[1], self.pad(outs[0], most=0)], axis)

    def sliced(self, x: TensorId) -> TensorId:
        begin, sizes = [0], [1]
        for n in self.shape(x)[1:]:
            begin.append(self.size(0, n - 1))
            sizes.append(self.size(1, n - begin[-1]))
        ends = [a + n for a, n in zip(begin, sizes, strict=True)]
        strides = (1, 1, 1, 1)
        return self.push(
            StridedSlice(
                x=x,
                constants=(self.int32(begin), self.int32(ends), self.int32(strides)),
                out=self.activation(sizes, self.like(x)),
                begin=tuple(begin),
                strides=strides,
                sizes=tuple(sizes),
            )
        )

    def resized(self, x: TensorId) -> TensorId:
        _, h, w, c = self.shape(x)
        size = (min(h + self.size(0, 2), 8), min(2 * w, 8))
        return self.push(
            ResizeNearest(
                x=x,
                size_id=self.int32(size),
                out=self.activation((1, *size, c), self.like(x)),
                align_corners=False,
                half_pixel_centers=self.chance(0.5),
            )
        )

    def reshaped(self, x: TensorId, shape: tuple[int, ...]) -> TensorId:
        shape_id = pick(self.rng, [None, self.int32(shape), self.int32((*shape[:-1], -1))])
        out = self.activation(shape, self.like(x))
        return self.push(Reshape(x=x, shape_id=shape_id, out=out))

    def turned(self, x: TensorId) -> TensorId:
        """Another last axis, which may keep the channels apart or mix them."""
        _, h, w, c = self.shape(x)
        return self.reshaped(x, pick(self.rng, [(1, h, c, w), (1, 1, h, w * c), (1, c, w, h)]))

    def head(self, x: TensorId) -> TensorId:
        _, h, w, c = self.shape(x)
        match pick(self.rng, ["mean", "squeeze", "flat", "direct", "rows", "convolution"]):
            case "mean":
                x = self.mean(x, keep=False)
            case "squeeze":
                x = self.mean(x)
                x = self.push(Squeeze(x=x, out=self.activation((1, c), self.like(x))))
            case "flat":
                x = self.reshaped(x, (1, h * w * c))
            case "rows":
                x = self.mean(x, axes=pick(self.rng, [(1, 3), (3,), (2,)]))
            case "convolution":
                return self.convolution(x)
        x = self.fully_connected(x, 5)
        if self.chance(0.3) and self.tensors[x].scale > 2.0**-26:
            return self.push(
                Softmax(x=x, out=self.activation(self.shape(x), (1 / 256, -128)), beta=1.0)
            )
        return x


STEPS: tuple[Callable[[Net, TensorId], TensorId], ...] = (
    lambda n, x: n.convolution(x),
    lambda n, x: n.convolution(x),
    lambda n, x: n.convolution(x, plain=True),
    lambda n, x: n.convolution(x, multiplier=1),
    lambda n, x: n.convolution(n.convolution(x, plain=True), multiplier=1),
    lambda n, x: n.convolution(x, multiplier=2),
    Net.unary,
    Net.unary,
    Net.pool,
    Net.padded,
    Net.residual,
    Net.twins,
    Net.gate,
    Net.with_constant,
    Net.concat,
    Net.split,
    Net.sliced,
    Net.resized,
    Net.turned,
)


def dead_network(seed: int) -> Graph:
    """A legal graph of 3 to 12 operations on an image of at most 6x6x4."""
    n = Net(seed)
    x = n.activation((1, n.size(1, 6), n.size(1, 6), n.size(1, 4)), n.some())
    outputs = []
    for _ in range(n.size(2, 6)):
        x = STEPS[n.size(0, len(STEPS) - 1)](n, x)
        if n.shape(x)[3] > 24:
            x = n.convolution(x, c_out=4)
        if n.chance(0.07):
            outputs.append(x)
    x = n.head(x)
    return n.graph(x, *(t for t in dict.fromkeys(outputs) if t not in (0, x)))


def telling_images(graph: Graph, seed: int = 0, count: int = 12) -> np.ndarray:
    """(n, h, w, c): random bytes, extreme ones and patterns of both."""
    rng = np.random.default_rng(seed)
    entry = graph.tensor(graph.inputs[0])
    shape = entry.shape[1:]
    y, x, c = np.indices(shape)
    fixed = [np.full(shape, v) for v in (-128, 127, entry.zero_point)]
    boards = [np.where(p % 2, 127, -128) for p in (y + x, y + x + 1, y + x + c, y, x, c, c + 1)]
    drawn = rng.integers(-128, 128, (count, *shape))
    ends = np.where(rng.random((count, *shape)) < 0.5, -128, 127)
    return np.concatenate([fixed, boards, drawn, ends]).astype(np.int8)


def differences(graph: Graph, passed: Passed, images: np.ndarray) -> list[str]:
    """Where the graph after the passes computes other bytes than before, tensor by tensor."""
    full, left = run_tensors(graph, images), run_tensors(passed.graph, images)
    found = [] if full.keys() - left.keys() == passed.fused else ["other tensors are formed"]
    found += [
        f"output {tensor} lost channels" for tensor in graph.outputs if tensor in passed.removed
    ]
    for tensor, bytes_left in left.items():
        expected = full[tensor]
        if tensor in passed.removed:
            removed = passed.removed[tensor]
            for channel, value in removed.constants.items():
                if (expected[..., channel] != value).any():
                    found.append(f"tensor {tensor}: channel {channel} is not always {value}")
            channels = sorted((*removed.live, *removed.constants))
            if channels != list(range(expected.shape[-1])):
                found.append(f"tensor {tensor}: channels {channels}")
            expected = expected[..., list(removed.live)]
        if not np.array_equal(expected, bytes_left):
            found.append(f"tensor {tensor}: other bytes")
    return found
