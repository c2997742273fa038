"""Random int8 operations at the edges of what is legal: ranks, broadcasts, axes, ratios of scales.

`WIDE[name](rng)` makes one, as `single_op.CASES` does for common ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
from single_op import ACTS, Builder, Rng, f32, params, pick

from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Concat,
    Graph,
    Mean,
    Pad,
    PaddingKind,
    Pool2D,
    ResizeNearest,
    Softmax,
    Split,
    StridedSlice,
)
from ndtool.quant.kernels import Window


def _shape(rng: Rng, least: int = 1, most: int = 5, size: int = 5) -> tuple[int, ...]:
    """A batch of 1 and random dimensions, of which some are 1."""
    rank = int(rng.integers(least, most + 1))
    return (1, *(int(n) for n in rng.integers(1, size + 1, rank - 1)))


def _repeated(rng: Rng, shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` with some dimensions made 1, and perhaps leading ones left out."""
    kept = tuple(n if rng.random() < 0.5 else 1 for n in shape[1:])
    return (1, *kept)


def _binary(kind: BinaryKind) -> Callable[[Rng], Graph]:
    def case(rng: Rng) -> Graph:
        b = Builder()
        shape = _shape(rng)
        left = shape if rng.random() < 0.4 else _repeated(rng, shape)
        right = _repeated(rng, shape)
        out_shape = np.broadcast_shapes(left, right)
        (sa, za), (sb, zb) = params(rng, -4, 2), params(rng, -4, 2)
        a = b.activation(left, (sa, za))
        constant = bool(rng.random() < 0.3)
        if constant:
            if rng.random() < 0.5:  # a rank of its own
                right = right[int(rng.integers(0, len(right) + 1)) :]
            out_shape = np.broadcast_shapes(left, right)
            second = b.int8(rng.integers(-128, 128, right), (sb,), zero=zb)
        else:
            second = b.activation(right, (sb, zb))
        if kind is BinaryKind.MUL:
            s_out = sa * sb * 10 ** rng.uniform(-3, 3)
        else:
            s_out = max(sa, sb) * 2.0 ** rng.uniform(-18, 6)
        # under 6 / 2^31 a fused activation has no place
        out = b.activation(out_shape, (max(s_out, 1e-8), params(rng)[1]))
        first, last = (second, a) if rng.random() < 0.5 else (a, second)
        op = Binary(kind=kind, a=first, b=last, out=out, act=pick(rng, ACTS))
        return b.graph(op, *([a] if constant else [a, second]))

    return case


def _interleaved(kind: BinaryKind) -> Callable[[Rng], Graph]:
    """Five dimensions of which neighbours are repeated in different operands: as many loops."""

    def case(rng: Rng) -> Graph:
        b, pa, pb = Builder(), params(rng, -2, 0), params(rng, -2, 0)
        shape = tuple(int(n) for n in rng.integers(2, 5, 4))
        ones = [1 if i % 2 else n for i, n in enumerate(shape)]
        others = [n if i % 2 or rng.random() < 0.3 else 1 for i, n in enumerate(shape)]
        left, right = (ones, others) if rng.random() < 0.5 else (others, ones)
        a, second = b.activation((1, *left), pa), b.activation((1, *right), pb)
        typical = pa[0] * pb[0] * 80 if kind is BinaryKind.MUL else pa[0] + pb[0]
        out = b.activation((1, *shape), (typical, params(rng)[1]))
        op = Binary(kind=kind, a=a, b=second, out=out, act=Activation.NONE)
        return b.graph(op, a, second)

    return case


def _twice(kind: BinaryKind) -> Callable[[Rng], Graph]:
    def case(rng: Rng) -> Graph:
        b, shared = Builder(), params(rng, -2, 0)
        shape = _shape(rng)
        x = b.activation(shape, shared)
        out = b.activation(shape, (shared[0] * 3, params(rng)[1]))
        return b.graph(Binary(kind=kind, a=x, b=x, out=out, act=Activation.NONE), x)

    return case


def mean(rng: Rng) -> Graph:
    b, (scale, zero) = Builder(), params(rng)
    shape = _shape(rng, least=2, size=6)
    rank = len(shape)
    axes = tuple(i for i in range(1, rank) if rng.random() < 0.5) or (rank - 1,)
    keep = bool(rng.random() < 0.5)
    kept = [1 if i in axes else n for i, n in enumerate(shape)]
    dropped = [n for i, n in enumerate(shape) if i not in axes]
    x = b.activation(shape, (scale, zero))
    out = b.activation(
        kept if keep else dropped, (scale * 10 ** rng.uniform(-2, 2), params(rng)[1])
    )
    return b.graph(Mean(x=x, axes_id=b.int32(axes), out=out, axes=axes, keep_dims=keep), x)


