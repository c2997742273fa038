"""Several processes: the weights of one, equal files, and what happens when one of them is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import nets
import numpy as np
import process_checks
import pytest
import tiny_data
import torch
import typer
from command import CODE, ndtool_here
from PIL import Image
from torch import Tensor

from ndtool.cli import processes
from ndtool.errors import ConfigError, InputError
from ndtool.machine import Place, place_from
from ndtool.options import TrainOptions
from ndtool.prepare import Prepared, prepare
from ndtool.rundir import BEST, CHECKPOINT, HISTORY, RunDir
from ndtool.training import checkpoint, collectives
from ndtool.training.checkpoint import Checkpoint
from ndtool.training.devices import find_device
from ndtool.training.images.augment import Normalizer
from ndtool.training.images.batches import TrainBatches, to_device
from ndtool.training.images.loading import open_batches
from ndtool.training.loop import accuracy
from ndtool.training.recalibrate import recalibrate, recalibration_batches
from ndtool.training.recipes import METHODS
from ndtool.training.recipes.method import Targets
from ndtool.training.schedule import Moment, make_schedule
from ndtool.training.seeds import Use, generator
from ndtool.training.stage import train_stage
from ndtool.training.start import require_same_run
from ndtool.training.step import sgd_nesterov
from ndtool.training.supernet import Supernet
from ndtool.types import Part, Recipe, Sha256

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
WAIT_S = 120.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data.write_npz(tmp_path_factory.mktemp("data") / "tiny.npz")


def words(data: Path, **options: object) -> list[str]:
    """`ndtool train` of a tiny network on tiny images."""
    fixed = {"data": f"npz:{data}", "width": 0.25, "batch-size": 16, "threads": 1, "device": "cpu"}
    return ["train", *(f"--{name}={value}" for name, value in (fixed | options).items())]


def options_of(data: Path, name: str = "", *, epochs: int = 3) -> TrainOptions:
    """The same as options, with those of one of RUNS."""
    fixed: dict[str, object] = {
        "data": f"npz:{data}",
        "width": 0.25,
        "batch_size": 16,
        "threads": 1,
        "device": "cpu",
        "epochs": epochs,
    }
    return TrainOptions(**(fixed | RUNS.get(name, {})))  # type: ignore[arg-type]


LATE = "no-teacher"
RUNS: dict[str, dict[str, object]] = {
    "surgery-ud-clip": {"clip_norm": 0.8, "uncertainty": 0.95},
    "accumulate-ema": {"accumulate": 2, "ema": 0.9, "student_loss": "mix"},
    "netaug": {"recipe": Recipe.NETAUG, "model": "resnet8"},
    "plain": {"recipe": Recipe.PLAIN, "ema": 0.9},
    LATE: {"teacher_start": 1.0, "ema": 0.9},
}


@dataclass(frozen=True)
class Joint:
    """What two processes that had joined have done."""

    folder: Path  # with the trainings of RUNS
    seen: list[dict[str, Any]]  # by process


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Joint:
    folder = tmp_path_factory.mktemp("processes")
    runs = {name: options_of(data, name) for name in RUNS}
    return Joint(folder, process_checks.run(folder, runs))


# -- the same weights ----------------------------------------------------------------------------


class Shards:
    """One process that runs the two shards of each batch one after the other (section 8).

    Each shard has running statistics of its own, which are averaged after the epoch.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.options, self.spec = prepared.options, prepared.spec
        self.method = METHODS[self.options.recipe](self.options, self.spec.classes)
        init = generator(self.options.seed, Use.INIT)
        self.net = Supernet(
            self.spec,
            rates=self.method.rates,
            augmented=self.method.augmented,
            generator=init,
        )
        self.statistics = [self.net.statistics.clone() for _ in range(2)]
        self.ema = self.net.theta[self.net.student_index].clone()
        self.ema_statistics = [self.net.student_statistics.clone() for _ in range(2)]
        self.normalize = Normalizer(prepared.contract, "cpu")
        self.train = prepared.source.load(Part.TRAIN, prepared.contract)
        self.val = prepared.source.load(Part.VAL, prepared.contract)
        self.losses: list[list[float]] = []  # of the student: by epoch, of each part

    def run(self) -> None:
        options, step = self.options, 0
        assert options.epochs is not None
        schedule = make_schedule(options, len(self.train), (options.epochs,))
        with open_batches(self.train, self.val, options=options, device=torch.device("cpu")) as (
            batches,
            _,
        ):
            for epoch in range(options.epochs):
                self.losses.append([])
                if self.method.before_epoch is not None:
                    self.method.before_epoch(self.net, Moment(step, schedule.ends[0]))
                for pixels, labels in batches.epoch(epoch, options.batch_size):
                    self.step(pixels, labels, Moment(step, schedule.ends[0]), schedule.lr(step))
                    step += 1
                if self.method.augmented:
                    self.recalibrate(batches)
                for kept in (self.statistics, self.ema_statistics):
                    mean = (kept[0] + kept[1]) / 2
                    kept[:] = mean, mean.clone()
        self.net.statistics.copy_(self.statistics[0])

    def step(self, pixels: Tensor, labels: Tensor, moment: Moment, lr: float) -> None:
        net, options, gradients = self.net, self.options, []
        half = len(pixels) // 2
        for shard in range(2):
            rows = slice(shard * half, (shard + 1) * half)
            net.statistics.copy_(self.statistics[shard])
            net.zero_grad()
            self.passes(pixels[rows], labels[rows], moment)
            gradients.append(net.gradients.clone())
            self.statistics[shard] = net.statistics.clone()
        net.gradients.copy_((gradients[0] + gradients[1]) / 2)
        for width in net.widths[1:]:
            assert width.slice is not None
            self.method.combine(net.grad, width.slice)
        norm = net.grad.norm()
        net.grad.mul_((options.clip_norm / (norm + 1e-6)).clamp_max(1.0))
        sgd_nesterov(net, lr=lr, options=options, applied=torch.ones((), dtype=torch.bool))
        self.average(1 - min(options.ema, (1 + moment.step) / (10 + moment.step)))

    def passes(self, pixels: Tensor, labels: Tensor, moment: Moment) -> None:
        parts = self.options.accumulate
        for images, targets in zip(pixels.chunk(parts), labels.chunk(parts), strict=True):
            made: list[Tensor] = []
            for one in self.method.passes(self.net, moment):
                logits = one.width(self.normalize(images), training=True)
                loss, figures = one.loss(logits, Targets(targets), made)
                if "student_loss" in figures:
                    self.losses[-1].append(float(figures["student_loss"]))
                (loss if parts == 1 else loss / parts).backward()
                made.append(logits.detach())

    def recalibrate(self, train: TrainBatches) -> None:
        """NetAug: each shard's from its own part of the same batches."""
        for shard in range(2):
            whole = recalibration_batches(train, self.normalize, self.options)
            recalibrate(self.net, (batch.chunk(2)[shard] for batch in whole))
            self.statistics[shard] = self.net.statistics.clone()

    def average(self, weight: float) -> None:
        self.ema.lerp_(self.net.theta[self.net.student_index], weight)
        student = len(self.net.student_statistics)
        for kept, statistics in zip(self.ema_statistics, self.statistics, strict=True):
            kept.lerp_(statistics[-student:], weight)


