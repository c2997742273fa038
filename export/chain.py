"""The stages from the student's weights to the int8 file, each a function over the run folder.

extract -> onnx -> ranges -> int8 -> predict. Every stage reads files of earlier ones, writes its
own and records itself; what is up to date is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ndtool import console
from ndtool.arch import count_macs, count_parameters
from ndtool.contract import load_contract
from ndtool.data import open_source
from ndtool.data.types import DataOptions, Split
from ndtool.errors import ConfigError, GateError, InputError, require
from ndtool.export.graph.from_onnx import read_onnx
from ndtool.export.graph.names import tensor_names
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.export.hops import (
    data_sha256,
    evaluation_set,
    hop_figures,
    hop_rows,
    open_run_data,
    predict_hops,
    rows_of_figures,
    store_predictions,
)
from ndtool.export.layers import layers_csv
from ndtool.export.ranges import load_ranges, measure_ranges, ranges_text
from ndtool.export.runners import choose_runtime
from ndtool.export.student import load_student
from ndtool.export.tflite.lint import Finding, Severity, lint
from ndtool.export.tflite.reader import read_tflite
from ndtool.gates.hops import HopRow
from ndtool.options import ExportOptions
from ndtool.prepare import source_sha256
from ndtool.quant.pixels import input_quantization, normalize_pixels
from ndtool.rundir import (
    BEST,
    CONTRACT,
    LABELS,
    LAYERS,
    ONNX,
    RANGES,
    STUDENT,
    STUDENT_SPEC,
    TENSORS,
    TFLITE,
    RunDir,
    StageKey,
    StageOutput,
    json_text,
    read_bounded,
    run_stage,
)
from ndtool.types import Converter, Part

MAX_ONNX_BYTES: Final = 512 * 1024 * 1024
_TFLITE_REMEDY: Final = "report the file: the converter must never write this"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What export found, for the summary."""

    rows: tuple[HopRow, ...]
    findings: tuple[Finding, ...]


def export_run(run: RunDir, options: ExportOptions, *, force: bool) -> ExportResult:
    """All stages of `ndtool export`; without `int8` it stops at ONNX."""
    if "import" not in run.manifest().stages:
        extract(run, force=force)
        write_onnx_stage(run, force=force)
    findings: tuple[Finding, ...] = ()
    if options.int8:
        ranges_stage(run, options, force=force)
        findings = int8_stage(run, options, force=force)
    rows = predict_stage(run, options, force=force)
    return ExportResult(rows=tuple(rows), findings=findings)


def extract(run: RunDir, *, force: bool) -> None:
    """student.safetensors from the best checkpoint; a folder without train/ has it already.

    Raises:
        InputError: neither checkpoint nor student.
    """
    if not run.has(BEST):
        if not run.has(STUDENT):
            raise InputError(
                "no trained network in the run folder",
                where=str(run / BEST),
                remedy="train it first: ndtool train",
                code="run.untrained",
            )
        console.info("extract: no train/ here, the student is taken as it is")
        return
    require("torch")
    from ndtool.export.extract import extract_stage

    extract_stage(run, force=force)


def import_onnx(
    path: Path, *, contract_path: Path, calib_data: str, out: Path, force: bool
) -> RunDir:
    """A run folder around somebody else's ONNX file, its contract and its data.

    Raises:
        InputError, UnsupportedError, ContractError: the file cannot be used; nothing is written.
    """
    contract = load_contract(contract_path)
    data = _read_onnx_file(path)
    graph = read_onnx(data, where=str(path))
    shape = graph.tensors[graph.inputs[0]].shape
    spec = contract.input
    if shape != (1, spec.height, spec.width, spec.channels):
        raise InputError(
            f"the model's input is {shape[1]}x{shape[2]}x{shape[3]}, the contract's"
            f" {spec.height}x{spec.width}x{spec.channels}",
            where=str(path),
            remedy=f"mend {contract_path}",
            code="contract.shape",
        )
    source = open_source(calib_data, DataOptions())
    if source.info.labels != contract.labels:
        raise ConfigError(
            "the data's labels are not the contract's",
            where=f"--calib-data {calib_data}",
            remedy="use the data that the model was trained on, or mend the contract",
            code="data.labels-differ",
        )
    run = RunDir(out)
    key = StageKey(
        stage="import",
        version=1,
        options={"data": calib_data, "onnx": path.name},
        sources={"data": source_sha256(source), "contract": contract.sha256()},
    )

    def work() -> StageOutput:
        labels = "".join(f"{label}\n" for label in contract.labels)
        names = (
            run.write_text(CONTRACT, contract.to_file_text()),
            run.write_bytes(LABELS, labels.encode("utf-8", "surrogateescape")),
            run.write_bytes(ONNX, data),
            run.write_text(TENSORS, json_text(tensor_names(graph, None))),
        )
        return StageOutput(files=names)

    run_stage(run, key, work, force=force)
    return run


def _read_onnx_file(path: Path) -> bytes:
    return read_bounded(path, MAX_ONNX_BYTES)


def write_onnx_stage(run: RunDir, *, force: bool) -> None:
    """model.onnx and tensors.json from the student."""
    key = StageKey(stage="onnx", version=1, options={}, files=(STUDENT, STUDENT_SPEC, CONTRACT))

    def work() -> StageOutput:
        spec, tensors = load_student(run)
        data = write_onnx(spec, tensors)
        graph = read_onnx(data, where=ONNX)
        names = (
            run.write_bytes(ONNX, data),
            run.write_text(TENSORS, json_text(tensor_names(graph, spec))),
        )
        figures = {"params": count_parameters(spec), "macs": count_macs(spec)}
        return StageOutput(files=names, figures=figures)

    run_stage(run, key, work, force=force, packages=("onnx", "numpy"))