def pool(rng: Rng, *, is_max: bool) -> Graph:
    """Long and flat images, windows up to twice their size, strides beyond the window."""
    b, shared = Builder(), params(rng, -4, 1)
    shape = (1, *(int(n) for n in rng.integers(1, (20, 20, 4))))
    padding = pick(rng, list(PaddingKind))
    same = padding is PaddingKind.SAME
    sizes = []
    for n in shape[1:3]:
        most = 2 * n if same else n + 1
        window = Window(int(rng.integers(1, most)), int(rng.integers(1, 7)), 1, same)
        sizes.append((window.kernel, window.stride, window.output(n)))
    kernel, stride, out = zip(*sizes, strict=True)
    op = Pool2D(
        is_max=is_max,
        x=b.activation(shape, shared),
        out=b.activation((1, *out, shape[3]), shared),
        kernel=kernel,
        stride=stride,
        padding=padding,
        act=pick(rng, ACTS),
    )
    return b.graph(op, op.x)


def softmax(rng: Rng) -> Graph:
    """Scales from the least legal one to where all but the largest vanish; up to 4,095 classes."""
    b = Builder()
    classes = int(pick(rng, [1, 2, 3, 10, 100, 511]))
    shape = (*_shape(rng, most=3), classes)
    x = b.activation(shape, params(rng, -7, 2))
    out = b.activation(shape, (1 / 256, -128))
    return b.graph(Softmax(x=x, out=out, beta=f32(10 ** rng.uniform(-0.5, 1))), x)


def pad(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    shape = _shape(rng, size=3)
    pairs = ((0, 0), *((pick(rng, [0, 0, 1, 3]), pick(rng, [0, 0, 1, 2])) for _ in shape[1:]))
    x = b.activation(shape, shared)
    out = b.activation([n + p + q for n, (p, q) in zip(shape, pairs, strict=True)], shared)
    return b.graph(Pad(x=x, paddings_id=b.int32(pairs), out=out, paddings=pairs), x)


def concatenation(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    shape = _shape(rng, least=2, most=5, size=4)
    axis = int(rng.integers(1, len(shape)))
    lengths = [int(n) for n in rng.integers(1, 6, int(rng.integers(1, 11)))]
    xs = tuple(b.activation((*shape[:axis], n, *shape[axis + 1 :]), shared) for n in lengths)
    out = b.activation((*shape[:axis], sum(lengths), *shape[axis + 1 :]), shared)
    return b.graph(Concat(xs=xs, out=out, axis=axis), *xs)


def split(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    shape = _shape(rng, least=2, most=5, size=4)
    axis, parts = int(rng.integers(1, len(shape))), int(rng.integers(1, 5))
    x = b.activation((*shape[:axis], shape[axis] * parts, *shape[axis + 1 :]), shared)
    written = axis - len(shape) if rng.random() < 0.3 else axis
    op = Split(
        x=x,
        axis_id=b.int32(written),
        outs=tuple(b.activation(shape, shared) for _ in range(parts)),
        axis=axis,
    )
    return Graph(tensors=tuple(b.tensors), ops=(op,), inputs=(x,), outputs=op.outs)


def strided_slice(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    shape = _shape(rng, least=2, most=4, size=9)
    begin, ends, strides, sizes = [0], [1], [1], [1]
    for n in shape[1:]:
        stride = pick(rng, [1, 1, 1, 2, 3, -1, -2])
        first = int(rng.integers(0, n))
        room = n - first if stride > 0 else first + 1
        size = int(rng.integers(1, -(-room // abs(stride)) + 1))
        if rng.random() < 0.4:  # all of it, so that loops can be joined
            first, stride, size = 0, 1, n
        stop = first + size * stride
        begin.append(first)
        ends.append(stop if stop >= 0 else stop - n)
        strides.append(stride)
        sizes.append(size)
    x = b.activation(shape, shared)
    numbers = [b.int32(values) for values in (begin, ends, strides)]
    op = StridedSlice(
        x=x,
        constants=tuple(numbers),
        out=b.activation(sizes, shared),
        begin=tuple(begin),
        strides=tuple(s if n > 1 else 1 for s, n in zip(strides, sizes, strict=True)),
        sizes=tuple(sizes),
    )
    return b.graph(op, x)


def resize_nearest(rng: Rng) -> Graph:
    b, shared = Builder(), params(rng)
    shape = (1, *(int(n) for n in rng.integers(1, (14, 14, 5))))
    size = [int(n) for n in rng.integers(1, 30, 2)]
    mode = pick(rng, [(False, False), (True, False), (False, True)])
    op = ResizeNearest(
        x=b.activation(shape, shared),
        size_id=b.int32(size),
        out=b.activation((1, *size, shape[3]), shared),
        align_corners=mode[0],
        half_pixel_centers=mode[1],
    )
    return b.graph(op, op.x)


WIDE: dict[str, Callable[[Rng], Graph]] = {
    **{kind.value: _binary(kind) for kind in BinaryKind},
    **{f"{kind.value} interleaved": _interleaved(kind) for kind in BinaryKind},
    **{f"{kind.value} of one tensor": _twice(kind) for kind in BinaryKind},
    "AVERAGE_POOL_2D": lambda rng: pool(rng, is_max=False),
    "MAX_POOL_2D": lambda rng: pool(rng, is_max=True),
    "MEAN": mean,
    "SOFTMAX": softmax,
    "PAD": pad,
    "CONCATENATION": concatenation,
    "SPLIT": split,
    "STRIDED_SLICE": strided_slice,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
}
