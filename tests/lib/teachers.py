"""Files of external teachers, untrained but with running statistics of their own."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ndtool.arch import ArchSpec
from ndtool.contract import Contract
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.training import checkpoint
from ndtool.training.checkpoint import Identity
from ndtool.training.loop import TrainState
from ndtool.training.supernet import Supernet
from ndtool.types import Sha256


def network(spec: ArchSpec, *, seed: int = 0, rates: tuple[int, ...] = ()) -> Supernet:
    """Random weights, the statistics of random images; logits that differ from image to image."""
    draws = torch.Generator().manual_seed(seed)
    net = Supernet(spec, rates=rates, generator=draws)
    net.theta.mul_(3.0)
    shape = (32, spec.in_channels, spec.height_px, spec.width_px)
    with torch.no_grad():
        for _ in range(20):
            images = torch.rand(shape, generator=draws)
            for width in net.widths:
                width(images, training=True)
    return net


def save_checkpoint(
    path: Path, net: Supernet, contract: Contract, *, ema: Supernet | None = None
) -> Path:
    """A checkpoint before its first epoch."""
    spec, rates = net.layout.specs[-1], net.layout.rates[:-1]
    identity = Identity(
        spec=spec,
        contract=contract,
        options={},
        rates=rates,
        data=Sha256("0" * 64),
        torch=str(torch.__version__),
        threads=1,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(checkpoint.encode(TrainState(net=net, ema=ema, ends=(1,)), identity))
    return path


def save_onnx(path: Path, net: Supernet) -> Path:
    """The student as `ndtool export` writes it."""
    tensors = {name: value.numpy() for name, value in net.student_tensors().items()}
    path.write_bytes(write_onnx(net.layout.specs[-1], tensors))
    return path


def linear_onnx(
    shape: tuple[int | str, ...],
    *,
    classes: int = nets.CLASSES,
    kind: int = TensorProto.FLOAT,
    softmax: bool = False,
    seed: int = 0,
) -> tuple[onnx.ModelProto, Tensor]:
    """Logits of a matrix on all pixels, batch as `shape` says; and the matrix (pixels, K)."""
    count = int(np.prod([n for n in shape[1:] if isinstance(n, int)]))
    weight = np.random.default_rng(seed).normal(0, 0.1, (count, classes)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["shares"], axis=1))
    out = "shares" if softmax else "logits"
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, (shape[0], classes))],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), torch.from_numpy(weight)
