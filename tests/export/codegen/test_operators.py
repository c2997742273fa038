"""The list of operators says what the reader, the lowering and the kernels do."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from kernel_calls import RUNTIME
from single_op import CASES
from wide_ops import WIDE

from ndtool.export.codegen.lower import lower
from ndtool.export.codegen.operators import OPERATORS, Operator
from ndtool.export.codegen.passes.passed import Passed
from ndtool.export.codegen.program import Program
from ndtool.export.int8.ir import op_name
from ndtool.export.tflite import operators as reader

BY_NAME = {operator.name: operator for operator in OPERATORS}


@pytest.fixture(scope="module")
def programs() -> dict[str, list[Program]]:
    """Programs of one operation, by its name."""
    found = defaultdict(list)
    for case in (*CASES.values(), *WIDE.values()):
        for number in range(12):
            graph = case(np.random.default_rng(number))
            found[op_name(graph.ops[0])].append(lower(Passed(graph=graph)))
    return found


def test_sorted_and_the_reader_s() -> None:
    names = [operator.name for operator in OPERATORS]
    assert names == sorted(set(names))
    # a DEQUANTIZE is only dropped, at the model's output
    assert set(names) == {*reader._OPERATORS, "DEQUANTIZE"}


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_row_is_a_few_phrases_of_one_line(operator: Operator) -> None:
    for text in (operator.supported, operator.refused, operator.in_place):
        assert text == text.strip()
        assert "\n" not in text
        assert "|" not in text  # it becomes a cell of a table
        assert not text.endswith(".")
    assert operator.supported
    assert operator.refused


def test_every_operator_has_a_case(programs: dict[str, list[Program]]) -> None:
    assert set(programs) == set(BY_NAME) - {"DEQUANTIZE"}


@pytest.mark.parametrize("name", sorted(set(BY_NAME) - {"DEQUANTIZE"}))
def test_row_is_what_the_lowering_does(name: str, programs: dict[str, list[Program]]) -> None:
    operator = BY_NAME[name]
    called = {kernel for program in programs[name] for kernel in program.kernels}
    assert called <= set(operator.kernels)
    shares = any(call.sharing for program in programs[name] for call in program.calls)
    assert shares == (operator.in_place not in ("", "always"))
    aliased = any(program.aliases for program in programs[name])
    assert aliased == (operator.in_place == "always") == (operator.kernels == ())


def test_kernels_of_all_rows_are_those_of_the_runtime() -> None:
    listed = {kernel for operator in OPERATORS for kernel in operator.kernels}
    files = {Path(path).stem for path in RUNTIME.glob("nd_*_s8.c")}
    shared = {name for name in files if f'#include "{name}.h"' in included_by_others(name)}
    assert listed <= files
    assert files - listed <= shared


def included_by_others(name: str) -> str:
    """All headers and sources but the kernel's own."""
    paths = [path for path in RUNTIME.glob("nd_*") if path.stem != name]
    return "".join(path.read_text() for path in paths)
