"""The template cmake by CMake itself: alone, and in somebody's project."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from engine_graphs import many_layers, two_ports
from engine_models import golden_model
from host_tools import require_tool, run_program

from ndtool.export.codegen.engine_project import emit_engine
from ndtool.export.codegen.model import marker_name
from ndtool.export.codegen.project import folder_names, write_project

pytestmark = [pytest.mark.usefixtures("tflite_micro"), pytest.mark.slow]

CONSUMER = """
cmake_minimum_required(VERSION 3.13)
project(consumer LANGUAGES C)
add_subdirectory(models)
add_executable(app app.c)
target_link_libraries(app PRIVATE left right)
"""
APP = """
#include "left.h"
#include "right.h"

int main(void)
{
    static LEFT_ALIGN16 int8_t left[LEFT_ARENA_BYTES];
    static RIGHT_ALIGN16 int8_t right[RIGHT_ARENA_BYTES];
    return (left_selftest(left) == ND_OK && right_selftest(right) == ND_OK) ? 0 : 1;
}
"""


def generate(folder: Path) -> None:
    graphs = {"left": two_ports(), "right": many_layers()}
    for model in (golden_model(graph, prefix=prefix) for prefix, graph in graphs.items()):
        names = folder_names(folder, model.prefix)
        files = emit_engine(model, "cmake", names=names)
        write_project(folder, files, marker=marker_name(model.prefix))


def cmake(folder: Path, *options: str) -> None:
    """Configure and build in `folder`/build, without a warning."""
    require_tool("gcc")
    tool = require_tool("cmake")
    for command in ([tool, "-S", ".", "-B", "build", *options], [tool, "--build", "build"]):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""


def test_library_alone(tmp_path: Path) -> None:
    generate(tmp_path)
    cmake(tmp_path, "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror")
    assert (tmp_path / "build" / "libleft.a").is_file()
    assert (tmp_path / "build" / "libright.a").is_file()


def test_library_in_another_project(tmp_path: Path) -> None:
    generate(tmp_path / "models")
    (tmp_path / "CMakeLists.txt").write_text(CONSUMER)
    (tmp_path / "app.c").write_text(APP)
    cmake(tmp_path)
    assert run_program(tmp_path / "build" / "app") == 0


def test_nothing_global_is_set(tmp_path: Path) -> None:
    """Flags and standards stay the user's."""
    generate(tmp_path)
    texts = [path.read_text() for path in (*tmp_path.glob("*.cmake"), tmp_path / "CMakeLists.txt")]
    for word in ("CMAKE_C_FLAGS", "add_compile_options", "add_definitions", "set(CMAKE"):
        assert not any(word in text for text in texts)
