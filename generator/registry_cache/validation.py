"""Finds every problem of a document, with its path, what is wrong and what to write instead."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema
from pydantic import TypeAdapter, ValidationError

from registry_cache import names, quantities, shoot
from registry_cache.document import shown
from registry_cache.model import KEY, RENAMED_VALUES, Images, Quantity
from registry_cache.schema import schema_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry_cache.document import Document, Key

    Found = Iterator[tuple[Key, str]]

TYPES = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "object": "a mapping",
    "string": "text",
}
DAYS = re.compile("([0-9]{1,4})d(ays?)?")
LONGEST_GUESSED = 300
LEAST_VOLUME = 2**20
DOCKER_HUB, HOST_OF_DOCKER_HUB = "docker.io", "registry-1.docker.io"
_SIZE: TypeAdapter[str | int] = TypeAdapter(Quantity)
NO_UPSTREAM = ("index.docker.io", "hub.docker.com")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, on a line of the file, or with the file as a whole."""

    line: int | None
    path: str
    text: str

    def __str__(self) -> str:
        """`line 7: caches[1].upstream: …`."""
        parts = [f"line {self.line}" if self.line else "", self.path, self.text]
        return ": ".join(part for part in parts if part)

    def as_json(self) -> dict[str, object]:
        """For machines."""
        return {"line": self.line, "path": self.path, "problem": self.text}


@cache
def _validator(api_version: object) -> Any:  # noqa: ANN401 - jsonschema makes the class
    """The schema's validator, in which a pattern's end is the text's end, as in Helm; Python's takes a newline more."""
    extend: Any = jsonschema.validators.extend  # it has no types
    return extend(jsonschema.Draft7Validator, {"pattern": _pattern})(schema_of(api_version))


def _pattern(_: object, pattern: str, instance: object, __: object) -> Iterator[jsonschema.ValidationError]:
    if isinstance(instance, str) and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match")


def problems(document: Document) -> list[Problem]:
    """Every problem of a RegistryConfig of any version, a values file or a Shoot, in the order of the file."""
    content = document.content
    if isinstance(content, dict) and content.get("kind") == "List":
        count = len(content["items"]) if isinstance(content.get("items"), list) else 0
        return [_problem(document, ("kind",), f"this is a List of {count}; write one of them into a file of its own")]
    if shoot.is_shoot(content):
        config = shoot.registry_config(document)
        around = [_problem(document, path, text) for path, text in shoot.problems(document)]
        return _in_order({*around, *(_config_problems(config) if config else ())})
    return _in_order(_config_problems(document))


def _in_order(found: set[Problem]) -> list[Problem]:
    return sorted(found, key=lambda problem: (problem.line or 0, problem.path, problem.text))


def _problem(document: Document, path: Key, text: str) -> Problem:
    return Problem(document.line(path), path_text(document.inside + path), text)


def _config_problems(document: Document) -> set[Problem]:
    api_version = document.content.get("apiVersion") if isinstance(document.content, dict) else None
    validator = _validator(api_version if isinstance(api_version, str) else None)
    values = document.content
    found = [
        *_renamed(values),
        *_combinations(values),
        *_single_caches(values),
        *_upstream_settings(values),
        *_images(values),
    ]
    for error in validator.iter_errors(_without_what_null_takes_away(document.content, validator.schema)):
        found += _explain(error)
    return {_problem(document, path, text) for path, text in found}


def path_text(path: Key) -> str:
    """A path as a person writes it: `caches[1].upstream`, and `commonLabels["example.com/team"]`."""
    text = ""
    for part in path:
        simple = isinstance(part, str) and re.fullmatch("[A-Za-z0-9_-]{1,60}", part)
        text += f".{part}" if simple else f"[{shown(part)}]"
    return text.removeprefix(".")


def _without_what_null_takes_away(value: Any, schema: dict[str, Any]) -> Any:  # noqa: ANN401 - any document
    """The document as Helm checks it: null in a mapping without fixed keys takes a default away."""
    if not isinstance(value, dict):
        return value
    if "properties" in schema:
        return {
            key: _without_what_null_takes_away(part, schema["properties"].get(key, {})) for key, part in value.items()
        }
    return _without_nulls(value, schema.get("default", {}))


def _without_nulls(value: dict[str, Any], default: Any) -> dict[str, Any]:  # noqa: ANN401 - any value
    defaults = default if isinstance(default, dict) else {}
    return {
        key: _without_nulls(part, defaults.get(key)) if isinstance(part, dict) else part
        for key, part in value.items()
        if part is not None or key not in defaults
    }


