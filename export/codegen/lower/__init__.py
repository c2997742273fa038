"""int8 graph -> kernel calls of the portable tier."""

from __future__ import annotations

from collections.abc import Mapping

from ndtool.errors import NdError, UnsupportedError, raise_all
from ndtool.export.codegen.lower.elementwise import lower_binary, lower_unary
from ndtool.export.codegen.lower.layers import (
    lower_conv,
    lower_depthwise,
    lower_fully_connected,
)
from ndtool.export.codegen.lower.movement import (
    lower_concat,
    lower_pad,
    lower_resize_nearest,
    lower_split,
    lower_strided_slice,
)
from ndtool.export.codegen.lower.softmax import lower_softmax
from ndtool.export.codegen.lower.sums import Sum, find_sums
from ndtool.export.codegen.lower.windows import lower_mean, lower_pool
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.codegen.program import Call, Program
from ndtool.export.codegen.program_check import check_program
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
    TensorId,
    Unary,
)


def lower(passed: Passed) -> Program:
    """The calls that compute `passed.graph`, in its order; a fused ADD comes with its convolution.

    Raises:
        UnsupportedError: names every operation that the kernels cannot hold.
    """
    graph = passed.graph
    sums = find_sums(graph)
    done = {found.index for found in sums.values()}
    calls: list[Call] = []
    problems: list[NdError] = []
    for index, op in enumerate(graph.ops):
        if index in done:
            continue
        try:
            calls += _lower_op(graph, op, index, sums.get(index))
        except UnsupportedError as problem:
            problems.append(problem)
    raise_all(problems)
    program = Program(
        graph=graph,
        calls=tuple(calls),
        aliases=_aliases(graph),
        fused=passed.fused | {found.made for found in sums.values()},
        removed=passed.removed,
    )
    check_program(program)
    return program


def _aliases(graph: Graph) -> Mapping[TensorId, TensorId]:
    """Tensors whose bytes are another's, which is no alias itself."""
    roots: dict[TensorId, TensorId] = {}
    for op in graph.ops:
        if isinstance(op, Reshape | Squeeze):
            roots[op.out] = roots.get(op.x, op.x)
    return roots


def _lower_op(graph: Graph, op: Op, index: int, fused: Sum | None) -> tuple[Call, ...]:
    match op:
        case Conv2D():
            return lower_conv(graph, op, index, fused)
        case DepthwiseConv2D():
            return lower_depthwise(graph, op, index)
        case FullyConnected():
            return lower_fully_connected(graph, op, index)
        case Binary():
            return lower_binary(graph, op, index)
        case Pool2D():
            return lower_pool(graph, op, index)
        case Mean():
            return lower_mean(graph, op, index)
        case Pad():
            return lower_pad(graph, op, index)
        case Reshape() | Squeeze():
            return ()
        case Split():
            return lower_split(graph, op, index)
        case StridedSlice():
            return lower_strided_slice(graph, op, index)
        case ResizeNearest():
            return lower_resize_nearest(graph, op, index)
        case Concat():
            return lower_concat(graph, op, index)
        case Softmax():
            return lower_softmax(graph, op, index)
        case Unary():
            return lower_unary(graph, op, index)
