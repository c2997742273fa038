"""ONNX -> float graph, for our files and for other people's image classifiers.

Layout: every activation of rank 4 is NHWC from here on, by permuting its shape and its constants,
never by a transposition at run time (quantisation, 3.2). All problems of a file are found in one
walk and raised together. To add an operator: one function here, one line in `_OPERATORS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from ndtool.console import visible
from ndtool.errors import InputError, UnsupportedError, raise_all
from ndtool.export.graph.draft import (
    Affine,
    Clamp,
    Draft,
    HardSigmoid,
    Shape,
    UniqueNames,
    finish,
)
from ndtool.export.graph.fold import F64, batch_norm_affine, not_finite
from ndtool.export.graph.fuse import NO_PADDING, fuse
from ndtool.export.graph.ir import (
    Binary,
    BinaryKind,
    Concat,
    Conv,
    FloatGraph,
    FullyConnected,
    Mean,
    Pad,
    Padding,
    Pool,
    Reshape,
    Softmax,
    Unary,
    UnaryKind,
)
from ndtool.export.graph.onnx_constants import fold_constant, indices, is_foldable
from ndtool.export.graph.onnx_file import (
    MAX_ELEMENTS,
    Array,
    Node,
    OnnxFile,
    malformed,
    read_file,
    unsupported,
)
from ndtool.export.graph.onnx_windows import MAX_STEP, read_window

_TO_NHWC: Final = (0, 2, 3, 1)
_NHWC_AXIS: Final = {1: 3, 2: 1, 3: 2}  # NCHW axis -> NHWC axis
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)  # some exporters' "no bound"


def read_onnx(data: bytes, *, where: str) -> FloatGraph:
    """The float graph of an ONNX file of unknown origin.

    Supported: opsets 7 to 22, one float32 NCHW image as input, one output. Batch norm, constant
    scales, zero padding and activations are folded where that changes nothing.

    Args:
        where: how messages name the file.

    Raises:
        InputError: not an ONNX file, damaged, or too large.
        UnsupportedError: something that cannot be converted; every offender is attached.
    """
    file = read_file(data, where=where)
    activations = [file.input, *(name for node in file.nodes for name in node.outputs)]
    draft = Draft(where=where, input=file.input, output=file.output, names=UniqueNames(activations))
    reading = _Reading(file=file, draft=draft, constants=dict(file.constants))
    reading.define(file.input, file.input_shape)
    for node in file.nodes:
        _read_node(reading, replace(node, name=reading.op_names(node.name)))
    raise_all(reading.problems)
    draft.output = reading.resolve(file.output)
    if draft.output not in draft.shapes or draft.output == draft.input:
        raise malformed("the model's output is not computed from its input", where=where)
    if draft.output in reading.flat:
        raise unsupported("the output is a flattened image, not logits", where=where)
    fuse(draft)
    return finish(draft)


@dataclass(slots=True, eq=False, kw_only=True)
class _Reading:
    """What is known after the nodes read so far.

    `shapes` are ONNX's own (NCHW), of activations; `flat` are flattened images with their
    (c, h, w), whose elements stand in another order with us; `unknown` are the outputs of nodes
    that could not be read, `extra` those after a node's first, such as Dropout's mask.
    """

    file: OnnxFile
    draft: Draft
    constants: dict[str, Array]
    shapes: dict[str, Shape] = field(default_factory=dict)
    alias: dict[str, str] = field(default_factory=dict)
    flat: dict[str, Shape] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    extra: set[str] = field(default_factory=set)
    problems: list[UnsupportedError] = field(default_factory=list)
    op_names: UniqueNames = field(default_factory=UniqueNames)
    constant_elements: int = 0

    def resolve(self, name: str) -> str:
        """The tensor that an Identity, Dropout, ... passes on; no alias points at an alias."""
        return self.alias.get(name, name)

    def knows(self, name: str) -> bool:
        """Whether a tensor of that name has been met."""
        known = (self.shapes, self.alias, self.constants, self.unknown, self.extra)
        return any(name in names for names in known)

    def define(self, name: str, shape: Shape) -> str:
        """A new activation of ONNX shape `shape`; its name."""
        if not all(n >= 1 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise malformed(f"tensor {visible(name)} is empty or too large", where=self.draft.where)
        self.shapes[name] = shape
        image = len(shape) == 4
        self.draft.shapes[name] = tuple(shape[i] for i in _TO_NHWC) if image else shape
        return name

    def maybe_flat(self, node: Node, index: int) -> str:
        """An input that depends on the image."""
        name = self.resolve(node.input(index))
        if name == "":
            raise malformed(f"input {index} is absent", where=node.where)
        if name not in self.shapes:
            raise unsupported(f"input {index} of {node.op} is constant", where=node.where)
        return name

    def activation(self, node: Node, index: int) -> str:
        """An input that depends on the image, its elements in the same order in ONNX and here."""
        name = self.maybe_flat(node, index)
        if name in self.flat:
            raise unsupported(
                "a flattened image is read by something else than a linear layer",
                where=node.where,
                remedy="put the operation before the flattening",
            )
        return name

    def image(self, node: Node) -> tuple[str, Shape]:
        """The first input and its (1, c, h, w)."""
        name = self.activation(node, 0)
        shape = self.shapes[name]
        if len(shape) != 4:
            raise unsupported(f"{node.op} of a tensor of rank {len(shape)}", where=node.where)
        return name, shape

    def array(self, node: Node, index: int) -> Array | None:
        """A constant input, None where an optional one is absent."""
        name = node.input(index)
        if name == "":
            return None
        found = self.constants.get(name)
        if found is None:
            raise unsupported(f"input {index} of {node.op} is not constant", where=node.where)
        return found

    def floats(self, node: Node, index: int) -> F64 | None:
        """A constant float input in float64, None where absent."""
        found = self.array(node, index)
        if found is None:
            return None
        if found.dtype.kind != "f":
            raise malformed(f"input {index} is not a float tensor", where=node.where)
        if not np.isfinite(found).all():
            raise not_finite(node.input(index), where=node.where)
        self.count(found.size, node)
        return found.astype(np.float64)

    def vector(self, node: Node, index: int, size: int) -> F64:
        """A required constant of shape (size,)."""
        values = self.floats(node, index)
        if values is None or values.shape != (size,):
            raise malformed(f"input {index} is not a vector of {size}", where=node.where)
        return values

    def weights(self, node: Node, rank: int) -> F64:
        """The second input: a required constant of that rank."""
        values = self.floats(node, 1)
        if values is None or values.ndim != rank:
            raise unsupported(f"weights of {node.op} are not of rank {rank}", where=node.where)
        return values

    def count(self, elements: int, node: Node) -> None:
        """Bound the memory of a file in which many nodes share one large constant."""
        self.constant_elements += elements
        if self.constant_elements > MAX_ELEMENTS:
            raise InputError(
                f"the constants come to more than {MAX_ELEMENTS:,} elements",
                where=node.where,
                remedy="use a model that can fit a microcontroller",
                code="onnx.too-large",
            )


def _read_node(r: _Reading, node: Node) -> None:
    """Fold the node, or append what it computes to the draft; keep an unsupported one in mind."""
    inputs = [name for name in node.inputs if name]
    outputs = [name for name in node.outputs if name]
    if not node.outputs or node.outputs[0] == "":
        raise malformed("a node without its first output", where=node.where)
    for name in outputs:
        if r.knows(name):
            raise malformed(f"tensor {visible(name)} is computed twice", where=node.where)
    for name in inputs:
        if not r.knows(name):
            raise malformed(f"tensor {visible(name)} is not computed yet", where=node.where)
    r.extra.update(outputs[1:])
    try:
        if node.op not in _OPERATORS and not is_foldable(node.op):
            raise unsupported(f"operator {visible(node.op)} is not supported", where=node.where)
        if any(name in r.unknown for name in inputs):
            r.unknown.update(outputs[:1])  # a problem is told once, not at every reader
        elif any(name in r.extra for name in inputs):
            raise unsupported("the second output of a node is used", where=node.where)
        elif is_foldable(node.op) and all(name in r.constants for name in inputs):
            value = fold_constant(node, [r.constants[n] if n else None for n in node.inputs])
            r.count(value.size, node)
            r.constants[outputs[0]] = value
        elif node.op in _OPERATORS:
            _OPERATORS[node.op](r, node)
        else:
            raise unsupported(f"{node.op} of an activation is not supported", where=node.where)
    except UnsupportedError as problem:
        r.problems.append(problem)
        r.unknown.update(outputs[:1])


# -- layers with weights ---------------------------------------------------------------------------


def _conv(r: _Reading, node: Node) -> None:
    x, (_, c_in, height, width) = r.image(node)
    weight = r.weights(node, 4)
    c_out, per_group, kh, kw = weight.shape
    group = node.integer("group", 1)
    if group < 1 or per_group * group != c_in or c_out < 1 or c_out % group:
        raise malformed("weights do not fit the input channels", where=node.where)
    if group not in (1, c_in):
        raise unsupported(
            f"convolution of {c_in} channels in {group} groups",
            where=node.where,
            remedy="use a dense or a depthwise convolution",
        )
    if (node.integers("kernel_shape") or (kh, kw)) != (kh, kw):
        raise malformed("kernel_shape is not that of the weights", where=node.where)
    window = read_window(node, (height, width), (kh, kw))
    bias = r.vector(node, 2, c_out) if node.input(2) else np.zeros(c_out)
    depthwise = group > 1
    # dense (c_out, kh, kw, c_in); depthwise (1, kh, kw, c_out), c_out = c_in_index * mult + k
    weight = weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    r.draft.ops.append(
        Conv(
            name=node.name,
            x=x,
            weight=r.draft.constant(f"{node.name}.weight", weight, source=node.input(1)),
            bias=r.draft.constant(f"{node.name}.bias", bias, source=node.input(2)),
            out=r.define(node.outputs[0], (1, c_out, *window.out_hw)),
            depthwise=depthwise,
            stride=window.stride,
            dilation=window.dilation,
            padding=window.padding,
        )
    )


def _linear(r: _Reading, node: Node) -> None:
    """Gemm, or MatMul by a constant matrix."""
    x = r.maybe_flat(node, 0)
    c_in = r.shapes[x][-1]
    if len(r.shapes[x]) != 2 or node.integer("transA", 0):
        raise unsupported(f"{node.op} of another than a (batch, c) tensor", where=node.where)
    weight = r.weights(node, 2) * node.number("alpha", 1.0)
    if not node.integer("transB", 0):
        weight = weight.T
    c_out = len(weight)  # (c_out, c_in)
    if weight.shape[1] != c_in or c_out < 1:
        raise malformed("weights do not fit the input", where=node.where)
    bias = np.zeros(c_out)
    given = r.floats(node, 2)
    if given is not None:
        if given.shape not in ((), (1,), (1, 1), (c_out,), (1, c_out)):
            raise malformed("bias has a wrong shape", where=node.where)
        bias = bias + given.reshape(-1) * node.number("beta", 1.0)
    if x in r.flat:
        # Columns from C,H,W order to our H,W,C order (quantisation, 3.2).
        weight = weight.reshape(c_out, *r.flat[x]).transpose(0, 2, 3, 1).reshape(c_out, c_in)
    r.draft.ops.append(
        FullyConnected(
            name=node.name,
            x=x,
            weight=r.draft.constant(f"{node.name}.weight", weight, source=node.input(1)),
            bias=r.draft.constant(f"{node.name}.bias", bias, source=node.input(2)),
            out=r.define(node.outputs[0], (1, c_out)),
        )
    )


# -- per-channel maps and element-wise operations --------------------------------------------------


def _batch_norm(r: _Reading, node: Node) -> None:
    x = r.activation(node, 0)
    channels = r.shapes[x][1]
    if node.integer("training_mode", 0) or not node.integer("spatial", 1):
        raise unsupported("BatchNormalization in training mode", where=node.where)
    gamma, beta, mean, variance = (r.vector(node, i, channels) for i in (1, 2, 3, 4))
    eps = node.number("epsilon", 1e-5)
    _affine(r, node, x, *batch_norm_affine(gamma, beta, mean, variance, eps=eps))


def _affine(r: _Reading, node: Node, x: str, scale: F64, shift: F64) -> None:
    """out = scale * x + shift per channel; nothing where that is x itself."""
    if np.all(scale == 1) and np.all(shift == 0):
        r.alias[node.outputs[0]] = x
        return
    out = r.define(node.outputs[0], r.shapes[x])
    r.draft.ops.append(Affine(name=node.name, x=x, out=out, scale=scale, shift=shift))


def _binary(r: _Reading, node: Node) -> None:
    """Add, Sub, Mul, Div of two activations, or of one and a constant."""
    if len(node.inputs) != 2:
        raise malformed(f"{node.op} needs two inputs", where=node.where)
    for index in (0, 1):
        if node.input(index) in r.constants:
            _binary_with_constant(r, node, index)
            return
    a, b = r.activation(node, 0), r.activation(node, 1)
    kind = _KINDS.get(node.op)
    if kind is None:
        raise unsupported("division by an activation", where=node.where)
    sizes = r.shapes[a], r.shapes[b]
    pairs = list(zip(*sizes, strict=False))
    if len(sizes[0]) != len(sizes[1]) or not all(m == n or 1 in (m, n) for m, n in pairs):
        raise unsupported(f"{node.op} of shapes {sizes[0]} and {sizes[1]}", where=node.where)
    out = r.define(node.outputs[0], tuple(max(pair) for pair in pairs))
    r.draft.ops.append(Binary(name=node.name, kind=kind, a=a, b=b, out=out))


def _binary_with_constant(r: _Reading, node: Node, index: int) -> None:
    """A per-channel map where the constant is one number or one a channel."""
    x = r.activation(node, 1 - index)
    shape = r.shapes[x]
    values = r.floats(node, index)
    assert values is not None, "the caller has seen it"
    fits = values.ndim <= len(shape)
    values = values.reshape((1,) * (len(shape) - values.ndim) + values.shape) if fits else values
    if not fits or not all(m in (1, n) for m, n in zip(values.shape, shape, strict=True)):
        raise unsupported(
            f"{node.op} of shapes {shape} and {values.shape}, a constant", where=node.where
        )
    if node.op == "Div":
        if index == 0:
            raise unsupported("division by an activation", where=node.where)
        with np.errstate(divide="ignore"):
            values = 1 / values  # infinite for 0, refused with the weights it reaches
    if values.size != values.shape[1]:
        _binary_with_image(r, node, x, values, index)
        return
    vector = np.broadcast_to(values.reshape(-1), (shape[1],))
    one, zero = np.ones(shape[1]), np.zeros(shape[1])
    match node.op, index:
        case "Add", _:
            _affine(r, node, x, one, vector)
        case "Sub", 0:
            _affine(r, node, x, -one, vector)
        case "Sub", _:
            _affine(r, node, x, one, -vector)
        case _:
            _affine(r, node, x, vector, zero)


def _binary_with_image(r: _Reading, node: Node, x: str, values: F64, index: int) -> None:
    """A constant that differs from pixel to pixel, NCHW (rank 4 since it has more than c)."""
    constant = r.draft.constant(
        f"{node.name}.constant", values.transpose(_TO_NHWC), source=node.input(index)
    )
    pair = (constant, x) if index == 0 else (x, constant)
    kind = _KINDS.get(node.op, BinaryKind.MUL)  # Div: its reciprocal is in `values`
    out = r.define(node.outputs[0], r.shapes[x])
    r.draft.ops.append(Binary(name=node.name, kind=kind, a=pair[0], b=pair[1], out=out))


_KINDS: Final = {"Add": BinaryKind.ADD, "Sub": BinaryKind.SUB, "Mul": BinaryKind.MUL}


def _clip(r: _Reading, node: Node) -> None:
    """Bounds as attributes (opset < 11), else as inputs."""
    bounds = []
    for index, (name, absent) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        given = r.array(node, index)  # an infinite bound is a missing one
        if given is not None and (given.size != 1 or np.isnan(given).any()):
            raise malformed(f"{name} of Clip is not a number", where=node.where)
        bound = absent
        if given is not None:
            bound = float(given.reshape(-1)[0])
        elif name in node.attributes:
            bound = node.number(name, 0.0)
        bounds.append(absent if abs(bound) >= _FLOAT32_MAX else bound)
    _clamp(r, node, *bounds)


def _relu(r: _Reading, node: Node) -> None:
    _clamp(r, node, 0.0, math.inf)


def _clamp(r: _Reading, node: Node, lo: float, hi: float) -> None:
    x = r.activation(node, 0)
    if (lo, hi) == (-math.inf, math.inf):
        r.alias[node.outputs[0]] = x
        return
    out = r.define(node.outputs[0], r.shapes[x])
    r.draft.ops.append(Clamp(name=node.name, x=x, out=out, lo=lo, hi=hi))


def _hard_sigmoid(r: _Reading, node: Node) -> None:
    x = r.activation(node, 0)
    alpha, beta = node.number("alpha", 0.2), node.number("beta", 0.5)  # ONNX's defaults
    out = r.define(node.outputs[0], r.shapes[x])
    r.draft.ops.append(HardSigmoid(name=node.name, x=x, out=out, alpha=alpha, beta=beta))


def _unary(kind: UnaryKind, *, alpha: float = 0.0) -> Callable[[_Reading, Node], None]:
    """Reader of an operator with one input and, for LEAKY_RELU, a slope."""

    def read(r: _Reading, node: Node) -> None:
        x = r.activation(node, 0)
        out = r.define(node.outputs[0], r.shapes[x])
        slope = node.number("alpha", alpha) if kind is UnaryKind.LEAKY_RELU else 0.0
        r.draft.ops.append(Unary(name=node.name, kind=kind, x=x, out=out, alpha=slope))

    return read


def _softmax(r: _Reading, node: Node) -> None:
    """Over the channels only. Before opset 13 everything from `axis` on was one axis."""
    x = r.activation(node, 0)
    shape = r.shapes[x]
    old = r.file.opset < 13
    axis = node.integer("axis", 1 if old else -1) % len(shape)
    if axis != 1 or (old and shape[2:] not in ((), (1, 1))):
        raise unsupported("Softmax over another axis than the channels", where=node.where)
    out = r.define(node.outputs[0], shape)
    r.draft.ops.append(Softmax(name=node.name, x=x, out=out))


# -- pooling and padding ---------------------------------------------------------------------------


def _pool(r: _Reading, node: Node) -> None:
    """MaxPool, AveragePool; an average over the whole image is a mean (quantisation, 3.2)."""
    x, (_, channels, height, width) = r.image(node)
    kernel = node.integers("kernel_shape") or ()
    if len(kernel) != 2:
        raise malformed("kernel_shape is not a pair", where=node.where)
    window = read_window(node, (height, width), (kernel[0], kernel[1]))
    pads = window.padding
    is_max = node.op == "MaxPool"
    if window.dilation != (1, 1):
        raise unsupported("pooling with dilation", where=node.where)
    if max(pads.top, pads.bottom) >= kernel[0] or max(pads.left, pads.right) >= kernel[1]:
        raise malformed("padding is not smaller than the kernel", where=node.where)
    if pads != NO_PADDING and not is_max and node.integer("count_include_pad", 0):
        raise unsupported(
            "AveragePool that counts its padding",
            where=node.where,
            remedy="use count_include_pad=False",
        )
    if not is_max and kernel == (height, width) and pads == NO_PADDING:
        _mean(r, node, keep_dims=True)
        return
    r.draft.ops.append(
        Pool(
            name=node.name,
            x=x,
            out=r.define(node.outputs[0], (1, channels, *window.out_hw)),
            is_max=is_max,
            kernel=window.kernel,
            stride=window.stride,
            padding=pads,
        )
    )


def _global_average(r: _Reading, node: Node) -> None:
    _mean(r, node, keep_dims=True)


def _reduce_mean(r: _Reading, node: Node) -> None:
    """Axes as attribute (opset < 18) or second input; only over height and width."""
    given = r.array(node, 1)
    axes = node.integers("axes") if given is None else indices(node, given)
    if axes is None or sorted(a % 4 for a in axes if -4 <= a < 4) != [2, 3] or len(axes) != 2:
        raise unsupported("ReduceMean over other axes than height and width", where=node.where)
    _mean(r, node, keep_dims=bool(node.integer("keepdims", 1)))


def _mean(r: _Reading, node: Node, *, keep_dims: bool) -> None:
    x, (_, channels, _, _) = r.image(node)
    out = r.define(node.outputs[0], (1, channels, 1, 1) if keep_dims else (1, channels))
    r.draft.ops.append(Mean(name=node.name, x=x, out=out, keep_dims=keep_dims))


def _pad(r: _Reading, node: Node) -> None:
    """Zeros around the image; amounts and value as attributes (opset < 11) or as inputs."""
    x, (_, channels, height, width) = r.image(node)
    given, value, given_axes = r.array(node, 1), r.floats(node, 2), r.array(node, 3)
    pads = (node.integers("pads") if given is None else indices(node, given)) or ()
    axes = (0, 1, 2, 3) if given_axes is None else tuple(a % 4 for a in indices(node, given_axes))
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise malformed("bad paddings", where=node.where)
    before, after = [0] * 4, [0] * 4
    for position, axis in enumerate(axes):
        before[axis], after[axis] = pads[position], pads[position + len(axes)]
    filling = node.number("value", 0.0) if value is None else value.reshape(-1)
    if node.text("mode", "constant") != "constant" or np.any(filling != 0):
        raise unsupported("padding with something else than zeros", where=node.where)
    amounts = before + after
    if any(before[:2] + after[:2]) or not all(0 <= p <= MAX_STEP for p in amounts):
        raise unsupported("padding of other axes than height and width", where=node.where)
    if not any(amounts):
        r.alias[node.outputs[0]] = x
        return
    (top, left), (bottom, right) = before[2:], after[2:]
    size = (1, channels, height + top + bottom, width + left + right)
    r.draft.ops.append(
        Pad(
            name=node.name,
            x=x,
            out=r.define(node.outputs[0], size),
            padding=Padding(top=top, left=left, bottom=bottom, right=right),
        )
    )


# -- shapes ----------------------------------------------------------------------------------------


def _shape(r: _Reading, node: Node) -> None:
    """The fixed shape of a tensor, batch 1, as a constant."""
    given = r.constants.get(node.input(0))
    shape = r.shapes[r.maybe_flat(node, 0)] if given is None else given.shape
    start, end = node.integer("start", 0), node.integer("end", len(shape))
    r.constants[node.outputs[0]] = np.array(shape[start:end], np.int64)


def _flatten(r: _Reading, node: Node) -> None:
    shape = r.shapes[r.maybe_flat(node, 0)]
    if node.integer("axis", 1) not in (1, 1 - len(shape)):
        raise unsupported("Flatten that joins the batch", where=node.where)
    _reshape_to(r, node, (1, math.prod(shape)))


def _reshape(r: _Reading, node: Node) -> None:
    shape = r.shapes[r.maybe_flat(node, 0)]
    given = r.array(node, 1)
    wanted = indices(node, given) if given is not None else node.integers("shape")
    if wanted is None or wanted.count(-1) > 1 or any(n < -1 for n in wanted):
        raise malformed("bad target shape", where=node.where)
    if not node.integer("allowzero", 0):
        if any(n == 0 and i >= len(shape) for i, n in enumerate(wanted)):
            raise malformed("bad target shape", where=node.where)
        wanted = tuple(shape[i] if n == 0 else n for i, n in enumerate(wanted))
    rest = math.prod(n for n in wanted if n != -1)
    if rest < 1 or math.prod(shape) % rest:
        raise malformed("the target shape does not fit", where=node.where)
    _reshape_to(r, node, tuple(math.prod(shape) // rest if n == -1 else n for n in wanted))


def _squeeze(r: _Reading, node: Node) -> None:
    shape = r.shapes[r.activation(node, 0)]
    axes = _axes(r, node, len(shape))
    if any(shape[axis] != 1 for axis in axes):
        raise malformed("Squeeze of an axis that is not 1", where=node.where)
    _reshape_to(r, node, tuple(n for axis, n in enumerate(shape) if axis not in axes))


def _unsqueeze(r: _Reading, node: Node) -> None:
    shape = r.shapes[r.activation(node, 0)]
    given = r.array(node, 1)
    count = len((indices(node, given) if given is not None else node.integers("axes")) or ())
    axes = _axes(r, node, len(shape) + count)
    kept = iter(shape)
    total = len(shape) + count
    _reshape_to(r, node, tuple(1 if axis in axes else next(kept) for axis in range(total)))


def _axes(r: _Reading, node: Node, rank: int) -> tuple[int, ...]:
    """Axes of Squeeze and Unsqueeze: attribute (opset < 13) or second input."""
    given = r.array(node, 1)
    axes = node.integers("axes") if given is None else indices(node, given)
    if not axes or not all(-rank <= a < rank for a in axes):
        raise unsupported(f"{node.op} without valid axes", where=node.where)
    found = tuple(a % rank for a in axes)
    if len(set(found)) != len(found):
        raise malformed("an axis is named twice", where=node.where)
    return found


def _reshape_to(r: _Reading, node: Node, new: Shape) -> None:
    """Between (1, c, h, w), (1, c * h * w) and (1, c, 1, 1): what keeps our order of elements."""
    x = r.maybe_flat(node, 0)
    old = r.shapes[x]
    if math.prod(new) != math.prod(old):
        raise malformed("the target shape does not fit", where=node.where)
    if new == old:
        r.alias[node.outputs[0]] = x
        return
    size = math.prod(old)
    flattens = new == (1, size) and len(old) == 4
    if not flattens and (new != (1, size, 1, 1) or x in r.flat):
        raise unsupported(f"{node.op} of {old} to {new}", where=node.where)
    out = r.define(node.outputs[0], new)
    if flattens and old[1] > 1 and old[2] * old[3] > 1:
        r.flat[out] = old[1:]
    r.draft.ops.append(Reshape(name=node.name, x=x, out=out))


def _concat(r: _Reading, node: Node) -> None:
    xs = tuple(r.activation(node, i) for i in range(len(node.inputs)))
    shapes = [r.shapes[x] for x in xs]
    rank = len(shapes[0]) if shapes else 0
    axis = node.integer("axis", 0)
    axis += rank if axis < 0 else 0
    if not 1 <= axis < rank:
        raise unsupported("Concat along the batch", where=node.where)
    first = shapes[0]
    if any(
        len(s) != rank or s[:axis] + s[axis + 1 :] != first[:axis] + first[axis + 1 :]
        for s in shapes
    ):
        raise malformed("Concat of shapes that do not fit", where=node.where)
    total = sum(s[axis] for s in shapes)
    out = r.define(node.outputs[0], (*first[:axis], total, *first[axis + 1 :]))
    own_axis = _NHWC_AXIS[axis] if rank == 4 else axis
    r.draft.ops.append(Concat(name=node.name, xs=xs, out=out, axis=own_axis))


# -- operations that change nothing in inference ---------------------------------------------------


def _pass_on(r: _Reading, node: Node) -> None:
    """Identity and its like: another name for the same tensor."""
    r.alias[node.outputs[0]] = r.maybe_flat(node, 0)


def _dropout(r: _Reading, node: Node) -> None:
    training = r.array(node, 2)
    if training is not None and training.any():
        raise unsupported("Dropout in training mode", where=node.where)
    _pass_on(r, node)


def _cast(r: _Reading, node: Node) -> None:
    if node.integer("to", 0) != 1:
        raise unsupported("Cast to another type than float32", where=node.where)
    _pass_on(r, node)


_OPERATORS: Final[dict[str, Callable[[_Reading, Node], None]]] = {
    "Add": _binary,
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _binary,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _linear,
    "GlobalAveragePool": _global_average,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(UnaryKind.HARD_SWISH),
    "Identity": _pass_on,
    "LeakyRelu": _unary(UnaryKind.LEAKY_RELU, alpha=0.01),
    "MatMul": _linear,
    "MaxPool": _pool,
    "Mul": _binary,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _unary(UnaryKind.LOGISTIC),
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": _binary,
    "Tanh": _unary(UnaryKind.TANH),
    "Unsqueeze": _unsqueeze,
}
