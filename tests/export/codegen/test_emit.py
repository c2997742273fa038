"""A program as text: tables, structs, comments, the order of the layers."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from engine_graphs import many_layers, two_ports
from hostile_names import HOSTILE_NAMES
from single_op import Builder

from ndtool.export.codegen.emit import MAX_BYTE_TABLE, emit_program
from ndtool.export.codegen.engine import Compiled, compile_graph
from ndtool.export.codegen.layers import BEFORE, formed_layers, layer_facts
from ndtool.export.codegen.program import Call, Program, Read, Removed, Struct, Table, Write
from ndtool.export.codegen.strings import WIDTH
from ndtool.export.int8.ir import (
    Activation,
    Conv2D,
    Graph,
    Pad,
    PaddingKind,
    Split,
    TensorId,
)


def with_tables(*tables: Table) -> Compiled:
    """A call with these tables, of a graph that does not matter."""
    compiled = compile_graph(two_ports())
    x, y = compiled.graph.inputs[0], compiled.graph.outputs[0]
    call = Call(
        kernel="nd_x_s8",
        op=1,
        title="X",
        args=(
            Struct(type="nd_x_shape", fields=(("n", 1),)),
            Read(tensor=x),
            *tables,
            Write(tensor=y),
        ),
    )
    program = Program(graph=compiled.program.graph, calls=(call, dataclasses.replace(call, op=2)))
    return dataclasses.replace(compiled, program=program)


def numbers(rows: str) -> list[int]:
    return [int(cell, 0) for cell in re.findall(r"-?(?:0x[0-9a-f]+|\d+)", rows)]


@pytest.mark.parametrize(
    ("ctype", "dtype"),
    [
        ("int8_t", "i1"),
        ("uint8_t", "u1"),
        ("int16_t", "<i2"),
        ("uint16_t", "<u2"),
        ("int32_t", "<i4"),
    ],
)
def test_table_holds_its_numbers(ctype: str, dtype: str) -> None:
    info = np.iinfo(dtype)
    values = np.array([info.min, -1 if info.min else 1, 0, 5, info.max]).astype(dtype)
    table = Table(name="w", ctype=ctype, data=values.tobytes())
    (text,) = emit_program(with_tables(table), prefix="p").tables
    assert numbers(text.rows) == values.tolist()
    assert (text.symbol, text.argument) == ("p_l0_w", "p_l0_w")
    assert (text.stored, text.count, text.size) == (ctype, 5, len(table.data))


def test_long_table_of_bytes_is_words() -> None:
    data = np.arange(MAX_BYTE_TABLE + 3, dtype=np.uint8).tobytes()
    (text,) = emit_program(
        with_tables(Table(name="w", ctype="int8_t", data=data)), prefix="p"
    ).tables
    words = np.array(numbers(text.rows.replace("U", "")), "<u4")
    assert words.tobytes() == data + bytes(1)
    assert text.argument == "(const int8_t *)p_l0_w"
    assert (text.stored, text.count, text.size) == ("uint32_t", 65, MAX_BYTE_TABLE + 3)


def test_equal_tables_are_one() -> None:
    same = Table(name="w", ctype="int8_t", data=b"123")
    other_type = Table(name="shift", ctype="uint8_t", data=b"123")
    text = emit_program(with_tables(same, other_type), prefix="p")
    assert [table.symbol for table in text.tables] == ["p_l0_w", "p_l0_shift"]
    assert text.weights_bytes == 6
    assert text.body.count("p_l0_w") == 2  # by both calls
    assert len(text.structs) == 1
    assert text.body.count("&l0_shape") == 2


def test_layers_of_one_weight_share_it() -> None:
    compiled = compile_graph(many_layers())
    tables = emit_program(compiled, prefix="p").tables
    assert sum(table.symbol.endswith("_w") for table in tables) == 1
    assert len({(table.ctype, table.rows) for table in tables}) == len(tables)


def renamed(graph: Graph, names: list[str]) -> Graph:
    tensors = (
        dataclasses.replace(tensor, name=names[i % len(names)])
        for i, tensor in enumerate(graph.tensors)
    )
    return dataclasses.replace(graph, tensors=tuple(tensors))


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "猫" * 60, "x" * 500, "a;" * 90], ids=repr)
def test_name_stays_in_its_comment(name: str) -> None:
    """One comment for each call, none of them longer than a line, whatever the names are."""
    compiled = compile_graph(renamed(many_layers(), [name]))
    body = emit_program(compiled, prefix="nd_model").body
    assert max(map(len, body.splitlines())) <= WIDTH
    assert body.count("/*") == body.count("*/") == len(compiled.program.calls)
    code = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    assert re.fullmatch(r"(\s*(nd_\w+|ND_MODEL_ON_LAYER)\([^;]*\);)+\s*", code)


def test_comment_says_what_and_where() -> None:
    compiled = compile_graph(two_ports())
    body = emit_program(compiled, prefix="nd_model").body
    at = compiled.plan.offsets
    assert f"24 @{at['t0']}..{at['t0'] + 23}" in body  # the ADD's first operand: x's own bytes
    assert f"24 @{at['t1']}..{at['t1'] + 23}" in body
    assert re.search(r"/\* 0  ADD\b.*  t3 ", body)


def test_comment_names_what_its_call_forms() -> None:
    """Also behind a PAD that is folded away, and for each part of a SPLIT."""
    b = Builder()
    params = (0.5, 3)
    x, padded = b.activation((1, 2, 2, 2), params), b.activation((1, 4, 4, 2), params)
    made = b.activation((1, 4, 4, 2), params)
    halves = [b.activation((1, 2, 4, 2), params) for _ in range(2)]
    ops = (
        Pad(
            x=x,
            paddings_id=b.int32(((0, 0), (1, 1), (1, 1), (0, 0))),
            out=padded,
            paddings=((0, 0), (1, 1), (1, 1), (0, 0)),
        ),
        Conv2D(
            x=padded,
            weight=b.int8(np.ones((2, 1, 1, 2)), (1.0,)),
            bias=None,
            out=made,
            stride=(1, 1),
            dilation=(1, 1),
            padding=PaddingKind.VALID,
            act=Activation.NONE,
        ),
        Split(x=made, axis_id=b.int32(1), outs=tuple(halves), axis=1),
    )
    graph = Graph(tensors=tuple(b.tensors), ops=ops, inputs=(x,), outputs=tuple(halves))
    body = emit_program(compile_graph(graph), prefix="p").body
    names = [graph.tensor(t).name for t in (made, *halves)]
    assert re.findall(r"/\* \d+ .*  (t\d+)\b", body) == names


def test_layers_in_the_order_in_which_they_are_complete() -> None:
    compiled = compile_graph(many_layers())
    graph, layers = compiled.graph, formed_layers(compiled)
    assert [layer.after for layer in layers] == sorted(layer.after for layer in layers)
    assert sorted(layer.tensor for layer in layers) == sorted(
        {op.out for op in graph.ops} - compiled.program.fused
    )
    parts = [i for i, call in enumerate(compiled.program.calls) if call.out == graph.ops[3].out]
    (joined,) = (layer for layer in layers if layer.tensor == graph.ops[3].out)
    assert joined.after == parts[-1]
    (shaped,) = (layer for layer in layers if layer.tensor == graph.ops[4].out)
    assert (shaped.after, shaped.offset) == (joined.after, joined.offset)


def test_alias_of_an_input_is_there_before_the_first_call() -> None:
    compiled = compile_graph(two_ports())
    first = formed_layers(compiled)[0]
    assert (first.tensor, first.after) == (TensorId(2), BEFORE)
    body = emit_program(compiled, prefix="p").body
    assert body.startswith(f"    P_ON_LAYER(0, a + {compiled.plan.offsets['t0']});\n\n")


def test_facts_of_a_layer_with_removed_channels() -> None:
    compiled = compile_graph(two_ports())
    layer = formed_layers(compiled)[-1]
    assert layer_facts(layer)["live"] is None
    removed = Removed(live=(0, 2), constants={3: 7, 1: -128})
    facts = layer_facts(dataclasses.replace(layer, removed=removed, channels=2))
    assert facts["live"] == [0, 2]
    assert facts["constants"] == {"1": -128, "3": 7}
