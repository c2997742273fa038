"""Every default, once. The command line, the config file and the docs read them here.

Take a default from an instance (`TRAIN.epochs`): with slots, the class attribute is a descriptor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ndtool.types import (
    Augmentation,
    Converter,
    FcScales,
    Freeze,
    Policy,
    Precision,
    Recipe,
    Runtime,
    StudentLoss,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """One training run. None means: the data source's or the model's own default."""

    data: str = "digits"
    model: str = "ds-cnn"
    width: float = 1.0
    resolution: int | None = None  # side of the square input, pixels
    strides: tuple[int, ...] | None = None  # of the stages; None: the model's own
    stem_stride: int | None = None
    recipe: Recipe = Recipe.NETDISTILLER
    student_loss: StudentLoss = StudentLoss.UD
    surgery: bool = True
    expand: tuple[int, ...] = (3,)  # channels of the wider networks over the student's (table 2)
    uncertainty: float = 0.54  # UD threshold as a share of ln K (training-methods, 1.4)
    teacher_start: float = 0.0  # share of all steps after which the teacher joins
    teacher_stop: float = 1.0  # share of all steps after which it leaves
    teacher_every: int = 1  # teacher pass on every so many steps
    teacher: str = ""  # external teacher: checkpoint:FILE, onnx:FILE or torchvision:NAME:FILE
    kd_weight: float = 0.7  # kd: share of the external teacher in the loss, the rest is labels
    temperature: float = 2.0  # of the external teacher's soft labels
    init_from: str = ""  # checkpoint, or run folder, whose student the run starts from; empty: none
    freeze: Freeze = Freeze.NONE  # plain, kd: what keeps the values of init_from
    freeze_epochs: int = 0  # for so many epochs; 0: throughout
    epochs: int | None = None
    extend_epochs: tuple[int, ...] = ()  # more after its end; each extension counts from `epochs`
    batch_size: int = 128  # images of one step, over all parts and processes
    accumulate: int = 1  # parts in which a step's batch goes through the networks
    lr: float = 0.1  # peak, for batch_size samples; not scaled by us
    warmup: float = 0.05  # share of all steps with a linearly rising lr
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 4e-5  # not on biases and batch norm
    label_smoothing: float = 0.1
    clip_norm: float = 1.0  # of the final gradient; 0: off
    max_skipped: int = 20  # steps in a row without a finite gradient that end a run
    ema: float = 0.0  # decay of the averaged student that is then evaluated and kept; 0: off
    precision: Precision = Precision.FP32
    cuda_graphs: bool = False  # replay a recorded step instead of launching its kernels
    loaders: int = 0  # processes that decode while training; 0: all is decoded into memory first
    augment: Augmentation = Augmentation.CROP
    crop_px: int | None = None  # padding of the random crop; 0: off
    flip: bool | None = None  # horizontal
    gray: bool | None = None  # None: the source's own colour
    fit: str = "crop"  # crop, squash, pad
    alpha: str = "black"  # black, white, error
    normalize: str = "u8/255"  # or imagenet
    labels: str = ""  # file with the class names in another order
    bad_files: str = "stop"  # or skip
    max_pixels: int = 64 * 1024 * 1024
    seed: int = 0
    threads: int = 0  # of a process; 0: its share of the cores, at most 4; in the checkpoint
    device: str = "auto"  # auto, cpu, cuda, cuda:N
    tensorboard: bool = False  # also keep the history as a TensorBoard event file
    nproc: int = 1  # processes on this machine that share each batch
    target: str = ""  # board that the network must fit; empty: none
    boards: str = ""  # TOML file with more boards


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """ONNX and int8. `calib` images of the training part give the activation ranges."""

    int8: bool = False
    converter: Converter = Converter.NATIVE
    calib: int = 200
    fc: FcScales = FcScales.PER_CHANNEL
    workers: int = 0  # interpreter processes; 0: one a core
    seed: int = 0  # of the calibration sample


@dataclass(frozen=True, slots=True, kw_only=True)
class CodegenOptions:
    """C project."""

    template: str = "posix"
    prefix: str = "nd_model"
    golden: int = 8  # golden vectors: pixels, int8 input, int8 output
    target: str = ""  # board that the C must fit; empty: the one it was trained for
    boards: str = ""  # TOML file with more boards


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """C against tflite_micro. `on`: host, qemu or qemu:BOARD."""

    on: str = "host"
    random: int = 100  # made inputs, half of them smooth
    layers: bool | None = None  # every tensor that the C forms; None: on the host, not in QEMU
    seed: int = 0  # of the made inputs
    workers: int = 0  # interpreter processes; 0: one a core


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckOptions:
    """Bounds of `check`. Drops in percentage points, accuracies as fractions 0..1.

    None: the baseline's bound, or where there is no baseline that of `gates.baseline.Bounds`.
    """

    baseline: str = ""  # file; empty: only absolute and hop bounds
    policy: Policy | None = None
    max_drop_points: float | None = None  # against the baseline, and from float to int8
    min_accuracy: float | None = None
    keep_going: bool = False  # judge the models of a folder that does not hold together
    runtime: Runtime = Runtime.TFLM
    workers: int = 0


# Options that change how a training is done, not what comes out of it
NOT_COMPARED: Final = (
    "device",
    "threads",
    "nproc",
    "loaders",
    "tensorboard",
    "cuda_graphs",
    "target",
    "boards",
)

RATE_BOUNDS: Final = (2, 8)  # of each of TrainOptions.expand
MAX_RATES: Final = 3  # wider networks at once
MAX_EXTENSIONS: Final = 99  # of one run

TRAIN: Final = TrainOptions()
EXPORT: Final = ExportOptions()
CODEGEN: Final = CodegenOptions()
VERIFY: Final = VerifyOptions()
CHECK: Final = CheckOptions()

# Lowest and highest value of each number of a training: shown by --help, and the second lock of
# `training.train` for options that come from elsewhere.
TRAIN_BOUNDS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "uncertainty": (0.0, 1.0),
        "teacher_start": (0.0, 1.0),
        "teacher_stop": (0.0, 1.0),
        "teacher_every": (1, 1000),
        "kd_weight": (0.0, 1.0),
        "temperature": (0.1, 100.0),
        "freeze_epochs": (0, 100_000),
        "epochs": (1, 100_000),
        "accumulate": (1, 1024),
        "batch_size": (2, 65_536),  # batch norm needs two values
        "lr": (1e-12, 1000.0),
        "warmup": (0.0, 0.99),
        "momentum": (0.0, 0.9999),
        "weight_decay": (0.0, 10.0),
        "label_smoothing": (0.0, 0.99),
        "clip_norm": (0.0, 1e6),
        "max_skipped": (1, 1_000_000),
        "ema": (0.0, 0.999999),
        "loaders": (0, 60),  # a pool has no more on Windows
        "crop_px": (0, 1024),
        "seed": (0, 2**31 - 1),
        "threads": (0, 1024),
        "nproc": (1, 1024),
    }
)
# Field -> the word a user types, for the fields where it is another one. Flags and the keys of
# configuration files are this word; inside the program the unit stays in the name.
WORD_OF: Final[Mapping[str, str]] = MappingProxyType(
    {"crop_px": "crop", "max_drop_points": "max_drop"}
)


def is_read(field: str, options: TrainOptions) -> bool:
    """Whether a training with `options` reads this one of them."""
    distils = options.recipe is Recipe.NETDISTILLER
    match field:
        case (
            "student_loss"
            | "surgery"
            | "expand"
            | "teacher_start"
            | "teacher_stop"
            | "teacher_every"
        ):
            return distils
        case "uncertainty":
            return distils and options.student_loss is StudentLoss.UD
        case "teacher":
            return distils or options.recipe is Recipe.KD
        case "temperature":
            return bool(options.teacher)
        case "kd_weight":
            return options.recipe is Recipe.KD
        case "freeze" | "freeze_epochs":
            return options.recipe in (Recipe.PLAIN, Recipe.KD)
        case "bad_files":
            return options.data.startswith("folder:")
        case _:
            return True
