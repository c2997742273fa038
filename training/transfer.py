"""Starting from the student of a trained checkpoint, with a classifier of its own (`--init-from`).

Everything but the classifier is taken over, running statistics included; the classifier, too, where
both have the same labels in the same order. Wider networks are taken over where the checkpoint has
the same ones; else the student goes into the leading slice and the rest is fresh, as for a teacher
that joins later (training-methods, 1.6). Momentum starts at 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from torch import Tensor

from ndtool import console
from ndtool.arch import ArchSpec, Layer, lower, tensor_shapes
from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.errors import InputError
from ndtool.rundir import checkpoint_file
from ndtool.training import checkpoint
from ndtool.training.checkpoint import Checkpoint
from ndtool.training.freeze import in_head
from ndtool.training.supernet import Field, Shape, Supernet


def load_start(name: str, spec: ArchSpec, contract: Contract) -> Checkpoint:
    """The checkpoint that `name` means, a file or a run folder's best, for `spec` to start from.

    Raises:
        InputError: missing, damaged, of another architecture, or of pixels that mean another thing.
    """
    path = checkpoint_file(name)
    found = checkpoint.load(path)
    where = visible(str(path))
    _require_same_pixels(found.identity.contract, contract, where)
    _require_same_layers(found.identity.spec, spec, where)
    return found


def start_from(net: Supernet, found: Checkpoint, contract: Contract, *, name: str) -> None:
    """Put what `found` has learnt into the fresh `net`, and say what that was.

    Args:
        found: what `load_start` gave.
        contract: of this run; its labels decide whether the classifier is taken over.
        name: what the user calls the checkpoint.
    """
    source, average = found.supernet(), found.averaged()
    same_labels = found.identity.contract.labels == contract.labels
    taken = [key for key in net.student.tensors if same_labels or not in_head(key)]
    whole = _shapes_in(net) == _shapes_in(source)
    if whole:
        for (buffer, fields), (learnt, places) in zip(_buffers(net), _buffers(source), strict=True):
            for key, field in fields.items():
                if same_labels or not in_head(key):
                    field.view(buffer).copy_(places[key].view(learnt))
    else:
        _copy_student(net, source, taken)
    if average is not None:  # it is what the checkpoint was evaluated and exported by
        _copy_student(net, average, taken)
    wider = whole and len(net.student_index) < len(net.theta)
    console.info(
        f"init: {len(taken)} of {len(net.student.tensors)} tensors of"
        f" {visible(str(checkpoint_file(name)))}"
        f"{'' if same_labels else ', new head'}{', with its wider networks' if wider else ''}"
    )
    _tell_differences(found.identity.spec, net.layout.specs[-1])


def _copy_student(net: Supernet, source: Supernet, names: Sequence[str]) -> None:
    for name in names:
        net.student.tensors[name].detach().copy_(source.student.tensors[name].detach())


def _buffers(net: Supernet) -> list[tuple[Tensor, Mapping[str, Field]]]:
    """Everything learnt, of all networks: flat buffers and what lies where in them."""
    layout = net.layout
    parameters = [(net.theta, fields) for fields in (layout.shared, *layout.norms)]
    return parameters + [(net.statistics, fields) for fields in layout.statistics]


def _shapes_in(net: Supernet) -> list[dict[str, Shape]]:
    """Shapes of everything but the classifier's tensors."""
    return [
        {name: field.shape for name, field in fields.items() if not in_head(name)}
        for _, fields in _buffers(net)
    ]


def _tell_differences(old: ArchSpec, new: ArchSpec) -> None:
    """Say what may differ between two networks of the same tensors."""
    sizes = [f"{spec.height_px}x{spec.width_px}" for spec in (old, new)]
    if sizes[0] != sizes[1]:
        console.info(f"init: trained at {sizes[0]} pixels, this run is at {sizes[1]}")
    if [layer.stride for layer in lower(old)] != [layer.stride for layer in lower(new)]:
        console.info("init: trained with other strides than this run's")


def _require_same_pixels(old: Contract, new: Contract, where: str) -> None:
    """A number that enters the network must mean the same colour to it as before.

    The size of the image may differ. Another normalisation is refused rather than learnt away:
    stored statistics would be wrong from the first step, and the remedy is one option.
    """
    if old.input.color != new.input.color:
        flag = "--gray" if old.input.channels == 1 else "--rgb"
        raise InputError(
            f"the checkpoint is for {old.input.color} images, this run's are {new.input.color}",
            where=where,
            remedy=f"train with {flag}, or start from another checkpoint",
            code="train.init-input",
        )
    if old.normalize != new.normalize:
        word = {"u8/255": "u8/255", "mean_std": "imagenet"}[old.normalize.kind]
        raise InputError(
            "the checkpoint's pixels are normalised in another way",
            where=where,
            remedy=f"train with --normalize {word}, or start from another checkpoint",
            code="train.init-input",
        )


def _require_same_layers(old: ArchSpec, new: ArchSpec, where: str) -> None:
    """Both networks have the same layers but for the number of classes, sizes and strides."""
    problem = _first_difference(old, new)
    if problem:
        raise InputError(
            f"the checkpoint is of another architecture, first at {problem}",
            where=where,
            remedy=f"use the checkpoint's own --model {visible(old.model)} --width {old.width:g}, "
            "or start from another one",
            code="train.init-architecture",
        )


def _first_difference(old: ArchSpec, new: ArchSpec) -> str:
    """The first tensor, or layer, that the two have not in common; empty: there is none."""
    before, now = (_shapes(spec) for spec in (old, new))
    for name in (*now, *before):
        if before.get(name) != now.get(name):
            shapes = [_text(shapes.get(name)) for shapes in (before, now)]
            return f"tensor {name}: {shapes[0]} there, {shapes[1]} here"
    for theirs, mine in zip_longest(_layers(old), _layers(new)):  # an ADD has no tensors
        if theirs != mine:
            return f"layer {(mine or theirs).name}: the same weights in another operation"
    return "" if old.bn_eps == new.bn_eps else f"bn_eps: {old.bn_eps:g} there, {new.bn_eps:g} here"


def _shapes(spec: ArchSpec) -> dict[str, Shape]:
    shapes = tensor_shapes(lower(spec))
    return {name: shape for name, shape in shapes.items() if not in_head(name)}


def _text(shape: Shape | None) -> str:
    return "none" if shape is None else "x".join(map(str, shape))


def _layers(spec: ArchSpec) -> list[Layer]:
    """What each layer computes, whatever the image's size and the strides; no classifier."""
    return [
        replace(layer, hw_in=(1, 1), hw_out=(1, 1), stride=1)
        for layer in lower(spec)
        if not in_head(f"{layer.name}.")
    ]
