"""What a missing tool does to a test: skips it on a user's machine, fails it in CI."""

import re
from collections.abc import Callable
from pathlib import Path

import host_tools
import pytest
import shared_models
from host_tools import require_package, require_tool
from shared_models import shared_model

TESTS = Path(__file__).parents[1]
# Platforms may be skipped; tools and packages only through host_tools.
OTHER_SKIPS = re.compile(r"importorskip|skipif\([^)]*(find_spec|which|environ)")


@pytest.mark.parametrize(
    ("ask", "install"),
    [
        (lambda: require_tool("gcc"), "apt-get install gcc"),
        (lambda: require_tool("clang-format"), r"\[dev\]"),
        (lambda: require_package("tflite_micro"), r"\[verify\]"),
        (lambda: require_package("tensorflow"), r"\[tensorflow\]"),
        (lambda: require_package("ai_edge_litert"), r"\[export\]"),
    ],
)
@pytest.mark.parametrize(
    ("required", "outcome"),
    [
        ("1", pytest.fail.Exception),
        ("0", pytest.skip.Exception),
        (None, pytest.skip.Exception),
    ],
)
def test_missing_tool_skips_or_fails(
    ask: Callable[[], object],
    install: str,
    required: str | None,
    outcome: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_tools.shutil, "which", lambda name: None)
    monkeypatch.setattr(host_tools, "find_spec", lambda name: None)
    monkeypatch.setattr(host_tools.sys, "executable", "/nowhere/python")
    monkeypatch.delenv("NDTOOL_REQUIRE_TOOLS", raising=False)
    if required is not None:
        monkeypatch.setenv("NDTOOL_REQUIRE_TOOLS", required)
    # both are caught: the wrong one would otherwise skip this test instead of failing it
    both = (pytest.fail.Exception, pytest.skip.Exception)
    with pytest.raises(both, match=f"not found; install: .*{install}") as caught:
        ask()
    assert caught.type is outcome


def test_present_tools_are_found() -> None:
    require_package("numpy")
    assert Path(require_tool("gcc")).is_file()


@pytest.mark.parametrize("required", ["0", "1"])
def test_absent_models_skip_with_a_reason(
    required: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NDTOOL_REQUIRE_TOOLS", required)
    monkeypatch.setattr(shared_models, "MODELS", tmp_path)
    with pytest.raises(pytest.skip.Exception, match=r"shared/models/kws\.tflite is not beside"):
        shared_model("kws")
    (tmp_path / "kws.tflite").write_bytes(b"model")
    assert shared_model("kws") == b"model"


def test_no_test_skips_for_a_tool_in_another_way() -> None:
    assert OTHER_SKIPS.search('skipif(\n    find_spec("x") is None)')
    mine = Path(__file__)
    others = [path for path in sorted(TESTS.rglob("*.py")) if path != mine]
    assert [str(p.relative_to(TESTS)) for p in others if OTHER_SKIPS.search(p.read_text())] == []
