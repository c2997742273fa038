"""Gates of accuracy, each at, just inside and just outside its bound."""

from dataclasses import replace
from decimal import Decimal as D
from fractions import Fraction
from itertools import permutations
from types import ModuleType
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import (
    NOW,
    OTHER,
    PAIRED,
    RULES,
    STRICT,
    make_discordant,
    make_evidence,
    make_known,
    make_row,
    only,
    passed,
)
from scipy.stats import binomtest

from ndtool.gates.baseline import Bounds, Paired
from ndtool.gates.verdict import Judgement
from ndtool.types import Hop


def test_the_same_model_must_predict_the_same(rules: ModuleType) -> None:
    known = make_known(rules)
    found = only(rules.judge_models(make_evidence(rules), PAIRED, known), "determinism")
    assert found.passed is True and found.text == "the same model predicts what it predicted"
    # wrong to other wrong: no accuracy is lost, and yet it is not the same
    changed = NOW.copy()
    changed[7] = 1
    judged = rules.judge_models(make_evidence(rules, predicted=changed), PAIRED, known)
    found = only(judged, "determinism")
    assert found.passed is False
    assert "another class for 1 image, first for image 7 " in found.text
    assert only(judged, "drop").text.startswith("0 images lost, 0 gained of 8: drop 0.00 points")
    other = make_evidence(rules, predicted=changed, model_sha256=OTHER)
    found = only(rules.judge_models(other, PAIRED, known), "determinism")
    assert found.passed is None and found.text == "another model than the baseline's"


def test_accuracy_at_its_floor_passes(rules: ModuleType) -> None:
    for floor, wanted in (("87.4", True), ("87.5", True), ("87.500000001", False), ("100", False)):
        bounds = Bounds(min_accuracy_percent=D(floor))
        for known in (None, make_known(rules)):
            found = only(rules.judge_models(make_evidence(rules), bounds, known), "accuracy")
            assert found.passed is wanted, floor
            assert found.present == "87.50 % (7/8)" and found.bound == f"at least {floor} %"
    # 7/10 is less than the nearest binary fraction to .7 that a float would compare with
    tenth = make_evidence(rules, rows=(make_row(Hop.INT8, 7, 10),))
    bounds = Bounds(min_accuracy_percent=D("70"))
    assert only(rules.judge_models(tenth, bounds, None), "accuracy").passed is True


def test_accuracy_is_of_int8(rules: ModuleType) -> None:
    rows = (make_row(Hop.FLOAT, 9, 10), make_row(Hop.INT8, 1, 10), make_row(Hop.C, 9, 10))
    bounds = Bounds(min_accuracy_percent=D("50"), max_float_int8_drop=D(100))
    judged = rules.judge_models(make_evidence(rules, rows=rows), bounds, None)
    assert only(judged, "accuracy").passed is False


def test_float_to_int8_at_its_bound_passes(rules: ModuleType) -> None:
    for correct, bound, wanted in (
        (997, "0.3", True),  # exactly .3 points: not so in binary floats
        (996, "0.3", False),
        (997, "0.299999", False),
        (1000, "0", True),
        (999, "0", False),
    ):
        rows = (make_row(Hop.FLOAT, 1000, 1000), make_row(Hop.INT8, correct, 1000))
        bounds = Bounds(max_float_int8_drop=D(bound))
        judged = rules.judge_models(make_evidence(rules, rows=rows), bounds, None)
        assert only(judged, "float_int8").passed is wanted, (correct, bound)
    better = (make_row(Hop.FLOAT, 5, 10), make_row(Hop.INT8, 6, 10))
    judged = rules.judge_models(
        make_evidence(rules, rows=better), Bounds(max_float_int8_drop=D(0)), None
    )
    found = only(judged, "float_int8")
    assert found.passed is True and found.present == "-10.00 points from float"
    assert found.text == (
        "float 50.00 % (5/10), int8 60.00 % (6/10): drop -10.00 points; at most 0 points"
    )


