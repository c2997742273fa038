"""One step against the same mathematics written slowly, and the closed forms behind it."""

import math

import nets
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ndtool.arch import ArchSpec, lower
from ndtool.options import TrainOptions
from ndtool.training.build import bind, forward
from ndtool.training.gradients import add_gradients, project_gradients
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.losses import divergence, entropy
from ndtool.training.recipes.method import Targets
from ndtool.training.recipes.netdistiller import uncertainty_threshold
from ndtool.training.schedule import Moment
from ndtool.training.step import Guard, train_step
from ndtool.training.supernet import SharedSlice, Supernet, Width
from ndtool.types import Recipe, StudentLoss

MAX_SKIPPED = 20
STEP = 2e-6  # float32, another order of summation
LR = 0.1
START = Moment(0, 10)
SPECS = [pytest.param(nets.ds_spec(), id="ds"), pytest.param(nets.se_spec(), id="se")]
RECIPES = [
    pytest.param({"recipe": Recipe.PLAIN}, id="plain"),
    *(
        pytest.param({"student_loss": loss, "surgery": surgery}, id=f"{loss.value}-{surgery}")
        for loss in StudentLoss
        for surgery in (True, False)
    ),
]
TAUGHT = [Recipe.PLAIN, Recipe.NETAUG, Recipe.NETDISTILLER]  # those without an outer teacher
Named = dict[str, Tensor]


def make(spec: ArchSpec, options: TrainOptions, seed: int = 0) -> Supernet:
    method = METHODS[options.recipe](options, spec.classes)
    gen = torch.Generator().manual_seed(seed)
    return Supernet(spec, rates=method.rates, augmented=method.augmented, generator=gen)


def batch(spec: ArchSpec, count: int, seed: int) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    x = torch.rand(count, spec.height_px, spec.width_px, spec.in_channels, generator=gen)
    return x.permute(0, 3, 1, 2), torch.randint(0, spec.classes, (count,), generator=gen)


def step(net: Supernet, options: TrainOptions, x: Tensor, y: Tensor) -> dict[str, float]:
    method = METHODS[options.recipe](options, net.student.spec.classes)
    figures, applied = train_step(net, method, x, Targets(y), moment=START, lr=LR, options=options)
    assert applied.dim() == 0
    return {name: float(value) for name, value in figures.items()}


# -- the slow step: padded gradients, Python ifs, one tensor after the other ---------------------


def copies(width: Width) -> Named:
    grad = {n: not n.endswith(("running_mean", "running_var")) for n in width.tensors}
    return {
        n: t.detach().clone().contiguous().requires_grad_(grad[n]) for n, t in width.tensors.items()
    }


def run(width: Width, tensors: Named, x: Tensor) -> Tensor:
    bound = bind(lower(width.spec), tensors)
    return forward(x, bound, eps=width.spec.bn_eps, training=True)


def slow_student_loss(z: Tensor, teacher: Tensor, y: Tensor, options: TrainOptions) -> Tensor:
    log_s, p = z.log_softmax(1), teacher.softmax(1)
    classes = z.shape[1]
    terms = []
    for i in range(len(y)):
        kl = sum(p[i, k] * (p[i, k].log() - log_s[i, k]) for k in range(classes))
        h = -sum((log_s[i, k].exp() * log_s[i, k]).item() for k in range(classes))
        smooth = options.label_smoothing
        q = [smooth / classes + (1 - smooth) * (k == y[i].item()) for k in range(classes)]
        ce = -sum(q[k] * log_s[i, k] for k in range(classes))
        unsure = h > options.uncertainty * math.log(classes)
        match options.student_loss:
            case StudentLoss.UD:
                terms.append(kl if unsure else ce)
            case StudentLoss.KL:
                terms.append(kl)
            case StudentLoss.MIX:
                terms.append(kl + ce)
            case StudentLoss.CE:
                terms.append(ce)
    return torch.stack(terms).mean()  # type: ignore[arg-type]


