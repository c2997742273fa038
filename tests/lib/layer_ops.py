"""Layers with weights at the ends of what is legal, some with an ADD behind; and their kernels.

`LAYERS[name](rng)` makes a graph: multipliers of every shift side by side, weights of -128, zero
points at the ends, biases near 2^30, kernels larger than the image, dilation, padding on any side.
As a script, like `kernel_calls`: random layers on the heap under the address sanitizer.
"""

import ctypes
import sys
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from kernel_calls import Heap, run_calls, sizes_of
from single_op import ACTS, Builder, Params, Rng, f32, pick

from ndtool.export.codegen.lower import lower
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.codegen.program import Call
from ndtool.export.int8.ir import (
    Activation,
    Binary,
    BinaryKind,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Padding,
    PaddingKind,
    Pads,
    TensorId,
)
from ndtool.quant.kernels import Window

KERNELS = (
    "nd_conv_add_s8",
    "nd_conv_s8",
    "nd_depthwise_s8",
    "nd_fully_connected_s8",
    "nd_gemm_s8",
    "nd_patch_s8",
    "nd_pointwise_add_s8",
    "nd_pointwise_s8",
)
SHIFTS = (-31, -30, -25, -24, -23, -22, -9, -7, -2, -1, 0, 1, 3, 8, 30)
INT32_ROOM = 2**31 - 200  # of an accumulator, with a zero point to be added


