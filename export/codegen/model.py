"""What every project template says of a model: names, shapes, scales, labels, golden vectors.

Pure. A template adds its own to `Model`, to `model_context` and to `model_facts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ndtool.contract import Contract
from ndtool.errors import ContractError
from ndtool.export.codegen.naming import label_constants
from ndtool.export.codegen.strings import (
    MAX_STRING_BYTES,
    float_hex,
    float_literal,
    macro_rows,
    number_rows,
    text_bytes,
)
from ndtool.export.int8.ir import Graph, Tensor, TensorId
from ndtool.files import sha256_bytes
from ndtool.quant.pixels import input_quantization, pixel_table

I8 = NDArray[np.int8]
U8 = NDArray[np.uint8]
Macro = tuple[str, str, str]  # name, value, comment

# Files that only a model with a contract has
OF_CONTRACT: Final = frozenset({"PREFIX_labels.c", "PREFIX_pixels.c"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Golden:
    """Vectors that a device must reproduce: N of them.

    inputs: (N, bytes) int8, of each all inputs in order; outputs: (N, bytes) int8 likewise, as
    `engine` computed them; pixels: uint8 (N, H, W, C), the images that `inputs` were quantised
    from, None without a contract. `origin` says in a few words where the images come from.
    """

    pixels: U8 | None
    inputs: I8
    outputs: I8
    engine: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """One model, as every template sees it. `graph` is what `tflite` holds.

    `source_sha256` is that of the user's file where its float ends were cut off to get `tflite`;
    None where `tflite` is the user's file itself.
    """

    tflite: bytes
    graph: Graph
    prefix: str
    contract: Contract | None  # None: a foreign file; no labels, no pixel quantiser
    golden: Golden
    tool_version: str
    source_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderNames:
    """Names in the project folder that belong to one model, but do not begin with its prefix."""

    tflite: str = "model.tflite"
    readme: str = "README.md"


ALONE: Final = FolderNames()


def names_beside_others(prefix: str) -> FolderNames:
    """Names of a model that is not the first one in its folder."""
    return FolderNames(tflite=f"{prefix}_model.tflite", readme=f"{prefix}_README.md")


def marker_name(prefix: str) -> str:
    """The JSON file that makes a folder a project of ours."""
    return f"{prefix}.json"


# -- the contract ----------------------------------------------------------------------------------


def check_contract(graph: Graph, contract: Contract) -> None:
    """Refuse a contract that is not `graph`'s, or whose labels C cannot say.

    Raises:
        ContractError: input, normalisation or labels do not fit.
    """
    for good, what in _contract_checks(graph, contract):
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


def _contract_checks(graph: Graph, contract: Contract) -> Iterable[tuple[bool, str]]:
    spec, sizes = contract.input, (len(graph.inputs), len(graph.outputs))
    if sizes != (1, 1):
        return [(False, f"{sizes[0]} inputs and {sizes[1]} outputs, the contract has one of each")]
    x, y = graph.tensor(graph.inputs[0]), graph.tensor(graph.outputs[0])
    scale, zero_point = input_quantization(contract)
    wanted = (1, spec.height, spec.width, spec.channels)
    # A converter that takes its scale from data may be off in the last float32 bits.
    same_scale = math.isclose(x.scale, scale, rel_tol=1e-6) and x.zero_point == zero_point
    shown = f"input scale {x.scale:.9g}, zero point {x.zero_point}"
    return [
        (x.shape == wanted, f"input shape {x.shape} is not the contract's {wanted}"),
        (same_scale, f"{shown} are not the contract's"),
        (
            y.elements == contract.num_classes,
            f"{y.elements} outputs, {contract.num_classes} labels",
        ),
    ]


def _fits_string(label: str) -> bool:
    if any("\ud800" <= c <= "\udfff" and not "\udc80" <= c <= "\udcff" for c in label):
        return False  # a surrogate that no file name gives
    return "\0" not in label and len(text_bytes(label)) <= MAX_STRING_BYTES


# -- what the templates see ------------------------------------------------------------------------


def model_context(model: Model, names: FolderNames) -> dict[str, object]:
    """Variables of all templates. Foreign text among them: `labels[].text`, `golden_*` words."""
    contract, golden = model.contract, model.golden
    model_hash = sha256_bytes(model.tflite)
    contract_hash = None if contract is None else contract.sha256()
    return {
        "prefix": model.prefix,
        "PREFIX": model.prefix.upper(),
        "tool_version": model.tool_version,
        "tflite_name": names.tflite,
        "tflite_bytes": len(model.tflite),
        "model_hash": model_hash,
        "source_hash": model.source_sha256,
        "contract_hash": contract_hash,
        "model_hash32": _hash32(model_hash),
        "contract_hash32": None if contract_hash is None else _hash32(contract_hash),
        "hash_macros": _hash_macros(model, model_hash, contract_hash),
        "scale_macros": _scale_macros(model),
        "has_image_input": _has_image_input(model.graph),
        "labels": _label_rows(contract),
        "pixel_tables": _pixel_tables(contract),
        "golden_count": len(golden.inputs),
        "golden_engine": golden.engine,
        "golden_origin": golden.origin,
        "golden_pixels": None if golden.pixels is None else vector_rows(golden.pixels),
        "golden_inputs": vector_rows(golden.inputs),
        "golden_outputs": vector_rows(golden.outputs),
    }


def io_names(role: str, tensors: Sequence[TensorId]) -> list[tuple[str, TensorId]]:
    """(`INPUT`, tensor) of the only one; (`INPUT0`, tensor), ... of several."""
    if len(tensors) == 1:
        return [(role, tensors[0])]
    return [(f"{role}{i}", tensor) for i, tensor in enumerate(tensors)]


def io_macros(model: Model) -> list[Macro]:
    """Sizes of inputs and outputs, without prefix."""
    graph = model.graph
    rows: list[Macro] = []
    for role, ids in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs)):
        if len(ids) > 1:
            rows.append((f"NUM_{role}S", str(len(ids)), ""))
        for name, tensor in ((name, graph.tensor(i)) for name, i in io_names(role, ids)):
            rows.append((f"{name}_BYTES", str(tensor.elements), f"int8 {_shape_text(tensor)}"))
            if role == "INPUT" and len(tensor.shape) == 4:
                _, height, width, channels = tensor.shape
                rows += [
                    (f"{name}_HEIGHT", str(height), "pixels"),
                    (f"{name}_WIDTH", str(width), "pixels"),
                    (f"{name}_CHANNELS", str(channels), _channel_text(model.contract)),
                ]
    if len(graph.outputs) == 1:
        classes = graph.tensor(graph.outputs[0]).shape[-1]
        rows.append(("NUM_CLASSES", str(classes), "last axis of the output"))
    return rows


def prefixed_macros(prefix: str, rows: Iterable[Macro]) -> str:
    """`#define` lines of `rows`, in columns."""
    return macro_rows([(f"{prefix.upper()}_{name}", value, note) for name, value, note in rows])


def vector_rows(values: I8 | U8) -> list[str]:
    """Rows of numbers of each vector."""
    return [number_rows(row, depth=2) for row in values.reshape(len(values), -1).tolist()]


def _hash32(sha256: str) -> str:
    return f"0x{sha256[:8]}U"


def _hash_macros(model: Model, model_hash: str, contract_hash: str | None) -> str:
    rows: list[Macro] = [
        ("MODEL_HASH", f'"{model_hash}"', ""),
        ("MODEL_HASH32", _hash32(model_hash), ""),
    ]
    if contract_hash is not None:
        rows += [
            ("CONTRACT_HASH", f'"{contract_hash}"', ""),
            ("CONTRACT_HASH32", _hash32(contract_hash), ""),
        ]
    return prefixed_macros(model.prefix, rows)


def _has_image_input(graph: Graph) -> bool:
    return len(graph.inputs) == 1 and len(graph.tensor(graph.inputs[0]).shape) == 4


def _shape_text(tensor: Tensor) -> str:
    return f"[{', '.join(str(n) for n in tensor.shape)}]"


def _channel_text(contract: Contract | None) -> str:
    if contract is None:
        return "innermost"
    return {"RGB": "red, green, blue; innermost", "GRAY": "gray"}[contract.input.color]


def _scale_macros(model: Model) -> str:
    graph = model.graph
    named = [*io_names("INPUT", graph.inputs), *io_names("OUTPUT", graph.outputs)]
    rows: list[Macro] = []
    for name, tensor in ((name, graph.tensor(index)) for name, index in named):
        rows += [
            (f"{name}_SCALE", float_literal(tensor.scale), f"exactly {float_hex(tensor.scale)}"),
            (f"{name}_ZERO_POINT", _signed(tensor.zero_point), ""),
        ]
    return prefixed_macros(model.prefix, rows)


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


# -- facts for programs ----------------------------------------------------------------------------


def model_facts(model: Model, names: FolderNames) -> dict[str, object]:
    """The marker's content of every template: what a program wants to know of the model."""
    graph, contract = model.graph, model.contract
    return {
        "prefix": model.prefix,
        "tool_version": model.tool_version,
        "tflite": names.tflite,
        "model_sha256": sha256_bytes(model.tflite),
        "source_sha256": model.source_sha256 or sha256_bytes(model.tflite),
        "contract_sha256": None if contract is None else contract.sha256(),
        "contract": None if contract is None else asdict(contract),
        "inputs": [_tensor_facts(graph.tensor(index)) for index in graph.inputs],
        "outputs": [_tensor_facts(graph.tensor(index)) for index in graph.outputs],
        "golden": {"count": len(model.golden.inputs), "engine": model.golden.engine},
    }


def _tensor_facts(tensor: Tensor) -> Mapping[str, int | float | Sequence[int] | str]:
    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype.value,
        "scale": tensor.scale,
        "zero_point": tensor.zero_point,
    }
