"""Time of one NetDistiller step against the two plain passes alone; others beside it.

    OMP_NUM_THREADS=1 python benchmarks/train_step.py [--out benchmarks/results/train-step.json]
    python benchmarks/train_step.py --device cuda --out benchmarks/results/train-step-cuda.json

(a) two passes: forward and backward of teacher and student with cross-entropy and the plain flat
SGD update, nothing shared between the two. (b) naive: slices through autograd (zero-padded
gradients), a Python `if` per layer and per sample. (c) the other recipes' own steps: plain, netaug.
Interleaved; the median of paired ratios is what counts, since neighbours on the machine disturb
single figures. On a CPU process time of one thread, on a GPU wall time up to its end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ndtool.arch import ArchSpec, expand, lower
from ndtool.models import make_spec
from ndtool.options import TrainOptions
from ndtool.training.build import bind, forward
from ndtool.training.memory import kept_memory
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.method import Targets
from ndtool.training.recipes.netdistiller import uncertainty_threshold
from ndtool.training.schedule import Moment
from ndtool.training.step import train_step
from ndtool.training.supernet import Supernet
from ndtool.types import Recipe

LR = 0.05
SMOOTHING = 0.1
RUN_STEPS = 1_000_000  # the first half of a run is what netaug is dearest in
Step = Callable[[Tensor, Tensor], None]


def recipe_step(spec: ArchSpec, options: TrainOptions, device: torch.device) -> Step:
    """The product's step of the options' recipe, with its wider networks taking part."""
    method = METHODS[options.recipe](options, spec.classes)
    generator = torch.Generator().manual_seed(0)
    net = Supernet(
        spec,
        rates=method.rates,
        augmented=method.augmented,
        generator=generator,
        device=device,
    )
    numbers = itertools.count()  # netaug draws another network in each step

    def step(x: Tensor, y: Tensor) -> None:
        moment = Moment(next(numbers), RUN_STEPS)
        train_step(net, method, x, Targets(y), moment=moment, lr=LR, options=options)

    return step


def two_passes(spec: ArchSpec, options: TrainOptions, device: torch.device) -> Step:
    """Teacher and student as two unrelated nets, the least a step can do."""
    nets = [
        Supernet(s, rates=(), generator=torch.Generator().manual_seed(0), device=device)
        for s in (expand(spec, options.expand[0]), spec)
    ]

    def step(x: Tensor, y: Tensor) -> None:
        for net in nets:
            net.grad.zero_()
            logits = net.student(x, training=True)
            torch.autograd.backward(F.cross_entropy(logits, y, label_smoothing=SMOOTHING))
            with torch.no_grad():
                decayed = net.layout.decayed
                net.grad[:decayed].add_(net.theta[:decayed], alpha=options.weight_decay)
                net.momentum.mul_(options.momentum).add_(net.grad)
                net.theta.add_(net.grad.add_(net.momentum, alpha=options.momentum), alpha=-LR)

    return step


def naive(spec: ArchSpec, options: TrainOptions, device: torch.device) -> Step:
    """Slices through autograd, one host decision per layer and per sample."""
    generator = torch.Generator().manual_seed(0)
    net = Supernet(spec, rates=options.expand, generator=generator, device=device)
    assert net.teacher is not None
    wide = {n: t.detach().clone() for n, t in net.teacher.tensors.items()}
    own = {n: t.detach().clone() for n, t in net.student.tensors.items()}
    shared = [n for n in wide if ".bn." not in n]
    norms = [n for n in wide if n.endswith((".bn.weight", ".bn.bias"))]
    leaves = [wide[n] for n in shared + norms] + [own[n] for n in norms]
    velocity = [torch.zeros_like(t) for t in leaves]
    threshold = uncertainty_threshold(options.uncertainty, spec.classes)
    teacher_layers, student_layers = lower(expand(spec, options.expand[0])), lower(spec)

    def gradients(loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, leaves, materialize_grads=True))

    def step(x: Tensor, y: Tensor) -> None:
        for leaf in leaves:
            leaf.requires_grad_()
        zt = forward(x, bind(teacher_layers, wide), eps=spec.bn_eps, training=True)
        g_t = gradients(F.cross_entropy(zt, y, label_smoothing=SMOOTHING))
        cut = {n: wide[n][tuple(slice(0, k) for k in own[n].shape)] for n in shared}
        zs = forward(x, bind(student_layers, own | cut), eps=spec.bn_eps, training=True)
        p, q = zs.softmax(1), zt.detach().softmax(1)
        kl = (q * (q.log() - p.log())).sum(1)
        ce = F.cross_entropy(zs, y, label_smoothing=SMOOTHING, reduction="none")
        picked = []
        for i in range(len(y)):
            unsure = -(p[i] * p[i].log()).sum().item() > threshold
            picked.append(kl[i] if unsure else ce[i])
        g_s = gradients(torch.stack(picked).mean())
        with torch.no_grad():
            total = []
            for a, b in zip(g_t, g_s, strict=True):
                dot = (a * b).sum().item()
                if dot < 0:
                    a = a - dot / (b * b).sum().item() * b
                total.append(a + b)
            norm = torch.stack([g.norm() for g in total]).norm().item()
            scale = min(1.0, options.clip_norm / (norm + 1e-6))
            for leaf, v, g in zip(leaves, velocity, total, strict=True):
                g = g * scale
                if leaf.dim() > 1:
                    g = g + options.weight_decay * leaf
                v.mul_(options.momentum).add_(g)
                leaf.sub_(LR * (g + options.momentum * v))

    return step


def measure(
    steps: Mapping[str, Step], x: Tensor, y: Tensor, repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of each step, interleaved, after two warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    with kept_memory():  # as in training
        for round_ in range(repeats + 2):
            for name, step in steps.items():
                start = _now_s(x.device)
                step(x, y)
                if round_ >= 2:
                    times[name].append(1e3 * (_now_s(x.device) - start))
    return times


def _now_s(device: torch.device) -> float:
    """Process time; on a GPU the wall clock, once everything before has been done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def paired_ratio(times: list[float], base: list[float]) -> float:
    """Median of the ratios of figures that were measured one after the other."""
    return statistics.median(t / b for t, b in zip(times, base, strict=True))


