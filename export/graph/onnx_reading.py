"""What is known of an ONNX graph while its nodes are read, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ndtool.console import visible
from ndtool.errors import InputError, UnsupportedError
from ndtool.export.graph.draft import Draft, Shape, UniqueNames
from ndtool.export.graph.fold import F64, not_finite
from ndtool.export.graph.onnx_file import (
    MAX_ELEMENTS,
    Array,
    Node,
    OnnxFile,
    malformed,
    unsupported,
)

TO_NHWC: Final = (0, 2, 3, 1)


@dataclass(slots=True, eq=False, kw_only=True)
class Reading:
    """What is known after the nodes read so far.

    `shapes` are ONNX's own (NCHW), of activations; `flat` are flattened images with their
    (c, h, w), whose elements stand in another order with us; `unknown` are the outputs of nodes
    that could not be read, `extra` those after a node's first, such as Dropout's mask.
    """

    file: OnnxFile
    draft: Draft
    constants: dict[str, Array]
    shapes: dict[str, Shape] = field(default_factory=dict)
    alias: dict[str, str] = field(default_factory=dict)
    flat: dict[str, Shape] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    extra: set[str] = field(default_factory=set)
    problems: list[UnsupportedError] = field(default_factory=list)
    op_names: UniqueNames = field(default_factory=UniqueNames)
    constant_elements: int = 0

    def resolve(self, name: str) -> str:
        """The tensor that an Identity, Dropout, ... passes on; no alias points at an alias."""
        return self.alias.get(name, name)

    def knows(self, name: str) -> bool:
        """Whether a tensor of that name has been met."""
        known = (self.shapes, self.alias, self.constants, self.unknown, self.extra)
        return any(name in names for names in known)

    def define(self, name: str, shape: Shape) -> str:
        """A new activation of ONNX shape `shape`; its name."""
        if not all(n >= 1 for n in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise malformed(f"tensor {visible(name)} is empty or too large", where=self.draft.where)
        self.shapes[name] = shape
        image = len(shape) == 4
        self.draft.shapes[name] = tuple(shape[i] for i in TO_NHWC) if image else shape
        return name

    def maybe_flat(self, node: Node, index: int) -> str:
        """An input that depends on the image."""
        name = self.resolve(node.input(index))
        if name == "":
            raise malformed(f"input {index} is absent", where=node.where)
        if name not in self.shapes:
            raise unsupported(f"input {index} of {node.op} is constant", where=node.where)
        return name

    def activation(self, node: Node, index: int) -> str:
        """An input that depends on the image, its elements in the same order in ONNX and here."""
        name = self.maybe_flat(node, index)
        if name in self.flat:
            raise unsupported(
                "a flattened image is read by something else than a linear layer",
                where=node.where,
                remedy="put the operation before the flattening",
            )
        return name

    def image(self, node: Node) -> tuple[str, Shape]:
        """The first input and its (1, c, h, w)."""
        name = self.activation(node, 0)
        shape = self.shapes[name]
        if len(shape) != 4:
            raise unsupported(f"{node.op} of a tensor of rank {len(shape)}", where=node.where)
        return name, shape

    def array(self, node: Node, index: int) -> Array | None:
        """A constant input, None where an optional one is absent."""
        name = node.input(index)
        if name == "":
            return None
        found = self.constants.get(name)
        if found is None:
            raise unsupported(f"input {index} of {node.op} is not constant", where=node.where)
        return found

    def floats(self, node: Node, index: int) -> F64 | None:
        """A constant float input in float64, None where absent."""
        found = self.array(node, index)
        if found is None:
            return None
        if found.dtype.kind != "f":
            raise malformed(f"input {index} is not a float tensor", where=node.where)
        if not np.isfinite(found).all():
            raise not_finite(node.input(index), where=node.where)
        self.count(found.size, node)
        return found.astype(np.float64)

    def vector(self, node: Node, index: int, size: int) -> F64:
        """A required constant of shape (size,)."""
        values = self.floats(node, index)
        if values is None or values.shape != (size,):
            raise malformed(f"input {index} is not a vector of {size}", where=node.where)
        return values

    def weights(self, node: Node, rank: int) -> F64:
        """The second input: a required constant of that rank."""
        values = self.floats(node, 1)
        if values is None or values.ndim != rank:
            raise unsupported(f"weights of {node.op} are not of rank {rank}", where=node.where)
        return values

    def count(self, elements: int, node: Node) -> None:
        """Bound the memory of a file in which many nodes share one large constant."""
        self.constant_elements += elements
        if self.constant_elements > MAX_ELEMENTS:
            raise InputError(
                f"the constants come to more than {MAX_ELEMENTS:,} elements",
                where=node.where,
                remedy="use a model that can fit a microcontroller",
                code="onnx.too-large",
            )
