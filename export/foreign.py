"""Somebody else's ONNX file as a run folder: from here on it goes the way of our own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from ndtool.console import visible
from ndtool.contract import Contract, load_contract
from ndtool.data import open_source
from ndtool.data.types import DataOptions, source_sha256
from ndtool.errors import ContractError, InputError
from ndtool.export.graph.from_onnx import read_onnx
from ndtool.export.graph.ir import Conv, FloatGraph, FullyConnected
from ndtool.export.run_data import require_labels
from ndtool.files import (
    read_bounded,
    sha256_bytes,
)
from ndtool.rundir import (
    CONTRACT,
    LABELS,
    ONNX,
    RunDir,
    StageKey,
    StageOutput,
    Value,
    run_stage,
)

MAX_ONNX_BYTES: Final = 512 * 1024 * 1024


def import_onnx(
    path: Path, *, contract_path: Path, calib_data: str, out: Path, force: bool
) -> RunDir:
    """A run folder around somebody else's ONNX file, its contract and its data.

    Raises:
        InputError, UnsupportedError, ContractError: the file cannot be used, or `out` holds
            something else; nothing is written.
    """
    contract = load_contract(contract_path)
    data = read_bounded(path, MAX_ONNX_BYTES)
    graph = read_onnx(data, where=visible(str(path)))
    _require_fit(graph, contract, path, contract_path)
    source = open_source(calib_data, DataOptions())
    require_labels(source.info.labels, contract, where=f"--calib-data {calib_data}")
    run = RunDir(out)
    if out.exists() and "import" not in run.manifest().stages and any(out.iterdir()):
        raise InputError(
            "the folder holds something else than an imported ONNX file",
            where=visible(str(out)),
            remedy="name a new folder with --out",
            code="run.not-import",
        )
    key = StageKey(
        stage="import",
        version=1,
        options={"data": calib_data},
        sources={
            "data": source_sha256(source),
            "contract": contract.sha256(),
            "onnx": sha256_bytes(data),
        },
    )

    def work() -> StageOutput:
        names = (
            run.write_text(CONTRACT, contract.to_file_text()),
            run.write_bytes(LABELS, contract.labels_file()),
            run.write_bytes(ONNX, data),
        )
        figures: dict[str, Value] = {
            "contract_sha256": contract.sha256(),
            "params": _count_parameters(graph),
        }
        return StageOutput(files=names, figures=figures)

    with run.lock():
        run_stage(run, key, work, force=force, packages=("onnx", "numpy"))
    return run


def _count_parameters(graph: FloatGraph) -> int:
    """Weights and biases, batch norm folded into them."""
    layers = (op for op in graph.ops if isinstance(op, Conv | FullyConnected))
    names = {name for op in layers for name in (op.weight, op.bias)}
    return sum(math.prod(graph.tensors[name].shape) for name in names)


def _require_fit(graph: FloatGraph, contract: Contract, path: Path, contract_path: Path) -> None:
    """The model's input and output have the contract's shapes; raises ContractError."""
    spec = contract.input
    (x,), (y,) = graph.inputs, graph.outputs
    wanted = (1, spec.height, spec.width, spec.channels)
    classes = graph.tensors[y].shape[-1]
    problem = ""
    if graph.tensors[x].shape != wanted:
        problem = f"input {graph.tensors[x].shape}, the contract says {wanted}"
    elif classes != contract.num_classes:
        problem = f"{classes} outputs, the contract has {contract.num_classes} labels"
    if problem:
        raise ContractError(
            f"the model has {problem}",
            where=visible(str(path)),
            remedy=f"mend {visible(str(contract_path))}",
            code="contract.shape",
        )