def make_batch(spec: ArchSpec, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images (B, C, H, W) in the loop's memory format, and labels."""
    gen = torch.Generator().manual_seed(1)
    shape = (count, spec.height_px, spec.width_px, spec.in_channels)
    x = torch.rand(shape, generator=gen).permute(0, 3, 1, 2)
    y = torch.randint(0, spec.classes, (count,), generator=gen)
    return x.to(device), y.to(device)


def main() -> None:
    """Print the table and keep it with versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/train-step.json"))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    options = TrainOptions()
    cases = [
        ("ds-cnn 1.0, 32x32x1, 10 classes", "ds-cnn", 1.0, 1, 10),
        ("mbv2 .35, 32x32x3, 100 classes", "mbv2", 0.35, 3, 100),
    ]
    rows = []
    for title, model, width, channels, classes in cases:
        strides = (1, 2, 2, 2, 1, 1) if model == "mbv2" else None
        for batch in (16, 128):
            spec = make_spec(
                model,
                width=width,
                size_px=32,
                in_channels=channels,
                classes=classes,
                strides=strides,
            )
            x, y = make_batch(spec, batch, device)
            steps = {
                "two passes": two_passes(spec, options, device),
                "netdistiller": recipe_step(spec, options, device),
                "naive": naive(spec, options, device),
                "plain": recipe_step(spec, replace(options, recipe=Recipe.PLAIN), device),
                "netaug": recipe_step(spec, replace(options, recipe=Recipe.NETAUG), device),
            }
            repeats = arguments.repeats if model == "ds-cnn" else max(6, arguments.repeats // 3)
            times = measure(steps, x, y, repeats)
            ratios = {name: paired_ratio(times[name], times["two passes"]) for name in steps}
            rows.append(
                {
                    "net": title,
                    "batch": batch,
                    "median_ms": {n: round(statistics.median(t), 2) for n, t in times.items()},
                    "minimum_ms": {n: round(min(t), 2) for n, t in times.items()},
                    "median_paired_ratio": {n: round(r, 3) for n, r in ratios.items()},
                    "repeats": repeats,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    document = {"machine": machine(device) | {"seed": 1}, "rows": rows}
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")


def machine(device: torch.device) -> dict[str, str | int]:
    """What the figures of a training depend on besides its options."""
    found: dict[str, str | int] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
