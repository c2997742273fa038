"""Memory, work and time of a network on the C engine, before it is trained or built.

Design, 2 and 7; users.md, 6. The plan is the engine's own, of the int8 graph that the network
becomes: with made-up weights where none are trained, since neither the arena nor the size of a
table depends on what a weight is. Channels that training lets die are removed from the C
afterwards: before training every figure is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ndtool.arch import ArchSpec, count_parameters, lower, tensor_shapes
from ndtool.console import csv_cell, visible
from ndtool.contract import Contract, InputSpec, Resize, unit_normalize
from ndtool.errors import InputError, raise_all
from ndtool.export.codegen.arena import memory_rows
from ndtool.export.codegen.costs import Cost, estimate
from ndtool.export.codegen.engine import Compiled, compile_graph
from ndtool.export.codegen.passes import SHAPE_PASSES
from ndtool.export.codegen.program import Call
from ndtool.export.graph.from_spec import build_graph
from ndtool.export.graph.ir import Conv, FloatGraph, FloatTensor, FullyConnected, op_inputs
from ndtool.export.int8.accepted import not_finite
from ndtool.export.int8.convert import ConvertOptions, convert
from ndtool.export.int8.parameters import is_copy, range_key
from ndtool.export.int8.rules.tensors import MAX_ELEMENTS
from ndtool.targets import STACK_BYTES

MAX_PARAMETERS: Final = 2**24  # twice the flash of the largest board that we list
DEFAULT_CORE: Final = "cortex-m4"  # whose instructions are estimated where no board is named
_RANGES: Final = 1009  # that many activations get ranges of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One kernel call. `live_bytes`: of the arena while it runs; `tensor`: of its output.

    `weights_bytes`: of its constant tables, without those that an earlier call has too.
    """

    index: int
    title: str
    tensor: str
    shape: tuple[int, ...]
    macs: int
    weights_bytes: int
    live_bytes: int
    instructions: int

    @property
    def name(self) -> str:
        """Of its output, for people: TFLite joins the names of all that it fused by `;`."""
        return self.tensor.partition(";")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """`what` names the network. `params` is None where only int8 tables are known.

    `upper_bound`: channels may still be found dead, which makes every figure smaller; the arena can
    become 16 bytes larger by it, as smaller tensors share their places less well, and the flash by
    the structs of layers that had one shape. The table of a SOFTMAX, as long as the scale of its
    logits asks for, is counted in full. `dead_channels`: found, and in no figure. `cost` is for
    `core`.
    """

    what: str
    core: str
    params: int | None
    macs: int
    arena_bytes: int
    cost: Cost
    layers: tuple[LayerRow, ...]
    upper_bound: bool
    dead_channels: int

    @property
    def ram_bytes(self) -> int:
        """Arena and stack (design, 9)."""
        return self.arena_bytes + STACK_BYTES

    @property
    def peak(self) -> LayerRow:
        """The call at which the arena is fullest, the first of several."""
        return max(self.layers, key=lambda row: row.live_bytes)

    @property
    def heaviest(self) -> LayerRow:
        """The call with the largest tables, the first of several."""
        return max(self.layers, key=lambda row: row.weights_bytes)


def describe_spec(spec: ArchSpec) -> str:
    """`mbv2 width 0.35, 96x96x3, 10 classes`."""
    size = f"{spec.height_px}x{spec.width_px}x{spec.in_channels}"
    return f"{spec.model} width {spec.width:g}, {size}, {spec.classes} classes"


def is_too_large(spec: ArchSpec) -> bool:
    """Whether it is larger than any microcontroller, so much that it is not planned."""
    return count_parameters(spec) > MAX_PARAMETERS or largest_activation(spec) > MAX_ELEMENTS


def largest_activation(spec: ArchSpec) -> int:
    """Bytes of the largest int8 tensor between two layers, or of the image."""
    image = spec.height_px * spec.width_px * spec.in_channels
    return max(image, *(math.prod(layer.hw_out) * layer.c_out for layer in lower(spec)))


def compile_spec(spec: ArchSpec) -> Compiled:
    """What the engine makes of the network with made-up weights, dead channels kept.

    Raises:
        InputError: `is_too_large`.
        UnsupportedError: a layer whose sums the kernels cannot hold.
    """
    what = describe_spec(spec)
    if is_too_large(spec):
        raise _too_large(what)
    shapes = tensor_shapes(lower(spec))
    graph = build_graph(spec, {name: np.zeros(s, np.float32) for name, s in shapes.items()})
    return compile_float(graph, where=what)


def compile_float(graph: FloatGraph, *, where: str) -> Compiled:
    """The same of a float graph; of its constants only the shapes count.

    Raises:
        InputError: more than `MAX_PARAMETERS`.
        UnsupportedError: NaN or infinite constants, or something that int8 TFLite or the engine
            does not have.
    """
    if constant_count(graph) > MAX_PARAMETERS:
        raise _too_large(where)
    raise_all(not_finite(graph))
    made = _with_made_up_constants(graph)
    converted = convert(made, _made_up_ranges(made), ConvertOptions())
    return compile_graph(converted.graph, SHAPE_PASSES)


def constant_count(graph: FloatGraph) -> int:
    """Values of all constants, batch norm folded in."""
    return sum(t.data.size for t in graph.tensors.values() if t.data is not None)


def _too_large(where: str) -> InputError:
    return InputError(
        "the network is far too large for a microcontroller",
        where=where,
        remedy=f"at most {MAX_PARAMETERS:,} parameters and {MAX_ELEMENTS:,} values of an activation"
        " are analysed: use a smaller --width or --resolution",
        code="analyze.too-large",
    )


