"""Int8 graphs as C: many models compiled into one shared library, run on batches of samples."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from engine_models import unproved_model
from host_tools import C99, compile_ok

from ndtool.export.codegen.emit import emit_program
from ndtool.export.codegen.engine import Compiled, compile_graph
from ndtool.export.codegen.engine_project import engine_context, project_runtime
from ndtool.export.codegen.layers import formed_layers
from ndtool.export.codegen.model import ALONE
from ndtool.export.codegen.render import render_project
from ndtool.export.int8.ir import Graph, TensorId

I8 = np.ndarray
UBSAN = ("-fsanitize=undefined", "-fno-sanitize-recover=all", "-static-libubsan")
GUARD = 64  # bytes before and after the arena that must stay as they are
FILL = 0x5A  # what the arena holds before a run, and what the guards hold for good

# One sample after another through model {k}: inputs copied in, outputs and layers copied out.
_GLUE = """
#include <string.h>
#include "m{k}.h"
#include "m{k}_layers.h"

static int8_t *m{k}_layers;

void m{k}_on_layer(int32_t index, const int8_t *tensor)
{{
    if (m{k}_layers != 0) {{
        memcpy(m{k}_layers, tensor, (size_t)m{k}_layer_bytes[index]);
        m{k}_layers += m{k}_layer_bytes[index];
    }}
}}

