"""The JUnit document: its counts, its cases, and any text in it after a real parser."""

import dataclasses
from xml.etree import ElementTree

import pytest
from hostile_names import HOSTILE_NAMES
from hypothesis import example, given, settings
from hypothesis import strategies as st
from verdicts import FAILED, PASSED, SKIPPED, make_verdict, recalls

from ndtool.console import visible
from ndtool.errors import MAX_LISTED, DataError, GateError, NdError, ToolMissingError, raise_all
from ndtool.gates.junit import junit_text, refusal_junit
from ndtool.gates.verdict import Judgement, Verdict

WHEN = "2030-01-31T12:00:00"
VERSIONS = {"ndtool": "0.1.0", "numpy": "2.0"}

EXPECTED = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="ndtool" tests="3" failures="1" errors="0" skipped="1" time="1.500">
  <testsuite name="check:runs/x" tests="3" failures="1" errors="0" skipped="1" time="1.500" \
timestamp="2030-01-31T12:00:00">
    <properties>
      <property name="against" value="baseline main, policy paired" />
      <property name="eval_sha256" value="ZEROS" />
      <property name="eval_count" value="40" />
      <property name="arena_bytes" value="41216" />
      <property name="model_sha256" value="ABAB" />
      <property name="version.ndtool" value="0.1.0" />
      <property name="version.numpy" value="2.0" />
    </properties>
    <testcase classname="ndtool.check" name="integrity" />
    <testcase classname="ndtool.check" name="drop">
      <failure type="gate.drop" message="2.50 points lost">2.50 points lost
present: 2.50 points
bound: at most 1.00
key in the baseline: bounds.max_drop</failure>
    </testcase>
    <testcase classname="ndtool.check" name="flash">
      <skipped message="not judged: no arm-none-eabi-gcc" />
    </testcase>
    <system-out>hop    accuracy          95 % interval  agreement  max diff  engine
float  97.50 % (39/40)  87.1% to 99.6%          -         -  torch 2.13
int8   95.00 % (38/40)  83.5% to 98.6%     97.50%    0.0125  tflite_micro 0
notice: better: accept it</system-out>
  </testsuite>
