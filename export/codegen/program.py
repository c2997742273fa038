"""What the C engine executes: kernel calls in order, on tensors that lie in one arena.

Made by `lower` from an int8 graph after the passes, given offsets by `plan`, printed by `emit`.
A call says everything that emitting and planning need, so that neither knows any operation: the C
function, its arguments in order, and where its output may share memory with an input. Another
operation, or another tier, is another function that returns calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ndtool.export.int8.ir import Graph, TensorId


@dataclass(frozen=True, slots=True, kw_only=True)
class Struct:
    """A `static const` struct of numbers, passed by address.

    `type` is the C type (`nd_conv_shape`), declared in the kernel's header with the members named
    in `fields`, in this order, all `int32_t`.
    """

    type: str
    fields: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A constant array: `name` says what it is (`w`, `bias`, `mult`, `shift`, `table`).

    `ctype` is int8_t, uint8_t, int16_t, uint16_t or int32_t; `data` its little-endian bytes.
    """

    name: str
    ctype: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """`const int8_t *`: an activation, `offset` bytes after its start."""

    tensor: TensorId
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """`int8_t *`: the activation that the call forms, wholly or in part, from byte `offset` on."""

    tensor: TensorId
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """`int8_t *`: bytes of the arena for the time of one call, aligned to 16."""

    size: int


Arg = Struct | Table | Read | Write | Scratch


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """`out` may overlap `x`, which this call reads last, when `low <= out - x <= high`.

    Both are start addresses, in bytes; None is no bound on that side. (0, 0): element-wise in
    place. (None, 0): the kernel walks upwards and never writes above what it has read. (0, None):
    it walks downwards. Without a rule the two never overlap.
    """

    x: TensorId
    out: TensorId
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One kernel call.

    `kernel` is the C function and, with `.c` and `.h`, its files in the runtime. `op` is the index
    in the graph of the operation it computes (of a fused pair: the second); `title` says it in a
    comment, such as `CONV_2D 3x3 s2 + ADD`. `macs`: multiply-accumulates, padding counted.
    """

    kernel: str
    op: int
    title: str
    args: tuple[Arg, ...]
    sharing: tuple[Sharing, ...] = ()
    macs: int = 0

    @property
    def reads(self) -> tuple[TensorId, ...]:
        """Activations the call reads."""
        return tuple(arg.tensor for arg in self.args if isinstance(arg, Read))

    @property
    def out(self) -> TensorId:
        """The activation it writes."""
        (out,) = (arg.tensor for arg in self.args if isinstance(arg, Write))
        return out

    @property
    def scratch(self) -> int:
        """Bytes of scratch."""
        return sum(arg.size for arg in self.args if isinstance(arg, Scratch))

    @property
    def tables(self) -> Iterator[Table]:
        """Its constant arrays."""
        return (arg for arg in self.args if isinstance(arg, Table))


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What of a tensor's last axis the C never forms: channels proved constant.

    `live` are the channels that are left, by their numbers in the file, ascending; `constants`
    has the int8 value of each of the others, by number.
    """

    live: tuple[int, ...]
    constants: Mapping[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Calls in execution order, of the graph after the passes.

    `aliases`: a tensor whose bytes are another's (RESHAPE, SQUEEZE), by tensor; the other one is
    never an alias itself. `fused`: tensors of the file that no call forms (the sum before an ADD
    that became part of a convolution, an image before a folded PAD). `removed`: tensors with fewer
    channels than in the file. Tensor numbers are the file's throughout.
    """

    graph: Graph
    calls: tuple[Call, ...]
    aliases: Mapping[TensorId, TensorId] = field(default_factory=dict)
    fused: frozenset[TensorId] = frozenset()
    removed: Mapping[TensorId, Removed] = field(default_factory=dict)

    def storage(self, tensor: TensorId) -> TensorId:
        """The tensor whose place in the arena `tensor` has."""
        return self.aliases.get(tensor, tensor)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the C functions called, sorted."""
        return tuple(sorted({call.kernel for call in self.calls}))
