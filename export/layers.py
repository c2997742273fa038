"""layers.csv: one row an operation of the int8 file."""

from __future__ import annotations

import math
from typing import Final

from ndtool.console import csv_cell
from ndtool.export.int8.ir import (
    Conv2D,
    DepthwiseConv2D,
    FullyConnected,
    Graph,
    Op,
    op_inputs,
    op_name,
)

HEAD: Final = "index,op,output,input_shape,output_shape,macs,constant_bytes,output_bytes"


def layers_csv(graph: Graph) -> str:
    """CSV text with `HEAD`; shapes as 1x32x32x8, sizes in bytes."""
    rows = [HEAD]
    for index, op in enumerate(graph.ops):
        out = graph.tensor(op.out)
        first = graph.tensor(op_inputs(op)[0])
        constants = [graph.tensor(i).data for i in op_inputs(op)]
        cells = (
            str(index),
            op_name(op),
            csv_cell(out.name),
            _shape(first.shape),
            _shape(out.shape),
            str(op_macs(graph, op)),
            str(sum(len(data) for data in constants if data is not None)),
            str(out.elements),
        )
        rows.append(",".join(cells))
    return "\n".join(rows) + "\n"


def op_macs(graph: Graph, op: Op) -> int:
    """Multiply-accumulates, padding counted as if computed; 0 for what is not a convolution."""
    match op:
        case Conv2D() | FullyConnected():
            weights = graph.tensor(op.weight)
            return graph.tensor(op.out).elements * math.prod(weights.shape[1:])
        case DepthwiseConv2D():
            kernel = graph.tensor(op.weight).shape[1:3]
            return graph.tensor(op.out).elements * math.prod(kernel)
        case _:
            return 0


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
