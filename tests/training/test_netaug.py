"""NetAug: its step against the same written slowly, its statistics, its runs."""

import math
from dataclasses import replace
from pathlib import Path

import nets
import pytest
import torch
import torch.nn.functional as F
from small_runs import SPEC, TRAIN_COUNT, Silent, StopAt, Stopped, assert_same_weights, go
from torch import Tensor

from ndtool.arch import Act, ArchSpec, LayerOp, lower, tensor_shapes
from ndtool.data.types import Augment
from ndtool.export.extract import prove_slice
from ndtool.models import make_spec
from ndtool.options import TrainOptions
from ndtool.rundir import BEST, CHECKPOINT, RunDir
from ndtool.training import checkpoint
from ndtool.training.build import BoundLayer, Network, _apply, bind, forward, is_statistic
from ndtool.training.channels import sort_channels
from ndtool.training.images.augment import Normalizer
from ndtool.training.images.batches import Shuffled, to_device
from ndtool.training.recalibrate import (
    RECALIBRATION_IMAGES,
    recalibrate,
    recalibration_batches,
)
from ndtool.training.recipes import METHODS
from ndtool.training.recipes import netaug as recipe
from ndtool.training.recipes.method import Method, Targets
from ndtool.training.recipes.netaug import widths_vary
from ndtool.training.schedule import Moment
from ndtool.training.seeds import Use, generator
from ndtool.training.step import train_step
from ndtool.training.subnet import draw
from ndtool.training.supernet import Supernet
from ndtool.training.train import train
from ndtool.types import Recipe

LR = 0.1
STEP = 2e-6  # float32, another order of summation
DOUBLE = 1e-5  # float32 activations against float64 ones, relative
SPECS = [
    pytest.param(nets.ds_spec(), id="ds"),
    pytest.param(nets.se_spec(), id="se"),
    pytest.param(
        make_spec("resnet8", width=0.5, size_px=8, in_channels=3, classes=3), id="resnet8"
    ),
]
Named = dict[str, Tensor]


def netaug(**changes: object) -> TrainOptions:
    return nets.options(recipe=Recipe.NETAUG, **changes)


def method_of(options: TrainOptions, spec: ArchSpec) -> Method:
    return METHODS[Recipe.NETAUG](options, spec.classes)


def supernet(spec: ArchSpec, seed: int = 0) -> Supernet:
    gen = torch.Generator().manual_seed(seed)
    return Supernet(spec, rates=(), augmented=True, generator=gen)


def batch(spec: ArchSpec, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    x = torch.rand(count, spec.height_px, spec.width_px, spec.in_channels, generator=gen)
    return x.permute(0, 3, 1, 2), torch.randint(0, spec.classes, (count,), generator=gen)


def box(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return tensor[tuple(slice(0, n) for n in shape)]


def everything(net: Supernet, flat: Tensor) -> Named:
    fields = {**net.layout.shared, **net.layout.norms[0]}
    return {name: field.view(flat) for name, field in fields.items()}


# -- the step -----------------------------------------------------------------------------------


def slow_gradients(
    net: Supernet, specs: list[ArchSpec], x: Tensor, y: Tensor, smoothing: float
) -> Named:
    """Sum of the networks' gradients: full tensors, sliced by autograd."""
    wide = {
        name: tensor.detach().clone().requires_grad_()
        for name, tensor in everything(net, net.theta).items()
    }
    for spec in specs:
        layers = lower(spec)
        cut = {
            name: torch.zeros(shape) if is_statistic(name) else box(wide[name], shape)
            for name, shape in tensor_shapes(layers).items()
        }
        logits = forward(x, bind(layers, cut), eps=spec.bn_eps, training=True)
        F.cross_entropy(logits, y, label_smoothing=smoothing).backward()  # type: ignore[no-untyped-call]
    return {name: t.grad for name, t in wide.items() if t.grad is not None}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_step_equals_the_slow_one(spec: ArchSpec, clip: float) -> None:
    options = netaug(clip_norm=clip, weight_decay=1e-2, seed=5)
    method, net = method_of(options, spec), supernet(spec)
    for step in (0, 1, 2, 7, 8):  # of 10: the last two without widths
        moment = Moment(step, 10)
        drawn = draw(spec, generator(5, Use.WIDTHS, step), vary_widths=step < 5)
        x, y = batch(spec, 16, step)
        grads = slow_gradients(net, [spec, drawn], x, y, options.label_smoothing)
        norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in grads.values()))
        scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        theta = {n: t.clone() for n, t in everything(net, net.theta).items()}
        momentum = {n: t.clone() for n, t in everything(net, net.momentum).items()}
        figures, applied = train_step(
            net, method, x, Targets(y), moment=moment, lr=LR, options=options
        )
        assert applied
        assert float(figures["grad_norm"]) == pytest.approx(norm, rel=1e-4)
        for name, got in everything(net, net.theta).items():
            decayed = name.endswith(".weight") and ".bn." not in name
            g = grads[name] * scale + (options.weight_decay if decayed else 0.0) * theta[name]
            v = options.momentum * momentum[name] + g
            expected = theta[name] - LR * (g + options.momentum * v)
            assert (got - expected).abs().max() < STEP, name


