"""What a legal int8 graph is: a table with one row per operation, and `verify`.

`verify` is called after reading, after conversion and after every pass: what follows it (the
reference, the writer, the planner, the C generator) relies on each rule and checks none again.
A rule is there because TFLM refuses, aborts or computes nonsense without a word (quantisation,
1.1 and 1.2), because C would be undefined (section 2, rules 7 and 8), or to bound hostile files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, NewType, TypeVar

import numpy as np

from ndtool.console import visible
from ndtool.errors import UnsupportedError, raise_all
from ndtool.export.int8 import derive
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
    Pool2D,
    Reshape,
    Softmax,
    Tensor,
    TensorId,
    Unary,
    UnaryKind,
    op_inputs,
    op_name,
)
from ndtool.quant import fixed_point as fp

OpIndex = NewType("OpIndex", int)
Shape = tuple[int, ...]

MAX_RANK: Final = 5  # PAD's own limit (mk/pad_common.cc), the smallest of the kernels
MAX_ELEMENTS: Final = 2**26  # of one tensor: 64 MiB of int8, far above any microcontroller
MAX_TOTAL_ELEMENTS: Final = 2**28  # over all ops: what each reads and writes
MAX_MACS: Final = 2**31  # of one op
MAX_CONCAT: Final = 10  # mk/concatenation.cc
MAX_SOFTMAX: Final = 4095  # classes whose exponentials fit the 12 integer bits of their sum
UNIT_PARAMS: Final = fp.ScaleZero(1 / 256, -128)  # SOFTMAX and LOGISTIC
SIGNED_UNIT_PARAMS: Final = fp.ScaleZero(1 / 128, 0)  # TANH
MAX_HARD_SWISH_RIGHT: Final = 15  # gemmlowp's int16 mask has no more bits
MIN_GATE_REAL: Final = 2.0**-31  # LOGISTIC and TANH do not flush; a longer shift is undefined
MAX_GATE_REAL: Final = 2.0**30  # from there on their input radius is 0: even 0 would saturate
MAX_FC_BIAS_ERROR: Final = 0.02  # of an output step: kernels/kernel_util.cc
BIAS_SCALE_TOLERANCE: Final = 1e-6  # relative, of s_in * s_weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One broken rule: a stable slug, the place, and a sentence."""

    rule: str
    text: str
    op: OpIndex | None = None
    tensor: TensorId | None = None


def verify(graph: Graph, *, where: str = "int8 model") -> None:
    """Check every rule; returns only for a legal graph.

    Raises:
        UnsupportedError: names every broken rule with its op and tensor.
    """
    raise_all([problem_error(graph, problem, where) for problem in find_problems(graph)])


def problem_error(graph: Graph, problem: Problem, where: str) -> UnsupportedError:
    """The error that names `problem`."""
    place = [where]
    if problem.op is not None:
        place.append(f"op {problem.op} {op_name(graph.ops[problem.op])}")
    if problem.tensor is not None:
        known = 0 <= problem.tensor < len(graph.tensors)
        name = f" '{visible(graph.tensor(problem.tensor).name)}'" if known else ""
        place.append(f"tensor {problem.tensor}{name}")
    return UnsupportedError(
        problem.text,
        where=", ".join(place),
        remedy="change the network or convert it again",
        code=f"int8.{problem.rule}",
    )


def find_problems(graph: Graph) -> list[Problem]:
    """Every broken rule; empty for a legal graph.

    Rules that rest on others are looked at only where those hold, so that one cause is one line.
    """
    if dangling := list(_dangling(graph)):
        return dangling
    bad_tensors = {t: list(_tensor_rules(graph, t)) for t in _referenced(graph)}
    problems = [problem for found in bad_tensors.values() for problem in found]
    problems += _order_rules(graph)
    total = sum(graph.tensor(t).elements for op in graph.ops for t in (*op_inputs(op), op.out))
    if total > MAX_TOTAL_ELEMENTS:
        text = f"{total} elements read and written, at most {MAX_TOTAL_ELEMENTS}"
        return [*problems, Problem(rule="graph.size", text=text)]
    for index, op in enumerate(graph.ops):
        if not any(bad_tensors[t] for t in (*op_inputs(op), op.out)):
            problems += _op_rules(graph, OpIndex(index), op)
    return problems


