"""JSON that others wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from common.json_reader import MAX_DEPTH, MAX_VALUES, parse_json
from hypothesis import given
from hypothesis import strategies as st

PROGRAMS = Path(__file__).parents[3] / "chart/files/programs"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\[]{},:\n\u2200é'),
    lambda children: st.lists(children) | st.dictionaries(st.text(alphabet='a"\\[]{}'), children),
)


@given(VALUES)
def test_documents_with_few_levels_are_parsed(value: Any) -> None:
    padding = [[]] * (MAX_DEPTH + 1)  # so that the levels are counted
    for document in (value, [padding, value]):
        for ascii_only in (True, False):
            assert parse_json(json.dumps(document, ensure_ascii=ascii_only).encode()) == document


@pytest.mark.parametrize("opening", ["[", '{"a":', '[[],{"\\\\":"]\\"]","b":'])
def test_document_with_many_levels_is_refused_before_it_is_parsed(opening: str) -> None:
    closing = "".join({"[": "]", "{": "}"}[letter] for letter in reversed(opening.replace("[],", "")) if letter in "[{")
    for depth in (MAX_DEPTH + 1, 9_000, 40_000):
        for content in (opening * depth, opening * depth + "1" + closing * depth):
            with pytest.raises(ValueError, match="levels deep"):
                parse_json(content.encode())
    levels = MAX_DEPTH // len(closing)
    assert parse_json((opening * levels + "1" + closing * levels).encode())


@pytest.mark.parametrize("unit", ["{},", "1,", '"",', "[[]],", '"\\"",'])
def test_document_with_many_values_is_refused_before_it_is_parsed(unit: str) -> None:
    with pytest.raises(ValueError, match="values"):
        parse_json(f"[{unit * (MAX_VALUES + 1)}1]".encode())


def test_brackets_and_commas_in_strings_are_not_counted() -> None:
    text = '[{,"\\' * MAX_VALUES
    assert parse_json(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(("\u2200[" * 9_000).encode(encoding))


def test_no_document_ends_a_process_whose_threads_have_small_stacks() -> None:
    documents = ["[" * 100_000, '{"a":' * 9_000 + "1" + "}" * 9_000, '{"schemaVersion":2,"x":' + "[" * 9_000]
    program = """
import sys, threading
from common.json_reader import parse_json
from gate.media_types import determine_media_type
from store.layout import read_references
from authentication.tokens import parse_token
threading.stack_size(256 << 10)
def run():
    for document in sys.stdin.read().split():
        content = document.encode()
        assert determine_media_type(content) is None
        assert read_references(content) == {}
        for parse in (parse_json, lambda body: parse_token(body, None, 0.0)):
            try:
                parse(content)
            except ValueError:
                print("refused")
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROGRAMS,
        input="\n".join(documents),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["refused"] * 6), done.stderr
