"""The project template `array`: the model as C data beside TensorFlow Lite Micro (design, 5).

Pure: an `ArrayModel` in, file names and bytes out; the same model gives the same bytes anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndtool.contract import Contract
from ndtool.errors import ContractError, UnsupportedError
from ndtool.export.codegen import tflm
from ndtool.export.codegen.naming import check_prefix, label_constants
from ndtool.export.codegen.project import render_project, with_marker
from ndtool.export.codegen.strings import (
    MAX_STRING_BYTES,
    float_hex,
    float_literal,
    macro_rows,
    number_rows,
    text_bytes,
    word_rows,
)
from ndtool.export.int8.ir import DType, Graph, Tensor
from ndtool.quant.pixels import input_quantization, pixel_table
from ndtool.rundir import sha256_bytes

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]

TEMPLATE: Final = "array"
# Files that only a model with a contract has
OF_CONTRACT: Final = frozenset({"PREFIX_labels.c", "PREFIX_pixels.c"})
Macro = tuple[str, str, str]  # name, value, comment


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Golden:
    """Vectors that a device must reproduce: N of them.

    inputs: (N, *input shape without batch) int8; outputs: (N, *output shape without batch) int8, as
    `engine` computed them; pixels: uint8, the images that `inputs` were quantised from, None
    without a contract. `origin` says in a few words where the images come from.
    """

    pixels: U8 | None
    inputs: I8
    outputs: I8
    engine: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrayModel:
    """Everything the generated files say. `arena_bytes` is TFLM's, safe on every core."""

    tflite: bytes
    graph: Graph
    prefix: str
    contract: Contract | None  # None: a foreign file; no labels, no pixel quantiser
    golden: Golden
    arena_bytes: int
    tool_version: str


def emit_array(model: ArrayModel) -> dict[str, bytes]:
    """File name -> content of the whole project.

    Raises:
        ConfigError: the prefix is not usable.
        ContractError: the contract belongs to another model, or a label fits no C string.
        UnsupportedError: not one int8 input and one int8 output.
    """
    prefix = check_prefix(model.prefix)
    check_model(model.graph, model.contract)
    without = OF_CONTRACT if model.contract is None else frozenset[str]()
    files = render_project(TEMPLATE, _context(model), prefix=prefix, without=without)
    files["model.tflite"] = model.tflite
    return with_marker(files, marker=marker_name(prefix), facts=_facts(model))


def marker_name(prefix: str) -> str:
    """The JSON file that makes a folder a project of ours."""
    return f"{prefix}.json"


def check_model(graph: Graph, contract: Contract | None) -> None:
    """Refuse what the template cannot say.

    Raises:
        UnsupportedError: no operators, or not one int8 input and one int8 output of batch 1.
        ContractError: the contract's input, normalisation or labels are not this graph's.
    """
    if not graph.ops:
        raise _unsupported("model has no operators", "model", "use a model that computes something")
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        what = f"model has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        raise _unsupported(what, "model", "use a model with one input and one output")
    for role, tensor in (("input", _input(graph)), ("output", _output(graph))):
        if tensor.dtype is not DType.INT8 or len(tensor.scales) != 1:
            what = f"model {role} is not an int8 tensor with one scale"
            raise _unsupported(what, role, "convert with int8 input and output")
        if len(tensor.shape) < 2 or tensor.shape[0] != 1:
            what = f"model {role} has shape {tensor.shape}, batch is not 1"
            raise _unsupported(what, role, "convert with batch 1")
    if contract is not None:
        _check_contract(graph, contract)


def _unsupported(what: str, where: str, remedy: str) -> UnsupportedError:
    return UnsupportedError(what, where=where, remedy=remedy, code="codegen.io-unsupported")


