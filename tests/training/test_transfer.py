"""Starting from a checkpoint, and freezing: what is taken over, what moves, what is refused."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest
import tiny_data
import torch
import torch.nn.functional as F
from command import ndtool_here
from small_runs import SPEC, Silent, StopAt, Stopped, assert_same_weights, go
from torch import Tensor

from ndtool import console
from ndtool.arch import Act, ArchSpec
from ndtool.contract import mean_std_normalize
from ndtool.data.types import Split
from ndtool.errors import ConfigError, InputError
from ndtool.identity import train_key
from ndtool.models import make_spec
from ndtool.options import TrainOptions
from ndtool.prepare import IMAGENET_MEAN, IMAGENET_STD, open_with_contract, prepare
from ndtool.rundir import BEST, CHECKPOINT, MANIFEST, RunDir
from ndtool.training import checkpoint, collectives
from ndtool.training import start as start_module
from ndtool.training.checkpoint import Checkpoint
from ndtool.training.checks import check_options
from ndtool.training.freeze import frozen_names, in_head
from ndtool.training.graphs import GraphedSteps
from ndtool.training.images.augment import Normalizer
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.method import Figures, Targets
from ndtool.training.schedule import Moment
from ndtool.training.step import train_step
from ndtool.training.supernet import Supernet
from ndtool.training.train import train
from ndtool.training.transfer import load_start, start_from
from ndtool.types import Freeze, Part, Recipe

Results = tuple[Figures, Tensor]
FIVE = nets.ds_spec(classes=5)
OTHER_LABELS = replace(nets.contract_of(SPEC), labels=("x", "y", "z"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain run over three classes."""
    path = tmp_path_factory.mktemp("plain")
    go(path, nets.options(recipe=Recipe.PLAIN, epochs=2))
    return path


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same student with a wider network of rate 3."""
    path = tmp_path_factory.mktemp("distilled")
    go(path, nets.options(epochs=2))
    return path


def fresh(spec: ArchSpec, rates: tuple[int, ...], seed: int = 7) -> Supernet:
    return Supernet(spec, rates=rates, generator=torch.Generator().manual_seed(seed))


def body(spec: ArchSpec) -> list[str]:
    return [name for name in fresh(spec, ()).student.tensors if not in_head(name)]


# --- what is taken over


@pytest.mark.parametrize("run", ["plain", "distilled"])
@pytest.mark.parametrize("rates", [(), (3,), (2,), (3, 2)])
@pytest.mark.parametrize("spec", [SPEC, FIVE, nets.ds_spec(size_px=12, classes=5)])
def test_the_student_is_taken_over_but_for_its_head(
    request: pytest.FixtureRequest, run: str, rates: tuple[int, ...], spec: ArchSpec
) -> None:
    found = checkpoint.load(request.getfixturevalue(run) / BEST)
    net, before = fresh(spec, rates), fresh(spec, rates)
    contract = OTHER_LABELS if spec is SPEC else nets.contract_of(spec)
    start_from(net, found, contract, name=run)
    learnt = found.student_of().student.tensors
    for name, tensor in net.student.tensors.items():
        expected = before.student.tensors if in_head(name) else learnt
        assert torch.equal(tensor, expected[name]), name
    assert not net.momentum.any()
    rest = torch.ones_like(net.theta, dtype=torch.bool)
    rest[net.student_index] = False
    if rates == found.identity.rates and rates:
        for mine, theirs in zip(net.widths, found.supernet().widths, strict=True):
            assert all(torch.equal(mine.tensors[n], theirs.tensors[n]) for n in body(spec))
    else:
        assert torch.equal(net.theta[rest], before.theta[rest])
        narrow = len(net.student_statistics)
        assert torch.equal(net.statistics[:-narrow], before.statistics[:-narrow])


def test_with_the_same_labels_the_function_is_taken_over(plain: Path) -> None:
    found = checkpoint.load(plain / BEST)
    images = torch.rand(4, 1, 8, 8)
    expected = found.student_of().student(images, training=False)
    for labels, same in ((("class 0", "class 1", "class 2"), True), (("x", "y", "z"), False)):
        net = fresh(SPEC, (2,))
        start_from(net, found, replace(nets.contract_of(SPEC), labels=labels), name="plain")
        assert torch.equal(net.student(images, training=False), expected) == same
    turned = replace(nets.contract_of(SPEC), labels=("class 1", "class 0", "class 2"))
    net = fresh(SPEC, ())
    start_from(net, found, turned, name="plain")
    assert not torch.equal(net.student(images, training=False), expected)


def test_the_averaged_student_is_the_one_taken_over(tmp_path: Path) -> None:
    go(tmp_path, nets.options(epochs=2, ema=0.9))
    found = checkpoint.load(tmp_path / BEST)
    average, last = found.averaged(), found.supernet()
    assert average is not None
    net = fresh(FIVE, (3,))
    start_from(net, found, nets.contract_of(FIVE), name="ema")
    taken = [net.student.tensors[name] for name in body(FIVE)]
    for source, same in ((average, True), (last, False)):
        pairs = zip(taken, (source.student.tensors[n] for n in body(FIVE)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == same


@pytest.mark.parametrize(
    ("spec", "rates", "words"),
    [
        (SPEC, (), ["47 of 47 tensors"]),
        (FIVE, (), ["45 of 47 tensors", "new head"]),
        (FIVE, (3,), ["45 of 47 tensors", "new head, with its wider networks"]),
        (nets.ds_spec(size_px=12), (), ["47 of 47", "trained at 8x8 pixels, this run is at 12x12"]),
    ],
)
def test_the_log_says_what_was_taken(
    distilled: Path,
    spec: ArchSpec,
    rates: tuple[int, ...],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.configure(quiet=False, verbose=False, as_json=False)
    found = load_start(str(distilled), spec, nets.contract_of(spec))
    start_from(fresh(spec, rates), found, nets.contract_of(spec), name=str(distilled))
    told = capsys.readouterr().err
    assert all(word in told for word in words), told
    assert ("new head" in told) == (spec is FIVE)
    assert str(distilled / BEST) in told


def test_other_strides_are_told(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = replace(SPEC, stem=replace(SPEC.stem, stride=3 - SPEC.stem.stride))
    console.configure(quiet=False, verbose=False, as_json=False)
    found = load_start(str(plain), spec, nets.contract_of(spec))
    start_from(fresh(spec, ()), found, nets.contract_of(spec), name=str(plain))
    assert "other strides" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", [Recipe.PLAIN, Recipe.NETDISTILLER, Recipe.NETAUG])
@pytest.mark.parametrize("run", ["plain", "distilled"])
def test_every_recipe_starts_from_every_recipe(
    tmp_path: Path, request: pytest.FixtureRequest, recipe: Recipe, run: str
) -> None:
    start = str(request.getfixturevalue(run))
    options = nets.options(recipe=recipe, init_from=start, epochs=1, lr=1e-12, weight_decay=0.0)
    go(tmp_path, options, spec=FIVE)
    made = checkpoint.load(tmp_path / CHECKPOINT).supernet().student.tensors
    learnt = checkpoint.load(Path(start) / BEST).student_of().student.tensors
    for name in body(FIVE):
        if "running" not in name:  # statistics follow the images at any rate
            assert torch.allclose(made[name], learnt[name], atol=1e-9), name


def test_the_wider_tensors_of_netaug_are_taken_over(tmp_path: Path) -> None:
    options = nets.options(recipe=Recipe.NETAUG, epochs=1)
    go(tmp_path / "first", options)
    found = checkpoint.load(tmp_path / "first" / BEST)
    net = found.supernet()
    net.theta.zero_()
    start_from(net, found, nets.contract_of(SPEC), name="first")
    assert torch.equal(net.theta, found.theta)


# --- freezing


def frozen_run(path: Path, start: Path, freeze: Freeze, **changes: object) -> Checkpoint:
    """A run over five classes from `start`; everything that could move what is frozen is on."""
    fixed: dict[str, object] = {
        "recipe": Recipe.PLAIN,
        "init_from": str(start),
        "freeze": freeze,
        "weight_decay": 0.1,
    }
    options = nets.options(**(fixed | changes))
    go(path, options, spec=FIVE, train_split=nets.split_of(FIVE, 50))
    return checkpoint.load(path / CHECKPOINT)


def assert_held(made: Checkpoint, start: Path, freeze: Freeze) -> None:
    """What `freeze` means is to the bit that of `start`; everything else has moved."""
    net = made.supernet()
    net.hold(frozen_names(freeze, made.identity.spec))
    assert net.held is not None
    assert not net.momentum[net.held].any() and net.momentum[~net.held].any()
    learnt = checkpoint.load(start / BEST).student_of().student.tensors
    for name in body(made.identity.spec):
        is_norm = ".bn." in name
        kept = freeze is Freeze.BACKBONE or is_norm
        assert torch.equal(net.student.tensors[name], learnt[name]) == kept, name


@pytest.mark.parametrize("freeze", [Freeze.BACKBONE, Freeze.NORMS])
@pytest.mark.parametrize(
    "changes", [{}, {"accumulate": 2, "ema": 0.5}, {"precision": "bf16"}, {"clip_norm": 0.0}]
)
def test_what_is_frozen_keeps_its_bits_and_the_rest_learns(
    tmp_path: Path, plain: Path, freeze: Freeze, changes: dict[str, object]
) -> None:
    made = frozen_run(tmp_path, plain, freeze, epochs=4, **changes)
    assert_held(made, plain, freeze)
    losses = [row["student_loss"] or 9.0 for row in made.history]
    assert losses[-1] < losses[0]
    head = fresh(FIVE, ()).student.tensors["classifier.weight"]
    assert not torch.equal(made.student_of().student.tensors["classifier.weight"], head)
    if made.ema is not None:
        average = made.averaged()
        assert average is not None
        held = frozen_names(freeze, FIVE)
        raw = made.supernet().student.tensors
        assert all(torch.equal(average.student.tensors[n], raw[n]) for n in held)


def test_kd_with_a_frozen_backbone(tmp_path: Path, plain: Path) -> None:
    go(tmp_path / "teacher", nets.options(recipe=Recipe.PLAIN, epochs=2), spec=FIVE)
    changes = {"recipe": Recipe.KD, "teacher": f"checkpoint:{tmp_path / 'teacher'}"}
    made = frozen_run(tmp_path / "run", plain, Freeze.BACKBONE, epochs=3, **changes)
    assert_held(made, plain, Freeze.BACKBONE)


@pytest.mark.parametrize("freeze", [Freeze.BACKBONE, Freeze.NORMS])
def test_after_freeze_epochs_everything_moves(tmp_path: Path, plain: Path, freeze: Freeze) -> None:
    changes = {"epochs": 3, "freeze_epochs": 2}
    made = frozen_run(tmp_path / "whole", plain, freeze, **changes)
    learnt = checkpoint.load(plain / BEST).student_of().student.tensors
    student = made.supernet().student.tensors
    assert not any(torch.equal(student[name], learnt[name]) for name in body(FIVE))
    assert made.momentum.count_nonzero() > 0.9 * len(made.momentum)
    # A stop in the third epoch leaves the second's checkpoint: held up to there, then resumed.
    options = nets.options(
        recipe=Recipe.PLAIN,
        init_from=str(plain),
        freeze=freeze,
        weight_decay=0.1,
        epochs=3,
        freeze_epochs=2,
    )
    broken, images = tmp_path / "broken", nets.split_of(FIVE, 50)
    with pytest.raises(Stopped):
        go(broken, options, spec=FIVE, train_split=images, progress=StopAt(14))
    half = checkpoint.load(broken / CHECKPOINT)
    assert half.epoch == 2
    assert_held(half, plain, freeze)
    go(broken, options, spec=FIVE, train_split=images, resume=True)
    assert_same_weights(tmp_path / "whole", broken)


def test_held_statistics_are_not_averaged_over_processes(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are equal everywhere, and the mean of three equal numbers need not be one of them."""
    sizes: list[int] = []
    monkeypatch.setattr(collectives, "average_", lambda flat: sizes.append(len(flat)))
    made = frozen_run(tmp_path, plain, Freeze.NORMS, epochs=3, freeze_epochs=2)
    assert sizes == [len(made.statistics)]  # in the third epoch