@pytest.mark.parametrize("spec", SPECS)
def test_the_widest_draw_is_the_widest_net_and_the_smallest_the_student(spec: ArchSpec) -> None:
    net = supernet(spec)
    x, _ = batch(spec, 8)
    widest = net.layout.widest
    alone = Network(widest)
    tensors = alone.named() | everything(net, net.theta)
    alone.load_named({name: t.detach().clone() for name, t in tensors.items()})
    assert torch.equal(net.between(widest)(x, training=True), alone.train()(x))
    student = Network(spec)
    student.load_named(net.student_tensors())
    logits = [net.between(spec)(x, training=True), net.student(x, training=True)]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], student.train()(x))
    assert net.teacher is None


def test_only_the_student_keeps_statistics_and_only_its_pass_changes_them() -> None:
    spec = nets.se_spec()
    net = supernet(spec)
    channels = sum(layer.c_out for layer in lower(spec) if layer.bn)
    assert len(net.statistics) == 2 * channels
    before = net.statistics.clone()
    net.between(net.layout.widest)(batch(spec, 8)[0], training=True)
    assert torch.equal(net.statistics, before)
    with pytest.raises(RuntimeError, match="running_mean"):
        net.between(net.layout.widest)(batch(spec, 8)[0], training=False)


@pytest.mark.parametrize("spec", SPECS)
def test_student_is_the_leading_slice_of_every_tensor(spec: ArchSpec) -> None:
    net = supernet(spec)
    wide = everything(net, net.theta)
    for name, tensor in net.student.tensors.items():
        if not is_statistic(name):
            assert tensor.data_ptr() == wide[name].data_ptr()
            assert torch.equal(tensor, box(wide[name], tuple(tensor.shape)))
    index = net.student_index
    sizes = sum(t.numel() for n, t in net.student.tensors.items() if not is_statistic(n))
    assert len(index) == len(set(index.tolist())) == sizes


