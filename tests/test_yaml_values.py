"""The fast reader of YAML against OmegaConf itself: equal values, and equal refusals."""

from typing import Any

import pytest
import yaml
from conftest import CONF, composed
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from heterolora.harness.records.yaml_values import plain_values

SCALARS = [
    *("1e-4", "1E5", "1e+3", "1.5e-3", "0.1e-05", "+1", "-1", ".5", "5.", "1_000", "1_0.5_0", "1_"),
    *("0x1F", "0x", "0o17", "017", "08", "0b101", "190:20:30", "190:20:30.15", "1e", "1.2.3", "_1"),
    *(".inf", "-.inf", ".Inf", ".nan", "9999999999999999999", "yes", "no", "on", "off", "True"),
    *("FALSE", "y", "n", "null", "Null", "NULL", "~", "", "'null'", "'1e-4'", '"0x1F"', r'"a\tb"'),
    *("''", "'it''s'", "2026-11-30", "2026-11-30T21:14:00Z", "--", "-", ":", "a:b", "a#b", "#none"),
    *("???", "%", "|", ">", "<<", "=", "&a", "*a", "!!int", "!!str 1", "!!binary aGk=", "\u00e8"),
    *("[]", "{}", "[1, 1e-4, no]", "{a: 1e-4, b: [x]}", "two words", "a, b", "a: b", "'1' 2"),
]


def by_omegaconf(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text))


def said(read: Any, text: str) -> tuple[str, str]:
    """The values with the types of all, or the error."""
    try:
        return "read", repr(read(text))  # unlike ==, it tells 1 from 1.0 and True, and finds nan
    except Exception as error:
        return type(error).__name__, str(error)


def assert_equal(text: str) -> None:
    assert said(plain_values, text) == said(by_omegaconf, text), text


def test_every_kind_of_scalar_is_what_omegaconf_makes_of_it() -> None:
    """A float such as 1e-4 read as text would make tables compare text with numbers."""
    for scalar in SCALARS:
        for text in (f"key: {scalar}", f"- {scalar}", f"{scalar}: 1", f"key: [{scalar}]"):
            assert_equal(text)


@given(st.text("0123456789+-._:eExXobinfaNINFAT~'\" ", max_size=8))
@example("1e-4")
def test_so_is_any_text_of_the_letters_of_numbers(text: str) -> None:
    assert_equal(f"key: {text}")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=30)
@given(st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
def test_what_omegaconf_writes_comes_back(values: dict[str, Any]) -> None:
    """As `config.yaml` is written."""
    text = yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    assert_equal(text)
    if "${" not in text:
        assert_equal(OmegaConf.to_yaml(OmegaConf.create(values)))


@pytest.mark.parametrize(
    "text",
    [
        *("", "# nothing", "null", "words", "[1, 2]", "a: 1\na: 2", "{a: 1, a: 2}", "a: [1,"),
        *(
            "1: one",
            "true: yes",
            "null: 1",
            "? [1]\n: 2",
            "a: ${b}\nb: 1",
            "a: ${",
            "- '${x'",
            "${a}: 1",
        ),
        *(
            "a: &x [1]\nb: *x",
            "a: &x {c: 1}\nb: {<<: *x, d: 2}",
            "a: *x",
            "a: &x [*x]",
            "- ${oc.env:X}",
        ),
        *(
            "a: !!timestamp 2026-11-30",
            "a: !!set {b}",
            "a: !!python/object:os.system {}",
            "a: 1\n--- 2",
        ),
        *(
            "a: |\n  one\n  two\n",
            "a: >-\n  one\n  two",
            "%YAML 1.1\n---\na: 1",
            "a: b: c",
            "\x00",
            "\ta: 1",
        ),
        *("a: &x {c: 1}\nb: {d: 2, <<: *x, c: 3}", "a: {<<: [{b: 1}, {b: 2}]}", "<<: 1", "'<<': 1"),
        *("a: &x 1\nb: &x 2\nc: *x", "&x a: 1\n*x : 2", "a: &x {b: &y [1], c: *y}\nd: *x", "*x"),
        *("a: &x {<<: {b: 1}, <<: {b: 2}}", "a: &x\nb: *x", "a: &x '${c}'\nb: *x\nc: 1", "&x [*x]"),
        "!!python/object/apply:pathlib.Path [x]",
    ],
)
def test_what_is_odd_is_read_or_refused_as_by_omegaconf(text: str) -> None:
    """To the word: an error's line goes on to users."""
    assert_equal(text)


@pytest.mark.parametrize("opening", ["[", "- ", "{a: ", "? "])
def test_deep_nesting_is_an_error_and_not_the_end_of_the_process(opening: str) -> None:
    """The composer of libyaml overruns the stack of C."""
    with pytest.raises(RecursionError):
        plain_values(opening * 50_000)


def test_whole_files_are_equal() -> None:
    """A run's configuration, and one file of each folder of conf."""
    assert_equal(OmegaConf.to_yaml(composed("strategy=dynamic", "proxy=gradnorm"), resolve=True))
    files = [*{file.parent: file for file in sorted(CONF.rglob("*.yaml"))}.values()]
    assert len(files) > 10
    for file in (*files, CONF / "experiment" / "frequency.yaml"):
        assert_equal(file.read_text(encoding="utf-8"))


def test_what_stands_in_two_places_is_not_shared() -> None:
    values = plain_values("a: &x [1]\nb: *x")
    values["a"].append(2)
    assert values["b"] == [1]
