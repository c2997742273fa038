"""A verdict as JUnit XML, the form that CI servers show as tests (users.md, 5.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from xml.etree import ElementTree

from ndtool.console import MAX_SENTENCE, error_line, table, visible
from ndtool.errors import NdError, listed
from ndtool.gates.verdict import HOP_HEAD, Judgement, Verdict

CLASS_NAME: Final = "ndtool.check"


def junit_text(verdict: Verdict, *, timestamp: str, versions: Mapping[str, str]) -> str:
    """The document: one suite, one test case a gate; one that was not judged is a skipped test.

    Foreign text stands in its `visible` form: XML has none for control characters. No file and
    line of a test, which we do not know, and no time of a single gate.

    Args:
        timestamp: when the check began, ISO 8601 in UTC, without zone: `2030-01-31T12:00:00`.
        versions: of ndtool and the packages that ran the models, name -> version.
    """
    counts = {
        "tests": str(len(verdict.judgements)),
        "failures": str(len(verdict.failed)),
        "errors": "0",  # what cannot be run is a failed or a skipped gate
        "skipped": str(sum(j.passed is None for j in verdict.judgements)),
        "time": f"{verdict.seconds:.3f}",
    }
    facts = _facts(verdict) | _versions(versions)
    root, suite = _suite(verdict.run, counts, facts, timestamp=timestamp)
    for judgement in verdict.judgements:
        _add_case(suite, judgement)
    if log := _log(verdict):
        ElementTree.SubElement(suite, "system-out").text = log
    return _text(root)


def refusal_junit(
    refusal: NdError, *, run: str, timestamp: str, seconds: float, versions: Mapping[str, str]
) -> str:
    """The document of a check that came to no verdict: one test case, `check`, that is an error.

    Args:
        run: as the user named it.
        timestamp, versions: as for `junit_text`.
    """
    counts = {"tests": "1", "failures": "0", "errors": "1", "skipped": "0"}
    counts["time"] = f"{seconds:.3f}"
    root, suite = _suite(run, counts, _versions(versions), timestamp=timestamp)
    case = ElementTree.SubElement(suite, "testcase", {"classname": CLASS_NAME, "name": "check"})
    about = {"type": refusal.code, "message": _sentence(str(refusal))}
    lines = [_sentence(error_line(problem)) for problem in listed(refusal)]
    ElementTree.SubElement(case, "error", about).text = "\n".join(lines)
    return _text(root)


def _suite(
    run: str, counts: Mapping[str, str], facts: Mapping[str, str], *, timestamp: str
) -> tuple[ElementTree.Element, ElementTree.Element]:
    """The document's root, and in it the one suite with its properties."""
    root = ElementTree.Element("testsuites", {"name": "ndtool", **counts})
    about = {"name": f"check:{_sentence(run)}", **counts, "timestamp": timestamp}
    suite = ElementTree.SubElement(root, "testsuite", about)
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in facts.items():
        found = {"name": visible(key), "value": _sentence(value)}
        ElementTree.SubElement(properties, "property", found)
    return root, suite


def _text(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _facts(verdict: Verdict) -> dict[str, str]:
    figures = {key: str(value) for key, value in verdict.figures.items() if value is not None}
    return {
        "against": verdict.against,
        "eval_sha256": verdict.eval_sha256,
        "eval_count": str(verdict.eval_count),
        **dict(sorted(figures.items())),
    }


def _versions(versions: Mapping[str, str]) -> dict[str, str]:
    return {f"version.{name}": version for name, version in sorted(versions.items())}


def _add_case(suite: ElementTree.Element, judgement: Judgement) -> None:
    about = {"classname": CLASS_NAME, "name": visible(judgement.name)}
    case = ElementTree.SubElement(suite, "testcase", about)
    message = {"message": _sentence(judgement.text)}
    if judgement.passed is None:
        ElementTree.SubElement(case, "skipped", message)
    elif not judgement.passed:
        kind = {"type": f"gate.{judgement.gate}"}
        ElementTree.SubElement(case, "failure", kind | message).text = _details(judgement)


def _details(judgement: Judgement) -> str:
    """What, present and bound, a line each."""
    lines = {
        "": judgement.text,
        "present: ": judgement.present,
        "bound: ": judgement.bound,
        "key in the baseline: ": judgement.key,
    }
    return "\n".join(f"{word}{_sentence(text)}" for word, text in lines.items() if text)


def _log(verdict: Verdict) -> str:
    """The hops, where any was run, and the notices."""
    hops = [table(HOP_HEAD, [row.cells for row in verdict.rows])] if verdict.rows else []
    return "\n".join([*hops, *(f"notice: {_sentence(notice)}" for notice in verdict.notices)])


def _sentence(text: str) -> str:
    return visible(text, MAX_SENTENCE)