int m{k}_batch(void *arena, int n, const int8_t *in, int8_t *out, int8_t *layers);
int m{k}_batch(void *arena, int n, const int8_t *in, int8_t *out, int8_t *layers)
{{
    nd_status status = m{k}_check_arena(arena, M{K}_ARENA_BYTES);
    m{k}_layers = layers;
    for (int i = 0; i < n && status == ND_OK; ++i) {{
{copy_in}
        status = m{k}_run(arena);
{copy_out}
    }}
    m{k}_layers = 0;
    return status;
}}
"""


@dataclass(frozen=True)
class Library:
    """Compiled models; `models[k]` is what the C of graph k was made from."""

    models: tuple[Compiled, ...]
    loaded: ctypes.CDLL

    def run(self, k: int, *inputs: I8) -> list[I8]:
        """Outputs (n, ...) of model k for each sample of `inputs`, int8 (n, ...) each."""
        outputs, _ = self._batch(k, inputs, with_layers=False)
        graph = self.models[k].graph
        return self._split(outputs, [(t, graph.tensor(t).shape) for t in graph.outputs])

    def run_layers(self, k: int, *inputs: I8) -> dict[TensorId, I8]:
        """Every tensor that model k forms, (n, ...), by its number in the file."""
        _, layers = self._batch(k, inputs, with_layers=True)
        model = self.models[k]
        shapes = [
            (layer.tensor, model.program.graph.tensor(layer.tensor).shape)
            for layer in formed_layers(model)
        ]
        return dict(zip([t for t, _ in shapes], self._split(layers, shapes), strict=True))

    def differences(self, k: int, layers: Mapping[TensorId, I8], wanted: Sequence[I8]) -> list[str]:
        """Which `layers`, of `run_layers`, are not as `wanted`, in their order, by the reference.

        Channels that were removed are held against the value that the passes proved.
        """
        found = []
        for (tensor, got), whole in zip(layers.items(), wanted, strict=True):
            expected = whole.reshape(len(got), *self.models[k].graph.tensor(tensor).shape[1:])
            removed = self.models[k].program.removed.get(tensor)
            if removed is not None:
                found += [
                    f"tensor {tensor}: channel {channel} is not always {value}"
                    for channel, value in removed.constants.items()
                    if (expected[..., channel] != value).any()
                ]
                expected = expected[..., list(removed.live)]
            if got.tobytes() != expected.tobytes():
                found.append(f"tensor {tensor}: other bytes")
        return found

    @staticmethod
    def _split(data: I8, shapes: Sequence[tuple[TensorId, tuple[int, ...]]]) -> list[I8]:
        sizes = [int(np.prod(shape)) for _, shape in shapes]
        parts = np.split(data, np.cumsum(sizes)[:-1], axis=1)
        return [
            part.reshape(len(data), *shape[1:])
            for part, (_, shape) in zip(parts, shapes, strict=True)
        ]

    def _batch(self, k: int, inputs: Sequence[I8], *, with_layers: bool) -> tuple[I8, I8]:
        model = self.models[k]
        graph = model.graph
        assert len(inputs) == len(graph.inputs)
        n = len(inputs[0])
        samples = np.concatenate([x.astype(np.int8).reshape(n, -1) for x in inputs], axis=1)
        samples = np.ascontiguousarray(samples)
        outputs = np.zeros((n, sum(graph.tensor(t).elements for t in graph.outputs)), np.int8)
        sizes = [layer.size for layer in formed_layers(model)] if with_layers else []
        layers = np.zeros((n, sum(sizes)), np.int8)
        arena = Arena(model.plan.total)
        batch = getattr(self.loaded, f"m{k}_batch")
        batch.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        status = batch(
            arena.address,
            n,
            samples.ctypes.data,
            outputs.ctypes.data,
            layers.ctypes.data if with_layers else None,
        )
        assert status == 0, f"m{k} gives status {status}"
        arena.check()
        return outputs, layers


class Arena:
    """Aligned memory of exactly `size` bytes between two guards."""

    def __init__(self, size: int) -> None:
        self.memory = np.full(size + 2 * GUARD + 16, FILL, np.uint8)
        self.first = GUARD + -(self.memory.ctypes.data + GUARD) % 16
        self.end = self.first + size
        self.address = self.memory.ctypes.data + self.first

    def check(self) -> None:
        """No byte outside was written."""
        assert (self.memory[: self.first] == FILL).all(), "written below the arena"
        assert (self.memory[self.end :] == FILL).all(), "written above the arena"


def build(graphs: Sequence[Graph], folder: Path, *, flags: Sequence[str] = ()) -> Library:
    """Compile `graphs` in `folder` as models m0, m1, ...; `flags` are for every file.

    With `flags=UBSAN` undefined behaviour ends the process.
    """
    models = tuple(compile_graph(graph) for graph in graphs)
    (folder / "nd_runtime").mkdir(parents=True)
    sources: dict[str, None] = {}
    for k, model in enumerate(models):
        for name, data in {**_model_files(k, model), **project_runtime(model)}.items():
            (folder / name).write_bytes(data)
            if name.endswith(".c"):
                sources[name] = None
    options = ("-O1", "-fPIC", "-I.", *flags)
    objects = []
    for name in sources:
        if name.startswith("nd_runtime/"):
            objects.append(_object(folder, name, *options))
    for k in range(len(models)):
        # one compiler start a model
        unit = folder / f"m{k}_unit.c"
        parts = (f"m{k}_layers.h", f"m{k}.c", f"m{k}_data.c", f"m{k}_layers.c", f"m{k}_glue.c")
        unit.write_text("".join(f'#include "{part}"\n' for part in parts))
        objects.append(_object(folder, unit.name, *options))
    compile_ok(C99, objects, "-shared", "-o", "models.so", *flags, cwd=folder)
    return Library(models, ctypes.CDLL(str(folder / "models.so")))


def _object(folder: Path, name: str, *options: str) -> Path:
    built = Path(f"{name}.o")
    compile_ok(C99, [Path(name)], "-c", "-o", str(built), *options, cwd=folder)
    return built


def _model_files(k: int, compiled: Compiled) -> dict[str, bytes]:
    model = unproved_model(compiled, f"m{k}")
    context = engine_context(model, emit_program(compiled, prefix=f"m{k}"), ALONE)
    wanted = {f"m{k}{end}" for end in (".h", ".c", "_data.h", "_data.c", "_layers.h", "_layers.c")}
    files = render_project("posix", context, prefix=f"m{k}")
    files = {name: data for name, data in files.items() if name in wanted}
    ports = {"in": context["inputs"], "out": context["outputs"]}
    lines = {
        way: "\n".join(
            f"        memcpy({', '.join(pair)}, M{k}_{port.role}_BYTES);\n"
            f"        {way} += M{k}_{port.role}_BYTES;"
            for port in found
            for pair in ([(port.pointer, way)] if way == "in" else [(way, port.pointer)])
        )
        for way, found in ports.items()
    }
    glue = _GLUE.format(k=k, K=k, copy_in=lines["in"], copy_out=lines["out"])
    return {**files, f"m{k}_glue.c": glue.encode()}
