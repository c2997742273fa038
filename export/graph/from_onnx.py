"""ONNX -> float graph, for our files and for other people's image classifiers.

Layout: every activation of rank 4 is NHWC from here on, by permuting its shape and its constants,
never by a transposition at run time (quantisation, 3.2). All problems of a file are found in one
walk and raised together. To add an operator: a function in onnx_layers, onnx_maps or onnx_shapes,
and its line in `_OPERATORS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ndtool.console import visible
from ndtool.errors import UnsupportedError, raise_all
from ndtool.export.graph.draft import Draft, UniqueNames, finish
from ndtool.export.graph.fuse import fuse
from ndtool.export.graph.ir import FloatGraph, UnaryKind
from ndtool.export.graph.onnx_constants import fold_constant, is_foldable
from ndtool.export.graph.onnx_file import Node, malformed, read_file, unsupported
from ndtool.export.graph.onnx_layers import (
    read_conv,
    read_global_average,
    read_linear,
    read_pad,
    read_pool,
    read_reduce_mean,
)
from ndtool.export.graph.onnx_maps import (
    read_batch_norm,
    read_binary,
    read_clip,
    read_hard_sigmoid,
    read_relu,
    read_softmax,
    read_unary,
)
from ndtool.export.graph.onnx_reading import Reading
from ndtool.export.graph.onnx_shapes import (
    read_cast,
    read_concat,
    read_dropout,
    read_flatten,
    read_pass_on,
    read_reshape,
    read_shape,
    read_squeeze,
    read_unsqueeze,
)


def read_onnx(data: bytes, *, where: str) -> FloatGraph:
    """The float graph of an ONNX file of unknown origin.

    Supported: opsets 7 to 22, one float32 NCHW image as input, one output. Batch norm, constant
    scales, zero padding and activations are folded where that changes nothing.

    Args:
        where: how messages name the file.

    Raises:
        InputError: not an ONNX file, damaged, or too large.
        UnsupportedError: something that cannot be converted; every offender is attached.
    """
    file = read_file(data, where=where)
    activations = [file.input, *(name for node in file.nodes for name in node.outputs)]
    draft = Draft(where=where, input=file.input, output=file.output, names=UniqueNames(activations))
    reading = Reading(file=file, draft=draft, constants=dict(file.constants))
    reading.define(file.input, file.input_shape)
    for node in file.nodes:
        _read_node(reading, replace(node, name=reading.op_names(node.name)))
    raise_all(reading.problems)
    draft.output = reading.resolve(file.output)
    if draft.output not in draft.shapes or draft.output == draft.input:
        raise malformed("the model's output is not computed from its input", where=where)
    if draft.output in reading.flat:
        raise unsupported("the output is a flattened image, not logits", where=where)
    fuse(draft)
    return finish(draft)


def _read_node(r: Reading, node: Node) -> None:
    """Fold the node, or append what it computes to the draft; keep an unsupported one in mind."""
    inputs = [name for name in node.inputs if name]
    outputs = [name for name in node.outputs if name]
    if not node.outputs or node.outputs[0] == "":
        raise malformed("a node without its first output", where=node.where)
    for name in outputs:
        if r.knows(name):
            raise malformed(f"tensor {visible(name)} is computed twice", where=node.where)
    for name in inputs:
        if not r.knows(name):
            raise malformed(f"tensor {visible(name)} is not computed yet", where=node.where)
    r.extra.update(outputs[1:])
    try:
        if node.op not in _OPERATORS and not is_foldable(node.op):
            raise unsupported(f"operator {visible(node.op)} is not supported", where=node.where)
        if any(name in r.unknown for name in inputs):
            r.unknown.update(outputs[:1])  # a problem is told once, not at every reader
        elif any(name in r.extra for name in inputs):
            raise unsupported("the second output of a node is used", where=node.where)
        elif is_foldable(node.op) and all(name in r.constants for name in inputs):
            value = fold_constant(node, [r.constants[n] if n else None for n in node.inputs])
            r.count(value.size, node)
            r.constants[outputs[0]] = value
        elif node.op in _OPERATORS:
            _OPERATORS[node.op](r, node)
        else:
            raise unsupported(f"{node.op} of an activation is not supported", where=node.where)
    except UnsupportedError as problem:
        r.problems.append(problem)
        r.unknown.update(outputs[:1])


_OPERATORS: Final[dict[str, Callable[[Reading, Node], None]]] = {
    "Add": read_binary,
    "AveragePool": read_pool,
    "BatchNormalization": read_batch_norm,
    "Cast": read_cast,
    "Clip": read_clip,
    "Concat": read_concat,
    "Conv": read_conv,
    "Div": read_binary,
    "Dropout": read_dropout,
    "Flatten": read_flatten,
    "Gemm": read_linear,
    "GlobalAveragePool": read_global_average,
    "HardSigmoid": read_hard_sigmoid,
    "HardSwish": read_unary(UnaryKind.HARD_SWISH),
    "Identity": read_pass_on,
    "LeakyRelu": read_unary(UnaryKind.LEAKY_RELU, alpha=0.01),
    "MatMul": read_linear,
    "MaxPool": read_pool,
    "Mul": read_binary,
    "Pad": read_pad,
    "ReduceMean": read_reduce_mean,
    "Relu": read_relu,
    "Reshape": read_reshape,
    "Shape": read_shape,
    "Sigmoid": read_unary(UnaryKind.LOGISTIC),
    "Softmax": read_softmax,
    "Squeeze": read_squeeze,
    "Sub": read_binary,
    "Tanh": read_unary(UnaryKind.TANH),
    "Unsqueeze": read_unsqueeze,
}
