"""What a good int8 .tflite is, found on the file itself, whoever wrote it (quantisation, 4).

Three layers, each looked at where the one before holds: what the reader cannot take, the rules of
`export.int8.spec`, and the rules below, which only the file can break. A converter is allowed what
its row in `ALLOWED` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import (
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Op,
    Pad,
    Softmax,
    TensorId,
    Unary,
    UnaryKind,
    op_name,
    op_outputs,
)
from ndtool.export.int8.rules.tensors import Problem
from ndtool.export.int8.spec import find_problems, problem_error
from ndtool.export.tflite.parse import FileModel, parse_tflite
from ndtool.export.tflite.reader import ReadModel, build_model
from ndtool.export.tflite.schema import BUFFER_ALIGN
from ndtool.export.tflite.versions import operator_version
from ndtool.quant.pixels import input_quantization
from ndtool.types import Converter

MAX_NAME: Final = 64  # characters of a tensor's name; each is a byte of flash
MIN_REAL: Final = 2.0**-24  # multipliers outside this range have lost their precision,
MAX_REAL: Final = 2.0**15  # or leave no room for the accumulator (quantisation, 2, rule 4)
MAX_SAFE_SOFTMAX: Final = (
    511  # above, a flat row needs a shift of 32: gemmlowp asserts or is undefined
)


class Severity(StrEnum):
    """An error is a file that must not be used; a warning costs memory, time or accuracy."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken rule; `text` names the place, `op` and `tensor` are its numbers in the file."""

    rule: str
    severity: Severity
    text: str
    op: int | None = None
    tensor: int | None = None


# Rules that a converter breaks by its nature, with no harm to TFLM or LiteRT.
ALLOWED: Final[Mapping[Converter, frozenset[str]]] = {
    Converter.NATIVE: frozenset(),
    Converter.TENSORFLOW: frozenset(
        {
            "file.metadata",  # min_runtime_version, CONVERSION_METADATA
            "file.signature",  # serving_default
            "tensor.name",  # whole paths of the traced function
            "bias.scale-unread",  # writes every bias scale
            "op.version-old",  # per-channel FULLY_CONNECTED as 4, LEAKY_RELU as 1
            "buffer.empty",  # one for each activation
            "buffer.align",  # multiples of 4: its last step is the schema's object API
        }
    ),
}


def lint(data: bytes, contract: Contract | None, *, converter: Converter) -> list[Finding]:
    """Everything that is wrong with the file, errors first; empty for a good one.

    Without a contract the input's and output's meaning is not judged.

    Raises:
        InputError: the bytes are not a TFLite file at all.
    """
    model = parse_tflite(data, where="model")
    read, refusals = build_model(model, where="model")
    graph = read.graph
    findings = [finding for rule in FILE_RULES for finding in rule(model)]
    findings += [
        Finding(
            rule=refusal.code.replace("tflite.", "file."),
            severity=Severity.ERROR,
            text=f"{refusal.what} ({refusal.where})",
        )
        for refusal in refusals
    ]
    if not refusals:
        problems = find_problems(graph)
        findings += [_of_spec(read, problem) for problem in problems]
        if not problems:
            findings += [finding for rule in GRAPH_RULES for finding in rule(model, read)]
            if contract is not None:
                findings += _contract(graph, contract, converter)
    kept = [f for f in findings if f.rule not in ALLOWED[converter]]
    return sorted(kept, key=lambda f: f.severity is Severity.WARNING)


def _of_spec(read: ReadModel, problem: Problem) -> Finding:
    place = problem_error(read.graph, problem, "model", read.file_ops).where
    return Finding(
        rule=problem.rule,
        severity=Severity.ERROR,
        text=f"{problem.text} ({place})",
        op=None if problem.op is None else read.file_ops[problem.op],
        tensor=problem.tensor,
    )


# --------------------------------------------------------------------------- rules of the file

Findings = Iterator[Finding]


def _error(rule: str, text: str) -> Finding:
    return Finding(rule=rule, severity=Severity.ERROR, text=text)


def _warning(rule: str, text: str) -> Finding:
    return Finding(rule=rule, severity=Severity.WARNING, text=text)


def _of_tensor(rule: str, severity: Severity, text: str, model: FileModel, index: int) -> Finding:
    name = visible(model.tensors[index].name)
    return Finding(
        rule=rule, severity=severity, text=f"{text} (tensor {index} '{name}')", tensor=index
    )


