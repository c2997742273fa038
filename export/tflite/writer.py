"""Int8 graph -> .tflite, the same bytes every time (quantisation, section 4).

Constants lie at multiples of 16 bytes, which the object API of the schema does not give. Equal
vectors, quantisations and options are written once and shared. Zero points are written in full,
since LiteRT refuses a single one for many scales; bias scales only where a kernel reads them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import combinations, product

from ndtool.errors import UnsupportedError, raise_all, require
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import (
    Activation,
    Binary,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    DType,
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
    Tensor,
    TensorId,
    Unary,
    UnaryKind,
    op_inputs,
    op_name,
    op_outputs,
)
from ndtool.export.int8.spec import verify
from ndtool.export.tflite.schema import (
    BUFFER_ALIGN,
    IDENTIFIER,
    SCHEMA_VERSION,
    load_schema,
)
from ndtool.export.tflite.versions import operator_version

Offset = int  # of an object in the growing file, from its end
Field = int | float | bool


def write_tflite(graph: Graph, *, description: str) -> bytes:
    """A .tflite file that TFLM and LiteRT load.

    Raises:
        UnsupportedError: `graph` breaks a rule of `export.int8.spec`, or has what no file holds.
        ToolMissingError: the extra `export` is not installed.
    """
    verify(graph)
    raise_all([_unwritable(i, op) for i, op in enumerate(graph.ops) if not _is_writable(graph, op)])
    file = _File()
    datas, buffers = _constants(file, graph)
    scaled_biases = _biases_with_scales(graph)
    tensors = [
        _tensor(file, tensor, datas, with_scales=_is_scaled(graph, TensorId(i), scaled_biases))
        for i, tensor in enumerate(graph.tensors)
    ]
    codes = [(op_name(op), operator_version(graph, op)) for op in graph.ops]
    distinct = list(dict.fromkeys(codes))
    ops = [
        _operator(file, graph, op, distinct.index(code))
        for op, code in zip(graph.ops, codes, strict=True)
    ]
    subgraph = file.table(
        "SubGraph",
        Tensors=file.offsets(tensors),
        Inputs=file.int32s(graph.inputs),
        Outputs=file.int32s(graph.outputs),
        Operators=file.offsets(ops),
    )
    model = file.table(
        "Model",
        Version=SCHEMA_VERSION,
        OperatorCodes=file.offsets([_operator_code(file, *code) for code in distinct]),
        Subgraphs=file.offsets([subgraph]),
        Description=file.string(description),
        Buffers=file.offsets(buffers),
    )
    return file.finish(model)


def _is_writable(graph: Graph, op: Op) -> bool:
    """Whether a file can say it: passes make explicit padding and slices without constants."""
    match op:
        case Conv2D() | DepthwiseConv2D():
            return not isinstance(op.padding, Pads)
        case StridedSlice():
            return _slice_masks(graph, op) is not None
        case _:
            return True


def _unwritable(index: int, op: Op) -> UnsupportedError:
    return UnsupportedError(
        "explicit padding" if isinstance(op, Conv2D | DepthwiseConv2D) else "other constants",
        where=f"op {index} {op_name(op)}",
        remedy="write the graph as it was before the passes",
        code="tflite.unwritable",
    )


class _File:
    """A flatbuffer that grows from its end; equal vectors and shared tables are written once."""

    def __init__(self) -> None:
        self.schema = load_schema()
        self._builder = require("flatbuffers").Builder(1024)
        self._known: dict[tuple[object, ...], Offset] = {}

    def finish(self, root: Offset) -> bytes:
        """The whole file."""
        self._builder.Finish(root, file_identifier=IDENTIFIER)
        return bytes(self._builder.Output())

    def table(self, kind: str, **fields: Field) -> Offset:
        """A table of the schema's type `kind`; fields by their names there."""
        getattr(self.schema, f"{kind}Start")(self._builder)
        for name, value in fields.items():
            getattr(self.schema, f"{kind}Add{name}")(self._builder, value)
        offset: Offset = getattr(self.schema, f"{kind}End")(self._builder)
        return offset

    def shared_table(self, kind: str, **fields: Field) -> Offset:
        """As `table`, written once for equal fields."""
        key = (kind, *fields.items())
        if key not in self._known:
            self._known[key] = self.table(kind, **fields)
        return self._known[key]

    def data(self, values: bytes) -> Offset:
        """A constant's bytes at a multiple of 16."""
        return self._vector(values, item_size=1, align=BUFFER_ALIGN)

    def int32s(self, values: Sequence[int]) -> Offset:
        """A shared vector of int32."""
        return self._vector(struct.pack(f"<{len(values)}i", *values), item_size=4, align=4)

    def int64s(self, values: Sequence[int]) -> Offset:
        """A shared vector of int64."""
        return self._vector(struct.pack(f"<{len(values)}q", *values), item_size=8, align=8)

    def float32s(self, values: Sequence[float]) -> Offset:
        """A shared vector of float32."""
        return self._vector(struct.pack(f"<{len(values)}f", *values), item_size=4, align=4)

    def _vector(self, values: bytes, *, item_size: int, align: int) -> Offset:
        key = ("vector", values, item_size, align)
        if key not in self._known:
            builder = self._builder
            builder.StartVector(item_size, len(values) // item_size, align)
            builder.head -= len(values)
            builder.Bytes[builder.head : builder.head + len(values)] = values
            self._known[key] = builder.EndVector()
        return self._known[key]

    def string(self, text: str) -> Offset:
        """A shared string."""
        key = ("string", text)
        if key not in self._known:
            self._known[key] = self._builder.CreateString(text)
        return self._known[key]

    def offsets(self, values: Sequence[Offset]) -> Offset:
        """A vector of tables."""
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            self._builder.PrependUOffsetTRelative(value)
        offset: Offset = self._builder.EndVector()
        return offset


def _constants(file: _File, graph: Graph) -> tuple[dict[bytes, int], list[Offset]]:
    """Buffer number of each distinct constant, and all buffers; the first one is empty."""
    datas = dict.fromkeys(t.data for t in graph.tensors if t.data is not None)
    buffers = [file.table("Buffer")]
    buffers += [file.table("Buffer", Data=file.data(data)) for data in datas]
    return {data: i for i, data in enumerate(datas, start=1)}, buffers


def _biases_with_scales(graph: Graph) -> frozenset[TensorId]:
    """Biases whose scale TFLM reads: those of FULLY_CONNECTED with one weight scale."""
    return frozenset(
        op.bias
        for op in graph.ops
        if isinstance(op, FullyConnected)
        and op.bias is not None
        and derive.is_per_tensor_fc(graph, op)
    )


def _is_scaled(graph: Graph, index: TensorId, scaled_biases: frozenset[TensorId]) -> bool:
    """Whether the tensor's scales go into the file: all but most biases'."""
    return graph.tensor(index).dtype is DType.INT8 or index in scaled_biases


def _tensor(file: _File, tensor: Tensor, datas: dict[bytes, int], *, with_scales: bool) -> Offset:
    types = {DType.INT8: file.schema.TensorType.INT8, DType.INT32: file.schema.TensorType.INT32}
    fields: dict[str, Field] = {
        "Shape": file.int32s(tensor.shape),
        "Type": types[tensor.dtype],
        "Buffer": 0 if tensor.data is None else datas[tensor.data],
        "Name": file.string(tensor.name),
    }
    if tensor.scales and with_scales:
        fields["Quantization"] = file.shared_table(
            "QuantizationParameters",
            Scale=file.float32s(tensor.scales),
            ZeroPoint=file.int64s(tensor.zero_points),
            QuantizedDimension=tensor.quantized_dim,
        )
    return file.table("Tensor", **fields)


def _operator_code(file: _File, name: str, version: int) -> Offset:
    code = getattr(file.schema.BuiltinOperator, name)
    return file.table(
        "OperatorCode", DeprecatedBuiltinCode=min(code, 127), Version=version, BuiltinCode=code
    )


def _operator(file: _File, graph: Graph, op: Op, code_index: int) -> Offset:
    fields: dict[str, Field] = {
        "OpcodeIndex": code_index,
        "Inputs": file.int32s(op_inputs(op)),
        "Outputs": file.int32s(op_outputs(op)),
    }
    kind, options = _options(file, graph, op)
    if kind:
        fields["BuiltinOptionsType"] = getattr(file.schema.BuiltinOptions, kind)
        fields["BuiltinOptions"] = file.shared_table(kind, **options)
    return file.table("Operator", **fields)


def _options(file: _File, graph: Graph, op: Op) -> tuple[str, dict[str, Field]]:
    """Type and fields of the op's options; no type where it has none."""

    def act(activation: Activation) -> int:
        return int(getattr(file.schema.ActivationFunctionType, activation))

    def padding(kind: Padding) -> int:
        assert isinstance(kind, PaddingKind), "found by _is_writable"
        return int(getattr(file.schema.Padding, kind))

    match op:
        case Conv2D() | DepthwiseConv2D():
            fields: dict[str, Field] = {
                "Padding": padding(op.padding),
                "StrideH": op.stride[0],
                "StrideW": op.stride[1],
                "FusedActivationFunction": act(op.act),
                "DilationHFactor": op.dilation[0],
                "DilationWFactor": op.dilation[1],
            }
            if isinstance(op, Conv2D):
                return "Conv2DOptions", fields
            return "DepthwiseConv2DOptions", {**fields, "DepthMultiplier": op.multiplier}
        case FullyConnected():
            return "FullyConnectedOptions", {
                "FusedActivationFunction": act(op.act),
                "KeepNumDims": op.keep_num_dims,
            }
        case Binary():
            kind = f"{op.kind.value.capitalize()}Options"
            return kind, {"FusedActivationFunction": act(op.act)}
        case Pool2D():
            return "Pool2DOptions", {
                "Padding": padding(op.padding),
                "StrideH": op.stride[0],
                "StrideW": op.stride[1],
                "FilterHeight": op.kernel[0],
                "FilterWidth": op.kernel[1],
                "FusedActivationFunction": act(op.act),
            }
        case Mean():
            return "ReducerOptions", {"KeepDims": op.keep_dims}
        case Reshape() if op.shape_id is None:
            return "ReshapeOptions", {"NewShape": file.int32s(graph.tensor(op.out).shape)}
        case Concat():
            return "ConcatenationOptions", {"Axis": op.axis}
        case Softmax():
            return "SoftmaxOptions", {"Beta": op.beta}
        case Unary(kind=UnaryKind.LEAKY_RELU):
            return "LeakyReluOptions", {"Alpha": op.alpha}
        case Pad():
            return "PadOptions", {}
        case Squeeze():
            shapes = (graph.tensor(op.x).shape, graph.tensor(op.out).shape)
            axes = derive.dropped_axes(*shapes)
            assert axes is not None, "checked by the spec"
            return "SqueezeOptions", {"SqueezeDims": file.int32s(axes)}
        case Split():
            return "SplitOptions", {"NumSplits": len(op.outs)}
        case StridedSlice():
            masks = _slice_masks(graph, op)
            assert masks is not None, "found by _is_writable"
            begin, end, shrink = masks
            return "StridedSliceOptions", {
                "BeginMask": begin,
                "EndMask": end,
                "ShrinkAxisMask": shrink,
            }
        case ResizeNearest():
            return "ResizeNearestNeighborOptions", {
                "AlignCorners": op.align_corners,
                "HalfPixelCenters": op.half_pixel_centers,
            }
        case Reshape() | Unary():
            return "", {}


def _slice_masks(graph: Graph, op: StridedSlice) -> tuple[int, int, int] | None:
    """Begin, end and shrink masks with which the op's constants mean what it says; else None."""
    x, out = graph.tensor(op.x).shape, graph.tensor(op.out).shape
    columns = [derive.int32_values(graph.tensor(c)).ravel().tolist() for c in op.constants]
    if {len(column) for column in columns} != {len(x)}:
        return None
    ones = [axis for axis, size in enumerate(op.sizes) if size == 1]
    for shrunk in combinations(ones, len(x) - len(out)):
        kept = tuple(size for axis, size in enumerate(op.sizes) if axis not in shrunk)
        rows = zip(x, *columns, strict=True)
        bits = [_slice_bits(op, axis, *row, shrink=axis in shrunk) for axis, row in enumerate(rows)]
        if kept == out and None not in bits:
            begin, end = zip(*filter(None, bits), strict=True)
            return _mask(begin), _mask(end), _mask([axis in shrunk for axis in range(len(x))])
    return None


def _slice_bits(
    op: StridedSlice, axis: int, n: int, begin: int, end: int, stride: int, *, shrink: bool
) -> tuple[bool, bool] | None:
    """Mask bits of one axis with which the file's numbers take what `op` says."""
    wanted = derive.SliceAxis(begin=op.begin[axis], stride=op.strides[axis], size=op.sizes[axis])
    for from_first, to_last in product((False, True), repeat=2):
        masks = {"from_first": from_first, "to_last": to_last, "shrink": shrink}
        if stride and derive.slice_axis(n, begin, end, stride, **masks) == wanted:
            return from_first, to_last
    return None


def _mask(bits: Sequence[bool]) -> int:
    return sum(bit << axis for axis, bit in enumerate(bits))