def slow_step(
    net: Supernet, options: TrainOptions, x: Tensor, y: Tensor, momentum: Named
) -> tuple[Named, Named]:
    """(new tensors, new momentum): shared ones by name, batch norms by `rate:name`."""
    widest, student = net.widths[0], net.widths[-1]
    shared = copies(widest)
    grads: Named = {}
    z = run(widest, shared, x)
    F.cross_entropy(z, y, label_smoothing=options.label_smoothing).backward()  # type: ignore[no-untyped-call]
    for name, tensor in shared.items():
        if tensor.grad is not None:
            grads[f"{widest.rate}:{name}" if ".bn." in name else name] = tensor.grad
            tensor.grad = None
    values = {f"{widest.rate}:{n}" if ".bn." in n else n: t for n, t in shared.items()}
    if student is not widest:
        own = copies(student)
        cut = {
            n: own[n] if ".bn." in n else shared[n][tuple(slice(0, k) for k in own[n].shape)]
            for n in own
        }
        slow_student_loss(run(student, cut, x), z.detach(), y, options).backward()  # type: ignore[no-untyped-call]
        for layer in lower(student.spec):
            names = [f"{layer.name}.{p}" for p in ("weight", "bias") if f"{layer.name}.{p}" in cut]
            pairs = [(grads[n], shared[n].grad) for n in names]
            g_t = torch.cat([a.flatten() for a, _ in pairs]) if pairs else torch.zeros(1)
            g_s = torch.cat([b.flatten() for _, b in pairs if b is not None] or [torch.zeros(1)])
            if options.surgery and (g_t @ g_s).item() < 0:
                g_t = g_t - (g_t @ g_s) / (g_s @ g_s) * g_s
                assert abs((g_t @ g_s).item()) <= 1e-4 * (g_s @ g_s).item()
            sizes = [grads[n].numel() for n in names]
            parts = torch.split(g_t + g_s, sizes) if names else ()
            for name, part in zip(names, parts, strict=True):
                grads[name] = part.view_as(grads[name])
        for name, tensor in own.items():
            if ".bn." in name and tensor.grad is not None:
                grads[f"1:{name}"], values[f"1:{name}"] = tensor.grad, tensor
    norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in grads.values()))
    scale = min(1.0, options.clip_norm / (norm + 1e-6)) if options.clip_norm else 1.0
    new, kept = {}, {}
    for name, grad in grads.items():
        decay = options.weight_decay if name.endswith(".weight") and ".bn." not in name else 0.0
        theta = values[name].detach()
        g = grad * scale + decay * theta
        v = options.momentum * momentum.get(name, torch.zeros_like(g)) + g
        new[name], kept[name] = theta - LR * (g + options.momentum * v), v
    return new, kept


def named(net: Supernet, flat: Tensor) -> Named:
    """Parameters of a flat buffer under the names of `slow_step`."""
    views = {name: field.view(flat) for name, field in net.layout.shared.items()}
    for rate, norms in zip(net.layout.rates, net.layout.norms, strict=True):
        views |= {f"{rate}:{name}": field.view(flat) for name, field in norms.items()}
    return views


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("changes", RECIPES)
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_step_equals_the_slow_one(spec: ArchSpec, changes: dict[str, object], clip: float) -> None:
    middle = {"ds-cnn": 0.8, "se": 0.992}[spec.model]  # of this batch's entropies over ln K
    options = nets.options(clip_norm=clip, weight_decay=1e-2, uncertainty=middle, **changes)
    net = make(spec, options)
    for field in net.layout.shared.values():
        if len(field.shape) == 2:
            field.view(net.theta).mul_(30)  # linear weights start small; entropies must differ
    for seed in range(3):  # some momentum and statistics to start from
        step(net, options, *batch(spec, 16, seed))
    x, y = batch(spec, 16, 9)
    momentum = {name: t.clone() for name, t in named(net, net.momentum).items()}
    expected, kept = slow_step(net, options, x, y, momentum)
    figures = step(net, options, x, y)
    got = named(net, net.theta)
    assert set(got) == set(expected)
    assert max((got[n] - expected[n]).abs().max().item() for n in got) < STEP
    got = named(net, net.momentum)
    assert max((got[n] - kept[n]).abs().max().item() for n in got) < 2 * STEP
    assert figures["clipped_share"] == (1.0 if clip else 0.0)
    if changes.get("student_loss") is StudentLoss.UD:
        assert 0 < figures["kl_share"] < 1  # both branches were taken


