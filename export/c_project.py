"""A generated C project on disk: what its marker says, held against its `model.tflite`.

The marker and the model may have been edited by anyone. A project is believed only as far as
comparing needs: the model must be the one that the marker names, and every layer it lists must be
a tensor of that model.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

import ndtool
from ndtool.console import visible, visible_line
from ndtool.contract import Contract
from ndtool.errors import ContractError, FitError, InputError, MismatchError
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.codegen.engine_project import EngineModel, emit_engine
from ndtool.export.codegen.model import Golden
from ndtool.export.codegen.project import MAX_MARKER_BYTES, SCHEMA
from ndtool.export.codegen.strings import c_string
from ndtool.export.int8.ir import Graph, TensorId
from ndtool.export.tflite.reader import read_tflite
from ndtool.files import (
    read_bounded,
    sha256_bytes,
    sha256_file,
)
from ndtool.rundir import stays_inside

ARRAY: Final = "array"  # the template without an engine
POSIX: Final = "posix"
BUILD: Final = "build"  # folder of build outputs in a project
MAX_TFLITE_BYTES: Final = 256 * 1024 * 1024
MAX_BYTES: Final = 2**31  # of arena and weights
MAX_COPY_BYTES: Final = 1024 * 1024 * 1024
MAX_COPY_FILES: Final = 20_000
MAX_LABELS_BYTES: Final = 64 * 1024 * 1024
_LABEL_ROWS: Final = re.compile(r"_labels\[\w+\] = \{\n(.*?)^\};$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One call of the layer hook: a tensor of the model as the C forms it.

    `channels` is its last axis as formed; `live` the channels of the file that it has, ascending,
    None for all of them; `constants` the proved value of each of the others.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "ignore"}

    tensor: TensorId
    name: str
    bytes: int
    channels: int
    live: tuple[int, ...] | None = None
    constants: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marker:
    """The part of PREFIX.json that is read here."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "ignore"}

    schema: str
    template: str
    prefix: str
    tflite: str
    model_sha256: str
    files: dict[str, str]
    contract: Contract | None = None
    layers: tuple[Layer, ...] = ()
    arena_bytes: int | None = None
    weights_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CProject:
    """One model of a project folder.

    `files`: name -> sha256 of what codegen wrote for it.
    """

    folder: Path
    prefix: str
    template: str
    tflite: bytes
    graph: Graph
    layers: tuple[Layer, ...]
    files: Mapping[str, str]
    contract: Contract | None
    arena_bytes: int | None
    weights_bytes: int | None

    @property
    def place(self) -> str:
        """The model, for a message: a folder may hold several."""
        return visible_line(f"{visible(str(self.folder))}, model {self.prefix}")

    @property
    def input_bytes(self) -> int:
        """Of one sample: all inputs."""
        return sum(self.graph.tensor(index).elements for index in self.graph.inputs)

    @property
    def output_bytes(self) -> int:
        """Of one sample: all outputs."""
        return sum(self.graph.tensor(index).elements for index in self.graph.outputs)

    @property
    def layer_bytes(self) -> int:
        """Of one sample: all calls of the layer hook."""
        return sum(layer.bytes for layer in self.layers)

    def vectors_tested(self, printed: str) -> int:
        """Golden vectors that a self-test of this model says it ran, all of them right.

        Raises:
            MismatchError: it ended well, but says nothing of them.
        """
        line = rf"^{re.escape(self.prefix)}: (\d{{1,6}}) golden vectors: ok$"
        found = re.search(line, printed, re.MULTILINE)
        if found is None:
            raise MismatchError(
                "the self-test does not say which golden vectors it ran",
                where=self.place,
                remedy="generate the project again: ndtool codegen",
                code="verify.self-test",
            )
        return int(found[1])

    def edited(self) -> list[str]:
        """Files that are missing or not what codegen wrote, by name."""
        return [
            name
            for name, sha256 in sorted(self.files.items())
            if not (self.folder / name).is_file() or sha256_file(self.folder / name) != sha256
        ]


def require_contract(project: CProject, contract: Contract) -> None:
    """Hold the contract that the C was generated for, and the labels in it, against `contract`.

    Raises:
        InputError: another one, or other labels in the C than it was generated with.
    """
    what = ""
    if project.contract is None or project.contract.sha256() != contract.sha256():
        what = "the C is of another contract than the run's: size, normalisation or labels"
    else:
        file = project.folder / f"{project.prefix}_labels.c"
        text = read_bounded(file, MAX_LABELS_BYTES).decode("utf-8", "replace")
        found = _LABEL_ROWS.search(text)
        wanted = "".join(f"    {c_string(label)},\n" for label in contract.labels)
        if found is None or found[1] != wanted:
            what = f"{visible(file.name)} has other labels than the contract, or another order"
    if what:
        raise InputError(
            what,
            where=visible(str(project.folder)),
            remedy="generate the project again: ndtool codegen",
            code="verify.other-contract",
        )


