"""The student out of the supernet: the only torch user of export.

Everything after it works from student.safetensors and student.json without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndtool.errors import ContractError, MismatchError, require
from ndtool.export.student import load_student
from ndtool.quant.pixels import normalize_pixels
from ndtool.rundir import BEST, CONTRACT, STUDENT, STUDENT_SPEC, RunDir, StageOutput
from ndtool.training import checkpoint
from ndtool.training.build import Network

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
PROOF_BATCH: Final = 16  # random images on which the student must equal its slice bit for bit
EVAL_BATCH: Final = 64


def extract_student(run: RunDir) -> StageOutput:
    """Write the best epoch's student with its own BN statistics, proved equal to its slice.

    Raises:
        InputError: a broken checkpoint.
        ContractError: the checkpoint was trained with another contract than the folder's.
        MismatchError: the student differs from its slice of the supernet.
    """
    found = checkpoint.load(run / BEST)
    if found.identity.contract != run.contract():
        raise ContractError(
            "the checkpoint was trained with another contract",
            where=CONTRACT,
            remedy="use the contract.json that this training wrote",
            code="contract.differs",
        )
    tensors = found.student_of().student_tensors()
    prove_slice(found, tensors)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    data = require("safetensors.numpy").save(dict(sorted(arrays.items())))
    return StageOutput(
        files=(
            run.write_bytes(STUDENT, data),
            run.write_text(STUDENT_SPEC, found.identity.spec.to_json() + "\n"),
        )
    )


def prove_slice(found: checkpoint.Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    """The extracted student's logits equal the supernet's student bit for bit on random images.

    Memory format, batch and thread count are the same on both sides (training-methods, 1.8).

    Raises:
        MismatchError: a logit differs.
    """
    spec = found.identity.spec
    generator = torch.Generator().manual_seed(0)
    shape = (PROOF_BATCH, spec.height_px, spec.width_px, spec.in_channels)
    images = torch.rand(shape, generator=generator).permute(0, 3, 1, 2)
    alone = Network(spec)
    alone.load_named(tensors)
    alone.eval()
    with torch.no_grad():
        inside = found.student_of().student(images, training=False)
        outside = alone(images)
    if not torch.equal(inside, outside):
        raise MismatchError(
            f"the extracted student differs from its slice of the supernet by up to"
            f" {(inside - outside).abs().max().item():.3g}",
            where=BEST,
            remedy="a bug of ours: please report it with the checkpoint",
            code="extract.differs",
        )


def float_logits(run: RunDir, images: U8) -> F32:
    """Logits (N, K) of the extracted student in torch for uint8 images (N, H, W, C)."""
    spec, tensors = load_student(run)
    network = Network(spec)
    network.load_named({name: torch.from_numpy(values) for name, values in tensors.items()})
    network.eval()
    contract = run.contract()
    rows = []
    with torch.no_grad():
        for first in range(0, len(images), EVAL_BATCH):
            x = normalize_pixels(images[first : first + EVAL_BATCH], contract)
            rows.append(network(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy())
    logits: F32 = np.concatenate(rows)
    return logits
