"""Finds every problem of a document, with its path, what is wrong and what to write instead."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema

from registry_cache.schema import values_schema

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from registry_cache.document import Document

TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "object": "a mapping",
    "string": "text",
}
DAYS = re.compile(r"^[0-9]+d")


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong, on a line of the file."""

    line: int
    path: str
    text: str

    def __str__(self) -> str:
        """`line 7: caches[1].upstream: …`."""
        return f"line {self.line}: {self.path}: {self.text}" if self.path else f"line {self.line}: {self.text}"


@cache
def _validator() -> Any:  # noqa: ANN401 - jsonschema makes the class
    """The schema's validator, in which a pattern's end is the text's end, as in Helm; Python's takes a newline more."""
    extend: Any = jsonschema.validators.extend  # it has no types
    return extend(jsonschema.Draft7Validator, {"pattern": _pattern})(values_schema())


def _pattern(_: object, pattern: str, instance: object, __: object) -> Iterator[jsonschema.ValidationError]:
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match")


def problems(document: Document) -> list[Problem]:
    """Every problem, in the order of the file."""
    found = [
        Problem(document.line(path), path_text(path), text)
        for error in _validator().iter_errors(document.content)
        for path, text in _explain(error)
    ]
    if not found:
        found = [Problem(document.line(path), path_text(path), text) for path, text in _combinations(document.content)]
    return sorted(set(found))


def path_text(path: tuple[Hashable, ...]) -> str:
    """A path as a person writes it: `caches[1].upstream`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _explain(  # noqa: C901 - a case for each keyword of the schema
    error: jsonschema.ValidationError,
) -> Iterator[tuple[tuple[Hashable, ...], str]]:
    """What the schema's error means for a person."""
    path = tuple(error.absolute_path)
    value: Any = error.instance
    schema: Any = error.schema
    match error.validator:
        case "required":
            for name in schema["required"]:
                if name not in value:
                    yield path, f"{name} is missing; write {_example(name, schema['properties'][name])}"
        case "additionalProperties":
            for name in value:
                if name not in schema["properties"]:
                    yield (*path, name), _unknown(str(name), list(schema["properties"]))
        case "type":
            wanted = schema.get("title") or TYPES[schema["type"]]
            yield path, f"{_shown(value)} is not {wanted}{_instead(value, schema)}"
        case "minItems":
            yield path, "at least one cache must be given; write [{upstream: docker.io}]"
        case "const" | "enum":
            yield path, _not_among(value, schema)
        case "maxLength":
            yield path, f"has {len(value)} characters; write at most {error.validator_value}"
        case _:
            yield path, f"{_shown(value)} is not {schema.get('title', 'possible here')}{_instead(value, schema)}"


def _example(name: str, schema: dict[str, Any]) -> str:
    return f"{name}: {_shown(schema['examples'][0])}" if "examples" in schema else name


def _instead(value: object, schema: dict[str, Any]) -> str:
    if isinstance(value, str) and DAYS.match(value) and "168h" in schema.get("examples", []):
        return "; days are written as hours: 7 days are 168h"
    if "examples" in schema:
        return f"; write for example {_shown(schema['examples'][0])}"
    return ""


def _not_among(value: object, schema: dict[str, Any]) -> str:
    allowed = " or ".join(_shown(one) for one in schema.get("enum") or [schema["const"]])
    return f"{_shown(value)} is not {schema.get('title', 'known here')}; write {allowed}"


def _unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return (
        f"is not known here; did you mean {nearest[0]}?"
        if nearest
        else f"is not known here; there is {', '.join(known)}"
    )


def _shown(value: object) -> str:
    """A value as it stands in a document, not at length."""
    limit = 60
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _combinations(values: dict[str, Any]) -> Iterator[tuple[tuple[Hashable, ...], str]]:
    """What the schema cannot see, in the words of the chart (templates/_validate.tpl)."""
    upstreams: dict[str, int] = {}
    suffixes: dict[str, int] = {}
    for index, cache_values in enumerate(values["caches"]):
        upstream, suffix = cache_values["upstream"], cache_values.get("serviceNameSuffix")
        if upstream in upstreams:
            text = f"{upstream} is there already, at caches[{upstreams[upstream]}]; write each upstream once"
            yield ("caches", index, "upstream"), text
        elif suffix in suffixes:
            text = (
                f"the Service would be called registry-{suffix}, as that of caches[{suffixes[suffix]}]; "
                "write another suffix"
            )
            yield ("caches", index, "serviceNameSuffix"), text
        upstreams.setdefault(upstream, index)
        if suffix:
            suffixes.setdefault(suffix, index)
