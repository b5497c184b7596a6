"""Explains the errors of the schema: the reason, and a suggestion."""

from __future__ import annotations

import difflib
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema

from registry_cache.document import quote_example, quote_value
from registry_cache.model.scalars import KEY_TITLE
from registry_cache.problems import Finding
from registry_cache.schema import schema_of_version
from registry_cache.untrusted_text import join_some

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "object": "a mapping",
    "string": "text",
}
DAYS = re.compile("([0-9]{1,4})d(ays?)?")
MAX_GUESSED_CHARACTERS = 300


def find_schema_problems(content: object) -> Iterator[Finding]:
    """Yield the problems that the schema of the document's version finds."""
    api_version = content.get("apiVersion") if isinstance(content, dict) else None
    validator = _validator(api_version if isinstance(api_version, str) else None)
    for error in validator.iter_errors(_drop_defaults_set_to_null(content, validator.schema)):
        yield from _explain(error)


@cache
def _validator(api_version: object) -> Any:  # noqa: ANN401 - jsonschema makes the class
    """Return the schema's validator, in which `$` is the end of the text, as in Helm, and not also before a newline."""
    extend: Any = jsonschema.validators.extend  # it has no types
    return extend(jsonschema.Draft7Validator, {"pattern": _check_pattern})(schema_of_version(api_version))


def _check_pattern(_: object, pattern: str, instance: object, __: object) -> Iterator[jsonschema.ValidationError]:
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match")


def _drop_defaults_set_to_null(value: Any, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - any document
    """Return the document as Helm checks it: in a mapping without fixed keys, null takes a default away."""
    if not isinstance(value, dict):
        return value
    if "properties" in schema:
        return {key: _drop_defaults_set_to_null(part, schema["properties"].get(key, {})) for key, part in value.items()}
    return _drop_nulls(value, schema.get("default", {}))


def _drop_nulls(value: dict[str, Any], default: Any) -> dict[str, Any]:  # noqa: ANN401 - any value
    defaults = default if isinstance(default, dict) else {}
    return {
        key: _drop_nulls(part, defaults.get(key)) if isinstance(part, dict) else part
        for key, part in value.items()
        if part is not None or key not in defaults
    }


def _explain(error: jsonschema.ValidationError) -> Iterator[Finding]:  # noqa: C901 - one case for each keyword
    path = tuple(error.absolute_path)
    value: Any = error.instance
    schema: Any = error.schema
    match error.validator:
        case "required":
            for name in schema["required"]:
                if name not in value:
                    example = quote_example(schema["properties"][name]["examples"][0])
                    yield Finding(path, f"{name} is missing; write {name}: {example}")
        case "additionalProperties":
            yield from _explain_unknown_keys(path, value, schema)
        case "type" if value is None:
            yield Finding(path, "null is not allowed; leave the key out")
        case "type" if not path:
            # It is probably a file of another kind, in which anything may be a password.
            quoted = quote_value(value) if isinstance(value, list | dict) else "text"
            yield Finding(path, f"{quoted} is not a mapping with the key caches")
        case "type":
            types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            expected = schema.get("title") or TYPES[types[0]]
            is_cache = isinstance(value, str) and "upstream" in schema.get("properties", {})
            suggestion = f"write {quote_example({'upstream': value})}" if is_cache else _suggest(value, schema)
            yield Finding(path, f"{quote_value(value)} is not {expected}", suggestion)
        case "minItems":
            reason = "no cache is defined" if path == ("caches",) else "the list is empty"
            yield Finding(path, reason, _suggest(value, schema))
        case "const" | "enum":
            allowed = " or ".join(quote_example(one) for one in schema.get("enum") or [schema["const"]])
            yield Finding(
                path, f"{quote_value(value)} is not {schema.get('title', 'a known value')}", f"write {allowed}"
            )
        case "maxLength":
            yield Finding(path, f"has {len(value)} characters; write at most {error.validator_value}")
        case _:
            yield Finding(
                path, f"{quote_value(value)} is not {schema.get('title', 'allowed')}", _suggest(value, schema)
            )


def _explain_unknown_keys(path: tuple[str | int, ...], value: Any, schema: Any) -> Iterator[Finding]:  # noqa: ANN401
    patterns = schema.get("patternProperties", {})
    known = [*schema.get("properties", {}), *(pattern[1:-1] for pattern in patterns)]
    known = [name for name in known if "deprecationMessage" not in schema.get("properties", {}).get(name, {})]
    if not path and not set(value) & set(known) and not any(_nearest(name, known) for name in value) and len(value) > 1:
        names = join_some([str(name) for name in value])
        yield Finding(path, f"{names} are not known keys", f"the known keys are {', '.join(known)}")
        return
    for name in value:
        if name in schema.get("properties", {}) or any(re.search(pattern, name) for pattern in patterns):
            continue
        if not all(one.isalpha() for one in known):  # a pattern of keys
            yield Finding((*path, name), f"is not {KEY_TITLE}")
            continue
        nearest = _nearest(name, known)
        suggestion = f"did you mean {nearest[0]}?" if nearest else f"the known keys are {', '.join(known)}"
        yield Finding((*path, name), "is not a known key", suggestion)


def _nearest(name: object, known: list[str]) -> list[str]:
    return difflib.get_close_matches(str(name)[:MAX_GUESSED_CHARACTERS], known, n=1)


def _suggest(value: object, schema: dict[str, Any]) -> str:
    """Suggest what was most likely meant, or else an example."""
    validator = _validator(None).evolve(schema=schema)
    if isinstance(value, int | float) and not isinstance(value, bool) and validator.is_valid(str(value)):
        return "write it in quotes"
    if isinstance(value, str) and (days := DAYS.match(value)):
        hours = f"{24 * int(days[1])}h{value[days.end() :]}"
        if validator.is_valid(hours):
            return f"there is no unit for days; write {quote_value(hours)}"
    for candidate in _candidates(value, schema):
        if candidate and validator.is_valid(candidate):
            return f"write {quote_value(candidate)}"
    return f"write for example {quote_example(schema['examples'][0])}" if "examples" in schema else ""


def _candidates(value: object, schema: dict[str, Any]) -> Iterator[str]:
    """Yield texts that are close to a value and may be what was meant."""
    if not isinstance(value, str) or len(value) > MAX_GUESSED_CHARACTERS:
        return
    text = value.strip().lower()
    scheme, _, rest = text.rpartition("://")
    host = re.split("[/?#]", rest)[0].rpartition("@")[2]
    example = str(schema.get("examples", [""])[0])
    # The host of a network with a wrong length is not what was meant.
    yield from (value.strip(), text, *([] if re.fullmatch("[0-9a-f.:]+/[0-9]+", text) else [host]))
    if "://" in example:
        yield f"{scheme if scheme in ('http', 'https') else example.partition('://')[0]}://{host}"
    yield re.sub("[bB]$", "", value.replace(" ", ""))
