"""Every model as a torch network: counts, teacher and student, a few steps, gradients."""

from pathlib import Path

import pytest
import torch
from nets import contract_of, options, split_of
from torch.utils.flop_counter import FlopCounterMode

from ndtool import console
from ndtool.arch import ArchSpec, count_macs, count_parameters, expand, lower
from ndtool.models import MODELS, make_spec
from ndtool.rundir import CHECKPOINT, RunDir
from ndtool.training import checkpoint
from ndtool.training.build import Network
from ndtool.training.supernet import Supernet
from ndtool.training.train import train

SIDE = 32  # of the small variants
# The paper's counts are held in tests/ndtool/models; those below are torch's own.
SIZES = [(name, width) for name in MODELS for width in (0.35, 1.0)]


def spec_of(name: str, width: float = 0.35, *, size_px: int = SIDE, classes: int = 10) -> ArchSpec:
    return make_spec(name, width=width, size_px=size_px, in_channels=3, classes=classes)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("name", "width"), SIZES)
def test_counts_are_those_of_torch(name: str, width: float) -> None:
    """Parameters of the modules, and what torch's own counter sees of one forward pass."""
    model = MODELS[name]
    spec = spec_of(name, width, size_px=model.resolution, classes=model.classes)
    network = Network(spec).eval()
    images = torch.zeros(1, 3, spec.height_px, spec.width_px)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    assert counter.get_total_flops() == 2 * count_macs(spec)
    assert sum(p.numel() for p in network.parameters()) == count_parameters(spec)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rates", [(3,), (2, 3)])
def test_each_width_is_a_network_of_its_own_on_shared_weights(
    name: str, rates: tuple[int, ...]
) -> None:
    """Bit for bit: what a slice gives, an extracted network of that width gives."""
    spec = spec_of(name, 0.1)
    net = Supernet(spec, rates=rates, generator=seeded(0))
    with torch.no_grad():
        net.theta.add_(0.1 * torch.rand(net.theta.shape, generator=seeded(1)))
        net.statistics.add_(torch.rand(net.statistics.shape, generator=seeded(2)))
    images = torch.rand(2, SIDE, SIDE, 3, generator=seeded(3)).permute(0, 3, 1, 2)
    for width in net.widths:
        assert width.spec == expand(spec, width.rate)
        alone = Network(width.spec)
        alone.load_named({n: t.detach().contiguous() for n, t in width.tensors.items()})
        with torch.no_grad():
            logits = alone.eval()(images)
            assert torch.equal(logits, width(images, training=False))
        assert bool(logits.isfinite().all()) and logits.std() > 0


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_gets_a_gradient(name: str) -> None:
    """Shared shortcuts and biases, too; only what a batch norm takes out again stays near 0."""
    spec = spec_of(name, 0.1)
    net = Supernet(spec, rates=(2,), generator=seeded(0))
    images = torch.rand(4, 3, SIDE, SIDE, generator=seeded(1))
    labels = torch.arange(4)
    for width in net.widths:
        torch.nn.functional.cross_entropy(width(images, training=True), labels).backward()
    cancelled = {f"{layer.name}.bias" for layer in lower(spec) if layer.bn}
    for width in net.widths:
        for tensor, leaf in width.tensors.items():
            if leaf.requires_grad and tensor not in cancelled and "running" not in tensor:
                assert leaf.grad is not None and leaf.grad.abs().max() > 0, tensor


@pytest.mark.parametrize("name", MODELS)
def test_a_few_steps_of_netdistiller(name: str, tmp_path: Path) -> None:
    """The loop takes every model, and a checkpoint of it is read back with finite numbers."""
    console.configure(quiet=True, verbose=False, as_json=False)
    spec = spec_of(name, 0.1, size_px=16, classes=3)
    images = split_of(spec, 48)
    with console.progress("train", 1) as bar:
        result = train(
            options(model=name, width=0.1, batch_size=16, epochs=2, lr=0.02),
            RunDir(tmp_path),
            spec=spec,
            contract=contract_of(spec),
            train=images,
            val=images,
            resume=False,
            progress=bar,
        )
    assert result.epochs == 2
    found = checkpoint.load(tmp_path / CHECKPOINT)
    tensors = found.supernet().student_tensors()
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
