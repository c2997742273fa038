"""Run folders whose artifacts were edited, as they are and made to agree again (users.md, 5.4).

`reseal` is what somebody does who wants an edited artifact to pass: every hash and every figure of
the folder is made anew, so that only what the artifact does can give it away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ndtool.export.checking import gather
from ndtool.export.int8.ir import (
    Activation,
    Conv2D,
    FullyConnected,
    Graph,
    PaddingKind,
    Pool2D,
    TensorId,
)
from ndtool.export.project_stage import codegen_stage
from ndtool.export.tflite.reader import read_tflite
from ndtool.export.tflite.writer import write_tflite
from ndtool.files import (
    json_text,
    sha256_file,
)
from ndtool.gates.accept import Request, accept
from ndtool.gates.baseline import Accepted
from ndtool.gates.baseline_file import save_known
from ndtool.options import CHECK, CODEGEN
from ndtool.rundir import (
    MANIFEST,
    TFLITE,
    RunDir,
    Value,
)


def save_baseline(run: RunDir, path: Path, *, data: str = "", core: str = "") -> None:
    """Accept the run as it is, as its first baseline; with flash and instructions of `core`."""
    found = gather(run, CHECK, data=data, core=core)
    assert found.evidence is not None, found.stopped
    about = Accepted(reason="first model of the tests", tool="0", model="tiny")
    request = Request(name=path.stem, accepted=about, core=core)
    save_known(path, accept(found.folder, found.evidence, None, request))


# -- forms of an edit ------------------------------------------------------------------------------


def reseal(run: RunDir, *, data: str = "") -> None:
    """Make markers, manifest and metrics.json agree with the files that are there."""
    rehash(run, {})
    found = gather(run, replace(CHECK, keep_going=True), data=data)
    assert found.evidence is not None, found.stopped
    rehash(run, {**found.evidence.near, **found.evidence.measured})


def rehash(run: RunDir, figures: Mapping[str, Value]) -> None:
    """Only the hashes, and these figures."""
    for marker in run.path.glob("codegen/*/*.json"):
        project = json.loads(marker.read_text())
        for name in project["files"]:
            project["files"][name] = sha256_file(marker.parent / name)
        marker.write_text(json_text(project))
    manifest = json.loads((run / MANIFEST).read_text())
    for name, row in manifest["files"].items():
        row |= {"sha256": sha256_file(run / name), "bytes": (run / name).stat().st_size}
    for stage in manifest["stages"].values():
        stage["reads"] |= {n: sha256_file(run / n) for n in stage["reads"] if run.has(n)}
        stage["figures"] |= {k: v for k, v in figures.items() if k in stage["figures"]}
    (run / MANIFEST).write_text(json_text(manifest))
    run.write_metrics()


def regenerate(run: RunDir) -> None:
    """The C of the int8 file that is there now."""
    rehash(run, {})
    codegen_stage(run, CODEGEN, force=True)


# -- edits -----------------------------------------------------------------------------------------


def edit_text(path: Path, old: str, new: str) -> None:
    """Replace the only place of `old`."""
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


def edit_int8(run: RunDir, change: Callable[[Graph], Graph]) -> None:
    """Write the int8 file as `change` makes it."""
    graph = read_tflite((run / TFLITE).read_bytes())
    (run / TFLITE).write_bytes(write_tflite(change(graph), description="edited"))


def with_data(graph: Graph, tensor: int, values: np.ndarray) -> Graph:
    """The graph with other values in a constant."""
    tensors = list(graph.tensors)
    tensors[tensor] = replace(tensors[tensor], data=values.tobytes())
    return replace(graph, tensors=tuple(tensors))


def classifier(graph: Graph) -> FullyConnected:
    """The last layer."""
    (dense,) = (op for op in graph.ops if isinstance(op, FullyConnected))
    return dense


def without_class(graph: Graph) -> Graph:
    """The bias of the last class pushed down: it is never predicted again."""
    bias = classifier(graph).bias
    assert bias is not None
    values = np.frombuffer(graph.tensor(bias).data or b"", "<i4").copy()
    values[-1] = -(2**20)
    return with_data(graph, bias, values)


def flipped_weights(graph: Graph) -> Iterator[Graph]:
    """One graph for each weight of the first layer, with that weight's sign bit flipped."""
    first = graph.ops[0]
    assert isinstance(first, Conv2D)
    values = np.frombuffer(graph.tensor(first.weight).data or b"", np.int8)
    for index in range(len(values)):
        flipped = values.copy()
        flipped[index] ^= -128
        yield with_data(graph, first.weight, flipped)


def without_last_output(graph: Graph) -> Graph:
    """A classifier of one class less."""
    dense = classifier(graph)
    assert dense.bias is not None
    tensors = list(graph.tensors)
    for index in (dense.weight, dense.bias):
        old = tensors[index]
        count = old.shape[0]
        assert old.data is not None
        kept = old.data[: len(old.data) * (count - 1) // count]
        scales = old.scales[: count - 1] if len(old.scales) == count else old.scales
        zeros = old.zero_points[: count - 1] if len(old.zero_points) == count else old.zero_points
        shape = (count - 1, *old.shape[1:])
        tensors[index] = replace(old, data=kept, shape=shape, scales=scales, zero_points=zeros)
    (out,) = graph.outputs
    shape = (*tensors[out].shape[:-1], tensors[out].shape[-1] - 1)
    tensors[out] = replace(tensors[out], shape=shape)
    return replace(graph, tensors=tuple(tensors))


def with_pool(graph: Graph) -> Graph:
    """A MAX_POOL_2D 1x1 before the first operator: one more, which changes no value."""
    first = graph.ops[0]
    assert isinstance(first, Conv2D)
    new = TensorId(len(graph.tensors))
    pool = Pool2D(
        is_max=True,
        x=first.x,
        out=new,
        kernel=(1, 1),
        stride=(1, 1),
        padding=PaddingKind.VALID,
        act=Activation.NONE,
    )
    copy = replace(graph.tensor(first.x), name="pooled")
    return replace(
        graph,
        tensors=(*graph.tensors, copy),
        ops=(pool, replace(first, x=new), *graph.ops[1:]),
    )