def _check_contract(graph: Graph, contract: Contract) -> None:
    spec, x = contract.input, _input(graph)
    scale, zero_point = input_quantization(contract)
    wanted = (1, spec.height, spec.width, spec.channels)
    # A converter that takes its scale from data may be off in the last float32 bits.
    same_scale = math.isclose(x.scale, scale, rel_tol=1e-6) and x.zero_point == zero_point
    classes = _output(graph).elements
    checks = (
        (x.shape == wanted, f"input shape {x.shape} is not the contract's {wanted}"),
        (
            same_scale,
            f"input scale {x.scale:.9g}, zero point {x.zero_point} are not the contract's",
        ),
        (classes == contract.num_classes, f"{classes} outputs, {contract.num_classes} labels"),
    )
    for good, what in checks:
        if not good:
            raise ContractError(
                f"model and contract disagree: {what}",
                where="contract.json",
                remedy="use the contract the model was trained with",
                code="contract.model-mismatch",
            )
    for index, label in enumerate(contract.labels):
        if not _fits_string(label):
            raise ContractError(
                f"label #{index} cannot be a C string: over {MAX_STRING_BYTES} bytes, a NUL inside"
                " or not UTF-8",
                where="contract.json: labels",
                remedy="rename that class and train again",
                code="contract.label",
            )


def _fits_string(label: str) -> bool:
    if any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in label):
        return False  # a surrogate that no file name gives
    return "\0" not in label and len(text_bytes(label)) <= MAX_STRING_BYTES


def _input(graph: Graph) -> Tensor:
    return graph.tensor(graph.inputs[0])


def _output(graph: Graph) -> Tensor:
    return graph.tensor(graph.outputs[0])


# -- what the templates see ------------------------------------------------------------------------


def _context(model: ArrayModel) -> dict[str, object]:
    """Variables of the templates. Foreign text among them: `labels[].text`, `golden.*` words."""
    contract, graph, golden = model.contract, model.graph, model.golden
    model_hash = sha256_bytes(model.tflite)
    contract_hash = None if contract is None else contract.sha256()
    operators = tflm.used_operators(graph)
    return {
        "prefix": model.prefix,
        "PREFIX": model.prefix.upper(),
        "tool_version": model.tool_version,
        "model_hash": model_hash,
        "contract_hash": contract_hash,
        "model_hash32": _hash32(model_hash),
        "contract_hash32": None if contract_hash is None else _hash32(contract_hash),
        "hash_macros": _hash_macros(model, model_hash, contract_hash),
        "size_macros": _size_macros(model),
        "scale_macros": _scale_macros(model),
        "has_image_input": len(_input(graph).shape) == 4,
        "labels": _label_rows(contract),
        "words": word_rows(model.tflite),
        "tflite_bytes": len(model.tflite),
        "pixel_tables": _pixel_tables(contract),
        "golden_count": len(golden.inputs),
        "golden_engine": golden.engine,
        "golden_origin": golden.origin,
        "golden_pixels": None if golden.pixels is None else _vectors(golden.pixels),
        "golden_inputs": _vectors(golden.inputs),
        "golden_outputs": _vectors(golden.outputs),
        "operators": operators,
        "add_methods": [tflm.ADD_METHODS[name] for name in operators],
        "arena_bytes": model.arena_bytes,
        "oldest_tflm": tflm.oldest_tflm(graph),
        "per_channel_fc": tflm.has_per_channel_fc(graph),
    }


def _hash32(sha256: str) -> str:
    return f"0x{sha256[:8]}U"


def _hash_macros(model: ArrayModel, model_hash: str, contract_hash: str | None) -> str:
    name = model.prefix.upper()
    rows: list[Macro] = [
        (f"{name}_MODEL_HASH", f'"{model_hash}"', ""),
        (f"{name}_MODEL_HASH32", _hash32(model_hash), ""),
    ]
    if contract_hash is not None:
        rows += [
            (f"{name}_CONTRACT_HASH", f'"{contract_hash}"', ""),
            (f"{name}_CONTRACT_HASH32", _hash32(contract_hash), ""),
        ]
    return macro_rows(rows)


