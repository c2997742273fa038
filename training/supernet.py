"""The weight-sharing supernet: one flat buffer, and networks of several widths on it.

The tensors have the widest network's shapes; a narrower network is the leading slice of each, with
batch norms of its own (training-methods, 1.1; Zhang et al., NetDistiller, section 3). Its leaves
are views on the same storage, so their gradients come out slice-shaped (1.8). Layout of theta,
gradient and momentum, widest network first:

    [ shared weights, decayed | shared biases | BN of the widest | ... | BN of the student ]

`augmented` is another use of the buffers (NetAug; training-methods, section 2): the student and the
networks that are drawn between it and its widest form share everything, batch norms too, and their
gradients add up in the flat one. Only the student keeps running statistics.

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
    BN_MOMENTUM,
    BN_PARAMETERS,
    BN_STATISTICS,
    bind,
    draw_tensors,
    forward,
    is_statistic,
)
from ndtool.training.subnet import maximal

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
    augmented: bool  # whether other networks are drawn beside `specs`
    widest: ArchSpec  # what the tensors have the shapes of
    shared: Mapping[str, Field]  # weights, then biases
    decayed: int  # elements of shared weights, which lead the buffer
    norms: tuple[Mapping[str, Field], ...]  # gamma and beta of each network; augmented: of `widest`
    statistics: tuple[Mapping[str, Field], ...]  # in the buffer of running statistics
    size: int
    statistics_size: int


def plan_layout(spec: ArchSpec, rates: Sequence[int], *, augmented: bool = False) -> Layout:
    """Layout of the student `spec` and one wider network for each of `rates` (all above 1).

    With `augmented` there are no rates, and the tensors hold all that `subnet.draw` can give.
    """
    assert not (rates and augmented)
    every = (*sorted(rates, reverse=True), STUDENT_RATE)
    specs = tuple(expand(spec, rate) for rate in every)
    widest = maximal(spec) if augmented else specs[0]
    shapes = tensor_shapes(lower(widest))
    weights = _fields(shapes, (".weight",), 0, skip=BN_PARAMETERS)
    decayed = _end(weights, 0)
    shared = weights | _fields(shapes, (".bias",), decayed, skip=BN_PARAMETERS)
    at, stat_at = _end(shared, 0), 0
    norms, statistics = [], []
    for narrow in specs:
        own = tensor_shapes(lower(narrow))
        norms.append(_fields(shapes if augmented else own, BN_PARAMETERS, at))
        statistics.append(_fields(own, BN_STATISTICS, stat_at))
        at, stat_at = _end(norms[-1], at), _end(statistics[-1], stat_at)
    return Layout(
        specs=specs,
        rates=every,
        augmented=augmented,
        widest=widest,
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
        self,
        spec: ArchSpec,
        rate: int | None,
        tensors: Mapping[str, Tensor],
        slice_: SharedSlice | None,
    ) -> None:
        self.spec = spec
        self.rate = rate  # None: a network that was drawn for one step
        self.tensors = tensors
        self.slice = slice_  # None: its gradient goes into the flat one itself
        self._bound = bind(lower(spec), tensors)

    def __call__(self, images: Tensor, *, training: bool, momentum: float = BN_MOMENTUM) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W); see `build.forward`."""
        eps = self.spec.bn_eps
        return forward(images, self._bound, eps=eps, training=training, momentum=momentum)


class Supernet:
    """Flat buffers and the networks on them, widest first, the student last."""

    def __init__(
        self,
        spec: ArchSpec,
        *,
        rates: Sequence[int],
        augmented: bool = False,
        generator: torch.Generator | None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Fresh weights drawn from `generator`; None leaves zeros, for a state to be loaded."""
        layout = plan_layout(spec, rates, augmented=augmented)
        self.layout = layout
        self.theta = torch.zeros(layout.size, device=device)
        # Gradients of all networks in one buffer: one call zeroes or reduces them all.
        narrower = sum(shared_size(narrow) for narrow in layout.specs[1:])
        self.gradients = torch.zeros(layout.size + narrower + FIGURES, device=device)
        self.grad = self.gradients[: layout.size]
        self.tail = self.gradients[layout.size + narrower :]
        self.momentum = torch.zeros_like(self.theta)
        self.statistics = torch.zeros(layout.statistics_size, device=device)
        self.held: Tensor | None = None  # (size,) bool: places of theta that keep their value
        self._held_names: frozenset[str] = frozenset()
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

    def hold(self, names: frozenset[str]) -> None:
        """Let the parameters `names` of every network keep their values, the others be trained.

        A held one has no gradient, and what lies in front of the first free one no backward pass.
        """
        if names == self._held_names:
            return  # the mask stays the same tensor: recorded steps may hold it
        self._held_names = names
        self.held = torch.zeros_like(self.theta, dtype=torch.bool) if names else None
        if self.held is not None:
            for fields in (self.layout.shared, *self.layout.norms):
                for name, field in fields.items():
                    field.view(self.held).fill_(name in names)
        for width in self.widths:
            for name, tensor in width.tensors.items():
                if not is_statistic(name):
                    tensor.requires_grad_(name not in names)

    def between(self, spec: ArchSpec) -> Width:
        """A network `spec` that `subnet.draw` gave, for training passes: it keeps no statistics."""
        assert self.layout.augmented
        fields = {**self.layout.shared, **self.layout.norms[0]}
        shapes = tensor_shapes(lower(spec))
        tensors = {name: self._leading(field, shapes[name]) for name, field in fields.items()}
        return Width(spec, None, tensors, None)

    def student_tensors(self) -> dict[str, Tensor]:
        """Contiguous CPU copies of the student's tensors, running statistics included, by name."""
        return {
            name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
            for name, tensor in self.student.tensors.items()
        }

    def _initialise(self, generator: torch.Generator) -> None:
        """Draw the widest network once; the others are its slices (1.6)."""
        drawn = draw_tensors(lower(self.layout.widest), generator)
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
            tensors[name] = self._leading(field, shapes[name])
        for name, field in layout.statistics[place].items():
            tensors[name] = field.view(self.statistics)
        # The widest network's gradient goes straight into the flat one, a narrower one's beside it.
        slice_ = None if place == 0 else self._slice(layers, own)
        grad_fields = _own_fields(layers)
        for name, field in layout.shared.items():
            if slice_ is None:
                tensors[name] = self._leading(field, shapes[name])
            else:
                value = field.view(self.theta)[_box(shapes[name], field.shape)]
                tensors[name] = _leaf(value, grad_fields[name].view(slice_.grad))
        ordered = {name: tensors[name] for name in shapes}
        return Width(spec, layout.rates[place], ordered, slice_)

    def _leading(self, field: Field, shape: Shape) -> Tensor:
        """A leaf on the leading box of a tensor, whose gradient is that box of the flat one."""
        box = _box(shape, field.shape)
        value, grad = field.view(self.theta)[box], field.view(self.grad)[box]
        return _leaf(value, grad) if grad.is_contiguous() else _scattered_leaf(value, grad)

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


def _scattered_leaf(value: Tensor, grad: Tensor) -> Tensor:
    """The same where `grad` has gaps: as the leaf's own gradient autograd would warn of it."""

    def add(leaf: Tensor) -> None:
        assert leaf.grad is not None
        grad.add_(leaf.grad)
        leaf.grad = None

    leaf = value.detach().requires_grad_()
    leaf.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call] # torch's own
    return leaf


def _fill(flat: Tensor, fields: Mapping[str, Field], ending: str, value: float) -> None:
    for name, field in fields.items():
        if name.endswith(ending):
            field.view(flat).fill_(value)