# ------------------------------------------------------------------------ tensors and their order


def _dangling(graph: Graph) -> Iterator[Problem]:
    """References to tensors that are not there."""
    count = len(graph.tensors)
    for tensor in (*graph.inputs, *graph.outputs):
        if not 0 <= tensor < count:
            yield Problem(rule="tensor.range", text=f"tensor {tensor} of {count}", tensor=tensor)
    for index, op in enumerate(graph.ops):
        for tensor in (*op_inputs(op), op.out):
            if not 0 <= tensor < count:
                text = f"tensor {tensor} of {count}"
                yield Problem(rule="tensor.range", text=text, op=OpIndex(index), tensor=tensor)


def _referenced(graph: Graph) -> list[TensorId]:
    used = {*graph.inputs, *graph.outputs}
    for op in graph.ops:
        used.update(op_inputs(op), (op.out,))
    return sorted(used)


def _tensor_rules(graph: Graph, index: TensorId) -> Iterator[Problem]:
    tensor = graph.tensor(index)
    for rule, text in _tensor_faults(tensor):
        yield Problem(rule=rule, text=text, tensor=index)


def _tensor_faults(tensor: Tensor) -> Iterator[tuple[str, str]]:
    shape, scales, zeros = tensor.shape, tensor.scales, tensor.zero_points
    if len(shape) > MAX_RANK or any(n < 1 for n in shape) or tensor.elements > MAX_ELEMENTS:
        yield "tensor.shape", f"shape {list(shape[:8])} is not of 1..{MAX_ELEMENTS} elements"
        return
    if tensor.data is None:
        if tensor.dtype is not DType.INT8:
            yield "tensor.dtype", f"an activation of type {tensor.dtype}, not int8"
        if not shape or shape[0] != 1:
            yield "tensor.batch", f"shape {list(shape)}: the batch is not 1"
        if len(scales) != 1:
            yield "tensor.scale", f"an activation with {len(scales)} scales, not one"
    else:
        size = tensor.elements * (1 if tensor.dtype is DType.INT8 else 4)
        if len(tensor.data) != size:
            yield "tensor.data", f"{len(tensor.data)} bytes of data, {size} needed"
    if len(zeros) != len(scales):
        yield "tensor.zero-point", f"{len(zeros)} zero points for {len(scales)} scales"
    elif len(scales) > 1:
        dim = tensor.quantized_dim
        if not 0 <= dim < len(shape) or shape[dim] != len(scales):
            text = f"{len(scales)} scales along dimension {dim} of shape {list(shape)}"
            yield "tensor.quantized-dim", text
    if not _are_float32(scales) or min(scales, default=1.0) <= 0:
        yield "tensor.scale", "a scale that is not a finite float32 above 0"
    low, high = (-128, 127) if tensor.dtype is DType.INT8 else (0, 0)
    if not all(low <= z <= high for z in zeros):
        yield "tensor.zero-point", f"a zero point outside {low}..{high}"


@np.errstate(over="ignore")
def _are_float32(values: Sequence[float]) -> bool:
    """Whether all are finite and kept by a cast to float32."""
    exact = np.asarray(values, np.float64)
    return bool((np.isfinite(exact) & (exact.astype(np.float32) == exact)).all())


def _order_rules(graph: Graph) -> Iterator[Problem]:
    """One writer per activation, before every reader."""
    if not graph.inputs or not graph.outputs or not graph.ops:
        yield Problem(rule="graph.empty", text="a graph needs inputs, operations and outputs")
    written: set[TensorId] = set()
    for tensor in graph.inputs:
        if graph.tensor(tensor).data is not None or tensor in written:
            text = "a graph input is a constant or is named twice"
            yield Problem(rule="graph.input", text=text, tensor=tensor)
        written.add(tensor)
    for i, op in enumerate(graph.ops):
        index = OpIndex(i)
        for tensor in op_inputs(op):
            if graph.tensor(tensor).data is None and tensor not in written:
                text = "read before any operation wrote it"
                yield Problem(rule="graph.order", text=text, op=index, tensor=tensor)
        if graph.tensor(op.out).data is not None or op.out in written:
            text = "the output is a constant or was written before"
            yield Problem(rule="graph.writer", text=text, op=index, tensor=op.out)
        written.add(op.out)
    for tensor in graph.outputs:
        if tensor not in written:
            text = "a graph output that no operation writes"
            yield Problem(rule="graph.output", text=text, tensor=tensor)