@pytest.mark.parametrize("stop", [8, 20])
def test_resume_in_a_frozen_epoch_is_exact(tmp_path: Path, plain: Path, stop: int) -> None:
    frozen_run(tmp_path / "whole", plain, Freeze.NORMS, epochs=4, freeze_epochs=3)
    options = nets.options(
        recipe=Recipe.PLAIN,
        init_from=str(plain),
        freeze=Freeze.NORMS,
        weight_decay=0.1,
        epochs=4,
        freeze_epochs=3,
    )
    broken, images = tmp_path / "broken", nets.split_of(FIVE, 50)
    with pytest.raises(Stopped):
        go(broken, options, spec=FIVE, train_split=images, progress=StopAt(stop))
    go(broken, options, spec=FIVE, train_split=images, resume=True)
    assert_same_weights(tmp_path / "whole", broken)


def one_step(net: Supernet, options: TrainOptions, images: Tensor, labels: Tensor) -> Tensor:
    """Makes it; gives the gradient's norm."""
    method = METHODS[Recipe.PLAIN](options, FIVE.classes)
    figures, applied = train_step(
        net, method, images, Targets(labels), moment=Moment(0, 10), lr=0.1, options=options
    )
    assert bool(applied)
    return figures["grad_norm"]


def test_a_step_with_a_frozen_backbone_is_one_of_logistic_regression() -> None:
    """Against the formula: only the head's gradient counts in the norm that is clipped."""
    options = nets.options(clip_norm=0.01, weight_decay=0.05, label_smoothing=0.0)
    net = fresh(FIVE, ())
    net.statistics.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    net.hold(frozen_names(Freeze.BACKBONE, FIVE))
    before = net.theta.clone()
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 5
    weight = net.student.tensors["classifier.weight"].detach().clone()
    bias = net.student.tensors["classifier.bias"].detach().clone()
    # The features are what the classifier would have to see: its columns, one unit at a time.
    with torch.no_grad():
        columns = []
        for unit in torch.eye(weight.shape[1]):
            net.student.tensors["classifier.weight"].copy_(unit.expand_as(weight))
            net.student.tensors["classifier.bias"].zero_()
            columns.append(net.student(images, training=False)[:, 0])
        net.theta.copy_(before)
    features = torch.stack(columns, 1)  # (8, C)
    wrong = (F.softmax(F.linear(features, weight, bias), 1) - F.one_hot(labels, 5)) / 8
    slope, offset = wrong.T @ features, wrong.sum(0)
    norm = torch.sqrt(slope.square().sum() + offset.square().sum())
    assert norm > 0.01  # so that the clip binds
    assert one_step(net, options, images, labels) == pytest.approx(float(norm), rel=1e-5)
    scale = 0.01 / (norm + 1e-6)
    slope, offset = slope * scale + 0.05 * weight, offset * scale
    expected = {"weight": weight - 0.1 * 1.9 * slope, "bias": bias - 0.1 * 1.9 * offset}
    for key, value in expected.items():
        torch.testing.assert_close(net.student.tensors[f"classifier.{key}"].detach(), value)
    assert net.held is not None
    assert torch.equal(net.theta[net.held], before[net.held])