def is_project(folder: Path) -> bool:
    """Whether `folder` holds a marker of ours."""
    return bool(_markers(folder))


def load_projects(folder: Path) -> list[CProject]:
    """The models of a project folder that have an engine, by prefix.

    Raises:
        InputError: no project with an engine, or one that does not hold together.
    """
    markers = _markers(folder)
    if not markers:
        raise no_project(folder)
    with_engine = [(path, marker) for path, marker in markers if marker.template != ARRAY]
    if not with_engine:
        raise InputError(
            "the template array holds no C engine, there is nothing to verify",
            where=visible(str(folder)),
            remedy="generate another one: ndtool codegen RUN --template posix",
            code="verify.array",
        )
    return [_load(path, marker) for path, marker in with_engine]


def arrays_beside(folder: Path) -> list[str]:
    """Prefixes of the folder's models that have no engine, which `load_projects` leaves out.

    Raises:
        InputError: a damaged marker.
    """
    return [marker.prefix for _, marker in _markers(folder) if marker.template == ARRAY]


def no_project(path: Path) -> InputError:
    """Why `path` is no project: what is there instead of a folder with a marker."""
    remedy = "name a run folder, or one that ndtool codegen wrote"
    if path.is_dir():
        what = "no C project of ndtool: no PREFIX.json marker"
        for file in sorted(path.glob("*.json")):
            # Codegen writes NAME.json beside NAME.h: what lies there and does not say so is cut.
            if file.with_suffix(".h").is_file():
                what = f"no C project of ndtool: the marker {visible(file.name)} is damaged"
                break
        remedy = "ndtool codegen --tflite FILE --out DIR"
    elif path.exists():
        what = "a file, neither a run folder nor a C project"
    else:
        what = "no such run or folder"
    return InputError(what, where=visible(str(path)), remedy=remedy, code="verify.no-project")


def _markers(folder: Path) -> list[tuple[Path, _Marker]]:
    import pydantic

    found = []
    for path in sorted(folder.glob("*.json")):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_MARKER_BYTES:
            continue
        data = path.read_bytes()
        if SCHEMA.encode("ascii") not in data:
            continue
        try:
            marker = pydantic.TypeAdapter(_Marker).validate_json(data)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "marker"
            raise _bad_marker(path, f"{key}: {first['msg']}") from None
        except ContractError as error:
            raise _bad_marker(path, error.what) from None
        if marker.schema == SCHEMA:
            found.append((path, marker))
    return found


def _bad_marker(path: Path, what: str) -> InputError:
    return InputError(
        f"the marker {visible(path.name)} is damaged: {visible(what)}",
        where=visible(str(path)),
        remedy="generate the project again: ndtool codegen RUN, or --tflite FILE --out DIR",
        code="verify.marker",
    )


def _load(path: Path, marker: _Marker) -> CProject:
    folder = path.parent
    if path.name != f"{marker.prefix}.json":
        raise _bad_marker(path, "prefix: not the file's name")
    for size in (marker.arena_bytes, marker.weights_bytes):
        if size is not None and not 0 <= size <= MAX_BYTES:
            raise _bad_marker(path, "arena_bytes, weights_bytes: out of bounds")
    for name in marker.files:
        if not stays_inside(name):
            raise _bad_marker(path, f"files: {name} leaves the folder")
    if not stays_inside(marker.tflite):
        raise _bad_marker(path, "tflite: leaves the folder")
    model = folder / marker.tflite
    tflite = read_bounded(model, MAX_TFLITE_BYTES)
    if sha256_bytes(tflite) != marker.model_sha256:
        raise InputError(
            "the reference is not the model that the C was generated from",
            where=visible(str(model)),
            remedy="put the file back, or generate the project again: ndtool codegen",
            code="verify.model-changed",
        )
    graph = read_tflite(tflite, where=visible(str(model)))
    for number, layer in enumerate(marker.layers):
        if not _is_of(layer, graph):
            raise _bad_marker(path, f"layers.{number}: not a tensor of the model")
    return CProject(
        folder=folder,
        prefix=marker.prefix,
        template=marker.template,
        tflite=tflite,
        graph=graph,
        layers=marker.layers,
        files=dict(marker.files),
        contract=marker.contract,
        arena_bytes=marker.arena_bytes,
        weights_bytes=marker.weights_bytes,
    )


def _is_of(layer: Layer, graph: Graph) -> bool:
    if not 0 <= layer.tensor < len(graph.tensors):
        return False
    tensor = graph.tensor(layer.tensor)
    if tensor.data is not None or not tensor.shape:
        return False
    whole = tensor.shape[-1]
    live = tuple(range(whole)) if layer.live is None else layer.live
    rest = set(range(whole)) - set(live)
    return (
        list(live) == sorted(set(live))
        and set(live) <= set(range(whole))
        and rest == set(layer.constants)
        and all(-128 <= value <= 127 for value in layer.constants.values())
        and layer.channels == len(live)
        and layer.bytes * whole == tensor.elements * len(live)
    )


