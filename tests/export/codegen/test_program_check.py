"""Every rule of a right program: one broken program each."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from single_op import Builder

from ndtool.export.codegen.program import (
    Call,
    Program,
    Read,
    Removed,
    Scratch,
    Sharing,
    Struct,
    Table,
    Write,
)
from ndtool.export.codegen.program_check import check_program, find_faults
from ndtool.export.int8.ir import Graph, Reshape, TensorId, Unary, UnaryKind

X, MIDDLE, FLAT, OUT, ODD = map(TensorId, range(5))


def good() -> Program:
    """x -> call -> middle, flat its alias -> call -> out."""
    b = Builder()
    params = (0.1, 0)
    for shape in ((1, 2, 3), (1, 2, 3), (1, 6), (1, 6), (1, 5)):
        b.activation(shape, params)
    ops = (
        Unary(kind=UnaryKind.TANH, x=X, out=MIDDLE),
        Reshape(x=MIDDLE, shape_id=None, out=FLAT),
        Unary(kind=UnaryKind.TANH, x=FLAT, out=OUT),
    )
    return Program(
        graph=Graph(tensors=tuple(b.tensors), ops=ops, inputs=(X,), outputs=(OUT,)),
        calls=(table_call(0, X, MIDDLE), table_call(2, FLAT, OUT)),
        aliases={FLAT: MIDDLE},
    )


def table_call(op: int, x: TensorId, out: TensorId) -> Call:
    return Call(
        kernel="nd_table_s8",
        op=op,
        title="TANH",
        args=(
            Struct(type="nd_table_shape", fields=(("n", 6),)),
            Read(tensor=x),
            Table(name="table", ctype="int8_t", data=bytes(256)),
            Scratch(size=8),
            Write(tensor=out),
        ),
        sharing=(Sharing(x=x, out=out, low=0, high=0),),
    )


def with_arg(program: Program, position: int, **changes: object) -> Program:
    """The second call with another argument."""
    first, second = program.calls
    args = list(second.args)
    args[position] = replace(args[position], **changes)  # type: ignore[arg-type]
    return replace(program, calls=(first, replace(second, args=tuple(args))))


def swapped(program: Program) -> Program:
    return replace(program, calls=program.calls[::-1])


BROKEN: dict[str, tuple[Callable[[Program], Program], str]] = {
    "an alias of an alias": (
        lambda p: replace(p, aliases={FLAT: MIDDLE, MIDDLE: X}),
        "which is an alias itself",
    ),
    "an alias of another size": (lambda p: replace(p, aliases={FLAT: ODD}), "another size"),
    "a read before the write": (swapped, "before it is formed"),
    "a write after the read": (
        lambda p: replace(p, calls=(*p.calls, table_call(0, X, MIDDLE))),
        "given or read before",
    ),
    "a write to the input": (
        lambda p: replace(p, calls=(*p.calls, table_call(0, OUT, X))),
        "given or read before",
    ),
    "an output that is not formed": (
        lambda p: replace(p, graph=replace(p.graph, outputs=(ODD,))),
        "never formed",
    ),
    "channels that are not there": (
        lambda p: replace(p, removed={OUT: Removed(live=(0, 1), constants={})}),
        "other channels",
    ),
    "an operation that is not there": (
        lambda p: replace(p, calls=(p.calls[0], replace(p.calls[1], op=3))),
        "operation 3 of 3",
    ),
    "a number beyond int32": (lambda p: with_arg(p, 0, fields=(("n", 2**31),)), "n is 2147483648"),
    "a table of half an item": (
        lambda p: with_arg(p, 2, ctype="int32_t", data=bytes(6)),
        "6 bytes of int32_t",
    ),
    "an empty table": (lambda p: with_arg(p, 2, data=b""), "0 bytes of int8_t"),
    "no bytes of scratch": (lambda p: with_arg(p, 3, size=0), "0 bytes of scratch"),
    "a tensor that is fused away": (lambda p: replace(p, fused=frozenset({OUT})), "fused away"),
    "an offset behind the tensor": (lambda p: with_arg(p, 4, offset=6), "byte 6 of tensor 3"),
    "sharing with a tensor that is not read": (
        lambda p: replace(
            p,
            calls=(
                p.calls[0],
                replace(p.calls[1], sharing=(Sharing(x=X, out=OUT, low=0, high=0),)),
            ),
        ),
        "it has not both",
    ),
}


def test_a_right_program_has_no_faults() -> None:
    assert find_faults(good()) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_program_is_told(name: str) -> None:
    break_it, words = BROKEN[name]
    broken = break_it(good())
    assert any(words in fault for fault in find_faults(broken)), find_faults(broken)
    with pytest.raises(AssertionError, match=r"^program: "):
        check_program(broken)
