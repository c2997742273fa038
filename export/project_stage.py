"""`ndtool codegen` as a stage: one run folder or one .tflite file to a C project."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ndtool import console
from ndtool.console import visible
from ndtool.contract import Contract, load_contract
from ndtool.data.types import Split
from ndtool.errors import InputError
from ndtool.export.codegen import array
from ndtool.export.codegen.array import ArrayModel, emit_array
from ndtool.export.codegen.emit import emit_program
from ndtool.export.codegen.engine_project import EngineModel, emit_engine
from ndtool.export.codegen.model import ALONE, FolderNames, marker_name
from ndtool.export.codegen.project import folder_names, write_project
from ndtool.export.firmware import Source, build_array_model, build_engine_model
from ndtool.export.int8.ir import op_name
from ndtool.export.layers import op_macs
from ndtool.export.run_data import evaluation_set, open_run_data, present_data
from ndtool.export.tflite.reader import read_tflite
from ndtool.files import read_bounded
from ndtool.options import CodegenOptions
from ndtool.rundir import (
    CODEGEN,
    CONTRACT,
    METRICS,
    TFLITE,
    RunDir,
    StageKey,
    StageOutput,
    Value,
    run_stage,
)

MAX_TFLITE_BYTES: Final = 256 * 1024 * 1024
PACKAGES: Final = ("jinja2", "tflite-micro", "numpy")


def codegen_stage(
    run: RunDir, options: CodegenOptions, *, force: bool, data: str = ""
) -> dict[str, Value]:
    """Write codegen/TEMPLATE of one run; gives its figures.

    Args:
        data: another place for the run's data; "" for the one it was trained on.

    Raises:
        InputError: there is no int8 file, the folder does not hold together, or `data` cannot be
            opened.
        DataError: `data` is other data.
    """
    if data:  # looked at where the stage is up to date, too
        open_run_data(run, data)
    own = ("codegen", "predict", "verify", "fit", f"{CODEGEN}/", METRICS)
    wrong = [problem for problem in run.problems() if not problem.startswith(own)]
    if wrong or not run.has(TFLITE):
        raise InputError(
            wrong[0] if wrong else "no int8 model",
            where=str(run / TFLITE),
            remedy=f"ndtool export {run.path} --int8",
            code="codegen.no-int8",
        )
    folder = f"{CODEGEN}/{options.template}"
    stage = f"codegen:{options.template}"
    key = StageKey(
        stage=stage,
        version=3,
        options={"prefix": options.prefix, "golden": options.golden},
        files=(TFLITE, CONTRACT),
        sources=present_data(run, data),
    )

    def work() -> StageOutput:
        model = _model(
            read_bounded(run / TFLITE, MAX_TFLITE_BYTES),
            contract=run.contract(),
            images=evaluation_set(run, data),
            options=options,
        )
        files = _emit(model, options.template, ALONE)
        # The run has one model; under another prefix it takes the old one's place.
        write_project(run / folder, files, marker=marker_name(options.prefix), only=True)
        run.forget_stale("verify")
        return StageOutput(files=tuple(f"{folder}/{n}" for n in files), figures=_figures(model))

    run_stage(run, key, work, force=force, packages=PACKAGES)
    return dict(run.manifest().stages[stage].figures)


def codegen_file(
    tflite: Path, *, contract_path: Path | None, options: CodegenOptions, out: Path
) -> dict[str, Value]:
    """Write the C project of any full-int8 file into `out`; gives its figures."""
    contract = None if contract_path is None else load_contract(contract_path)
    data = read_bounded(tflite, MAX_TFLITE_BYTES)
    read_tflite(data, where=visible(str(tflite)))  # refusals name the user's file
    model = _model(data, contract=contract, images=None, options=options)
    files = _emit(model, options.template, folder_names(out, options.prefix))
    write_project(out, files, marker=marker_name(options.prefix))
    return _figures(model)


def _model(
    data: bytes, *, contract: Contract | None, images: Split | None, options: CodegenOptions
) -> ArrayModel | EngineModel:
    source = Source(
        tflite=data,
        contract=contract,
        pixels=None if images is None else images.images,
        prefix=options.prefix,
        golden=options.golden,
    )
    with console.progress("golden vectors", options.golden) as bar:
        build = build_array_model if options.template == array.TEMPLATE else build_engine_model
        model: ArrayModel | EngineModel = build(source, progress=bar.update)
    if model.source_sha256 is not None:
        what = "float input or output cut off at QUANTIZE/DEQUANTIZE: the C takes and gives int8"
        console.warn("codegen.float-ends", what)
    return model


def _emit(model: ArrayModel | EngineModel, template: str, names: FolderNames) -> dict[str, bytes]:
    if isinstance(model, ArrayModel):
        return emit_array(model, names=names)
    return emit_engine(model, template, names=names)


def _figures(model: ArrayModel | EngineModel) -> dict[str, Value]:
    figures: dict[str, Value] = {
        "tflite_bytes": len(model.tflite),
        "ops": " ".join(sorted({op_name(op) for op in model.graph.ops})),
        "macs": sum(op_macs(model.graph, op) for op in model.graph.ops),
    }
    if isinstance(model, ArrayModel):
        return figures | {"arena_bytes_tflm": model.arena_bytes}
    text = emit_program(model.compiled, prefix=model.prefix)
    return figures | {
        "arena_bytes": model.compiled.plan.total,
        "arena_bytes_tflm": model.arena_bytes_tflm,
        "weights_bytes": text.weights_bytes,
    }
