"""Distillation from outside: losses against slow formulas, gradients, and whole runs."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nets
import pytest
import teachers
import torch
from small_runs import SPEC, Silent, StopAt, Stopped, go
from torch import Tensor

from ndtool.options import TrainOptions
from ndtool.rundir import BEST, CHECKPOINT, RunDir
from ndtool.training import checkpoint
from ndtool.training.checkpoint import Checkpoint
from ndtool.training.loop import TIME_COLUMNS
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.method import Targets
from ndtool.training.schedule import Moment
from ndtool.training.train import train
from ndtool.types import Recipe, StudentLoss

CONTRACT = nets.contract_of(SPEC)
START = Moment(0, 10)


def values(rows: int = 5, *, seed: int) -> Tensor:
    """Logits (N, K)."""
    return 2 * torch.randn(rows, nets.CLASSES, generator=torch.Generator().manual_seed(seed))


def shares(row: Sequence[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(z / temperature) for z in row]
    return [p / sum(powers) for p in powers]


def slow_labels(logits: Tensor, labels: Tensor, smoothing: float) -> list[float]:
    """-<q, log softmax z> of each sample, q = (1 - eps) onehot + eps / K."""
    found = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        s = shares(row)
        q = [smoothing / len(s) + (1 - smoothing) * (k == label) for k in range(len(s))]
        found.append(-sum(a * math.log(b) for a, b in zip(q, s, strict=True)))
    return found


def slow_divergence(logits: Tensor, teacher: Tensor, temperature: float) -> list[float]:
    """T^2 sum_k p_k (log p_k - log s_k) of each sample."""
    found = []
    for row, soft in zip(logits.tolist(), teacher.tolist(), strict=True):
        p, s = shares(soft, temperature), shares(row, temperature)
        kl = sum(a * math.log(a / b) for a, b in zip(p, s, strict=True))
        found.append(temperature**2 * kl)
    return found


def mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)


def losses(options: TrainOptions, outer: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(logits, loss) of each pass of a step, on made logits, widest network first."""
    method = METHODS[options.recipe](options, nets.CLASSES)
    assert method.external
    net = teachers.network(SPEC, rates=method.rates)
    labels = torch.tensor([0, 1, 2, 0, 1])
    found: list[tuple[Tensor, Tensor]] = []
    for place, one in enumerate(method.passes(net, START)):
        logits = values(seed=place + 1).requires_grad_()
        earlier = [done.detach() for done, _ in found]
        loss, figures = one.loss(logits, Targets(labels, outer), earlier)
        assert set(figures) <= set(method.means)
        found.append((logits, loss))
    return found


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_loss_is_the_formula(weight: float, temperature: float) -> None:
    options = nets.options(
        recipe=Recipe.KD, teacher="onnx:t", kd_weight=weight, temperature=temperature
    )
    outer = values(seed=0)
    ((logits, loss),) = losses(options, outer)
    hard = mean(slow_labels(logits, torch.tensor([0, 1, 2, 0, 1]), options.label_smoothing))
    soft = mean(slow_divergence(logits, outer, temperature))
    assert loss.detach().item() == pytest.approx((1 - weight) * hard + weight * soft, rel=1e-5)


def test_the_gradient_is_that_of_soft_cross_entropy() -> None:
    """At weight 1 and temperature 1: (s - p) / N (training-methods, 1.2)."""
    options = nets.options(recipe=Recipe.KD, teacher="onnx:t", kd_weight=1.0, temperature=1.0)
    outer = values(seed=0)
    ((logits, loss),) = losses(options, outer)
    torch.autograd.backward(loss)
    expected = (logits.softmax(1) - outer.softmax(1)) / len(outer)
    torch.testing.assert_close(logits.grad, expected.detach(), rtol=1e-5, atol=1e-7)


def test_temperature_leaves_the_size_of_the_gradient() -> None:
    """For large T it tends to that of the squared distance of the centred logits over K."""
    outer = values(seed=0)
    options = nets.options(recipe=Recipe.KD, teacher="onnx:t", kd_weight=1.0, temperature=100.0)
    ((logits, loss),) = losses(options, outer)
    torch.autograd.backward(loss)
    difference = logits.detach() - outer
    centred = difference - difference.mean(1, keepdim=True)
    expected = centred / (nets.CLASSES * len(outer))
    torch.testing.assert_close(
        logits.grad, expected, rtol=0, atol=0.02 * expected.abs().max().item()
    )


