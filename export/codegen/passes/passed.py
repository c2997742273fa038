"""What a pass takes and gives: a graph, and what of the file's graph it no longer forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ndtool.export.codegen.program import Removed
from ndtool.export.int8.ir import Graph, TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A graph after some passes, and what of the file's graph it no longer forms.

    Tensor numbers are the file's; new constants come after them. `removed` and `fused` are those
    of `Program`.
    """

    graph: Graph
    removed: Mapping[TensorId, Removed] = field(default_factory=dict)
    fused: frozenset[TensorId] = frozenset()
