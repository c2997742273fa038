"""Evidence, folders and baselines for the rules of `check`, and the rules with a fault in them."""

from __future__ import annotations

import ast
import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

from ndtool.evaluate import Accuracy
from ndtool.gates import evidence, rules
from ndtool.gates.baseline import Accepted, Baseline, Bounds, Hashes, Result
from ndtool.gates.verdict import HopRow, Judgement
from ndtool.types import Hop, Policy, Sha256

# in the order of their imports
MODULES = ("paired", "evidence", "accuracy", "size", "rules")


def joined(*modules: ModuleType) -> ModuleType:
    """One module with the names of several."""
    made = ModuleType("rules")
    for module in modules:
        made.__dict__.update(module.__dict__)
    return made


RULES = joined(evidence, rules)

# -- what is judged --------------------------------------------------------------------------------

IMAGES, MODEL, LABELS, CONTRACT = (Sha256(letter * 64) for letter in "abcd")
OTHER = Sha256("e" * 64)
TOOLS = {"gcc": "arm-none-eabi-gcc 12.2.1", "qemu": "7.2"}
# eight images of three classes, of which image 7 is taken for class 0
TRUTH = np.array([0, 0, 0, 0, 1, 1, 2, 2])
NOW = np.array([0, 0, 0, 0, 1, 1, 2, 0])
STRICT = Bounds(policy=Policy.STRICT)
PAIRED = Bounds(policy=Policy.PAIRED)


def make_known(
    module: ModuleType = RULES, predicted: Any = NOW, bounds: Bounds | None = None
) -> Any:
    """A baseline that holds the model of `make_evidence`."""
    baseline = Baseline(
        name="main",
        accepted=Accepted(reason="the first of all", tool="1.0", model="ds-cnn"),
        hash=Hashes(
            evaluation_set=IMAGES,
            model_int8=MODEL,
            labels=LABELS,
            contract=CONTRACT,
            predictions=OTHER,
        ),
        result=Result(samples=len(predicted), correct=7, accuracy_percent="87.500"),
        bounds=bounds or Bounds(),
        toolchain=TOOLS,
    )
    return module.Known(baseline=baseline, predicted=np.asarray(predicted, np.uint16))


def make_folder(module: ModuleType = RULES, **changed: Any) -> Any:
    """A folder in order, of the evaluation set of `make_known`."""
    values = {
        "problems": (),
        "mend": "ndtool export runs/x --int8",
        "labels_problem": "",
        "labels_sha256": LABELS,
        "contract_sha256": CONTRACT,
        "eval_sha256": IMAGES,
        "eval_count": len(TRUTH),
        "eval_recorded": IMAGES,
    }
    return module.Folder(**values | changed)


def make_row(hop: Hop, correct: int, count: int, **changed: Any) -> HopRow:
    values = {"engine": hop.value, "agreement": None, "max_abs_diff": None}
    return HopRow(hop=hop, accuracy=Accuracy(correct, count), **values | changed)


def make_evidence(module: ModuleType = RULES, **changed: Any) -> Any:
    """All hops of a model that loses nothing, whose int8 hop predicts `predicted`."""
    truth, predicted = changed.get("truth", TRUTH), changed.get("predicted", NOW)
    count = len(truth)
    right = 0 if predicted is None else int((predicted == truth).sum())
    rows = [
        make_row(Hop.FLOAT, right, count),
        make_row(Hop.ONNX, right, count, max_abs_diff=1e-6),
        make_row(Hop.INT8, right, count),
        make_row(Hop.C, right, count, differing=0),
    ]
    values = {
        "labels": ("daisy", "rose", "tulip"),
        "truth": truth,
        "eval_sha256": IMAGES,
        "rows": tuple(rows[:2] if predicted is None else rows),
        "predicted": predicted,
        "model_sha256": None if predicted is None else MODEL,
        "recorded": {"accuracy_int8": 0.875, "arena_bytes": 4096, "seconds": 1.0},
        "measured": {"accuracy_int8": 0.875, "arena_bytes": 4096},
        "near": {},
        "why_no_c": module.NoC(text="gcc not found", failed=False),
        "arena_bytes": 4096,
        "ops": ("ADD", "CONV_2D"),
        "flash": module.Measured(value=10_000, toolchain={"gcc": TOOLS["gcc"]}),
        "instructions": module.Measured(value=1_000_000, toolchain=TOOLS),
    }
    return module.Evidence(**values | changed)


def make_discordant(lost: int, gained: int, count: int) -> tuple[Any, Any, Any]:
    """Truth, the baseline's and today's predictions of `count` images."""
    truth, before, now = (np.zeros(count, np.int64) for _ in range(3))
    now[:lost] = 1
    before[lost : lost + gained] = 1
    return truth, before, now


def only(judged: Any, name: str) -> Judgement:
    """The one judgement of that name."""
    (found,) = [judgement for judgement in judged.judgements if judgement.name == name]
    return found  # type: ignore[no-any-return]  # of a module loaded anew


def passed(judged: Any) -> dict[str, bool | None]:
    """By name, in the order of judging."""
    found = {judgement.name: judgement.passed for judgement in judged.judgements}
    assert len(found) == len(judged.judgements), "names are those of JUnit's test cases"
    return found


# -- faults ----------------------------------------------------------------------------------------

_OTHERS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}


@dataclass(frozen=True)
class Fault:
    """One expression of `ndtool.gates.MODULE` turned into `new`; `place` is its node's number."""

    module: str
    place: int
    old: str
    new: str


def faults() -> Iterator[Fault]:
    """Each comparison with the next operator, each `and` an `or`, each `not` left out."""
    for module in MODULES:
        for place, node in enumerate(_nodes(module)):
            if (turned := _turned(node)) is not None:
                yield Fault(module, place, ast.unparse(node), ast.unparse(turned))


def load_with(fault: Fault) -> ModuleType:
    """`RULES` of modules loaded anew, one of them with the fault."""
    loaded = {name: ModuleType(f"ndtool.gates.{name}") for name in MODULES}
    with mock.patch.dict(sys.modules):
        for name, module in loaded.items():
            # dataclasses look their module up while it is loaded
            sys.modules[module.__name__] = module
            tree = ast.parse(_source(name))
            if name == fault.module:
                tree = _Exchange(list(ast.walk(tree))[fault.place]).visit(tree)
            code = compile(ast.fix_missing_locations(tree), module.__name__, "exec")
            exec(code, module.__dict__)  # noqa: S102  # our own source
    return joined(loaded["evidence"], loaded["rules"])


class _Exchange(ast.NodeTransformer):
    def __init__(self, wanted: ast.AST) -> None:
        self.wanted = wanted

    def visit(self, node: ast.AST) -> Any:
        return _turned(node) if node is self.wanted else self.generic_visit(node)


def _source(module: str) -> str:
    assert rules.__file__ is not None
    return Path(rules.__file__).with_name(f"{module}.py").read_text()


def _nodes(module: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(_source(module))))


def _turned(node: ast.AST) -> ast.expr | None:
    """The faulty form of an expression, None for one that has none."""
    match node:
        case ast.Compare(ops=[operator]):
            turned = copy.deepcopy(node)
            turned.ops = [_OTHERS[type(operator)]()]
            return turned
        case ast.BoolOp(op=operator):
            return ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return operand
        case _:
            return None
