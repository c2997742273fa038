"""The project template `array`: the model as C data beside TensorFlow Lite Micro (design, 5).

Pure: an `ArrayModel` in, file names and bytes out; the same model gives the same bytes anywhere.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from ndtool.contract import Contract
from ndtool.errors import UnsupportedError
from ndtool.export.codegen import tflm
from ndtool.export.codegen.model import (
    ALONE,
    OF_CONTRACT,
    FolderNames,
    Macro,
    Model,
    check_contract,
    io_macros,
    marker_name,
    model_context,
    model_facts,
    prefixed_macros,
)
from ndtool.export.codegen.naming import check_prefix
from ndtool.export.codegen.project import with_marker
from ndtool.export.codegen.render import render_project
from ndtool.export.codegen.strings import word_rows
from ndtool.export.int8.ir import DType, Graph

TEMPLATE: Final = "array"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArrayModel(Model):
    """Everything the generated files say. `arena_bytes` is TFLM's, safe on every core."""

    arena_bytes: int


def emit_array(model: ArrayModel, *, names: FolderNames = ALONE) -> dict[str, bytes]:
    """File name -> content of the whole project.

    Raises:
        ConfigError: the prefix is not usable.
        ContractError: the contract belongs to another model, or a label fits no C string.
        UnsupportedError: not one int8 input and one int8 output.
    """
    prefix = check_prefix(model.prefix)
    check_model(model.graph, model.contract)
    without = OF_CONTRACT if model.contract is None else frozenset[str]()
    rename = {"README.md": names.readme}
    context = _context(model, names)
    files = render_project(TEMPLATE, context, prefix=prefix, without=without, rename=rename)
    files[names.tflite] = model.tflite
    return with_marker(files, marker=marker_name(prefix), facts=_facts(model, names))


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
    for role, index in (("input", graph.inputs[0]), ("output", graph.outputs[0])):
        tensor = graph.tensor(index)
        if tensor.dtype is not DType.INT8 or len(tensor.scales) != 1:
            what = f"model {role} is not an int8 tensor with one scale"
            raise _unsupported(what, role, "convert with int8 input and output")
        if len(tensor.shape) < 2 or tensor.shape[0] != 1:
            what = f"model {role} has shape {tensor.shape}, batch is not 1"
            raise _unsupported(what, role, "convert with batch 1")
    if contract is not None:
        check_contract(graph, contract)


def _unsupported(what: str, where: str, remedy: str) -> UnsupportedError:
    return UnsupportedError(what, where=where, remedy=remedy, code="codegen.io-unsupported")


def _context(model: ArrayModel, names: FolderNames) -> dict[str, object]:
    """Variables of this template beside `model_context`."""
    graph = model.graph
    operators = tflm.used_operators(graph)
    size = len(model.tflite)
    data_macros: list[Macro] = [
        ("DATA_BYTES", str(size), "the .tflite file"),
        ("DATA_WORDS", str(-(-size // 4)), "the same in 32-bit words"),
    ]
    return {
        **model_context(model, names),
        "size_macros": prefixed_macros(model.prefix, [*data_macros, *io_macros(model)]),
        "words": word_rows(model.tflite),
        "operators": operators,
        "add_methods": [tflm.ADD_METHODS[name] for name in operators],
        "arena_bytes": model.arena_bytes,
        "oldest_tflm": tflm.oldest_tflm(graph),
        "per_channel_fc": tflm.has_per_channel_fc(graph),
    }


def _facts(model: ArrayModel, names: FolderNames) -> dict[str, object]:
    """The marker's content beside the files' hashes."""
    return {
        **model_facts(model, names),
        "template": TEMPLATE,
        "tflm": {
            "arena_bytes": model.arena_bytes,
            "operators": list(tflm.used_operators(model.graph)),
            "oldest": asdict(tflm.oldest_tflm(model.graph)),
        },
    }
