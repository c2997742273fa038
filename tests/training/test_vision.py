"""torchvision beside a CPU torch, and the one module that may import it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ndtool.errors import ToolMissingError
from ndtool.training.vision import import_torchvision

ROOT = Path(__file__).resolve().parents[2]
USE = re.compile(
    r"^\s*(import|from)\s+torchvision|(import_module|require|__import__)\(\s*[\"']torchvision",
    re.MULTILINE,
)
AT_TOP = re.compile(r"^(import|from)\s+torchvision", re.MULTILINE)


@pytest.mark.slow
def test_transforms_work_after_the_import() -> None:
    """In a process of its own, since the order of imports is what matters."""
    code = (
        "import torch, warnings\n"
        "warnings.filterwarnings('ignore', category=DeprecationWarning)\n"
        "from ndtool.training.vision import import_torchvision\n"
        "tv = import_torchvision()\n"
        "assert import_torchvision() is tv\n"
        "from torchvision.transforms import v2\n"
        "image = torch.zeros(3, 20, 20, dtype=torch.uint8)\n"
        "crop = v2.RandomResizedCrop(8, antialias=True)(image)\n"
        "assert crop.shape == (3, 8, 8) and crop.dtype == torch.uint8\n"
        "network = tv.models.mobilenet_v2(weights=None).eval()\n"
        "assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_missing_torchvision_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # what makes an import fail
    with pytest.raises(ToolMissingError, match=r"\[train\]"):
        import_torchvision()


def test_nothing_imports_torchvision_before_it_is_made_importable() -> None:
    folders = ("ndtool", "training", "export", "firmware_templates", "tests", "tools", "benchmarks")
    own = {ROOT / "training" / "vision.py", Path(__file__).resolve()}
    files = {path for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert len(files) > 20
    for path in sorted(files - own):
        text = path.read_text("utf-8")
        # A module below torchvision may follow in the same function.
        assert not USE.search(text) or "    import_torchvision()\n" in text, path
        assert not AT_TOP.search(text), path
