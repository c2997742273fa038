"""The generated pages are current, the README's commands are real, error codes are sane."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools/make_docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["make_docs"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("page", ["cli.md", "errors.md"])
def test_generated_page_is_current(page: str) -> None:
    made = make_docs().PAGES[page]()
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == made, "run: make docs"


def test_codes_are_slugs_and_have_one_exit_code() -> None:
    exits: dict[str, set[int]] = {}
    for site in make_docs().error_sites():
        assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", site.code), site.code
        exits.setdefault(site.code, set()).add(site.exit_code)
    assert {code: e for code, e in exits.items() if len(e) > 1} == {}
    assert len(exits) > 30


def test_constant_texts_of_errors_are_whole() -> None:
    for site in make_docs().error_sites():
        for text in (site.what, site.remedy):
            assert text and (text.endswith("...") or not text.endswith(".")), site
