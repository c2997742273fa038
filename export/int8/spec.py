"""What a legal int8 graph is: a table with one row per operation, and `verify`.

`verify` is called after reading, after conversion and after every pass: what follows it (the
reference, the writer, the planner, the C generator) relies on each rule and checks none again.
A rule is there because TFLM refuses, aborts or computes nonsense without a word, because C would
be undefined, or to bound hostile files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ndtool.console import visible
from ndtool.errors import UnsupportedError, raise_all
from ndtool.export.int8.ir import (
    Binary,
    Concat,
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Mean,
    Op,
    Pad,
    Pool2D,
    Reshape,
    ResizeNearest,
    Softmax,
    Split,
    Squeeze,
    StridedSlice,
    Unary,
    op_inputs,
    op_name,
    op_outputs,
)
from ndtool.export.int8.rules import layers, movement, pointwise, windows
from ndtool.export.int8.rules.row import Role, Row, plays
from ndtool.export.int8.rules.tensors import (
    MAX_TOTAL_ELEMENTS,
    OpIndex,
    Problem,
    dangling,
    order_problems,
    referenced,
    tensor_problems,
)

SPEC: Final[Mapping[type, Row[Any]]] = {
    Conv2D: layers.CONVOLUTION,
    DepthwiseConv2D: layers.CONVOLUTION,
    FullyConnected: layers.FULLY_CONNECTED,
    Binary: pointwise.BINARY,
    Pool2D: windows.POOL,
    Mean: windows.MEAN,
    Pad: movement.PAD,
    Reshape: movement.RESHAPE,
    Squeeze: movement.SQUEEZE,
    Split: movement.SPLIT,
    StridedSlice: movement.STRIDED_SLICE,
    ResizeNearest: movement.RESIZE_NEAREST,
    Concat: movement.CONCAT,
    Softmax: pointwise.SOFTMAX,
    Unary: pointwise.UNARY,
}

# what is demanded of every operation, unless its row says more
OP_RULES: Final[Mapping[str, str]] = {
    "op.operand": "every operand is what its role asks for; outputs are activations",
    "op.shape": "every output has the shape that the operation gives",
}

# what to do about a rule, where there is more to say than the default
_REMEDY: Final = "change the network or convert it again"
_REMEDIES: Final[Mapping[str, str]] = {
    "tensor.batch": "convert with a fixed batch of 1",
    "op.grouped": "use SPLIT, one CONV_2D for each group and CONCATENATION",
    "op.weight-zero-point": "convert with symmetric weights",
    "op.equal-params": "put a QUANTIZE between them, or convert again",
}


def verify(
    graph: Graph, *, where: str = "int8 model", file_ops: Sequence[int] | None = None
) -> None:
    """Check every rule; returns only for a legal graph.

    Args:
        file_ops: the number of each op in its file, for messages, where it is not the graph's.

    Raises:
        UnsupportedError: names every broken rule with its op and tensor.
    """
    problems = find_problems(graph)
    raise_all([problem_error(graph, problem, where, file_ops) for problem in problems])


def problem_error(
    graph: Graph, problem: Problem, where: str, file_ops: Sequence[int] | None = None
) -> UnsupportedError:
    """The error that names `problem`."""
    place = [where]
    if problem.op is not None:
        number = problem.op if file_ops is None else file_ops[problem.op]
        place.append(f"op {number} {op_name(graph.ops[problem.op])}")
    if problem.tensor is not None:
        known = 0 <= problem.tensor < len(graph.tensors)
        name = f" '{visible(graph.tensor(problem.tensor).name)}'" if known else ""
        place.append(f"tensor {problem.tensor}{name}")
    return UnsupportedError(
        problem.text,
        where=", ".join(place),
        remedy=_REMEDIES.get(problem.rule, _REMEDY),
        code=f"int8.{problem.rule}",
    )


def find_problems(graph: Graph) -> list[Problem]:
    """Every broken rule; empty for a legal graph.

    Rules that rest on others are looked at only where those hold, so that one cause is one line.
    """
    if lost := list(dangling(graph)):
        return lost
    bad_tensors = {t: tensor_problems(graph, t) for t in referenced(graph)}
    problems = [problem for found in bad_tensors.values() for problem in found]
    problems += order_problems(graph)
    touched = [(*op_inputs(op), *op_outputs(op)) for op in graph.ops]
    good = (t for tensors in touched for t in tensors if not bad_tensors[t])
    total = sum(graph.tensor(t).elements for t in good)
    if total > MAX_TOTAL_ELEMENTS:
        text = f"{total} elements read and written, at most {MAX_TOTAL_ELEMENTS}"
        return [*problems, Problem(rule="graph.size", text=text)]
    for index, (op, tensors) in enumerate(zip(graph.ops, touched, strict=True)):
        if not any(bad_tensors[t] for t in tensors):
            problems += _op_problems(graph, OpIndex(index), op)
    return problems


def _op_problems(graph: Graph, index: OpIndex, op: Op) -> Iterator[Problem]:
    row, outs = SPEC[type(op)], op_outputs(op)
    roles = (*row.operands(op), *((out, Role.ACTIVATION) for out in outs))
    wrong = [
        Problem(rule="op.operand", text=f"not an {role.value}", op=index, tensor=tensor)
        for tensor, role in roles
        if tensor is not None and not plays(graph.tensor(tensor), role)
    ]
    if wrong:
        yield from wrong
        return
    faults = list(row.attributes(graph, op))
    if not faults:
        made = row.shape(graph, op)
        declared = [shape for out in outs if (shape := graph.tensor(out).shape) != made]
        faults = [("op.shape", f"gives shape {list(made)}, declared {list(s)}") for s in declared]
    if not faults:
        faults = list(row.arithmetic(graph, op))
    for rule, text in faults:
        yield Problem(rule=rule, text=text, op=index, tensor=outs[0] if outs else None)