def test_a_draw_that_is_the_student_costs_one_pass_and_gives_the_bits_of_two() -> None:
    spec, options = nets.ds_spec(), netaug(momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    method, late = method_of(options, nets.ds_spec()), Moment(5, 10)
    net, slow = supernet(spec), supernet(spec)
    x, y = batch(spec, 16)
    assert len(method.passes(net, Moment(4, 10))) == 2
    assert len(method.passes(net, late)) == 1  # no mid channels, nothing left to draw
    figures, _ = train_step(net, method, x, Targets(y), moment=late, lr=LR, options=options)
    assert figures["student_loss"] == figures["augmented_loss"]
    for width in (slow.student, slow.between(spec)):
        loss = F.cross_entropy(width(x, training=True), y, label_smoothing=0.1)
        loss.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(net.grad, slow.grad)
    assert torch.equal(net.statistics, slow.statistics)


def test_widths_are_off_from_the_middle_of_the_run_on() -> None:
    spec = nets.se_spec()
    method, net = method_of(netaug(), spec), supernet(spec)

    def drawn(step: int) -> ArchSpec:
        return method.passes(net, Moment(step, 101))[-1].width.spec

    assert any(drawn(step).stem != spec.stem for step in range(51))
    for step in (51, 60, 100, 150):  # the last one of an extended run
        assert (drawn(step).stem, drawn(step).head) == (spec.stem, spec.head)
    assert any(drawn(step) != spec for step in range(51, 100))  # mid channels go on
    assert [widths_vary(Moment(k, 4)) for k in range(5)] == [True, True, False, False, False]


def test_every_process_draws_the_same_networks() -> None:
    spec, net = nets.se_spec(), supernet(nets.se_spec())
    first, second, other = (method_of(netaug(seed=seed), spec) for seed in (3, 3, 4))
    torch.manual_seed(1)
    specs = [
        [m.passes(net, Moment(step, 100))[-1].width.spec for step in range(20)]
        for m in (first, second, other)
    ]
    assert specs[0] == specs[1] != specs[2]


# -- statistics ---------------------------------------------------------------------------------


def slow_statistics(net: Supernet, batches: list[Tensor]) -> Named:
    """Means and biased variances in double, batch by batch, weighted by size."""
    spec = net.student.spec
    found: Named = {}
    double = {n: t.detach().double() for n, t in net.student.tensors.items()}
    for x in batches:
        values = {"input": x.double()}
        for layer in lower(spec):
            alone = bind([replace(layer, bn=False)], double)
            bare = replace(alone[0].layer, act=Act.NONE)
            inputs = {name: values[name] for name in layer.inputs}
            out = one_layer(replace(alone[0], layer=bare), inputs)
            if layer.bn:
                mean, var = out.mean((0, 2, 3)), out.var((0, 2, 3), correction=0)
                for part, value in (("running_mean", mean), ("running_var", var)):
                    key = f"{layer.name}.bn.{part}"
                    found[key] = found.get(key, torch.zeros_like(value)) + len(x) * value
                shape = (1, -1, 1, 1)
                out = (out - mean.view(shape)) / (var.view(shape) + spec.bn_eps).sqrt()
                gamma, beta = (double[f"{layer.name}.bn.{p}"] for p in ("weight", "bias"))
                out = out * gamma.view(shape) + beta.view(shape)
            values[layer.name] = ACTS[layer.act](out)
    count = sum(len(x) for x in batches)
    return {name: value / count for name, value in found.items()}


ACTS = {
    Act.NONE: lambda x: x,
    Act.RELU: F.relu,
    Act.RELU6: F.relu6,
    Act.HARD_SWISH: F.hardswish,
    Act.HARD_SIGMOID: F.hardsigmoid,
}


def one_layer(step: BoundLayer, inputs: Named) -> Tensor:
    values = list(inputs.values())
    if step.layer.op is LayerOp.ADD:
        return values[0] + values[1]
    return _apply(step, values, eps=0.0, training=False, momentum=0.0)


@pytest.mark.parametrize("spec", SPECS)
def test_recalibrated_statistics_equal_a_slow_double_computation(spec: ArchSpec) -> None:
    net = supernet(spec)
    gen = torch.Generator().manual_seed(3)
    with torch.no_grad():
        net.theta.add_(0.2 * torch.rand(net.theta.shape, generator=gen))
    theta = net.theta.clone()
    net.statistics.fill_(torch.nan)  # what was there before has no say
    batches = [batch(spec, count, count)[0] for count in (8, 3, 16)]
    recalibrate(net, batches)
    expected = slow_statistics(net, batches)
    assert set(expected) == set(net.layout.statistics[0])
    for name, value in expected.items():
        got = net.student.tensors[name].double()
        assert ((got - value).abs() <= DOUBLE * value.abs().max()).all(), name
    assert torch.equal(net.theta, theta)
    assert net.grad.count_nonzero() == 0


class Counted:
    """A training part that notes what it is asked for; each batch has its own grey."""

    def __init__(self, count: int) -> None:
        self.count, self.asked = count, list[tuple[int, int]]()

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int, batch_size: int):  # type: ignore[no-untyped-def]
        self.asked.append((epoch, batch_size))
        for start in range(0, self.count - batch_size + 1, batch_size):
            grey = start // batch_size % 256
            yield torch.full((batch_size, 1, 1, 1), grey, dtype=torch.uint8), torch.zeros(0)