def _with_made_up_constants(graph: FloatGraph) -> FloatGraph:
    """Made-up values of the usual size, the same in every run.

    A variance by the fan-in keeps every sum inside 32 bits. Cubes of normal numbers differ enough
    from channel to channel that no two layers get the same shifts, as equal tables are one in C.
    """
    made = np.random.default_rng(0)
    fan_in = {
        op.weight: _fan_in(
            graph.tensors[op.weight], depthwise=isinstance(op, Conv) and op.depthwise
        )
        for op in graph.ops
        if isinstance(op, Conv | FullyConnected)
    }
    tensors = dict(graph.tensors)
    for name, tensor in graph.tensors.items():
        if tensor.data is not None:
            normal = made.standard_normal(tensor.shape, np.float32)
            values = normal * normal * normal  # ten times as fast as ** 3
            tensors[name] = replace(
                tensor, data=values / np.float32(4 * fan_in.get(name, 1) ** 0.5)
            )
    return replace(graph, tensors=tensors)


def _made_up_ranges(graph: FloatGraph) -> dict[str, tuple[float, float]]:
    """By source, about -6 to 6, for each activation another one.

    Equal scales and zero points give equal tables and structs, which the C has once. No bound is
    above 8, which is what a LOGISTIC takes (quantisation, 1.5). What a pool, PAD or CONCATENATION
    reads is in 0..1, as it shares its scale with all that they join, a SOFTMAX among them; what
    they give needs no range.
    """
    copies = [op for op in graph.ops if is_copy(op)]
    moved = {op.out for op in copies}
    joined = {name for op in copies for name in op_inputs(op)}
    ranges = {}
    for i, (name, tensor) in enumerate(graph.tensors.items()):
        if tensor.data is None and name not in moved:
            low, high = i % _RANGES / _RANGES, 389 * i % _RANGES / _RANGES
            wide, narrow = (-4 - 4 * low, 4 + 4 * high), (0.0, 0.5 + 0.49 * high)
            ranges[range_key(tensor)] = narrow if name in joined else wide
    return ranges


def _fan_in(weight: FloatTensor, *, depthwise: bool) -> int:
    """Inputs of one output, from the layouts of `graph.ir`."""
    return int(np.prod(weight.shape[:-1] if depthwise else weight.shape[1:]))


def analyze(
    compiled: Compiled,
    *,
    what: str,
    params: int | None,
    upper_bound: bool,
    core: str,
    contract: Contract | None = None,
) -> Analysis:
    """The figures of a compiled network on `core`, a word of boards.toml.

    Without a `contract` the C has no pixel quantiser.
    """
    cost = estimate(compiled, core, contract=contract)
    program = compiled.program
    rows = memory_rows(program, compiled.plan)
    weights = _table_bytes(program.calls)
    layers = [
        LayerRow(
            index=row.call,
            title=row.title,
            tensor=row.tensor,
            shape=program.graph.tensor(call.out).shape,
            macs=call.macs,
            weights_bytes=weights[row.call],
            live_bytes=row.live_bytes,
            instructions=cost.call_instructions[row.call],
        )
        for call, row in zip(program.calls, rows, strict=True)
    ]
    return Analysis(
        what=what,
        core=core,
        params=params,
        macs=sum(call.macs for call in program.calls),
        arena_bytes=compiled.plan.total,
        cost=cost,
        layers=tuple(layers),
        upper_bound=upper_bound,
        dead_channels=sum(len(row.constants) for row in program.removed.values()),
    )


def _table_bytes(calls: Sequence[Call]) -> list[int]:
    """Bytes of the tables of each call that no earlier one has: equal ones are emitted once."""
    seen: set[tuple[str, bytes]] = set()
    sizes = []
    for call in calls:
        new = {(table.ctype, table.data) for table in call.tables} - seen
        seen |= new
        sizes.append(sum(len(data) for _, data in new))
    return sizes


def analyze_spec(spec: ArchSpec, *, core: str, contract: Contract | None = None) -> Analysis:
    """Of an architecture alone; no torch, no weights.

    Args:
        contract: what it is to be trained with; None: the default of `ndtool train`.

    Raises:
        InputError, UnsupportedError: as `compile_spec`.
    """
    return analyze(
        compile_spec(spec),
        what=describe_spec(spec),
        params=count_parameters(spec),
        upper_bound=True,
        core=core,
        contract=contract or default_contract(spec),
    )


def default_contract(spec: ArchSpec) -> Contract:
    """The contract of a training that asks for no other; the names of the classes are made up."""
    pixels = InputSpec(
        height=spec.height_px,
        width=spec.width_px,
        channels=spec.in_channels,
        color="RGB" if spec.in_channels == 3 else "GRAY",
    )
    return Contract(
        input=pixels,
        resize=Resize(),
        normalize=unit_normalize(spec.in_channels),
        labels=tuple(f"class {k}" for k in range(spec.classes)),
    )


def analysis_csv(analysis: Analysis) -> str:
    """The layers as a table, a line each."""
    lines = ["layer,operation,tensor,output,macs,weights_bytes,live_bytes,peak,instructions"]
    for row in analysis.layers:
        cells = (
            f"{row.index}",
            csv_cell(row.title),
            csv_cell(visible(row.tensor)),
            "x".join(map(str, row.shape)),
            f"{row.macs}",
            f"{row.weights_bytes}",
            f"{row.live_bytes}",
            "peak" if row.live_bytes == analysis.peak.live_bytes else "",
            f"{row.instructions}",
        )
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"