def _extras(model: FileModel) -> Findings:
    """Nothing but the graph: TFLM and LiteRT need neither metadata nor signatures."""
    if model.metadata:
        names = ", ".join(visible(name) for name, _ in model.metadata[:4])
        yield _warning("file.metadata", f"{len(model.metadata)} metadata entries: {names}")
    if model.signatures:
        yield _warning("file.signature", f"{model.signatures} signatures")


def _constants(model: FileModel) -> Findings:
    """Constants lie inside the file, at multiples of 16 bytes; buffer 0 is the empty one."""
    if model.external_buffers:
        yield _error("buffer.outside", "buffers in other files")
    if model.buffers and model.buffers[0].data:
        yield _error("buffer.first", f"buffer 0 holds {len(model.buffers[0].data)} bytes")
    for index, buffer in enumerate(model.buffers):
        if buffer.outside:
            yield _error("buffer.outside", f"buffer {index} lies after the flatbuffer")
        if buffer.data and buffer.start % BUFFER_ALIGN:
            text = f"buffer {index} starts at byte {buffer.start}, not a multiple of {BUFFER_ALIGN}"
            yield _error("buffer.align", text)


def _unused(model: FileModel) -> Findings:
    """Every tensor and buffer is used by something."""
    tensors = {*model.inputs, *model.outputs}
    for op in model.ops:
        tensors.update(op.inputs, op.outputs)
    for index in sorted(set(range(len(model.tensors))) - tensors):
        yield _of_tensor("tensor.unused", Severity.ERROR, "used by no operator", model, index)
    named = {0, *(t.buffer for t in model.tensors), *(buffer for _, buffer in model.metadata)}
    for index, buffer in enumerate(model.buffers):
        if index not in named:
            yield _error("buffer.unused", f"buffer {index} of {len(buffer.data)} bytes is unused")
        elif index and not buffer.data:
            yield _warning("buffer.empty", f"buffer {index} is empty: buffer 0 would do")
    codes = {op.opcode for op in model.ops}
    for opcode in model.opcodes:
        if opcode not in codes:
            yield _error("opcode.unused", f"operator code {opcode.builtin} is unused")


def _tensors(model: FileModel) -> Findings:
    """No dynamic shape; as many zero points as scales; short names."""
    for index, tensor in enumerate(model.tensors):
        if tensor.dynamic:
            text = "a shape_signature: the shape is dynamic"
            yield _of_tensor("tensor.dynamic", Severity.ERROR, text, model, index)
        if len(tensor.zero_points) != len(tensor.scales):
            text = f"{len(tensor.zero_points)} zero points, {len(tensor.scales)} scales"
            yield _of_tensor("tensor.zero-points", Severity.ERROR, text, model, index)
        if len(tensor.name) > MAX_NAME:
            text = f"a name of {len(tensor.name)} characters"
            yield _of_tensor("tensor.name", Severity.WARNING, text, model, index)


FILE_RULES: Final[tuple[Callable[[FileModel], Findings], ...]] = (
    _extras,
    _constants,
    _unused,
    _tensors,
)


# -------------------------------------------------------------------------- rules of the graph


def _of_op(rule: str, severity: Severity, text: str, index: int, op: Op) -> Finding:
    place = f"{text} (op {index} {op_name(op)})"
    out = op_outputs(op)[0]
    return Finding(rule=rule, severity=severity, text=place, op=index, tensor=out)


def _file_ops(read: ReadModel) -> Iterator[tuple[int, Op]]:
    """The operations with their numbers in the file."""
    return zip(read.file_ops, read.graph.ops, strict=True)


def _ends(model: FileModel, read: ReadModel) -> Findings:
    """One input, one output: what the C interface and the runners take."""
    counts = (len(read.graph.inputs), len(read.graph.outputs))
    if counts != (1, 1):
        text = f"{counts[0]} inputs and {counts[1]} outputs, not one each"
        yield _error("model.ends", text)
    if read.has_float_ends:
        yield _error("model.float-ends", "a float input or output: the runners give int8")


def _versions(model: FileModel, read: ReadModel) -> Findings:
    """LiteRT refuses a version it does not know; older runtimes refuse newer versions."""
    for index, op in _file_ops(read):
        wanted = operator_version(read.graph, op)
        found = model.ops[index].opcode.version
        if found > wanted:
            text = f"operator version {found}, {wanted} is enough"
            yield _of_op("op.version-new", Severity.ERROR, text, index, op)
        elif found < wanted:
            text = f"operator version {found}, int8 needs {wanted}"
            yield _of_op("op.version-old", Severity.ERROR, text, index, op)


