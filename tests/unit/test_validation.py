"""Every rule, with a document that just passes and one that just fails, and what the failing one is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from registry_cache.document import parse
from registry_cache.model import Values
from registry_cache.schema import values_schema
from registry_cache.validation import problems

LABEL = "a" * 63


def told(document: object) -> list[str]:
    """What is said of a document, without the lines."""
    return [f"{problem.path}: {problem.text}" for problem in problems(parse(json.dumps(document).encode()))]


def caches(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"caches": list(entries)}


def one(**fields: object) -> dict[str, Any]:
    return caches({"upstream": "docker.io", **fields})


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        pytest.param(one(), {}, ": caches is missing; write caches", id="caches-required"),
        pytest.param(one(), {"caches": []}, "caches: at least one cache must be given", id="caches-empty"),
        pytest.param(one(), {"caches": {}}, "caches: {} is not a list", id="caches-a-list"),
        pytest.param(one(), {"caches": ["docker.io"]}, 'caches[0]: "docker.io" is not a mapping', id="cache-a-mapping"),
        pytest.param(one(), caches({}), "caches[0]: upstream is missing; write upstream: ", id="upstream-required"),
        pytest.param(
            caches({"upstream": "a.b"}, {"upstream": "a-b"}),
            caches({"upstream": "a.b"}, {"upstream": "a.b"}),
            "caches[1].upstream: a.b is there already, at caches[0]; write each upstream once",
            id="upstream-twice",
        ),
        pytest.param(
            one(upstream="ghcr.io"), one(upstream="Ghcr.io"), 'caches[0].upstream: "Ghcr.io" is not', id="case"
        ),
        pytest.param(one(upstream="10.0.0.1"), one(upstream="[::1]"), 'caches[0].upstream: "[::1]"', id="ip-version-6"),
        pytest.param(one(upstream="a.b:1"), one(upstream="a.b:0"), 'caches[0].upstream: "a.b:0"', id="port-0"),
        pytest.param(
            one(upstream="a:65535"), one(upstream="a:65536"), 'caches[0].upstream: "a:65536"', id="port-65536"
        ),
        pytest.param(one(upstream="a:80"), one(upstream="a:080"), 'caches[0].upstream: "a:080"', id="port-zero-first"),
        pytest.param(one(upstream="a-b"), one(upstream="a-"), 'caches[0].upstream: "a-"', id="dash-last"),
        pytest.param(one(upstream="a.b"), one(upstream="a..b"), 'caches[0].upstream: "a..b"', id="dots"),
        pytest.param(one(upstream="a.b"), one(upstream="https://a.b"), "caches[0].upstream: ", id="upstream-a-url"),
        pytest.param(one(upstream="a.b"), one(upstream="a.b\n"), "caches[0].upstream: ", id="newline-last"),
        pytest.param(
            one(upstream=".".join([LABEL] * 3 + ["a" * 61])),
            one(upstream=".".join([LABEL] * 3 + ["a" * 62])),
            "caches[0].upstream: has 254 characters; write at most 253",
            id="upstream-long",
        ),
        pytest.param(
            one(remoteURL="https://a.b/"), one(remoteURL="https://a.b/c"), "caches[0].remoteURL: ", id="url-with-path"
        ),
        pytest.param(
            one(remoteURL="http://a:5000"), one(remoteURL="ftp://a"), "a URL of scheme, host and port", id="scheme"
        ),
        pytest.param(one(remoteURL="http://a"), one(remoteURL="http://u:p@a"), "caches[0].remoteURL: ", id="url-user"),
        pytest.param(one(remoteURL="http://a"), one(remoteURL="http://a?q"), "caches[0].remoteURL: ", id="url-query"),
        pytest.param(
            one(remoteURL="http://a"), one(remoteURL="http://a#f"), "caches[0].remoteURL: ", id="url-fragment"
        ),
        pytest.param(
            one(proxy={"httpProxy": "http://p:3128"}),
            one(proxy={"httpProxy": "p:3128"}),
            "caches[0].proxy.httpProxy: ",
            id="proxy",
        ),
        pytest.param(
            one(volume={"size": "1"}),
            one(volume={"size": "0"}),
            'caches[0].volume.size: "0" is not a quantity of bytes greater than zero; write for example "10Gi"',
            id="size-zero",
        ),
        pytest.param(one(volume={"size": "0.1Gi"}), one(volume={"size": "0.0Gi"}), "volume.size", id="size-zero-point"),
        pytest.param(one(volume={"size": "1e3"}), one(volume={"size": "-1Gi"}), "volume.size", id="size-negative"),
        pytest.param(one(volume={"size": 1}), one(volume={"size": 0}), "volume.size", id="size-number"),
        pytest.param(one(volume={"size": "10Gi"}), one(volume={"size": "10GiB"}), "volume.size", id="size-unit"),
        pytest.param(
            one(volume={"size": "10G"}), one(volume={"size": True}), "volume.size: true is not", id="size-type"
        ),
        pytest.param(
            one(volume={"storageClassName": "fast.ssd"}),
            one(volume={"storageClassName": "Fast"}),
            "caches[0].volume.storageClassName: ",
            id="storage-class",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "0s"}),
            one(garbageCollection={"ttl": "-1s"}),
            "caches[0].garbageCollection.ttl: ",
            id="ttl-negative",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "1h30m"}),
            one(garbageCollection={"ttl": "7d"}),
            '"7d" is not a duration of hours, minutes and seconds, zero or more; days are written as hours: 7 days are',
            id="ttl-days",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "1.5h"}),
            one(garbageCollection={"ttl": "168"}),
            "caches[0].garbageCollection.ttl: ",
            id="ttl-without-unit",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "90m0s"}),
            one(garbageCollection={}),
            'caches[0].garbageCollection: ttl is missing; write ttl: "168h"',
            id="ttl-required",
        ),
        pytest.param(
            one(serviceNameSuffix="a" * 54),
            one(serviceNameSuffix="a" * 55),
            "caches[0].serviceNameSuffix: has 55 characters; write at most 54",
            id="suffix-long",
        ),
        pytest.param(one(serviceNameSuffix="a-b"), one(serviceNameSuffix="a.b"), "serviceNameSuffix", id="suffix-dot"),
        pytest.param(
            caches({"upstream": "a", "serviceNameSuffix": "x"}, {"upstream": "b", "serviceNameSuffix": "y"}),
            caches({"upstream": "a", "serviceNameSuffix": "x"}, {"upstream": "b", "serviceNameSuffix": "x"}),
            "caches[1].serviceNameSuffix: the Service would be called registry-x, as that of caches[0]",
            id="suffix-twice",
        ),
        pytest.param(
            one(http={"tls": False}),
            one(http={"tls": True}),
            "caches[0].http.tls: true is not supported yet; write false",
            id="tls",
        ),
        pytest.param(
            one(highAvailability={"enabled": False}),
            one(highAvailability={"enabled": True}),
            "caches[0].highAvailability.enabled: true is not supported yet; write false",
            id="high-availability",
        ),
        pytest.param(
            one(secretReferenceName="x"),
            one(secretReferenceNam="x"),
            "caches[0].secretReferenceNam: is not known here; did you mean secretReferenceName?",
            id="unknown-near",
        ),
        pytest.param(one(), one(x=1), "caches[0].x: is not known here; there is upstream, remoteURL", id="unknown-far"),
        pytest.param(
            {**one(), "kind": "RegistryConfig"},
            {**one(), "kind": "Shoot"},
            'kind: "Shoot" is not known here; write "RegistryConfig"',
            id="kind",
        ),
        pytest.param(
            {**one(), "apiVersion": "registry.extensions.gardener.cloud/v1alpha3"},
            {**one(), "apiVersion": "registry.extensions.gardener.cloud/v1alpha1"},
            'write "registry.extensions.gardener.cloud/v1alpha3"',
            id="api-version",
        ),
        pytest.param(
            {**one(), "fullnameOverride": "my-x"},
            {**one(), "fullnameOverride": "My_X"},
            'fullnameOverride: "My_X" is not a name of lower case letters',
            id="fullname",
        ),
        pytest.param(
            {**one(), "node": {"probe": {"failureThreshold": 1}}},
            {**one(), "node": {"probe": {"failureThreshold": 0}}},
            "node.probe.failureThreshold: 0 is not",
            id="threshold",
        ),
        pytest.param(
            {**one(), "node": {"registryDirectory": "/etc/x"}},
            {**one(), "node": {"registryDirectory": "etc/x"}},
            "node.registryDirectory: ",
            id="directory",
        ),
        pytest.param(
            {**one(), "cache": {"image": {"registry": "r", "repository": "r", "tag": "t", "pullPolicy": "Never"}}},
            {**one(), "cache": {"image": {"pullPolicy": "never"}}},
            'write "Always" or "IfNotPresent" or "Never"',
            id="pull-policy",
        ),
    ],
)
def test_rule(good: object, bad: object, message: str) -> None:
    assert told(good) == []
    assert any(message in problem for problem in told(bad)), told(bad)


def test_every_problem_is_told_with_its_line() -> None:
    text = b"caches:\n  - upstream: Docker.io\n    volume:\n      size: 0\n  - remoteURL: x\n"
    assert [(problem.line, problem.path) for problem in problems(parse(text))] == [
        (2, "caches[0].upstream"),
        (4, "caches[0].volume.size"),
        (5, "caches[1]"),
        (5, "caches[1].remoteURL"),
    ]


def test_every_value_is_described() -> None:
    def walk(schema: dict[str, Any], path: str) -> None:
        for name, part in schema["properties"].items():
            assert part.get("description"), f"{path}.{name} has no description"
            if "properties" in part:
                assert part["additionalProperties"] is False, f"{path}.{name} is open"
                walk(part, f"{path}.{name}")
            if "properties" in part.get("items", {}):
                walk(part["items"], f"{path}.{name}[]")

    schema = values_schema()
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema["additionalProperties"] is False
    walk(schema, "")


TEXTS = st.sampled_from(
    [
        "docker.io",
        "a.b:5000",
        "A",
        "",
        "a-",
        "https://a.b",
        "http://a:1/",
        "10Gi",
        "0",
        "0s",
        "168h",
        "7d",
        "1h30m",
        "fast",
    ]
)
ANYTHING = st.one_of(TEXTS, st.integers(-1, 2), st.booleans(), st.just([]), st.just({}))
CACHE = st.fixed_dictionaries(
    {"upstream": st.one_of(st.sampled_from(["docker.io", "ghcr.io", "a.b:5000"]), ANYTHING)},
    optional={
        "remoteURL": ANYTHING,
        "volume": st.one_of(
            ANYTHING, st.fixed_dictionaries({}, optional={"size": ANYTHING, "storageClassName": ANYTHING})
        ),
        "garbageCollection": st.one_of(ANYTHING, st.fixed_dictionaries({}, optional={"ttl": ANYTHING})),
        "secretReferenceName": ANYTHING,
        "proxy": st.fixed_dictionaries({}, optional={"httpProxy": ANYTHING, "httpsProxy": ANYTHING, "x": ANYTHING}),
        "http": st.fixed_dictionaries({}, optional={"tls": ANYTHING}),
        "highAvailability": st.fixed_dictionaries({}, optional={"enabled": ANYTHING}),
        "serviceNameSuffix": ANYTHING,
        "other": ANYTHING,
    },
)


@settings(max_examples=1000, deadline=None)
@given(st.lists(CACHE, max_size=2))
def test_schema_and_model_agree(entries: list[dict[str, Any]]) -> None:
    document = {"caches": entries}
    try:
        Values.model_validate_json(json.dumps(document), strict=True)
        model_takes_it = True
    except ValidationError:
        model_takes_it = False
    combinations = [text for text in told(document) if "is there already" in text or "would be called" in text]
    assert model_takes_it == (told(document) == combinations)
