"""From an int8 graph to what the C engine runs: kernel calls, and their places in one arena."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ndtool.export.codegen.arena import plan_program
from ndtool.export.codegen.lower import lower
from ndtool.export.codegen.passes import PASSES, Pass, run_passes
from ndtool.export.codegen.plan import ArenaPlan
from ndtool.export.codegen.program import Program
from ndtool.export.int8.ir import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """`graph` is the file's; `program` is of the graph after the passes, `plan` its arena."""

    graph: Graph
    program: Program
    plan: ArenaPlan


def compile_graph(graph: Graph, passes: Sequence[Pass] = PASSES) -> Compiled:
    """Kernel calls and arena of `graph`; generated code is of all `PASSES`.

    Raises:
        UnsupportedError: names everything in `graph` that the engine has no exact code for.
    """
    program = lower(run_passes(graph, passes))
    return Compiled(graph=graph, program=program, plan=plan_program(program))