# --------------------------------------------------------------------------------- one operation


class Role(StrEnum):
    """What an operand must be."""

    ACTIVATION = "int8 activation, one scale"
    VALUE = "int8 activation or constant, one scale"
    WEIGHT = "int8 constant, zero points 0, one scale or one per output channel"
    BIAS = "int32 constant, zero points 0, or absent"
    INDEX = "int32 constant"


Operands = tuple[tuple[TensorId | None, Role], ...]
Fault = tuple[str, str]  # rule, text
Faults = Iterator[Fault]
T = TypeVar("T", bound=Op)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Generic[T]):
    """The rules of one kind of operation, each looked at only when those above it hold."""

    operands: Callable[[T], Operands]
    attributes: Callable[[Graph, T], Faults]  # ranks, channel counts, strides, axes
    shape: Callable[[Graph, T], Shape]  # of the output, from the inputs
    arithmetic: Callable[[Graph, T], Faults]  # scales, overflow


def _op_rules(graph: Graph, index: OpIndex, op: Op) -> Iterator[Problem]:
    row: Row[Any] = SPEC[type(op)]
    wrong = [
        Problem(rule="op.operand", text=f"not an {role.value}", op=index, tensor=tensor)
        for tensor, role in (*row.operands(op), (op.out, Role.ACTIVATION))
        if tensor is not None and not _plays(graph.tensor(tensor), role)
    ]
    if wrong:
        yield from wrong
        return
    faults = list(row.attributes(graph, op))
    if not faults:
        made, declared = row.shape(graph, op), graph.tensor(op.out).shape
        if made != declared:
            faults = [("op.shape", f"gives shape {list(made)}, declared {list(declared)}")]
    if not faults:
        faults = list(row.arithmetic(graph, op))
    for rule, text in faults:
        yield Problem(rule=rule, text=text, op=index, tensor=op.out)


def _plays(tensor: Tensor, role: Role) -> bool:
    match role:
        case Role.ACTIVATION:
            return tensor.data is None
        case Role.VALUE:
            return tensor.dtype is DType.INT8 and len(tensor.scales) == 1
        case Role.WEIGHT:
            quantised = bool(tensor.scales) and not any(tensor.zero_points)
            return tensor.data is not None and tensor.dtype is DType.INT8 and quantised
        case Role.BIAS | Role.INDEX:
            return tensor.data is not None and tensor.dtype is DType.INT32


def _params(tensor: Tensor) -> fp.ScaleZero:
    return fp.ScaleZero(tensor.scale, tensor.zero_point)


# ---- layers with weights


def _layer_operands(op: derive.Layer) -> Operands:
    return ((op.x, Role.ACTIVATION), (op.weight, Role.WEIGHT), (op.bias, Role.BIAS))


def _window_faults(
    graph: Graph, op: Conv2D | DepthwiseConv2D | Pool2D, dilation: tuple[int, int]
) -> Faults:
    if min(*op.stride, *dilation) < 1:
        yield "op.stride", f"stride {list(op.stride)}, dilation {list(dilation)}: not positive"


def _conv_attributes(graph: Graph, op: Conv2D | DepthwiseConv2D) -> Faults:
    x, weight = graph.tensor(op.x), graph.tensor(op.weight)
    if len(x.shape) != 4 or len(weight.shape) != 4:
        yield "op.rank", f"input {list(x.shape)} and weight {list(weight.shape)} must be 4-D"
        return
    depthwise = isinstance(op, DepthwiseConv2D)
    c_in, c_out = x.shape[3], weight.shape[3 if depthwise else 0]
    if isinstance(op, DepthwiseConv2D):
        fits = weight.shape[0] == 1 and op.multiplier >= 1 and c_out == c_in * op.multiplier
    else:
        fits = weight.shape[3] == c_in
    if not fits:
        text = f"weight {list(weight.shape)} does not fit {c_in} input channels"
        yield "op.channels", text
    yield from _channel_faults(graph, op, c_out, 3 if depthwise else 0)
    yield from _window_faults(graph, op, op.dilation)


