"""The bytes of an ONNX file of unknown origin -> checked plain data.

The only reader of protobuf objects. Everything is bounded and checked before it is used: sizes,
element counts against payloads, attribute types, text. Files that keep weights elsewhere are
refused, so that no path in a model is ever opened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ndtool.console import visible
from ndtool.errors import InputError, UnsupportedError, raise_all, require

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

MAX_BYTES: Final = 512 * 1024 * 1024
MAX_NODES: Final = 20_000
MAX_ELEMENTS: Final = 2**26  # of one tensor; 256 MiB as float32, far above any microcontroller
MAX_RANK: Final = 8
OPSETS: Final = range(7, 23)  # before 7 broadcasting was an attribute; after 22 nobody looked

Array = NDArray[Any]
Attribute = int | float | str | tuple[int, ...] | tuple[float, ...] | Array

# TensorProto.DataType -> numpy type, and the field that holds it when raw_data does not
_ELEMENTS: Final = {
    1: ("<f4", "float_data"),
    6: ("<i4", "int32_data"),
    7: ("<i8", "int64_data"),
    9: ("|b1", "int32_data"),
    11: ("<f8", "double_data"),
}
_FLOAT: Final = 1
_EXTERNAL: Final = 1
_REMEDY: Final = "export the model again, with its weights inside the file"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One ONNX node; `name` is never empty, `where` says which node of which file."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]
    where: str

    def input(self, index: int) -> str:
        """Name of an input, "" where an optional one is absent."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def integer(self, name: str, default: int) -> int:
        """An int attribute; raises InputError when it is of another type."""
        value = self.attributes.get(name, default)
        if isinstance(value, int):
            return value
        raise self._wrong(name)

    def number(self, name: str, default: float) -> float:
        """A finite float attribute; raises InputError when it is none."""
        value = self.attributes.get(name, default)
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise self._wrong(name)

    def text(self, name: str, default: str) -> str:
        """A string attribute; raises InputError when it is of another type."""
        value = self.attributes.get(name, default)
        if isinstance(value, str):
            return value
        raise self._wrong(name)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of ints, None when absent; raises InputError when it is of another type."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if isinstance(value, tuple) and all(isinstance(v, int) for v in value):
            return tuple(int(v) for v in value)
        raise self._wrong(name)

    def _wrong(self, name: str) -> InputError:
        return malformed(f"attribute {name} has a wrong type or value", where=self.where)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OnnxFile:
    """A graph with one float32 image as input and one output, nodes in execution order.

    `input_shape` is NCHW with batch 1. Constants are little-endian arrays, read-only.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    input: str
    input_shape: tuple[int, int, int, int]
    output: str
    opset: int
    where: str


def malformed(what: str, *, where: str) -> InputError:
    """The error for a file that breaks ONNX's own rules."""
    return InputError(what, where=where, remedy=_REMEDY, code="onnx.malformed")


def unsupported(what: str, *, where: str, remedy: str = "change the model") -> UnsupportedError:
    """The error for a valid model that cannot be converted."""
    return UnsupportedError(what, where=where, remedy=remedy, code="onnx.unsupported")


def parse_model(data: bytes, *, where: str) -> ModelProto:
    """The protobuf object, with no tensor outside the file.

    Raises:
        InputError: too large, not ONNX, or weights in another file.
    """
    if len(data) > MAX_BYTES:
        raise InputError(
            f"ONNX file is larger than {MAX_BYTES:,} bytes",
            where=where,
            remedy="use a model that can fit a microcontroller",
            code="onnx.too-large",
        )
    onnx = require("onnx")
    decode_error = require("google.protobuf.message").DecodeError
    try:
        model: ModelProto = onnx.ModelProto.FromString(data)
    except decode_error:
        raise malformed("not an ONNX file, or a damaged one", where=where) from None
    if not model.opset_import or not model.graph.node:
        raise malformed("not an ONNX file, or an empty one", where=where)
    tensors = [*model.graph.initializer]
    for node in model.graph.node:
        tensors += [attribute.t for attribute in node.attribute if attribute.HasField("t")]
    if any(t.data_location == _EXTERNAL or t.external_data for t in tensors):
        raise InputError(
            "the ONNX file keeps its weights in another file",
            where=where,
            remedy="save it with the weights inside (torch: external_data=False)",
            code="onnx.external-data",
        )
    return model


def read_file(data: bytes, *, where: str) -> OnnxFile:
    """The checked content of an ONNX file.

    Raises:
        InputError: not a valid ONNX file.
        UnsupportedError: an opset, a tensor type, an input or an output that cannot be used.
    """
    model = parse_model(data, where=where)
    graph = model.graph
    opset = _opset(model, where=where)
    if model.functions or graph.sparse_initializer:
        raise unsupported("model functions and sparse weights are not supported", where=where)
    if len(graph.node) > MAX_NODES:
        raise unsupported(f"more than {MAX_NODES:,} nodes", where=where)
    constants: dict[str, Array] = {}
    for tensor in graph.initializer:
        name = _text(tensor.name, where=where)
        constants[name] = _array(tensor, where=f"{where}: tensor {visible(name)}")
    name, shape = _image_input(graph, constants, where=where)
    if len(graph.output) != 1:
        raise unsupported(
            f"the model has {len(graph.output)} outputs, not one",
            where=where,
            remedy="export a model that gives only the logits",
        )
    return OnnxFile(
        nodes=_nodes(graph, where=where),
        constants=constants,
        input=name,
        input_shape=shape,
        output=_text(graph.output[0].name, where=where),
        opset=opset,
        where=where,
    )