@pytest.mark.parametrize(
    ("count", "batch_size", "parts", "batches"),
    [(100, 8, 1, 12), (100, 8, 4, 50), (20_000, 128, 1, 125), (20_000, 256, 2, 125)],
)
def test_statistics_come_from_the_same_first_images_every_time(
    count: int, batch_size: int, parts: int, batches: int
) -> None:
    train_part = Counted(count)
    normalize = Normalizer(nets.contract_of(SPEC))
    options = netaug(batch_size=batch_size, accumulate=parts)
    first, second = (list(recalibration_batches(train_part, normalize, options)) for _ in "12")
    assert len(first) == len(second) == batches
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert sum(map(len, first)) <= RECALIBRATION_IMAGES
    assert train_part.asked == [(0, batch_size // parts)] * 2


# -- runs ---------------------------------------------------------------------------------------

NET = nets.se_spec(channels=1, size_px=8)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_is_evaluated_and_kept_with_statistics_of_its_own_images(
    tmp_path: Path, ema: float
) -> None:
    options = netaug(epochs=3, ema=ema)
    go(tmp_path, options, spec=NET)
    found = checkpoint.load(RunDir(tmp_path) / CHECKPOINT)
    assert found.identity.augmented
    student = found.student_of()
    kept = student.student_statistics.clone()
    contract = nets.contract_of(NET)
    data = to_device(nets.split_of(NET, TRAIN_COUNT), "cpu")
    augment = Augment(crop_px=1, flip=True)
    batches = recalibration_batches(
        Shuffled(data, augment, options.seed), Normalizer(contract), options
    )
    recalibrate(student, batches)
    assert torch.equal(student.student_statistics, kept)
    assert all(row["augmented_loss"] is not None for row in found.history)
    assert all(row["val_accuracy_teacher"] is None for row in found.history)


def test_the_extracted_student_is_the_slice_with_its_batch_norms(tmp_path: Path) -> None:
    go(tmp_path, netaug(epochs=2), spec=NET)
    found = checkpoint.load(RunDir(tmp_path) / BEST)
    net = found.supernet()
    tensors = found.student_of().student_tensors()
    prove_slice(found, tensors)
    wide = everything(net, found.theta)
    for name, shape in tensor_shapes(lower(NET)).items():
        assert tuple(tensors[name].shape) == shape
        if not is_statistic(name):
            assert torch.equal(tensors[name], box(wide[name], shape)), name


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("stop", [2, 5, 11])  # in the first epoch, in the first half, in the second
def test_a_resumed_run_gives_the_same_bits(tmp_path: Path, stop: int, ema: float) -> None:
    options = netaug(epochs=4, ema=ema)  # of 3 steps each
    go(tmp_path / "whole", options, spec=NET)
    with pytest.raises(Stopped):
        go(tmp_path / "cut", options, spec=NET, progress=StopAt(stop))
    go(tmp_path / "cut", options, spec=NET, resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


def test_channels_are_sorted_at_the_start_of_an_epoch_while_widths_vary(tmp_path: Path) -> None:
    method, net = method_of(netaug(), NET), supernet(NET)
    assert method.before_epoch is not None
    before = net.theta.clone()
    for step in (0, 6, 9):
        assert not method.before_epoch(net, Moment(step, 12))
        assert torch.equal(net.theta, before)
    assert method.before_epoch(net, Moment(3, 12))
    assert not torch.equal(net.theta, before)
    # A run that does nothing else. Its average would mix channels: it begins anew there.
    go(tmp_path, netaug(epochs=4, ema=0.999, lr=1e-12), spec=NET)
    found = checkpoint.load(RunDir(tmp_path) / CHECKPOINT)
    average, net = found.averaged(), found.supernet()
    assert average is not None
    gen = generator(0, Use.INIT)
    ordered = Supernet(NET, rates=(), augmented=True, generator=gen)
    assert not torch.allclose(net.theta, ordered.theta, atol=1e-6)
    sort_channels(ordered)
    assert torch.allclose(net.theta, ordered.theta, atol=1e-6)
    assert torch.allclose(average.theta, net.theta[net.student_index], atol=1e-6)


def test_each_step_of_a_run_draws_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, bool]] = []

    def noted(spec: ArchSpec, gen: torch.Generator, *, vary_widths: bool) -> ArchSpec:
        drawn.append((gen.initial_seed(), vary_widths))
        return draw(spec, gen, vary_widths=vary_widths)

    monkeypatch.setattr(recipe, "draw", noted)
    go(tmp_path, netaug(epochs=4), spec=NET)  # of 3 steps each
    seeds = [generator(0, Use.WIDTHS, step).initial_seed() for step in range(12)]
    assert drawn[:12] == [(seed, step < 6) for step, seed in enumerate(seeds)]


def test_parts_of_a_batch_add_up(tmp_path: Path) -> None:
    go(tmp_path, netaug(epochs=1, accumulate=2), spec=NET)
    x, y = batch(NET, 8)
    options = netaug(accumulate=2, momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    net, moment = supernet(NET), Moment(0, 10)
    drawn = draw(NET, generator(0, Use.WIDTHS, 0), vary_widths=True)
    halves = [
        slow_gradients(net, [NET, drawn], x[rows], y[rows], options.label_smoothing)
        for rows in (slice(0, 4), slice(4, 8))
    ]
    method = method_of(options, NET)
    train_step(net, method, x, Targets(y), moment=moment, lr=LR, options=options)
    for name, got in everything(net, net.grad).items():
        expected = (halves[0][name] + halves[1][name]) / 2
        assert (got - expected).abs().max() < STEP, name


@pytest.mark.slow
def test_a_network_is_learnt(tmp_path: Path) -> None:
    spec = nets.ds_spec()
    result = train(
        netaug(epochs=10, batch_size=16),
        RunDir(tmp_path),
        spec=spec,
        contract=nets.contract_of(spec),
        train=nets.split_of(spec, 240),
        val=nets.split_of(spec, 60, seed=1),
        resume=False,
        progress=Silent(),
    )
    assert result.best_val_accuracy > 0.8  # three classes; seed 0 gives more
    assert result.teacher_val_accuracy is None