def held(net: Supernet) -> Tensor | None:
    return net.held


def test_a_held_tensor_has_no_gradient_and_a_freed_one_has_again() -> None:
    net = fresh(FIVE, ())
    options = nets.options(clip_norm=0.0)
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 5
    names = frozen_names(Freeze.BACKBONE, FIVE)
    net.hold(names)
    mask = held(net)
    one_step(net, options, images, labels)
    assert not any(net.student.tensors[name].requires_grad for name in names)
    assert mask is not None
    assert not net.grad[mask].any() and net.grad[~mask].any()
    net.hold(frozenset(names))
    assert held(net) is mask  # a recorded step may hold it
    net.hold(frozenset())
    assert held(net) is None
    before = net.theta.clone()
    one_step(net, options, images, labels)
    for name, tensor in net.student.tensors.items():
        if name in names:
            assert tensor.requires_grad and tensor.grad is not None
            assert tensor.grad.data_ptr() >= net.grad.data_ptr()  # still its place in the buffer
    assert (net.theta != before)[mask].float().mean() > 0.9


def test_a_step_is_recorded_anew_when_what_was_held_is_freed() -> None:
    net, options, contract = fresh(FIVE, ()), nets.options(), nets.contract_of(FIVE)
    recorded: list[bool] = []

    def record(work: Callable[[], Results]) -> tuple[Callable[[], None], Results]:
        recorded.append(net.held is not None)
        return lambda: None, work()

    steps = GraphedSteps(options, Normalizer(contract), record)
    method = METHODS[Recipe.PLAIN](options, FIVE.classes)
    pixels = torch.zeros(8, 8, 8, 1, dtype=torch.uint8)
    for freeze in (Freeze.NORMS, Freeze.NORMS, Freeze.NONE, Freeze.NONE):
        net.hold(frozen_names(freeze, FIVE))
        labels = torch.arange(8) % 5
        steps(net, method, pixels, Targets(labels), moment=Moment(0, 9), lr=0.1)
    assert recorded == [True, False]