def test_float_int8_starts_at_the_first_hop_there_is(rules: ModuleType) -> None:
    float_, onnx, int8 = (make_row(hop, 10 - 5 * (hop is Hop.INT8), 10) for hop in list(Hop)[:3])
    only_onnx = replace(onnx, accuracy=make_row(Hop.ONNX, 5, 10).accuracy)
    for rows, wanted, words in (
        ((float_, only_onnx, int8), False, "float 100.00 % (10/10), int8"),
        ((onnx, int8), False, "onnx 100.00 % (10/10), int8"),
        ((only_onnx, int8), True, "onnx 50.00 % (5/10), int8"),
        ((int8,), None, "only int8 was run"),
        ((float_, onnx), None, "no int8 model was run"),
        ((), None, "no int8 model was run"),
    ):
        judged = rules.judge_models(make_evidence(rules, rows=rows), Bounds(), None)
        found = only(judged, "float_int8")
        assert found.passed is wanted and found.text.startswith(words)


def drop_of(
    rules: ModuleType,
    counts: tuple[int, int, int],
    bounds: Bounds,
    accepted: Bounds | None = None,
) -> Judgement:
    """Gate `drop` for (lost, gained, count)."""
    truth, before, now = make_discordant(*counts)
    evidence = make_evidence(rules, truth=truth, predicted=now, model_sha256=OTHER)
    known = make_known(rules, predicted=before, bounds=accepted or bounds)
    return only(rules.judge_models(evidence, bounds, known), "drop")


def test_worked_drops(rules: ModuleType) -> None:
    """users.md, 5.4: lost, gained, images, drop, p, what each policy says."""
    for lost, gained, count, drop, p, paired, strict in (
        (6, 0, 360, "1.67", "0.01562", True, False),
        (7, 0, 360, "1.94", "0.007812", False, False),
        (10, 2, 360, "2.22", "0.01929", False, False),
        (171, 129, 10_000, "0.42", "0.00889", True, True),
        (300, 240, 10_000, "0.60", "0.005525", False, True),
        (796, 704, 50_000, "0.18", "0.009382", True, True),
        (0, 0, 10_000, "0.00", "1", True, True),
        (2, 3, 10_000, "-0.01", "0.8125", True, True),
        (1, 1, 2, "0.00", "0.75", True, True),
    ):
        counts = (lost, gained, count)
        found = drop_of(rules, counts, PAIRED)
        assert found.passed is paired, counts
        assert found.present == f"{drop} points, p = {p}"
        assert found.bound == "at most 0.5 points, 2.0 unless p < 0.01"
        assert found.key == "bounds.paired"
        images = "1 image" if lost == 1 else f"{lost} images"
        assert f"{images} lost, {gained} gained of {count}: drop {drop} points" in found.text
        assert "; policy paired; this set" in found.text
        found = drop_of(rules, counts, STRICT)
        assert found.passed is strict, counts
        assert (found.key, found.bound) == ("bounds.max_drop", "at most 1.0 points")


def test_a_drop_at_a_bound_passes(rules: ModuleType) -> None:
    for most, wanted in (("1.0", True), ("0.999", False), ("1.001", True), ("0", False)):
        bounds = replace(STRICT, max_drop=D(most))
        assert drop_of(rules, (10, 0, 1000), bounds).passed is wanted, most
    # 7 lost of 7 is p = 1/128: significant at .01; 1/128 itself is not below 1/128
    for alpha, floor, cap, wanted in (
        ("0.01", "0.7", "100", True),
        ("0.01", "0.69", "100", False),
        ("0.0078125", "0", "100", True),
        ("0.007812501", "0", "100", False),
        ("0.001", "0", "0.7", True),
        ("0.001", "0", "0.69", False),
    ):
        paired = Paired(alpha=D(alpha), floor=D(floor), cap=D(cap))
        found = drop_of(rules, (7, 0, 1000), replace(PAIRED, paired=paired))
        assert found.passed is wanted, (alpha, floor, cap)


