"""Int8 graphs of one operation with random attributes and numbers, all of them legal.

`CASES[name](rng)` makes one; scales are chosen so that outputs use much of int8's range.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ndtool.export.int8.derive import slice_axis
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
    Squeeze,
    StridedSlice,
    Tensor,
    TensorId,
    Unary,
    UnaryKind,
    op_outputs,
)
from ndtool.quant.kernels import Window

Rng = np.random.Generator
Params = tuple[float, int]
ACTS = tuple(Activation)


def f32(value: float) -> float:
    return float(np.float32(value))


@dataclass
class Builder:
    """Collects numbered tensors."""

    tensors: list[Tensor] = field(default_factory=list)

    def add(self, **fields: object) -> TensorId:
        name = f"t{len(self.tensors)}"
        self.tensors.append(Tensor(**{"name": name, **fields}))  # type: ignore[arg-type]
        return TensorId(len(self.tensors) - 1)

    def activation(self, shape: Sequence[int], params: Params) -> TensorId:
        scale, zero = params
        return self.add(
            shape=tuple(map(int, shape)),
            dtype=DType.INT8,
            scales=(f32(scale),),
            zero_points=(int(zero),),
        )

    def int8(
        self, values: np.ndarray, scales: Sequence[float], dim: int = 0, zero: int = 0
    ) -> TensorId:
        return self.add(
            shape=values.shape,
            dtype=DType.INT8,
            scales=tuple(map(f32, scales)),
            zero_points=(zero,) * len(scales),
            quantized_dim=dim if len(scales) > 1 else 0,
            data=values.astype(np.int8).tobytes(),
        )

    def int32(self, values: object, scales: Sequence[float] = ()) -> TensorId:
        array = np.asarray(values, "<i4")
        return self.add(
            shape=array.shape,
            dtype=DType.INT32,
            scales=tuple(map(f32, scales)),
            zero_points=(0,) * len(scales),
            data=array.tobytes(),
        )

    def graph(self, op: Op, *inputs: TensorId) -> Graph:
        return Graph(tensors=tuple(self.tensors), ops=(op,), inputs=inputs, outputs=op_outputs(op))


def params(rng: Rng, low: float = -6, high: float = 1) -> Params:
    zero = int(rng.choice([-128, 0, 127, int(rng.integers(-128, 128))]))
    return f32(10 ** rng.uniform(low, high)), zero


def pick(rng: Rng, options: Sequence[object]) -> object:
    return options[int(rng.integers(len(options)))]


def _weights(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-127, 128, shape)


def _layer_numbers(
    rng: Rng, b: Builder, weight: np.ndarray, axis: int, s_in: float, *, per_channel: bool
) -> tuple[TensorId, TensorId | None, float]:
    """(weight, bias, output scale): accumulators of about sqrt(K) * 127 * 60 fill 60 steps."""
    c_out = weight.shape[axis]
    spread = 10 ** rng.uniform(-1, 1, c_out if per_channel else 1)
    scales = [f32(v) for v in 10 ** rng.uniform(-4, 0) * spread]
    weight_id = b.int8(weight, scales, axis)
    typical = np.sqrt(weight.size / c_out) * 80 * 60
    bias = rng.integers(-typical, typical + 1, c_out).astype(np.int64)
    bias_scales = [f32(np.float32(s_in) * np.float32(s)) for s in scales]
    bias_id = b.int32(bias, bias_scales) if rng.random() < 0.9 else None
    s_out = f32(s_in * float(np.median(scales)) * typical / 10 ** rng.uniform(0.5, 2.5))
    return weight_id, bias_id, s_out


def _image(rng: Rng, channels: int) -> tuple[int, int, int, int]:
    return (1, int(rng.integers(1, 12)), int(rng.integers(1, 12)), channels)


def _window(rng: Rng, size: int, *, same: bool) -> tuple[int, int, int]:
    """(kernel, stride, dilation) that fit `size` pixels."""
    while True:
        kernel, stride, dilation = (int(v) for v in rng.integers(1, [6, 4, 3]))
        if kernel == 1:
            dilation = 1
        if Window(kernel, stride, dilation, same).output(size) >= 1:
            return kernel, stride, dilation


def _conv_geometry(rng: Rng, shape: Sequence[int]) -> tuple[PaddingKind, list, list, list, list]:
    """(padding, kernel, stride, dilation, output size), each for rows and columns."""
    padding = pick(rng, list(PaddingKind))
    same = padding is PaddingKind.SAME
    found = [_window(rng, size, same=same) for size in shape[1:3]]
    kernel, stride, dilation = zip(*found, strict=True)
    out = [Window(*w, same).output(n) for w, n in zip(found, shape[1:3], strict=True)]
    return padding, kernel, stride, dilation, out


def conv_2d(rng: Rng) -> Graph:
    b, x_params = Builder(), params(rng)
    c_in, c_out = (int(v) for v in rng.integers(1, 9, 2))
    shape = _image(rng, c_in)
    padding, kernel, stride, dilation, out = _conv_geometry(rng, shape)
    x = b.activation(shape, x_params)
    values = _weights(rng, (c_out, *kernel, c_in))
    per_channel = rng.random() < 0.8
    weight, bias, s_out = _layer_numbers(rng, b, values, 0, x_params[0], per_channel=per_channel)
    op = Conv2D(
        x=x,
        weight=weight,
        bias=bias,
        out=b.activation((1, *out, c_out), (s_out, params(rng)[1])),
        stride=stride,
        dilation=dilation,
        padding=padding,
        act=pick(rng, ACTS),
    )
    return b.graph(op, x)


def depthwise_conv_2d(rng: Rng) -> Graph:
    b, x_params = Builder(), params(rng)
    c_in, multiplier = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    shape = _image(rng, c_in)
    padding, kernel, stride, dilation, out = _conv_geometry(rng, shape)
    x = b.activation(shape, x_params)
    values = _weights(rng, (1, *kernel, c_in * multiplier))
    per_channel = rng.random() < 0.8
    weight, bias, s_out = _layer_numbers(rng, b, values, 3, x_params[0], per_channel=per_channel)
    op = DepthwiseConv2D(
        x=x,
        weight=weight,
        bias=bias,
        out=b.activation((1, *out, c_in * multiplier), (s_out, params(rng)[1])),
        stride=stride,
        dilation=dilation,
        padding=padding,
        act=pick(rng, ACTS),
        multiplier=multiplier,
    )
    return b.graph(op, x)


def _fully_connected(rng: Rng, *, per_channel: bool) -> Graph:
    b, x_params = Builder(), params(rng)
    c_in, c_out = int(rng.integers(1, 80)), int(rng.integers(2, 20))
    keep = bool(rng.random() < 0.3)
    lead = (1, int(rng.integers(1, 4)), 2) if keep else pick(rng, [(1,), (1, 1, 1)])
    x = b.activation((*lead, c_in), x_params)
    values = _weights(rng, (c_out, c_in))
    weight, bias, s_out = _layer_numbers(rng, b, values, 0, x_params[0], per_channel=per_channel)
    out_shape = (*lead, c_out) if keep else (1, c_out)
    op = FullyConnected(
        x=x,
        weight=weight,
        bias=bias,
        out=b.activation(out_shape, (s_out, params(rng)[1])),
        act=pick(rng, ACTS),
        keep_num_dims=keep,
    )
    return b.graph(op, x)


def fully_connected(rng: Rng) -> Graph:
    return _fully_connected(rng, per_channel=False)


def fully_connected_per_channel(rng: Rng) -> Graph:
    return _fully_connected(rng, per_channel=True)


def _binary(kind: BinaryKind) -> Callable[[Rng], Graph]:
    def case(rng: Rng) -> Graph:
        b, pa, pb = Builder(), params(rng, -3, 1), params(rng, -3, 1)
        full = (1, int(rng.integers(1, 7)), int(rng.integers(1, 7)), int(rng.integers(1, 7)))
        other = pick(rng, [full, full, (1, 1, 1, full[3]), (1, 1, 1, 1), (full[3],), ()])
        a = b.activation(full, pa)
        constant = len(other) < 2 or rng.random() < 0.3
        if constant:
            second = b.int8(rng.integers(-128, 128, other), (pb[0],), zero=pb[1])
        else:
            second = b.activation(other, pb)
        typical = pa[0] * pb[0] * 80 if kind is BinaryKind.MUL else pa[0] + pb[0]
        out = b.activation(full, (typical * 10 ** rng.uniform(-0.7, 0.7), params(rng)[1]))
        swap = bool(rng.random() < 0.5)
        left, right = (second, a) if swap else (a, second)
        act = pick(rng, (Activation.NONE, Activation.NONE, *ACTS))
        op = Binary(kind=kind, a=left, b=right, out=out, act=act)
        return b.graph(op, *([a] if constant else [a, second]))

    return case


def _pool(rng: Rng, *, is_max: bool) -> Graph:
    b, shared = Builder(), params(rng, -4, 1)
    shape = _image(rng, int(rng.integers(1, 6)))
    padding = pick(rng, list(PaddingKind))
    same = padding is PaddingKind.SAME
    kernel, stride, out = [], [], []
    for n in shape[1:3]:
        while True:
            k, s = int(rng.integers(1, min(2 * n, 9))), int(rng.integers(1, 4))
            if (positions := Window(k, s, 1, same).output(n)) >= 1:
                break
        kernel.append(k)
        stride.append(s)
        out.append(positions)
    x = b.activation(shape, shared)
    op = Pool2D(
        is_max=is_max,
        x=x,
        out=b.activation((1, *out, shape[3]), shared),
        kernel=tuple(kernel),
        stride=tuple(stride),
        padding=padding,
        act=pick(rng, ACTS),
    )
    return b.graph(op, x)


def mean(rng: Rng) -> Graph:
    b, x_params = Builder(), params(rng)
    shape = (1, int(rng.integers(1, 40)), int(rng.integers(1, 40)), int(rng.integers(1, 7)))
    axes = pick(rng, [(1, 2), (1, 2), (1, 2), (1,), (2,), (3,), (2, 3)])
    keep = bool(rng.random() < 0.5)
    kept = [1 if i in axes else n for i, n in enumerate(shape)]
    dropped = [n for i, n in enumerate(shape) if i not in axes]
    x = b.activation(shape, x_params)
    written = [a - 4 for a in axes] if rng.random() < 0.3 else list(axes)
    op = Mean(
        x=x,
        axes_id=b.int32(written),
        out=b.activation(
            kept if keep else dropped, (x_params[0] / 10 ** rng.uniform(0, 2), params(rng)[1])
        ),
        axes=axes,
        keep_dims=keep,
    )
    return b.graph(op, x)


def softmax(rng: Rng) -> Graph:
    b, x_params = Builder(), params(rng, -3, 0)
    classes = int(rng.integers(1, 300))
    shape = pick(rng, [(1, classes), (1, 3, classes), (1, 2, 2, min(classes, 20))])
    x = b.activation(shape, x_params)
    out = b.activation(shape, (1 / 256, -128))
    return b.graph(Softmax(x=x, out=out, beta=float(pick(rng, [0.5, 1.0, 2.0]))), x)


def pad(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    rank = int(rng.integers(2, 6))
    shape = (1, *(int(v) for v in rng.integers(1, 5, rank - 1)))
    pairs = ((0, 0), *((int(p), int(q)) for p, q in rng.integers(0, 4, (rank - 1, 2))))
    x = b.activation(shape, shared)
    op = Pad(
        x=x,
        paddings_id=b.int32(pairs),
        out=b.activation([n + p + q for n, (p, q) in zip(shape, pairs, strict=True)], shared),
        paddings=pairs,
    )
    return b.graph(op, x)


def concatenation(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    rank = int(rng.integers(2, 5))
    axis = int(rng.integers(1, rank))
    shape = [1, *(int(v) for v in rng.integers(1, 5, rank - 1))]
    shapes = []
    for _ in range(int(rng.integers(1, 5))):
        shapes.append([*shape[:axis], int(rng.integers(1, 5)), *shape[axis + 1 :]])
    xs = tuple(b.activation(s, shared) for s in shapes)
    total = [*shape[:axis], sum(s[axis] for s in shapes), *shape[axis + 1 :]]
    return b.graph(Concat(xs=xs, out=b.activation(total, shared), axis=axis), *xs)


def reshape(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    h, w, c = (int(v) for v in rng.integers(1, 6, 3))
    x = b.activation((1, h, w, c), shared)
    shape = pick(rng, [(1, h * w * c), (1, h * w, c), (1, c, w, h)])
    written = [-1 if i == len(shape) - 1 else n for i, n in enumerate(shape)]
    shape_id = pick(rng, [None, b.int32(shape), b.int32(written)])
    return b.graph(Reshape(x=x, shape_id=shape_id, out=b.activation(shape, shared)), x)


def squeeze(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    while True:
        shape = (1, *(int(v) for v in rng.choice([1, 1, 2, 3, 7], int(rng.integers(1, 5)))))
        ones = [a for a, n in enumerate(shape) if n == 1]
        dropped = set(rng.choice(ones, int(rng.integers(1, len(ones) + 1)), replace=False).tolist())
        out = [n for a, n in enumerate(shape) if a not in dropped]
        if out[:1] == [1] and np.prod(shape) > 2:
            break
    x = b.activation(shape, shared)
    return b.graph(Squeeze(x=x, out=b.activation(out, shared)), x)


def split(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    rank = int(rng.integers(2, 6))
    axis, parts = int(rng.integers(1, rank)), int(rng.integers(1, 5))
    part = [1, *(int(v) for v in rng.integers(1, 4, rank - 1))]
    whole = [n * parts if a == axis else n for a, n in enumerate(part)]
    x = b.activation(whole, shared)
    op = Split(
        x=x,
        axis_id=b.int32(pick(rng, [axis, [axis], [axis - rank]])),
        outs=tuple(b.activation(part, shared) for _ in range(parts)),
        axis=axis,
    )
    return b.graph(op, x)


def strided_slice(rng: Rng) -> Graph:
    """Bounds inside and outside the axis, counted from either end, all masks."""
    b, shared = Builder(), params(rng)
    rank = int(rng.integers(2, 5))
    shape = (1, *(int(v) for v in rng.integers(1, 13, rank - 1)))
    numbers, axes, shrunk = [], [], []
    for axis, n in enumerate(shape):
        while True:
            begin, end = (int(v) for v in rng.integers(-n - 2, n + 3, 2))
            stride = int(pick(rng, [1, 1, 2, 3, -1, -1, -2, n + 2]))
            shrink = axis > 0 and stride > 0 and bool(rng.random() < 0.15)
            masks = {key: bool(rng.random() < 0.2) for key in ("from_first", "to_last")}
            found = slice_axis(n, begin, end, stride, shrink=shrink, **masks)
            if found.size:
                break
        numbers.append((begin, end, stride))
        axes.append(found)
        shrunk.append(shrink)
    out = [a.size for a, gone in zip(axes, shrunk, strict=True) if not gone]
    x = b.activation(shape, shared)
    op = StridedSlice(
        x=x,
        constants=tuple(b.int32(column) for column in zip(*numbers, strict=True)),
        out=b.activation(out, shared),
        begin=tuple(a.begin for a in axes),
        strides=tuple(a.stride for a in axes),
        sizes=tuple(a.size for a in axes),
    )
    return b.graph(op, x)


def resize_nearest(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    shape = _image(rng, int(rng.integers(1, 4)))
    size = [int(v) for v in rng.integers(1, 40, 2)]
    x = b.activation(shape, shared)
    op = ResizeNearest(
        x=x,
        size_id=b.int32(size),
        out=b.activation((1, *size, shape[3]), shared),
        align_corners=bool(rng.random() < 0.5),
        half_pixel_centers=bool(rng.random() < 0.5),
    )
    return b.graph(op, x)


def _unary(kind: UnaryKind) -> Callable[[Rng], Graph]:
    def case(rng: Rng) -> Graph:
        b, x_params = Builder(), params(rng, -3, 0)
        alpha = f32(rng.uniform(-1.5, 1.5)) if kind is UnaryKind.LEAKY_RELU else 0.0
        other = (x_params[0] * 10 ** rng.uniform(-1, 1), params(rng)[1])
        if kind in (UnaryKind.LOGISTIC, UnaryKind.TANH):
            x_params = params(rng, -4, 0.9)
        if kind is UnaryKind.RELU6:
            x_params = (f32(rng.uniform(6 / 120, 1)), int(rng.integers(-128, 0)))
        out_params = {
            UnaryKind.LOGISTIC: (1 / 256, -128),
            UnaryKind.TANH: (1 / 128, 0),
            UnaryKind.RELU6: x_params,
        }.get(kind, other)
        x = b.activation((1, 256), x_params)
        out = b.activation((1, 256), out_params)
        return b.graph(Unary(kind=kind, x=x, out=out, alpha=alpha), x)

    return case


CASES: dict[str, Callable[[Rng], Graph]] = {
    "CONV_2D": conv_2d,
    "DEPTHWISE_CONV_2D": depthwise_conv_2d,
    "FULLY_CONNECTED": fully_connected,
    "FULLY_CONNECTED per channel": fully_connected_per_channel,
    **{kind.value: _binary(kind) for kind in BinaryKind},
    "AVERAGE_POOL_2D": lambda rng: _pool(rng, is_max=False),
    "MAX_POOL_2D": lambda rng: _pool(rng, is_max=True),
    "MEAN": mean,
    "SOFTMAX": softmax,
    "PAD": pad,
    "CONCATENATION": concatenation,
    "RESHAPE": reshape,
    "SQUEEZE": squeeze,
    "SPLIT": split,
    "STRIDED_SLICE": strided_slice,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
    **{kind.value: _unary(kind) for kind in UnaryKind},
}


def inputs_for(graph: Graph, rng: Rng, images: int = 2) -> list[np.ndarray]:
    """Random int8 inputs; for one operation of one byte, all 256 of them."""
    shapes = [graph.tensor(t).shape[1:] for t in graph.inputs]
    if isinstance(graph.ops[0], Unary) and len(graph.ops) == 1:
        return [np.arange(-128, 128).astype(np.int8).reshape(1, 256)]
    made = [rng.integers(-128, 128, (images, *s)).astype(np.int8) for s in shapes]
    for x in made:  # the ends of int8 must occur
        x.reshape(-1)[:2] = (-128, 127)[: x.size]
    return made
