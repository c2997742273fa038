"""The baseline's files: what is written reads back, and no file of unknown origin does harm."""

from __future__ import annotations

import os
import time
import tomllib
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hostile_names import BLANK_NAMES, HOSTILE_NAMES
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.errors import ConfigError, GateError, InputError, NdError
from ndtool.files import sha256_bytes
from ndtool.gates import rules
from ndtool.gates.baseline import (
    MAX_COUNT,
    MAX_PERCENT,
    REQUIRABLE,
    Accepted,
    Baseline,
    Bounds,
    Budget,
    Hashes,
    Limit,
    Paired,
    Result,
)
from ndtool.gates.baseline_file import (
    MAX_BYTES,
    anchor_line,
    baseline_text,
    load_known,
    parse_baseline,
    parse_decimal,
    predictions_bytes,
    predictions_of,
    save_known,
)
from ndtool.gates.evidence import Known
from ndtool.types import Policy, Sha256

HASH = Sha256("0123456789abcdef" * 4)
TEXTS = tuple(name for name in HOSTILE_NAMES if "\udcff" not in name) + BLANK_NAMES
# The example of users.md 5.2, with its tables of classes in one line each.
EXAMPLE = f"""
schema = "ndtool.baseline/1"
name = "main"
[accepted]
reason = "first model of release 2"     # required, >= 10 characters
tool = "0.3.0"
model = "mbv2 w0.35 96x96"
[hash]                                  # sha256, full
evaluation_set = "{HASH}"
model_int8 = "{HASH}"
labels = "{HASH}"
contract = "{HASH}"
predictions = "{HASH}"
[result]                                # for people and for the diff
samples = 734
correct = 661
accuracy_percent = "90.054"
float_correct = 664
recall_percent = {{ daisy = "91.3", roses = "84.9" }}
[bounds]
min_accuracy_percent = 88.0             # absolute floor
policy = "paired"                       # or "strict"
max_drop = 1.0                          # PTS against this baseline (strict)
paired = {{ alpha = 0.01, floor = 0.5, cap = 2.0 }}
max_float_int8_drop = 1.0               # PTS, same images
min_recall_percent = {{ daisy = 83.0, roses = 76.0 }}
c_mismatch = 0
arena_bytes = {{ max = 54272 }}
flash_bytes = {{ max_increase_percent = 1.0, value = 421888 }}
instructions = {{ max_increase_percent = 2.0, value = 61200345, core = "cortex-m4" }}
ops = ["ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN"]
require = ["accuracy", "drop", "recall", "float_int8", "c", "arena", "ops", "hashes"]
[toolchain]
gcc = "arm-none-eabi-gcc 12.2.1"
qemu = "7.2"
"""
BASELINE = Baseline(
    name="main",
    accepted=Accepted(reason="first model of release 2", tool="0.3.0", model="mbv2 w0.35 96x96"),
    hash=Hashes(evaluation_set=HASH, model_int8=HASH, labels=HASH, contract=HASH, predictions=HASH),
    result=Result(
        samples=734,
        correct=661,
        accuracy_percent="90.054",
        float_correct=664,
        recall_percent={"daisy": "91.3", "roses": "84.9"},
    ),
    bounds=Bounds(
        min_accuracy_percent=Decimal("88.0"),
        min_recall_percent={"daisy": Decimal("83.0"), "roses": Decimal("76.0")},
        arena_bytes=Limit(max=54272),
        flash_bytes=Budget(max_increase_percent=Decimal("1.0"), value=421888),
        instructions=Budget(max_increase_percent=Decimal("2.0"), value=61200345, core="cortex-m4"),
        ops=("ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN"),
        require=("accuracy", "drop", "recall", "float_int8", "c", "arena", "ops", "hashes"),
    ),
    toolchain={"gcc": "arm-none-eabi-gcc 12.2.1", "qemu": "7.2"},
)
# As `baseline_text` writes it: the diff of this text is what people review.
WRITTEN = f"""\
name = "main"
schema = "ndtool.baseline/1"

[accepted]
model = "mbv2 w0.35 96x96"
reason = "first model of release 2"
tool = "0.3.0"

[hash]
contract = "{HASH}"
evaluation_set = "{HASH}"
labels = "{HASH}"
model_int8 = "{HASH}"
predictions = "{HASH}"

[result]
accuracy_percent = "90.054"
correct = 661
float_correct = 664
samples = 734

[result.recall_percent]
daisy = "91.3"
roses = "84.9"

[bounds]
arena_bytes = {{ max = 54272 }}
c_mismatch = 0
flash_bytes = {{ max_increase_percent = 1.0, value = 421888 }}
instructions = {{ core = "cortex-m4", max_increase_percent = 2.0, value = 61200345 }}
max_drop = 1.0
max_float_int8_drop = 1.0
min_accuracy_percent = 88.0
ops = ["ADD", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MEAN"]
paired = {{ alpha = 0.01, cap = 2.0, floor = 0.5 }}
policy = "paired"
require = ["accuracy", "drop", "recall", "float_int8", "c", "arena", "ops", "hashes"]

[bounds.min_recall_percent]
daisy = 83.0
roses = 76.0

[toolchain]
gcc = "arm-none-eabi-gcc 12.2.1"
qemu = "7.2"
"""


