"""Annotations as the runner reads them: the messages come out whole, and no other command."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ci_runner import Command, commands
from hostile_names import HOSTILE_NAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_page import read_page
from verdicts import FAILED, PASSED, SKIPPED, make_verdict, recalls

from ndtool.console import visible
from ndtool.errors import GateError
from ndtool.gates.github import (
    MAX_SUMMARY_BYTES,
    annotation_lines,
    inside_checkout,
    refusal_line,
    step_summary,
)
from ndtool.gates.verdict import Judgement, Verdict


def read(
    verdict: Verdict,
    baseline_file: str | None = None,
    lines: Callable[[str], int | None] = lambda _key: None,
) -> list[Command]:
    made = annotation_lines(verdict, baseline_file=baseline_file, lines=lines)
    assert not any("\n" in line or "\r" in line for line in made)
    found = commands("\n".join(made))
    assert len(found) == len(made)
    return found


def failed(gate: str, subject: str = "") -> Judgement:
    return Judgement(gate=gate, subject=subject, passed=False, text=f"{gate} {subject}".strip())


def test_failed_gates_are_errors_and_notices_notices() -> None:
    verdict = make_verdict([PASSED, FAILED, SKIPPED], notices=["better"])
    assert annotation_lines(verdict, baseline_file=None, lines=lambda _key: 1) == [
        "::error title=ndtool check%3A drop::2.50 points lost",
        "::notice title=ndtool check::better",
    ]


def test_a_bound_is_shown_where_the_baseline_has_it() -> None:
    verdict = make_verdict([failed("integrity"), FAILED])
    found = read(verdict, "base lines/ma%in,x:1.toml", {"bounds.max_drop": 7}.get)
    assert [command.properties for command in found] == [
        {"title": "ndtool check: integrity"},
        {
            "title": "ndtool check: drop",
            "file": "base lines/ma%in,x:1.toml",
            "line": "7",
        },
    ]
    found = read(make_verdict([FAILED]), "b.toml", lambda _key: None)
    assert found[0].properties == {"title": "ndtool check: drop", "file": "b.toml"}


def test_the_worst_are_shown_as_in_the_table_and_the_last_tells_how_many_more() -> None:
    labels = [f"k{k}" for k in range(12)]  # recall rises with k
    gates = [failed("labels"), *(failed("recall", label) for label in reversed(labels))]
    gates += [failed("recall", "lost"), failed("arena")]
    found = read(make_verdict(gates, labels=labels, notices=[f"n{k}" for k in range(11)]))
    errors = [c.data for c in found if c.name == "error"]
    recalls_of_k = [f"recall k{k}" for k in range(7, -1, -1)]  # k8 and above are cut
    assert errors == ["labels", *recalls_of_k, "recall lost\nand 5 more"]
    notices = [c.data for c in found if c.name == "notice"]
    assert notices == [*(f"n{k}" for k in range(9)), "n9\nand 1 more"]
    assert len(found) == 20


def test_recalls_stand_in_the_order_of_the_table() -> None:
    labels = ["a", "b", "c"]  # recall rises
    gates = [failed("recall", label) for label in ("b", "c", "a")]
    found = read(make_verdict(gates, labels=labels))
    assert [command.data for command in found] == ["recall b", "recall c", "recall a"]


def test_ten_are_shown_without_more() -> None:
    found = read(make_verdict([failed("recall", str(k)) for k in range(10)]))
    assert len(found) == 10 and "more" not in found[-1].data


def check_text(text: str) -> None:
    verdict = make_verdict(recalls([text]), notices=[text], run=text, against=text)
    error, notice = read(verdict, "b.toml", lambda _key: 3)
    broken = visible(text, 2000).replace("##[", "##\\[")
    assert (error.name, notice.name) == ("error", "notice")
    assert error.data == f"of '{text}' too few are found".replace(text, broken)
    assert notice.data == broken
    title = visible(f"recall:{text}").replace("##[", "##\\[")
    # the runner cuts white space at the end of the last property
    assert error.properties == {"title": f"ndtool check: {title}", "file": "b.toml", "line": "3"}
    assert notice.properties == {"title": "ndtool check"}


@pytest.mark.parametrize("name", [n for n in HOSTILE_NAMES if len(n) < 200], ids=ascii)
def test_hostile_names(name: str) -> None:
    check_text(name)


MARKS = st.sampled_from([*"%:,=\r\n#[] ;\t", "%0A", "%25", "::", "##[", "::error::", "a"])


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(MARKS, min_size=1, max_size=20).map("".join))
def test_any_text(text: str) -> None:
    check_text(text)


def test_a_file_name_cannot_leave_its_property() -> None:
    for name in ("a\n::error::b", "a::b", "a,line=9", "%0A::error::"):
        (command,) = read(make_verdict([FAILED]), name, lambda _key: 1)
        assert command.properties["line"] == "1"
        assert command.properties["file"] == name


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_check_without_a_verdict_says_why(name: str) -> None:
    refusal = GateError(
        "no baseline file", where=name, remedy="create it", code="gate.baseline-missing"
    )
    (command,) = commands(refusal_line(refusal))
    assert (command.name, command.properties) == ("error", {"title": "ndtool check"})
    assert command.data.startswith("no baseline file (")
    assert command.data.endswith("); create it [gate.baseline-missing]")


def test_inside_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "b").mkdir(parents=True)
    (checkout / "out").symlink_to(tmp_path)
    assert inside_checkout(checkout / "b" / ".." / "b" / "m.toml", checkout) == "b/m.toml"
    assert inside_checkout(tmp_path / "m.toml", checkout) is None
    assert inside_checkout(tmp_path / "checkout-2" / "m.toml", checkout) is None
    assert inside_checkout(checkout / "out" / "m.toml", checkout) is None
    assert inside_checkout(checkout / "a\n::error::x", checkout) is None
    monkeypatch.chdir(checkout / "b")
    assert inside_checkout(Path("m.toml"), checkout) == "b/m.toml"


def test_step_summary_is_a_page_below_the_limit() -> None:
    names = ["<" * 190 + str(k) for k in range(2000)]
    text = step_summary(make_verdict(recalls(names), labels=names))
    assert 0.99 * MAX_SUMMARY_BYTES < len(text.encode()) <= MAX_SUMMARY_BYTES
    assert "more rows left out" in read_page(text).paragraphs[3]
