"""An ONNX file as external teacher, through onnxruntime on the CPU.

It has one input, an image batch (N, C, H, W) or (N, H, W, C) with C 1 or 3, N free or 1, H and W
free or fixed, and one output (N, K): logits, or their softmax. A float32 input gets the pixels
normalised as the student's are (`--normalize`), so that `--normalize imagenet` suits a network
trained so, and the default one of ndtool's own; a uint8 input gets them as they are, 0 to 255, and
the network normalises them itself.

Running such a file is running its program: only what would hang or open other files is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndtool.console import visible
from ndtool.contract import MAX_SIDE, Contract, Normalize, unit_normalize
from ndtool.errors import ConfigError, InputError, require
from ndtool.files import read_bounded
from ndtool.training.teachers.views import View, with_input

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

MAX_ONNX_BYTES: Final = 512 * 1024**2
_FLOAT: Final = "tensor(float)"
_BYTE: Final = "tensor(uint8)"
_REALS: Final = (_FLOAT, "tensor(float16)", "tensor(double)")
_EXTERNAL: Final = 1  # TensorProto.DataLocation
_SHAPE_REMEDY: Final = "export it with input (N, C, H, W) or (N, H, W, C), C 1 or 3, N free or 1"


@dataclass(frozen=True, slots=True)
class _Input:
    """What the network takes."""

    name: str
    is_float: bool  # else uint8
    channels_last: bool
    one_by_one: bool  # N is 1
    channels: int
    height: int
    width: int


def open_onnx(
    path: Path, contract: Contract, device: torch.device | str, *, threads: int
) -> Callable[[Tensor], Tensor]:
    """A function from uint8 images (B, H, W, C) to float32 logits (B, K) on `device`.

    Raises:
        ConfigError: it has other inputs or outputs, or another number of classes.
        InputError: no ONNX file, or onnxruntime refuses it; also when the function runs.
    """
    where = visible(str(path))
    data = read_bounded(path, MAX_ONNX_BYTES)
    model = _parse(data, where)
    classes = contract.num_classes
    with _refusals(where):
        session = _open_session(data, threads)
        takes = _read_input(session.get_inputs(), contract, where)
        output = _read_output(session.get_outputs(), classes, where)
    is_softmax = any(n.op_type == "Softmax" and output in n.output for n in model.graph.node)
    normalize = _normalize_of(contract, takes, where)
    view = View(
        with_input(
            contract,
            height=takes.height,
            width=takes.width,
            channels=takes.channels,
            normalize=normalize,
        ),
        device,
    )

    def logits(images: Tensor) -> Tensor:
        pixels = _as_taken(view, images, takes)
        parts = np.split(pixels, len(pixels)) if takes.one_by_one else [pixels]
        with _refusals(where):
            made = [session.run([output], {takes.name: part})[0] for part in parts]
        for part, given in zip(made, parts, strict=True):
            if part.shape != (len(given), classes):
                raise _unfit(f"its output is {_text(part.shape)}, not (N, {classes})", where)
        values = np.concatenate(made).astype(np.float32, copy=False)
        if is_softmax:  # its logarithm differs from the logits by a constant of each sample
            values = np.log(np.maximum(values, np.finfo(np.float32).tiny))
        return torch.from_numpy(values).to(device)

    return logits


def _as_taken(view: View, images: Tensor, takes: _Input) -> NDArray[Any]:
    """The batch as the network's input, contiguous, on the CPU."""
    if takes.is_float:
        nhwc = view(images).permute(0, 2, 3, 1)
    else:
        nhwc = view.pixels(images)
        nhwc = nhwc.round().to(torch.uint8) if nhwc.is_floating_point() else nhwc
    batch = nhwc if takes.channels_last else nhwc.permute(0, 3, 1, 2)
    return np.ascontiguousarray(batch.cpu().numpy())


