"""Sorted channels: the widest network's function stays, the student gets the heaviest ones."""

import nets
import pytest
import torch

from ndtool.arch import ArchSpec
from ndtool.models import make_spec
from ndtool.training.channels import sort_channels
from ndtool.training.supernet import Supernet

REORDERED = 1e-5  # logits of about 1; the sums over channels run in another order
SPECS = [
    pytest.param(nets.se_spec(), id="se"),
    pytest.param(
        make_spec("resnet8", width=0.5, size_px=8, in_channels=3, classes=3), id="resnet8"
    ),
    pytest.param(
        make_spec("mbv2-tiny", width=0.35, size_px=16, in_channels=3, classes=3), id="mbv2-tiny"
    ),
]


def supernet(spec: ArchSpec) -> Supernet:
    gen = torch.Generator().manual_seed(0)
    net = Supernet(spec, rates=(), augmented=True, generator=gen)
    norms = net.layout.norms[0].values()
    for field in norms:  # equal gammas would hide a permutation that forgets them
        field.view(net.theta).add_(torch.rand(field.shape, generator=gen))
    for name, field in net.layout.shared.items():
        if name.endswith(".bias"):
            field.view(net.theta).add_(torch.rand(field.shape, generator=gen))
    return net


@pytest.mark.parametrize("spec", SPECS)
def test_sorting_keeps_the_function_of_the_widest_network(spec: ArchSpec) -> None:
    net = supernet(spec)
    x = torch.rand(6, spec.height_px, spec.width_px, 3, generator=torch.Generator().manual_seed(1))
    images = x.permute(0, 3, 1, 2)
    with torch.no_grad():
        wide, before = net.between(net.layout.widest), net.theta.clone()
        expected, student = wide(images, training=True), net.student(images, training=True)
        sort_channels(net)
        assert not torch.equal(net.theta, before)
        assert (wide(images, training=True) - expected).abs().max() < REORDERED
        assert (net.student(images, training=True) - student).abs().max() > 100 * REORDERED
    again = net.theta.clone()
    sort_channels(net)
    assert torch.equal(net.theta, again)


@pytest.mark.parametrize("spec", SPECS)
def test_momentum_moves_with_its_weights(spec: ArchSpec) -> None:
    net = supernet(spec)
    net.momentum.copy_(3 * net.theta)
    before = net.theta.clone()
    sort_channels(net)
    assert torch.equal(net.momentum, 3 * net.theta)
    assert torch.equal(net.theta.sort().values, before.sort().values)


def test_the_student_has_the_channels_that_weigh_most() -> None:
    net = supernet(nets.se_spec())
    sort_channels(net)
    wide = net.layout.shared
    for name in ("blocks.1.project", "blocks.2.project", "blocks.1.se.gate"):
        weights = wide[f"{name}.weight"].view(net.theta).abs().sum((0, 2, 3))
        assert (weights[:-1] >= weights[1:]).all()
