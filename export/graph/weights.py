"""The named tensors of an ArchSpec, checked, and with batch norm folded in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ndtool.arch import ArchSpec, lower, tensor_shapes
from ndtool.console import visible
from ndtool.errors import InputError
from ndtool.export.graph.fold import apply_affine, batch_norm_affine, to_float32
from ndtool.export.graph.ir import F32

_WHERE = "the student's tensors"


def fold_tensors(spec: ArchSpec, tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, F32]:
    """`NAME.weight` (torch layout) and `NAME.bias` of every layer with weights, BN folded in.

    Raises:
        InputError: a tensor is missing, unknown, of another shape or not float32; names it.
        UnsupportedError: NaN or infinite after folding.
    """
    _check(spec, tensors)
    folded: dict[str, F32] = {}
    for layer in lower(spec):
        if not layer.weight_shape:
            continue
        name = layer.name
        weight = tensors[f"{name}.weight"].astype(np.float64)
        bias = np.zeros(layer.c_out)
        if layer.bias:
            bias = tensors[f"{name}.bias"].astype(np.float64)
        if layer.bn:
            gamma, beta, mean, variance = (
                tensors[f"{name}.bn.{part}"].astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale, shift = batch_norm_affine(gamma, beta, mean, variance, eps=spec.bn_eps)
            weight, bias = apply_affine(weight, bias, scale, shift, axis=0)
        folded[f"{name}.weight"] = to_float32(weight, name=f"{name}.weight", where=_WHERE)
        folded[f"{name}.bias"] = to_float32(bias, name=f"{name}.bias", where=_WHERE)
    return folded


def _check(spec: ArchSpec, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    shapes = tensor_shapes(lower(spec))
    for name in sorted({*shapes, *tensors}):
        if name not in tensors:
            problem = "is missing"
        elif name not in shapes:
            problem = "is not part of the architecture"
        elif tensors[name].shape != shapes[name]:
            problem = f"has shape {tensors[name].shape}, not {shapes[name]}"
        elif tensors[name].dtype != np.float32:
            problem = f"is {tensors[name].dtype}, not float32"
        else:
            continue
        raise InputError(
            f"tensor {visible(name)} {problem}",
            where=_WHERE,
            remedy="use the tensors and the spec of one run",
            code="graph.tensors",
        )