def _explain(error: jsonschema.ValidationError) -> Found:  # noqa: C901 - a case for each keyword of the schema
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
            patterns = schema.get("patternProperties", {})
            known = [*schema.get("properties", {}), *(pattern[1:-1] for pattern in patterns)]
            for name in value:
                if name not in known and not any(re.search(pattern, name) for pattern in patterns):
                    names = all(one.isalpha() for one in known)  # and no pattern of keys
                    yield (*path, name), _unknown(str(name), known) if names else f"is not {KEY}"
        case "type":
            wanted = schema.get("title") or TYPES[schema["type"]] if path else "a mapping with the key caches"
            said = f"{shown(value)} is not {wanted}{_instead(value, schema)}"
            yield path, "null is no value; leave the key out" if value is None else said
        case "minItems":
            said = "at least one cache must be given; write [{upstream: docker.io}]"
            yield path, said if path == ("caches",) else f"[] is empty{_instead(value, schema)}"
        case "const" | "enum":
            yield path, _not_among(value, schema)
        case "maxLength":
            yield path, f"has {len(value)} characters; write at most {error.validator_value}"
        case _:
            yield path, f"{shown(value)} is not {schema.get('title', 'possible here')}{_instead(value, schema)}"


def _example(name: str, schema: dict[str, Any]) -> str:
    return f"{name}: {shown(schema['examples'][0])}"


def _instead(value: object, schema: dict[str, Any]) -> str:
    """What to write: what was most likely meant, else an example."""
    validator = _validator(None).evolve(schema=schema)
    if isinstance(value, int | float) and not isinstance(value, bool) and validator.is_valid(str(value)):
        return "; write it in quotes"
    if isinstance(value, str) and (days := DAYS.match(value)):
        hours = f"{24 * int(days[1])}h{value[days.end() :]}"
        if validator.is_valid(hours):
            return f"; days are written as hours: write {shown(hours)}"
    for candidate in _candidates(value, schema):
        if candidate and validator.is_valid(candidate):
            return f"; write {shown(candidate)}"
    return f"; write for example {shown(schema['examples'][0])}" if "examples" in schema else ""


def _candidates(value: object, schema: dict[str, Any]) -> Iterator[str]:
    """Texts near to a value that may be what was meant."""
    if not isinstance(value, str) or len(value) > LONGEST_GUESSED:
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


def _not_among(value: object, schema: dict[str, Any]) -> str:
    allowed = " or ".join(shown(one) for one in schema.get("enum") or [schema["const"]])
    return f"{shown(value)} is not {schema.get('title', 'known here')}; write {allowed}"


def _unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return (
        f"is not known here; did you mean {nearest[0]}?"
        if nearest
        else f"is not known here; there is {', '.join(known)}"
    )


def _renamed(values: Any) -> Found:  # noqa: ANN401 - any document
    """Yield the values that have a new name."""
    for old, new in RENAMED_VALUES.items():
        *holder, name = old.split(".")
        part = _at(values, *holder)
        if isinstance(part, dict) and name in part:
            yield tuple(old.split(".")), f"this value has a new name; write {new}"


def _combinations(values: Any) -> Found:  # noqa: ANN401 - any document
    """What the schema cannot see, in the words of the chart (templates/_validate.tpl), and Gardener's own rule."""
    full = names.fullname(
        name_override=_text(values, "nameOverride"), fullname_override=_text(values, "fullnameOverride")
    )
    upstreams: dict[str, int] = {}
    services: dict[str, int] = {}
    in_gardener: dict[str, int] = {}
    suffixes: dict[str, int] = {}
    for index, entry in enumerate(_entries(values)):
        upstream, suffix = _text(entry, "upstream"), _text(entry, "serviceNameSuffix")
        if not upstream:
            continue
        if upstream in upstreams:
            said = (
                f"{shown(upstream)[1:-1]} is there already, at caches[{upstreams[upstream]}]; write each upstream once"
            )
            yield ("caches", index, "upstream"), said
            continue
        upstreams[upstream] = index
        for name in names.service_names(full, entry):
            service = shown(name)[1:-1]
            if service in services:
                said = (
                    f"the Service would be called {service}, as that of caches[{services[service]}]; "
                    "write another suffix"
                )
                yield ("caches", index, "serviceNameSuffix"), said
            elif suffix:
                suffixes[service] = index
            services.setdefault(service, index)
        if not suffix:
            in_gardener[names.gardener_service_name(upstream)] = index
    for service, index in suffixes.items():
        if service in in_gardener:
            said = f"Gardener calls the Service of caches[{in_gardener[service]}] {service}; write another suffix"
            yield ("caches", index, "serviceNameSuffix"), said


def _text(mapping: object, key: str) -> str:
    value = mapping.get(key) if isinstance(mapping, dict) else None
    return value if isinstance(value, str) else ""


def _entries(values: Any) -> list[Any]:  # noqa: ANN401 - any document
    """The caches of what may be no valid document."""
    entries = values.get("caches") if isinstance(values, dict) else None
    return entries if isinstance(entries, list) else []


