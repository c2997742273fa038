"""From a .tflite to what a C project says of it: graph, golden vectors, arena.

Runs the reference interpreter; `codegen` itself is pure.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

import ndtool
from ndtool.contract import Contract
from ndtool.errors import ConfigError
from ndtool.export.codegen import tflm
from ndtool.export.codegen.array import ArrayModel, check_model
from ndtool.export.codegen.engine import compile_graph
from ndtool.export.codegen.engine_project import EngineModel
from ndtool.export.codegen.model import Golden, check_contract
from ndtool.export.codegen.naming import check_prefix
from ndtool.export.int8.ir import Graph
from ndtool.export.runners import Progress, run_tensors, tflm_arena_bytes
from ndtool.export.tflite.int8_part import int8_part
from ndtool.export.tflite.reader import read_tflite
from ndtool.files import sha256_bytes
from ndtool.quant.pixels import quantize_pixels

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
MAX_GOLDEN: Final = 256
_SEED: Final = b"ndtool golden vectors 1"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """What a project is made of.

    `pixels` (N, H, W, C) are images of the evaluation set, of which `golden` evenly spaced ones
    become golden vectors; without them, or without a contract, seeded random bytes do.
    """

    tflite: bytes
    contract: Contract | None
    pixels: U8 | None
    prefix: str
    golden: int


def build_array_model(source: Source, *, progress: Progress) -> ArrayModel:
    """Everything that the template `array` needs.

    Raises:
        ConfigError: prefix or number of vectors out of bounds.
        ContractError: the contract belongs to another model.
        UnsupportedError: the model is not one that `array` and the reference can take.
        InputError: not a .tflite.
        ToolMissingError: tflite_micro, the reference, is not installed.
    """
    _check_options(source)
    source, source_sha256 = _cut(source)
    graph = read_tflite(source.tflite)
    check_model(graph, source.contract)
    return ArrayModel(
        tflite=source.tflite,
        graph=graph,
        prefix=source.prefix,
        contract=source.contract,
        golden=_golden(source, graph, progress),
        tool_version=ndtool.__version__,
        source_sha256=source_sha256,
        arena_bytes=_arena_bytes_tflm(source.tflite, graph),
    )


def build_engine_model(source: Source, *, progress: Progress) -> EngineModel:
    """Everything that the templates of the C engine need.

    Raises:
        As `build_array_model`; UnsupportedError names what the engine has no code for.
    """
    _check_options(source)
    source, source_sha256 = _cut(source)
    graph = read_tflite(source.tflite)
    if source.contract is not None:
        check_contract(graph, source.contract)
    compiled = compile_graph(graph)
    return EngineModel(
        tflite=source.tflite,
        graph=graph,
        prefix=source.prefix,
        contract=source.contract,
        golden=_golden(source, graph, progress),
        tool_version=ndtool.__version__,
        source_sha256=source_sha256,
        compiled=compiled,
        arena_bytes_tflm=_arena_bytes_tflm(source.tflite, graph),
    )


def _check_options(source: Source) -> None:
    check_prefix(source.prefix)
    if not 1 <= source.golden <= MAX_GOLDEN:
        raise ConfigError(
            f"{source.golden} golden vectors",
            where="--golden",
            remedy=f"use 1 to {MAX_GOLDEN}",
            code="codegen.golden",
        )


def _cut(source: Source) -> tuple[Source, str | None]:
    """The source without float ends, and the hash of the whole file if it had any."""
    part = int8_part(source.tflite)
    if part == source.tflite:
        return source, None
    return replace(source, tflite=part), sha256_bytes(source.tflite)


def _arena_bytes_tflm(tflite: bytes, graph: Graph) -> int:
    return tflm.arena_bytes(graph, tflm_arena_bytes(tflite))


def _golden(source: Source, graph: Graph, progress: Progress) -> Golden:
    contract = source.contract
    if contract is None:
        pixels = None
        inputs, origin = _random_bytes(graph, source.golden), "random bytes"
    else:
        pixels, origin = _choose_images(contract, source.pixels, source.golden)
        inputs = quantize_pixels(pixels, contract).reshape(len(pixels), -1)
    with tempfile.TemporaryDirectory(prefix="ndtool-") as folder:
        out = Path(folder) / "outputs"
        engine = run_tensors(
            source.tflite, graph, inputs, graph.outputs, out=out, workers=1, progress=progress
        )
        outputs = np.fromfile(out, np.int8).reshape(len(inputs), -1)
    return Golden(pixels=pixels, inputs=inputs, outputs=outputs, engine=engine, origin=origin)


def _choose_images(contract: Contract, pixels: U8 | None, count: int) -> tuple[U8, str]:
    """uint8 (count, H, W, C), and where they come from."""
    if pixels is not None and len(pixels):
        rows = np.arange(min(count, len(pixels))) * len(pixels) // min(count, len(pixels))
        names = ", ".join(str(row) for row in rows.tolist())
        return np.ascontiguousarray(pixels[rows]), f"of the evaluation set, numbers {names}"
    spec = contract.input
    made = _shake(count, spec.height * spec.width * spec.channels)
    return made.reshape(count, spec.height, spec.width, spec.channels), "random bytes"


def _random_bytes(graph: Graph, count: int) -> I8:
    """(count, bytes of all inputs)."""
    size = sum(graph.tensor(index).elements for index in graph.inputs)
    return _shake(count, size).view(np.int8)


def _shake(count: int, size: int) -> U8:
    """Not numpy's generators: their streams may change between versions."""
    data = hashlib.shake_256(_SEED).digest(count * size)
    return np.frombuffer(data, np.uint8).reshape(count, size)