def parse(text: str) -> Baseline:
    return parse_baseline(text, where="baselines/main.toml")


def refusal(text: str) -> NdError:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value


# -- what is written -------------------------------------------------------------------------------


def test_the_example_of_the_page_is_read_exactly() -> None:
    assert parse(EXAMPLE) == BASELINE


def test_the_written_form() -> None:
    assert baseline_text(BASELINE) == WRITTEN
    assert parse(WRITTEN) == BASELINE


def decimals(highest: int) -> st.SearchStrategy[Decimal]:
    return st.decimals(0, highest, allow_nan=False, allow_infinity=False, places=9)


labels = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(TEXTS))
counts = st.integers(0, MAX_COUNT)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64).map(Sha256)
budgets = st.one_of(
    st.none(),
    st.builds(Budget, max=counts, core=st.none() | labels),
    st.builds(
        Budget,
        value=counts,
        max_increase_percent=decimals(MAX_PERCENT),
        max=st.none() | counts,
        core=st.none() | labels,
    ),
)
floors = decimals(100).map(lambda value: value if value > 1 else Decimal(0))
bounds = st.builds(
    Bounds,
    min_accuracy_percent=st.none() | floors,
    policy=st.sampled_from(Policy),
    max_drop=decimals(100),
    paired=st.builds(Paired, alpha=decimals(1), floor=decimals(100), cap=decimals(100)),
    max_float_int8_drop=decimals(100),
    min_recall_percent=st.dictionaries(labels, floors),
    c_mismatch=st.integers(0, 1000),
    arena_bytes=st.none() | st.builds(Limit, max=counts),
    flash_bytes=budgets,
    instructions=budgets,
    ops=st.none() | st.lists(labels).map(tuple),
    require=st.lists(st.sampled_from(REQUIRABLE)).map(tuple),
)
baselines = st.builds(
    Baseline,
    name=labels,
    accepted=st.builds(Accepted, reason=st.just("a reason of words"), tool=labels, model=labels),
    hash=st.builds(
        Hashes,
        evaluation_set=hashes,
        model_int8=hashes,
        labels=hashes,
        contract=hashes,
        predictions=hashes,
    ),
    result=st.builds(
        Result,
        samples=st.just(734),
        correct=st.integers(0, 734),
        accuracy_percent=st.just("90.054"),
        float_correct=st.none() | st.integers(0, 734),
        arena_bytes=st.none() | counts,
        flash_bytes=st.none() | counts,
        instructions=st.none() | counts,
        recall_percent=st.dictionaries(labels, st.just("91.3")),
    ),
    bounds=bounds,
    toolchain=st.dictionaries(labels, labels),
)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(baselines)
def test_every_baseline_reads_back(baseline: Baseline) -> None:
    text = baseline_text(baseline)
    assert parse(text) == baseline
    assert baseline_text(parse(text)) == text
    assert tomllib.loads(text)["result"].get("recall_percent", {}) == baseline.result.recall_percent


@pytest.mark.parametrize("label", TEXTS)
def test_a_hostile_label_is_one_visible_line(label: str) -> None:
    result = replace(BASELINE.result, recall_percent={label: "91.3"})
    text = baseline_text(replace(BASELINE, result=result))
    assert parse(text).result.recall_percent == {label: "91.3"}
    assert len(text.splitlines()) == len(WRITTEN.splitlines()) - 1  # one class less
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    # what an editor or a review page would hide
    assert all(c.isprintable() or c in "\n\u200b\u00a0" for c in text)


