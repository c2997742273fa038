"""Strides, kernels and paddings of ONNX's sliding-window operators, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ndtool.export.graph.ir import Padding
from ndtool.export.graph.onnx_file import Node, malformed, unsupported

MAX_STEP: Final = 4096  # largest kernel, stride, dilation or padding in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a kernel slides over an image, and the (h, w) that come out; pixels."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: Padding
    out_hw: tuple[int, int]


def read_window(node: Node, hw: tuple[int, int], kernel: tuple[int, int]) -> Window:
    """The window of a Conv or pooling node over an image of size `hw`.

    Raises:
        InputError: a value out of bounds, or an empty output.
        UnsupportedError: ceil_mode where it matters.
    """
    stride = _pair(node, "strides")
    dilation = _pair(node, "dilations")
    if not all(1 <= k <= MAX_STEP for k in kernel):
        raise malformed("kernel out of bounds", where=node.where)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    top, left, bottom, right = _pads(node, hw, reach, stride)
    out: list[int] = []
    for size, extent, step in zip(
        (hw[0] + top + bottom, hw[1] + left + right), reach, stride, strict=True
    ):
        if size < extent:
            raise malformed("the kernel is larger than its padded input", where=node.where)
        if node.integer("ceil_mode", 0) and (size - extent) % step:
            raise unsupported("ceil_mode that adds a partial window", where=node.where)
        out.append((size - extent) // step + 1)
    return Window(
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        padding=Padding(top=top, left=left, bottom=bottom, right=right),
        out_hw=(out[0], out[1]),
    )


def _pair(node: Node, name: str) -> tuple[int, int]:
    values = node.integers(name) or (1, 1)
    if len(values) != 2 or not all(1 <= v <= MAX_STEP for v in values):
        raise malformed(f"attribute {name} out of bounds", where=node.where)
    return values[0], values[1]


def _pads(
    node: Node, hw: tuple[int, int], reach: tuple[int, ...], stride: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right), ONNX's own order."""
    kind = node.text("auto_pad", "NOTSET")
    if kind == "VALID":
        return 0, 0, 0, 0
    if kind in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, extent, step in zip(hw, reach, stride, strict=True):
            total = max((math.ceil(size / step) - 1) * step + extent - size, 0)
            small, large = total // 2, total - total // 2
            before.append(small if kind == "SAME_UPPER" else large)
            after.append(large if kind == "SAME_UPPER" else small)
        return before[0], before[1], after[0], after[1]
    pads = node.integers("pads") or (0, 0, 0, 0)
    if kind != "NOTSET" or len(pads) != 4 or not all(0 <= p <= MAX_STEP for p in pads):
        raise malformed("attribute auto_pad or pads out of bounds", where=node.where)
    return pads[0], pads[1], pads[2], pads[3]
