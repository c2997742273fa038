"""Element-wise operations as kernel calls: tables of one byte, ADD, SUB and MUL."""

from __future__ import annotations

from ndtool.export.codegen.lower.strides import Loop, broadcast_strides, nest
from ndtool.export.codegen.program import Call, Read, Sharing, Struct, Table, Write
from ndtool.export.int8 import derive
from ndtool.export.int8.ir import Binary, BinaryKind, Graph, TensorId, Unary
from ndtool.export.int8.reference import unary_table
from ndtool.quant import fixed_point as fp


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


def lower_binary(graph: Graph, op: Binary, index: int) -> tuple[Call, ...]:
    """One kernel for equal and for broadcast shapes, in place over an operand not repeated."""
    is_mul = op.kind is BinaryKind.MUL
    out = graph.tensor(op.out)
    whole = {
        t: None  # a set in order: both operands may be one tensor
        for t in (op.a, op.b)
        if graph.tensor(t).data is None and graph.tensor(t).elements == out.elements
    }
    return (
        Call(
            kernel="nd_mul_s8" if is_mul else "nd_add_s8",
            op=index,
            title=op.kind.value,
            args=(
                _broadcast_shape(graph, op),
                _mul_factors(graph, op) if is_mul else add_factors(graph, op),
                _operand(graph, "a", op.a),
                _operand(graph, "b", op.b),
                Write(tensor=op.out),
            ),
            sharing=tuple(Sharing(x=t, out=op.out, low=0, high=0) for t in whole),
        ),
    )


def add_factors(graph: Graph, op: Binary) -> Struct:
    """ADD or SUB: nd_add.h's factors of one sum of `op.a` and `op.b`."""
    a, b, out = (graph.tensor(t) for t in (op.a, op.b, op.out))
    of_a, of_b, of_sum = map(fp.quantize_multiplier, derive.binary_reals(graph, op))
    low, high = derive.activation_limits(op.act, out)
    return Struct(
        type="nd_add_factors",
        fields=(
            ("a_zp", a.zero_point),
            ("a_mult", of_a[0]),
            ("a_right", -of_a[1]),
            ("b_zp", b.zero_point),
            ("b_mult", of_b[0]),
            ("b_right", -of_b[1]),
            ("b_sign", -1 if op.kind is BinaryKind.SUB else 1),
            ("out_mult", of_sum[0]),
            ("out_right", -of_sum[1]),
            ("out_zp", out.zero_point),
            ("act_min", low),
            ("act_max", high),
        ),
    )


def _mul_factors(graph: Graph, op: Binary) -> Struct:
    a, b, out = (graph.tensor(t) for t in (op.a, op.b, op.out))
    ((multiplier, shift),) = map(fp.quantize_multiplier, derive.binary_reals(graph, op))
    low, high = derive.activation_limits(op.act, out)
    return Struct(
        type="nd_mul_factors",
        fields=(
            ("a_zp", a.zero_point),
            ("b_zp", b.zero_point),
            ("mult", multiplier),
            ("shift", shift),
            ("out_zp", out.zero_point),
            ("act_min", low),
            ("act_max", high),
        ),
    )


def _operand(graph: Graph, name: str, tensor: TensorId) -> Read | Table:
    data = graph.tensor(tensor).data
    return Read(tensor=tensor) if data is None else Table(name=name, ctype="int8_t", data=data)


def _broadcast_shape(graph: Graph, op: Binary) -> Struct:
    """nd_broadcast.h: the steps of both operands, whose rows are the innermost loop."""
    shape = graph.tensor(op.out).shape
    steps = (broadcast_strides(graph.tensor(t).shape, shape) for t in (op.a, op.b))
    loops = [Loop(n, pair) for n, pair in zip(shape, zip(*steps, strict=True), strict=True)]
    blocks, planes, rows, row = nest(loops, 4)
    fields = [
        ("rows", blocks.n * planes.n * rows.n),
        ("n", row.n),
        ("n_plane", rows.n),
        ("n_block", planes.n),
    ]
    for i, name in enumerate("ab"):
        fields += [
            (f"{name}_step", row.steps[i]),
            (f"{name}_row", rows.steps[i]),
            (f"{name}_plane", planes.steps[i] - rows.n * rows.steps[i]),
            (f"{name}_block", blocks.steps[i] - planes.n * planes.steps[i]),
        ]
    return Struct(type="nd_broadcast_shape", fields=tuple(fields))
