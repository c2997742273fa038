"""The arena of a program: lifetimes of its tensors and scratch, their offsets, and a table of both.

Blocks are named `t<storage tensor>` and `s<call>`. Inputs live from the first call, since the user
writes them all before it. Outputs live to a time after the last call, so that even this one cannot
write over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ndtool.console import csv_cell, visible
from ndtool.export.codegen.plan import ArenaPlan, Block, Overlap, check_plan, plan_arena
from ndtool.export.codegen.program import Program, Scratch, Sharing
from ndtool.export.int8.ir import TensorId
from ndtool.quant.fixed_point import I64


def plan_program(program: Program) -> ArenaPlan:
    """Offsets of every storage and every scratch of the program.

    Raises:
        AssertionError: the program reads what nothing wrote, or the plan is wrong (a bug).
    """
    blocks = program_blocks(program)
    overlaps = program_overlaps(program, blocks)
    plan = plan_arena(blocks.values(), overlaps)
    check_plan(blocks.values(), overlaps, plan)
    return plan


def tensor_offset(program: Program, plan: ArenaPlan, tensor: TensorId) -> int:
    """Where the tensor's first byte lies, relative to the arena."""
    return plan.offsets[tensor_block(program, tensor)]


def scratch_offset(plan: ArenaPlan, call_index: int) -> int:
    """Where the scratch of a call lies; only for a call that has some."""
    return plan.offsets[scratch_block(call_index)]


def tensor_block(program: Program, tensor: TensorId) -> str:
    """Name of the block that holds the tensor."""
    return f"t{program.storage(tensor)}"


def scratch_block(call_index: int) -> str:
    """Name of the block that is the scratch of a call."""
    return f"s{call_index}"


def program_blocks(program: Program) -> Mapping[str, Block]:
    """What needs a place, by name, with its lifetime over all aliases.

    Raises:
        AssertionError: a tensor is read or given out that nothing forms (a bug of the lowering).
    """
    after_all = len(program.calls)
    spans = {program.storage(tensor): (0, 0) for tensor in program.graph.inputs}
    blocks = {}

    def use(tensor: TensorId, time: int) -> None:
        storage = program.storage(tensor)
        if storage not in spans:
            raise AssertionError(f"program: tensor {tensor} is used at {time} and never formed")
        spans[storage] = (spans[storage][0], time)

    for index, call in enumerate(program.calls):
        for tensor in call.reads:
            use(tensor, index)
        spans.setdefault(program.storage(call.out), (index, index))
        use(call.out, index)
        sizes = [arg.size for arg in call.args if isinstance(arg, Scratch)]
        if sizes:
            (size,) = sizes  # one pointer, one block
            name = scratch_block(index)
            blocks[name] = Block(name=name, size=size, first=index, last=index)
    for tensor in program.graph.outputs:
        use(tensor, after_all)
    for storage, (first, last) in spans.items():
        name = tensor_block(program, storage)
        size = program.graph.tensor(storage).elements
        blocks[name] = Block(name=name, size=size, first=first, last=last)
    return blocks


def program_overlaps(program: Program, blocks: Mapping[str, Block]) -> tuple[Overlap, ...]:
    """The sharing rules of the calls that the lifetimes allow.

    A rule counts where the bytes of `x` end and those of `out` begin with this call. A call may
    read the same bytes as two tensors (a RESHAPE's two sides): then each needs a rule, and the
    strictest of both bounds holds.
    """
    overlaps = []
    for index, call in enumerate(program.calls):
        out = tensor_block(program, call.out)
        rules: dict[str, list[Sharing]] = {}
        for rule in call.sharing:
            if rule.out != call.out or rule.x not in call.reads:
                raise AssertionError(f"program: call {index} shares tensors it does not use")
            rules.setdefault(tensor_block(program, rule.x), []).append(rule)
        for x, found in rules.items():
            read = {tensor for tensor in call.reads if tensor_block(program, tensor) == x}
            ends_here = blocks[x].last == index and blocks[out].first == index
            if ends_here and read == {rule.x for rule in found}:
                low = max((rule.low for rule in found if rule.low is not None), default=None)
                high = min((rule.high for rule in found if rule.high is not None), default=None)
                overlaps.append(Overlap(before=x, after=out, low=low, high=high))
    return tuple(overlaps)


# ---- what each call needs ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Bytes `offset .. offset + size - 1` of the arena."""

    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.offset}..{self.offset + self.size - 1}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """What one call needs of the arena.

    `live_bytes`: bytes that hold something while it runs, those that two tensors share counted
    once; `kept_bytes`: the part of them that it neither reads nor writes. `peak`: no call has more
    live bytes. `tensor` is the name in the file of what it forms.
    """

    call: int
    title: str
    tensor: str
    inputs: tuple[Extent, ...]
    output: Extent
    scratch: Extent | None
    kept_bytes: int
    live_bytes: int
    peak: bool


def memory_rows(program: Program, plan: ArenaPlan) -> tuple[MemoryRow, ...]:
    """A row for every call, in order."""
    blocks = program_blocks(program)
    extents = {
        name: Extent(offset=plan.offsets[name], size=block.size) for name, block in blocks.items()
    }
    by_offset = sorted(blocks.values(), key=lambda block: plan.offsets[block.name])
    start = np.array([plan.offsets[block.name] for block in by_offset], np.int64)
    end = start + np.array([block.size for block in by_offset], np.int64)
    first = np.array([block.first for block in by_offset], np.int64)
    last = np.array([block.last for block in by_offset], np.int64)
    number = {block.name: i for i, block in enumerate(by_offset)}
    live, used = [], []
    for index, call in enumerate(program.calls):
        alive = (first <= index) & (index <= last)
        live.append(_covered(start[alive], end[alive]))
        names = {tensor_block(program, tensor) for tensor in (*call.reads, call.out)}
        mine = sorted(number[name] for name in names | ({scratch_block(index)} & extents.keys()))
        used.append(_covered(start[mine], end[mine]))
    highest = max(live, default=0)
    rows = []
    for index, call in enumerate(program.calls):
        inputs = dict.fromkeys(tensor_block(program, tensor) for tensor in call.reads)
        rows.append(
            MemoryRow(
                call=index,
                title=call.title,
                tensor=program.graph.tensor(call.out).name,
                inputs=tuple(extents[name] for name in inputs),
                output=extents[tensor_block(program, call.out)],
                scratch=extents.get(scratch_block(index)),
                kept_bytes=live[index] - used[index],
                live_bytes=live[index],
                peak=live[index] == highest,
            )
        )
    return tuple(rows)


def _covered(start: I64, end: I64) -> int:
    """Bytes covered by at least one of these ranges, given in order of their starts."""
    reach = np.maximum.accumulate(end)  # of a range and those that start below it
    before = np.concatenate((np.zeros(1, np.int64), reach[:-1]))
    return int(np.sum(np.maximum(reach - np.maximum(before, start), 0)))


def memory_csv(rows: Iterable[MemoryRow]) -> bytes:
    """The rows as a table; extents are `first..last` byte of the arena."""
    lines = ["call,title,tensor,inputs,output,scratch,kept_bytes,live_bytes,peak"]
    for row in rows:
        cells = (
            str(row.call),
            csv_cell(row.title),
            csv_cell(visible(row.tensor)),
            " ".join(map(str, row.inputs)),
            str(row.output),
            "" if row.scratch is None else str(row.scratch),
            str(row.kept_bytes),
            str(row.live_bytes),
            "peak" if row.peak else "",
        )
        lines.append(",".join(cells))
    return ("\n".join(lines) + "\n").encode()