def numbers(
    rng: Rng, b: Builder, shape: tuple[int, ...], axis: int, x: Params, *, per_channel: bool
) -> tuple[TensorId, TensorId | None, Params]:
    """(weight, bias, output parameters); each channel's sums fit int32 after its left shift."""
    c_out = shape[axis]
    taps = int(np.prod(shape)) // c_out
    out = (f32(2.0 ** rng.integers(-6, 3)), zero_point(rng))
    shifts = rng.choice(SHIFTS if rng.random() < 0.5 else [-9, -8, -7, -2], c_out)
    if not per_channel:
        shifts[:] = shifts[0]
    # a power of two is the least multiplier, 2^30; just below the next one is the largest
    mantissa = np.where(rng.random(c_out) < 0.2, 0.5, rng.uniform(0.5, 0.9999999, c_out))
    scales = [f32(v) for v in mantissa * 2.0**shifts * out[0] / x[0]]
    scales = scales if per_channel else scales[:1]
    left = np.maximum(shifts, 0)
    reach = 128 + abs(x[1])
    most = np.minimum((INT32_ROOM >> (left + 1)) // (taps * reach), 128)
    values = rng.integers(-most, np.minimum(most, 127) + 1, (taps, c_out))
    values = np.where((rng.random((taps, c_out)) < 0.1) & (most == 128), -128, values)
    if rng.random() < 0.1:
        values = np.where(most == 128, -128, values)
    room = (INT32_ROOM >> left) - np.abs(values).sum(axis=0) * reach
    typical = np.minimum(np.sqrt(taps) * 80 * 60, room).astype(np.int64)
    bound = np.where(rng.random(c_out) < 0.3, np.minimum(room, 2**30), typical)
    bias = rng.integers(-bound, bound + 1)
    others = [n for i, n in enumerate(shape) if i != axis]
    weight = b.int8(np.moveaxis(values.reshape(*others, c_out), -1, axis), scales, axis)
    bias_scales = [f32(np.float32(x[0]) * np.float32(s)) for s in scales]
    return weight, b.int32(bias, bias_scales) if rng.random() < 0.9 else None, out


def zero_point(rng: Rng) -> int:
    return int(rng.choice([-128, 0, 127, int(rng.integers(-128, 128))]))


def input_params(rng: Rng) -> Params:
    return f32(2.0 ** rng.integers(-8, 2)), zero_point(rng)


def geometry(rng: Rng, padding: Padding) -> tuple[list[int], list[Window]]:
    """(image size, window) of rows and columns with at least one position each."""
    same = padding is PaddingKind.SAME
    pads = ((0, 0), (0, 0))
    if isinstance(padding, Pads):
        pads = ((padding.top, padding.bottom), (padding.left, padding.right))
    sizes, windows = [], []
    for both in pads:
        while True:
            size = int(rng.integers(1, 10))
            kernel, stride = int(rng.choice([1, 2, 3, 3, 3, 4, 5])), int(rng.integers(1, 4))
            dilation = int(rng.choice([1, 1, 1, 2, 3]))
            window = Window(kernel, stride, 1 if kernel == 1 else dilation, same, both)
            if window.output(size) >= 1:
                break
        sizes.append(size)
        windows.append(window)
    return sizes, windows


def any_padding(rng: Rng) -> Padding:
    top, left, bottom, right = (int(v) for v in rng.integers(0, 5, 4))
    pads = Pads(top=top, left=left, bottom=bottom, right=right)
    return pick(rng, [PaddingKind.SAME, PaddingKind.SAME, PaddingKind.VALID, pads])


def graph(b: Builder, ops: Sequence[object], inputs: Sequence[TensorId]) -> Graph:
    outputs = (ops[-1].out,)
    return Graph(tensors=tuple(b.tensors), ops=tuple(ops), inputs=tuple(inputs), outputs=outputs)


def conv(rng: Rng, b: Builder, channels: tuple[int, int], *, pointwise: bool) -> Conv2D:
    padding = PaddingKind.VALID if pointwise else any_padding(rng)
    sizes, windows = geometry(rng, padding)
    if pointwise:
        windows = [Window(1, 1, 1, same=False)] * 2
    (c_in, c_out), x = channels, input_params(rng)
    kernel = (windows[0].kernel, windows[1].kernel)
    weight, bias, out = numbers(
        rng, b, (c_out, *kernel, c_in), 0, x, per_channel=rng.random() < 0.8
    )
    places = [w.output(n) for w, n in zip(windows, sizes, strict=True)]
    return Conv2D(
        x=b.activation((1, *sizes, c_in), x),
        weight=weight,
        bias=bias,
        out=b.activation((1, *places, c_out), out),
        stride=(windows[0].stride, windows[1].stride),
        dilation=(windows[0].dilation, windows[1].dilation),
        padding=padding,
        act=pick(rng, ACTS),
    )


def conv_2d(rng: Rng) -> Graph:
    b = Builder()
    op = conv(rng, b, tuple(int(n) for n in rng.integers(1, 10, 2)), pointwise=False)
    return graph(b, [op], [op.x])


def pointwise(rng: Rng) -> Graph:
    b = Builder()
    op = conv(rng, b, tuple(int(n) for n in rng.integers(1, 20, 2)), pointwise=True)
    return graph(b, [op], [op.x])


def with_add(rng: Rng) -> Graph:
    """A convolution and the ADD of its output and another input, or of its own input."""
    b = Builder()
    channels = tuple(int(n) for n in rng.integers(1, 8, 2))
    if rng.random() < 0.3:
        channels = channels[:1] * 2
    op = conv(rng, b, channels, pointwise=bool(rng.random() < 0.5))
    made, x = b.tensors[op.out], b.tensors[op.x]
    if x.shape == made.shape and rng.random() < 0.7:
        other = op.x
    else:
        other = b.activation(made.shape, (made.scale * 2.0 ** rng.integers(-3, 4), zero_point(rng)))
    largest = max(made.scale, b.tensors[other].scale)
    total = b.activation(made.shape, (largest * rng.uniform(0.3, 3), zero_point(rng)))
    pair = (op.out, other) if rng.random() < 0.5 else (other, op.out)
    add = Binary(kind=BinaryKind.ADD, a=pair[0], b=pair[1], out=total, act=pick(rng, ACTS))
    return graph(b, [op, add], dict.fromkeys((op.x, other)))


def depthwise(rng: Rng) -> Graph:
    b, padding, x = Builder(), any_padding(rng), input_params(rng)
    sizes, windows = geometry(rng, padding)
    if rng.random() < 0.3:
        sizes[0] = int(rng.integers(20, 90))  # more rows than one band
    c_in, multiplier = int(rng.integers(1, 6)), int(rng.choice([1, 1, 2, 3]))
    kernel = (windows[0].kernel, windows[1].kernel)
    shape = (1, *kernel, c_in * multiplier)
    weight, bias, out = numbers(rng, b, shape, 3, x, per_channel=rng.random() < 0.8)
    places = [w.output(n) for w, n in zip(windows, sizes, strict=True)]
    op = DepthwiseConv2D(
        x=b.activation((1, *sizes, c_in), x),
        weight=weight,
        bias=bias,
        out=b.activation((1, *places, c_in * multiplier), out),
        stride=(windows[0].stride, windows[1].stride),
        dilation=(windows[0].dilation, windows[1].dilation),
        padding=padding,
        act=pick(rng, ACTS),
        multiplier=multiplier,
    )
    return graph(b, [op], [op.x])


def fully_connected(rng: Rng) -> Graph:
    b, x = Builder(), input_params(rng)
    c_in, c_out = (int(n) for n in rng.integers(1, 40, 2))
    rows = int(rng.choice([1, 1, 2, 5]))
    per_channel = bool(rng.random() < 0.5)
    weight, bias, out = numbers(rng, b, (c_out, c_in), 0, x, per_channel=per_channel)
    op = FullyConnected(
        x=b.activation((1, rows, c_in), x),
        weight=weight,
        bias=bias,
        out=b.activation((1, rows, c_out), out),
        act=Activation.NONE if out[0] > 1 else pick(rng, ACTS),
        keep_num_dims=True,
    )
    return graph(b, [op], [op.x])


LAYERS: dict[str, Callable[[Rng], Graph]] = {
    "conv": conv_2d,
    "pointwise": pointwise,
    "with ADD": with_add,
    "depthwise": depthwise,
    "fully connected": fully_connected,
}


def random_layer(name: str, number: int) -> Graph:
    return LAYERS[name](np.random.default_rng([zlib.crc32(name.encode()), number]))


def calls_of(graph: Graph) -> tuple[Call, ...]:
    return lower(Passed(graph=graph)).calls


def main(path: str, cases: int) -> None:
    """Run random layers on random bytes; the sanitizer ends the process at a fault."""
    library = ctypes.CDLL(path)
    rng = np.random.default_rng(0)
    count = 0
    for name in LAYERS:
        for number in range(cases):
            layer = random_layer(name, number)
            heap = Heap(sizes_of(layer))
            for tensor in layer.inputs:
                data = rng.integers(0, 256, layer.tensor(tensor).elements).astype(np.uint8)
                ctypes.memmove(heap.address(tensor), data.tobytes(), data.size)
            run_calls(library, calls_of(layer), heap)
            heap.free()
            count += 1
    sys.stdout.write(f"{count} cases\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
