"""The state that a run starts from: fresh weights, those of another run, or its own checkpoint.

And what it is, its `Identity`, which decides whether a checkpoint is its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch

from ndtool import console
from ndtool.arch import ArchSpec
from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.data.folder import Listed
from ndtool.data.types import Split
from ndtool.errors import ConfigError, InputError
from ndtool.files import read_bounded, sha256_bounded, sha256_bytes, write_atomic
from ndtool.identity import TRAIN_VERSION, outer_files, settings
from ndtool.options import NOT_COMPARED, TrainOptions
from ndtool.rundir import BEST, CHECKPOINT, MAX_CHECKPOINT_BYTES, RunDir
from ndtool.training import checkpoint, collectives
from ndtool.training.checkpoint import Checkpoint, Identity
from ndtool.training.devices import threads_of
from ndtool.training.loop import TrainState
from ndtool.training.recipes.method import Method
from ndtool.training.schedule import run_ends
from ndtool.training.seeds import Use, generator
from ndtool.training.supernet import Supernet, copy_student
from ndtool.training.transfer import load_start, start_from
from ndtool.types import Sha256


def load_checkpoint(run: RunDir) -> Checkpoint | None:
    """The run's checkpoint, as the first process finds it; only that one sees the folder."""
    return collectives.from_first(own_checkpoint(run) if collectives.rank() == 0 else None)


def own_checkpoint(run: RunDir) -> Checkpoint | None:
    """The run's checkpoint, to go on from, with the best.pt that belongs to it; None: no epoch yet.

    Where its last epoch is the best one, best.pt is a copy of it, and made again if need be.

    Raises:
        InputError: the checkpoint is broken; it is of another version of the training; or best.pt
            is gone, or another one than this training wrote.
    """
    if not run.has(CHECKPOINT):
        return None
    found = checkpoint.load(run / CHECKPOINT)
    if found.identity.version != TRAIN_VERSION:
        raise InputError(
            f"the checkpoint is of version {found.identity.version} of the training, this is"
            f" {TRAIN_VERSION}: its epochs cannot be mixed",
            where=CHECKPOINT,
            remedy="choose another --name, or --force to train anew",
            code="train.version",
        )
    best = sha256_bounded(run / BEST, MAX_CHECKPOINT_BYTES) if run.has(BEST) else None
    if not found.best_sha256:
        last = read_bounded(run / CHECKPOINT, MAX_CHECKPOINT_BYTES)
        if best != sha256_bytes(last):
            write_atomic(run / BEST, last)
        return replace(found, best_sha256=sha256_bytes(last))
    if best != found.best_sha256:
        what = "is missing" if best is None else "is another file"
        raise InputError(
            f"the best network of this training, of epoch {found.best_epoch}, {what}",
            where=BEST,
            remedy="put it back, choose another --name, or --force to train anew",
            code="train.best",
        )
    return found


def data_sha256(*splits: Split | Listed) -> Sha256:
    """Hash of the samples and labels that training reads, in order; no pixel is decoded for it."""
    digest = hashlib.sha256("\n".join(split.sha256() for split in splits).encode("ascii"))
    return Sha256(digest.hexdigest())


def identity_of(
    options: TrainOptions,
    method: Method,
    *,
    spec: ArchSpec,
    contract: Contract,
    data: Sha256,
    found: Checkpoint | None,
) -> Identity:
    """What this run is; of `found`, it has the number of threads, on which its bits depend."""
    processes, threads = collectives.world(), threads_of(options)
    if found is not None and found.identity.processes == processes:
        threads = found.identity.threads
    files = {f"{use}_sha256": digest for use, digest in outer_files(options).items()}
    return Identity(
        spec=spec,
        contract=contract,
        options=settings(options) | files,
        rates=method.rates,
        augmented=method.augmented,
        data=data,
        torch=str(torch.__version__),  # a subclass of str otherwise
        threads=threads,
        processes=processes,
    )


def first_state(
    spec: ArchSpec,
    contract: Contract,
    method: Method,
    options: TrainOptions,
    device: torch.device,
) -> TrainState:
    """Fresh weights, then those of `init_from` over them; the same in every process.

    A student that starts without its teacher starts as a plain one does (training-methods, 1.6).
    """
    init = generator(options.seed, Use.INIT)
    alone = _alone(spec, method, device)
    if alone is not None and method.teaching.start > 0:
        rest = generator(options.seed, Use.REMAINDER)
        net = Supernet(spec, rates=method.rates, generator=rest, device=device)
        copy_student(Supernet(spec, rates=(), generator=init, device=device), net)
    else:
        net = Supernet(
            spec, rates=method.rates, augmented=method.augmented, generator=init, device=device
        )
    if options.init_from:
        found = load_start(options.init_from, spec, contract)
        start_from(net, found, contract, name=options.init_from)
    collectives.copy_first_(net.theta, net.statistics)
    ema = None
    if options.ema > 0:
        ema = Supernet(spec, rates=(), generator=None, device=device)
        copy_student(net, ema)
    return TrainState(net=net, alone=alone, ema=ema, ends=run_ends(options))


def resumed_state(
    found: Checkpoint,
    identity: Identity,
    method: Method,
    options: TrainOptions,
    device: torch.device,
) -> TrainState:
    """The state of `found`, to go on from.

    Raises:
        ConfigError: it is of another training, or of one that was extended otherwise.
    """
    require_same_run(found.identity, identity)
    if (found.ema is None) == (options.ema > 0):
        raise _other_training(["ema"])
    state = found.state(device)
    state.alone = _alone(identity.spec, method, device)
    ends = run_ends(options)
    if ends[: len(found.ends)] != found.ends:
        raise ConfigError(
            f"the checkpoint is of a run that ends after {_listed(found.ends)} epochs, this one"
            f" after {_listed(ends)}",
            where="--extend-epochs",
            remedy="give its extensions and more, or another --name",
            code="train.shorter",
        )
    state.ends = ends
    return state


def require_same_run(old: Identity, new: Identity) -> None:
    """A resumed run is the same run; another torch version only gives a warning.

    Raises:
        ConfigError: it is another one.
    """
    keys = sorted({*old.options, *new.options} - {*NOT_COMPARED, "extend_epochs"})
    differing = [k for k in keys if old.options.get(k) != new.options.get(k)]
    fields = ("spec", "contract", "rates", "augmented", "data", "memory_format")
    differing += [k for k in fields if getattr(old, k) != getattr(new, k)]
    if differing:
        raise _other_training(differing)
    if old.torch != new.torch:
        console.warn(
            "train.torch-version",
            f"the checkpoint is of torch {visible(old.torch)}, this is {new.torch}:"
            " the weights will not equal those of an uninterrupted run",
        )
    if old.processes != new.processes:
        console.warn(
            "train.processes",
            f"the checkpoint is of another number of processes, {old.processes}, this is"
            f" {new.processes}: the weights will not equal those of an uninterrupted run",
        )


def _other_training(differing: list[str]) -> ConfigError:
    return ConfigError(
        f"the checkpoint is of another training: {', '.join(map(visible, differing))} differ",
        where=CHECKPOINT,
        remedy="use the run's own options, another --name, or --force to train anew",
        code="train.resume",
    )


def _alone(spec: ArchSpec, method: Method, device: torch.device) -> Supernet | None:
    """Buffers for the steps without a teacher, where the method has any."""
    return Supernet(spec, rates=(), generator=None, device=device) if method.alone else None


def _listed(epochs: tuple[int, ...]) -> str:
    return ", then ".join(map(str, epochs))