def _costs(model: FileModel, read: ReadModel) -> Findings:
    """Operations that a better network or conversion would not have."""
    graph = read.graph
    for index, op in _file_ops(read):
        if isinstance(op, Pad):
            text = "a PAD of its own costs a copy: train with SAME padding"
            yield _of_op("op.pad", Severity.WARNING, text, index, op)
        if isinstance(op, Unary) and op.kind is UnaryKind.QUANTIZE:
            text = "a QUANTIZE inside the network costs a copy and a rounding"
            yield _of_op("op.quantize", Severity.WARNING, text, index, op)
        if isinstance(op, Softmax) and graph.tensor(op.out).shape[-1] > MAX_SAFE_SOFTMAX:
            text = f"over {MAX_SAFE_SOFTMAX} classes TFLM aborts on nearly equal logits"
            yield _of_op("op.softmax-classes", Severity.WARNING, text, index, op)


def _biases(model: FileModel, read: ReadModel) -> Findings:
    """A bias everywhere (LiteRT refuses or crashes without), its scale where a kernel reads it."""
    graph = read.graph
    written: dict[TensorId, bool] = {}  # bias -> read by a per-tensor FULLY_CONNECTED
    for index, op in _file_ops(read):
        if not isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected):
            continue
        if op.bias is None:
            text = "no bias: LiteRT refuses or crashes"
            yield _of_op("bias.missing", Severity.ERROR, text, index, op)
        else:
            is_read = derive.is_per_tensor_fc(graph, op)
            written[op.bias] = written.get(op.bias, False) or is_read
            if is_read and not graph.tensor(op.bias).scales:
                text = "one weight scale and no bias scale: TFLM checks it"
                yield _of_op("bias.scale-missing", Severity.ERROR, text, index, op)
    for tensor, is_read in written.items():
        if not is_read and graph.tensor(tensor).scales:
            text = "a bias scale that no kernel reads"
            yield _of_tensor("bias.scale-unread", Severity.WARNING, text, model, tensor)


def _multipliers(model: FileModel, read: ReadModel) -> Findings:
    """Multipliers keep their precision (quantisation, section 2, rule 4)."""
    graph = read.graph
    for index, op in _file_ops(read):
        if isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected):
            reals = np.atleast_1d(derive.layer_reals(graph, op))
            bad = np.flatnonzero((reals < MIN_REAL) | (reals >= MAX_REAL))
            if len(bad):
                text = f"{len(bad)} multipliers outside 2^-24..2^15, first in channel {bad[0]}"
                yield _of_op("op.multiplier-range", Severity.WARNING, text, index, op)


def _weights(model: FileModel, read: ReadModel) -> Findings:
    """Symmetric weights lie in -127..127; some kernels rely on it."""
    graph = read.graph
    for index, op in _file_ops(read):
        if isinstance(op, Conv2D | DepthwiseConv2D | FullyConnected):
            values = derive.int8_values(graph.tensor(op.weight))
            if (count := int((values == -128).sum())) > 0:
                text = f"{count} weights of -128"
                yield _of_op("weight.minimum", Severity.WARNING, text, index, op)


GRAPH_RULES: Final[tuple[Callable[[FileModel, ReadModel], Findings], ...]] = (
    _ends,
    _versions,
    _costs,
    _biases,
    _multipliers,
    _weights,
)


# ------------------------------------------------------------------------------- the contract


def _contract(graph: Graph, contract: Contract, converter: Converter) -> Findings:
    """The input is the contract's pixels, the last axis of the output its labels.

    TensorFlow's scale is a float32 quotient and may be the contract's neighbour.
    """
    entry, result = graph.tensor(graph.inputs[0]), graph.tensor(graph.outputs[0])
    spec = contract.input
    if entry.shape != (1, spec.height, spec.width, spec.channels):
        wanted = [1, spec.height, spec.width, spec.channels]
        yield _error("contract.shape", f"input is {list(entry.shape)}, the contract's {wanted}")
    scale, zero = input_quantization(contract)
    slack = np.spacing(np.float32(scale)) if converter is Converter.TENSORFLOW else 0.0
    if abs(entry.scale - scale) > slack or entry.zero_point != zero:
        found = f"scale {entry.scale!r} and zero point {entry.zero_point}"
        yield _error("contract.scale", f"input has {found}, the contract's are {scale!r}, {zero}")
    if result.elements != contract.num_classes:
        text = f"{result.elements} outputs for {contract.num_classes} labels"
        yield _error("contract.classes", text)
