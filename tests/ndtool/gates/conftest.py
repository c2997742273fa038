from types import ModuleType

import pytest
from judging import RULES


@pytest.fixture(scope="session")
def rules() -> ModuleType:
    """The rules; `test_faults` hands in others."""
    return RULES
