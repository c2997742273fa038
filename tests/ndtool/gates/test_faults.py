"""Every comparison in the rules of check, turned into the next one, makes a test of theirs fail.

The tests of `FILES` that take the rules and nothing else are run on rules with one fault.
"""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import judging
import pytest
from judging import Fault

FILES = ("test_accuracy.py", "test_size.py", "test_rules.py")

# What changes no verdict and no text, so that nothing can find it
HARMLESS = {
    # the loader demands value and max_increase_percent together
    ("size", "budget.value is None or budget.max_increase_percent is None"),
    ("size", "budget.max_increase_percent is None"),
    ("size", "budget.value is not None and budget.max_increase_percent is not None"),
    ("size", "budget.max_increase_percent is not None"),
}
ALL_FAULTS = tuple(judging.faults())
FAULTS = [fault for fault in ALL_FAULTS if (fault.module, fault.old) not in HARMLESS]


def load_checks() -> list[Callable[[ModuleType], None]]:
    found: list[Callable[[ModuleType], None]] = []
    for name in FILES:
        spec = importlib.util.spec_from_file_location(
            f"checks_{name[:-3]}", Path(__file__).with_name(name)
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for test, function in inspect.getmembers(module, inspect.isfunction):
            if test.startswith("test_") and [*inspect.signature(function).parameters] == ["rules"]:
                found.append(function)
    return found


CHECKS = load_checks()


def test_there_are_faults_to_be_found() -> None:
    assert len(FAULTS) > 100 and len(CHECKS) > 25
    assert {fault.module for fault in FAULTS} == set(judging.MODULES)
    assert {(fault.module, fault.old) for fault in ALL_FAULTS} >= HARMLESS


def test_without_a_fault_none_is_found() -> None:
    module = judging.load_with(Fault(module="", place=0, old="", new=""))
    assert module.judge_models is not judging.RULES.judge_models
    for check in CHECKS:
        check(module)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.module}-{fault.place}")
def test_a_fault_is_found(fault: Fault) -> None:
    module = judging.load_with(fault)
    for check in CHECKS:
        try:
            check(module)
        except Exception:  # noqa: BLE001  # a fault may raise anything
            return
    pytest.fail(f"{fault.module}: `{fault.old}` may become `{fault.new}`")
