"""The stages from the student's weights to the int8 file, each a function over the run folder.

extract -> onnx -> ranges -> int8 -> predict. Every stage reads files of earlier ones, writes its
own and records itself; what is up to date is skipped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ndtool import console
from ndtool.arch import count_macs, count_parameters
from ndtool.data.types import Split
from ndtool.errors import InputError, UnsupportedError, require
from ndtool.export.graph.from_onnx import read_onnx
from ndtool.export.graph.names import tensor_names
from ndtool.export.graph.to_onnx import write_onnx
from ndtool.export.hops import (
    hop_figures,
    hop_rows,
    predict_hops,
    rows_of_figures,
    store_predictions,
)
from ndtool.export.layers import layers_csv
from ndtool.export.ranges import load_ranges, measure_ranges, ranges_text
from ndtool.export.run_data import (
    data_row,
    evaluation_set,
    open_run_data,
    present_data,
)
from ndtool.export.runners import choose_runtime
from ndtool.export.student import load_student, load_student_spec
from ndtool.export.tflite.lint import Finding, Severity, lint
from ndtool.export.tflite.reader import read_tflite
from ndtool.files import (
    json_text,
    sha256_bytes,
)
from ndtool.gates.verdict import HopRow
from ndtool.options import ExportOptions
from ndtool.quant.pixels import input_quantization, normalize_pixels
from ndtool.rundir import (
    BEST,
    CONTRACT,
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
    run_stage,
)
from ndtool.types import Converter, Part


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What export found, for the summary."""

    rows: tuple[HopRow, ...]
    findings: tuple[Finding, ...]


def export_run(run: RunDir, options: ExportOptions, *, force: bool, data: str = "") -> ExportResult:
    """All stages of `ndtool export`; without `int8` it stops at ONNX.

    Args:
        data: another place for the run's data; "" for the one it was trained on.

    Raises:
        InputError: the training is not finished, or `data` cannot be opened.
        DataError: `data` is other data.
    """
    data_row(run)
    if data:  # looked at where every stage is up to date, too
        open_run_data(run, data)
    if "import" not in run.manifest().stages:
        extract(run, force=force)
        write_onnx_stage(run, force=force)
    findings: tuple[Finding, ...] = ()
    if options.int8:
        ranges_stage(run, options, force=force, data=data)
        findings = int8_stage(run, options, force=force, data=data)
    rows = predict_stage(run, options, force=force, data=data)
    return ExportResult(rows=tuple(rows), findings=findings)


def extract(run: RunDir, *, force: bool) -> None:
    """student.safetensors from the best checkpoint; a folder without train/ has it already.

    Raises:
        InputError: neither checkpoint nor student.
    """
    if not run.has(BEST):
        if not run.has(STUDENT) or (run / "train").is_dir():
            raise InputError(
                "no trained network in the run folder",
                where=str(run / BEST),
                remedy="train it first: ndtool train",
                code="run.untrained",
            )
        console.info("extract: no train/ here, the student is taken as it is")
        return
    key = StageKey(stage="extract", version=1, options={}, files=(BEST, CONTRACT))

    def work() -> StageOutput:
        require("torch")
        from ndtool.export.extract import extract_student

        return extract_student(run)

    run_stage(run, key, work, force=force, packages=("torch", "safetensors", "numpy"))


def write_onnx_stage(run: RunDir, *, force: bool) -> None:
    """model.onnx from the student."""
    key = StageKey(stage="onnx", version=1, options={}, files=(STUDENT, STUDENT_SPEC, CONTRACT))

    def work() -> StageOutput:
        spec, tensors = load_student(run)
        name = run.write_bytes(ONNX, write_onnx(spec, tensors))
        figures = {"params": count_parameters(spec), "macs": count_macs(spec)}
        return StageOutput(files=(name,), figures=figures)

    run_stage(run, key, work, force=force, packages=("onnx", "numpy"))


def ranges_stage(run: RunDir, options: ExportOptions, *, force: bool, data: str = "") -> None:
    """ranges.json: min-max of every activation over a recorded sample of the training part."""
    key = StageKey(
        stage="ranges",
        version=1,
        options={"calib": options.calib, "seed": options.seed, "method": "min-max"},
        files=(ONNX, CONTRACT),
        sources=present_data(run, data),
    )

    def work() -> StageOutput:
        sample = calibration_sample(run, options, data)
        model = (run / ONNX).read_bytes()
        graph = read_onnx(model, where=ONNX)
        names = sorted({t.source for t in graph.tensors.values() if t.data is None and t.source})
        pixels = normalize_pixels(sample.images, run.contract()).transpose(0, 3, 1, 2)
        ranges = measure_ranges(model, np.ascontiguousarray(pixels), names)
        text = ranges_text(ranges, ids=sample.ids, digests=sample.digests)
        return StageOutput(files=(run.write_text(RANGES, text),))

    run_stage(run, key, work, force=force, packages=("onnxruntime", "numpy"), seed=options.seed)


