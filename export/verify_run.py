"""`ndtool verify` of a project folder or of a run, and the hop C of a run's test images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndtool import console
from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.data.types import Split
from ndtool.errors import ConfigError, DataError, InputError, ToolMissingError
from ndtool.evaluate import accuracy
from ndtool.export import toolchain
from ndtool.export.c_project import (
    POSIX,
    CProject,
    is_project,
    judged_program,
    load_projects,
    project_as,
    require_contract,
)
from ndtool.export.codegen.boards import BOARDS, DEFAULT_BOARD, Board, find_board
from ndtool.export.elf_facts import read_elf_facts
from ndtool.export.hops import (
    HopPrediction,
    c_prediction,
    require_shape,
    store_predictions,
    stored_int8,
)
from ndtool.export.host_binary import HostProgram, build_host, compiler_name
from ndtool.export.profile import Profile, profile
from ndtool.export.qemu_engine import QemuProgram, build_qemu
from ndtool.export.run_data import evaluation_set, present_data
from ndtool.export.runners import run_int8
from ndtool.export.verify import (
    compare_outputs,
    compare_samples,
    make_samples,
    require_bounded,
)
from ndtool.files import (
    sha256_bytes,
    sha256_file,
)
from ndtool.options import VerifyOptions
from ndtool.quant.pixels import quantize_pixels
from ndtool.rundir import (
    CODEGEN,
    CONTRACT,
    PREDICTIONS,
    TFLITE,
    RunDir,
    StageKey,
    StageOutput,
    Value,
    run_stage,
)
from ndtool.types import Runtime

I8 = NDArray[np.int8]

HOST: Final = "host"
QEMU: Final = "qemu"
CORTEX_M: Final = "cortex-m-qemu"
CMAKE: Final = "cmake"
# Templates with an engine, the preferred first: the place's own needs no other build files.
ON_HOST: Final = (POSIX, CMAKE, CORTEX_M)
ON_QEMU: Final = (CORTEX_M, POSIX, CMAKE)
PACKAGES: Final = ("tflite-micro", "numpy")
MAX_NAMED: Final = 3  # edited files in a warning


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """Test images as the C takes them, and the reference's answers; both int8 (N, bytes)."""

    inputs: I8
    outputs: I8


def find_place(word: str) -> Board | None:
    """The board of `--on qemu` or `--on qemu:BOARD`; None for `host`.

    Raises:
        ConfigError: neither of these, or an unknown board.
    """
    if word == HOST:
        return None
    kind, _, name = word.partition(":")
    names = [board.name for board in BOARDS]
    if kind != QEMU or (name and name not in names):
        raise ConfigError(
            f"no such place to run C: {visible(word)}",
            where="--on",
            remedy=f"use host, qemu, or qemu:BOARD with one of {', '.join(names)}",
            code="verify.on",
        )
    return find_board(name or DEFAULT_BOARD)


def settled(options: VerifyOptions) -> VerifyOptions:
    """The options with `layers` decided: emulation is too slow to do it unasked."""
    if options.layers is not None:
        return options
    return replace(options, layers=find_place(options.on) is None)


def verify_project(
    project: CProject, options: VerifyOptions, *, images: Images | None = None
) -> dict[str, Value]:
    """Build the project's C, run it where `options.on` says, compare with tflite_micro.

    Made inputs come first, with every tensor if `options.layers`, so that a difference is named
    where it begins; then the golden vectors, by the self-test; then the outputs of `images`.
    Gives figures for metrics.json: what was compared and found equal, and what was measured on the
    way.

    Raises:
        ConfigError: a place that is none, or too many samples.
        InputError: it does not compile.
        MismatchError: any byte differs; names where.
        ToolMissingError: a compiler, an emulator or the reference.
    """
    options = settled(options)
    board = find_place(options.on)
    require_bounded(project, options.random, layers=bool(options.layers))
    if edited := project.edited():
        names = [visible(name) for name in edited[:MAX_NAMED]]
        names += [f"{len(edited) - MAX_NAMED:,} more"] if len(edited) > MAX_NAMED else []
        console.warn("verify.edited", f"not what codegen wrote: {', '.join(names)}")
    with project_as(project, POSIX if board is None else CORTEX_M) as folder:
        program = _build(project, folder, board, layers=False)
        programs = [_build(project, folder, board, layers=True)] if options.layers else []
        samples = make_samples(project.graph, options.random, options.seed)
        compare_samples(project, [*programs, program], samples, workers=options.workers)
        count = options.random + program.self_test()
        if images is not None:
            compare_outputs(project, program, images.inputs, images.outputs)
            count += len(images.inputs)
        measured = _measure(program) if isinstance(program, QemuProgram) else {}
    tensors = {layer.tensor for layer in project.layers if options.layers}
    sizes = {"arena_bytes": project.arena_bytes, "weights_bytes": project.weights_bytes}
    known = {key: value for key, value in sizes.items() if value is not None}
    end = "" if board is None else f"_{core_word(board)}"
    compiler = compiler_name() if board is None else toolchain.version_of("arm-none-eabi-gcc")
    return {
        **known,
        f"verified_tensors{end}": len(tensors | set(project.graph.outputs)),
        f"bit_exact{end}": f"{count}/{count}",
        f"compiler{end or '_host'}": compiler,
        **measured,
    }


