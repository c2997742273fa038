"""Rules of tensors and of their order in the graph, and what a broken rule is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NewType

import numpy as np

from ndtool.export.int8.ir import DType, Graph, Tensor, TensorId, op_inputs, op_outputs

OpIndex = NewType("OpIndex", int)

MAX_RANK: Final = 5  # PAD's own limit (mk/pad_common.cc), the smallest of the kernels
MAX_ELEMENTS: Final = 2**24  # of one tensor: 16 MiB of int8, far above any microcontroller
MAX_TOTAL_ELEMENTS: Final = 2**27  # over all ops: what each reads and writes

# what each rule of this file demands, by its slug
RULES: Final[Mapping[str, str]] = {
    "tensor.range": "every tensor that is named is there",
    "tensor.shape": f"at most {MAX_RANK} dimensions, each at least 1; at most {MAX_ELEMENTS:,} "
    "elements",
    "tensor.dtype": "an activation is int8",
    "tensor.batch": "the first dimension of an activation is 1",
    "tensor.scale": "an activation has one scale; every scale is a finite float32 above 0",
    "tensor.data": "a constant has the bytes of its shape and type",
    "tensor.zero-point": "as many zero points as scales, of int8 -128 to 127, of int32 0",
    "tensor.quantized-dim": "several scales are one for each index of `quantized_dim`",
    "graph.empty": "a graph has inputs, operations and outputs",
    "graph.input": "inputs are activations, each named once",
    "graph.order": "an activation is an input or is written before it is read",
    "graph.writer": "an activation is written once; inputs and constants never",
    "graph.output": "outputs are inputs or written",
    "graph.size": f"all operations together read and write at most {MAX_TOTAL_ELEMENTS:,} elements",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One broken rule: a stable slug, the place, and a sentence."""

    rule: str
    text: str
    op: OpIndex | None = None
    tensor: TensorId | None = None


def dangling(graph: Graph) -> Iterator[Problem]:
    """References to tensors that are not there."""
    count = len(graph.tensors)
    for tensor in (*graph.inputs, *graph.outputs):
        if not 0 <= tensor < count:
            yield Problem(rule="tensor.range", text=f"tensor {tensor} of {count}", tensor=tensor)
    for index, op in enumerate(graph.ops):
        for tensor in (*op_inputs(op), *op_outputs(op)):
            if not 0 <= tensor < count:
                text = f"tensor {tensor} of {count}"
                yield Problem(rule="tensor.range", text=text, op=OpIndex(index), tensor=tensor)


def referenced(graph: Graph) -> list[TensorId]:
    """Tensors that the graph or an operation names, ascending."""
    used = {*graph.inputs, *graph.outputs}
    for op in graph.ops:
        used.update(op_inputs(op), op_outputs(op))
    return sorted(used)


def tensor_problems(graph: Graph, index: TensorId) -> list[Problem]:
    """What is wrong with one tensor by itself."""
    faults = _tensor_faults(graph.tensor(index))
    return [Problem(rule=rule, text=text, tensor=index) for rule, text in faults]


def _tensor_faults(tensor: Tensor) -> Iterator[tuple[str, str]]:
    shape, scales, zeros = tensor.shape, tensor.scales, tensor.zero_points
    if len(shape) > MAX_RANK or any(n < 1 for n in shape) or tensor.elements > MAX_ELEMENTS:
        yield "tensor.shape", f"shape {list(shape[:8])} is not of 1..{MAX_ELEMENTS} elements"
        return
    if tensor.data is None:
        if tensor.dtype is not DType.INT8:
            yield "tensor.dtype", f"an activation of type {tensor.dtype}, not int8"
        if not shape or shape[0] != 1:
            yield "tensor.batch", f"shape {list(shape)}: the batch is not 1"
        if len(scales) != 1:
            yield "tensor.scale", f"an activation with {len(scales)} scales, not one"
    else:
        size = tensor.elements * (1 if tensor.dtype is DType.INT8 else 4)
        if len(tensor.data) != size:
            yield "tensor.data", f"{len(tensor.data)} bytes of data, {size} needed"
    if len(zeros) != len(scales):
        yield "tensor.zero-point", f"{len(zeros)} zero points for {len(scales)} scales"
    elif len(scales) > 1:
        dim = tensor.quantized_dim
        if not 0 <= dim < len(shape) or shape[dim] != len(scales):
            text = f"{len(scales)} scales along dimension {dim} of shape {list(shape)}"
            yield "tensor.quantized-dim", text
    if not are_float32(scales) or min(scales, default=1.0) <= 0:
        yield "tensor.scale", "a scale that is not a finite float32 above 0"
    low, high = (-128, 127) if tensor.dtype is DType.INT8 else (0, 0)
    if not all(low <= z <= high for z in zeros):
        yield "tensor.zero-point", f"a zero point outside {low}..{high}"


@np.errstate(over="ignore")
def are_float32(values: Sequence[float]) -> bool:
    """Whether all are finite and kept by a cast to float32."""
    exact = np.asarray(values, np.float64)
    return bool((np.isfinite(exact) & (exact.astype(np.float32) == exact)).all())


def order_problems(graph: Graph) -> Iterator[Problem]:
    """One writer per activation, before every reader."""
    if not graph.inputs or not graph.outputs or not graph.ops:
        yield Problem(rule="graph.empty", text="a graph needs inputs, operations and outputs")
    written: set[TensorId] = set()
    for tensor in graph.inputs:
        if graph.tensor(tensor).data is not None or tensor in written:
            text = "a graph input is a constant or is named twice"
            yield Problem(rule="graph.input", text=text, tensor=tensor)
        written.add(tensor)
    for i, op in enumerate(graph.ops):
        index = OpIndex(i)
        for tensor in op_inputs(op):
            if graph.tensor(tensor).data is None and tensor not in written:
                text = "read before any operation wrote it"
                yield Problem(rule="graph.order", text=text, op=index, tensor=tensor)
        for tensor in op_outputs(op):
            if graph.tensor(tensor).data is not None or tensor in written:
                text = "the output is a constant or was written before"
                yield Problem(rule="graph.writer", text=text, op=index, tensor=tensor)
            written.add(tensor)
    for tensor in graph.outputs:
        if tensor not in written:
            text = "a graph output that no operation writes"
            yield Problem(rule="graph.output", text=text, tensor=tensor)
