"""What this machine has: Python, packages, compilers, room. Looks only; installs nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from ndtool.errors import install_line

State = Literal["ok", "missing", "old"]
MIN_FREE_BYTES: Final = 1024**3
TOOL_TIMEOUT_S: Final = 10

# import name, distributions that bring it, extra, purpose
_PACKAGES: Final = (
    ("torch", ("torch",), "train", "training, the float hop"),
    ("torchvision", ("torchvision",), "train", "training.vision: torchvision beside a CPU torch"),
    ("sklearn", ("scikit-learn",), "train", "the embedded digits"),
    ("PIL", ("pillow",), "train", "reading images"),
    ("matplotlib", ("matplotlib",), "train", "curves of a training"),
    ("tensorboard", ("tensorboard",), "train", "train --tensorboard"),
    ("onnx", ("onnx",), "export", "ONNX"),
    ("onnxruntime", ("onnxruntime",), "export", "the ONNX hop, ranges"),
    ("ai_edge_litert", ("ai-edge-litert",), "export", "the .tflite schema, LiteRT"),
    ("flatbuffers", ("flatbuffers",), "export", "writing .tflite"),
    ("safetensors", ("safetensors",), "export", "the student's weights"),
    ("jinja2", ("jinja2",), "export", "C projects"),
    ("tflite_micro", ("tflite-micro",), "verify", "the reference interpreter"),
    ("elftools", ("pyelftools",), "verify", "verify --on qemu: sizes, instructions"),
    ("tensorflow", ("tensorflow-cpu", "tensorflow"), "tensorflow", "--converter tensorflow"),
)
# program, Debian packages, purpose
_TOOLS: Final = (
    ("gcc", "gcc libc6-dev", "verify and check: the C on this machine"),
    ("make", "make", "building C projects"),
    ("g++", "g++", "C++ users of generated C"),
    (
        "arm-none-eabi-gcc",
        "gcc-arm-none-eabi libnewlib-arm-none-eabi",
        "verify --on qemu: Cortex-M builds",
    ),
    ("qemu-system-arm", "qemu-system-arm", "verify --on qemu: running them, counting instructions"),
)
_VERSION: Final = re.compile(r"\d+\.\d+(\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that ndtool can use; `install` is empty when nothing is missing."""

    name: str
    state: State
    version: str
    purpose: str
    install: str = ""


def examine() -> list[Finding]:
    """Everything `doctor` shows, in a fixed order."""
    return [_python(), *_packages(), *_tools(), *_machine()]


def _python() -> Finding:
    old = sys.version_info < (3, 11)
    return Finding(
        name="python",
        state="old" if old else "ok",
        version=platform.python_version(),
        purpose="everything",
        install="Python 3.11 or newer" if old else "",
    )


def _packages() -> list[Finding]:
    found = []
    has_tflm_wheel = sys.platform == "linux" and platform.machine() == "x86_64"
    for module, distributions, extra, purpose in _PACKAGES:
        install = install_line(extra)
        if module == "tflite_micro" and not has_tflm_wheel:
            install = "no wheel for this platform: LiteRT's reference kernels are used instead"
        present = find_spec(module) is not None
        version = next((v for d in distributions if (v := _distribution(d))), "")
        found.append(
            Finding(
                name=distributions[0],
                state="ok" if present else "missing",
                version=version,
                purpose=purpose,
                install="" if present else install,
            )
        )
    return found


def _distribution(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _tools() -> list[Finding]:
    found = []
    for program, packages, purpose in _TOOLS:
        path = shutil.which(program)
        found.append(
            Finding(
                name=program,
                state="ok" if path else "missing",
                version=_program_version(path) if path else "",
                purpose=purpose,
                install="" if path else f"apt-get install --no-install-recommends {packages}",
            )
        )
    return found


def _program_version(path: str) -> str:
    try:
        shown = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=False, timeout=TOOL_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    first = (shown.stdout.splitlines() or [""])[0]
    numbers = [m.group() for m in _VERSION.finditer(first)]
    return numbers[-1] if numbers else ""


def _machine() -> list[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    writable = os.access(here, os.W_OK)
    return [
        Finding(
            name="disk",
            state="ok" if free >= MIN_FREE_BYTES else "missing",
            version=f"{free / 1024**3:.1f} GiB free",
            purpose="run folders",
            install="" if free >= MIN_FREE_BYTES else "free 1 GiB",
        ),
        Finding(
            name="working folder",
            state="ok" if writable else "missing",
            version="writable" if writable else "read-only",
            purpose="runs/",
            install="" if writable else "change to a folder you may write to, or use --out",
        ),
        Finding(
            name="processor cores",
            state="ok",
            version=str(os.cpu_count() or 1),
            purpose="training, interpreters",
        ),
    ]