def _build(
    project: CProject, folder: Path, board: Board | None, *, layers: bool
) -> HostProgram | QemuProgram:
    if board is None:
        return build_host(project, folder, layers=layers)
    return build_qemu(project, folder, board, layers=layers)


def core_word(board: Board) -> str:
    """`cortex_m4`, as the keys of metrics.json have it."""
    return f"cortex_{board.core}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """What was measured of a project's firmware; `instructions` is None where not counted."""

    flash_bytes: int
    instructions: int | None


def measure_firmware(project: CProject, board: Board, *, count: bool) -> Firmware:
    """Build the project's firmware for `board`; with `count`, run one inference of it in QEMU.

    Raises:
        ToolMissingError: compiler, emulator, or what counts in it.
        NdError: it does not compile, fit the board or run.
    """
    with project_as(project, CORTEX_M) as folder:
        program = build_qemu(project, folder, board, layers=False)
        return Firmware(
            flash_bytes=read_elf_facts(program.elf, project.prefix).flash_bytes,
            instructions=_count(program).instructions if count else None,
        )


def _measure(program: QemuProgram) -> dict[str, Value]:
    """Instructions on the board's core; on the default board also sizes and stack."""
    board, prefix = program.board, program.project.prefix
    figures: dict[str, Value] = {}
    try:
        counted = _count(program)
        figures[f"instructions_{core_word(board)}"] = counted.instructions
        if board.name == DEFAULT_BOARD:
            facts = read_elf_facts(program.elf, prefix)
            figures |= {
                "flash_bytes": facts.flash_bytes,
                "code_bytes": facts.code_bytes,
                "stack_bytes": program.stack_bytes,
            }
    except ToolMissingError as missing:
        console.warn("verify.not-measured", f"sizes and instructions not measured: {missing}")
    return figures


def count_instructions(project: CProject, on: str) -> Profile:
    """Instructions of one inference by function, on the board of `on`, the default one for `host`.

    Raises:
        ToolMissingError: compiler, emulator, or what counts in it.
    """
    board = find_place(on) or find_board(DEFAULT_BOARD)
    with project_as(project, CORTEX_M) as folder:
        return _count(build_qemu(project, folder, board, layers=False))


def _count(program: QemuProgram) -> Profile:
    """Of an input that depends on the model alone: where kernels branch, counts follow the data."""
    project = program.project
    sample = make_samples(project.graph, 1, 0)[0]
    return profile(program.elf, program.board.name, project.prefix, sample.tobytes())


# -- a run folder ----------------------------------------------------------------------------------


def run_project(run: RunDir, on: str = HOST) -> CProject | None:
    """The run's C project with an engine, of several the one that fits `on`; None without one.

    Raises:
        ConfigError: `on` is no place.
        InputError: it does not hold together, or is of another model than the run's.
    """
    templates = ON_HOST if find_place(on) is None else ON_QEMU
    folders = [run / f"{CODEGEN}/{template}" for template in templates]
    found = [load_projects(folder)[0] for folder in folders if is_project(folder)]
    if not found or not run.has(TFLITE):
        return next(iter(found), None)
    model = sha256_file(run / TFLITE)
    for project in found:
        if sha256_bytes(project.tflite) == model:
            return project
    raise _other_model(run, found[0])


def _other_model(run: RunDir, project: CProject) -> InputError:
    return InputError(
        "the C is of another int8 model than the run's",
        where=visible(str(project.folder)),
        remedy=f"ndtool codegen {run.path} --template {project.template}",
        code="verify.other-model",
    )


def other_projects(run: RunDir, project: CProject) -> list[Path]:
    """Folders of the run's C projects with an engine, without that of `project`."""
    folders = [run / f"{CODEGEN}/{template}" for template in ON_HOST]
    return [folder for folder in folders if folder != project.folder and is_project(folder)]


