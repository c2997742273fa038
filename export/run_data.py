"""The data of a run folder, opened again: which it was, whether it still is, its test part."""

from __future__ import annotations

from collections.abc import Sequence

from ndtool import console
from ndtool.console import visible
from ndtool.contract import Contract
from ndtool.data import open_source
from ndtool.data.types import DataOptions, Source, Split, source_sha256
from ndtool.errors import DataError, InputError, NdError
from ndtool.rundir import RunDir, Value
from ndtool.types import Part, Sha256


def data_row(run: RunDir) -> dict[str, Value]:
    """The options of the stage that brought the data: `train`, or `import` for a foreign ONNX.

    Raises:
        InputError: the folder knows of no data.
    """
    stages = run.manifest().stages
    for name in ("train", "import"):
        if name in stages:
            return stages[name].options
    raise InputError(
        "the run folder does not say which data it was trained on",
        where=str(run.path),
        remedy="finish ndtool train first",
        code="run.no-data",
    )


def open_run_data(run: RunDir, spec: str = "") -> Source:
    """The run's data source; `spec` names another place for the same data."""
    row = data_row(run)
    options = DataOptions(
        max_pixels=int(row.get("max_pixels") or DataOptions().max_pixels),
        skip_bad_files=row.get("bad_files") == "skip",
        labels_file=str(row.get("labels") or ""),
    )
    source = open_source(spec or str(row["data"]), options)
    require_labels(source.info.labels, run.contract(), where=spec or str(row["data"]))
    return source


def require_labels(found: Sequence[str], contract: Contract, *, where: str) -> None:
    """The data has the contract's classes; sources bring them into the contract's order.

    Raises:
        DataError: other classes.
    """
    if set(found) == set(contract.labels):
        return
    missing = sorted(set(contract.labels) - set(found))
    extra = sorted(set(found) - set(contract.labels))
    difference = [f"without {', '.join(map(visible, missing))}"] if missing else []
    difference += [f"with {', '.join(map(visible, extra))} besides"] if extra else []
    raise DataError(
        f"the data has other classes than the contract: {' and '.join(difference)}",
        where=visible(where),
        remedy="use the data that the model was trained on",
        code="data.labels-differ",
    )


def present_data(run: RunDir, spec: str = "") -> dict[str, Sha256]:
    """Hash of the run's data as it is now, for the keys of stages that read it.

    Where the data is out of reach it counts as unchanged: what is up to date stays so, and a
    stage that must run will say what is missing.
    """
    try:
        return {"data": source_sha256(open_run_data(run, spec))}
    except NdError as problem:
        console.detail(f"data not looked at: {problem}")
    stages = run.manifest().stages
    for name in ("train", "import"):
        if name in stages:
            return {"data": stages[name].reads["data"]}
    return {}


def evaluation_set(run: RunDir, spec: str = "") -> Split:
    """The test part, through the contract."""
    return open_run_data(run, spec).load(Part.TEST, run.contract())
