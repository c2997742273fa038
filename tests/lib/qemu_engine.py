"""Int8 graphs as C in QEMU: many models in one firmware, each run on samples of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from c_projects import write_graph
from engine_models import unproved_model
from host_tools import require_package, require_tool

from ndtool.export import qemu, toolchain
from ndtool.export.codegen.emit import emit_program
from ndtool.export.codegen.engine import Compiled
from ndtool.export.codegen.engine_project import engine_context, project_runtime
from ndtool.export.codegen.model import ALONE
from ndtool.export.codegen.render import render_project
from ndtool.export.int8.ir import Graph

I8 = np.ndarray
TEMPLATE = "cortex-m-qemu"

_MAIN = """
#include "board/semihost.h"
{includes}

static int8_t arena[{arena_bytes}] __attribute__((aligned(16), section(".noinit")));

{functions}

int main(void)
{{
    const int in = host_open("input.bin", HOST_READ);
    const int out = host_open("output.bin", HOST_WRITE);
{calls}
    return host_close(out);
}}
"""
_MODEL = """
static int run_m{k}(int in, int out)
{{
    for (int i = 0; i < {samples}; ++i) {{
{reads}
        if (m{k}_run(arena) != ND_OK) {{
            return 1;
        }}
{writes}
    }}
    return 0;
}}
"""
_READ = """
        if (host_read(in, {pointer}, M{k}_{role}_BYTES) != M{k}_{role}_BYTES) {{
            return 2;
        }}
"""
_WRITE = """
        if (host_write(out, {pointer}, M{k}_{role}_BYTES) != M{k}_{role}_BYTES) {{
            return 3;
        }}
"""


def write_firmware(graph: Graph, folder: Path, *, prefix: str = "m") -> None:
    """The cortex-m-qemu project of `graph` in `folder`, as `ndtool codegen` writes it."""
    write_graph(graph, folder, prefix=prefix, template=TEMPLATE)


def require_cross_tools() -> None:
    """Everything that building for Cortex-M and running in QEMU takes, or the test skips."""
    for tool in ("make", "arm-none-eabi-gcc", "qemu-system-arm"):
        require_tool(tool)
    require_package("elftools")


def write_script(path: Path, *lines: str) -> None:
    """A shell script that stands for a program."""
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)


def run_batch(
    models: Sequence[Compiled], inputs: Sequence[Sequence[I8]], folder: Path, boards: Sequence[str]
) -> dict[str, list[list[I8]]]:
    """By board: for each model its outputs (n, ...) for `inputs[k]`, arrays (n, ...).

    All models are one firmware, one arena after the other in the same memory.
    """
    counts = [len(xs[0]) for xs in inputs]
    _write_project(models, counts, folder)
    data = b"".join(
        np.ascontiguousarray(x[i]).tobytes()
        for xs, count in zip(inputs, counts, strict=True)
        for i in range(count)
        for x in xs
    )
    objects = sorted(path.relative_to(folder) for path in folder.glob("nd_runtime/*.c"))
    objects += [Path(f"m{k}{end}.c") for k in range(len(models)) for end in ("", "_data")]
    found = {}
    for board in boards:
        # the Makefile links what RUNTIME_OBJECTS names into every program
        built = " ".join(f"build/{board}/objects/{p.with_suffix('.o')}" for p in objects)
        target = f"build/{board}/batch.elf"
        arguments = (f"BOARD={board}", f"RUNTIME_OBJECTS={built}", target)
        toolchain.make(folder, *arguments, tools=["arm-none-eabi-gcc"])
        done = qemu.run(folder / target, board, data)
        found[board] = _split(models, counts, done.outputs)
    return found


def _write_project(models: Sequence[Compiled], counts: Sequence[int], folder: Path) -> None:
    files: dict[str, bytes] = {}
    functions = []
    for k, (compiled, samples) in enumerate(zip(models, counts, strict=True)):
        text = emit_program(compiled, prefix=f"m{k}")
        context = engine_context(unproved_model(compiled, f"m{k}"), text, ALONE)
        rendered = render_project(TEMPLATE, context, prefix=f"m{k}")
        wanted = {f"m{k}{end}" for end in (".h", ".c", "_data.h", "_data.c")}
        files |= {n: d for n, d in rendered.items() if n in wanted or not n.startswith(f"m{k}")}
        files |= project_runtime(compiled)
        parts = {
            way: "".join(
                template.format(k=k, role=port.role, pointer=port.pointer)
                for port in context[way]  # type: ignore[attr-defined]
            )
            for way, template in (("inputs", _READ), ("outputs", _WRITE))
        }
        functions.append(
            _MODEL.format(k=k, samples=samples, reads=parts["inputs"], writes=parts["outputs"])
        )
    numbers = range(len(models))
    files["batch_main.c"] = _MAIN.format(
        includes="\n".join(f'#include "m{k}.h"' for k in numbers),
        arena_bytes=max(model.plan.total for model in models),
        functions="\n".join(functions),
        calls="\n".join(
            f"    if (run_m{k}(in, out) != 0) {{\n        return {k % 90 + 1};\n    }}"
            for k in numbers
        ),
    ).encode()
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _split(models: Sequence[Compiled], counts: Sequence[int], data: bytes) -> list[list[I8]]:
    """`data`: for each model, for each sample, all its outputs."""
    flat, start, found = np.frombuffer(data, np.int8), 0, []
    for compiled, count in zip(models, counts, strict=True):
        graph = compiled.graph
        shapes = [graph.tensor(t).shape for t in graph.outputs]
        sizes = [int(np.prod(shape)) for shape in shapes]
        end = start + count * sum(sizes)
        rows = flat[start:end].reshape(count, sum(sizes))
        parts = np.split(rows, np.cumsum(sizes)[:-1], axis=1)
        found.append([p.reshape(count, *s[1:]) for p, s in zip(parts, shapes, strict=True)])
        start = end
    assert start == flat.size, (start, flat.size)
    return found