def _size_macros(model: ArrayModel) -> str:
    x, y = _input(model.graph), _output(model.graph)
    rows = [
        ("DATA_BYTES", len(model.tflite), "the .tflite file"),
        ("DATA_WORDS", -(-len(model.tflite) // 4), "the same in 32-bit words"),
        ("INPUT_BYTES", x.elements, f"int8 {_shape_text(x)}"),
    ]
    if len(x.shape) == 4:
        _, height, width, channels = x.shape
        rows += [
            ("INPUT_HEIGHT", height, "pixels"),
            ("INPUT_WIDTH", width, "pixels"),
            ("INPUT_CHANNELS", channels, _channel_text(model.contract)),
        ]
    rows += [
        ("OUTPUT_BYTES", y.elements, f"int8 {_shape_text(y)}"),
        ("NUM_CLASSES", y.shape[-1], "last axis of the output"),
    ]
    name = model.prefix.upper()
    return macro_rows([(f"{name}_{key}", str(value), note) for key, value, note in rows])


def _shape_text(tensor: Tensor) -> str:
    return f"[{', '.join(str(n) for n in tensor.shape)}]"


def _channel_text(contract: Contract | None) -> str:
    if contract is None:
        return "innermost"
    return {"RGB": "red, green, blue; innermost", "GRAY": "gray"}[contract.input.color]


def _scale_macros(model: ArrayModel) -> str:
    rows: list[Macro] = []
    for role, tensor in (("INPUT", _input(model.graph)), ("OUTPUT", _output(model.graph))):
        name = f"{model.prefix.upper()}_{role}"
        rows += [
            (f"{name}_SCALE", float_literal(tensor.scale), f"exactly {float_hex(tensor.scale)}"),
            (f"{name}_ZERO_POINT", _signed(tensor.zero_point), ""),
        ]
    return macro_rows(rows)


def _signed(value: int) -> str:
    return f"({value})" if value < 0 else str(value)


@dataclass(frozen=True, slots=True)
class _LabelRow:
    constant: str
    index: int
    text: str  # foreign


def _label_rows(contract: Contract | None) -> list[_LabelRow]:
    if contract is None:
        return []
    named = zip(label_constants(contract.labels), contract.labels, strict=True)
    return [_LabelRow(constant, index, text) for index, (constant, text) in enumerate(named)]


def _pixel_tables(contract: Contract | None) -> list[str]:
    """Rows of each channel's 256 values; none where quantising is `pixel - 128`."""
    if contract is None:
        return []
    table = pixel_table(contract)
    plain = np.arange(256) - 128
    if bool((table == plain).all()):
        return []
    return [number_rows(channel.tolist(), depth=2) for channel in table]


def _vectors(values: I8 | U8) -> list[str]:
    return [number_rows(row, depth=2) for row in values.reshape(len(values), -1).tolist()]


def _facts(model: ArrayModel) -> Mapping[str, object]:
    """The marker's content beside the files' hashes: what a program wants to know of the model."""
    graph, contract = model.graph, model.contract
    return {
        "template": TEMPLATE,
        "prefix": model.prefix,
        "tool_version": model.tool_version,
        "model_sha256": sha256_bytes(model.tflite),
        "contract_sha256": None if contract is None else contract.sha256(),
        "contract": None if contract is None else asdict(contract),
        "input": _tensor_facts(_input(graph)),
        "output": _tensor_facts(_output(graph)),
        "golden": {"count": len(model.golden.inputs), "engine": model.golden.engine},
        "tflm": {
            "arena_bytes": model.arena_bytes,
            "operators": list(tflm.used_operators(graph)),
            "oldest": asdict(tflm.oldest_tflm(graph)),
        },
    }


def _tensor_facts(tensor: Tensor) -> Mapping[str, int | float | Sequence[int] | str]:
    return {
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.value,
        "scale": tensor.scale,
        "zero_point": tensor.zero_point,
    }
