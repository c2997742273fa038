"""The one place that imports torchvision.

Its published wheel is a CUDA build; beside a CPU torch its C++ extension cannot load, and the
import then dies because the fake kernels of `nms` and `qnms` find no operator. Declaring the two
schemas first is enough for transforms, datasets and models; not for its image codecs (pillow
reads images) and its `nms` (stack, section 1.4).
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

import torch

from ndtool.errors import require

_NAMESPACE: Final = "torchvision"
_OPERATORS: Final = ("nms", "qnms")
_SCHEMA: Final = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: Final[list[torch.library.Library]] = []  # a declaration lives as long as its object


def import_torchvision() -> ModuleType:
    """torchvision, whether or not its C++ extension loads.

    Raises:
        ToolMissingError: it is not installed.
    """
    found = importlib.util.find_spec(_NAMESPACE)
    if _NAMESPACE not in sys.modules and found is not None and found.origin is not None:
        for extension in sorted(Path(found.origin).parent.glob("_C*.so")):
            with contextlib.suppress(OSError):  # a CUDA build: the schemas below replace it
                torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]  # untyped in torch
        _declare_missing_operators()
    return require(_NAMESPACE)


def _declare_missing_operators() -> None:
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]  # untyped in torch
            library.define(_SCHEMA.format(name))  # type: ignore[no-untyped-call]  # untyped in torch
            _declared.append(library)
