"""Published int8 models that lie beside the checkout; a plain clone does not have them."""

from __future__ import annotations

from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"


def shared_model(name: str) -> bytes:
    """Bytes of ../shared/models/NAME.tflite; where it is absent, the test skips and says so."""
    path = MODELS / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"../shared/models/{path.name} is not beside this checkout")
    return path.read_bytes()