def test_some_layers_conflict_and_some_do_not() -> None:
    options = nets.options()
    net = make(nets.se_spec(), options)
    rates = [step(net, options, *batch(nets.se_spec(), 16, k))["conflict_rate"] for k in range(4)]
    assert 0 < min(rates) < 1


# -- closed forms -------------------------------------------------------------------------------


def test_gradient_of_the_divergence_is_s_minus_p() -> None:
    gen = torch.Generator().manual_seed(0)
    z, teacher = (3 * torch.randn(5, 4, generator=gen) for _ in range(2))
    z.requires_grad_()
    (grad,) = torch.autograd.grad(divergence(z, teacher).mean(), z)
    assert torch.allclose(grad, (z.softmax(1) - teacher.softmax(1)) / 5, atol=1e-7)


def test_divergence_and_entropy_of_extreme_logits_are_finite() -> None:
    z = torch.tensor([[500.0, -500.0], [0.0, 0.0]])
    assert torch.allclose(entropy(z), torch.tensor([0.0, math.log(2)]))
    assert torch.equal(divergence(z, z), torch.zeros(2))
    assert divergence(z.flip(1), z)[0] == 1000.0


def test_threshold_is_a_share_of_ln_k() -> None:
    assert uncertainty_threshold(0.54, 10) == pytest.approx(1.2434, abs=1e-4)
    assert uncertainty_threshold(0.543, 1000) == pytest.approx(3.75, abs=0.01)


def test_uncertain_samples_alone_learn_from_the_teacher() -> None:
    options = nets.options(label_smoothing=0.0)
    spec = nets.ds_spec()
    method = METHODS[Recipe.NETDISTILLER](options, 3)
    student = method.passes(make(spec, options), START)[1].loss
    z = torch.tensor([[0.0, 0.0, 0.0], [20.0, 0.0, 0.0]], requires_grad=True)  # unsure, sure
    teacher = torch.tensor([[0.0, 5.0, 0.0], [0.0, 5.0, 0.0]])
    value, figures = student(z, Targets(torch.tensor([2, 0])), [teacher])
    assert figures["kl_share"] == 0.5
    expected = divergence(z.detach(), teacher)[0] / 2  # the sure sample has no loss left
    assert float(value.detach()) == pytest.approx(float(expected), abs=1e-6)


def flat_pair(sizes: list[int], seed: int) -> tuple[Tensor, SharedSlice]:
    gen = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    index = torch.randperm(2 * count, generator=gen)[:count]
    layer_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    narrow = SharedSlice(
        grad=torch.randn(count, generator=gen), index=index, layer_of=layer_of, sizes=tuple(sizes)
    )
    return torch.randn(2 * count, generator=gen), narrow


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 1000))
def test_projected_gradient_is_orthogonal_where_it_conflicted(sizes: list[int], seed: int) -> None:
    grad, narrow = flat_pair(sizes, seed)
    before = grad.clone()
    figures = project_gradients(grad, narrow)
    outside = torch.ones(len(grad), dtype=torch.bool)
    outside[narrow.index] = False
    assert torch.equal(grad[outside], before[outside])
    conflicts, largest = 0, 0.0
    for layer in range(len(sizes)):
        mine = narrow.layer_of == layer
        g_s, g_t = narrow.grad[mine], before[narrow.index][mine]
        projected = grad[narrow.index][mine] - g_s
        d, n = float(g_s @ g_t), float(g_s @ g_s)
        if d < 0:
            conflicts += 1
            largest = max(largest, -d / n)
            assert abs(float(projected @ g_s)) <= 1e-4 * n * max(1.0, -d / n)
        else:
            assert torch.allclose(projected, g_t, atol=1e-6)
    assert float(figures["conflict_rate"]) == pytest.approx(conflicts / len(sizes))
    assert float(figures["largest_c"]) == pytest.approx(largest, rel=1e-4, abs=1e-6)


