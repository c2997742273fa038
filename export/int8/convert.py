"""Float graph and activation ranges -> int8 graph: the native converter.

A pure function: the same graph, ranges and options give the same int8 graph on every machine, and
through `tflite.writer` the same bytes. Scales and zero points come from `parameters`, weights and
biases from `ndtool.quant.scales`; here an operation becomes TFLite's (quantisation, section 3).
Nothing is inserted but a PAD where neither SAME nor VALID says what the padding is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndtool.console import visible
from ndtool.errors import NdError, raise_all
from ndtool.export.graph import ir as fg
from ndtool.export.int8 import ir as qg
from ndtool.export.int8.accepted import not_finite, padded_shape, unaccepted
from ndtool.export.int8.ir import Activation, DType, PaddingKind, TensorId
from ndtool.export.int8.parameters import Range, assign_parameters, unsupported
from ndtool.export.int8.spec import verify
from ndtool.quant import scales
from ndtool.quant.kernels import Window
from ndtool.quant.scales import LayerNumbers, ScaleZero
from ndtool.types import FcScales

NO_PADDING: Final = fg.Padding(top=0, left=0, bottom=0, right=0)

# CLIP_0_1 is the saturation of its output's parameters (section 2, rule 9)
ACTIVATIONS: Final[Mapping[fg.Fused, Activation]] = {
    fg.Fused.NONE: Activation.NONE,
    fg.Fused.RELU: Activation.RELU,
    fg.Fused.RELU6: Activation.RELU6,
    fg.Fused.CLIP_0_1: Activation.NONE,
    fg.Fused.CLIP_N1_1: Activation.RELU_N1_TO_1,
}
# A separate RELU6 requantises as RELU does; its clamp at 6 is the end of its output's range.
UNARY: Final[Mapping[fg.UnaryKind, qg.UnaryKind]] = {
    fg.UnaryKind.HARD_SWISH: qg.UnaryKind.HARD_SWISH,
    fg.UnaryKind.LOGISTIC: qg.UnaryKind.LOGISTIC,
    fg.UnaryKind.TANH: qg.UnaryKind.TANH,
    fg.UnaryKind.LEAKY_RELU: qg.UnaryKind.LEAKY_RELU,
    fg.UnaryKind.RELU: qg.UnaryKind.RELU,
    fg.UnaryKind.RELU6: qg.UnaryKind.RELU,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """`input`: scale and zero point that the contract fixes, by input name; None: from the ranges.

    `fc`: per tensor is what old TFLM releases and Hexagon builds read (1.1).
    """

    fc: FcScales = FcScales.PER_CHANNEL
    input: Mapping[str, tuple[float, int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """`names`: (tensor of the int8 graph, tensor of the float graph that it holds) in file order.

    Index tensors (axes, shapes, paddings) have no counterpart and are not in `names`.
    """

    graph: qg.Graph
    warnings: tuple[str, ...]
    names: tuple[tuple[str, str], ...]


def convert(
    graph: fg.FloatGraph, ranges: Mapping[str, Range], options: ConvertOptions
) -> Converted:
    """The int8 graph of `graph`; `ranges` is keyed by `FloatTensor.source`.

    Raises:
        InputError: a range is missing or upside down.
        UnsupportedError: NaN or infinite weights, biases or ranges, and every operation that
            int8 TFLite does not have in this form.
    """
    raise_all(unaccepted(graph))
    raise_all(not_finite(graph))
    parameters = assign_parameters(graph, ranges, options.input or {})
    builder = _Builder(graph, parameters.of, options.fc)
    inputs = tuple(builder.activation(name) for name in graph.inputs)
    for op in graph.ops:
        builder.add(op)
    raise_all(builder.problems)
    outputs = tuple(builder.activation(name) for name in graph.outputs)
    made = qg.Graph(
        tensors=tuple(builder.tensors), ops=tuple(builder.ops), inputs=inputs, outputs=outputs
    )
    verify(made, where="int8 graph")
    return Converted(
        graph=made,
        warnings=(*parameters.warnings, *builder.warnings),
        names=tuple(builder.names),
    )


def padding_kind(
    x: tuple[int, ...], rows: tuple[int, int, int], columns: tuple[int, int, int], pad: fg.Padding
) -> PaddingKind | None:
    """TFLite's name for `pad` on an image `x` (1, h, w, c); None: it needs a PAD (3.1).

    `rows`, `columns`: kernel, stride, dilation. SAME puts an odd pixel at the end; with nothing to
    pad it equals VALID, so that one axis with padding and one without can still be SAME.
    """
    if pad == NO_PADDING:
        return PaddingKind.VALID
    vertical = Window(*rows, same=True).padding(x[1])
    horizontal = Window(*columns, same=True).padding(x[2])
    if (vertical, horizontal) == ((pad.top, pad.bottom), (pad.left, pad.right)):
        return PaddingKind.SAME
    return None


class _Builder:
    """Collects tensors in the order in which operations first need them."""

    def __init__(self, graph: fg.FloatGraph, params: Mapping[str, ScaleZero], fc: FcScales) -> None:
        self.graph = graph
        self.params = params
        self.fc = fc
        self.tensors: list[qg.Tensor] = []
        self.ops: list[qg.Op] = []
        self.names: list[tuple[str, str]] = []
        self.warnings: list[str] = []
        self.problems: list[NdError] = []
        self._ids: dict[str, TensorId] = {}  # activations and constant operands, by float name
        self._indices: dict[tuple[tuple[int, ...], bytes], TensorId] = {}
        self._taken: set[str] = set()

    def activation(self, name: str) -> TensorId:
        """The tensor of that float name; a constant operand is quantised like an activation."""
        if name not in self._ids:
            tensor, params = self.graph.tensors[name], self.params[name]
            data = tensor.data
            self._ids[name] = self._new(
                name,
                tensor.shape or (1,),
                params,
                None if data is None else scales.quantize_values(data, params).tobytes(),
            )
        return self._ids[name]

    def add(self, op: fg.FloatOp) -> None:
        """Append what `op` becomes."""
        match op:
            case fg.Conv():
                self._conv(op)
            case fg.FullyConnected():
                self._fully_connected(op)
            case fg.Mean():
                self._mean(op)
            case fg.Binary():
                a, b = self.activation(op.a), self.activation(op.b)
                kind, act = qg.BinaryKind(op.kind.name), ACTIVATIONS[op.act]
                out = self.activation(op.out)
                self.ops.append(qg.Binary(kind=kind, a=a, b=b, out=out, act=act))
            case fg.Unary():
                slope = op.alpha if op.kind is fg.UnaryKind.LEAKY_RELU else 0.0
                x, out = self.activation(op.x), self.activation(op.out)
                self.ops.append(
                    qg.Unary(kind=UNARY[op.kind], x=x, out=out, alpha=scales.to_float32(slope))
                )
            case fg.Pool():
                self._pool(op)
            case fg.Pad():
                self._pad(self.activation(op.x), self.activation(op.out), op.name, op.padding)
            case fg.Reshape():
                self._reshape(op)
            case fg.Concat():
                xs = tuple(self.activation(x) for x in op.xs)
                axis = op.axis % len(self.graph.tensors[op.out].shape)
                self.ops.append(qg.Concat(xs=xs, out=self.activation(op.out), axis=axis))
            case fg.Softmax():
                x, out = self.activation(op.x), self.activation(op.out)
                self.ops.append(qg.Softmax(x=x, out=out, beta=1.0))

    # -- tensors --

    def _new(
        self, source: str, shape: tuple[int, ...], params: ScaleZero, data: bytes | None
    ) -> TensorId:
        """An int8 tensor with one scale that stands for the float tensor `source`."""
        return self._append(
            qg.Tensor(
                name=self._unique(source),
                shape=shape,
                dtype=DType.INT8,
                scales=(params.scale,),
                zero_points=(params.zero_point,),
                data=data,
            ),
            source,
        )

    def _append(self, tensor: qg.Tensor, source: str) -> TensorId:
        self.tensors.append(tensor)
        if source:
            self.names.append((tensor.name, source))
        return TensorId(len(self.tensors) - 1)

    def _unique(self, name: str) -> str:
        """`name`, or with a number where two layers share one float tensor."""
        number, free = 1, name
        while free in self._taken or (number > 1 and free in self.graph.tensors):
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free

    def _index(self, name: str, values: NDArray[np.int32]) -> TensorId:
        """An int32 constant of axes, paddings or a shape; equal ones are written once."""
        data = values.astype("<i4").tobytes()
        key = (values.shape, data)
        if key not in self._indices:
            tensor = qg.Tensor(
                name=self._unique(name), shape=values.shape, dtype=DType.INT32, data=data
            )
            self._indices[key] = self._append(tensor, "")
        return self._indices[key]

    # -- operations with weights --

    def _conv(self, op: fg.Conv) -> None:
        weight = _data(self.graph.tensors[op.weight])
        if op.depthwise:  # (1, kh, kw, c) -> (c, kh * kw)
            rows = weight.reshape(-1, weight.shape[3]).T
        else:
            rows = weight.reshape(len(weight), -1)
        bias = _data(self.graph.tensors[op.bias])
        x_params, out_params = self.params[op.x], self.params[op.out]
        numbers = scales.quantize_per_channel(rows, bias, x=x_params, out=out_params)
        self._judge(op, numbers)
        x = self.activation(op.x)
        shape = self.graph.tensors[op.x].shape
        padding = padding_kind(
            shape,
            (weight.shape[1], op.stride[0], op.dilation[0]),
            (weight.shape[2], op.stride[1], op.dilation[1]),
            op.padding,
        )
        if padding is None:
            x, padding = self._padded(x, op.x, op.name, op.padding), PaddingKind.VALID
        quantized = numbers.weight.T if op.depthwise else numbers.weight
        weight_id = self._weight(
            op.weight, weight.shape, quantized, numbers, axis=3 if op.depthwise else 0
        )
        bias_id = self._bias(op.bias, numbers)
        out = self.activation(op.out)
        act = ACTIVATIONS[op.act]
        if op.depthwise:
            self.ops.append(
                qg.DepthwiseConv2D(
                    x=x,
                    weight=weight_id,
                    bias=bias_id,
                    out=out,
                    stride=op.stride,
                    dilation=op.dilation,
                    padding=padding,
                    act=act,
                    multiplier=weight.shape[3] // shape[3],
                )
            )
        else:
            self.ops.append(
                qg.Conv2D(
                    x=x,
                    weight=weight_id,
                    bias=bias_id,
                    out=out,
                    stride=op.stride,
                    dilation=op.dilation,
                    padding=padding,
                    act=act,
                )
            )

    def _fully_connected(self, op: fg.FullyConnected) -> None:
        rows = _data(self.graph.tensors[op.weight])
        bias = _data(self.graph.tensors[op.bias])
        x_params, out_params = self.params[op.x], self.params[op.out]
        # The kernel takes a single scale for "per tensor", one output channel or not (1.2).
        if self.fc is FcScales.PER_TENSOR or len(rows) == 1:
            numbers = scales.quantize_per_tensor(rows, bias, x=x_params, out=out_params)
            if numbers.coarsened:
                self.warnings.append(
                    f"{visible(op.name)}: all weights are coarser for the sake of the bias of "
                    f"output {numbers.coarsened[0]}; per-channel scales avoid that"
                )
        else:
            numbers = scales.quantize_per_channel(rows, bias, x=x_params, out=out_params)
        self._judge(op, numbers)
        x = self.activation(op.x)
        weight = self._weight(op.weight, rows.shape, numbers.weight, numbers, axis=0)
        self.ops.append(
            qg.FullyConnected(
                x=x,
                weight=weight,
                bias=self._bias(op.bias, numbers),
                out=self.activation(op.out),
                act=ACTIVATIONS[op.act],
                keep_num_dims=False,
            )
        )

    def _judge(self, op: fg.Conv | fg.FullyConnected, numbers: LayerNumbers) -> None:
        """Rules 7 and 8: report raised scales, refuse channels that no scale saves."""
        if numbers.raised:
            self.warnings.append(
                f"{visible(op.name)}: weights of {len(numbers.raised)} channels are coarser, so "
                f"that their sums fit 32 bits (first: {numbers.raised[0]})"
            )
        if numbers.overflowing:
            count, first = len(numbers.overflowing), numbers.overflowing[0]
            self.problems.append(
                unsupported(
                    f"sums of {count} channels leave 32 bits (first: {first}): the output's range "
                    "is far below what its weights give",
                    op.name,
                    "make the ranges from images like those the network was trained on",
                    "quant.overflow",
                )
            )

    def _weight(
        self,
        name: str,
        shape: tuple[int, ...],
        values: NDArray[np.int8],
        numbers: LayerNumbers,
        *,
        axis: int,
    ) -> TensorId:
        return self._append(
            qg.Tensor(
                name=self._unique(name),
                shape=shape,
                dtype=DType.INT8,
                scales=numbers.weight_scales,
                zero_points=(0,) * len(numbers.weight_scales),
                quantized_dim=axis,
                data=np.ascontiguousarray(values).tobytes(),
            ),
            name,
        )

    def _bias(self, name: str, numbers: LayerNumbers) -> TensorId:
        return self._append(
            qg.Tensor(
                name=self._unique(name),
                shape=numbers.bias.shape,
                dtype=DType.INT32,
                scales=numbers.bias_scales,
                zero_points=(0,) * len(numbers.bias_scales),
                data=numbers.bias.astype("<i4").tobytes(),
            ),
            name,
        )

    # -- operations without weights --

    def _mean(self, op: fg.Mean) -> None:
        x = self.activation(op.x)
        axes = (1, 2)
        axes_id = self._index(f"{op.name}/axes", np.array(axes, np.int32))
        out = self.activation(op.out)
        self.ops.append(qg.Mean(x=x, axes_id=axes_id, out=out, axes=axes, keep_dims=op.keep_dims))

    def _reshape(self, op: fg.Reshape) -> None:
        x = self.activation(op.x)
        shape = np.array(self.graph.tensors[op.out].shape, np.int32)
        shape_id = self._index(f"{op.name}/shape", shape)
        self.ops.append(qg.Reshape(x=x, shape_id=shape_id, out=self.activation(op.out)))

    def _pool(self, op: fg.Pool) -> None:
        x = self.activation(op.x)
        rows, columns = (op.kernel[0], op.stride[0], 1), (op.kernel[1], op.stride[1], 1)
        padding = padding_kind(self.graph.tensors[op.x].shape, rows, columns, op.padding)
        if padding is None:
            # PAD fills with zeros: in a maximum they count for nothing only as the least value.
            if not op.is_max or self.params[op.x].zero_point != -128:
                self.problems.append(
                    unsupported(
                        f"Pool: padding {op.padding} is not TFLite's SAME",
                        op.name,
                        "use TensorFlow's SAME padding or none",
                        "convert.padding",
                    )
                )
            x, padding = self._padded(x, op.x, op.name, op.padding), PaddingKind.VALID
        out = self.activation(op.out)
        self.ops.append(
            qg.Pool2D(
                is_max=op.is_max,
                x=x,
                out=out,
                kernel=op.kernel,
                stride=op.stride,
                padding=padding,
                act=Activation.NONE,
            )
        )

    def _padded(self, x: TensorId, source: str, name: str, pad: fg.Padding) -> TensorId:
        """`x` with zeros around it: SAME is shifted by a pixel against this padding (3.1)."""
        self.warnings.append(
            f"{visible(name)}: a PAD is added, its padding is not TFLite's SAME "
            f"(top {pad.top}, left {pad.left}, bottom {pad.bottom}, right {pad.right})"
        )
        shape = padded_shape(self.tensors[x].shape, pad)
        out = self._append(
            qg.Tensor(
                name=self._unique(f"{name}/padded"),
                shape=shape,
                dtype=DType.INT8,
                scales=self.tensors[x].scales,
                zero_points=self.tensors[x].zero_points,
            ),
            source,
        )
        self._pad(x, out, name, pad)
        return out

    def _pad(self, x: TensorId, out: TensorId, name: str, pad: fg.Padding) -> None:
        paddings = ((0, 0), (pad.top, pad.bottom), (pad.left, pad.right), (0, 0))
        paddings_id = self._index(f"{name}/paddings", np.array(paddings, np.int32))
        self.ops.append(qg.Pad(x=x, paddings_id=paddings_id, out=out, paddings=paddings))


def _data(tensor: fg.FloatTensor) -> NDArray[np.float32]:
    assert tensor.data is not None, tensor.name  # `unaccepted` has seen to it
    return tensor.data
