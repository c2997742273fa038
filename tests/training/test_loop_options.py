"""Parts of a batch, the averaged student, bf16 and several widths do what they say."""

import itertools
from dataclasses import replace
from pathlib import Path

import nets
import pytest
import torch
import torch.nn.functional as F
from small_runs import SPEC, StopAt, Stopped, assert_same_weights, go
from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.rundir import CHECKPOINT, RunDir
from ndtool.training import checkpoint
from ndtool.training.gradients import add_gradients, project_gradients
from ndtool.training.images.augment import Normalizer
from ndtool.training.images.batches import to_device
from ndtool.training.loop import accuracy, average_student
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.losses import divergence
from ndtool.training.recipes.method import Targets
from ndtool.training.schedule import Moment
from ndtool.training.seeds import Use, generator
from ndtool.training.step import train_step
from ndtool.training.supernet import Supernet, Width
from ndtool.types import Precision, Recipe, StudentLoss

LR = 0.1
START = Moment(0, 10)


def make(options: TrainOptions, seed: int = 0) -> Supernet:
    method = METHODS[options.recipe](options, SPEC.classes)
    return Supernet(SPEC, rates=method.rates, generator=torch.Generator().manual_seed(seed))


def batch(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    x = torch.rand(count, SPEC.height_px, SPEC.width_px, SPEC.in_channels, generator=gen)
    return x.permute(0, 3, 1, 2), torch.randint(0, SPEC.classes, (count,), generator=gen)


def step(net: Supernet, options: TrainOptions, x: Tensor, y: Tensor) -> dict[str, float]:
    method = METHODS[options.recipe](options, SPEC.classes)
    figures, applied = train_step(net, method, x, Targets(y), moment=START, lr=LR, options=options)
    assert bool(applied)
    return {name: float(value) for name, value in figures.items()}


# -- accumulation -------------------------------------------------------------------------------


def test_parts_of_a_batch_give_the_mean_of_their_gradients_and_one_projection() -> None:
    options = nets.options(accumulate=4, momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    x, y = batch(16)
    net = make(options)
    figures = step(net, options, x, y)
    # The same by hand: sums of both networks' gradients over the parts, then surgery once.
    slow = make(options)
    slow.zero_grad()
    losses = []
    for part in range(4):
        rows = slice(4 * part, 4 * part + 4)
        z_t = slow.widths[0](x[rows], training=True)
        loss = F.cross_entropy(z_t, y[rows], label_smoothing=options.label_smoothing)
        losses.append(float(loss.detach()))
        torch.autograd.backward(loss / 4)
        z_s = slow.student(x[rows], training=True)  # ud: unsure everywhere at the first step
        torch.autograd.backward(divergence(z_s, z_t.detach()).mean() / 4)
    assert slow.student.slice is not None
    project_gradients(slow.grad, slow.student.slice)
    assert torch.equal(net.grad, slow.grad)
    assert torch.equal(net.statistics, slow.statistics)
    assert figures["teacher_loss"] == pytest.approx(sum(losses) / 4)
    assert figures["kl_share"] == 1.0


def test_parts_change_the_batch_norm_alone(tmp_path: Path) -> None:
    """Statistics of 4 images instead of 8: other weights, but it learns as well."""
    data, options = nets.split_of(SPEC, 90), nets.options(epochs=15, recipe=Recipe.PLAIN)
    whole = go(tmp_path / "whole", options, train_split=data)
    parts = go(tmp_path / "parts", replace(options, accumulate=2), train_split=data)
    first, second = (checkpoint.load(RunDir(tmp_path / n) / CHECKPOINT) for n in ("whole", "parts"))
    assert not torch.equal(first.theta, second.theta)
    assert first.step == second.step
    assert min(whole.best_val_accuracy, parts.best_val_accuracy) >= 0.8


# -- the averaged student -----------------------------------------------------------------------


def test_average_is_the_recursion_with_a_rising_decay() -> None:
    net = make(nets.options())
    ema = Supernet(SPEC, rates=(), generator=torch.Generator().manual_seed(3))
    slow = {name: t.double() for name, t in ema.student_tensors().items()}
    for number in range(30):
        net.theta.add_(
            torch.randn(net.layout.size, generator=torch.Generator().manual_seed(number))
        )
        net.statistics.mul_(1.1)
        average_student(ema, net, decay=0.6, step=number)
        decay = min(0.6, (1 + number) / (10 + number))
        for name, tensor in net.student_tensors().items():
            slow[name] = decay * slow[name] + (1 - decay) * tensor.double()
    for name, tensor in ema.student_tensors().items():
        assert torch.allclose(tensor.double(), slow[name], rtol=1e-4, atol=1e-4), name


def test_a_run_keeps_the_average_of_its_steps(tmp_path: Path) -> None:
    """One step an epoch, so that runs stopped after each give every step's weights."""
    options = nets.options(recipe=Recipe.PLAIN, epochs=4, ema=0.2, lr=0.5, batch_size=30)
    net = Supernet(SPEC, rates=(), generator=generator(options.seed, Use.INIT))
    theta, statistics = net.theta.clone(), net.statistics.clone()
    for number in range(4):
        path = tmp_path / str(number)
        if number < 3:
            with pytest.raises(Stopped):  # in the step after, whose epoch is not kept
                go(path, options, progress=StopAt(number + 2))
        else:
            go(path, options)
        found = checkpoint.load(RunDir(path) / CHECKPOINT)
        assert found.step == number + 1 and found.ema is not None
        weight = 1 - min(0.2, (1 + number) / (10 + number))
        theta.lerp_(found.theta, weight)
        statistics.lerp_(found.statistics, weight)
        assert torch.equal(found.ema[0], theta)
        assert torch.equal(found.ema[1], statistics)


def test_the_average_is_what_is_evaluated(tmp_path: Path) -> None:
    val = nets.split_of(SPEC, 300, seed=1)
    go(tmp_path, nets.options(epochs=8, ema=0.97, lr=0.3, recipe=Recipe.PLAIN), val_split=val)
    found = checkpoint.load(RunDir(tmp_path) / CHECKPOINT)
    images, normalize = to_device(val, "cpu"), Normalizer(nets.contract_of(SPEC))
    average = found.averaged()
    assert average is not None
    scores = [accuracy(net.student, images, normalize) for net in (average, found.supernet())]
    assert found.history[-1]["val_accuracy"] == scores[0] != scores[1]


@pytest.mark.parametrize("recipe", [Recipe.PLAIN, Recipe.NETDISTILLER])
def test_the_average_is_what_a_run_keeps_and_resumes(tmp_path: Path, recipe: Recipe) -> None:
    options = nets.options(epochs=4, ema=0.9, recipe=recipe)
    go(tmp_path / "whole", options)
    with pytest.raises(Stopped):
        go(tmp_path / "broken", options, progress=StopAt(7))
    go(tmp_path / "broken", options, resume=True)
    assert_same_weights(tmp_path / "whole", tmp_path / "broken")
    found, again = (checkpoint.load(RunDir(tmp_path / n) / CHECKPOINT) for n in ("whole", "broken"))
    assert found.ema is not None
    assert again.ema is not None
    assert all(torch.equal(a, b) for a, b in zip(found.ema, again.ema, strict=True))
    kept, live = found.student_of().student_tensors(), found.supernet().student_tensors()
    assert any(not torch.equal(kept[name], live[name]) for name in kept)
    # The average does not change what is trained.
    go(tmp_path / "none", replace(options, ema=0.0))
    bare = checkpoint.load(RunDir(tmp_path / "none") / CHECKPOINT)
    assert torch.equal(bare.theta, found.theta)
    assert [r["grad_norm"] for r in bare.history] == [r["grad_norm"] for r in found.history]


# -- precision ----------------------------------------------------------------------------------


def test_bf16_rounds_the_passes_and_keeps_weights_in_fp32() -> None:
    x, y = batch(16)
    nets_ = []
    for precision in Precision:
        options = nets.options(precision=precision, clip_norm=0.0)
        net = make(options)
        figures = step(net, options, x, y)
        nets_.append(net)
    fine, coarse = nets_
    loss = torch.tensor(figures["teacher_loss"])
    assert loss.bfloat16() != loss  # losses in fp32: more digits than bf16 has
    assert coarse.theta.dtype is coarse.grad.dtype is coarse.statistics.dtype is torch.float32
    difference = (fine.grad - coarse.grad).norm() / fine.grad.norm()
    assert 1e-3 < difference < 0.2
    assert not torch.equal(coarse.theta, coarse.theta.bfloat16().float())


def test_a_bf16_run_learns(tmp_path: Path) -> None:
    options = nets.options(epochs=15, precision=Precision.BF16)
    result = go(tmp_path, options, train_split=nets.split_of(SPEC, 90))
    assert result.best_val_accuracy >= 0.9


# -- several widths -----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", list(StudentLoss))
def test_each_network_learns_from_the_next_wider_one(loss: StudentLoss) -> None:
    options = nets.options(
        expand=(2, 4), student_loss=loss, momentum=0.0, weight_decay=0.0, clip_norm=0.0
    )
    x, y = batch(16)
    net = make(options)
    assert [width.rate for width in net.widths] == [4, 2, 1]
    figures = step(net, options, x, y)
    slow = make(options)
    slow.zero_grad()
    logits = [width(x, training=True) for width in slow.widths]
    hard = [F.cross_entropy(z, y, label_smoothing=options.label_smoothing) for z in logits]
    soft = [divergence(narrow, wide.detach()).mean() for wide, narrow in itertools.pairwise(logits)]
    losses = [hard[0]]
    for number in (1, 2):
        match loss:
            case StudentLoss.UD | StudentLoss.KL:  # unsure everywhere at the first step
                losses.append(soft[number - 1])
            case StudentLoss.MIX:
                losses.append(soft[number - 1] + hard[number])
            case StudentLoss.CE:
                losses.append(hard[number])
    torch.autograd.backward(losses)
    # One-sided surgery by hand: the sum of the wider gradients gives way to the narrower one.
    shared = slow.layout.shared
    own = [{name: _gradient(width, name) for name in shared} for width in slow.widths]
    joined, *narrower = own
    for mine in narrower:
        for layer in {name.rpartition(".")[0] for name in shared}:
            names = [name for name in shared if name.rpartition(".")[0] == layer]
            wide = {n: joined[n][tuple(slice(size) for size in mine[n].shape)] for n in names}
            product = sum(float((wide[n] * mine[n]).sum()) for n in names)
            square = sum(float(mine[n].square().sum()) for n in names)
            c = min(0.0, product / square)
            for n in names:
                wide[n] += (1 - c) * mine[n]  # a view of `joined`
    for name in shared:
        made = _gradient(net.widths[0], name)
        assert torch.allclose(made, joined[name], rtol=1e-4, atol=1e-6), name
    names = ("teacher_loss", "assistant_loss", "student_loss")
    for name, value in zip(names, losses, strict=True):
        assert figures[name] == pytest.approx(float(value.detach()), rel=1e-5)


def _gradient(width: Width, name: str) -> Tensor:
    found = width.tensors[name].grad
    assert found is not None
    return found.clone()


def test_one_buffer_holds_every_gradient() -> None:
    net = make(nets.options(expand=(2, 4)))
    x, y = batch(8)
    for width in net.widths:
        torch.autograd.backward(F.cross_entropy(width(x, training=True), y))
    parts = [net.grad, *(width.slice.grad for width in net.widths if width.slice is not None)]
    assert all(part.any() for part in parts)
    sizes = sum(part.numel() for part in parts)
    assert torch.equal(torch.cat(parts), net.gradients[:sizes])
    net.zero_grad()
    assert not any(part.any() for part in parts)
    assert net.student.slice is not None
    add_gradients(net.grad, net.student.slice)
    assert not net.grad.any()


def test_a_run_with_an_assistant_learns_and_is_kept(tmp_path: Path) -> None:
    options = nets.options(epochs=15, expand=(3, 2))
    result = go(tmp_path, options, train_split=nets.split_of(SPEC, 90))
    assert result.best_val_accuracy >= 0.9
    found = checkpoint.load(RunDir(tmp_path) / CHECKPOINT)
    assert found.identity.rates == (3, 2)
    assert all(row["assistant_loss"] is not None for row in found.history)
