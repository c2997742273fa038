"""Options shared by the verbs: same word, same meaning, everywhere (users.md, 2.3)."""

import dataclasses
import enum
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ndtool import console
from ndtool.options import (
    CHECK,
    CODEGEN,
    EXPORT,
    MAX_RATES,
    RATE_BOUNDS,
    TRAIN,
    TRAIN_BOUNDS,
    VERIFY,
)
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


class Template(enum.StrEnum):
    """Project templates of codegen."""

    POSIX = "posix"
    CMAKE = "cmake"
    CORTEX_M_QEMU = "cortex-m-qemu"
    ARRAY = "array"


class FitChoice(enum.StrEnum):
    CROP = "crop"
    SQUASH = "squash"
    PAD = "pad"


class AlphaChoice(enum.StrEnum):
    BLACK = "black"
    WHITE = "white"
    ERROR = "error"


class NormalizeChoice(enum.StrEnum):
    UNIT = "u8/255"
    IMAGENET = "imagenet"


class BadFiles(enum.StrEnum):
    STOP = "stop"
    SKIP = "skip"


def fraction(text: str) -> float:
    """An accuracy: `.97` or `97`; values above 1 are percent."""
    try:
        value = float(text)
    except ValueError:
        raise typer.BadParameter(f"{console.visible(repr(text))} is not a number") from None
    if not 0 <= value <= 100:
        raise typer.BadParameter(f"{text!r} is not an accuracy between 0 and 100 %")
    # In decimals: the float nearest to 97.3 % is not that of 97.3 divided by 100.
    return float(Decimal(str(value)) / 100) if value > 1 else value


def size_bytes(value: object) -> int:
    """`56000`, `64K` or `1M`, or a number of a configuration file; K is 1024."""
    found = re.fullmatch(r"([0-9]{1,12})([KM]?)", str(value).upper())
    if found is None:
        raise typer.BadParameter(
            f"{console.visible(repr(value))} is not a size such as 56000, 64K or 1M"
        )
    return int(found[1]) * {"": 1, "K": 1024, "M": 1024 * 1024}[found[2]]


def int_list(value: object) -> tuple[int, ...]:
    """`2,1,1`, or a list or number of a configuration file, -> (2, 1, 1)."""
    parts = value.split(",") if isinstance(value, str) else value
    if type(value) is int:
        parts = [value]
    try:
        if isinstance(parts, list | tuple) and all(type(p) in (int, str) for p in parts):
            return tuple(int(part) for part in parts)
    except ValueError:
        pass
    raise typer.BadParameter(
        f"{console.visible(repr(value))} is not a list of numbers such as 1,2,2,1"
    )


def rate_list(value: object) -> tuple[int, ...]:
    """`2,3` -> (2, 3): the wider networks of a training."""
    rates, (low, high) = int_list(value), RATE_BOUNDS
    if not 1 <= len(rates) <= MAX_RATES or not all(low <= rate <= high for rate in rates):
        raise typer.BadParameter(
            f"{console.visible(repr(value))} is not 1 to {MAX_RATES} numbers from {low} to {high}"
        )
    return rates


def _number(field: str, *names: str, help: str) -> Any:
    """A number of the training with the bounds that training has."""
    low, high = TRAIN_BOUNDS[field]
    return typer.Option(*names, min=low, max=high, help=help)


