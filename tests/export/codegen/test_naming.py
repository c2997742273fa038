from __future__ import annotations

import re

import pytest
from hostile_names import HOSTILE_NAMES
from hypothesis import given, settings
from hypothesis import strategies as st

from ndtool.errors import ConfigError
from ndtool.export.codegen.naming import FILE_ENDS, TARGETS, check_prefix, label_constants
from ndtool.export.codegen.render import TEMPLATES, template_files


@pytest.mark.parametrize("prefix", ["nd_model", "a", "m2", "a" * 41, "x_1_y", "classes"])
def test_prefix_is_taken(prefix: str) -> None:
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "A", "1a", "_a", "a_", "a__b", "a" * 42, "a-b", "a b", "a\n", "ä", "٣a", "a٣", "*/"),
        *("int", "and", "co_await", "nd", "nd_runtime", "a.h"),
        *("string", "stdint", "nd_conv_s8", "nd_pool", "nd_requant", "nd_assert"),
        *("all", "install", "test", "run", "list_install_components", "default_target"),
        *("kws_layers", "x_data", "x_main", "x_golden"),
    ],
)
def test_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_prefix(prefix)
    assert caught.value.code == "codegen.prefix"
    assert "\n" not in str(caught.value)


def test_every_source_of_a_model_has_a_known_end() -> None:
    """A prefix that ends like one of them would be taken for a part of another model."""
    names = {name for template in TEMPLATES for name in template_files(template)}
    found = {match[1] for name in names if (match := re.fullmatch(r"PREFIX(_\w+)\.[ch]\.j2", name))}
    assert found == set(FILE_ENDS)


def test_targets_of_our_build_files_are_no_prefixes() -> None:
    words = re.compile(r"^\.PHONY: (.*)$|^\s*add_(?:custom_target|library)\((\w+)", re.MULTILINE)
    found = {
        name
        for template in TEMPLATES
        for text in template_files(template).values()
        for groups in words.findall(text.decode("utf-8"))
        for name in " ".join(groups).split()
    }
    assert {"run", "common", "check"} <= found <= TARGETS


def test_constants_of_labels() -> None:
    labels = ("daisy", "Übung 7", "猫", "", "--", "a__b_", "7", "Œuvre", "x" * 99)
    assert label_constants(labels) == (
        "C0_DAISY",
        "C1_UBUNG_7",
        "C2",
        "C3",
        "C4",
        "C5_A_B",
        "C6_7",
        "C7_UVRE",
        "C8_" + "X" * 31,
    )


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.text() | st.sampled_from(HOSTILE_NAMES), max_size=12))
def test_constants_are_legal_and_different(labels: list[str]) -> None:
    constants = label_constants(labels)
    assert len(set(constants)) == len(labels)
    for constant in constants:
        assert re.fullmatch(r"C\d+(_[A-Z0-9]+)*", constant)