def require_run_project(run: RunDir, on: str) -> CProject:
    """`run_project`, which must be there.

    Raises:
        InputError: there is none.
    """
    project = run_project(run, on)
    if project is None:
        raise InputError(
            "no C project with an engine in the run folder",
            where=str(run.path),
            remedy=f"ndtool codegen {run.path}",
            code="verify.no-c",
        )
    return project


def verify_stage(run: RunDir, options: VerifyOptions, *, force: bool) -> dict[str, Value]:
    """Verify the run's C, on the host with all test images too; gives the stage's figures.

    Raises:
        InputError: no C project. And what `verify_project` raises.
    """
    project = require_run_project(run, options.on)
    options = settled(options)
    board = find_place(options.on)
    inside = project.folder.relative_to(run.path).as_posix()
    key = StageKey(
        stage="verify" if board is None else f"verify:{board.name}",
        version=2,
        options={
            "project": inside,
            "random": options.random,
            "layers": options.layers,
            "seed": options.seed,
        },
        files=(
            TFLITE,
            CONTRACT,
            *((f"{PREDICTIONS}/int8.npz",) if board is None else ()),
            *(f"{inside}/{name}" for name in sorted(project.files)),
        ),
        sources=present_data(run) if board is None else {},
    )

    def work() -> StageOutput:
        images = _test_images(run) if board is None else None
        if images is None:
            return StageOutput(files=(), figures=verify_project(project, options))
        answers = _reference_answers(run, project, images, options.workers)
        inputs = quantize_pixels(images.images, run.contract()).reshape(len(images), -1)
        figures = verify_project(project, options, images=Images(inputs=inputs, outputs=answers))
        # Every byte of the C's answers has just been found to be the reference's.
        hop = c_prediction(answers, project.graph, str(figures["compiler_host"]))
        names = store_predictions(run, [hop], images)
        figures["accuracy_c"] = accuracy(hop.predicted, images.labels).fraction
        figures["agreement_c"] = 1.0
        return StageOutput(files=tuple(names), figures=figures)

    run_stage(run, key, work, force=force, packages=PACKAGES, seed=options.seed)
    return dict(run.manifest().stages[key.stage].figures)


def _test_images(run: RunDir) -> Split | None:
    """The test part; None, with a warning, where the data is out of reach."""
    try:
        return evaluation_set(run)
    except (DataError, InputError) as problem:
        console.warn("verify.no-images", f"test images not compared: {problem}")
        return None


def _reference_answers(run: RunDir, project: CProject, images: Split, workers: int) -> I8:
    """tflite_micro's int8 (N, K): what the predict stage kept, if that is still true of both."""
    stored = stored_int8(run, images)
    if stored is not None:
        return stored
    inputs = quantize_pixels(images.images, run.contract())
    with console.progress("reference", len(images)) as bar:
        result = run_int8(
            project.tflite, inputs, runtime=Runtime.TFLM, workers=workers, progress=bar.update
        )
    return result.outputs


def judged_projects(run: RunDir) -> list[CProject]:
    """Every C project of the run that has an engine: each of them may be flashed.

    Raises:
        InputError: one does not hold together, or is of another model or contract than the run's.
    """
    folders = [run / f"{CODEGEN}/{template}" for template in ON_HOST]
    found = [project for f in folders if is_project(f) for project in load_projects(f)]
    for project in found:
        if run.has(TFLITE) and sha256_bytes(project.tflite) != sha256_file(run / TFLITE):
            raise _other_model(run, project)
        require_contract(project, run.contract())
    return found


def predict_c(project: CProject, images: Split, contract: Contract) -> HopPrediction:
    """What the project's C says of every image, in a program of our own on this machine.

    Raises:
        ToolMissingError: no compiler.
        InputError, MismatchError: the C does not compile or run.
    """
    compiler = compiler_name()
    with judged_program(project) as folder, console.progress("C", len(images)) as bar:
        program = build_host(project, folder, layers=False)
        program.require_self_test()
        rows = []
        for start in range(0, len(images), program.chunk):
            pixels = images.images[start : start + program.chunk]
            inputs = quantize_pixels(pixels, contract).reshape(len(pixels), -1)
            rows.append(program.run(inputs)[0])
            bar.update(start + len(pixels))
    hop = c_prediction(np.concatenate(rows), project.graph, f"C, {compiler}")
    require_shape(hop, len(images), contract)
    return hop
