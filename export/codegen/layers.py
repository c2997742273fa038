"""Which tensors the C forms, in the order of the calls of ND_MODEL_ON_LAYER."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ndtool.export.codegen.arena import tensor_offset
from ndtool.export.codegen.engine import Compiled
from ndtool.export.codegen.program import Removed
from ndtool.export.int8.ir import TensorId

BEFORE: Final = -1  # `after` of a tensor that is there before the first call


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A tensor that is complete after call `after`, `offset` bytes from the arena's start.

    `size` is its bytes and `channels` its last axis as formed; `removed`: what of it is not.
    """

    tensor: TensorId
    name: str
    after: int
    offset: int
    size: int
    channels: int
    removed: Removed | None


def formed_layers(compiled: Compiled) -> tuple[Layer, ...]:
    """Every tensor that a call completes, then those that are its bytes under another name.

    A tensor written in parts (CONCATENATION) is complete after the last of them.
    """
    program = compiled.program
    last = {call.out: index for index, call in enumerate(program.calls)}
    order = [(BEFORE, tensor) for tensor in program.graph.inputs]
    order += sorted((index, tensor) for tensor, index in last.items())
    aliases = defaultdict[TensorId, list[TensorId]](list)
    for tensor in sorted(program.aliases):
        aliases[program.storage(tensor)].append(tensor)
    found = []
    for after, storage in order:
        formed = [*([] if after == BEFORE else [storage]), *aliases[storage]]
        found += [_layer(compiled, tensor, after) for tensor in formed]
    return tuple(found)


def _layer(compiled: Compiled, tensor: TensorId, after: int) -> Layer:
    program = compiled.program
    formed = program.graph.tensor(tensor)
    return Layer(
        tensor=tensor,
        name=compiled.graph.tensor(tensor).name,
        after=after,
        offset=tensor_offset(program, compiled.plan, tensor),
        size=formed.elements,
        channels=formed.shape[-1],
        removed=program.removed.get(tensor),
    )


def layer_facts(layer: Layer) -> Mapping[str, object]:
    """The layer's row in the project's marker."""
    removed = layer.removed
    constants = {} if removed is None else removed.constants
    return {
        "tensor": layer.tensor,
        "name": layer.name,
        "bytes": layer.size,
        "channels": layer.channels,
        "live": None if removed is None else list(removed.live),
        "constants": {str(channel): value for channel, value in sorted(constants.items())},
    }
