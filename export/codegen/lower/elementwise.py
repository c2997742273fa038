"""Element-wise operations as kernel calls: tables of one byte, ADD, SUB and MUL."""

from __future__ import annotations

from ndtool.export.codegen.program import Call, Read, Sharing, Struct, Table, Write
from ndtool.export.int8.ir import Graph, Unary
from ndtool.export.int8.reference import unary_table


def lower_unary(graph: Graph, op: Unary, index: int) -> tuple[Call, ...]:
    """A table of 256 outputs, in place where the input is read for the last time."""
    return (
        Call(
            kernel="nd_table_s8",
            op=index,
            title=op.kind.value,
            args=(
                Struct(type="nd_table_shape", fields=(("n", graph.tensor(op.x).elements),)),
                Read(tensor=op.x),
                Table(name="table", ctype="int8_t", data=unary_table(graph, op).tobytes()),
                Write(tensor=op.out),
            ),
            sharing=(Sharing(x=op.x, out=op.out, low=0, high=0),),
        ),
    )
