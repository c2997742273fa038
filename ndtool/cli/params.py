"""Options shared by the verbs: same word, same meaning, everywhere (users.md, 2.3)."""

import dataclasses
import enum
import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from ndtool import console
from ndtool.config import BOARDS, find_config, load_config, load_recorded, read_toml
from ndtool.errors import ConfigError
from ndtool.options import (
    CHECK,
    CODEGEN,
    EXPORT,
    MAX_RATES,
    RATE_BOUNDS,
    TRAIN,
    TRAIN_BOUNDS,
    VERIFY,
    WORD_OF,
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

T = TypeVar("T")
_FROM_FILE: Final = "ndtool.from-file"  # in a context: table -> field -> value for that verb
_NOT_IN_FILES: Final = ("config", "json", "traceback")  # of this one call, or read before the file


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
class _Group:
    """The options of one verb: their defaults, their table in a file, and the words for them.

    Fields that are missing in `words` are not offered on the command line. Those in `inherited`
    decide what a run's files hold: repeated without them, a run keeps its own (`inherit`).
    """

    defaults: object
    table: str
    words: Mapping[str, Any]
    inherited: tuple[str, ...] = ()


_GROUPS: Final = (
    _Group(
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
    _Group(
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
    _Group(
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
    _Group(
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
    _Group(
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
_COMMON: Final[Mapping[str, tuple[Any, object]]] = {
    "as_json": (Json, False),
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
    "log_file": (LogFile, None),
    "no_color": (NoColor, False),
    "traceback": (Traceback, False),
}


def _parameter(name: str, kind: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def verb(
    *options: object, borrowed: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function `(own parameters, **values)`.

    The command has the function's own parameters, the fields of the option dataclasses `options`
    (defaults instances such as `TRAIN`) and the options every verb has. `values` are the fields.

    In a configuration file, the fields of an option dataclass are in the table of the verb that
    they are of; the table of this verb wins over those. `borrowed` are own parameters that may
    also stand in another verb's table: parameter -> that table.
    """
    groups = [group for group in _GROUPS if any(group.defaults is o for o in options)]

    def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
        if not ctx.resilient_parsing:  # shell completion
            _set_defaults(ctx, path, groups, borrowed)
        return path

    config = Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            is_eager=True,  # before the options whose defaults it sets
            callback=read_config,
            help="Options from a TOML file. [ndtool.toml]",
        ),
    ]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for p in inspect.signature(function).parameters.values()
            if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        fields = {
            name: _parameter(name, kind, getattr(group.defaults, name))
            for group in groups
            for name, kind in group.words.items()
        }
        shared = [_parameter(name, *row) for name, row in _COMMON.items()]
        everything = [*own, *fields.values(), _parameter("config", config, None), *shared]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            mode = {name: values.pop(name) for name in ("config", *_COMMON)}
            if mode["no_color"]:
                os.environ["NO_COLOR"] = "1"
            console.configure(
                quiet=mode["quiet"],
                verbose=mode["verbose"],
                as_json=mode["as_json"],
                log_file=mode["log_file"],
            )
            _require_finite(values)
            function(**values)

        command.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined] # read by Typer
        command.__annotations__ = {p.name: p.annotation for p in everything}
        return command

    return decorate


def _require_finite(values: Mapping[str, object]) -> None:
    # Bounds do not bar them: `nan < 0` is false, and many options have no upper bound.
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            flag = f"--{WORD_OF.get(name, name).replace('_', '-')}"
            raise typer.BadParameter(f"{value} is not a finite number", param_hint=f"'{flag}'")


def _set_defaults(
    ctx: typer.Context, path: Path | None, groups: list[_Group], borrowed: Mapping[str, str]
) -> None:
    """Make the values of the configuration file the defaults of this command.

    Raises:
        InputError, ConfigError: missing or unreadable, an unknown key, a value that its option
            does not take; all tables are checked, also those of other verbs.

    Boards in the file that -c names are the default of --boards.
    """
    found = path or find_config(Path.cwd())
    options = _options_of_verbs(ctx)
    if found is None or not options:
        return
    values = {
        table: {
            options[table][key].name: _checked(
                ctx, options[table][key], value, f"{table}.{key}", found
            )
            for key, value in rows.items()
        }
        for table, rows in load_config(found, options).items()
    }
    own = values.get(ctx.info_name or "", {})
    of_verb = {
        group.table: {
            field: value
            for field, value in (values.get(group.table, {}) | own).items()
            if field in group.words
        }
        for group in groups
    }
    merged = {
        field: values[table][field]
        for field, table in borrowed.items()
        if field in values.get(table, {})
    }
    if path is not None and BOARDS in read_toml(path):  # those of ndtool.toml are found without
        merged |= {BOARDS: str(path)}
        for group in groups:
            if BOARDS in group.words:
                of_verb[group.table] = {BOARDS: str(path)} | of_verb[group.table]
    for rows in of_verb.values():
        merged |= rows
    ctx.meta[_FROM_FILE] = of_verb
    ctx.default_map = merged | own


def _options_of_verbs(ctx: typer.Context) -> dict[str, dict[str, TyperOption]]:
    """Verb -> key of a configuration file -> option; empty where there is one command alone."""
    root = ctx.find_root().command
    if not isinstance(root, TyperGroup):
        return {}
    return {
        name: _options_by_key(command)
        for name, command in root.commands.items()
        if isinstance(command, TyperCommand)
    }


def _options_by_key(command: TyperCommand) -> dict[str, TyperOption]:
    """Key of a configuration file -> option: the long flag with `_`."""
    keys = {}
    for option in command.params:
        if isinstance(option, TyperOption):
            flag = next(word for word in option.opts if word.startswith("--"))
            keys[flag.removeprefix("--").replace("-", "_")] = option
    return {key: option for key, option in keys.items() if key not in _NOT_IN_FILES}


def _checked(
    ctx: typer.Context, option: TyperOption, value: object, key: str, path: Path
) -> object:
    """The value as the option's own type, as if it had been typed."""
    parser = option.type_descriptor.parameter_info.parser
    try:
        if isinstance(value, bool) != option.is_flag:
            kind = "true or false" if option.is_flag else "a value, not true or false,"
            raise typer.BadParameter(f"{kind} is needed")
        if isinstance(value, list) and parser not in (int_list, rate_list):
            raise typer.BadParameter("one value is needed, not a list")
        return option.process_value(ctx, value)
    except typer.BadParameter as problem:
        raise ConfigError(
            problem.message.removeprefix("Value error, ").rstrip("."),
            where=f"{path}: {key}",
            remedy="see --help for what this option takes",
            code="config.value",
        ) from None


def config_files(ctx: typer.Context) -> list[Path]:
    """The configuration files that options or boards of this command may be from."""
    found = (ctx.params.get("config"), find_config(Path.cwd()))
    return [path for path in found if path is not None]


def build(defaults: T, values: Mapping[str, Any]) -> T:
    """The option dataclass `defaults` with the fields that `values` names."""
    names = {f.name for f in dataclasses.fields(defaults)}  # type: ignore[arg-type] # a dataclass
    return dataclasses.replace(defaults, **{k: v for k, v in values.items() if k in names})  # type: ignore[type-var] # a dataclass


def build_part(
    ctx: typer.Context, defaults: T, values: Mapping[str, Any]
) -> tuple[T, dict[str, str]]:
    """The options of one verb inside `run`, and their origins.

    Two verbs may have a field of the same name (`seed`, `workers`): a flag sets both, a file sets
    each in the table of its verb.
    """
    (group,) = (g for g in _GROUPS if g.defaults is defaults)
    given = {k: v for k, v in origins(ctx).items() if k in group.words and v == "flag"}
    file: Mapping[str, Any] = ctx.meta.get(_FROM_FILE, {}).get(group.table, {})
    typed = {field: values[field] for field in given}
    return build(defaults, {**file, **typed}), dict.fromkeys(file, "file") | given


def inherit(
    ctx: typer.Context, defaults: T, options: T, given: Mapping[str, str], config: Path
) -> tuple[T, dict[str, str]]:
    """The options of one verb and their origins, those that nobody gave taken from its run.

    Flag > file > what the run was made with > default: a stage that is repeated without its
    options would make another model of the same weights. Said where it is not the default.

    Args:
        defaults: tells the verb: EXPORT or CODEGEN.
        given: the origins of `options` (`origins`).
        config: config.toml of the run.

    Raises:
        ConfigError: a value in `config` that its option does not take.
    """
    (group,) = (g for g in _GROUPS if g.defaults is defaults)
    wanted = [field for field in group.inherited if field not in given]
    known = _options_of_verbs(ctx).get(group.table, {})
    values, recorded, told = {}, {}, []
    for field, (value, origin) in load_recorded(config, group.table, wanted).items():
        key = WORD_OF.get(field, field)
        values[field] = _checked(ctx, known[key], value, f"{group.table}.{key}", config)
        recorded[field] = origin
        if values[field] != getattr(defaults, field):
            told.append(f"{key} {console.visible(str(values[field]))}")
    if told:
        console.info(f"{group.table}: {', '.join(told)} of this run")
    return build(options, values), {**given, **recorded}


def origins(ctx: typer.Context) -> dict[str, str]:
    """Option name -> `flag` or `file`; what is missing is a default."""
    words = {"COMMANDLINE": "flag", "DEFAULT_MAP": "file"}
    found = {}
    for key in ctx.params:
        source = ctx.get_parameter_source(key)
        if source is not None and source.name in words:
            found[key] = words[source.name]
    return found