def _read_input(inputs: Sequence[Any], contract: Contract, where: str) -> _Input:
    """The only input; sizes that are free are the student's."""
    if len(inputs) != 1:
        raise _unfit(f"it has {len(inputs)} inputs, not one", where)
    shape, kind = inputs[0].shape, inputs[0].type
    if kind not in (_FLOAT, _BYTE):
        raise _unfit(f"its input is {visible(kind)}, not float or uint8", where)
    sizes = [n if isinstance(n, int) and n > 0 else None for n in shape]  # others are free
    if len(sizes) != 4 or sizes[0] not in (None, 1):
        raise _unfit(f"its input is {_text(shape)}", where, _SHAPE_REMEDY)
    channels_last = sizes[1] not in (1, 3)
    channels = sizes[3] if channels_last else sizes[1]
    height, width = sizes[1:3] if channels_last else sizes[2:4]
    height, width = height or contract.input.height, width or contract.input.width
    if channels not in (1, 3) or max(height, width) > MAX_SIDE:
        raise _unfit(f"its input is {_text(shape)}", where, _SHAPE_REMEDY)
    return _Input(
        name=inputs[0].name,
        is_float=kind == _FLOAT,
        channels_last=channels_last,
        one_by_one=sizes[0] == 1,
        channels=channels,
        height=height,
        width=width,
    )


def _read_output(outputs: Sequence[Any], classes: int, where: str) -> str:
    """Name of the only output; what the file does not fix is seen when it runs."""
    if len(outputs) != 1:
        raise _unfit(f"it has {len(outputs)} outputs, not one", where)
    shape, kind = outputs[0].shape, outputs[0].type
    if kind not in _REALS:
        raise _unfit(f"its output is {visible(kind)}, not float", where)
    if shape and (len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != classes)):
        raise _unfit(
            f"its output is {_text(shape)}, not (N, {classes})",
            where,
            "use a teacher that was trained on the same labels in the same order",
        )
    return str(outputs[0].name)


def _normalize_of(contract: Contract, takes: _Input, where: str) -> Normalize:
    """The student's normalisation, on the teacher's channels."""
    if takes.channels == contract.input.channels:
        return contract.normalize
    if takes.is_float and contract.normalize.kind != "u8/255":
        raise _unfit(
            f"its input has {takes.channels} channels, the student's normalisation"
            f" {contract.input.channels}",
            where,
            "use --normalize u8/255, or a teacher with a uint8 input",
        )
    return unit_normalize(takes.channels)


def _unfit(
    what: str, where: str, remedy: str = "export a network from one image to its logits"
) -> ConfigError:
    what = f"the ONNX teacher does not fit: {what}"
    return ConfigError(what, where=where, remedy=remedy, code="teacher.onnx")


def _text(shape: Iterable[object]) -> str:
    return visible(f"({', '.join(map(str, shape))})")


def _parse(data: bytes, where: str) -> ModelProto:
    """The file's own table, without what could hang or open another file; raises InputError."""
    onnx = require("onnx")
    decode_error = require("google.protobuf.message").DecodeError
    try:
        model: ModelProto = onnx.ModelProto.FromString(data)
    except decode_error:
        raise _broken("not an ONNX file, or a damaged one", where) from None
    nodes = [*model.graph.node, *(node for f in model.functions for node in f.node)]
    if not nodes:
        raise _broken("not an ONNX file, or an empty one", where)
    for node in nodes:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise _broken(f"operator {visible(str(node.op_type))} has a graph of its own", where)
    if any(t.data_location == _EXTERNAL or t.external_data for t in _tensors(model, nodes)):
        raise _broken("it keeps its weights in another file", where)
    return model


def _tensors(model: ModelProto, nodes: Iterable[NodeProto]) -> Iterator[TensorProto]:
    """Every tensor with a value, in whatever place."""
    yield from model.graph.initializer
    for sparse in model.graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in nodes:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _broken(what: str, where: str) -> InputError:
    return InputError(
        f"cannot use the ONNX teacher: {what}",
        where=where,
        remedy="export a plain network, with its weights inside the file",
        code="teacher.onnx",
    )


def _open_session(data: bytes, threads: int) -> Any:
    """An InferenceSession that prints nothing; call it inside `_refusals`."""
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # stderr is ours; failures come as exceptions
    # The fallback to a second try, of the same provider, is announced by print.
    return runtime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


@contextmanager
def _refusals(where: str) -> Iterator[None]:
    """onnxruntime's exceptions share no base class but live in one module; raises InputError.

    Names that are no UTF-8 and failures of its C++ come as Python's own exceptions.
    """
    state = require("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type)]
    kinds: list[type[Exception]] = [UnicodeDecodeError, RuntimeError, MemoryError]
    kinds += [kind for kind in own if issubclass(kind, Exception)]
    try:
        yield
    except tuple(kinds) as error:
        first_line = str(error).partition("\n")[0]
        raise _broken(f"onnxruntime says: {visible(first_line)}", where) from None