def _single_caches(values: Any) -> Found:  # noqa: ANN401 - any document
    """What is wrong with a cache for itself, beyond what the schema sees."""
    upstreams = [_text(entry, "upstream") for entry in _entries(values)]
    for index, (entry, upstream) in enumerate(zip(_entries(values), upstreams, strict=True)):
        # An image can be named by that host too, so a cache of it may stand beside one of docker.io.
        if upstream in NO_UPSTREAM or (upstream == HOST_OF_DOCKER_HUB and DOCKER_HUB not in upstreams):
            said = f'names of images of Docker Hub begin with {DOCKER_HUB}; write "{DOCKER_HUB}"'
            yield ("caches", index, "upstream"), said
        for path in (("volume", "size"), ("size",)):  # of v1alpha1
            if too_small := _too_small(_at(entry, *path)):
                yield ("caches", index, *path), too_small
        proxy = _at(entry, "proxy")
        if upstream and _at(proxy, "httpProxy") and not _at(proxy, "httpsProxy") and _is_asked_by_https(entry):
            said = "is not used, since the upstream is asked by https; write httpsProxy"
            yield ("caches", index, "proxy", "httpProxy"), said


def _too_small(size: object) -> str | None:
    """What is wrong with a volume's size that has no other fault; a unit that was left out is most likely Gi."""
    if isinstance(size, float) and size.is_integer():
        size = int(size)  # as 1e3 is without quotes
    try:
        _SIZE.validate_python(size, strict=True)
    except ValidationError:
        return None
    count = f"{float(quantities.number(size)):.0f}"
    if float(count) >= LEAST_VOLUME:
        return None
    meant = re.fullmatch("([1-9][0-9]{0,3})(m?)", str(size))
    instead = shown(f"{meant[1]}{'Mi' if meant[2] else 'Gi'}") if meant else 'at least "1Mi"'
    return f"{shown(size)} is {count} bytes; write {instead}"


def _is_asked_by_https(cache: dict[str, Any]) -> bool:
    remote_url = _text(cache, "remoteURL") or names.remote_url({"upstream": cache["upstream"]})
    return remote_url.lower().startswith("https:")


def _at(value: object, *path: str) -> Any:  # noqa: ANN401 - any value
    """The value at a path; None where it leads nowhere."""
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _first_of_each(values: Any) -> dict[str, int]:  # noqa: ANN401 - any document
    """Each upstream and the place of its first cache."""
    places: dict[str, int] = {}
    for index, entry in enumerate(_entries(values)):
        if upstream := _text(entry, "upstream"):
            places.setdefault(upstream, index)
    return places


def _images(values: Any) -> Found:  # noqa: ANN401 - any document
    """What is wrong with images, of the pods and of the test, beyond what the schema sees."""
    for name in Images.model_fields:
        image = _at(values, "images", name)
        if _at(image, "tag") == "" and not _at(image, "digest"):
            yield ("images", name, "tag"), "is empty, and there is no digest; write one of the two"
    known = sorted(_first_of_each(values))
    images = _at(values, "helmTest", "images")
    for upstream in images if isinstance(images, dict) else ():
        if upstream not in known:
            yield ("helmTest", "images", upstream), f"is no upstream of caches; {_nearest(upstream, known)}"


def _upstream_settings(values: Any) -> Found:  # noqa: ANN401 - any document
    """What is wrong with what the chart adds for one cache, beyond what the schema sees."""
    caches = _first_of_each(values)
    known = sorted(caches)
    settings = _at(values, "upstreamSettings")
    for upstream, setting in settings.items() if isinstance(settings, dict) else ():
        if upstream not in known:
            yield ("upstreamSettings", upstream), f"is no upstream of caches; {_nearest(str(upstream), known)}"
            continue
        if _at(setting, "caConfigMapName") and _at(setting, "caSecretName"):
            said = "caConfigMapName is there already; write one of the two"
            yield ("upstreamSettings", upstream, "caSecretName"), said
        index = caches[upstream]
        entry = _entries(values)[index]
        if _at(setting, "proxySecretName") and not (
            _at(entry, "proxy", "httpProxy") or _at(entry, "proxy", "httpsProxy")
        ):
            proxy = "httpsProxy" if _is_asked_by_https(entry) else "httpProxy"
            said = f"the cache of {shown(upstream)[1:-1]} has no proxy; write caches[{index}].proxy.{proxy}"
            yield ("upstreamSettings", upstream, "proxySecretName"), f"{said}, or leave this out"


def _nearest(name: str, known: list[str]) -> str:
    """Which of some names a wrong one was most likely meant to be, as the chart finds it (registry-cache.nearest)."""
    written = name.encode()
    pairs = [written[index : index + 2] for index in range(len(written) - 1)]
    held = {one: sum(pair in one.encode() for pair in pairs) for one in known}
    likest = max(known, key=lambda one: held[one], default="")
    if likest and held[likest] >= max(1, (len(pairs) + 1) // 2):
        return f"did you mean {shown(likest)[1:-1]}?"
    return f"there is {', '.join(known)}"