def _channel_faults(graph: Graph, op: derive.Layer, c_out: int, dim: int) -> Faults:
    """Scales and biases are one per output channel."""
    weight = graph.tensor(op.weight)
    if len(weight.scales) > 1 and weight.quantized_dim != dim:
        yield "op.quantized-dim", f"weight scales along {weight.quantized_dim}, not {dim}"
    if op.bias is not None:
        bias = graph.tensor(op.bias)
        if bias.elements != c_out:
            yield "op.bias", f"{bias.elements} biases for {c_out} output channels"
        elif len(bias.scales) not in (0, len(weight.scales)):
            yield "op.bias", f"{len(bias.scales)} bias scales, {len(weight.scales)} weight scales"


def _conv_shape(graph: Graph, op: Conv2D | DepthwiseConv2D) -> Shape:
    _, height, width, _ = graph.tensor(op.x).shape
    rows, columns = derive.windows(graph, op)
    channels = graph.tensor(op.weight).shape[3 if isinstance(op, DepthwiseConv2D) else 0]
    return (1, rows.output(height), columns.output(width), channels)


def _fc_attributes(graph: Graph, op: FullyConnected) -> Faults:
    x, weight = graph.tensor(op.x), graph.tensor(op.weight)
    if len(weight.shape) != 2:
        yield "op.rank", f"weight {list(weight.shape)} must be 2-D"
        return
    c_out, c_in = weight.shape
    if x.elements % c_in or (op.keep_num_dims and x.shape[-1] != c_in):
        yield "op.channels", f"weight {list(weight.shape)} does not fit input {list(x.shape)}"
    yield from _channel_faults(graph, op, c_out, 0)


