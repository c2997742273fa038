"""What a right program is: checked after lowering, before anything is planned or printed.

`spec.verify` has judged the user's graph; what is wrong here is a fault of ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ndtool.export.codegen.program import Call, Program, Read, Scratch, Struct, Table, Write
from ndtool.export.int8.ir import TensorId

ITEM_BYTES: Final = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "uint16_t": 2, "int32_t": 4}


def check_program(program: Program) -> None:
    """Check every rule.

    Raises:
        AssertionError: names every broken rule.
    """
    faults = find_faults(program)
    if faults:
        raise AssertionError("program: " + "; ".join(faults))


def find_faults(program: Program) -> list[str]:
    """A sentence for every broken rule; empty for a right program."""
    faults = [*_alias_faults(program), *_removed_faults(program)]
    formed = {program.storage(tensor) for tensor in program.graph.inputs}
    finished = set(formed)  # given by the user, or read: no call may write it any more
    for index, call in enumerate(program.calls):
        place = f"call {index} {call.kernel}"
        faults += (f"{place}: {fault}" for fault in _call_faults(program, call))
        for tensor in call.reads:
            storage = program.storage(tensor)
            if storage not in formed:
                faults.append(f"{place}: reads tensor {tensor} before it is formed")
            finished.add(storage)
        out = program.storage(call.out)
        if out in finished:
            faults.append(f"{place}: writes tensor {call.out}, which was given or read before")
        formed.add(out)
    for tensor in program.graph.outputs:
        if program.storage(tensor) not in formed:
            faults.append(f"output tensor {tensor} is never formed")
    return faults


def _alias_faults(program: Program) -> Iterator[str]:
    for tensor, root in program.aliases.items():
        if root in program.aliases:
            yield f"tensor {tensor} is an alias of tensor {root}, which is an alias itself"
        elif program.graph.tensor(tensor).elements != program.graph.tensor(root).elements:
            yield f"tensor {tensor} is an alias of tensor {root} and has another size"


def _removed_faults(program: Program) -> Iterator[str]:
    for tensor, removed in program.removed.items():
        if len(removed.live) != program.graph.tensor(tensor).shape[-1]:
            yield f"tensor {tensor} has other channels than those said to be live"


def _call_faults(program: Program, call: Call) -> Iterator[str]:
    if not 0 <= call.op < len(program.graph.ops):
        yield f"operation {call.op} of {len(program.graph.ops)}"
    for arg in call.args:
        match arg:
            case Struct():
                for name, value in arg.fields:
                    if not -(2**31) <= value < 2**31:
                        yield f"{arg.type}.{name} is {value}"
            case Table():
                if not arg.data or len(arg.data) % ITEM_BYTES[arg.ctype]:
                    yield f"table {arg.name} has {len(arg.data)} bytes of {arg.ctype}"
            case Read() | Write():
                yield from _tensor_faults(program, arg.tensor, arg.offset)
            case Scratch():
                if arg.size < 1:
                    yield f"{arg.size} bytes of scratch"
    for rule in call.sharing:
        if rule.out != call.out or rule.x not in call.reads:
            yield f"lets tensor {rule.out} share memory with {rule.x}; it has not both"


def _tensor_faults(program: Program, tensor: TensorId, offset: int) -> Iterator[str]:
    found = program.graph.tensor(tensor)
    if found.data is not None or tensor in program.fused:
        yield f"tensor {tensor} is a constant or fused away"
    elif not 0 <= offset < found.elements:
        yield f"byte {offset} of tensor {tensor}"