def test_a_step_without_a_gradient_leaves_everything_as_it_was() -> None:
    net = fresh(FIVE, ())
    net.hold(frozen_names(Freeze.NORMS, FIVE))
    before = [t.clone() for t in (net.theta, net.momentum, net.statistics)]
    images, labels = torch.full((8, 1, 8, 8), torch.nan), torch.arange(8) % 5
    options = nets.options()
    method = METHODS[Recipe.PLAIN](options, FIVE.classes)
    _, applied = train_step(
        net, method, images, Targets(labels), moment=Moment(0, 10), lr=0.1, options=options
    )
    assert not bool(applied)
    after = (net.theta, net.momentum, net.statistics)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_names_of_what_is_frozen() -> None:
    spec = nets.se_spec()
    shapes = fresh(spec, ()).student.tensors
    backbone, norms = (frozen_names(f, spec) for f in (Freeze.BACKBONE, Freeze.NORMS))
    assert frozen_names(Freeze.NONE, spec) == frozenset()
    parameters = {name for name in shapes if "running" not in name}
    assert parameters - backbone == {"classifier.weight", "classifier.bias"}
    assert norms == {name for name in parameters if ".bn." in name}
    assert {"hidden.weight", "hidden.bias", "blocks.1.se.gate.bias"} <= backbone