def ranges_stage(run: RunDir, options: ExportOptions, *, force: bool) -> None:
    """ranges.json: min-max of every activation over a recorded sample of the training part."""
    key = StageKey(
        stage="ranges",
        version=1,
        options={"calib": options.calib, "seed": options.seed, "method": "min-max"},
        files=(ONNX, CONTRACT),
        sources=data_sha256(run),
    )

    def work() -> StageOutput:
        sample = calibration_sample(run, options)
        data = (run / ONNX).read_bytes()
        graph = read_onnx(data, where=ONNX)
        names = sorted({t.source for t in graph.tensors.values() if t.data is None and t.source})
        pixels = normalize_pixels(sample.images, run.contract()).transpose(0, 3, 1, 2)
        ranges = measure_ranges(data, np.ascontiguousarray(pixels), names)
        text = ranges_text(ranges, ids=sample.ids, digests=sample.digests)
        return StageOutput(files=(run.write_text(RANGES, text),))

    run_stage(run, key, work, force=force, packages=("onnxruntime", "numpy"), seed=options.seed)


def calibration_sample(run: RunDir, options: ExportOptions) -> Split:
    """`calib` training images drawn without replacement, in the order of the training part."""
    source = open_run_data(run)
    known = data_sha256(run).get("data")
    if known is not None and source_sha256(source) != known:
        console.warn("data.changed", "the data is not what it was at training time")
    train = source.load(Part.TRAIN, run.contract())
    count = min(options.calib, len(train))
    if count < options.calib:
        console.warn("export.few-images", f"only {count} training images for the ranges")
    generator = np.random.default_rng(options.seed)
    chosen = np.sort(generator.permutation(len(train))[:count])
    return Split(
        images=train.images[chosen],
        labels=train.labels[chosen],
        ids=tuple(train.ids[i] for i in chosen),
        digests=tuple(train.digests[i] for i in chosen),
    )


def int8_stage(run: RunDir, options: ExportOptions, *, force: bool) -> tuple[Finding, ...]:
    """model_int8.tflite and layers.csv; the file is linted before it is kept.

    Raises:
        GateError: the lint list found an error; nothing is written.
    """
    key = StageKey(
        stage="int8",
        version=1,
        options={"converter": options.converter.value, "fc": options.fc.value},
        files=(ONNX, RANGES, CONTRACT),
    )
    contract = run.contract()

    def work() -> StageOutput:
        data = convert_run(run, options)
        findings = lint(data, contract, converter=options.converter)
        errors = [f for f in findings if f.severity is Severity.ERROR]
        if errors:
            raise GateError(
                f"the int8 file breaks the rule {errors[0].rule}: {errors[0].text}"
                f"{f' (and {len(errors) - 1} more)' if len(errors) > 1 else ''}",
                where=TFLITE,
                remedy=_TFLITE_REMEDY,
                code="export.lint",
            )
        names = (
            run.write_bytes(TFLITE, data),
            run.write_text(LAYERS, layers_csv(read_tflite(data))),
        )
        return StageOutput(files=names, figures={"tflite_bytes": len(data)})

    packages = ["numpy", "flatbuffers", "ai-edge-litert"]
    if options.converter is Converter.TENSORFLOW:
        packages += ["tensorflow-cpu", "tensorflow"]
    run_stage(run, key, work, force=force, packages=packages)
    return tuple(lint((run / TFLITE).read_bytes(), contract, converter=options.converter))


def convert_run(run: RunDir, options: ExportOptions) -> bytes:
    """The int8 file of the run's ONNX by the chosen converter; writes nothing."""
    graph = read_onnx((run / ONNX).read_bytes(), where=ONNX)
    contract = run.contract()
    match options.converter:
        case Converter.NATIVE:
            from ndtool.export.int8.convert import ConvertOptions, convert
            from ndtool.export.tflite.writer import write_tflite

            ranges = load_ranges(run / RANGES)
            made = convert(
                graph,
                ranges,
                ConvertOptions(
                    fc=options.fc, input=dict.fromkeys(graph.inputs, input_quantization(contract))
                ),
            )
            for text in made.warnings:
                console.warn("export.convert", text)
            return write_tflite(made.graph, description="ndtool")
        case Converter.TENSORFLOW:
            from ndtool.export.tensorflow_converter import convert_with_tensorflow

            sample = calibration_sample(run, options)
            pixels = normalize_pixels(sample.images, contract)
            return convert_with_tensorflow(graph, pixels, contract, fc=options.fc)


def predict_stage(run: RunDir, options: ExportOptions, *, force: bool) -> list[HopRow]:
    """Every hop's answer to every test image, kept per sample; gives the accuracies."""
    key = StageKey(
        stage="predict",
        version=1,
        options={},
        files=(STUDENT, ONNX, TFLITE, CONTRACT),
        sources=data_sha256(run),
    )

    def work() -> StageOutput:
        images = evaluation_set(run)
        runtime, warning = choose_runtime()
        if warning:
            console.warn("export.reference", warning)
        hops = predict_hops(run, images, runtime=runtime, workers=options.workers)
        names = store_predictions(run, hops, images)
        return StageOutput(
            files=tuple(names), figures=hop_figures(hop_rows(hops, images.labels), images)
        )

    run_stage(run, key, work, force=force, packages=("torch", "onnxruntime", "tflite-micro"))
    return rows_of_figures(run.manifest().stages["predict"].figures)
