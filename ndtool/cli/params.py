"""Options shared by the verbs: same word, same meaning, everywhere (users.md, 2.3)."""

import dataclasses
import enum
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer

from ndtool import console
from ndtool.options import CHECK, CODEGEN, EXPORT, TRAIN
from ndtool.types import Converter, FcScales, Recipe, Runtime, StudentLoss

T = TypeVar("T")


class Template(enum.StrEnum):
    """Project templates of codegen."""

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
        raise typer.BadParameter(f"{text!r} is not a number") from None
    value = value / 100 if value > 1 else value
    if not 0 <= value <= 1:
        raise typer.BadParameter(f"{text!r} is not an accuracy between 0 and 100 %")
    return value


def int_list(text: str) -> tuple[int, ...]:
    """`2,1,1` -> (2, 1, 1)."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1,2,2,1") from None


RunArg = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")]
Data = Annotated[
    str,
    typer.Option(help="digits, folder:PATH, npz:FILE or fashion-mnist:DIR. Never downloads."),
]
ModelName = Annotated[str, typer.Option("--model", help="Model name; see ndtool models.")]
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
    StudentLoss, typer.Option(help="netdistiller: ud (KL where unsure, else labels) or kl.")
]
Surgery = Annotated[
    bool, typer.Option("--surgery/--no-surgery", help="netdistiller: project conflicting layers.")
]
Expand = Annotated[
    int, typer.Option(min=2, max=16, help="netdistiller: teacher's channels over the student's.")
]
Uncertainty = Annotated[
    float, typer.Option(min=0, max=1, help="netdistiller: UD threshold, share of ln K.")
]
Epochs = Annotated[int | None, typer.Option(min=1, max=100_000, help="[by source]")]
BatchSize = Annotated[int, typer.Option(min=1, max=65_536, help="Images per step.")]
LearningRate = Annotated[float, typer.Option("--lr", min=0, help="Peak learning rate.")]
Warmup = Annotated[float, typer.Option(min=0, max=0.99, help="Share of steps with rising lr.")]
Momentum = Annotated[float, typer.Option(min=0, max=0.9999, help="Of Nesterov SGD.")]
WeightDecay = Annotated[float, typer.Option(min=0, help="Not on biases and batch norm.")]
LabelSmoothing = Annotated[float, typer.Option(min=0, max=0.9, help="Wherever a label is used.")]
ClipNorm = Annotated[float, typer.Option(min=0, help="Norm bound of the gradient; 0: off.")]
Crop = Annotated[
    int | None, typer.Option("--crop", min=0, help="Padding of the random crop, px. [by source]")
]
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
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything random.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="0: chosen and recorded.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
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
MaxDrop = Annotated[
    float,
    typer.Option(
        "--max-drop", min=0, metavar="POINTS", help="From float to int8 that still passes."
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
Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Options from a TOML file. [ndtool.toml]")
]

# Option dataclass -> its fields as the words a user types. Fields that are missing here are not
# offered on the command line.
_GROUPS: Final[tuple[tuple[object, Mapping[str, Any]], ...]] = (
    (
        TRAIN,
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
            "epochs": Epochs,
            "batch_size": BatchSize,
            "lr": LearningRate,
            "warmup": Warmup,
            "momentum": Momentum,
            "weight_decay": WeightDecay,
            "label_smoothing": LabelSmoothing,
            "clip_norm": ClipNorm,
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
        },
    ),
    (
        EXPORT,
        {
            "converter": ConverterOpt,
            "calib": Calib,
            "fc": Fc,
            "workers": Workers,
            "seed": Seed,
        },
    ),
    (CODEGEN, {"template": TemplateOpt, "prefix": Prefix, "golden": Golden}),
    (
        CHECK,
        {
            "max_drop_points": MaxDrop,
            "min_accuracy": MinAccuracy,
            "runtime": RuntimeOpt,
            "workers": Workers,
        },
    ),
)
_COMMON: Final[Mapping[str, tuple[Any, object]]] = {
    "config": (Config, None),
    "as_json": (Json, False),
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
    "traceback": (Traceback, False),
}


def _parameter(name: str, kind: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def verb(*options: object) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function `(own parameters, **values)`.

    The command has the function's own parameters, the fields of the option dataclasses `options`
    (defaults instances such as `TRAIN`) and the options every verb has. `values` are the fields.
    """
    groups = [words for instance, words in _GROUPS if any(instance is o for o in options)]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(function).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        fields = {
            name: _parameter(name, kind, getattr(instance, name))
            for instance, words in zip(options, groups, strict=True)
            for name, kind in words.items()
        }
        shared = [_parameter(name, *row) for name, row in _COMMON.items()]
        everything = [*own, *fields.values(), *shared]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            mode = {name: values.pop(name) for name in _COMMON}
            console.configure(quiet=mode["quiet"], verbose=mode["verbose"], as_json=mode["as_json"])
            function(**values)

        command.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined] # read by Typer
        command.__annotations__ = {p.name: p.annotation for p in everything}
        return command

    return decorate


def build(defaults: T, values: Mapping[str, Any]) -> T:
    """The option dataclass `defaults` with the fields that `values` names."""
    names = {f.name for f in dataclasses.fields(defaults)}  # type: ignore[arg-type] # a dataclass
    return dataclasses.replace(defaults, **{k: v for k, v in values.items() if k in names})  # type: ignore[type-var] # a dataclass


def origins(ctx: typer.Context) -> dict[str, str]:
    """Option name -> `flag` or `file`; what is missing is a default."""
    words = {"COMMANDLINE": "flag", "DEFAULT_MAP": "file"}
    found = {}
    for key in ctx.params:
        source = ctx.get_parameter_source(key)
        if source is not None and source.name in words:
            found[key] = words[source.name]
    return found
