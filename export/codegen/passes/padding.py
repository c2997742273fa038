"""PAD of rows and columns becomes padding of the convolution that reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Final

from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import (
    Conv2D,
    DepthwiseConv2D,
    Graph,
    Op,
    Pad,
    Pads,
    TensorId,
    op_inputs,
)
from ndtool.export.int8.rules.windows import MAX_STEP

Convolution = Conv2D | DepthwiseConv2D
CALLER: Final = -1  # reads the graph's outputs; operations have their index


def fold_pad(passed: Passed) -> Passed:
    """Each PAD of an image whose only reader is a convolution goes into it.

    PAD fills with its zero point, which `spec` has proved to be its input's: the real 0 that a
    convolution's own padding stands for. The padded image is then never formed: it is `fused`.
    """
    graph = passed.graph
    ops, readers, fused = dict(enumerate(graph.ops)), _readers(graph), set(passed.fused)
    # backwards: of two PADs in a row, the second one goes first
    for index, pad in reversed(list(ops.items())):
        if not isinstance(pad, Pad) or not _pads_image(pad):
            continue
        only = _only_convolution(ops, readers[pad.out])
        if only is None:
            continue
        at, convolution = only
        pads = merged_pads(graph, pad, convolution)
        if max(pads.top, pads.left, pads.bottom, pads.right) > MAX_STEP:
            continue
        ops[at] = replace(convolution, x=pad.x, padding=pads)
        del ops[index]
        readers[pad.x] = readers[pad.x] - {index} | {at}
        fused.add(pad.out)
    return replace(passed, graph=replace(graph, ops=tuple(ops.values())), fused=frozenset(fused))


def _readers(graph: Graph) -> dict[TensorId, set[int]]:
    """Who reads each tensor."""
    readers: dict[TensorId, set[int]] = defaultdict(set)
    for index, op in enumerate(graph.ops):
        for tensor in op_inputs(op):
            readers[tensor].add(index)
    for tensor in graph.outputs:
        readers[tensor].add(CALLER)
    return readers


def _pads_image(pad: Pad) -> bool:
    """Whether no channels are added, nor more dimensions than a convolution has."""
    return len(pad.paddings) == 4 and not any(pad.paddings[3])


def _only_convolution(ops: Mapping[int, Op], readers: Set[int]) -> tuple[int, Convolution] | None:
    """The only reader, if it is a convolution, and its index."""
    if len(readers) != 1:
        return None
    (index,) = readers
    op = ops.get(index)
    return (index, op) if isinstance(op, Convolution) else None


def merged_pads(graph: Graph, pad: Pad, convolution: Convolution) -> Pads:
    """The PAD's pixels and the convolution's own, which count from the padded image."""
    _, height, width, _ = graph.tensor(pad.out).shape
    rows, columns = derive.windows(graph, convolution)
    _, (above, below), (before, after), _ = pad.paddings
    top, bottom = rows.padding(height)
    left, right = columns.padding(width)
    return Pads(top=above + top, left=before + left, bottom=below + bottom, right=after + right)
