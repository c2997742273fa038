"""External teachers: a network of any origin that gives soft labels for the student's crops.

Frozen, in eval mode, without gradients, in fp32 (training-methods, section 4). Each sees the crop
in its own size, colour and normalisation:

    checkpoint:FILE        the student of a run of ndtool, through that run's contract
    onnx:FILE              see `onnx_teacher`
    torchvision:NAME:FILE  a classification network of torchvision with a state dict; 224x224 RGB,
                           ImageNet normalisation
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ndtool.console import visible
from ndtool.contract import Contract, mean_std_normalize
from ndtool.errors import ConfigError, InputError
from ndtool.prepare import IMAGENET_MEAN, IMAGENET_STD
from ndtool.teacher import TeacherFile, read_teacher
from ndtool.training import checkpoint
from ndtool.training.loop import External
from ndtool.training.teachers.onnx_teacher import open_onnx
from ndtool.training.teachers.views import View, with_input
from ndtool.training.torch_file import load_torch_file
from ndtool.training.vision import import_torchvision
from ndtool.types import TeacherKind

TORCHVISION_SIDE_PX: Final = 224  # what its ImageNet networks are trained and fine-tuned at
MAX_TENSORS: Final = 5000  # of a state dict; torchvision's largest has about 1,200
MAX_SHOWN: Final = 3  # names in a message
PROBE_GREY: Final = 128
_STORAGES: Final = (
    "FloatStorage",
    "HalfStorage",
    "BFloat16Storage",
    "DoubleStorage",
    "LongStorage",
)
_COUNTER: Final = ".num_batches_tracked"  # of batch norm; eval mode does not read it


def open_teacher(
    text: str, contract: Contract, device: torch.device | str, *, threads: int
) -> External:
    """The teacher that `--teacher text` names, for students of `contract`; tried on one image.

    Args:
        threads: of onnxruntime; torch's are the caller's.

    Returns:
        A function from augmented uint8 images (B, H, W, C) to float32 logits (B, K), classes in the
        contract's order.

    Raises:
        ConfigError: it does not fit: another number of classes, other labels, no such network.
        InputError: the file is missing or broken.
        ToolMissingError: torchvision, onnx or onnxruntime is not installed.
    """
    file = read_teacher(text)
    match file.kind:
        case TeacherKind.CHECKPOINT:
            logits = _open_checkpoint(file.path, contract, device)
        case TeacherKind.ONNX:
            logits = open_onnx(file.path, contract, device, threads=threads)
        case TeacherKind.TORCHVISION:
            logits = _open_torchvision(file, contract, device)

    @torch.no_grad()
    def teacher(images: Tensor) -> Tensor:
        return logits(images).float()

    _try(teacher, contract, device, where=visible(str(file.path)))
    return teacher


def _try(teacher: External, contract: Contract, device: torch.device | str, *, where: str) -> None:
    """One grey image through the network; waits for the device."""
    spec = contract.input
    shape = (1, spec.height, spec.width, spec.channels)
    made = teacher(torch.full(shape, PROBE_GREY, dtype=torch.uint8, device=device))
    if not bool(made.isfinite().all()):
        raise InputError(
            "the teacher gives numbers that are not finite",
            where=where,
            remedy="its weights may be damaged: train or export it again",
            code="teacher.not-finite",
        )


def _open_checkpoint(path: Path, contract: Contract, device: torch.device | str) -> External:
    """The student of a run, its classes by name."""
    found = checkpoint.load(path)
    theirs = found.identity.contract
    order = _class_order(theirs.labels, contract.labels, where=visible(str(path)))
    columns = None if order is None else torch.tensor(order, device=device)  # (K,)
    student = found.student_of(device).student
    view = View(theirs, device)

    def logits(images: Tensor) -> Tensor:
        made = student(view(images), training=False)
        return made if columns is None else made[:, columns]

    return logits


def _class_order(theirs: tuple[str, ...], ours: tuple[str, ...], *, where: str) -> list[int] | None:
    """Place of each of our classes in the teacher's; None where both are the same."""
    if theirs == ours:
        return None
    lacking, strange = sorted({*ours} - {*theirs}), sorted({*theirs} - {*ours})
    if lacking or strange:
        parts = [("does not know", lacking), ("knows", strange)]
        said = [f"{verb} {_listed(names)}" for verb, names in parts if names]
        raise ConfigError(
            f"the teacher is for other classes: it {' and '.join(said)}",
            where=where,
            remedy="use a teacher that was trained on the same labels",
            code="teacher.labels",
        )
    return [theirs.index(label) for label in ours]


def _open_torchvision(
    file: TeacherFile, contract: Contract, device: torch.device | str
) -> External:
    """A network of torchvision.models with the contract's number of classes."""
    models = import_torchvision().models
    if file.network not in models.list_models(module=models):
        raise ConfigError(
            f"torchvision has no classification network '{visible(file.network)}'",
            where="--teacher",
            remedy="use one of its names in small letters, such as resnet50 or mobilenet_v2",
            code="teacher.network",
        )
    weights = _read_weights(file.path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some speak of their initial weights, replaced below
        network = models.get_model(file.network, weights=None, num_classes=contract.num_classes)
    _check_weights(network.state_dict(), weights, file, contract)
    network.load_state_dict(weights, strict=False)  # without the counters
    network.requires_grad_(requires_grad=False).eval()
    network.to(device=device, memory_format=torch.channels_last)
    side = TORCHVISION_SIDE_PX
    normalize = mean_std_normalize(IMAGENET_MEAN, IMAGENET_STD)
    theirs = with_input(contract, height=side, width=side, channels=3, normalize=normalize)
    view = View(theirs, device)

    def logits(images: Tensor) -> Tensor:
        made: Tensor = network(view(images))
        return made

    return logits


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    """A state dict; raises InputError for anything else."""

    def refused(problem: str) -> InputError:
        return InputError(
            f"not a file of weights: {problem}",
            where=visible(str(path)),
            remedy="write it with torch.save(network.state_dict(), FILE)",
            code="teacher.weights",
        )

    found = load_torch_file(path, storages=_STORAGES, max_entries=MAX_TENSORS, refused=refused)
    if not isinstance(found, dict) or not found:
        raise refused("not a table")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise refused("it holds more than tensors by name")
    return found


def _check_weights(
    network: Mapping[str, Any], weights: Mapping[str, Tensor], file: TeacherFile, contract: Contract
) -> None:
    """Every tensor of the network, and no other, in its shape; raises ConfigError."""
    wanted = {name for name in network if not name.endswith(_COUNTER)}
    given = {name for name in weights if not name.endswith(_COUNTER)}
    other = [name for name in sorted(wanted & given) if weights[name].shape != network[name].shape]
    problem = ""
    remedy = f"name the network that was saved there: torchvision:NAME:{visible(str(file.path))}"
    if wanted - given:
        problem = f"it lacks {_listed(sorted(wanted - given))}"
    elif given - wanted:
        problem = f"it also has {_listed(sorted(given - wanted))}"
    elif other:
        has, needs = (_shape(table[other[0]]) for table in (weights, network))
        problem = f"{other[0]} is {has}, for {contract.num_classes} classes it would be {needs}"
        remedy = "give the network a last layer of these classes, and train it on them first"
    if problem:
        raise ConfigError(
            f"these are no weights of {visible(file.network)}: {problem}",
            where=visible(str(file.path)),
            remedy=remedy,
            code="teacher.weights",
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _listed(names: list[str]) -> str:
    shown = [visible(name) for name in names[:MAX_SHOWN]]
    more = len(names) - MAX_SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