# --- what is refused


def test_a_checkpoint_is_refused_for_other_pixels(tmp_path: Path, plain: Path) -> None:
    spec = replace(SPEC, in_channels=3)
    contract = nets.contract_of(spec)
    with pytest.raises(InputError, match=r"for GRAY images, this run's are RGB.*--gray") as caught:
        load_start(str(plain), spec, contract)
    assert caught.value.code == "train.init-input"
    go(tmp_path, nets.options(recipe=Recipe.PLAIN, epochs=1), spec=spec)
    with pytest.raises(InputError, match=r"for RGB images, this run's are GRAY.*--rgb"):
        load_start(str(tmp_path), SPEC, nets.contract_of(SPEC))
    other = replace(contract, normalize=mean_std_normalize(IMAGENET_MEAN, IMAGENET_STD))
    with pytest.raises(InputError, match=r"normalised in another way.*--normalize u8/255"):
        load_start(str(tmp_path), spec, other)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            make_spec("ds-cnn", width=0.5, size_px=8, in_channels=1, classes=3),
            "tensor blocks.0",
        ),
        (replace(SPEC, blocks=SPEC.blocks[:-1]), "tensor blocks"),
        (replace(SPEC, blocks=(*SPEC.blocks, SPEC.blocks[-1])), "none there"),
        (nets.se_spec(channels=1), "stem.weight: 8x1x3x3 there, 4x1x3x3 here"),
        (replace(SPEC, conv_bias=True), "stem.bias: none there, 8 here"),
        (replace(SPEC, head=replace(SPEC.head, hidden=4)), "hidden.weight"),
        (replace(SPEC, stem=replace(SPEC.stem, act=Act.HARD_SWISH)), "layer stem: the same wei"),
        (
            replace(SPEC, blocks=(*SPEC.blocks[:-1], replace(SPEC.blocks[-1], shortcut=True))),
            "another operation",  # an addition has no tensors
        ),
        (replace(SPEC, bn_eps=1e-3), "bn_eps: 1e-05 there, 0.001 here"),
    ],
)
def test_another_architecture_is_refused(plain: Path, spec: ArchSpec, words: str) -> None:
    with pytest.raises(InputError, match="another architecture") as caught:
        load_start(str(plain), spec, nets.contract_of(spec))
    assert words in str(caught.value)
    assert caught.value.code == "train.init-architecture"


