"""From a .tflite to what a C project says of it: graph, golden vectors, arena.

Runs the reference interpreter; `codegen` itself is pure.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

import ndtool
from ndtool.contract import Contract
from ndtool.errors import ConfigError
from ndtool.export.codegen import tflm
from ndtool.export.codegen.array import ArrayModel, Golden, check_model
from ndtool.export.codegen.naming import check_prefix
from ndtool.export.int8.ir import Graph
from ndtool.export.runners import Progress, run_int8, tflm_arena_bytes
from ndtool.export.tflite.reader import read_tflite
from ndtool.quant.pixels import quantize_pixels
from ndtool.types import Runtime

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
MAX_GOLDEN: Final = 256
_SEED: Final = b"ndtool golden vectors 1"


def build_array_model(
    tflite: bytes,
    *,
    contract: Contract | None,
    pixels: U8 | None,
    prefix: str,
    golden: int,
    progress: Progress,
) -> ArrayModel:
    """Everything that the template `array` needs.

    `pixels` (N, H, W, C) are images of the evaluation set, of which `golden` evenly spaced ones
    become golden vectors; without them, or without a contract, seeded random bytes do.

    Raises:
        ConfigError: prefix or number of vectors out of bounds.
        ContractError: the contract belongs to another model.
        UnsupportedError: the model is not one that `array` and the reference can take.
        InputError: not a .tflite.
        ToolMissingError: tflite_micro, the reference, is not installed.
    """
    check_prefix(prefix)
    if not 1 <= golden <= MAX_GOLDEN:
        raise ConfigError(
            f"{golden} golden vectors",
            where="--golden",
            remedy=f"use 1 to {MAX_GOLDEN}",
            code="codegen.golden",
        )
    graph = read_tflite(tflite)
    check_model(graph, contract)
    return ArrayModel(
        tflite=tflite,
        graph=graph,
        prefix=prefix,
        contract=contract,
        golden=_golden(tflite, graph, contract, pixels, golden, progress),
        arena_bytes=tflm.arena_bytes(graph, tflm_arena_bytes(tflite)),
        tool_version=ndtool.__version__,
    )


def _golden(
    tflite: bytes,
    graph: Graph,
    contract: Contract | None,
    pixels: U8 | None,
    count: int,
    progress: Progress,
) -> Golden:
    images, origin = _choose_images(graph, contract, pixels, count)
    if contract is None:
        inputs: I8 = images.view(np.int8)
    else:
        inputs = quantize_pixels(images, contract)
    result = run_int8(tflite, inputs, runtime=Runtime.TFLM, workers=1, progress=progress)
    return Golden(
        pixels=None if contract is None else images,
        inputs=inputs,
        outputs=result.outputs,
        engine=result.engine,
        origin=origin,
    )


def _choose_images(
    graph: Graph, contract: Contract | None, pixels: U8 | None, count: int
) -> tuple[U8, str]:
    """uint8 (count, *input shape without batch), and where they come from."""
    if contract is not None and pixels is not None and len(pixels):
        rows = np.arange(min(count, len(pixels))) * len(pixels) // min(count, len(pixels))
        names = ", ".join(str(row) for row in rows.tolist())
        return np.ascontiguousarray(pixels[rows]), f"of the evaluation set, numbers {names}"
    shape = (count, *graph.tensor(graph.inputs[0]).shape[1:])
    # Not numpy's generators: their streams may change between versions.
    data = hashlib.shake_256(_SEED).digest(int(np.prod(shape)))
    return np.frombuffer(data, np.uint8).reshape(shape), "random bytes"