def not_empty(ctx: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """A callback: the text of this option is not empty where it was typed.

    `--baseline "$FILE"` with nothing in the variable would silently do without a baseline.
    """
    source = ctx.get_parameter_source(parameter.name or "")
    if not value and source is not None and source.name == "COMMANDLINE":
        raise typer.BadParameter("nothing is named; leave the option out to do without")
    return value


RunArg = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")]
Data = Annotated[
    str,
    typer.Option(
        callback=not_empty,
        help="digits, folder:PATH, npz:FILE, fashion-mnist:DIR, cifar10:DIR or cifar100:DIR. "
        "Never downloads.",
    ),
]
ModelName = Annotated[
    str, typer.Option("--model", help="See ndtool models; your own: MODULE:FUNCTION.")
]
EvalData = Annotated[
    str, typer.Option("--data", callback=not_empty, help="Another place for the run's data.")
]
Width = Annotated[float, typer.Option(help="Factor on every width, such as .35.")]
Resolution = Annotated[
    int | None, typer.Option(min=1, max=4096, help="Side of the square input, px. [by source]")
]
StemStride = Annotated[
    int | None, typer.Option(min=1, max=2, help="Stride of the first convolution. [by model]")
]
Strides = Annotated[
    Any,
    typer.Option(parser=int_list, metavar="LIST", help="Of the stages: 1,1,2,2. [by model]"),
]
RecipeOpt = Annotated[Recipe, typer.Option(help="Training method.")]
StudentLossOpt = Annotated[
    StudentLoss,
    typer.Option(
        help="netdistiller: the student learns from the teacher (kl), labels (ce), both (mix), or "
        "the teacher where it is unsure itself and labels elsewhere (ud)."
    ),
]
Surgery = Annotated[
    bool,
    typer.Option(
        "--surgery/--no-surgery",
        help="netdistiller: take out of the teacher's gradient, layer by layer, what opposes the "
        "student's.",
    ),
]
Expand = Annotated[
    Any,
    typer.Option(
        parser=rate_list,
        metavar="LIST",
        help="netdistiller: how many times wider the teacher is; 2,3: with an assistant between.",
    ),
]
Uncertainty = Annotated[
    float,
    _number(
        "uncertainty",
        help="netdistiller: entropy, as a share of the largest, above which ud calls the student "
        "unsure.",
    ),
]
TeacherStart = Annotated[
    float,
    _number(
        "teacher_start", help="netdistiller: share of steps, plain ones, before the teacher joins."
    ),
]
TeacherStop = Annotated[
    float,
    _number(
        "teacher_stop", help="netdistiller: share of steps after which it leaves; then plain ones."
    ),
]
TeacherEvery = Annotated[
    int,
    _number(
        "teacher_every",
        help="netdistiller: teacher in every so many steps, the others are plain.",
    ),
]
OuterTeacher = Annotated[
    str,
    typer.Option(
        "--teacher",
        metavar="KIND:FILE",
        callback=not_empty,
        help="kd, netdistiller: a trained network to learn from: checkpoint:FILE or :RUN, "
        "onnx:FILE (pixels by --normalize) or torchvision:NAME:FILE.",
    ),
]
KdWeight = Annotated[
    float, _number("kd_weight", help="kd: share of the teacher in the loss, the rest is labels.")
]
Temperature = Annotated[
    float, _number("temperature", help="Of the soft labels of --teacher; higher is softer.")
]
InitFrom = Annotated[
    str,
    typer.Option(
        metavar="FILE|RUN",
        callback=not_empty,
        help="Start from the student of this checkpoint or run; for other classes with a new "
        "classifier.",
    ),
]
FreezeOpt = Annotated[
    Freeze,
    typer.Option(
        "--freeze",
        help="plain, kd: what keeps the values of --init-from: all but the classifier (backbone), "
        "or the batch norms.",
    ),
]
FreezeEpochs = Annotated[
    int, _number("freeze_epochs", help="For how many epochs --freeze lasts; 0: throughout.")
]
Epochs = Annotated[
    int | None, _number("epochs", help="Times through the training images. [by source]")
]
ExtendEpochs = Annotated[
    Any,
    typer.Option(
        parser=int_list,
        metavar="N",
        help="Epochs after --epochs, of a finished run too; 5,8: to 5, later to 8. "
        "[those of the run]",
    ),
]
BatchSize = Annotated[int, _number("batch_size", help="Images per step, of all processes.")]
Accumulate = Annotated[
    int,
    _number("accumulate", help="Parts of a batch that go through one by one, to save memory."),
]
LearningRate = Annotated[float, _number("lr", help="Peak learning rate.")]
Warmup = Annotated[float, _number("warmup", help="Share of steps with rising lr.")]
Momentum = Annotated[float, _number("momentum", help="Of Nesterov SGD.")]
WeightDecay = Annotated[float, _number("weight_decay", help="Not on biases and batch norm.")]
LabelSmoothing = Annotated[float, _number("label_smoothing", help="Wherever a label is used.")]
ClipNorm = Annotated[float, _number("clip_norm", help="Norm bound of the gradient; 0: off.")]
MaxSkipped = Annotated[
    int,
    _number("max_skipped", help="So many steps in a row without a finite gradient end the run."),
]
Ema = Annotated[
    float,
    _number(
        "ema",
        help="Decay, such as .99, of an average of the student's weights over the steps, which is "
        "then the result; 0: off.",
    ),
]
PrecisionOpt = Annotated[
    Precision, typer.Option("--precision", help="Of forward and backward passes.")
]
CudaGraphs = Annotated[
    bool, typer.Option("--cuda-graphs", help="GPU: record a step once and replay it.")
]
Loaders = Annotated[
    int, _number("loaders", help="folder: processes that decode while training; 0: all before it.")
]
AugmentOpt = Annotated[
    Augmentation,
    typer.Option(
        "--augment",
        help="crop: shifted by up to --crop; resized-crop: a random part of the original picture, "
        "in random colours; needs --loaders.",
    ),
]
Crop = Annotated[int | None, _number("crop_px", "--crop", help="Largest shift, px. [by source]")]
Flip = Annotated[
    bool | None, typer.Option("--flip/--no-flip", help="Random horizontal flip. [by source]")
]
Gray = Annotated[bool | None, typer.Option("--gray/--rgb", help="Colour of the input. [by source]")]
FitOpt = Annotated[FitChoice, typer.Option("--fit", help="How an image becomes a square.")]
Alpha = Annotated[AlphaChoice, typer.Option(help="What lies behind transparent pixels.")]
NormalizeOpt = Annotated[NormalizeChoice, typer.Option("--normalize", help="Pixels to reals.")]
LabelsFile = Annotated[str, typer.Option("--labels", help="File: class names in another order.")]
BadFilesOpt = Annotated[BadFiles, typer.Option("--bad-files", help="Undecodable images.")]
MaxPixels = Annotated[int, typer.Option(min=1, help="Largest image, pixels.")]
Seed = Annotated[int, _number("seed", help="Of everything random.")]
Threads = Annotated[int, _number("threads", help="Of a process; 0: its cores, at most 4.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Also keep the history for TensorBoard.")
]
Nproc = Annotated[
    int, _number("nproc", help="Processes on this machine that share each batch: one a GPU.")
]
Name = Annotated[str, typer.Option("--name", "-n", help="Run name; default: from the options.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run folders.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Redo what is up to date.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
Int8 = Annotated[bool, typer.Option("--int8/--no-int8", help="Also write the int8 TFLite file.")]
ConverterOpt = Annotated[Converter, typer.Option(help="Writer of the int8 file.")]
Calib = Annotated[int, typer.Option(min=1, max=100_000, help="Training images for the ranges.")]
Fc = Annotated[FcScales, typer.Option(help="Scales of dense layers; per-tensor for old TFLM.")]
Workers = Annotated[int, typer.Option(min=0, max=256, help="Interpreter processes; 0: cores.")]
TemplateOpt = Annotated[Template, typer.Option(help="Form of the C project.")]
Prefix = Annotated[str, typer.Option(help="Prefix of all C names.")]
Golden = Annotated[int, typer.Option(min=1, max=64, help="Golden vectors in the project.")]
On = Annotated[str, typer.Option(metavar="PLACE", help="host, qemu or qemu:BOARD.")]
RandomInputs = Annotated[
    int, typer.Option("--random", min=1, max=100_000, help="Made inputs, half of them smooth.")
]
LayersOpt = Annotated[
    bool | None,
    typer.Option("--layers/--no-layers", help="Every tensor of made inputs too. [on the host]"),
]
Target = Annotated[
    str, typer.Option(metavar="BOARD", callback=not_empty, help="Must fit it; see ndtool targets.")
]
Boards = Annotated[
    str,
    typer.Option(
        metavar="FILE", callback=not_empty, help="TOML file with more boards. [those of -c]"
    ),
]
BaselineOpt = Annotated[
    str,
    typer.Option(
        "--baseline",
        metavar="FILE",
        callback=not_empty,
        help="Accepted result to hold it against.",
    ),
]
PolicyOpt = Annotated[
    Policy | None, typer.Option(help="How a drop is judged. [the baseline's, else paired]")
]
KeepGoing = Annotated[
    bool, typer.Option("--keep-going", help="Run the models of a damaged folder, too.")
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        "--max-drop",
        min=0,
        max=100,
        metavar="POINTS",
        help="Against the baseline, and from float to int8. [the baseline's, else 1]",
    ),
]
MinAccuracy = Annotated[
    Any,
    typer.Option(parser=fraction, metavar="PCT", help="Floor of int8: .97 or 97. [none]"),
]
RuntimeOpt = Annotated[Runtime, typer.Option(help="Interpreter of the int8 hop.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the result and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Decisions and timings.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show Python's traceback of errors.")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", help="Append what goes to stderr to this file.")
]
NoColor = Annotated[bool, typer.Option("--no-color", help="As NO_COLOR=1.")]


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """The options of one verb: their defaults, their table in a file, and the words for them.

    Fields that are missing in `words` are not offered on the command line. Those in `inherited`
    decide what a run's files hold: repeated without them, a run keeps its own (`inherit`).
    """

    defaults: object
    table: str
    words: Mapping[str, Any]
    inherited: tuple[str, ...] = ()


GROUPS: Final = (
    Group(
        TRAIN,
        "train",
        {
            "data": Data,
            "model": ModelName,
            "width": Width,
            "resolution": Resolution,
            "stem_stride": StemStride,
            "strides": Strides,
            "recipe": RecipeOpt,
            "student_loss": StudentLossOpt,
            "surgery": Surgery,
            "expand": Expand,
            "uncertainty": Uncertainty,
            "teacher_start": TeacherStart,
            "teacher_stop": TeacherStop,
            "teacher_every": TeacherEvery,
            "teacher": OuterTeacher,
            "kd_weight": KdWeight,
            "temperature": Temperature,
            "init_from": InitFrom,
            "freeze": FreezeOpt,
            "freeze_epochs": FreezeEpochs,
            "epochs": Epochs,
            "extend_epochs": ExtendEpochs,
            "batch_size": BatchSize,
            "accumulate": Accumulate,
            "lr": LearningRate,
            "warmup": Warmup,
            "momentum": Momentum,
            "weight_decay": WeightDecay,
            "label_smoothing": LabelSmoothing,
            "clip_norm": ClipNorm,
            "max_skipped": MaxSkipped,
            "ema": Ema,
            "precision": PrecisionOpt,
            "cuda_graphs": CudaGraphs,
            "loaders": Loaders,
            "augment": AugmentOpt,
            "crop_px": Crop,
            "flip": Flip,
            "gray": Gray,
            "fit": FitOpt,
            "alpha": Alpha,
            "normalize": NormalizeOpt,
            "labels": LabelsFile,
            "bad_files": BadFilesOpt,
            "max_pixels": MaxPixels,
            "seed": Seed,
            "threads": Threads,
            "device": Device,
            "tensorboard": TensorBoard,
            "nproc": Nproc,
            "target": Target,
            "boards": Boards,
        },
    ),
    Group(
        EXPORT,
        "export",
        {
            "converter": ConverterOpt,
            "calib": Calib,
            "fc": Fc,
            "workers": Workers,
            "seed": Seed,
        },
        inherited=("seed", "calib", "fc", "converter"),
    ),
    Group(
        CODEGEN,
        "codegen",
        {
            "template": TemplateOpt,
            "prefix": Prefix,
            "golden": Golden,
            "target": Target,
            "boards": Boards,
        },
        inherited=("prefix", "golden"),
    ),
    Group(
        VERIFY,
        "verify",
        {
            "on": On,
            "random": RandomInputs,
            "layers": LayersOpt,
            "seed": Seed,
            "workers": Workers,
        },
    ),
    Group(
        CHECK,
        "check",
        {
            "baseline": BaselineOpt,
            "policy": PolicyOpt,
            "max_drop_points": MaxDrop,
            "min_accuracy": MinAccuracy,
            "keep_going": KeepGoing,
            "runtime": RuntimeOpt,
            "workers": Workers,
        },
    ),
)
COMMON: Final[Mapping[str, tuple[Any, object]]] = {
    "as_json": (Json, False),
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
    "log_file": (LogFile, None),
    "no_color": (NoColor, False),
    "traceback": (Traceback, False),
}