def test_smallest_significant_losses(rules: ModuleType) -> None:
    """users.md, 5.4: losses that reach p < alpha for so many gains."""
    gains = (0, 1, 2, 5, 10, 20, 50, 100, 200)
    for alpha, losses in (
        ("0.05", (5, 7, 9, 13, 20, 33, 69, 126, 236)),
        ("0.01", (7, 10, 12, 17, 25, 39, 78, 137, 251)),
    ):
        bounds = replace(PAIRED, paired=Paired(alpha=D(alpha), floor=D(0), cap=D(100)))
        for gained, lost in zip(gains, losses, strict=True):
            assert drop_of(rules, (lost, gained, 1000), bounds).passed is False
            assert drop_of(rules, (lost - 1, gained, 1000), bounds).passed is True


def test_a_policy_that_was_given_is_said(rules: ModuleType) -> None:
    given = drop_of(rules, (1, 0, 100), STRICT, PAIRED)
    assert "policy strict (given), the baseline says paired" in given.text
    given = drop_of(rules, (1, 0, 100), PAIRED, STRICT)
    assert "policy paired (given), the baseline says strict" in given.text
    for bounds in (STRICT, PAIRED):
        assert "(given)" not in drop_of(rules, (1, 0, 100), bounds).text


def test_what_the_set_can_show_is_said(rules: ModuleType) -> None:
    """users.md, 5.4: 317 sqrt(d / N) points, and the advice where that is above the bound."""
    for lost, gained, count, points in (
        (9, 9, 360, "3.7"),
        (25, 25, 1000, "2.2"),
        (125, 125, 5000, "1.0"),
        (250, 250, 10_000, "0.71"),
        (1250, 1250, 50_000, "0.32"),
        (0, 0, 317, "1.0"),  # one image at least
        (1, 0, 317, "1.0"),
    ):
        counts = (lost, gained, count)
        found = drop_of(rules, counts, STRICT)
        assert f"this set can show drops of about {points} points" in found.text
        # 5,000 images: 1.002 points; 317 images: exactly 1
        assert ("policy paired is recommended" in found.text) == (count in (360, 1000, 5000))
        found = drop_of(rules, counts, PAIRED)
        assert found.text.endswith(f"drops of about {points} points")


def recalls_of(rules: ModuleType, predicted: Any, floors: dict[str, D], before: Any = NOW) -> Any:
    """Judgements and notices of gate `recall`; `before` None: no baseline."""
    bounds = Bounds(min_recall_percent=floors)
    known = None if before is None else make_known(rules, predicted=before, bounds=bounds)
    evidence = make_evidence(rules, predicted=np.array(predicted), model_sha256=OTHER)
    judged = rules.judge_models(evidence, bounds, known)
    found = tuple(judgement for judgement in judged.judgements if judgement.gate == "recall")
    return replace(judged, judgements=found)


def test_recall_at_its_floor_passes(rules: ModuleType) -> None:
    predicted = [0, 0, 0, 1, 1, 1, 2, 0]  # 3/4, 2/2, 1/2
    for before in (None, NOW):
        for daisy, tulip, wanted in (
            ("75", "50", (True, True)),
            ("75.000001", "50", (False, True)),
            ("74.9", "50.1", (True, False)),
            ("0", "0", (True, True)),
        ):
            floors = {"tulip": D(tulip), "daisy": D(daisy)}
            judged = recalls_of(rules, predicted, floors, before)
            assert list(passed(judged).items()) == list(
                zip(("recall:daisy", "recall:tulip"), wanted, strict=True)
            )
            found = only(judged, "recall:daisy")
            assert found.text == f"75.00 % (3/4) found, at least {daisy} % demanded"
            assert (found.present, found.bound) == ("75.00 % (3/4)", f"at least {daisy} %")
            assert judged.notices == ()