def of_one(prepared: Prepared) -> Shards:
    """The training by one process, done."""
    one = Shards(prepared)
    one.run()
    return one


def assert_same_state(two: Checkpoint, one: Shards) -> None:
    assert two.identity.processes == 2
    for name in ("theta", "momentum", "statistics"):
        assert torch.equal(getattr(two, name), getattr(one.net, name)), name
    student = one.net.student
    if two.ema is not None:
        assert torch.equal(two.ema[0], one.ema)
        assert torch.equal(two.ema[1], one.ema_statistics[0])
        averaged = two.averaged()
        assert averaged is not None
        student = averaged.student
    val = to_device(one.val, "cpu")
    assert two.history[-1]["val_accuracy"] == accuracy(student, val, one.normalize)
    means = [fmean(losses) for losses in one.losses]  # parts of equal size
    assert [row["student_loss"] for row in two.history] == pytest.approx(means, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name != LATE])
def test_two_processes_give_the_bits_of_one(
    tmp_path: Path, data: Path, joint: Joint, name: str
) -> None:
    two = checkpoint.load(joint.folder / name / CHECKPOINT)
    assert_same_state(two, of_one(prepare(options_of(data, name), name="one", out=tmp_path)))
    # The run had what it is to show: both kinds of sample, projected layers, clipped steps.
    if name == "surgery-ud-clip":
        rows = two.history
        assert 0 < (rows[-1]["kl_share"] or 0) < 1
        assert (rows[-1]["conflict_rate"] or 0) > 0
        assert 0 < sum(row["clipped_share"] or 0 for row in rows) < 3


