"""Networks with random weights whose batch-norm statistics matter, without training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ndtool.arch import ArchSpec, lower, tensor_shapes


def random_tensors(spec: ArchSpec, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """All tensors by name; gamma, beta, mean and variance are far from their initial values."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in tensor_shapes(lower(spec)).items():
        if name.endswith(".bn.weight"):
            values = rng.uniform(0.5, 1.5, shape)
        elif name.endswith(".bn.running_var"):
            values = rng.uniform(0.2, 2.0, shape)
        elif len(shape) == 1:
            values = rng.normal(0, 0.3, shape)
        else:
            values = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        tensors[name] = values.astype(np.float32)
    return tensors


def settled_tensors(spec: ArchSpec) -> dict[str, NDArray[np.float32]]:
    """`random_tensors` whose statistics have followed some batches, as after training.

    Without that the activations of a deep network grow or die, and so does what a test can see.
    """
    import torch

    from ndtool.training.build import Network

    network = Network(spec)
    network.load_named({n: torch.from_numpy(v) for n, v in random_tensors(spec).items()})
    network.train()
    with torch.no_grad():
        for seed in range(20):
            network(torch.from_numpy(random_images(spec, 4, seed)))
    return {name: tensor.numpy() for name, tensor in network.named().items()}


def random_images(spec: ArchSpec, count: int, seed: int = 1) -> NDArray[np.float32]:
    """(count, c, h, w) in 0..1: four random colours and noise, so that the means differ too."""
    rng = np.random.default_rng(seed)
    rows, columns = (np.arange(n) * 2 // n for n in (spec.height_px, spec.width_px))
    colours = rng.random((count, spec.in_channels, 2, 2))[:, :, rows][:, :, :, columns]
    return (0.7 * colours + 0.3 * rng.random(colours.shape)).astype(np.float32)