def truncated(good: bytes) -> bytes:
    return good[: len(good) // 2]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (truncated, "train.checkpoint"),
        (lambda good: b"", "train.checkpoint"),
        (lambda good: b"PK\x03\x04" + bytes(2000), "train.checkpoint"),
        (lambda good: good.replace(b"theta", b"thetb"), "train.checkpoint"),
        (lambda good: b"weights, honestly", "train.checkpoint"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, plain: Path, damage: Callable[[bytes], bytes], code: str
) -> None:
    path = tmp_path / "start.pt"
    path.write_bytes(damage((plain / BEST).read_bytes()))
    with pytest.raises(InputError) as caught:
        load_start(str(path), SPEC, nets.contract_of(SPEC))
    assert caught.value.code == code
    assert "start.pt" in caught.value.where


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for name in ("missing.pt", "pipe", "empty", "a\0b"):
        with pytest.raises(InputError) as caught:
            load_start(str(tmp_path / name), SPEC, nets.contract_of(SPEC))
        assert caught.value.code == "input.missing"
    with pytest.raises(InputError, match="not a regular file"):
        load_start("/dev/zero", SPEC, nets.contract_of(SPEC))


@pytest.mark.parametrize(
    ("changes", "flag", "words"),
    [
        ({"freeze": Freeze.BACKBONE, "recipe": Recipe.PLAIN}, "--freeze", "--init-from"),
        ({"freeze": Freeze.NORMS, "init_from": "x"}, "--freeze", "use --recipe plain or kd"),
        (
            {"freeze": Freeze.NORMS, "init_from": "x", "recipe": Recipe.NETAUG},
            "--freeze",
            "netaug trains wider networks",
        ),
        ({"freeze_epochs": 2, "recipe": Recipe.PLAIN}, "--freeze-epochs", "nothing is frozen"),
        ({"freeze_epochs": -1}, "--freeze-epochs", "out of bounds"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, object], flag: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_options(nets.options(**changes))
    assert caught.value.where == flag
    assert words in str(caught.value)


# --- resume and the run folder


def test_a_resumed_run_does_not_start_anew(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start.pt"
    shutil.copy(plain / BEST, start)
    options = nets.options(recipe=Recipe.PLAIN, init_from=str(start))
    with pytest.raises(Stopped):
        go(tmp_path / "run", options, progress=StopAt(8))

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(start_module, "load_start", never)
    go(tmp_path / "run", options, resume=True)
    start.write_bytes(start.read_bytes() + b"\n")
    with pytest.raises(ConfigError, match="init_sha256 differ"):
        go(tmp_path / "run", options, resume=True)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny.npz, and a plain run `base` trained on it for an epoch."""
    tiny_data.write_npz(tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN = ("train", "--data", "npz:tiny.npz", "--width", ".5", "--epochs", "1", "--recipe", "plain")


@pytest.mark.slow  # a few runs of the command
def test_the_command(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ndtool_here(*TRAIN, "--name", "base", capsys=capsys).code == 0
    start = (*TRAIN, "--name", "next", "--init-from", "base", "--freeze", "backbone")
    done = ndtool_here(*start, capsys=capsys)
    assert done.code == 0, done.err
    assert "init: 47 of 47 tensors of runs/base/train/best.pt" in done.err
    made = {name: (shop / "runs/next" / name).read_bytes() for name in (CHECKPOINT, MANIFEST)}
    assert "up to date" in ndtool_here(*start, capsys=capsys).err
    config = shop / "runs/next/config.toml"
    again = ndtool_here("train", "-c", config, "--name", "next", capsys=capsys)
    assert "up to date" in again.err  # the file repeats the run, what it starts from included
    # A bad start is found before anything of the old run is touched, with --force too.
    for bad in ("missing.pt", "tiny.npz"):
        done = ndtool_here(*TRAIN, "--name", "next", "--force", "--init-from", bad, capsys=capsys)
        assert done.code == 2 and bad in done.err
    assert made == {name: (shop / "runs/next" / name).read_bytes() for name in made}
    # Another first run is another second one.
    retrained = ndtool_here(*TRAIN, "--name", "base", "--force", "--seed", "1", capsys=capsys)
    assert retrained.code == 0
    done = ndtool_here(*start, capsys=capsys)
    assert done.code == 2 and "init_sha256" in done.err and "--force" in done.err
    assert ndtool_here(*start, "--force", capsys=capsys).code == 0


def test_a_run_does_not_start_from_itself(shop: Path) -> None:
    (shop / "runs/mine/train").mkdir(parents=True)
    (shop / "runs/mine" / BEST).write_bytes(b"")
    (shop / "link.pt").symlink_to(shop / "runs/mine" / BEST)
    for start in ("runs/mine", "runs/mine/train/best.pt", "link.pt", "runs/x/../mine"):
        options = TrainOptions(data="npz:tiny.npz", init_from=start)
        with pytest.raises(ConfigError, match="writes itself"):
            prepare(options, name="mine", out=Path("runs"))


def test_the_key_holds_the_hash_of_the_start(shop: Path) -> None:
    start = shop / "start.pt"
    start.write_bytes(b"one")
    options = TrainOptions(data="npz:tiny.npz", init_from="start.pt")
    made = prepare(options, name="a", out=Path("runs"))
    first = train_key(made)
    start.write_bytes(b"two")
    second = train_key(made)
    assert first.options == second.options
    assert first.sources["init"] != second.sources["init"]
    assert "init" not in train_key(replace(made, options=replace(options, init_from=""))).sources
    start.unlink()
    with pytest.raises(InputError, match="no such file"):
        train_key(made)
    with pytest.raises(ConfigError, match="no text"):
        prepare(replace(options, init_from="a\x1bb"), name="a", out=Path("runs"))


# --- that it is of use


@pytest.mark.slow  # trains on digits, a few seconds
def test_digits_0_to_4_help_with_5_to_9(tmp_path: Path) -> None:
    """Two epochs over 500 images; chance is .2. Seed 0: .69 frozen, .89 all of it, .20 fresh."""
    source, contract = open_with_contract(TrainOptions(data="digits", resolution=16))
    splits = [source.load(part, contract) for part in (Part.TRAIN, Part.VAL)]

    def some(split: Split, first: int) -> Split:
        rows = np.flatnonzero(np.isin(split.labels, range(first, first + 5)))
        labels, digests = split.labels[rows] - first, tuple(split.digests[i] for i in rows)
        return Split(images=split.images[rows], labels=labels, ids=(), digests=digests)

    def learn(name: str, first: int, epochs: int, **changes: object) -> float:
        spec = make_spec("ds-cnn", width=1.0, size_px=16, in_channels=1, classes=5)
        labels = tuple(str(digit) for digit in range(first, first + 5))
        fixed = {"recipe": Recipe.PLAIN, "batch_size": 32, "flip": False, "epochs": epochs}
        result = train(
            nets.options(**(fixed | changes)),
            RunDir(tmp_path / name),
            spec=spec,
            contract=replace(contract, labels=labels),
            train=some(splits[0], first),
            val=some(splits[1], first),
            resume=False,
            progress=Silent(),
        )
        return result.last_val_accuracy

    assert learn("first", 0, 12) > 0.9
    start = {"init_from": str(tmp_path / "first")}
    new = learn("new", 5, 2)
    frozen = learn("frozen", 5, 2, **start, freeze=Freeze.BACKBONE)
    tuned = learn("tuned", 5, 2, **start)
    assert frozen > 0.5 and frozen > new + 0.2
    assert tuned > 0.75 and tuned > frozen
