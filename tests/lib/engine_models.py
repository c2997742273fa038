"""What the engine's projects are made of, from graphs: with golden vectors or without."""

from __future__ import annotations

import numpy as np
from single_op import Builder
from tflm import run_tflm

from ndtool.contract import Contract
from ndtool.export.codegen.engine import Compiled, compile_graph
from ndtool.export.codegen.engine_project import EngineModel
from ndtool.export.codegen.model import Golden
from ndtool.export.int8.ir import Activation, FullyConnected, Graph, Reshape
from ndtool.export.tflite.writer import write_tflite
from ndtool.quant.pixels import input_quantization, quantize_pixels

VECTORS = 2


def unproved_model(compiled: Compiled, prefix: str) -> EngineModel:
    """A model of `compiled` whose golden vector, zeros, is right by chance only."""
    inputs, outputs = (np.zeros((1, size), np.int8) for size in _sizes(compiled.graph))
    golden = Golden(pixels=None, inputs=inputs, outputs=outputs, engine="none", origin="zeros")
    return _model(compiled, prefix, prefix.encode(), None, golden)


def golden_model(
    graph: Graph, *, prefix: str = "nd_model", contract: Contract | None = None
) -> EngineModel:
    """A model with `VECTORS` golden vectors by tflite_micro; needs the fixture of that name."""
    tflite, rng = write_tflite(graph, description="test"), np.random.default_rng(3)
    shapes = [graph.tensor(index).shape[1:] for index in graph.inputs]
    if contract is None:
        pixels = None
        images = [rng.integers(-128, 128, (VECTORS, *shape)).astype(np.int8) for shape in shapes]
    else:
        pixels = rng.integers(0, 256, (VECTORS, *shapes[0])).astype(np.uint8)
        images = [quantize_pixels(pixels, contract)]
    outputs = run_tflm(tflite, *images, outputs=len(graph.outputs))
    golden = Golden(
        pixels=pixels,
        inputs=joined(images),
        outputs=joined(outputs),
        engine="engine 1.0",
        origin="random",
    )
    return _model(compile_graph(graph), prefix, tflite, contract, golden)


def joined(arrays: list[np.ndarray]) -> np.ndarray:
    """(n, bytes): of each sample, all arrays in order."""
    return np.concatenate([x.reshape(VECTORS, -1) for x in arrays], axis=1)


def contract_graph(contract: Contract, *, seed: int = 0) -> Graph:
    """RESHAPE and FULLY_CONNECTED of the contract's image, to its classes."""
    spec, rng, b = contract.input, np.random.default_rng(seed), Builder()
    n, classes = spec.height * spec.width * spec.channels, contract.num_classes
    params = input_quantization(contract)
    x = b.activation((1, spec.height, spec.width, spec.channels), params)
    flat = b.activation((1, n), params)
    weight = b.int8(rng.integers(-127, 128, (classes, n)), (0.01,))
    out = b.activation((1, classes), (0.5, 3))
    ops = (
        Reshape(x=x, shape_id=None, out=flat),
        FullyConnected(
            x=flat, weight=weight, bias=None, out=out, act=Activation.NONE, keep_num_dims=False
        ),
    )
    return Graph(tensors=tuple(b.tensors), ops=ops, inputs=(x,), outputs=(out,))


def _sizes(graph: Graph) -> tuple[int, int]:
    """Bytes of all inputs, of all outputs."""
    inputs, outputs = (
        sum(graph.tensor(index).elements for index in ids) for ids in (graph.inputs, graph.outputs)
    )
    return inputs, outputs


def _model(
    compiled: Compiled, prefix: str, tflite: bytes, contract: Contract | None, golden: Golden
) -> EngineModel:
    return EngineModel(
        tflite=tflite,
        graph=compiled.graph,
        prefix=prefix,
        contract=contract,
        golden=golden,
        tool_version="0.1.0",
        compiled=compiled,
        arena_bytes_tflm=None,
    )
