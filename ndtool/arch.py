"""Architectures as frozen data, and their lowering to a flat list of layers.

An `ArchSpec` says what a network is in a researcher's terms (stem, blocks, head). `lower` turns it
into `Layer`s, each one convolution, pooling, addition or matrix product. The torch module, the
supernet, the float graph and the counts all walk that one list, so they cannot disagree.
Padding is TensorFlow's SAME everywhere (quantisation, section 3.1). Standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import ClassVar, Final

from ndtool.errors import ConfigError, InputError

MAX_CHANNELS: Final = 65_536
MAX_BLOCKS: Final = 512
_STRICT: Final[dict[str, object]] = {"extra": "forbid"}


class Act(StrEnum):
    """Activation after a layer."""

    NONE = "none"
    RELU = "relu"
    RELU6 = "relu6"
    HARD_SWISH = "hard_swish"
    HARD_SIGMOID = "hard_sigmoid"


class BlockKind(StrEnum):
    """SEPARABLE: depthwise, pointwise. INVERTED: 1x1 expand, depthwise, [SE], 1x1 project.

    BASIC, of ResNet: two k x k convolutions, the first one with the stride.
    """

    SEPARABLE = "separable"
    INVERTED = "inverted"
    BASIC = "basic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """First convolution, k x k, BN, activation."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    c_out: int
    kernel: int
    stride: int
    act: Act


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block of a network; BN after every convolution but the SE's and a shortcut's.

    A `shortcut` adds the block's input to its end. In a BASIC block whose ends differ in shape it
    is a 1x1 convolution of that input, with bias and without BN, as in MLPerf Tiny's ResNet.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    kind: BlockKind
    kernel: int
    stride: int
    mid: int  # channels of the expansion, or of BASIC's first convolution; 0 for SEPARABLE
    c_out: int
    act: Act  # after expansion and depthwise, or after BASIC's first convolution
    act_out: Act = Act.NONE  # after the last convolution; of BASIC after the sum
    se: int = 0  # channels of the squeeze; 0: no squeeze-excite; always 0 for BASIC
    shortcut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """[1x1 convolution] -> mean over space -> [hidden layer with bias] -> linear classifier."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    conv: int = 0  # channels of the 1x1 convolution before pooling; 0: none
    conv_act: Act = Act.NONE
    hidden: int = 0  # width of the layer after pooling (mbv3); 0: none
    hidden_act: Act = Act.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchSpec:
    """A whole network. Sizes are in channels and pixels; all widths are explicit."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    model: str
    width: float
    height_px: int
    width_px: int
    in_channels: int
    classes: int
    stem: Stem
    blocks: tuple[Block, ...]
    head: Head
    bn_eps: float = 1e-5
    conv_bias: bool = False  # whether a convolution in front of a BN has a bias, too (Keras)

    def to_json(self) -> str:
        """One line of sorted JSON; `parse_spec` reads it back to an equal spec."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)


class LayerOp(StrEnum):
    """What a lowered layer computes."""

    CONV = "conv"
    DEPTHWISE = "depthwise"
    LINEAR = "linear"
    MEAN = "mean"  # over height and width
    ADD = "add"
    MUL = "mul"  # second input is [N, C] or [N, C, 1, 1], broadcast over space


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One primitive operation; `inputs` are names of earlier layers or `INPUT`.

    MEAN keeps its spatial axes (N, C, 1, 1) where a convolution or MUL reads it (`keep_dims`),
    else it gives (N, C). Weights: CONV (c_out, c_in, k, k), DEPTHWISE (c_out, 1, k, k),
    LINEAR (c_out, c_in), named `NAME.weight`, `NAME.bias`, `NAME.bn.{weight,bias,running_mean,
    running_var}`.
    """

    name: str
    op: LayerOp
    inputs: tuple[str, ...]
    c_in: int
    c_out: int
    hw_in: tuple[int, int]
    hw_out: tuple[int, int]
    kernel: int = 1
    stride: int = 1
    bn: bool = False
    bias: bool = False
    act: Act = Act.NONE
    keep_dims: bool = True

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Torch layout; empty for a layer without weights."""
        match self.op:
            case LayerOp.CONV:
                return (self.c_out, self.c_in, self.kernel, self.kernel)
            case LayerOp.DEPTHWISE:
                return (self.c_out, 1, self.kernel, self.kernel)
            case LayerOp.LINEAR:
                return (self.c_out, self.c_in)
            case LayerOp.MEAN | LayerOp.ADD | LayerOp.MUL:
                return ()


INPUT: Final = "input"
LOGITS: Final = "classifier"  # name of the last layer


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) of TensorFlow's SAME: the odd pixel goes to the end."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def expand(spec: ArchSpec, rate: int) -> ArchSpec:
    """The teacher: every hidden width times `rate`; image channels and classes stay.

    Squeeze-excite widths are multiplied too, so that the student is a leading slice of every
    tensor (training-methods, 1.1 and 3.3).
    """
    if rate < 1:
        raise ConfigError(
            f"expansion rate {rate} is below 1",
            where="--expand",
            remedy="use 2 to 5",
            code="train.expand",
        )
    blocks = tuple(
        replace(b, mid=b.mid * rate, c_out=b.c_out * rate, se=b.se * rate) for b in spec.blocks
    )
    head = replace(spec.head, conv=spec.head.conv * rate, hidden=spec.head.hidden * rate)
    stem = replace(spec.stem, c_out=spec.stem.c_out * rate)
    return replace(spec, stem=stem, blocks=blocks, head=head)


class _Lowering:
    """Collects layers and keeps track of the current tensor's name, channels and size."""

    def __init__(self, spec: ArchSpec) -> None:
        self.layers: list[Layer] = []
        self.conv_bias = spec.conv_bias
        self.at = INPUT
        self.channels = spec.in_channels
        self.hw = (spec.height_px, spec.width_px)

    def conv(
        self,
        name: str,
        op: LayerOp,
        c_out: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        bn: bool = True,
        act: Act = Act.NONE,
    ) -> None:
        out = (-(-self.hw[0] // stride), -(-self.hw[1] // stride))
        layer = Layer(
            name=name,
            op=op,
            inputs=(self.at,),
            c_in=self.channels,
            c_out=c_out,
            hw_in=self.hw,
            hw_out=out,
            kernel=kernel,
            stride=stride,
            bn=bn,
            bias=self.conv_bias or not bn,
            act=act,
        )
        self.layers.append(layer)
        self.at, self.channels, self.hw = name, c_out, out

    def mean(self, name: str, *, keep_dims: bool) -> None:
        self.layers.append(
            Layer(
                name=name,
                op=LayerOp.MEAN,
                inputs=(self.at,),
                c_in=self.channels,
                c_out=self.channels,
                hw_in=self.hw,
                hw_out=(1, 1),
                keep_dims=keep_dims,
            )
        )
        self.at, self.hw = name, (1, 1)

    def pair(
        self, name: str, op: LayerOp, left: str, hw: tuple[int, int], *, act: Act = Act.NONE
    ) -> None:
        """ADD or MUL of the earlier tensor `left` with the current one; the result has size hw."""
        self.layers.append(
            Layer(
                name=name,
                op=op,
                inputs=(left, self.at),
                c_in=self.channels,
                c_out=self.channels,
                hw_in=hw,
                hw_out=hw,
                act=act,
            )
        )
        self.at, self.hw = name, hw

    def linear(self, name: str, c_out: int, *, act: Act = Act.NONE) -> None:
        self.layers.append(
            Layer(
                name=name,
                op=LayerOp.LINEAR,
                inputs=(self.at,),
                c_in=self.channels,
                c_out=c_out,
                hw_in=(1, 1),
                hw_out=(1, 1),
                bias=True,
                act=act,
            )
        )
        self.at, self.channels = name, c_out


def lower(spec: ArchSpec) -> tuple[Layer, ...]:
    """The network as layers in execution order; the last one is the classifier (`LOGITS`).

    A spec and its `expand`ed form lower to lists of equal length, names and operations.
    """
    low = _Lowering(spec)
    stem = spec.stem
    low.conv("stem", LayerOp.CONV, stem.c_out, kernel=stem.kernel, stride=stem.stride, act=stem.act)
    for index, block in enumerate(spec.blocks):
        _lower_block(low, f"blocks.{index}", block)
    head = spec.head
    if head.conv:
        low.conv("head", LayerOp.CONV, head.conv, act=head.conv_act)
    low.mean("pool", keep_dims=False)
    if head.hidden:
        low.linear("hidden", head.hidden, act=head.hidden_act)
    low.linear(LOGITS, spec.classes)
    return tuple(low.layers)


def _lower_block(low: _Lowering, name: str, block: Block) -> None:
    match block.kind:
        case BlockKind.SEPARABLE | BlockKind.INVERTED:
            _lower_mobile(low, name, block)
        case BlockKind.BASIC:
            _lower_basic(low, name, block)


def _lower_mobile(low: _Lowering, name: str, block: Block) -> None:
    entry = low.at
    if block.kind is BlockKind.INVERTED:
        low.conv(f"{name}.expand", LayerOp.CONV, block.mid, act=block.act)
    low.conv(
        f"{name}.depthwise",
        LayerOp.DEPTHWISE,
        low.channels,
        kernel=block.kernel,
        stride=block.stride,
        act=block.act,
    )
    if block.se:
        features, channels, hw = low.at, low.channels, low.hw
        low.mean(f"{name}.se.pool", keep_dims=True)
        low.conv(f"{name}.se.reduce", LayerOp.CONV, block.se, bn=False, act=Act.RELU)
        low.conv(f"{name}.se.gate", LayerOp.CONV, channels, bn=False, act=Act.HARD_SIGMOID)
        low.pair(f"{name}.se.scale", LayerOp.MUL, features, hw)
    low.conv(f"{name}.project", LayerOp.CONV, block.c_out, act=block.act_out)
    if block.shortcut:
        low.pair(f"{name}.add", LayerOp.ADD, entry, low.hw)


def _lower_basic(low: _Lowering, name: str, block: Block) -> None:
    entry, c_in, hw_in = low.at, low.channels, low.hw
    conv = LayerOp.CONV
    low.conv(
        f"{name}.conv1", conv, block.mid, kernel=block.kernel, stride=block.stride, act=block.act
    )
    act = Act.NONE if block.shortcut else block.act_out
    low.conv(f"{name}.conv2", conv, block.c_out, kernel=block.kernel, act=act)
    if not block.shortcut:
        return
    left, hw = low.at, low.hw
    if block.stride == 1 and block.c_out == c_in:
        low.pair(f"{name}.add", LayerOp.ADD, entry, hw, act=block.act_out)
        return
    low.at, low.channels, low.hw = entry, c_in, hw_in
    low.conv(f"{name}.shortcut", conv, block.c_out, stride=block.stride, bn=False)
    low.pair(f"{name}.add", LayerOp.ADD, left, hw, act=block.act_out)


def tensor_shapes(layers: Sequence[Layer]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors of a network by name (see `Layer`), in execution order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in layers:
        if layer.weight_shape:
            shapes[f"{layer.name}.weight"] = layer.weight_shape
        if layer.bias:
            shapes[f"{layer.name}.bias"] = (layer.c_out,)
        if layer.bn:
            for part in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{layer.name}.bn.{part}"] = (layer.c_out,)
    return shapes


def count_parameters(spec: ArchSpec) -> int:
    """Convolution and linear weights, biases, BN gamma and beta (training-methods, section 3)."""
    total = 0
    for layer in lower(spec):
        size = 1
        for n in layer.weight_shape:
            size *= n
        total += size if layer.weight_shape else 0
        total += layer.c_out * (2 * layer.bn + layer.bias)
    return total


def count_macs(spec: ArchSpec) -> int:
    """Multiply-accumulates of convolutions and linear layers, padding counted as if computed."""
    total = 0
    for layer in lower(spec):
        if layer.weight_shape:
            taps = layer.kernel**2 * (1 if layer.op is LayerOp.DEPTHWISE else layer.c_in)
            total += layer.hw_out[0] * layer.hw_out[1] * layer.c_out * taps
    return total


def peak_activation(spec: ArchSpec) -> int:
    """Most values kept at one time: what a layer reads and gives, and what later ones still read.

    As int8 so many bytes; every tensor has a place of its own while it is needed.
    """
    layers = lower(spec)
    sizes = {INPUT: spec.height_px * spec.width_px * spec.in_channels}
    last_reader = {name: index for index, layer in enumerate(layers) for name in layer.inputs}
    alive = {INPUT}
    peak = 0
    for index, layer in enumerate(layers):
        sizes[layer.name] = layer.hw_out[0] * layer.hw_out[1] * layer.c_out
        alive.add(layer.name)
        peak = max(peak, sum(sizes[name] for name in alive))
        alive -= {name for name in alive if last_reader.get(name) == index}
    return peak


def check_spec(spec: ArchSpec, *, where: str) -> ArchSpec:
    """The spec itself when it can be built.

    Raises:
        InputError: a width, kernel or stride out of bounds, a shortcut between unequal shapes.
    """
    with_mid = [b for b in spec.blocks if b.kind is not BlockKind.SEPARABLE]
    basic = [b for b in spec.blocks if b.kind is BlockKind.BASIC]
    kernels = [spec.stem.kernel, *(b.kernel for b in spec.blocks)]
    strides = [spec.stem.stride, *(b.stride for b in spec.blocks)]
    checks = (
        (1 <= spec.classes <= 10_000, "classes"),
        (spec.in_channels in (1, 3), "in_channels"),
        (1 <= spec.height_px <= 4096 and 1 <= spec.width_px <= 4096, "resolution"),
        (1 <= spec.stem.c_out <= MAX_CHANNELS, "stem.c_out"),
        (1 <= len(spec.blocks) <= MAX_BLOCKS, "blocks"),
        (all(1 <= b.c_out <= MAX_CHANNELS for b in spec.blocks), "blocks.c_out"),
        (all(1 <= b.mid <= MAX_CHANNELS for b in with_mid), "blocks.mid"),
        (all(0 <= b.se <= MAX_CHANNELS for b in spec.blocks), "blocks.se"),
        (all(b.se == 0 for b in basic), "blocks.se"),
        (all(k in (1, 3, 5, 7) for k in kernels), "kernel"),
        (all(s in (1, 2) for s in strides), "stride"),
        (0 <= spec.head.conv <= MAX_CHANNELS and 0 <= spec.head.hidden <= MAX_CHANNELS, "head"),
        (0 < spec.bn_eps < 0.1, "bn_eps"),
    )
    bad = [field for good, field in checks if not good]
    channels = spec.stem.c_out
    for index, block in enumerate(spec.blocks):
        equal_ends = block.stride == 1 and block.c_out == channels
        if block.shortcut and not equal_ends and block.kind is not BlockKind.BASIC:
            bad.append(f"blocks.{index}.shortcut")
        channels = block.c_out
    if bad:
        raise InputError(
            f"bad architecture: {bad[0]} is out of bounds",
            where=where,
            remedy="use a spec made by ndtool models, or mend that field",
            code="arch.invalid",
        )
    return spec


def parse_spec(
    text: str, *, where: str, remedy: str = "use the file that ndtool wrote"
) -> ArchSpec:
    """Read an ArchSpec from JSON of unknown origin; raises InputError naming the field."""
    import pydantic

    try:
        spec = pydantic.TypeAdapter(ArchSpec).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "spec"
        raise InputError(
            f"bad architecture: {key}: {first['msg']}",
            where=where,
            remedy=remedy,
            code="arch.invalid",
        ) from None
    return check_spec(spec, where=where)
