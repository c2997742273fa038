"""Calls fit the C that they become: members of structs, arguments and tables as in the headers."""

import re
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
import single_op
from host_tools import require_tool
from kernel_calls import RUNTIME
from layer_ops import LAYERS
from wide_ops import WIDE

from ndtool.export.codegen.lower import lower
from ndtool.export.codegen.operators import OPERATORS
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.codegen.program import Arg, Call, Read, Scratch, Struct, Table, Write

STRUCT = re.compile(r"typedef struct \{\n(.*?)\} (nd_\w+);", re.DOTALL)
MEMBER = re.compile(r"^    int32_t (\w+);", re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
CASES = {**single_op.CASES, **WIDE, **LAYERS}


def structs() -> dict[str, tuple[str, ...]]:
    """Members of every struct of the headers, all of which are int32_t, by its type."""
    found = {}
    for header in sorted(RUNTIME.glob("nd_*.h")):
        text = COMMENT.sub("", header.read_text())
        for body, name in STRUCT.findall(text):
            members = MEMBER.findall(body)
            if len(members) == body.count(";"):  # pointers: not printed, made by a kernel
                found[name] = tuple(members)
    return found


def parameters(kernel: str) -> list[str]:
    """The parameters in the kernel's header."""
    text = (RUNTIME / f"{kernel}.h").read_text()
    found = re.search(rf"void {kernel}\((.*?)\);", text, re.DOTALL)
    assert found, kernel
    return [" ".join(part.split()).replace("ND_RESTRICT ", "") for part in found[1].split(",")]


def fits(arg: Arg, parameter: str) -> bool:
    kind, _, name = parameter.rpartition("*")
    match arg:
        case Struct():
            return kind == f"const {arg.type} "
        case Table():
            return kind == f"const {arg.ctype} " and name in (arg.name, f"{arg.name}_table")
        case Read():
            return kind == "const int8_t "
        case Scratch():
            return kind == "int8_t " and name == "scratch"
        case Write():
            return kind == "int8_t " and name == "out"


def calls(name: str) -> Iterator[Call]:
    for number in range(40):
        graph = CASES[name](np.random.default_rng(number))
        yield from lower(Passed(graph=graph)).calls


@pytest.mark.parametrize("name", CASES)
def test_calls_fit_the_headers(name: str) -> None:
    known = structs()
    for call in calls(name):
        expected = parameters(call.kernel)
        assert len(expected) == len(call.args)
        for arg, parameter in zip(call.args, expected, strict=True):
            assert fits(arg, parameter), (call.kernel, arg, parameter)
            if isinstance(arg, Struct):
                assert tuple(field for field, _ in arg.fields) == known[arg.type], arg.type


def test_every_kernel_is_called_by_some_case() -> None:
    called = {call.kernel for name in CASES for call in calls(name)}
    assert called == {kernel for operator in OPERATORS for kernel in operator.kernels}


def test_layout_of_the_runtime_is_clang_format_s() -> None:
    files = sorted(map(str, RUNTIME.glob("nd_*.[ch]")))
    done = subprocess.run(
        [require_tool("clang-format"), "--dry-run", "-Werror", *files],
        check=False,
        capture_output=True,
        text=True,
    )
    assert len(files) > 40
    assert done.returncode == 0, done.stderr
