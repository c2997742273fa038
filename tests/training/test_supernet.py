"""The supernet: layout, slices that share storage, the student bit for bit."""

import nets
import pytest
import torch

from ndtool.arch import ArchSpec, count_parameters, expand, lower, tensor_shapes
from ndtool.models import make_spec
from ndtool.training.build import Network
from ndtool.training.supernet import Supernet, plan_layout

SPECS = [
    pytest.param(nets.ds_spec(), id="ds"),
    pytest.param(nets.se_spec(), id="se"),
    pytest.param(
        make_spec("mbv2-tiny", width=0.35, size_px=16, in_channels=3, classes=10), id="mbv2-tiny"
    ),
]


def supernet(spec: ArchSpec, rates: tuple[int, ...] = (3,), seed: int = 0) -> Supernet:
    return Supernet(spec, rates=rates, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("rates", [(), (3,), (2, 4)])
def test_layout_is_gapless_and_in_the_promised_order(
    spec: ArchSpec, rates: tuple[int, ...]
) -> None:
    layout = plan_layout(spec, rates)
    groups = [layout.shared, *layout.norms]
    fields = [field for group in groups for field in group.values()]
    assert fields[0].start == 0
    assert [f.start for f in fields[1:]] == [f.end for f in fields[:-1]]
    assert fields[-1].end == layout.size
    weights = [f for name, f in layout.shared.items() if name.endswith(".weight")]
    assert weights[-1].end == layout.decayed
    assert layout.rates == (*sorted(rates, reverse=True), 1)
    widest = count_parameters(expand(spec, layout.rates[0]))
    own_norms = [2 * sum(x.c_out for x in lower(s) if x.bn) for s in layout.specs[1:]]
    assert layout.size == widest + sum(own_norms)
    assert layout.statistics_size == sum(own_norms) + 2 * sum(
        x.c_out for x in lower(layout.specs[0]) if x.bn
    )


@pytest.mark.parametrize("spec", SPECS)
def test_student_is_the_leading_slice_on_the_same_storage(spec: ArchSpec) -> None:
    net = supernet(spec)
    assert net.teacher is not None
    assert list(net.student.tensors) == list(tensor_shapes(lower(spec)))
    with torch.no_grad():
        net.theta.copy_(torch.rand(net.theta.shape, generator=torch.Generator().manual_seed(1)))
    for name, mine in net.student.tensors.items():
        wide = net.teacher.tensors[name]
        box = tuple(slice(0, n) for n in mine.shape)
        if ".bn." in name:
            apart = mine.untyped_storage().data_ptr() + 4 * mine.storage_offset()
            assert apart != wide.untyped_storage().data_ptr() + 4 * wide.storage_offset()
        else:
            assert torch.equal(mine, wide[box])
            assert mine.data_ptr() == wide.data_ptr()
    assert torch.equal(
        net.student.tensors["classifier.bias"], net.teacher.tensors["classifier.bias"]
    )
    shapes = tensor_shapes(lower(spec))
    assert {n: tuple(t.shape) for n, t in net.student.tensors.items()} == shapes


@pytest.mark.parametrize("spec", SPECS)
def test_index_names_each_element_of_the_slice(spec: ArchSpec) -> None:
    net = supernet(spec)
    shared = net.student.slice
    assert shared is not None
    expected = torch.cat(
        [
            net.student.tensors[f"{layer.name}.{part}"].reshape(-1)
            for layer in lower(spec)
            for part in ("weight", "bias")
            if f"{layer.name}.{part}" in net.student.tensors
        ]
    )
    assert torch.equal(net.theta[shared.index], expected.detach())
    assert len(set(shared.index.tolist())) == len(shared.index)
    assert shared.layer_of.bincount().tolist() == list(shared.sizes)
    joined = net.student.tensors["classifier.weight"].numel() + spec.classes
    assert shared.sizes[-1] == joined  # weight and bias of one module are one layer


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("rates", [(), (3,)])
def test_extracted_student_gives_the_same_bits(spec: ArchSpec, rates: tuple[int, ...]) -> None:
    net = supernet(spec, rates)
    gen = torch.Generator().manual_seed(2)
    with torch.no_grad():
        net.theta.add_(0.1 * torch.rand(net.theta.shape, generator=gen))
        net.statistics.add_(torch.rand(net.statistics.shape, generator=gen))
    alone = Network(spec)
    tensors = net.student_tensors()
    assert all(t.is_contiguous() for t in tensors.values())
    alone.load_named(tensors)
    x = torch.rand(16, spec.height_px, spec.width_px, spec.in_channels, generator=gen)
    with torch.no_grad():
        logits = alone.eval()(x.permute(0, 3, 1, 2))
        assert torch.equal(logits, net.student(x.permute(0, 3, 1, 2), training=False))
    net.theta.zero_()
    assert torch.equal(tensors["stem.weight"], alone.named()["stem.weight"])  # copies, not views


def test_without_a_teacher_it_is_the_student_alone() -> None:
    spec = nets.ds_spec()
    net = supernet(spec, ())
    assert net.teacher is None
    assert net.student.slice is None
    assert len(net.theta) == count_parameters(spec)
    fresh = Network(spec, torch.Generator().manual_seed(0)).named()
    assert all(torch.equal(t, fresh[n]) for n, t in net.student_tensors().items())


def test_widths_have_own_statistics() -> None:
    net = supernet(nets.ds_spec())
    before = net.student_tensors()
    assert net.teacher is not None
    net.teacher(torch.rand(4, 1, 8, 8), training=True)
    after = net.student_tensors()
    assert all(torch.equal(before[n], after[n]) for n in before)
    net.student(torch.rand(4, 1, 8, 8), training=True)
    assert not torch.equal(net.student_tensors()["stem.bn.running_mean"], torch.zeros(8))