def _opset(model: ModelProto, *, where: str) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(versions) != 1 or versions[0] not in OPSETS:
        shown = versions[0] if versions else "none"
        raise unsupported(
            f"ONNX opset {shown} is not supported, only {OPSETS[0]} to {OPSETS[-1]}",
            where=where,
            remedy="export the model with opset 17",
        )
    return int(versions[0])


def _image_input(
    graph: GraphProto, constants: Mapping[str, Array], *, where: str
) -> tuple[str, tuple[int, int, int, int]]:
    """Name and NCHW shape of the only input; before IR 4 initialisers are listed as inputs too."""
    given = [i for i in graph.input if _text(i.name, where=where) not in constants]
    if len(given) != 1:
        raise unsupported(
            f"the model has {len(given)} inputs, not one",
            where=where,
            remedy="export a model that takes one image",
        )
    value = given[0]
    place = f"{where}: input {visible(value.name)}"
    if value.type.tensor_type.elem_type != _FLOAT:
        raise unsupported("the input is not a float32 tensor", where=place)
    shape = _input_shape(value)
    remedy = "export with input shape (batch, channels, height, width), all but batch fixed"
    if len(shape) != 4 or shape[0] not in (None, 1):
        raise unsupported("the input is not one image of 4 dimensions", where=place, remedy=remedy)
    channels, height, width = shape[1:]
    if channels is None or height is None or width is None:
        raise unsupported("the input size is not fixed", where=place, remedy=remedy)
    if channels not in (1, 3) or not (0 < height <= 4096 and 0 < width <= 4096):
        raise unsupported(
            f"the input {channels}x{height}x{width} is not a grey or RGB image in CHW order",
            where=place,
            remedy=remedy,
        )
    return value.name, (1, channels, height, width)


def _input_shape(value: ValueInfoProto) -> list[int | None]:
    """Sizes in order, None for a symbolic or absent one."""
    return [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value != 0 else None
        for dim in value.type.tensor_type.shape.dim
    ]


def _nodes(graph: GraphProto, *, where: str) -> tuple[Node, ...]:
    """Nodes with attributes as plain values; those of foreign domains are listed and refused."""
    nodes: list[Node] = []
    foreign: list[UnsupportedError] = []
    for index, proto in enumerate(graph.node):
        op = _text(proto.op_type, where=where)
        own_name = _text(proto.name, where=where)
        place = f"{where}: node {index} {visible(op)} {visible(own_name)}".rstrip()
        if proto.domain not in ("", "ai.onnx"):
            foreign.append(
                unsupported(
                    f"operator {visible(op)} is of domain {visible(str(proto.domain))}", where=place
                )
            )
            continue
        nodes.append(
            Node(
                name=own_name or f"{op}_{index}",
                op=op,
                inputs=_texts(proto.input, where=place),
                outputs=_texts(proto.output, where=place),
                attributes=_attributes(proto, where=place),
                where=place,
            )
        )
    raise_all(foreign)
    return tuple(nodes)


def _attributes(node: NodeProto, *, where: str) -> dict[str, Attribute]:
    """Attributes of the plain types; a graph or type attribute belongs to no operator we know."""
    found: dict[str, Attribute] = {}
    for attribute in node.attribute:
        value = _attribute(attribute, where=where)
        if value is not None:
            found[_text(attribute.name, where=where)] = value
    return found


def _attribute(attribute: AttributeProto, *, where: str) -> Attribute | None:
    kinds = type(attribute)
    match attribute.type:
        case kinds.FLOAT:
            return attribute.f
        case kinds.INT:
            return attribute.i
        case kinds.STRING:
            return attribute.s.decode("utf-8", "replace")
        case kinds.TENSOR:
            return _array(attribute.t, where=where)
        case kinds.FLOATS:
            return tuple(attribute.floats)
        case kinds.INTS:
            return tuple(attribute.ints)
        case _:
            return None


def _array(tensor: TensorProto, *, where: str) -> Array:
    """The tensor's values; its payload must hold exactly what its dimensions say."""
    kind = _ELEMENTS.get(tensor.data_type)
    if kind is None:
        raise unsupported(
            f"tensor element type {tensor.data_type} is not supported",
            where=where,
            remedy="export the model in float32, unquantised",
        )
    dims = tuple(tensor.dims)
    if len(dims) > MAX_RANK or not all(0 <= n <= MAX_ELEMENTS for n in dims):
        raise malformed("bad tensor dimensions", where=where)
    count = math.prod(dims)
    dtype, field = np.dtype(kind[0]), kind[1]
    values: Sequence[float] = getattr(tensor, field)
    size = len(tensor.raw_data) // dtype.itemsize if tensor.raw_data else len(values)
    if count > MAX_ELEMENTS or size != count or len(tensor.raw_data) % dtype.itemsize:
        raise malformed("tensor data and dimensions disagree", where=where)
    flat: Array
    if tensor.raw_data:
        flat = np.frombuffer(tensor.raw_data, dtype)
    else:
        flat = np.array(values, dtype)
        flat.flags.writeable = False
    return flat.reshape(dims)


def _texts(values: Sequence[str], *, where: str) -> tuple[str, ...]:
    return tuple(_text(value, where=where) for value in values)


def _text(value: object, *, where: str) -> str:
    """A protobuf string; what is not UTF-8 comes as bytes and is refused."""
    if not isinstance(value, str):
        raise malformed("a name is not UTF-8 text", where=where)
    return value