# -- a copy to build in ----------------------------------------------------------------------------


@contextlib.contextmanager
def build_errors(project: CProject) -> Iterator[None]:
    """A build that fails in a copy names the user's folder: the copy is gone when it is read.

    Raises:
        FitError, InputError: as in the block.
    """
    where = visible(str(project.folder))
    try:
        yield
    except FitError as refusal:
        raise FitError(
            refusal.what, where=where, remedy=refusal.remedy, code=refusal.code
        ) from refusal
    except InputError as refusal:
        raise InputError(
            refusal.what,
            where=where,
            remedy="undo what was edited, or generate the project again: ndtool codegen",
            code="verify.build",
        ) from refusal


@contextlib.contextmanager
def project_as(project: CProject, template: str) -> Iterator[Path]:
    """A private copy of the project, with the build files of `template` around its own C.

    Raises:
        InputError: the project cannot be copied.
        UnsupportedError, ContractError: its model or contract is not one that codegen takes.
    """
    with private_copy(project.folder) as copy:
        if template != project.template:
            for name, data in _build_files(project, template).items():
                (copy / name).parent.mkdir(exist_ok=True)
                (copy / name).write_bytes(data)
        yield copy


@contextlib.contextmanager
def judged_program(project: CProject) -> Iterator[Path]:
    """A private folder with the project's own C, in the build files of `posix` and our program.

    For a verdict: whatever else lies in the project's folder takes no part, and the program that
    hands the C's answers over is ours, `judge.c`.

    Raises:
        InputError: a file of the project is missing.
        UnsupportedError, ContractError: as `project_as`.
    """
    with tempfile.TemporaryDirectory(prefix="ndtool-build-") as name:
        folder = Path(name)
        files = {n: read_bounded(project.folder / n, MAX_COPY_BYTES) for n in _own_c(project)}
        files[f"{project.prefix}_main.c"] = _judge(project.prefix)
        for file, data in (_build_files(project, POSIX) | files).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        yield folder


def _judge(prefix: str) -> bytes:
    """The program that asks a model of this prefix; it is written for `nd_model`."""
    source = resources.files("ndtool.firmware_templates") / "tools" / "judge.c"
    text = source.read_text("utf-8")
    return text.replace("nd_model", prefix).replace("ND_MODEL", prefix.upper()).encode("utf-8")


def _own_c(project: CProject) -> list[str]:
    """What a firmware compiles: the generated C without the program around it."""
    main = f"{project.prefix}_main.c"
    return [name for name in project.files if Path(name).suffix in (".c", ".h") and name != main]


def _build_files(project: CProject, template: str) -> dict[str, bytes]:
    """What `template` adds to the C of a model: nothing of this depends on golden vectors."""
    nothing = np.zeros((1, 0), np.int8)
    model = EngineModel(
        tflite=project.tflite,
        graph=project.graph,
        prefix=project.prefix,
        contract=project.contract,
        golden=Golden(pixels=None, inputs=nothing, outputs=nothing, engine="", origin=""),
        tool_version=ndtool.__version__,
        compiled=compile_graph(project.graph),
        arena_bytes_tflm=None,
    )
    files, own = emit_engine(model, template), set(_own_c(project))
    return {name: data for name, data in files.items() if name not in own}


@contextlib.contextmanager
def private_copy(folder: Path) -> Iterator[Path]:
    """A temporary copy of a project without its build outputs, gone after the block.

    What is built there depends on the sources alone, whatever lies in the user's build folder, and
    leaves that untouched.

    Raises:
        InputError: the folder is far too large for a project, or cannot be copied.
    """
    with tempfile.TemporaryDirectory(prefix="ndtool-build-") as name:
        copy = Path(name) / "project"
        try:
            _copy(folder, copy)
        except OSError as error:
            raise InputError(
                f"cannot copy the project to build it: {error.strerror}",
                where=visible(f"{folder} to {name}"),
                remedy="check permissions and free space; TMPDIR names another place",
                code="verify.copy",
            ) from error
        yield copy


def _copy(folder: Path, copy: Path) -> None:
    """Copy regular files, also those behind links; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise error

    count = size = 0
    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(f for f in folders if f != BUILD and not f.startswith("."))
        target = copy / Path(root).relative_to(folder)
        target.mkdir(parents=True)
        for source in (Path(root) / file for file in sorted(files)):
            if not source.is_file():  # a pipe, a device, a broken link
                continue
            count, size = count + 1, size + source.stat().st_size
            if count > MAX_COPY_FILES or size > MAX_COPY_BYTES:
                raise InputError(
                    "the folder holds far more than a C project",
                    where=visible(str(folder)),
                    remedy="keep the generated project in a folder of its own",
                    code="verify.too-large",
                )
            shutil.copyfile(source, target / source.name)
