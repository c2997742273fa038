"""Passes over the int8 graph before code is generated; the graph is verified after each.

Every pass keeps the bytes of the graph's outputs, and of each tensor and channel that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from ndtool.export.codegen.passes.dead_channels import drop_dead_channels
from ndtool.export.codegen.passes.padding import fold_pad
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.int8 import spec
from ndtool.export.int8.ir import Graph

__all__ = ["PASSES", "SHAPE_PASSES", "Pass", "Passed", "run_passes"]

Pass = Callable[[Passed], Passed]

# in this order: a PAD that is a convolution's own padding no longer stands between two layers
PASSES: Final[tuple[Pass, ...]] = (fold_pad, drop_dead_channels)
# the ones that ask for no weight's value: what they leave holds for every training
SHAPE_PASSES: Final[tuple[Pass, ...]] = (fold_pad,)


def run_passes(graph: Graph, passes: Sequence[Pass] = PASSES) -> Passed:
    """The graph as it is lowered, and what became of the file's tensors.

    Raises:
        UnsupportedError: the graph breaks a rule of `spec`.
    """
    spec.verify(graph)
    passed = Passed(graph=graph)
    for run in passes:
        passed = run(passed)
        spec.verify(passed.graph, where=f"int8 model after {run.__name__}")
    return passed