def calibration_sample(run: RunDir, options: ExportOptions, data: str = "") -> Split:
    """`calib` training images drawn without replacement, in the order of the training part."""
    train = open_run_data(run, data).load(Part.TRAIN, run.contract())
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


def int8_stage(
    run: RunDir, options: ExportOptions, *, force: bool, data: str = ""
) -> tuple[Finding, ...]:
    """model_int8.tflite, tensors.json and layers.csv; the file is linted before it is kept.

    Raises:
        UnsupportedError: the lint list found an error; nothing is written.
    """
    key = StageKey(
        stage="int8",
        version=1,
        options={"converter": options.converter.value, "fc": options.fc.value},
        files=(ONNX, RANGES, CONTRACT),
    )
    contract = run.contract()

    def work() -> StageOutput:
        made = convert_run(run, options, data)
        findings = lint(made.data, contract, converter=options.converter)
        errors = [f for f in findings if f.severity is Severity.ERROR]
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise UnsupportedError(
                f"the int8 file would break the rule {errors[0].rule}: {errors[0].text}{more}",
                where=TFLITE,
                remedy="try the other --converter, and report the ONNX file",
                code="export.lint",
            )
        names = (
            run.write_bytes(TFLITE, made.data),
            run.write_text(TENSORS, json_text(made.names)),
            run.write_text(LAYERS, layers_csv(read_tflite(made.data))),
        )
        return StageOutput(
            files=names,
            figures={"tflite_bytes": len(made.data), "model_sha256": sha256_bytes(made.data)},
        )

    packages = ["numpy", "flatbuffers", "ai-edge-litert"]
    if options.converter is Converter.TENSORFLOW:
        packages += ["tensorflow-cpu", "tensorflow"]
    run_stage(run, key, work, force=force, packages=packages)
    return tuple(lint((run / TFLITE).read_bytes(), contract, converter=options.converter))


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8File:
    """A converted model and the rows of tensors.json (`tflite`, `onnx`, `torch`).

    TensorFlow names its tensors as it likes: their rows have no other names.
    """

    data: bytes
    names: list[dict[str, str]]


def convert_run(run: RunDir, options: ExportOptions, data: str = "") -> Int8File:
    """The int8 file of the run's ONNX by the chosen converter; writes nothing."""
    graph = read_onnx((run / ONNX).read_bytes(), where=ONNX)
    contract = run.contract()
    match options.converter:
        case Converter.NATIVE:
            from ndtool.export.int8.convert import ConvertOptions, convert
            from ndtool.export.tflite.writer import write_tflite

            pinned = dict.fromkeys(graph.inputs, input_quantization(contract))
            ranges = load_ranges(run / RANGES)
            made = convert(graph, ranges, ConvertOptions(fc=options.fc, input=pinned))
            for text in made.warnings:
                console.warn("export.convert", text)
            spec = load_student_spec(run) if run.has(STUDENT_SPEC) else None
            known = {row["tflite"]: row for row in tensor_names(graph, spec)}
            return Int8File(
                data=write_tflite(made.graph, description="ndtool"),
                names=[known[source] | {"tflite": name} for name, source in made.names],
            )
        case Converter.TENSORFLOW:
            from ndtool.export.tensorflow_converter import convert_with_tensorflow

            sample = calibration_sample(run, options, data)
            pixels = normalize_pixels(sample.images, contract)
            model = convert_with_tensorflow(graph, pixels, contract, fc=options.fc)
            tensors = read_tflite(model).tensors
            names = [{"tflite": tensor.name, "onnx": "", "torch": ""} for tensor in tensors]
            return Int8File(data=model, names=names)


def predict_stage(
    run: RunDir, options: ExportOptions, *, force: bool, data: str = ""
) -> list[HopRow]:
    """Every hop's answer to every test image, kept per sample; gives the accuracies.

    An int8 file that is older than the ONNX file is left out.
    """
    fresh = "int8" not in run.stale_stages()
    if run.has(TFLITE) and not fresh:
        console.warn("export.int8-stale", "the int8 file is of an older model: export --int8")
    key = StageKey(
        stage="predict",
        version=1,
        options={},
        files=(STUDENT, ONNX, *((TFLITE,) if fresh else ()), CONTRACT),
        sources=present_data(run, data),
    )

    def work() -> StageOutput:
        images = evaluation_set(run, data)
        runtime, warning = choose_runtime()
        if warning:
            console.warn("export.reference", warning)
        hops = predict_hops(run, images, runtime=runtime, workers=options.workers, int8=fresh)
        rows = hop_rows(hops, images.labels)
        names = store_predictions(run, hops, images)
        run.forget_stale("verify")
        return StageOutput(files=tuple(names), figures=hop_figures(rows, images))

    run_stage(run, key, work, force=force, packages=("torch", "onnxruntime", "tflite-micro"))
    return rows_of_figures(run.manifest().stages["predict"].figures)
