"""Per-channel affine maps (batch normalisation above all) folded into weights, in float64.

Element-wise IEEE arithmetic only, no dot product and no BLAS: the same bytes on every machine
(quantisation, 4, "Determinism"). The caller rounds to float32 once, with `to_float32`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ndtool.console import visible
from ndtool.errors import UnsupportedError
from ndtool.export.graph.ir import F32

F64 = NDArray[np.float64]


def batch_norm_affine(
    gamma: F64, beta: F64, mean: F64, variance: F64, *, eps: float
) -> tuple[F64, F64]:
    """(scale, shift), each (c,), such that batch_norm(x) = scale * x + shift in inference.

    A negative variance gives NaN, which `to_float32` refuses.
    """
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + eps)
        return scale, beta - mean * scale


def apply_affine(weight: F64, bias: F64, scale: F64, shift: F64, *, axis: int) -> tuple[F64, F64]:
    """Weight and bias of scale * (x @ weight + bias) + shift.

    Args:
        weight: output channels on `axis`.
        bias, scale, shift: (c_out,).
    """
    shape = [1] * weight.ndim
    shape[axis] = -1
    with np.errstate(all="ignore"):
        return weight * scale.reshape(shape), bias * scale + shift


def to_float32(values: F64, *, name: str, where: str) -> F32:
    """`values` rounded to float32, read-only.

    Raises:
        UnsupportedError: NaN, infinite, or above float32; names the tensor.
    """
    with np.errstate(all="ignore"):
        rounded = values.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise not_finite(name, where=where)
    rounded.flags.writeable = False
    return rounded


def not_finite(name: str, *, where: str) -> UnsupportedError:
    """The error for a constant or a range that no int8 tensor can have."""
    return UnsupportedError(
        f"tensor {visible(name)} holds NaN or infinite values",
        where=where,
        remedy="train again with a smaller learning rate, or mend the model",
        code="graph.not-finite",
    )
