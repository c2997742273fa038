"""The Markdown page as a real renderer shows it: the visible text, and nothing but text."""

import re

import pytest
from hostile_names import HOSTILE_NAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_page import read_page
from verdicts import FAILED, PASSED, SKIPPED, make_verdict, recalls

from ndtool.console import visible
from ndtool.errors import DataError
from ndtool.gates.markdown import escape, markdown_text, refusal_markdown

RULE = settings(derandomize=True, deadline=None, max_examples=100)
MARKS = st.sampled_from([*"\\`*_{}[]()#+-.!|~<>&\"'@:/= \t\n", "://", "www.", "a", "1", "&#64;"])
TEXTS = st.text() | st.sampled_from(HOSTILE_NAMES) | st.lists(MARKS).map("".join)


def as_html_shows(text: str) -> str:
    return " ".join(visible(text).split())


@RULE
@given(TEXTS)
def test_a_cell_shows_the_visible_text(text: str) -> None:
    cells = read_page(f"| a | b |\n| --- | --- |\n| {escape(text)} | {escape(text)} |\n").cells
    assert cells == ["a", "b", *[as_html_shows(text)] * 2]


@RULE
@given(TEXTS)
def test_a_paragraph_shows_the_visible_text(text: str) -> None:
    assert read_page(f"Run {escape(text)}\n").paragraphs == [f"Run {as_html_shows(text)}".strip()]


@RULE
@given(TEXTS)
def test_no_mention_and_no_autolink(text: str) -> None:
    """Of GitHub's extensions, which look at the text: mentions, bare addresses, issues."""
    escaped = escape(text)
    assert not re.search(r"@|://|www\.|<|>", escaped)
    assert not re.search(r"(?<!\\)(\\\\)*#(?!64;|58;)\d", escaped)


def test_the_rule_is_that_of_the_reference() -> None:
    assert escape('a\n<b>&"@x http://y.z [l](m) `c` *e* _u_ ~s~ #1 +1 -1 !i {t} |') == (
        "a\\\\x0a&lt;b&gt;&amp;&quot;&#64;x http&#58;//y\\.z \\[l\\]\\(m\\) \\`c\\` \\*e\\* "
        "\\_u\\_ \\~s\\~ \\#1 \\+1 \\-1 \\!i \\{t\\} \\|"
    )


def test_page() -> None:
    page = read_page(markdown_text(make_verdict(notices=["a better result: accept it"])))
    assert page.paragraphs == [
        "ndtool check: FAIL",
        "Run runs/x: baseline main, policy paired",
        "40 test images, 1.5 s",
    ]
    hops, gates, worst, notices = page.tables
    assert hops[0] == ["hop", "accuracy", "95 % interval", "agreement", "max diff", "engine"]
    assert [row[0] for row in hops[1:]] == ["float", "int8"]
    assert hops[2][1] == "95.00 % (38/40)" and hops[2][3:5] == ["97.50%", "0.0125"]
    assert gates[1:] == [
        ["FAIL", "drop", "2.50 points", "at most 1.00", "2.50 points lost"],
        ["PASS", "integrity", "", "", PASSED.text],
        ["SKIP", "flash", "", "", SKIPPED.text],
    ]
    assert worst[1:] == [["daisy", "0.00 % (0/2)"], ["roses", "50.00 % (1/2)"]]
    assert notices == [["notices"], ["a better result: accept it"]]


def test_pass_and_nothing_else() -> None:
    page = read_page(markdown_text(make_verdict([PASSED, SKIPPED], labels=())))
    assert page.paragraphs[0] == "ndtool check: PASS"
    assert len(page.tables) == 2  # no classes, no notices


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_hostile_names_in_every_place(name: str) -> None:
    verdict = make_verdict(
        [FAILED, *recalls([name])], labels=(name, "b"), notices=[name], run=name, against=name
    )
    page = read_page(markdown_text(verdict))
    shown = as_html_shows(name)
    assert as_html_shows(f"recall:{name}") in page.cells
    assert page.tables[2][1][0] == shown
    long = " ".join(visible(name, 2000).split())
    assert page.paragraphs[1].startswith("Run") and long in page.paragraphs[1]
    assert page.tables[3][1] == [long]
    assert any(long in cell for cell in page.tables[1][2])


def test_a_page_that_is_too_long_is_cut_by_rows() -> None:
    names = [f"class {k}" + "<" * 100 for k in range(3000)]
    verdict = make_verdict([PASSED, *recalls(names)], labels=names, notices=names)
    limit = 100_000
    text = markdown_text(verdict, limit_bytes=limit)
    assert limit * 0.95 < len(text.encode()) <= limit
    page = read_page(text)
    hops, gates, worst, notices = page.tables
    assert len(hops) == 3 and len(worst) == len(notices) == 1
    left_out = 3001 - (len(gates) - 1)
    assert page.paragraphs[3:] == [
        f"{n:,} more rows left out: the page would be too long" for n in (left_out, 10, 3000)
    ]
    assert gates[1][1] == f"recall:{names[0]}"  # whole rows, failed ones first
    assert gates[-1][1] == f"recall:{names[len(gates) - 2]}"
    whole = markdown_text(verdict)
    assert len(whole.encode()) > 1_000_000
    assert "left out" not in whole
    assert markdown_text(verdict, limit_bytes=2 * len(whole.encode())) == whole


@RULE
@given(TEXTS)
def test_a_check_without_a_verdict_says_why(text: str) -> None:
    further = DataError("b", where=text, remedy="r", code="data.y")
    refusal = DataError(text, where="w", remedy=text, code="data.x", more=[further])
    page = read_page(refusal_markdown(refusal, run=text))
    shown = [" ".join(visible(f"ndtool: error: {p}", 2000).split()) for p in (refusal, further)]
    assert page.tables == []
    assert page.paragraphs[0] == "ndtool check: ERROR"
    assert page.paragraphs[1] == " ".join(f"Run {visible(text, 2000)}: no verdict".split())
    assert page.paragraphs[2:] == shown
