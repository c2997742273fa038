"""Which ADD becomes part of the convolution before it.

The convolution's result then never exists as a tensor, and the sum takes the place of the other
operand: a residual block needs two tensors instead of three.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ndtool.export.int8.ir import (
    Binary,
    BinaryKind,
    Conv2D,
    Graph,
    TensorId,
    op_inputs,
    op_outputs,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """An ADD computed where its operand `made` is formed; `index` is the ADD's in the graph."""

    op: Binary
    index: int
    made: TensorId
    other: TensorId


def find_sums(graph: Graph) -> Mapping[int, Sum]:
    """Index of a CONV_2D -> the ADD to fuse into it.

    The convolution's output has no reader but the ADD and is no output of the graph; the other
    operand is an activation of the sum's shape that is formed before the convolution. Of two
    convolutions that is the later one: the sum is formed in its place in the order.
    """
    readers = Counter(t for op in graph.ops for t in op_inputs(op))
    maker = {t: index for index, op in enumerate(graph.ops) for t in op_outputs(op)}
    found: dict[int, Sum] = {}
    for index, op in enumerate(graph.ops):
        if not isinstance(op, Binary) or op.kind is not BinaryKind.ADD:
            continue
        # graph inputs have no maker: they are there from the beginning
        other, made = sorted((op.a, op.b), key=lambda t: maker.get(t, -1))
        at = maker.get(made, -1)
        if (
            at >= 0
            and isinstance(graph.ops[at], Conv2D)
            and readers[made] == 1
            and made not in graph.outputs
            and graph.tensor(other).data is None
            and graph.tensor(other).shape == graph.tensor(made).shape
        ):
            found[at] = Sum(op=op, index=index, made=made, other=other)
    return found