def test_a_lost_class_fails_whatever_its_floor(rules: ModuleType) -> None:
    without_rose = [0, 0, 0, 0, 2, 2, 2, 0]
    for floors in ({}, {"rose": D(0)}, {"rose": D(100)}):
        judged = recalls_of(rules, without_rose, floors)
        assert passed(judged) == {"recall:rose": False}
        found = only(judged, "recall:rose")
        assert found.text == (
            "lost class: predicted 2 times in the baseline and never now; 0.00 % (0/2) found"
        )
        assert (found.present, found.bound) == ("never predicted", "predicted at all")
    assert passed(recalls_of(rules, without_rose, {}, None)) == {}
    assert passed(recalls_of(rules, without_rose, {"rose": D(0)}, None)) == {"recall:rose": True}
    # the baseline never predicted it: nothing is lost
    judged = recalls_of(rules, without_rose, {}, without_rose)
    assert passed(judged) == {"recall": True}
    text = "every class that the baseline predicts is still predicted"
    assert only(judged, "recall").text == text


def test_a_class_without_an_image_gives_a_notice_unless_it_is_lost(rules: ModuleType) -> None:
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    bounds = Bounds(min_recall_percent={"tulip": D(50), "daisy": D(50)})

    def judge(predicted: Any, known: Any) -> Any:
        evidence = make_evidence(rules, truth=truth, predicted=predicted, model_sha256=OTHER)
        return rules.judge_models(evidence, bounds, known)

    never = np.array([0, 0, 0, 0, 1, 1, 1, 0])
    for known in (None, make_known(rules, predicted=never)):
        judged = judge(never, known)
        assert only(judged, "recall:daisy").passed is True
        assert "recall:tulip" not in passed(judged)
        assert judged.notices == ("recall of tulip not judged: the set has no image of it",)
    judged = judge(never, make_known(rules))
    found = only(judged, "recall:tulip")
    assert found.passed is False and found.text.endswith("never now; the set has no image of it")
    assert judged.notices == ()


def test_a_class_that_the_contract_does_not_have_fails(rules: ModuleType) -> None:
    judged = recalls_of(rules, NOW, {"violet": D("50.0")})
    assert passed(judged) == {"recall:violet": False}
    text = "the contract has no such class, the baseline says: at least 50.0 %"
    assert only(judged, "recall:violet").text == text
    judged = recalls_of(rules, NOW, {}, [0, 0, 0, 0, 1, 9, 2, 0])
    assert passed(judged) == {"recall:class 9": False}
    assert "no such class, the baseline says: predicted 1 times" in judged.judgements[0].text


def test_better_accuracy_is_judged_by_the_same_rule(rules: ModuleType) -> None:
    for lost, gained, paired, strict in (
        (0, 6, False, True),  # 1.67 points, p = .0156
        (0, 7, True, True),
        (2, 10, True, True),
        (0, 3, False, False),
        (3, 3, False, False),
    ):
        truth, before, now = make_discordant(lost, gained, 360)
        evidence = make_evidence(rules, truth=truth, predicted=now, model_sha256=OTHER)
        # class 1 must not count as lost
        evidence.predicted[-1] = before[-1] = 1
        for bounds, wanted in ((PAIRED, paired), (STRICT, strict)):
            bounds = replace(bounds, max_float_int8_drop=D(100))
            judged = rules.judge_models(evidence, bounds, make_known(rules, before, bounds))
            points = f"{100 * (gained - lost) / 360:.2f}"
            assert any(f"accuracy {points} points higher" in n for n in judged.notices) is wanted


SOME = settings(max_examples=60, derandomize=True, deadline=None)


points = st.decimals(0, 5, places=2)


policies = st.one_of(
    st.builds(lambda most: replace(STRICT, max_drop=most), points),
    st.builds(
        lambda alpha, floor, cap: replace(PAIRED, paired=Paired(alpha=alpha, floor=floor, cap=cap)),
        st.sampled_from([D("0.01"), D("0.05"), D("0.5"), D("0.001")]),
        points,
        points,
    ),
)


# lost, gained and both right: at most 1,000 images
discordants = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 880))


def drop_passes(lost: int, gained: int, count: int, bounds: Bounds) -> bool:
    return drop_of(RULES, (lost, gained, count), bounds).passed is True


