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
    op_outputs,
)

HEAD: Final = "index,op,output,input_shape,output_shape,macs,constant_bytes,output_bytes"


def layers_csv(graph: Graph) -> str:
    """CSV text with `HEAD`; shapes as 1x32x32x8, sizes in bytes.

    The input is the first activation; of several outputs, which have one shape, the names are
    joined by semicolons and the bytes added up.
    """
    rows = [HEAD]
    for index, op in enumerate(graph.ops):
        outs = [graph.tensor(i) for i in op_outputs(op)]
        inputs = [graph.tensor(i) for i in op_inputs(op)]
        first = next(tensor for tensor in inputs if tensor.data is None)
        constants = [tensor.data for tensor in inputs]
        cells = (
            str(index),
            op_name(op),
            csv_cell(";".join(out.name for out in outs)),
            _shape(first.shape),
            _shape(outs[0].shape),
            str(op_macs(graph, op)),
            str(sum(len(data) for data in constants if data is not None)),
            str(sum(out.elements for out in outs)),
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
