"""An `ArchSpec` as a torch network: the one interpreter of `ndtool.arch.lower`.

`bind` joins layers with tensors by name, `forward` runs them. The supernet binds slices of its flat
buffer, `Network` its own parameters; both run the same operations in the same order, which is why
the student and its slice agree bit for bit.
Activations are float NCHW, padding is TensorFlow's SAME (quantisation, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ndtool.arch import INPUT, Act, ArchSpec, Layer, LayerOp, lower, same_padding, tensor_shapes
from ndtool.errors import InputError

BN_MOMENTUM: Final = 0.1  # share of the newest batch in the running statistics (1.8)
BN_PARAMETERS: Final = ("bn.weight", "bn.bias")
BN_STATISTICS: Final = ("bn.running_mean", "bn.running_var")
LINEAR_STD: Final = 0.02


def is_statistic(name: str) -> bool:
    """Whether the tensor `name` is a running statistic, not a parameter."""
    return name.endswith(BN_STATISTICS)


def draw_tensors(layers: Sequence[Layer], generator: torch.Generator) -> dict[str, Tensor]:
    """Fresh float32 tensors by name (training-methods, 1.6).

    Convolutions U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which is kaiming_uniform(a=sqrt 5); linear
    weights truncated normal; biases 0; batch norm gamma 1, beta 0, mean 0, variance 1.
    """
    drawn: dict[str, Tensor] = {}
    for name, shape in tensor_shapes(layers).items():
        tensor = torch.zeros(shape)
        if name.endswith((".bn.weight", ".bn.running_var")):
            tensor.fill_(1.0)
        elif len(shape) == 4:
            nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), generator=generator)
        elif len(shape) == 2:
            nn.init.trunc_normal_(tensor, std=LINEAR_STD, generator=generator)
        drawn[name] = tensor
    return drawn


@dataclass(frozen=True, slots=True, eq=False)
class BoundLayer:
    """A layer with its tensors; everything that does not depend on the batch is worked out."""

    layer: Layer
    weight: Tensor | None
    bias: Tensor | None
    # Gamma, beta, running mean, running variance; no running ones: only for training
    bn: tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None
    padding: tuple[int, int]  # height, width, the same on both sides
    edges: tuple[int, int, int, int] | None  # left, right, top, bottom where SAME is uneven
    drops: tuple[str, ...]  # tensors that no later layer reads


def bind(layers: Sequence[Layer], tensors: Mapping[str, Tensor]) -> tuple[BoundLayer, ...]:
    """Each layer with its tensors out of `tensors` (names as in `tensor_shapes`).

    Without running statistics in `tensors` the network can only be trained, and keeps none.
    """
    last_reader = {name: layer.name for layer in layers for name in layer.inputs}
    bound = []
    for layer in layers:
        norm = [tensors[f"{layer.name}.{n}"] for n in BN_PARAMETERS if layer.bn]
        running = [tensors.get(f"{layer.name}.{n}") for n in BN_STATISTICS if layer.bn]
        top, bottom = same_padding(layer.hw_in[0], layer.kernel, layer.stride)
        left, right = same_padding(layer.hw_in[1], layer.kernel, layer.stride)
        even = top == bottom and left == right
        bound.append(
            BoundLayer(
                layer=layer,
                weight=tensors[f"{layer.name}.weight"] if layer.weight_shape else None,
                bias=tensors[f"{layer.name}.bias"] if layer.bias else None,
                bn=(norm[0], norm[1], running[0], running[1]) if layer.bn else None,
                padding=(top, left) if even else (0, 0),
                edges=None if even else (left, right, top, bottom),
                drops=tuple(n for n in dict.fromkeys(layer.inputs) if last_reader[n] == layer.name),
            )
        )
    return tuple(bound)


def forward(
    x: Tensor,
    bound: Sequence[BoundLayer],
    *,
    eps: float,
    training: bool,
    momentum: float = BN_MOMENTUM,
) -> Tensor:
    """Logits (N, K) of normalised images (N, C, H, W).

    Args:
        eps: of the batch norms; belongs to the model (`ArchSpec.bn_eps`).
        training: normalise by the batch and update the running statistics in place.
        momentum: share of the batch in the updated running statistics.
    """
    values = {INPUT: x}
    for step in bound:
        inputs = [values[name] for name in step.layer.inputs]
        x = _apply(step, inputs, eps=eps, training=training, momentum=momentum)
        for name in step.drops:
            del values[name]
        values[step.layer.name] = x
    return x


def _apply(
    step: BoundLayer, inputs: Sequence[Tensor], *, eps: float, training: bool, momentum: float
) -> Tensor:
    layer, x = step.layer, inputs[0]
    match layer.op:
        case LayerOp.CONV | LayerOp.DEPTHWISE:
            assert step.weight is not None
            if step.edges is not None:
                x = F.pad(x, step.edges)
            groups = layer.c_out if layer.op is LayerOp.DEPTHWISE else 1
            x = F.conv2d(x, step.weight, step.bias, layer.stride, step.padding, 1, groups)
        case LayerOp.LINEAR:
            assert step.weight is not None
            x = F.linear(x, step.weight, step.bias)  # (N, c_in) -> (N, c_out)
        case LayerOp.MEAN:
            x = x.mean((2, 3), keepdim=layer.keep_dims)
        case LayerOp.ADD:
            x = x + inputs[1]
        case LayerOp.MUL:
            gate = inputs[1]  # (N, C) or (N, C, 1, 1)
            x = x * (gate if gate.dim() == x.dim() else gate[:, :, None, None])
    if step.bn is not None:
        gamma, beta, mean, var = step.bn
        x = F.batch_norm(x, mean, var, gamma, beta, training, momentum, eps)
    return _activate(x, layer.act)


def _activate(x: Tensor, act: Act) -> Tensor:
    match act:
        case Act.NONE:
            return x
        # In place: `x` is this layer's own fresh tensor, and neither convolution nor batch norm
        # reads its output in the backward pass.
        case Act.RELU:
            return F.relu(x, inplace=True)
        case Act.RELU6:
            return F.relu6(x, inplace=True)
        case Act.HARD_SWISH:
            return F.hardswish(x)
        case Act.HARD_SIGMOID:
            return F.hardsigmoid(x)


class Network(nn.Module):
    """A stand-alone network of an `ArchSpec`; `state_dict` has exactly `Layer`'s names."""

    def __init__(self, spec: ArchSpec, generator: torch.Generator | None = None) -> None:
        """Fresh weights drawn from `generator`; None is for a network to be loaded."""
        super().__init__()
        self.spec = spec
        self.layers = lower(spec)
        drawn = draw_tensors(self.layers, generator or torch.Generator())
        for name, tensor in drawn.items():
            _place(self, name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of normalised images (N, C, H, W)."""
        tensors = dict(self.named_parameters()) | dict(self.named_buffers())
        bound = bind(self.layers, tensors)
        return forward(x, bound, eps=self.spec.bn_eps, training=self.training)

    def named(self) -> dict[str, Tensor]:
        """All tensors by name, detached, sharing memory with the network."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items()}

    def load_named(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy `tensors` in; names and shapes must be exactly the network's.

        Raises:
            InputError: a tensor is missing, unknown or of another shape.
        """
        own = self.named()
        wrong = sorted(set(own) ^ set(tensors)) or sorted(
            name for name in own if own[name].shape != tensors[name].shape
        )
        if wrong:
            raise InputError(
                f"weights do not fit the architecture, first at tensor {wrong[0]}",
                where=f"{self.spec.model}, {len(tensors)} tensors for {len(own)}",
                remedy="use the weights and the architecture of one run",
                code="train.tensors",
            )
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _place(root: nn.Module, name: str, tensor: Tensor) -> None:
    """Hang `tensor` into the tree of modules that its dotted name describes."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if is_statistic(name):
        root.register_buffer(leaf, tensor)
    else:
        root.register_parameter(leaf, nn.Parameter(tensor))