def _fc_shape(graph: Graph, op: FullyConnected) -> Shape:
    x, (c_out, c_in) = graph.tensor(op.x), graph.tensor(op.weight).shape
    if op.keep_num_dims:
        return (*x.shape[:-1], c_out)
    return (x.elements // c_in, c_out)


def _layer_arithmetic(graph: Graph, op: derive.Layer) -> Faults:
    x, weight, out = (graph.tensor(t) for t in (op.x, op.weight, op.out))
    bounds = derive.layer_bounds(graph, op)
    macs = out.elements * weight.elements // len(bounds)
    if macs > MAX_MACS:
        yield "op.macs", f"{macs} multiply-accumulates, at most {MAX_MACS}"
    yield from _activation_faults(op.act, out)
    yield from _requant_faults(derive.layer_reals(graph, op), bounds)
    if op.bias is None:
        return
    wanted = [x.scale * s for s in weight.scales]
    written = graph.tensor(op.bias).scales
    for have, want in zip(written, wanted, strict=False):
        if abs(have - want) > BIAS_SCALE_TOLERANCE * want:
            yield "op.bias-scale", f"bias scale {have:g}, input times weight scale is {want:g}"
            return
    unchecked = written or not derive.is_per_tensor_fc(graph, op)
    if not unchecked and wanted[0] / out.scale > MAX_FC_BIAS_ERROR:
        yield "op.bias-scale", "one weight scale needs a bias scale: TFLM checks it"


# ---- faults of scales, shared by the rows


def _requant_faults(real: fp.F64 | float, bound: fp.I64 | int) -> Faults:
    """No accumulator up to `bound` may leave int32 when multiplied by `real` (rules 7 and 8)."""
    fits = fp.requant_fits(bound, fp.quantize_multipliers(np.asarray(real, np.float64)))
    if not fits.all():
        which = f" (output channel {int(np.argmin(fits))})" if fits.size > 1 else ""
        yield "op.overflow", f"the accumulator can leave 32 bits{which}"


def _activation_faults(act: Activation, out: Tensor) -> Faults:
    for bound in derive.ACTIVATION_BOUNDS[act]:
        if bound is not None and abs(fp.quantize_bound(bound, out.scale, 0)) > fp.INT32_MAX:
            yield "op.activation", f"{act} has no place on a scale of {out.scale:g}"


def _equal_faults(graph: Graph, op: Op, *xs: TensorId) -> Faults:
    """Bytes are copied: other parameters would change what they mean (quantisation, 1.1)."""
    out = graph.tensor(op.out)
    for x in xs:
        if _params(graph.tensor(x)) != _params(out):
            text = f"input has {_shown(_params(graph.tensor(x)))}, output {_shown(_params(out))}"
            yield "op.equal-params", f"{text}: they must be equal"


def _fixed_faults(out: Tensor, params: fp.ScaleZero) -> Faults:
    if _params(out) != params:
        yield "op.fixed-output", f"output has {_shown(_params(out))}, must have {_shown(params)}"


def _shown(params: fp.ScaleZero) -> str:
    return f"scale {params.scale:g} and zero point {params.zero_point}"


def _float32_faults(name: str, value: float) -> Faults:
    """What the file cannot hold exactly would change on the way."""
    if not _are_float32([value]):
        yield "op.attribute", f"{name} {value!r} is not a finite float32"


# ---- element-wise


def _binary_attributes(graph: Graph, op: Binary) -> Faults:
    a, b = graph.tensor(op.a), graph.tensor(op.b)
    if a.data is not None and b.data is not None:
        yield "op.operand", "two constants"
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        yield "op.shape", f"shapes {list(a.shape)} and {list(b.shape)} do not broadcast"


def _binary_arithmetic(graph: Graph, op: Binary) -> Faults:
    a, b, out = (graph.tensor(t) for t in (op.a, op.b, op.out))
    yield from _activation_faults(op.act, out)
    reals = derive.binary_reals(graph, op)
    if op.kind is BinaryKind.MUL:
        bound = fp.max_abs_offset(a.zero_point) * fp.max_abs_offset(b.zero_point)
        yield from _requant_faults(reals[0], bound)
    # QuantizeMultiplierSmallerThanOneExp aborts the process unless 0 < real < 1 and shift <= 0
    elif not all(0 < r < 1 and fp.quantize_multiplier(r)[1] <= 0 for r in reals):
        text = f"output scale {out.scale:g} too small for inputs of {a.scale:g}, {b.scale:g}"
        yield "op.add-ratio", text


def _unary_shape(graph: Graph, op: Unary | Softmax) -> Shape:
    return graph.tensor(op.x).shape


def _unary_arithmetic(graph: Graph, op: Unary) -> Faults:
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    reach = fp.max_abs_offset(x.zero_point)
    match op.kind:
        case UnaryKind.QUANTIZE | UnaryKind.RELU:
            yield from _requant_faults(fp.rescale_real(x.scale, out.scale), reach)
        case UnaryKind.LEAKY_RELU:
            yield from _requant_faults(fp.rescale_real(x.scale, out.scale), reach)
            yield from _requant_faults(fp.leaky_relu_real(x.scale, op.alpha, out.scale), reach)
        case UnaryKind.RELU6:
            yield from _equal_faults(graph, op, op.x)
            if fp.quantize_bound(6.0, x.scale, x.zero_point) > fp.INT8_MAX:
                yield "op.relu6", f"6 is outside int8 at scale {x.scale:g}"
        case UnaryKind.LOGISTIC:
            yield from _gate_faults(x, out, UNIT_PARAMS)
        case UnaryKind.TANH:
            yield from _gate_faults(x, out, SIGNED_UNIT_PARAMS)
        case UnaryKind.HARD_SWISH:
            yield from _hard_swish_faults(x, out)


def _gate_faults(x: Tensor, out: Tensor, params: fp.ScaleZero) -> Faults:
    yield from _fixed_faults(out, params)
    if not MIN_GATE_REAL <= fp.gate_real(x.scale) < MAX_GATE_REAL:
        yield "op.input-scale", f"input scale {x.scale:g} is out of reach"


def _hard_swish_faults(x: Tensor, out: Tensor) -> Faults:
    reals = fp.hard_swish_reals(x.scale, out.scale)
    (_, of_output), (_, of_relu) = map(fp.quantize_multiplier, reals)
    if of_output > 0:
        yield (
            "op.hard-swish",
            f"output scale {out.scale:g} under 1/128 of the input's: TFLM refuses",
        )
    elif of_output < -MAX_HARD_SWISH_RIGHT or not -MAX_HARD_SWISH_RIGHT <= of_relu <= fp.MAX_SHIFT:
        yield "op.hard-swish", f"scales {x.scale:g}, {out.scale:g} are out of 16-bit reach"


def _softmax_arithmetic(graph: Graph, op: Softmax) -> Faults:
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    yield from _fixed_faults(out, UNIT_PARAMS)
    if x.shape[-1] > MAX_SOFTMAX:
        yield "op.softmax", f"{x.shape[-1]} classes, at most {MAX_SOFTMAX}"
    # PreprocessSoftmaxScaling aborts the process under 1
    if not (math.isfinite(op.beta) and fp.softmax_real(x.scale, op.beta) > 1):
        yield "op.softmax", f"input scale {x.scale:g} times beta {op.beta:g} is under 2^-26"


# ---- windows, reductions, shapes


def _pool_attributes(graph: Graph, op: Pool2D) -> Faults:
    x = graph.tensor(op.x)
    if len(x.shape) != 4:
        yield "op.rank", f"input {list(x.shape)} must be 4-D"
        return
    # a window above 2n - 1 sees nothing more; the bound keeps hostile files cheap
    if any(not 1 <= k < 2 * n for k, n in zip(op.kernel, x.shape[1:3], strict=True)):
        yield "op.kernel", f"kernel {list(op.kernel)} on {list(x.shape[1:3])} pixels"
    yield from _window_faults(graph, op, (1, 1))


def _pool_shape(graph: Graph, op: Pool2D) -> Shape:
    _, height, width, channels = graph.tensor(op.x).shape
    rows, columns = derive.windows(graph, op)
    return (1, rows.output(height), columns.output(width), channels)


def _pool_arithmetic(graph: Graph, op: Pool2D) -> Faults:
    out = graph.tensor(op.out)
    yield from _equal_faults(graph, op, op.x)
    yield from _activation_faults(op.act, out)
    steps = out.elements * op.kernel[0] * op.kernel[1]
    if steps > MAX_MACS:
        yield "op.macs", f"{steps} comparisons or additions, at most {MAX_MACS}"


def _mean_attributes(graph: Graph, op: Mean) -> Faults:
    x, axes = graph.tensor(op.x), graph.tensor(op.axes_id)
    rank = len(x.shape)
    ordered = bool(op.axes) and list(op.axes) == sorted(set(op.axes))
    if not ordered or op.axes[0] < 1 or op.axes[-1] >= rank:
        yield "op.axes", f"axes {list(op.axes)} of a rank {rank} tensor, batch excluded"
    elif {a % rank if -rank <= a < rank else None for a in _int_list(axes)} != set(op.axes):
        yield "op.axes", f"axes {list(op.axes)}, but the file's are {_int_list(axes)[:8]}"


def _int_list(tensor: Tensor) -> list[int]:
    return [int(v) for v in derive.int32_values(tensor).ravel()]


def _mean_shape(graph: Graph, op: Mean) -> Shape:
    shape = graph.tensor(op.x).shape
    if op.keep_dims:
        return tuple(1 if i in op.axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in op.axes)


def _mean_arithmetic(graph: Graph, op: Mean) -> Faults:
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    count = x.elements // out.elements
    bound = count * fp.max_abs_offset(x.zero_point)
    if not fp.requant_fits(bound, fp.mean_requant(x.scale, out.scale, count)):
        yield "op.overflow", "the sum can leave 32 bits"


def _pad_attributes(graph: Graph, op: Pad) -> Faults:
    rank = len(graph.tensor(op.x).shape)
    paddings = graph.tensor(op.paddings_id)
    flat = [n for pair in op.paddings for n in pair]
    if len(op.paddings) != rank or min(flat) < 0 or any(flat[:2]) or max(flat) > MAX_ELEMENTS:
        yield "op.paddings", f"paddings {flat[:10]} of a rank {rank} tensor"
    elif _int_list(paddings) != flat:
        yield "op.paddings", f"paddings {flat}, but the file's are {_int_list(paddings)[:10]}"


def _pad_shape(graph: Graph, op: Pad) -> Shape:
    x = graph.tensor(op.x).shape
    return tuple(a + n + b for n, (a, b) in zip(x, op.paddings, strict=True))


def _reshape_attributes(graph: Graph, op: Reshape) -> Faults:
    x, out = graph.tensor(op.x), graph.tensor(op.out)
    if x.elements != out.elements:
        yield "op.shape", f"{list(x.shape)} cannot become {list(out.shape)}"
    elif op.shape_id is not None:
        wanted = _int_list(graph.tensor(op.shape_id))
        known = [n for n in wanted if n != -1]
        fits = len(wanted) == len(out.shape) and len(wanted) - len(known) <= 1
        if not fits or any(n not in (-1, m) for n, m in zip(wanted, out.shape, strict=False)):
            yield "op.shape", f"gives shape {wanted[:8]}, declared {list(out.shape)}"


def _reshape_shape(graph: Graph, op: Reshape) -> Shape:
    return graph.tensor(op.out).shape  # compared in the attributes: -1 is allowed there


def _concat_attributes(graph: Graph, op: Concat) -> Faults:
    shapes = [graph.tensor(x).shape for x in op.xs]
    if not 1 <= len(shapes) <= MAX_CONCAT:
        yield "op.inputs", f"{len(shapes)} inputs, at most {MAX_CONCAT}"
    elif not 0 < op.axis < len(shapes[0]):
        yield "op.axes", f"axis {op.axis} of a rank {len(shapes[0])} tensor, batch excluded"
    elif len({(s[: op.axis], s[op.axis + 1 :]) for s in shapes}) != 1:
        yield "op.shape", f"shapes {[list(s) for s in shapes]} differ beside axis {op.axis}"


def _concat_shape(graph: Graph, op: Concat) -> Shape:
    shapes = [graph.tensor(x).shape for x in op.xs]
    total = sum(s[op.axis] for s in shapes)
    return (*shapes[0][: op.axis], total, *shapes[0][op.axis + 1 :])


# ------------------------------------------------------------------------------------- the table

SPEC: Final[Mapping[type, Row[Any]]] = {
    Conv2D: Row(
        operands=_layer_operands,
        attributes=_conv_attributes,
        shape=_conv_shape,
        arithmetic=_layer_arithmetic,
    ),
    DepthwiseConv2D: Row(
        operands=_layer_operands,
        attributes=_conv_attributes,
        shape=_conv_shape,
        arithmetic=_layer_arithmetic,
    ),
    FullyConnected: Row(
        operands=_layer_operands,
        attributes=_fc_attributes,
        shape=_fc_shape,
        arithmetic=_layer_arithmetic,
    ),
    Binary: Row(
        operands=lambda op: ((op.a, Role.VALUE), (op.b, Role.VALUE)),
        attributes=_binary_attributes,
        shape=lambda g, op: np.broadcast_shapes(g.tensor(op.a).shape, g.tensor(op.b).shape),
        arithmetic=_binary_arithmetic,
    ),
    Pool2D: Row(
        operands=lambda op: ((op.x, Role.ACTIVATION),),
        attributes=_pool_attributes,
        shape=_pool_shape,
        arithmetic=_pool_arithmetic,
    ),
    Mean: Row(
        operands=lambda op: ((op.x, Role.ACTIVATION), (op.axes_id, Role.INDEX)),
        attributes=_mean_attributes,
        shape=_mean_shape,
        arithmetic=_mean_arithmetic,
    ),
    Pad: Row(
        operands=lambda op: ((op.x, Role.ACTIVATION), (op.paddings_id, Role.INDEX)),
        attributes=_pad_attributes,
        shape=_pad_shape,
        arithmetic=lambda g, op: _equal_faults(g, op, op.x),
    ),
    Reshape: Row(
        operands=lambda op: ((op.x, Role.ACTIVATION), (op.shape_id, Role.INDEX)),
        attributes=_reshape_attributes,
        shape=_reshape_shape,
        arithmetic=lambda g, op: _equal_faults(g, op, op.x),
    ),
    Concat: Row(
        operands=lambda op: tuple((x, Role.ACTIVATION) for x in op.xs),
        attributes=_concat_attributes,
        shape=_concat_shape,
        arithmetic=lambda g, op: _equal_faults(g, op, *op.xs),
    ),
    Softmax: Row(
        operands=lambda op: ((op.x, Role.ACTIVATION),),
        attributes=lambda g, op: _float32_faults("beta", op.beta),
        shape=_unary_shape,
        arithmetic=_softmax_arithmetic,
    ),
    Unary: Row(
        operands=lambda op: ((op.x, Role.ACTIVATION),),
        attributes=lambda g, op: _float32_faults("alpha", op.alpha),
        shape=_unary_shape,
        arithmetic=_unary_arithmetic,
    ),
}
