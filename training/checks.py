"""What a training refuses before anything is read or written: options and images.

The command line checks single numbers by the same bounds; this is the second lock, for options of
any origin, and the only one for what does not go together.
"""

from __future__ import annotations

import math

import torch

from ndtool.contract import Contract
from ndtool.data.folder import Listed
from ndtool.data.types import Split
from ndtool.errors import ConfigError, DataError
from ndtool.identity import check_extensions
from ndtool.options import MAX_RATES, RATE_BOUNDS, TRAIN_BOUNDS, WORD_OF, TrainOptions
from ndtool.teacher import check_teacher
from ndtool.training import collectives
from ndtool.types import Augmentation, Freeze, Recipe


def check_options(options: TrainOptions) -> None:
    """Numbers of any origin within `TRAIN_BOUNDS`; names the first bad one as the user writes it.

    Raises:
        ConfigError: a value is out of bounds or not finite.
    """
    for name, (low, high) in TRAIN_BOUNDS.items():
        value = getattr(options, name)
        if not (math.isfinite(value) and low <= value <= high):
            raise ConfigError(
                f"{value} is out of bounds",
                where=f"--{WORD_OF.get(name, name).replace('_', '-')}",
                remedy=f"use {low} to {high}",
                code="train.option",
            )
    check_extensions(options)
    check_teacher(options)
    _check_together(options)


def _check_together(options: TrainOptions) -> None:
    """What the bounds of single options do not say."""
    low, high = RATE_BOUNDS
    rates = options.expand
    # Before it is started, a training in several processes is only wanted.
    parts = options.accumulate * max(collectives.world(), options.nproc)
    distinct = len(set(rates)) == len(rates) and 1 <= len(rates) <= MAX_RATES
    bad = None
    if not distinct or not all(low <= rate <= high for rate in rates):
        text = ",".join(map(str, rates))
        bad = (
            "--expand",
            f"{text} are no widths",
            f"use 1 to {MAX_RATES} from {low} to {high}, each once",
        )
    elif options.freeze is not Freeze.NONE and options.recipe not in (Recipe.PLAIN, Recipe.KD):
        what = f"{options.recipe.value} trains wider networks on the weights that this would keep"
        bad = ("--freeze", what, "use --recipe plain or kd")
    elif options.freeze is not Freeze.NONE and not options.init_from:
        bad = (
            "--freeze",
            "fresh weights are not worth keeping",
            "name trained ones with --init-from",
        )
    elif options.freeze_epochs and options.freeze is Freeze.NONE:
        bad = ("--freeze-epochs", "nothing is frozen", "add --freeze backbone or norms")
    elif options.augment is Augmentation.RESIZED_CROP and not options.loaders:
        what = "resized-crop cuts the original pictures, anew in each epoch"
        bad = ("--augment", what, "add --loaders 4 to have them decoded while training")
    elif options.augment is Augmentation.RESIZED_CROP and options.crop_px:
        bad = ("--crop", "resized-crop cuts in a way of its own", "leave --crop out")
    elif options.teacher_stop < options.teacher_start:
        bad = ("--teacher-stop", "the teacher leaves before it joins", "use a later share")
    elif options.batch_size % parts or options.batch_size // parts < 2:
        bad = (
            "--batch-size",
            f"{options.batch_size} images cannot be split into {parts} parts of 2 or more",
            "use a multiple of --accumulate times the number of processes",
        )
    if bad:
        raise ConfigError(bad[1], where=bad[0], remedy=bad[2], code="train.option")


def check_graphs(options: TrainOptions, device: torch.device) -> None:
    """A graph is of one GPU, and has the same passes in every step.

    Raises:
        ConfigError: --cuda-graphs cannot be with these options here.
    """
    if not options.cuda_graphs:
        return
    bad = None
    if device.type != "cuda":
        bad = ("this run is not on a GPU", "leave it out, or use --device cuda")
    elif options.recipe is Recipe.NETAUG:
        bad = ("netaug draws other networks in every step", "leave it out")
    elif collectives.world() > 1:
        bad = ("several processes exchange gradients within a step", "leave it out")
    if bad:
        raise ConfigError(bad[0], where="--cuda-graphs", remedy=bad[1], code="train.graphs")


def check_splits(
    contract: Contract, train: Split | Listed, val: Split | Listed, options: TrainOptions
) -> None:
    """Images of the contract, enough of them for a step of all processes.

    Raises:
        DataError: names the split.
    """
    want = (contract.input.height, contract.input.width, contract.input.channels)
    # A set smaller than a batch is one step of its own; only whole batches come in parts.
    split_up = options.accumulate * collectives.world() > 1
    enough = options.batch_size if split_up else 2
    for name, split, least in (("training", train, enough), ("validation", val, 1)):
        if len(split) < least:
            raise DataError(
                f"{len(split)} {name} images, at least {least} needed",
                where=f"{name} split",
                remedy="add images, or check the split",
                code="train.too-few",
            )
        classes = range(contract.num_classes)
        labels_fit = int(split.labels.min()) in classes and int(split.labels.max()) in classes
        if split.shape != want or not labels_fit:
            raise DataError(
                f"the {name} images do not fit the contract",
                where=f"{name} split: {split.shape} pixels for {want}",
                remedy="load them through the run's contract.json",
                code="train.split",
            )
