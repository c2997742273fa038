"""What a user names as a network (a model, a run, an .onnx or a .tflite) as a program to analyse.

A model name, an ONNX file and a run without an int8 file are compiled with made-up weights, dead
channels kept: upper bounds. An int8 file is compiled as codegen does it.
"""

from __future__ import annotations

import difflib
import re
import shlex
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final

from ndtool import console
from ndtool.arch import ArchSpec, count_parameters
from ndtool.config import load_run_table
from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.errors import ConfigError, InputError
from ndtool.export.analyze import (
    Analysis,
    analyze,
    compile_float,
    compile_spec,
    constant_count,
    default_contract,
    describe_spec,
)
from ndtool.export.codegen.engine import Compiled, compile_graph
from ndtool.export.fit import Design
from ndtool.export.graph.from_onnx import read_onnx
from ndtool.export.student import load_student_spec, load_train_spec
from ndtool.export.tflite.reader import read_tflite
from ndtool.files import read_bounded
from ndtool.models import MODELS
from ndtool.models.own import is_own_model
from ndtool.rundir import (
    CONFIG,
    ONNX,
    SPEC,
    STUDENT_SPEC,
    TFLITE,
    RunDir,
    find_run,
    is_run,
)

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
_STRIDES: Final = re.compile(r"[12](,[12]){0,15}")
_TFLITE_MARK: Final = b"TFL3"  # at byte 4 of a flatbuffer of that schema


class Kind(StrEnum):
    """What was named."""

    MODEL = "model"
    RUN = "run"
    ONNX = "onnx"
    TFLITE = "tflite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One network on the engine. `spec` and `design` are None where it is not one of our models."""

    kind: Kind
    what: str
    compiled: Compiled
    upper_bound: bool
    params: int | None = None
    contract: Contract | None = None
    spec: ArchSpec | None = None
    design: Design | None = None

    def analyze(self, core: str) -> Analysis:
        """Its figures on `core`, a word of boards.toml."""
        return analyze(
            self.compiled,
            what=self.what,
            params=self.params,
            upper_bound=self.upper_bound,
            core=core,
            contract=self.contract,
        )


def load_network(name: str) -> Network:
    """The run or file of that name.

    Raises:
        InputError: there is none, or it is damaged.
        UnsupportedError: names everything in it that cannot be converted or has no C.
    """
    if is_run(name):
        return _run_network(find_run(name))
    path = Path(name)
    if path.is_dir() or not path.exists():
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            "no run in this folder" if path.is_dir() else "no such model, run or file",
            where=visible(name),
            remedy=f"{hint}name a model (ndtool models), a run folder, an .onnx or .tflite file",
            code="analyze.unknown",
        )
    data = read_bounded(path, MAX_FILE_BYTES)
    shown = visible(name)
    if path.suffix.lower() == ".tflite" or data[4:8] == _TFLITE_MARK:
        return _tflite_network(data, what=shown)
    return _onnx_network(data, what=shown)


def spec_network(spec: ArchSpec, design: Design | None) -> Network:
    """A network of ours before it is trained."""
    return Network(
        kind=Kind.MODEL,
        what=describe_spec(spec),
        compiled=compile_spec(spec),
        params=count_parameters(spec),
        contract=default_contract(spec),
        upper_bound=True,
        spec=spec,
        design=design,
    )


def _tflite_network(data: bytes, *, what: str) -> Network:
    compiled = compile_graph(read_tflite(data, where=what))
    return Network(kind=Kind.TFLITE, what=what, compiled=compiled, upper_bound=False)


def _onnx_network(data: bytes, *, what: str) -> Network:
    graph = read_onnx(data, where=what)
    return Network(
        kind=Kind.ONNX,
        what=what,
        compiled=compile_float(graph, where=what),
        params=constant_count(graph),
        upper_bound=True,
    )


# ---- runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What of the table [train] in a run's config.toml decides the architecture."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "ignore"}

    model: str
    width: float
    stem_stride: int | None = None
    strides: str = ""


def _run_network(run: RunDir) -> Network:
    """Of its int8 file; where there is none, of its architecture or of its ONNX file."""
    shown = visible(str(run.path))
    contract = run.contract()
    spec, design = _architecture(run, contract)
    what = shown if spec is None else f"{shown}: {describe_spec(spec)}"
    if run.has(TFLITE):
        if "int8" in run.stale_stages():
            command = shlex.join(("ndtool", "export", str(run.path), "--int8"))
            text = f"the int8 file is older than the network: {command}"
            console.warn("analyze.int8-stale", text)
        made = _tflite_network(
            read_bounded(run / TFLITE, MAX_FILE_BYTES), what=visible(str(run / TFLITE))
        )
        if spec is not None:
            made = replace(made, params=count_parameters(spec), spec=spec, design=design)
    elif spec is not None:
        made = spec_network(spec, design)
    elif run.has(ONNX):
        made = _onnx_network(
            read_bounded(run / ONNX, MAX_FILE_BYTES), what=visible(str(run / ONNX))
        )
    else:
        raise InputError(
            "no network in the run folder",
            where=shown,
            remedy="train it first: ndtool train",
            code="analyze.no-network",
        )
    return replace(made, kind=Kind.RUN, what=what, contract=contract)


def _architecture(run: RunDir, contract: Contract) -> tuple[ArchSpec | None, Design | None]:
    """The run's spec, and as which of our models it can be had in other sizes."""
    spec = load_student_spec(run) if run.has(STUDENT_SPEC) else None
    trained = _trained(run)
    if trained is None:
        return spec, None
    if is_own_model(trained.model):
        # Not imported here: the folder may be another's, and its word is not to run any code.
        return spec or (load_train_spec(run) if run.has(SPEC) else None), None
    pixels = contract.input
    design = Design(
        model=trained.model,
        in_channels=pixels.channels,
        classes=contract.num_classes,
        stem_stride=trained.stem_stride,
        strides=tuple(map(int, trained.strides.split(","))) if trained.strides else None,
        contract=contract,
    )
    of_config = design.spec((trained.width, pixels.height))
    if spec is None:
        return of_config, design
    return spec, design if spec == of_config else None


def _trained(run: RunDir) -> _Trained | None:
    """What config.toml says of the training; None where it has no such table.

    Raises:
        ConfigError: a value of another type.
    """
    import pydantic

    where = visible(str(run / CONFIG))
    table = load_run_table(run / CONFIG, "train")
    if not table:
        return None
    try:
        trained = pydantic.TypeAdapter(_Trained).validate_python(table)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise _bad_config(f"train.{visible(key)}: {first['msg']}", where) from None
    if trained.strides and not _STRIDES.fullmatch(trained.strides):
        raise _bad_config("train.strides is no list of strides", where)
    return trained


def _bad_config(what: str, where: str) -> ConfigError:
    return ConfigError(what, where=where, remedy="mend that line", code="config.value")