def test_sum_without_surgery_and_a_layer_without_student_gradient() -> None:
    grad, narrow = flat_pair([4, 3], 0)
    before = grad.clone()
    expected = before[narrow.index] + narrow.grad
    add_gradients(grad, narrow)
    assert torch.equal(grad[narrow.index], expected)
    narrow.grad.zero_()
    grad.copy_(before)
    figures = project_gradients(grad, narrow)
    assert torch.equal(grad, before)
    assert float(figures["conflict_rate"]) == float(figures["largest_c"]) == 0.0


def test_teacher_gets_no_gradient_from_the_students_loss() -> None:
    spec = nets.se_spec()
    options = nets.options(momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    net = make(spec, options)
    x, y = batch(spec, 8, 0)
    step(net, options, x, y)  # with momentum and decay off, net.grad is the final gradient
    got = net.grad.clone()
    net = make(spec, options)
    net.zero_grad()
    loss = F.cross_entropy(net.widths[0](x, training=True), y, label_smoothing=0.1)
    torch.autograd.backward(loss)
    shared = net.student.slice
    assert shared is not None
    teacher_only = torch.ones(net.layout.size, dtype=torch.bool)
    teacher_only[shared.index] = False
    teacher_only[min(field.start for field in net.layout.norms[-1].values()) :] = False
    assert torch.equal(got[teacher_only], net.grad[teacher_only])
    assert not torch.equal(got, net.grad)


# -- what must never happen ---------------------------------------------------------------------


@pytest.mark.slow  # the first use of the meta device loads much of torch
@pytest.mark.parametrize("recipe", TAUGHT)
@pytest.mark.parametrize("loss", list(StudentLoss))
def test_step_never_reads_the_device(recipe: Recipe, loss: StudentLoss) -> None:
    """On the meta device there are no values: any read by the host would raise."""
    spec = nets.se_spec()
    options = nets.options(recipe=recipe, student_loss=loss)
    method = METHODS[recipe](options, spec.classes)
    net = Supernet(
        spec, rates=method.rates, augmented=method.augmented, generator=None, device="meta"
    )
    x = torch.empty(8, spec.in_channels, spec.height_px, spec.width_px, device="meta")
    y = torch.empty(8, dtype=torch.int64, device="meta")
    figures, applied = train_step(net, method, x, Targets(y), moment=START, lr=LR, options=options)
    assert applied.device.type == "meta"
    assert set(figures) == {*method.means, *method.peaks, "grad_norm", "clipped_share"}
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(applied)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("recipe", TAUGHT)
def test_step_with_non_finite_gradient_changes_nothing(bad: float, recipe: Recipe) -> None:
    spec = nets.ds_spec()
    options = nets.options(recipe=recipe)
    net = make(spec, options)
    for seed in range(2):
        step(net, options, *batch(spec, 8, seed))
    before = [t.clone() for t in (net.theta, net.momentum, net.statistics)]
    x, y = batch(spec, 8, 5)
    x = x.clone()
    x[3, 0, 2, 2] = bad
    method = METHODS[recipe](options, spec.classes)
    _, applied = train_step(net, method, x, Targets(y), moment=START, lr=LR, options=options)
    assert not applied
    after = (net.theta, net.momentum, net.statistics)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    x, y = batch(spec, 8, 6)
    _, applied = train_step(net, method, x, Targets(y), moment=START, lr=LR, options=options)
    assert applied


def test_guard_stops_a_row_of_skipped_steps_but_not_scattered_ones() -> None:
    yes, no = torch.tensor([True, False])
    guard = Guard(0, MAX_SKIPPED, "cpu")
    for _ in range(MAX_SKIPPED):
        for applied in (no, yes):
            guard.count(applied)
    assert guard.read(1) == (0, MAX_SKIPPED)
    guard = Guard(3, MAX_SKIPPED, "cpu")  # three already at the end of the epoch before
    for _ in range(MAX_SKIPPED - 4):
        guard.count(no)
    assert guard.read(1) == (MAX_SKIPPED - 1, MAX_SKIPPED - 4)
    guard.count(no)
    with pytest.raises(Exception, match="training diverged: 20 steps in a row") as caught:
        guard.read(7)
    assert getattr(caught.value, "exit_code", None) == 2
