"""A document is read as Helm reads it, but strictly, and is written so that Helm reads the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_cache.document import Unreadable, parse
from registry_cache.values_file import dump

# How Helm 4 read these words where it expects text.
BARE_WORDS = {
    bool: ["y", "Y", "n", "yes", "on", "off", "Off", "true", "TRUE"],
    int: ["010", "0o17", "0x1f", "0b11", "1_000", "+1", "-1", "12345678901234567890"],
    float: ["1e3", "08", ".5", "1.", "1.e+3", "+.5"],
    str: ["1:30", "1:30.5", "2026-01-01", "2026-01-01T00:00:00Z", "1.2.3", "=", "<", "1e", "tRue", "_1", "0o9", "0xg"],
    type(None): ["~", "null", "Null"],
}


@pytest.mark.parametrize(("kind", "word"), [(kind, word) for kind, words in BARE_WORDS.items() for word in words])
def test_unquoted_words_are_read_as_helm_reads_them(kind: type, word: str) -> None:
    assert type(parse(f"x: {word}\n".encode()).content["x"]) is kind


def test_keys_are_text() -> None:
    assert parse(b"{1: a, y: b, null: c}").content == {"1": "a", "y": "b", "null": "c"}


def test_anchors_and_merges_are_read() -> None:
    text = b"""
a: &a {size: 1Gi, class: slow}
b: {<<: *a, class: fast}
c: {<<: [{class: mine}, *a]}
d: *a
"""
    assert parse(text).content == {
        "a": {"size": "1Gi", "class": "slow"},
        "b": {"size": "1Gi", "class": "fast"},
        "c": {"size": "1Gi", "class": "mine"},
        "d": {"size": "1Gi", "class": "slow"},
    }


@pytest.mark.parametrize("text", [b"<<: 1", b"<<: [1]", b"{a: 1, 'a': 2}", b"{<<: {a: 1, a: 2}}"])
def test_values_that_helm_might_read_differently_are_refused(text: bytes) -> None:
    with pytest.raises(Unreadable):
        parse(text)


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CONTENT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | ANY_TEXT
    | st.from_regex("[-+.0-9a-fox:_eE~<=yYnN]{1,8}", fullmatch=True),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(ANY_TEXT, part, max_size=3),
    max_leaves=8,
)


@given(content=CONTENT, flow=st.booleans())
def test_written_document_is_read_back_unchanged(content: Any, *, flow: bool) -> None:
    assert parse(dump({"x": content}, flow=flow).encode()).content == {"x": content}