def test_ten_thousand_classes(tmp_path: Path) -> None:
    many = {f"class {k} \u202e": "91.3" for k in range(10_000)}
    result = replace(BASELINE.result, recall_percent=many)
    text = baseline_text(replace(BASELINE, result=result))
    assert parse(text).result.recall_percent == many
    assert len(text) < MAX_BYTES / 10


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("", "[[[", "config.syntax", "not a TOML file"),
        ("", "x = " + "9" * 5000, "config.syntax", "not a TOML file"),
        ("", "x = " + "[" * 5000, "config.syntax", "not a TOML file"),
        ("", "x = 1.0" + "0" * 5000, "config.syntax", "more than 32 characters"),
        ("", "x = 1e99999999999999999999", "config.syntax", "out of range"),
        ("", "a." * 50_000 + "b = 1", "config.syntax", "more than 16 parts"),
        ("", "[" + '"a" . ' * 50_000 + "b]", "config.syntax", "more than 16 parts"),
        ("baseline/1", "baseline/2", "baseline.schema", "ndtool.baseline/2"),
        ('schema = "ndtool.baseline/1"', "", "baseline.schema", "None"),
        ('schema = "ndtool.baseline/1"', "schema = 1", "baseline.schema", "1"),
        ("max_drop", "max_dorp", "baseline.key", "did you mean bounds.max_drop?"),
        ("[toolchain]", "[tolchain]", "baseline.key", "did you mean toolchain?"),
        ("cap = 2.0", "cup = 2.0", "baseline.key", "did you mean bounds.paired.cap?"),
        ('tool = "0.3.0"', "", "baseline.value", "accepted.tool"),
        ("[hash]", "[hash.x]", "baseline.value", "hash"),
        ("max_drop = 1.0", 'max_drop = "1.0"', "baseline.value", "bounds.max_drop"),
        ("max_drop = 1.0", "max_drop = true", "baseline.value", "bounds.max_drop"),
        ("max_drop = 1.0", "max_drop = [1.0]", "baseline.value", "bounds.max_drop"),
        ("max_drop = 1.0", "max_drop = nan", "baseline.value", "bounds.max_drop"),
        ("max_drop = 1.0", "max_drop = -inf", "baseline.value", "bounds.max_drop"),
        ("max_drop = 1.0", "max_drop = 1979-05-27", "baseline.value", "bounds.max_drop"),
        ("max_drop = 1.0", "max_drop = -0.1", "baseline.range", "bounds.max_drop"),
        ("max_drop = 1.0", "max_drop = 100.1", "baseline.range", "bounds.max_drop"),
        ("max_drop = 1.0", "max_drop = 1e-999999", "baseline.range", "bounds.max_drop"),
        ("max_drop = 1.0", "max_drop = 1e999999", "baseline.range", "bounds.max_drop"),
        ("alpha = 0.01", "alpha = 1.1", "baseline.range", "bounds.paired.alpha"),
        ("c_mismatch = 0", "c_mismatch = 0.0", "baseline.value", "bounds.c_mismatch"),
        ("c_mismatch = 0", "c_mismatch = false", "baseline.value", "bounds.c_mismatch"),
        ("c_mismatch = 0", 'c_mismatch = "0"', "baseline.value", "bounds.c_mismatch"),
        ("c_mismatch = 0", "c_mismatch = -1", "baseline.range", "bounds.c_mismatch"),
        ("{ max = 54272 }", "54272", "baseline.value", "bounds.arena_bytes"),
        ("{ max = 54272 }", "{ max = -1 }", "baseline.range", "bounds.arena_bytes.max"),
        ("{ max = 54272 }", "{ max = 0x" + "f" * 999 + " }", "baseline.range", "arena_bytes.max"),
        (", value = 421888", "", "baseline.range", "bounds.flash_bytes"),
        ("max_increase_percent = 1.0, ", "", "baseline.range", "bounds.flash_bytes"),
        ("value = 61200345, ", "value = 1.0, ", "baseline.value", "bounds.instructions.value"),
        ('policy = "paired"', 'policy = "lax"', "baseline.value", "bounds.policy"),
        ('"drop", ', '"dorp", ', "baseline.range", "no gate dorp; did you mean drop?"),
        ('"drop", ', "4, ", "baseline.value", "bounds.require"),
        ("daisy = 83.0", "daisy = 100.5", "baseline.range", "min_recall_percent.daisy"),
        ("= 88.0 ", "= 0.971 ", "baseline.range", "percent: 97.1, not 0.971"),
        ("= 88.0 ", "= 1 ", "baseline.range", "percent: 100, not 1"),
        ("daisy = 83.0", "daisy = 0.83", "baseline.range", "percent: 83, not 0.83"),
        ("correct = 661", "correct = 661\narena_bytes = -1", "baseline.range", "arena_bytes"),
        ("correct = 661", "correct = 661\nflash_bytes = 1.0", "baseline.value", "flash_bytes"),
        ("daisy = 83.0", 'daisy = "83"', "baseline.value", "min_recall_percent.daisy"),
        ('daisy = "91.3"', "daisy = 91.3", "baseline.value", "recall_percent.daisy"),
        ('"90.054"', '"about 90"', "baseline.range", "result.accuracy_percent"),
        ("samples = 734", "samples = 0", "baseline.range", "result.samples"),
        ("samples = 734", "samples = 2000000000", "baseline.range", "result.samples"),
        ("correct = 661", "correct = 735", "baseline.range", "result.correct"),
        ("float_correct = 664", "float_correct = -1", "baseline.range", "float_correct"),
        ("first model of release 2", "too short", "baseline.range", "accepted.reason"),
        ("first model of release 2", "two lines\\nof text", "baseline.range", "accepted.reason"),
        (f'labels = "{HASH}"', f'labels = "{HASH[1:]}"', "baseline.range", "hash.labels"),
        (f'labels = "{HASH}"', f'labels = "{HASH.upper()}"', "baseline.range", "hash.labels"),
    ],
)
def test_refusals_name_the_key(old: str, new: str, code: str, words: str) -> None:
    assert old in EXAMPLE
    began = time.monotonic()
    error = refusal(EXAMPLE.replace(old, new, 1) if old else EXAMPLE + new)
    assert error.code == code and error.exit_code == 2
    assert words in str(error) and "baselines/main.toml" in str(error)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("first model of release 2", "ten chars."),
        ("{ max_increase_percent = 1.0, value = 421888 }", "{ max = 5 }"),
        ("max_drop = 1.0", "max_drop = 100"),
        ("max_drop = 1.0", "max_drop = 0.000000001"),
        ("samples = 734", "samples = 16_777_216"),
        ("= 88.0 ", "= 1.000000001 "),
        ("= 88.0 ", "= 0 "),
        ("correct = 661", "correct = 661\narena_bytes = 0\ninstructions = 281474976710656"),
        ("correct = 661", "correct = 734"),
    ],
)
def test_values_at_their_limits_are_read(old: str, new: str) -> None:
    assert parse(EXAMPLE.replace(old, new, 1)) != BASELINE