</testsuites>
"""


def parse(verdict: Verdict) -> ElementTree.Element:
    text = junit_text(verdict, timestamp=WHEN, versions=VERSIONS)
    return ElementTree.fromstring(text.encode("utf-8"))


def test_document() -> None:
    verdict = make_verdict(notices=["better: accept it"])
    text = junit_text(verdict, timestamp=WHEN, versions=VERSIONS)
    assert text == EXPECTED.replace("ZEROS", "0" * 64).replace("ABAB", "ab" * 32)


def test_counts_are_those_of_the_cases() -> None:
    root = parse(make_verdict([PASSED, SKIPPED, FAILED, *recalls(["a", "b"])]))
    suite = root.find("testsuite")
    assert suite is not None
    counts = {"tests": "testcase", "failures": ".//failure", "skipped": ".//skipped"}
    for word, path in counts.items():
        found = str(len(suite.findall(path)))
        assert root.get(word) == suite.get(word) == found
    assert [case.get("name") for case in suite.findall("testcase")][-2:] == ["recall:a", "recall:b"]
    assert {case.get("classname") for case in suite.iter("testcase")} == {"ndtool.check"}
    assert not any({"file", "line", "time"} & set(case.keys()) for case in suite.iter("testcase"))


def check_text(text: str) -> None:
    """`text` in every place that takes foreign text comes out as what a reader sees of it."""
    gates = (*recalls([text]), Judgement(gate="c", passed=None, text=text))
    root = parse(make_verdict(gates, notices=[text], run=text, against=text))
    long = visible(text, 2000)
    suite, property_ = root.find("testsuite"), root.find(".//property")
    assert suite is not None and property_ is not None
    assert suite.get("name") == f"check:{long}"
    assert property_.get("value") == long
    recall, skipped = suite.findall("testcase")
    failure, skip, log = recall.find("failure"), skipped.find("skipped"), suite.find("system-out")
    assert failure is not None and skip is not None and log is not None
    assert recall.get("name") == visible(gates[0].name)
    assert failure.get("message") == visible(gates[0].text, 2000)
    assert failure.text is not None and long in failure.text
    assert failure.text.count("\n") == 3
    assert skip.get("message") == long
    assert log.text is not None and log.text.endswith(f"notice: {long}")


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_hostile_names(name: str) -> None:
    check_text(name)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(st.characters(), max_size=300))
@example("".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0xFFFE, 0xFFFF, 0xD800, 0xDFFF))))
def test_any_text(text: str) -> None:
    check_text(text)


def test_a_long_text_is_cut() -> None:
    long = "x" * 5000
    root = parse(make_verdict([Judgement(gate="c", passed=False, text=long, subject=long)]))
    case, failure = root.find(".//testcase"), root.find(".//failure")
    assert case is not None and failure is not None
    assert case.get("name") == visible(f"c:{long}") != visible(long)
    assert len(case.get("name", "")) <= 200 and len(failure.get("message", "")) <= 2000


def test_a_stopped_check_has_no_table_of_hops() -> None:
    stopped = dataclasses.replace(make_verdict(), rows=())
    assert parse(stopped).find(".//system-out") is None
    told = parse(dataclasses.replace(stopped, notices=("better",))).find(".//system-out")
    assert told is not None and told.text == "notice: better"


# -- no verdict ------------------------------------------------------------------------------------

REFUSED = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="ndtool" tests="1" failures="0" errors="1" skipped="0" time="0.250">
  <testsuite name="check:runs/x" tests="1" failures="0" errors="1" skipped="0" time="0.250" \
timestamp="2030-01-31T12:00:00">
    <properties>
      <property name="version.ndtool" value="0.1.0" />
      <property name="version.numpy" value="2.0" />
    </properties>
    <testcase classname="ndtool.check" name="check">
      <error type="gate.baseline-missing" message="no baseline (b.toml); accept one \
[gate.baseline-missing]">ndtool: error: no baseline (b.toml); accept one \
[gate.baseline-missing]</error>
    </testcase>
  </testsuite>
</testsuites>
"""


def refused(refusal: NdError, run: str = "runs/x") -> str:
    return refusal_junit(refusal, run=run, timestamp=WHEN, seconds=0.25, versions=VERSIONS)


def test_a_check_without_a_verdict_is_an_error() -> None:
    missing = GateError(
        "no baseline", where="b.toml", remedy="accept one", code="gate.baseline-missing"
    )
    assert refused(missing) == REFUSED
    tool = ElementTree.fromstring(refused(ToolMissingError("gcc", install="apt install gcc")))
    error = tool.find("testsuite/testcase/error")
    assert error is not None and error.get("type") == "tool.missing"
    assert error.get("message") == "gcc not found; install: apt install gcc [tool.missing]"


def test_further_problems_are_lines_of_the_error() -> None:
    problems = [DataError(f"p{k}", where="w", remedy="r", code="data.x") for k in range(30)]
    with pytest.raises(DataError) as caught:
        raise_all(problems)
    error = ElementTree.fromstring(refused(caught.value)).find(".//error")
    assert error is not None and error.text is not None
    assert error.text.split("\n") == [
        f"ndtool: error: p{k} (w); r [data.x]" for k in range(MAX_LISTED)
    ]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_hostile_names_without_a_verdict(name: str) -> None:
    refusal = DataError(name, where=name, remedy=name, code="data.x", more=[])
    root = ElementTree.fromstring(refused(refusal, name).encode("utf-8"))
    suite, error = root.find("testsuite"), root.find(".//error")
    assert suite is not None and suite.get("name") == f"check:{visible(name, 2000)}"
    assert len(root.findall(".//testcase")) == 1
    assert error is not None and error.get("message") == visible(str(refusal), 2000)
    assert error.text == visible(f"ndtool: error: {refusal}", 2000)
