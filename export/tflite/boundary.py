"""Float inputs and outputs of an int8 model: the QUANTIZE and DEQUANTIZE behind them are dropped.

What is left computes on int8 alone; its inputs and outputs are the int8 tensors on the other side
(docs: the C interface). A float tensor anywhere else is left for the reader to refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

from ndtool.export.tflite.parse import FileModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """`inputs` and `outputs` without the `dropped` operators and the `floats` they convert.

    All are numbers of the file. A float input that several QUANTIZE read becomes as many inputs.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dropped: frozenset[int]
    floats: frozenset[int]


def find_boundary(schema: ModuleType, model: FileModel) -> Boundary:
    """The boundary of a file; without float ends it is the file's own."""
    readers = _by_tensor(op.inputs for op in model.ops)
    writers = _by_tensor(op.outputs for op in model.ops)
    quantize, dequantize = schema.BuiltinOperator.QUANTIZE, schema.BuiltinOperator.DEQUANTIZE
    dropped: set[int] = set()
    floats: set[int] = set()
    inputs: list[int] = []
    for tensor in model.inputs:
        ops = readers.get(tensor, [])
        known = tensor in model.outputs or tensor in writers
        if tensor in floats:  # a second time: the spec names an input of the graph that is
            inputs.append(model.ops[ops[0]].outputs[0])
        elif not known and _all_convert(schema, model, ops, quantize, tensor, is_input=True):
            floats.add(tensor)
            dropped.update(ops)
            inputs += [model.ops[i].outputs[0] for i in ops]
        else:
            inputs.append(tensor)
    outputs: list[int] = []
    for tensor in model.outputs:
        ops = writers.get(tensor, [])
        known = tensor in model.inputs or tensor in readers
        if (
            not known
            and len(ops) == 1
            and _all_convert(schema, model, ops, dequantize, tensor, is_input=False)
        ):
            floats.add(tensor)
            dropped.update(ops)
            outputs += model.ops[ops[0]].inputs
        else:
            outputs.append(tensor)
    return Boundary(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        dropped=frozenset(dropped),
        floats=frozenset(floats),
    )


def _by_tensor(operands: Iterable[Sequence[int]]) -> dict[int, list[int]]:
    """The operators that name each tensor, once each."""
    found: dict[int, list[int]] = {}
    for index, tensors in enumerate(operands):
        for tensor in set(tensors):
            found.setdefault(tensor, []).append(index)
    return found


def _all_convert(
    schema: ModuleType,
    model: FileModel,
    ops: Sequence[int],
    builtin: int,
    tensor: int,
    *,
    is_input: bool,
) -> bool:
    """Whether `tensor` is a float activation and `ops` only convert it from or to its like."""
    count = len(model.tensors)
    if not ops or not 0 <= tensor < count:
        return False
    found = model.tensors[tensor]
    if found.type_code != schema.TensorType.FLOAT32 or model.buffers[found.buffer].data:
        return False
    for index in ops:
        op = model.ops[index]
        if op.opcode.builtin != builtin or len(op.inputs) != 1 or len(op.outputs) != 1:
            return False
        other = op.outputs[0] if is_input else op.inputs[0]
        if not 0 <= other < count or model.tensors[other].shape != found.shape:
            return False
    return True
