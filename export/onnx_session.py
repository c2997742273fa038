"""onnxruntime, in the one way that ndtool runs it: the same answer in every run, and no noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ndtool.console import visible
from ndtool.errors import InputError, require


def open_session(model: bytes) -> Any:
    """An InferenceSession of an ONNX file; call it and its `run` inside `onnx_refusals`.

    One thread that does not spin and no graph optimisation: every tensor of the file exists, and
    the result does not depend on the machine's load (stack, 6).
    """
    runtime = require("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # give the memory of a batch back
    options.log_severity_level = 4  # stderr is ours; failures come as exceptions
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextmanager
def onnx_refusals(where: str) -> Iterator[None]:
    """onnxruntime's own exceptions, which share no base class, become one line about `where`.

    Raises:
        InputError: it refuses the model, or fails while it runs.
    """
    state = require("onnxruntime.capi.onnxruntime_pybind11_state")
    refusals = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
    )
    try:
        yield
    except refusals as error:
        first_line = str(error).partition("\n")[0]
        raise InputError(
            f"onnxruntime cannot run the model: {visible(first_line)}",
            where=where,
            remedy="export it again: ndtool export RUN --force",
            code="onnx.refused",
        ) from error