@pytest.mark.slow
def test_steps_without_a_teacher_are_plain_ones_in_two_processes_too(joint: Joint) -> None:
    """Both kinds of network take part: the plain steps are made on buffers of their own."""
    plain, late = (checkpoint.load(joint.folder / name / CHECKPOINT) for name in ("plain", LATE))
    expected, got = (found.supernet().student_tensors() for found in (plain, late))
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert plain.ema is not None and late.ema is not None
    assert all(torch.equal(a, b) for a, b in zip(plain.ema, late.ema, strict=True))
    assert [row["grad_norm"] for row in plain.history] == [row["grad_norm"] for row in late.history]


@pytest.mark.slow
def test_two_machines_by_torchrun_give_one_run_which_export_reads(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two agents that meet on this machine, each with one process of the training."""
    train = words(data, epochs=1)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "-m", "ndtool"]
    # The second machine sees another folder: only the first process writes.
    places = [tmp_path / "first", tmp_path / "second"]
    agents = []
    for node, place in enumerate(places):
        place.mkdir()
        agents.append(
            subprocess.Popen(
                [*torchrun[:-2], f"--node-rank={node}", *torchrun[-2:], *train, "--json"],
                cwd=place,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    told = [agent.communicate(timeout=WAIT_S) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], told
    documents = [out for out, _ in told if out.strip()]
    assert len(documents) == 1, told
    assert json.loads(documents[0])["epochs"] == 1
    (run,) = [found for place in places for found in place.glob("runs/*")]
    one = of_one(prepare(options_of(data, epochs=1), name="one", out=tmp_path))
    for name in (CHECKPOINT, BEST):
        assert_same_state(checkpoint.load(run / name), one)
    assert json.loads((run / "metrics.json").read_text())["train_processes"] == 2
    again = ndtool_here(
        *train, "--nproc=2", f"--out={run.parent}", f"--name={run.name}", "--json", capsys=capsys
    )
    assert again.code == 0 and "up to date" in again.err
    assert again.document["epochs"] == 1
    assert ndtool_here("export", run, capsys=capsys).code == 0


# -- processes that end --------------------------------------------------------------------------


def start(*args: str, cwd: Path) -> subprocess.Popen[str]:
    """The command in a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def until_trained(run: Path, epochs: int, process: subprocess.Popen[str]) -> None:
    """Wait for so many finished epochs of a training that goes on."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end and process.poll() is None:
        history = run / HISTORY
        if history.is_file() and len(history.read_text().splitlines()) > epochs:
            return
        time.sleep(0.02)
    raise AssertionError(process.communicate(timeout=WAIT_S))


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher has started, by number in the training."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    spawned = [int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
    return sorted(spawned)


def is_left(group: int) -> bool:
    """Whether any process of the group lives on; Python's own resource tracker takes a moment."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes under /proc")
def test_interrupted_killed_and_gone_on_with(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C, a dead process, and at the end the bits of a training that nothing happened to."""
    train = words(data, epochs=24, nproc=2, name="broken")
    run = tmp_path / "runs" / "broken"

    first = start(*train, cwd=tmp_path)
    until_trained(run, 1, first)
    os.killpg(first.pid, signal.SIGINT)  # a terminal's Ctrl-C goes to all
    _, err = first.communicate(timeout=WAIT_S)
    assert first.returncode == 130, err
    assert err.count("interrupted") == 1 and str(Path("runs/broken") / CHECKPOINT) in err
    assert "error:" not in err and "Traceback" not in err and not is_left(first.pid)

    before = checkpoint.load(run / CHECKPOINT).epoch
    second = start(*train, cwd=tmp_path)
    until_trained(run, before + 1, second)
    os.kill(workers_of(second)[1], signal.SIGKILL)
    killed_at = time.monotonic()
    _, err = second.communicate(timeout=WAIT_S)
    assert second.returncode == 2, err
    errors = [line for line in err.splitlines() if "error" in line]
    assert len(errors) == 1, err
    assert "process 1 of 2 was ended by SIGKILL; the last checkpoint is kept" in errors[0]
    assert (
        "repeat the command (without --force) to go on" in errors[0]
        and "[train.process-lost]" in errors[0]
    )
    assert time.monotonic() - killed_at < 30
    assert not is_left(second.pid)

    done = ndtool_here(*train, f"--out={run.parent}", capsys=capfd)
    assert done.code == 0, done.err
    assert "going on from the last checkpoint" in done.err
    whole = of_one(prepare(options_of(data, epochs=24), name="one", out=tmp_path))
    assert_same_state(checkpoint.load(run / CHECKPOINT), whole)


@pytest.mark.slow
def test_what_all_processes_find_is_told_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for number in range(20):
            path = folder / label / f"{number}.png"
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])  # found where pixels are decoded
    done = ndtool_here(
        *("train", f"--data=folder:{folder}", "--resolution=8", "--epochs=1", "--nproc=2"),
        *("--batch-size=8", f"--out={tmp_path / 'runs'}", "--name=bad", "--json"),
        capsys=capfd,
    )
    assert done.code == 2, done.err
    assert done.document["schema"] == "ndtool.error/1"
    assert "Traceback" not in done.err
    assert done.err.count("error:") == 1 and str(path) in done.err, done.err
    assert not (tmp_path / "runs" / "bad" / "contract.json").exists()


# -- between processes ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(joint: Joint) -> list[dict[str, Any]]:
    return joint.seen


@pytest.mark.slow
def test_sums_shares_and_copies(seen: list[dict[str, Any]]) -> None:
    assert [one["who"] for one in seen] == [(2, 0, 0), (2, 1, 1)]
    assert [one["share"] for one in seen] == [[0, 1, 2], [3, 4, 5]]
    for one in seen:
        mean, count, flat, figures = one["sums"]
        assert mean == pytest.approx([1.5, 0.15])
        assert (count, flat, figures) == ([7], [0.5] * 3, [2.0, 4.0])
        assert one["first"] == ({"rank": 0, "none": None}, [7.0, 7.0])
        assert one["after"] == (1, 0, None)
    assert sorted(one["failing"] for one in seen) == [False, True]


@pytest.mark.slow
def test_processes_that_differ_are_refused_alike(seen: list[dict[str, Any]]) -> None:
    assert seen[0]["same_facts"] is seen[1]["same_facts"] is None
    assert seen[0]["same_weights"] is seen[1]["same_weights"] is None
    assert seen[0]["other_facts"] == seen[1]["other_facts"]
    code, text = seen[0]["other_facts"]
    assert code == "train.processes-differ"
    assert "do not agree: option lr (process 1 differs from process 0)" in text
    assert seen[0]["one_fact_more"] == seen[1]["one_fact_more"]
    assert "do not agree: option extend_epochs (" in seen[0]["one_fact_more"][1]
    for one in seen:
        assert [found[0] for found in one["other_weights"]] == ["train.processes-apart"] * 3


def test_what_processes_must_have_alike(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before anything is read, when it is read, and after each epoch."""
    told: list[object] = []
    monkeypatch.setattr(collectives, "require_same", lambda facts: told.append(set(facts)))
    monkeypatch.setattr(
        collectives, "require_same_weights", lambda theta: told.append(theta.numel())
    )
    prepared = prepare(options_of(data, epochs=2), name="x", out=tmp_path)
    alone = Place(rank=0, world=1, local_rank=0, local_world=1)
    train_stage(prepared, {}, force=False, resume=False, place=alone)
    facts, pixels, *weights = told
    assert isinstance(facts, set)
    assert {"option lr", "option recipe", "network", "ndtool", "torch", "pillow"} <= facts
    assert pixels == {"pixels of the images"}
    assert weights == [len(checkpoint.load(prepared.run / CHECKPOINT).theta)] * 2


# -- where a process stands ----------------------------------------------------------------------


def test_the_place_that_torchrun_gives() -> None:
    assert place_from({}) is None
    assert place_from({"RANK": "0", "WORLD_SIZE": "1"}) is None
    assert place_from(TORCHRUN) == Place(rank=1, world=4, local_rank=1, local_world=2)
    scheduler = {k: v for k, v in TORCHRUN.items() if not k.startswith("LOCAL")}
    assert place_from(scheduler) == Place(rank=1, world=4, local_rank=0, local_world=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "4"),
        ("RANK", "-1"),
        ("RANK", "x\x1b[2J"),
        ("WORLD_SIZE", ""),
        ("WORLD_SIZE", "9" * 5000),
        ("WORLD_SIZE", "\u0664"),
        ("LOCAL_RANK", "2"),
        ("LOCAL_WORLD_SIZE", "5"),
        ("LOCAL_WORLD_SIZE", "0"),
        ("MASTER_ADDR", ""),
        ("MASTER_PORT", "65536"),
    ],
)
def test_a_broken_environment_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        place_from(TORCHRUN | {name: value})
    assert caught.value.code == "train.environment"
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("gpus", "name", "local_world", "device"),
    [
        (0, "auto", 2, "cpu"),
        (4, "cpu", 2, "cpu"),
        (4, "auto", 2, "cuda:1"),
        (4, "cuda", 2, "cuda:1"),
        (1, "auto", 2, None),
        (4, "cuda:3", 2, None),
        (4, "cuda:3", 1, "cuda:3"),
        (1, "auto", 1, "cuda:0"),
        (0, "cuda", 2, None),
    ],
)
def test_each_process_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, local_world: int, device: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    place = Place(rank=1, world=2, local_rank=local_world - 1, local_world=local_world)
    if device is not None:
        assert find_device(name, place) == torch.device(device)
        return
    with pytest.raises(ConfigError) as caught:
        find_device(name, place)
    assert caught.value.code == "train.device"


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ((0, -9), "process 1 of 2 was ended by SIGKILL"),
        ((processes.LOST, -11), "process 1 of 2 was ended by SIGSEGV"),
        ((143, processes.LOST), "process 0 of 2 was ended by SIGTERM"),
        ((processes.LOST, None), "process 1 of 2 does not answer"),
        ((processes.LOST, -77), "ended by signal 77"),
    ],
)
def test_what_is_told_of_a_process_that_cannot(
    tmp_path: Path, codes: tuple[int | None, ...], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        processes._judge(codes, RunDir(tmp_path))
    assert "checkpoint" not in str(caught.value)  # there is none


def test_what_a_process_has_told_is_not_told_again(tmp_path: Path) -> None:
    processes._judge((0, 0), RunDir(tmp_path))
    for codes in ((4, processes.LOST), (processes.LOST, 4), (4, None)):
        with pytest.raises(typer.Exit) as caught:
            processes._judge(codes, RunDir(tmp_path))
        assert caught.value.exit_code == 4


def test_another_number_of_processes_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    spec = nets.ds_spec()
    mine = checkpoint.Identity(
        spec=spec,
        contract=nets.contract_of(spec),
        options={"nproc": 1},
        rates=(),
        data=Sha256("0" * 64),
        torch="x",
        threads=1,
    )
    require_same_run(mine, mine)
    assert capsys.readouterr().err == ""
    require_same_run(replace(mine, processes=2, options={"nproc": 2}), mine)
    err = capsys.readouterr().err
    assert "another number of processes, 2, this is 1" in err and "[train.processes]" in err


def test_refused_before_anything_is_started(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"--out={tmp_path / 'runs'}"
    odd = ndtool_here(*words(data, nproc=3, epochs=1), where, capsys=capsys)
    assert odd.code == 2 and "cannot be split into 3 parts" in odd.err
    assert ndtool_here(*words(data, nproc=0, epochs=1), where, capsys=capsys).code == 2
    assert not (tmp_path / "runs").exists()
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    other = ndtool_here(*words(data, nproc=3, epochs=1), where, capsys=capsys)
    assert other.code == 2 and "[train.nproc]" in other.err
    for other_verb in (["run", "--data=digits", where], ["check", tmp_path], ["baseline", "show"]):
        alone = ndtool_here(*other_verb, capsys=capsys)
        assert alone.code == 2 and f"ndtool {other_verb[0]} is no command" in alone.err
        assert "[train.torchrun]" in alone.err
