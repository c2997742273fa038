from dataclasses import replace

from verdicts import FAILED, PASSED, SKIPPED, make_verdict, recalls

from ndtool.gates.verdict import GATES, HASHES


def test_a_skipped_gate_does_not_fail_the_verdict_and_a_failed_one_does() -> None:
    assert make_verdict((PASSED, SKIPPED)).passed
    failed = make_verdict((PASSED, SKIPPED, FAILED, replace(SKIPPED, passed=False)))
    assert not failed.passed
    assert [judgement.name for judgement in failed.failed] == ["drop", "flash"]


def test_the_document_says_what_was_judged() -> None:
    document = make_verdict(notices=("x",)).document()
    assert (document["schema"], document["verdict"]) == ("ndtool.check/1", "fail")
    assert make_verdict((PASSED,)).document()["verdict"] == "pass"
    assert document["recall"] == {"daisy": 0.0, "roses": 0.5}
    assert document["notices"] == ["x"]


def test_a_judgement_is_named_by_its_gate_and_subject() -> None:
    assert FAILED.name == "drop"
    assert [found.name for found in recalls(("a:b", "c"))] == ["recall:a:b", "recall:c"]


def test_each_gate_is_named_once() -> None:
    assert len(set(GATES)) == len(GATES) and set(HASHES) < set(GATES)