@given(discordants, policies)
@SOME
def test_more_losses_never_turn_a_failure_into_a_pass(
    counts: tuple[int, int, int], bounds: Bounds
) -> None:
    lost, gained, rest = counts
    count = lost + gained + rest
    if not drop_passes(lost, gained, count, bounds):
        assert not drop_passes(lost + 1, gained, count, bounds)
        assert gained == 0 or not drop_passes(lost, gained - 1, count, bounds)
    assert lost > gained or drop_passes(lost, gained, count, bounds)


@given(discordants, points, st.decimals("0.001", "0.999", places=3))
@SOME
def test_strict_is_paired_with_one_bound_for_any_alpha(
    counts: tuple[int, int, int], most: D, alpha: D
) -> None:
    lost, gained, rest = counts
    found = (lost, gained, lost + gained + rest)
    strict = drop_passes(*found, replace(STRICT, max_drop=most))
    paired = Paired(alpha=alpha, floor=most, cap=most)
    assert strict is drop_passes(*found, replace(PAIRED, paired=paired))
    assert strict is (Fraction(100 * (lost - gained), found[2]) <= Fraction(most))


classes = st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=40)


@given(classes, policies, st.randoms(use_true_random=False))
@SOME
def test_the_order_of_the_images_changes_nothing(
    images: list[tuple[int, int, int]], bounds: Bounds, random: Any
) -> None:
    bounds = replace(bounds, min_recall_percent={"daisy": D(50), "tulip": D(30)})

    def judge(images: list[tuple[int, int, int]]) -> Any:
        truth, before, now = np.array(images).T
        evidence = make_evidence(RULES, truth=truth, predicted=now, model_sha256=OTHER)
        return RULES.judge_models(evidence, bounds, make_known(RULES, before, bounds))

    judged = judge(images)
    random.shuffle(images)
    assert judge(images) == judged
    # wrong to another wrong class is neither lost nor gained
    turned = [(t, b, n if n == t else next(k for k in range(3) if k != t)) for t, b, n in images]
    assert only(judge(turned), "drop") == only(judged, "drop")


@given(classes)
@SOME
def test_classes_by_another_number_are_judged_alike(images: list[tuple[int, int, int]]) -> None:
    bounds = Bounds(min_recall_percent={"daisy": D(60), "rose": D(40)})
    labels = ("daisy", "rose", "tulip")
    verdicts = []
    for order in permutations(range(3)):
        truth, before, now = np.array(order)[np.array(images).T]
        names = [labels[order.index(k)] for k in range(3)]
        evidence = make_evidence(
            RULES, truth=truth, predicted=now, labels=tuple(names), model_sha256=OTHER
        )
        judged = RULES.judge_models(evidence, bounds, make_known(RULES, before, bounds))
        verdicts.append((set(judged.judgements), set(judged.notices)))
    assert verdicts == verdicts[:1] * 6


def test_the_paired_rule_is_scipys_on_a_thousand_random_counts() -> None:
    rng = np.random.default_rng(12)
    bounds = {
        alpha: replace(PAIRED, paired=Paired(alpha=D(alpha), floor=D(0), cap=D(100)))
        for alpha in ("0.01", "0.05")
    }
    # gained, and lost from where p is about 1 to where it is about 1e-6: decisions of both kinds
    gained = np.r_[rng.integers(0, 40, 500), rng.integers(0, 800, 500)]
    lost = gained + np.round(rng.uniform(-1, 5, 1000) * np.sqrt(2 * gained + 1)).astype(int)
    decided = {alpha: [0, 0] for alpha in bounds}
    for b, c in zip(np.maximum(lost, 0).tolist(), gained.tolist(), strict=True):
        p = binomtest(b, b + c, 0.5, alternative="greater").pvalue if b + c else 1.0
        for alpha, policy in bounds.items():
            judged = drop_of(RULES, (b, c, b + c + 7), policy)
            fails = bool(p < float(alpha) and b > c)
            assert judged.passed is not fails, (b, c, p)
            assert judged.present.endswith(f"p = {p:.4g}")
            decided[alpha][fails] += 1
    assert all(min(counts) > 200 for counts in decided.values()), decided