@pytest.mark.parametrize("student_loss", list(StudentLoss))
@pytest.mark.parametrize("expand", [(2,), (2, 3)])
def test_every_network_of_netdistiller_also_learns_from_outside(
    student_loss: StudentLoss, expand: tuple[int, ...]
) -> None:
    """L_t = CE + KL(ext || t), L_s = own loss + KL(ext || s) (training-methods, section 4)."""
    outer, labels = values(seed=0), torch.tensor([0, 1, 2, 0, 1])
    options = nets.options(
        recipe=Recipe.NETDISTILLER,
        student_loss=student_loss,
        expand=expand,
        teacher="onnx:t",
        temperature=3.0,
    )
    threshold = options.uncertainty * math.log(nets.CLASSES)
    wider = None
    found = losses(options, outer)
    assert len(found) == len(expand) + 1
    for logits, loss in found:
        hard = slow_labels(logits, labels, options.label_smoothing)
        if wider is None or student_loss is StudentLoss.CE:
            own = mean(hard)
        else:
            soft = slow_divergence(logits, wider, 1.0)
            unsure = [
                -sum(s * math.log(s) for s in shares(row)) > threshold for row in logits.tolist()
            ]
            own = {
                StudentLoss.KL: mean(soft),
                StudentLoss.MIX: mean(soft) + mean(hard),
                StudentLoss.UD: mean(
                    [a if u else b for u, a, b in zip(unsure, soft, hard, strict=True)]
                ),
            }[student_loss]
        outside = mean(slow_divergence(logits, outer, 3.0))
        assert loss.detach().item() == pytest.approx(own + outside, rel=1e-5)
        wider = logits


def test_without_a_teacher_netdistiller_has_no_such_term() -> None:
    method = METHODS[Recipe.NETDISTILLER](nets.options(), nets.CLASSES)
    assert not method.external


# Runs


def ended(path: Path, name: str = CHECKPOINT) -> Checkpoint:
    return checkpoint.load(RunDir(path) / name)


def teacher_in(folder: Path, *, seed: int = 5) -> str:
    net = teachers.network(nets.ds_spec(size_px=16), seed=seed)
    theirs = nets.contract_of(nets.ds_spec(size_px=16))
    return f"checkpoint:{teachers.save_checkpoint(folder / 'teacher.pt', net, theirs)}"


def test_at_weight_0_it_is_plain_training_to_the_bit(tmp_path: Path) -> None:
    kd = nets.options(recipe=Recipe.KD, teacher=teacher_in(tmp_path), kd_weight=0.0)
    go(tmp_path / "kd", kd)
    go(tmp_path / "plain", nets.options(recipe=Recipe.PLAIN))
    one, other = ended(tmp_path / "kd"), ended(tmp_path / "plain")
    for key in ("theta", "momentum", "statistics"):
        assert torch.equal(getattr(one, key), getattr(other, key)), key
    go(tmp_path / "kd2", replace(kd, kd_weight=0.5))
    assert not torch.equal(ended(tmp_path / "kd2").theta, one.theta)


@pytest.mark.parametrize("recipe", [Recipe.KD, Recipe.NETDISTILLER])
@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, recipe: Recipe, kind: str
) -> None:
    if kind == "checkpoint":
        text = teacher_in(tmp_path)
    else:
        net = teachers.network(SPEC, seed=5)
        text = f"onnx:{teachers.save_onnx(tmp_path / 'teacher.onnx', net)}"
    options = nets.options(recipe=recipe, teacher=text, epochs=4)
    go(tmp_path / "whole", options)
    with pytest.raises(Stopped):
        go(tmp_path / "broken", options, progress=StopAt(8))  # 3 steps an epoch
    assert go(tmp_path / "broken", options, resume=True).resumed_from == 2
    for name in (CHECKPOINT, BEST):
        one, other = ended(tmp_path / "whole", name), ended(tmp_path / "broken", name)
        for key in ("theta", "momentum", "statistics"):
            assert torch.equal(getattr(one, key), getattr(other, key)), (name, key)
        histories = [
            [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in each.history]
            for each in (one, other)
        ]
        assert histories[0] == histories[1]


def test_parts_of_a_batch_get_their_own_soft_labels() -> None:
    outer = values(seed=0)
    part = Targets(torch.arange(5), outer).part(slice(2, 4))
    assert part.external is not None
    assert torch.equal(part.external, outer[2:4]) and part.labels.tolist() == [2, 3]


@pytest.mark.slow
def test_a_student_learns_from_soft_labels_alone(tmp_path: Path) -> None:
    """The teacher learns the task, then the student with no label at all; chance is .33."""
    wide = nets.options(recipe=Recipe.PLAIN, epochs=15)
    data = {"train": nets.split_of(SPEC, 90), "val": nets.split_of(SPEC, 12, seed=1)}
    common = {"spec": SPEC, "contract": CONTRACT, "resume": False, "progress": Silent()}
    train(wide, RunDir(tmp_path / "teacher"), **data, **common)  # type: ignore[arg-type]
    wrong = nets.split_of(SPEC, 90)
    wrong.labels[:] = (wrong.labels + 1) % SPEC.classes  # labels that would mislead it
    options = nets.options(
        recipe=Recipe.KD,
        teacher=f"checkpoint:{tmp_path / 'teacher'}",
        kd_weight=1.0,
        epochs=15,
        seed=1,
    )
    data["train"] = wrong
    result = train(options, RunDir(tmp_path / "student"), **data, **common)  # type: ignore[arg-type]
    assert result.best_val_accuracy >= 0.9
