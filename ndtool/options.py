"""Every default, once. The command line, the config file and the docs read them here.

Take a default from an instance (`TRAIN.epochs`): with slots, the class attribute is a descriptor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ndtool.types import Converter, FcScales, Policy, Recipe, Runtime, StudentLoss


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
    expand: int = 3  # teacher's channels over the student's (paper, table 2)
    uncertainty: float = 0.54  # UD threshold as a share of ln K (training-methods, 1.4)
    epochs: int | None = None
    batch_size: int = 128
    lr: float = 0.1  # peak, for batch_size samples; not scaled by us
    warmup: float = 0.05  # share of all steps with a linearly rising lr
    momentum: float = 0.9  # Nesterov
    weight_decay: float = 4e-5  # not on biases and batch norm
    label_smoothing: float = 0.1
    clip_norm: float = 1.0  # of the final gradient; 0: off
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
    threads: int = 0  # 0: the cores, at most 4; recorded in the checkpoint
    device: str = "auto"  # auto, cpu, cuda, cuda:N
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


TRAIN: Final = TrainOptions()
EXPORT: Final = ExportOptions()
CODEGEN: Final = CodegenOptions()
VERIFY: Final = VerifyOptions()
CHECK: Final = CheckOptions()

# Lowest and highest value of each number of a training: shown by --help, and the second lock of
# `training.train` for options that come from elsewhere.
TRAIN_BOUNDS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "expand": (2, 8),
        "uncertainty": (0.0, 1.0),
        "epochs": (1, 100_000),
        "batch_size": (2, 65_536),  # batch norm needs two values
        "lr": (1e-12, 1000.0),
        "warmup": (0.0, 0.99),
        "momentum": (0.0, 0.9999),
        "weight_decay": (0.0, 10.0),
        "label_smoothing": (0.0, 0.99),
        "clip_norm": (0.0, 1e6),
        "crop_px": (0, 1024),
        "seed": (0, 2**31 - 1),
        "threads": (0, 1024),
    }
)
# Field -> the word a user types, for the fields where it is another one. Flags and the keys of
# configuration files are this word; inside the program the unit stays in the name.
WORD_OF: Final[Mapping[str, str]] = MappingProxyType(
    {"crop_px": "crop", "max_drop_points": "max_drop"}
)