def test_the_longest_number() -> None:
    assert parse_decimal("1." + "0" * 30) == 1
    with pytest.raises(ValueError, match="more than 32"):
        parse_decimal("1." + "0" * 31)


def test_all_values_out_of_range_are_told() -> None:
    error = refusal(EXAMPLE.replace("correct = 661", "correct = 999").replace("88.0", "101.0"))
    told = [str(problem) for problem in (error, *error.more)]
    assert len(told) == 2 and "correct" in told[0] and "min_accuracy_percent" in told[1]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.data())
def test_an_edited_file_is_read_or_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(WRITTEN)))
    end = data.draw(st.integers(at, min(at + 40, len(WRITTEN))))
    text = WRITTEN[:at] + data.draw(st.text(max_size=20)) + WRITTEN[end:]
    try:
        parse_baseline(text.encode("utf-8", "replace").decode(), where="b.toml")
    except ConfigError:
        return


def test_require_may_name_every_gate() -> None:
    assert ("hashes", *rules.GATES) == REQUIRABLE


# -- the two files ---------------------------------------------------------------------------------


def make_known(count: int = 734) -> Known:
    predicted = (np.arange(count) % 300).astype(np.uint16)
    named = replace(BASELINE.hash, predictions=sha256_bytes(predictions_bytes(predicted)))
    return Known(baseline=replace(BASELINE, hash=named), predicted=predicted)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "baselines/main.toml"
    save_known(path, make_known())
    return path


