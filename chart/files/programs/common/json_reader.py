"""JSON that others wrote: it is parsed only if its nesting and the number of its values have a bound.

Python's parser recurses with each level of nesting. On the small stacks that threads have on musl, a document of a few
kilobytes would end the process. A document of a few megabytes that has many small values takes a hundred megabytes.
"""

from __future__ import annotations

import json

# Manifests, tokens and configurations have less than ten levels.
MAX_DEPTH = 64
# The values, the commas and the brackets are counted. A manifest has about six for each layer.
MAX_VALUES = 200_000

_BRACKETS = str.maketrans("{}", "[]")


def parse_json(content: bytes) -> object:
    """Return the value of a JSON document in UTF-8.

    Raises:
        ValueError: It is not JSON, or it is nested too deeply or has too many values.
    """
    text = content.decode()
    _check_bounds(text)
    return json.loads(text)


def _check_bounds(text: str) -> None:
    if len(text) <= MAX_VALUES and text.count("[") + text.count("{") <= MAX_DEPTH:
        # That is what nearly all documents are.
        return
    # Escaped backslashes and quotes go first, so that each quote that is left begins or ends a string.
    plain = text.replace("\\\\", "").replace('\\"', "") if "\\" in text else text
    outside = "".join(plain.split('"')[::2])
    if outside.count(",") + outside.count("[") + outside.count("{") > MAX_VALUES:
        message = f"the JSON document has more than {MAX_VALUES} values"
        raise ValueError(message)
    # Each round removes the innermost pairs of brackets.
    brackets = "".join(letter for letter in outside.translate(_BRACKETS) if letter in "[]")
    for _ in range(MAX_DEPTH):
        if not brackets:
            return
        brackets = brackets.replace("[]", "")
    if brackets:
        message = f"the JSON document is nested more than {MAX_DEPTH} levels deep, or has unbalanced brackets"
        raise ValueError(message)
