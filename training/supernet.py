"""The weight-sharing supernet: one flat buffer, and networks of several widths on it.

The tensors have the widest network's shapes; a narrower network is the leading slice of each, with
batch norms of its own (training-methods, 1.1; Zhang et al., NetDistiller, section 3). Its leaves
are views on the same storage, so their gradients come out slice-shaped (1.8). Layout of theta,
gradient and momentum, widest network first:

    [ shared weights, decayed | shared biases | BN of the widest | ... | BN of the student ]

Without a teacher (`rates=()`) the same class holds the student alone; `copy_student` moves the
student between two of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ndtool.arch import ArchSpec, Layer, expand, lower, tensor_shapes
from ndtool.training.build import (
    BN_PARAMETERS,
    BN_STATISTICS,
    bind,
    draw_tensors,
    forward,
)

Shape = tuple[int, ...]
STUDENT_RATE: Final = 1
FIGURES: Final = 32  # free places behind the gradients, for figures that are reduced with them


@dataclass(frozen=True, slots=True)
class Field:
    """Place of one tensor in a flat buffer."""

    start: int
    shape: Shape

    @property
    def end(self) -> int:
        """First element after it."""
        return self.start + math.prod(self.shape)

    def view(self, flat: Tensor) -> Tensor:
        """The tensor itself, on the buffer's storage."""
        return flat[self.start : self.end].view(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies, worked out from the spec alone; nothing is allocated."""

    specs: tuple[ArchSpec, ...]  # widest first, the student last
    rates: tuple[int, ...]  # of `specs`
    shared: Mapping[str, Field]  # weights, then biases
    decayed: int  # elements of shared weights, which lead the buffer
    norms: tuple[Mapping[str, Field], ...]  # gamma and beta of each network
    statistics: tuple[Mapping[str, Field], ...]  # in the buffer of running statistics
    size: int
    statistics_size: int


def plan_layout(spec: ArchSpec, rates: Sequence[int]) -> Layout:
    """Layout of the student `spec` and one wider network for each of `rates` (all above 1)."""
    every = (*sorted(rates, reverse=True), STUDENT_RATE)
    specs = tuple(expand(spec, rate) for rate in every)
    widest = tensor_shapes(lower(specs[0]))
    weights = _fields(widest, (".weight",), 0, skip=BN_PARAMETERS)
    decayed = _end(weights, 0)
    shared = weights | _fields(widest, (".bias",), decayed, skip=BN_PARAMETERS)
    at, stat_at = _end(shared, 0), 0
    norms, statistics = [], []
    for narrow in specs:
        shapes = tensor_shapes(lower(narrow))
        norms.append(_fields(shapes, BN_PARAMETERS, at))
        statistics.append(_fields(shapes, BN_STATISTICS, stat_at))
        at, stat_at = _end(norms[-1], at), _end(statistics[-1], stat_at)
    return Layout(
        specs=specs,
        rates=every,
        shared=shared,
        decayed=decayed,
        norms=tuple(norms),
        statistics=tuple(statistics),
        size=at,
        statistics_size=stat_at,
    )


def _fields(
    shapes: Mapping[str, Shape], endings: tuple[str, ...], at: int, *, skip: tuple[str, ...] = ()
) -> dict[str, Field]:
    """Tensors whose names end so, one after the other from `at` on."""
    fields: dict[str, Field] = {}
    for name, shape in shapes.items():
        if name.endswith(endings) and not (skip and name.endswith(skip)):
            fields[name] = Field(at, shape)
            at = fields[name].end
    return fields


def _end(fields: Mapping[str, Field], empty: int) -> int:
    return max((field.end for field in fields.values()), default=empty)


@dataclass(frozen=True, slots=True, eq=False)
class SharedSlice:
    """A narrower network's share of the flat buffers, as vectors of n elements.

    A layer of gradient surgery is one convolution or linear module, weight and bias joined (1.3);
    its elements are neighbours here.
    """

    grad: Tensor  # (n,) gradient of this network's own loss
    index: Tensor  # (n,) int64, places in theta
    layer_of: Tensor  # (n,) int64, number of the layer
    sizes: tuple[int, ...]  # elements of each layer


class Width:
    """One network of the supernet: leaves with gradients, running statistics, a forward pass."""

    def __init__(
        self, spec: ArchSpec, rate: int, tensors: Mapping[str, Tensor], slice_: SharedSlice | None
    ) -> None:
        self.spec = spec
        self.rate = rate
        self.tensors = tensors
        self.slice = slice_  # None: the widest network, whose gradient is the flat one itself
        self._bound = bind(lower(spec), tensors)

    def __call__(self, images: Tensor, *, training: bool) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        return forward(images, self._bound, eps=self.spec.bn_eps, training=training)


class Supernet:
    """Flat buffers and the networks on them, widest first, the student last."""

    def __init__(
        self,
        spec: ArchSpec,
        *,
        rates: Sequence[int],
        generator: torch.Generator | None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Fresh weights drawn from `generator`; None leaves zeros, for a state to be loaded."""
        layout = plan_layout(spec, rates)
        self.layout = layout
        self.theta = torch.zeros(layout.size, device=device)
        # Gradients of all networks in one buffer: one call zeroes or reduces them all.
        narrower = sum(shared_size(narrow) for narrow in layout.specs[1:])
        self.gradients = torch.zeros(layout.size + narrower + FIGURES, device=device)
        self.grad = self.gradients[: layout.size]
        self.tail = self.gradients[layout.size + narrower :]
        self.momentum = torch.zeros_like(self.theta)
        self.statistics = torch.zeros(layout.statistics_size, device=device)
        if generator is not None:
            self._initialise(generator)
        self.widths = self._bind_widths()
        self.student_index = self._student_index().to(device)

    @property
    def student(self) -> Width:
        """The network that is exported."""
        return self.widths[-1]

    @property
    def teacher(self) -> Width | None:
        """The widest network, None without one."""
        return self.widths[0] if len(self.widths) > 1 else None

    @property
    def student_statistics(self) -> Tensor:
        """The student's running means and variances, the end of their buffer."""
        fields = self.layout.statistics[-1].values()
        return self.statistics[min((field.start for field in fields), default=0) :]

    def zero_grad(self) -> None:
        """Set the flat gradient and each narrower network's own to zero."""
        self.gradients.zero_()

    def student_tensors(self) -> dict[str, Tensor]:
        """Contiguous CPU copies of the student's tensors, running statistics included, by name."""
        return {
            name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, tensor in self.student.tensors.items()
        }

    def _initialise(self, generator: torch.Generator) -> None:
        """Draw the widest network once; the others are its slices (1.6)."""
        drawn = draw_tensors(lower(self.layout.specs[0]), generator)
        for name, field in self.layout.shared.items():
            field.view(self.theta).copy_(drawn[name])
        for norms, statistics in zip(self.layout.norms, self.layout.statistics, strict=True):
            _fill(self.theta, norms, ".bn.weight", 1.0)
            _fill(self.statistics, statistics, ".bn.running_var", 1.0)

    def _bind_widths(self) -> tuple[Width, ...]:
        """Every network; the gradients of the narrower ones follow each other behind the flat."""
        widths, at = [], self.layout.size
        for place, spec in enumerate(self.layout.specs):
            size = shared_size(spec) if place else 0
            widths.append(self._width(place, self.gradients[at : at + size]))
            at += size
        return tuple(widths)

    def _width(self, place: int, own: Tensor) -> Width:
        """The network of one rate: leaves on theta, gradients in the flat buffer or in `own`."""
        layout = self.layout
        spec = layout.specs[place]
        layers = lower(spec)
        shapes = tensor_shapes(layers)
        tensors: dict[str, Tensor] = {}
        for name, field in layout.norms[place].items():
            tensors[name] = _leaf(field.view(self.theta), field.view(self.grad))
        for name, field in layout.statistics[place].items():
            tensors[name] = field.view(self.statistics)
        # The widest network's gradient goes straight into the flat one, a narrower one's beside it.
        slice_ = None if place == 0 else self._slice(layers, own)
        grad = self.grad if slice_ is None else slice_.grad
        grad_fields = layout.shared if slice_ is None else _own_fields(layers)
        for name, field in layout.shared.items():
            value = field.view(self.theta)[_box(shapes[name], field.shape)]
            tensors[name] = _leaf(value, grad_fields[name].view(grad))
        ordered = {name: tensors[name] for name in shapes}
        return Width(spec, layout.rates[place], ordered, slice_)

    def _slice(self, layers: Sequence[Layer], grad: Tensor) -> SharedSlice:
        """Index vectors of the leading slice that the narrower network `layers` uses."""
        shapes = tensor_shapes(layers)
        places: list[Tensor] = []
        owners: list[Tensor] = []
        sizes: list[int] = []
        for layer in layers:
            parts = []
            for name in _shared_names(layer):
                field = self.layout.shared[name]
                every = torch.arange(field.start, field.end).view(field.shape)
                parts.append(every[_box(shapes[name], field.shape)].reshape(-1))
            if parts:
                joined = torch.cat(parts)
                owners.append(torch.full_like(joined, len(sizes)))
                sizes.append(len(joined))
                places.append(joined)
        index = torch.cat(places).to(self.theta.device)
        return SharedSlice(
            grad=grad,
            index=index,
            layer_of=torch.cat(owners).to(index.device),
            sizes=tuple(sizes),
        )

    def _student_index(self) -> Tensor:
        """(n,) int64: places in theta of the student's elements, in the order it has alone."""
        shapes = tensor_shapes(lower(self.layout.specs[-1]))
        fields = {**self.layout.shared, **self.layout.norms[-1]}
        parts = [
            torch.arange(field.start, field.end).view(field.shape)[_box(shapes[name], field.shape)]
            for name, field in fields.items()
        ]
        return torch.cat([part.reshape(-1) for part in parts])


def copy_student(source: Supernet, to: Supernet) -> None:
    """Put the student of `source` in the place of that of `to`: weights, momentum, statistics.

    The rest of `to` stays as it is.
    """
    to.theta[to.student_index] = source.theta[source.student_index]
    to.momentum[to.student_index] = source.momentum[source.student_index]
    to.student_statistics.copy_(source.student_statistics)


def shared_size(spec: ArchSpec) -> int:
    """Elements of the tensors that a network shares with wider ones: all but batch norms."""
    shapes = tensor_shapes(lower(spec))
    return sum(math.prod(shapes[n]) for layer in lower(spec) for n in _shared_names(layer))


def _shared_names(layer: Layer) -> Iterable[str]:
    """Names of the layer's tensors that all widths share: weight, then bias."""
    if layer.weight_shape:
        yield f"{layer.name}.weight"
    if layer.bias:
        yield f"{layer.name}.bias"


def _own_fields(layers: Sequence[Layer]) -> dict[str, Field]:
    """Places in `SharedSlice.grad`: layer after layer, each weight followed by its bias."""
    shapes = tensor_shapes(layers)
    fields: dict[str, Field] = {}
    at = 0
    for layer in layers:
        for name in _shared_names(layer):
            fields[name] = Field(at, shapes[name])
            at = fields[name].end
    return fields


def _box(inner: Shape, outer: Shape) -> tuple[slice, ...]:
    """The leading box of shape `inner` in a tensor of shape `outer`."""
    assert len(inner) == len(outer) and all(a <= b for a, b in zip(inner, outer, strict=True))
    return tuple(slice(0, n) for n in inner)


def _leaf(value: Tensor, grad: Tensor) -> Tensor:
    """A leaf on `value`'s storage whose gradient adds up in `grad`."""
    leaf = value.detach().requires_grad_()
    leaf.grad = grad  # autograd accumulates into an existing gradient in place
    return leaf


def _fill(flat: Tensor, fields: Mapping[str, Field], ending: str, value: float) -> None:
    for name, field in fields.items():
        if name.endswith(ending):
            field.view(flat).fill_(value)