def test_saved_files_load_again(saved: Path) -> None:
    known = load_known(saved)
    assert known.baseline == make_known().baseline
    assert known.predicted.dtype == np.uint16 and (known.predicted == make_known().predicted).all()
    assert sorted(p.name for p in saved.parent.iterdir()) == ["main.pred", "main.toml"]
    assert predictions_of(saved).read_bytes()[:6] == b"\x00\x00\x01\x00\x02\x00"
    assert saved.read_bytes() == baseline_text(known.baseline).encode()


def test_windows_line_ends(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes().replace(b"\n", b"\r\n"))
    assert load_known(saved).baseline == make_known().baseline


def test_a_missing_baseline_is_a_failed_gate(tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        load_known(tmp_path / "my base.toml")
    error = caught.value
    assert (error.exit_code, error.code) == (3, "gate.baseline-missing")
    assert f"ndtool baseline accept RUN --baseline '{tmp_path}/my base.toml'" in error.remedy


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-2]),
        lambda path: path.write_bytes(path.read_bytes() + b"\0\0"),
        lambda path: path.write_bytes(b"\1" + path.read_bytes()[1:]),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),
    ],
)
def test_damaged_predictions_are_a_failed_gate(saved: Path, damage: object) -> None:
    damage(predictions_of(saved))  # type: ignore[operator]
    with pytest.raises(GateError) as caught:
        load_known(saved)
    assert (caught.value.exit_code, caught.value.code) == (3, "gate.baseline-damaged")
    assert "git checkout -- " in caught.value.remedy


def test_a_kill_between_the_two_writes_is_seen(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    old, count = saved.read_bytes(), 733
    monkeypatch.setattr("ndtool.gates.baseline_file.write_text_atomic", killed)
    known = make_known(count)
    result = replace(known.baseline.result, samples=count)
    with pytest.raises(KeyboardInterrupt):
        save_known(saved, replace(known, baseline=replace(known.baseline, result=result)))
    assert saved.read_bytes() == old
    with pytest.raises(GateError):
        load_known(saved)


@pytest.mark.parametrize(
    "name", ["main", "main.pred", "main.v2", ".toml", "a\nb.toml", "\udcff.toml"]
)
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    for use in (load_known, lambda path: save_known(path, make_known())):
        with pytest.raises(ConfigError) as caught:
            use(tmp_path / name)
        assert caught.value.code == "baseline.name"
    assert not list(tmp_path.iterdir())


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "main.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_known(path)
    path.write_bytes(b"")
    os.truncate(path, MAX_BYTES + 1)
    with pytest.raises(InputError, match="larger than"):
        load_known(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="not a regular file"):
        load_known(path)


# -- anchors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("bounds.max_drop", "max_drop = 1.0"),
        ("bounds.max_float_int8_drop", "max_float_int8_drop = 1.0"),
        ("bounds.arena_bytes", "arena_bytes = { max = 54272 }"),
        ("bounds.arena_bytes.max", "arena_bytes = { max = 54272 }"),
        ("bounds.min_recall_percent", "[bounds.min_recall_percent]"),
        ("bounds.min_recall_percent.roses", "roses = 76.0"),
        ("bounds.min_recall_percent.tulips", "[bounds.min_recall_percent]"),
        ("hash.labels", f'labels = "{HASH}"'),
        ("bounds.min_drop", None),
        ("bond.max_drop", None),
        ("", None),
    ],
)
def test_anchors(key: str, line: str | None) -> None:
    number = anchor_line(WRITTEN, key)
    assert (None if number is None else WRITTEN.split("\n")[number - 1]) == line


@pytest.mark.parametrize("label", TEXTS)
def test_the_anchor_of_a_hostile_label(label: str) -> None:
    floors = {label: Decimal("12.5"), "other": Decimal("83.0")}
    changed = replace(BASELINE.bounds, min_recall_percent=floors)
    text = baseline_text(replace(BASELINE, bounds=changed))
    number = anchor_line(text, f"bounds.min_recall_percent.{label}")
    expected = "= 12.5" if label else "[bounds.min_recall_percent]"
    assert number is not None and text.split("\n")[number - 1].endswith(expected)


def test_anchors_in_a_file_written_by_hand() -> None:
    number = anchor_line(EXAMPLE, "bounds.min_recall_percent.daisy")
    assert number is not None
    assert EXAMPLE.split("\n")[number - 1].startswith("min_recall_percent = { daisy")
