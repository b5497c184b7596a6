"""Every rule of a RegistryConfig, with a document that just passes, one that just fails, and the message for it."""

from __future__ import annotations

from typing import Any

import pytest
from made_documents import caches, nested, one, problems
from registry_cache.document import parse
from registry_cache.validation import find_problems

LONG = ".".join(["a" * 63] * 3 + ["a" * 61])
GARDENER = "Gardener names the Service of caches"
LONG_NAME = "my-very-long-registry-very-long-subdo-2fae3"


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        pytest.param(one(), {}, ': caches is missing; write caches: [{"upstream": "docker.io"}]', id="caches-required"),
        pytest.param(one(), {"caches": []}, "caches: no cache is defined; write for example", id="caches-empty"),
        pytest.param(one(), {"caches": {}}, "caches: {} is not a list", id="caches-a-list"),
        pytest.param(one(), {"caches": ["docker.io"]}, 'caches[0]: "docker.io" is not a mapping', id="cache-a-mapping"),
        pytest.param(one(), caches({}), "caches[0]: upstream is missing; write upstream: ", id="upstream-required"),
        pytest.param(
            caches({"upstream": "a.b"}, {"upstream": "a-b"}),
            caches({"upstream": "a.b"}, {"upstream": "a.b"}),
            "caches[1].upstream: a.b has a cache already, at caches[0]; write each upstream once",
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
            one(upstream=LONG),
            one(upstream=LONG + "a"),
            "aaaaaaaaaaaa… is not a host of at most 253 characters",
            id="upstream-long",
        ),
        pytest.param(
            one(upstream=LONG + ":1"),
            one(upstream=LONG + ":10"),
            "caches[0].upstream: has 256 characters; write at most 255",
            id="upstream-longer-than-the-name-of-a-folder",
        ),
        pytest.param(
            one(remoteURL=f"https://{LONG}:443/"),
            one(remoteURL=f"https://{LONG}a:443/"),
            "is not a host of at most 253 characters",
            id="url-long",
        ),
        pytest.param(one(remoteURL="HTTPS://a"), one(remoteURL="HTTPS://A"), "caches[0].remoteURL: ", id="url-case"),
        pytest.param(
            one(remoteURL="https://a.b/"), one(remoteURL="https://a.b/c"), "caches[0].remoteURL: ", id="url-with-path"
        ),
        pytest.param(
            one(remoteURL="http://a:5000"),
            one(remoteURL="ftp://a"),
            "a URL of a scheme, a host and optionally a port",
            id="scheme",
        ),
        pytest.param(one(remoteURL="http://a"), one(remoteURL="http://u:p@a"), "caches[0].remoteURL: ", id="url-user"),
        pytest.param(one(remoteURL="http://a"), one(remoteURL="http://a?q"), "caches[0].remoteURL: ", id="url-query"),
        pytest.param(
            one(remoteURL="http://a"), one(remoteURL="http://a#f"), "caches[0].remoteURL: ", id="url-fragment"
        ),
        pytest.param(
            one(proxy={"httpsProxy": "http://p:3128"}),
            one(proxy={"httpsProxy": "p:3128"}),
            "caches[0].proxy.httpsProxy: ",
            id="proxy",
        ),
        pytest.param(
            one(proxy={"httpProxy": "http://p:3128"}, remoteURL="http://a.b"),
            one(proxy={"httpProxy": "http://p:3128"}, remoteURL="HTTPS://a.b"),
            "caches[0].proxy.httpProxy: is not used, because the cache speaks https to its upstream; write httpsProxy",
            id="proxy-that-is-not-used",
        ),
        pytest.param(
            one(proxy={"httpProxy": "http://p:3128", "httpsProxy": "http://p:3128"}),
            one(proxy={"httpProxy": "http://p:3128"}),
            "caches[0].proxy.httpProxy: is not used",
            id="proxy-that-is-not-used-by-default",
        ),
        *(
            pytest.param(
                one(),
                caches({"upstream": written}),
                'caches[0].upstream: image references name Docker Hub docker.io; write "docker.io"',
                id=written,
            )
            for written in ("index.docker.io", "hub.docker.com", "registry-1.docker.io")
        ),
        pytest.param(
            caches({"upstream": "registry-1.docker.io"}, {"upstream": "docker.io"}),
            caches({"upstream": "index.docker.io"}, {"upstream": "docker.io"}),
            "caches[0].upstream: image references name Docker Hub",
            id="beside-docker-hub",
        ),
        pytest.param(
            one(volume={"size": "1Mi"}),
            one(volume={"size": "0"}),
            'caches[0].volume.size: "0" is not a quantity of bytes greater than zero; write for example "10Gi"',
            id="size-zero",
        ),
        pytest.param(one(volume={"size": "0.1Gi"}), one(volume={"size": "0.0Gi"}), "volume.size", id="size-zero-point"),
        pytest.param(one(volume={"size": "1e7"}), one(volume={"size": "-1Gi"}), "volume.size", id="size-negative"),
        pytest.param(one(volume={"size": 67108864}), one(volume={"size": 0}), "volume.size", id="size-number"),
        *(
            pytest.param(
                one(volume={"size": good}),
                one(volume={"size": bad}),
                f"caches[0].volume.size: {said}",
                id=f"size-{bad}",
            )
            for good, bad, said in (
                ("10Gi", 10, 'a volume of 10 bytes is too small; write at least "1Mi"; did you mean "10Gi"?'),
                ("10Gi", "10", 'a volume of 10 bytes is too small; write at least "1Mi"; did you mean "10Gi"?'),
                ("100Mi", "100m", 'a volume of 0 bytes is too small; write at least "1Mi"; did you mean "100Mi"?'),
                ("64Mi", "1000k", 'a volume of 1000000 bytes is too small; write at least "1Mi"'),
                (1048576, 1048575, 'a volume of 1048575 bytes is too small; write at least "1Mi"'),
                ("1e99999999999999999999", "1e-99999999999", "a volume of 0 bytes is too small"),
            )
        ),
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
            one(garbageCollection={"ttl": "-0s"}),
            one(garbageCollection={"ttl": "-1s"}),
            "caches[0].garbageCollection.ttl: ",
            id="ttl-negative",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "1h30m"}),
            one(garbageCollection={"ttl": "7d"}),
            '"7d" is not a duration in hours, minutes and seconds, zero or longer; there is no unit for days; '
            'write "168h"',
            id="ttl-days",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "999999h"}),
            one(garbageCollection={"ttl": "9999999h"}),
            'caches[0].garbageCollection.ttl: "9999999h" is not',
            id="ttl-longer-than-go-can-hold",
        ),
        pytest.param(
            one(garbageCollection={"ttl": "1.5h"}),
            one(garbageCollection={"ttl": "168"}),
            "caches[0].garbageCollection.ttl: ",
            id="ttl-without-unit",
        ),
        pytest.param(
            one(garbageCollection={}),
            one(garbageCollection={"ttl": None}),
            "caches[0].garbageCollection.ttl: null is not allowed; leave the key out",
            id="ttl-null",
        ),
        pytest.param(
            one(volume=None, remoteURL=None, proxy={"httpProxy": None}),
            caches({"upstream": None, "volume": None}),
            "caches[0].upstream: null is not allowed",
            id="null-as-in-gardener",
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
            "caches[1].serviceNameSuffix: the name registry-x belongs to the Service of caches[0]; write another",
            id="suffix-twice",
        ),
        pytest.param(
            caches({"upstream": "a.b"}, {"upstream": "b.c", "serviceNameSuffix": "cache-a"}),
            caches({"upstream": "a.b"}, {"upstream": "b.c", "serviceNameSuffix": "cache-a-b"}),
            "caches[1].serviceNameSuffix: the name registry-cache-a-b belongs to the Service of caches[0]",
            id="suffix-as-another-caches-name",
        ),
        pytest.param(
            one(http={"tls": False}),
            one(http={"tls": True}),
            "caches[0].http.tls: the certificate needs a fixed address of the Service; write upstream",
            id="tls",
        ),
        pytest.param(
            one(highAvailability={"enabled": True}),
            one(highAvailability={"enabled": "true"}),
            'caches[0].highAvailability.enabled: "true" is not true or false',
            id="high-availability",
        ),
        pytest.param(
            caches({"upstream": "a.b", "serviceNameSuffix": "cache-b-c--peers"}, {"upstream": "b.c"}),
            caches(
                {"upstream": "a.b", "serviceNameSuffix": "cache-b-c--peers"},
                {"upstream": "b.c", "highAvailability": {"enabled": True}},
            ),
            "caches[1].serviceNameSuffix: the name registry-cache-b-c--peers belongs to the Service of caches[0]",
            id="suffix-as-the-name-of-the-service-of-replicas",
        ),
    ],
)
def test_rule(good: object, bad: object, message: str) -> None:
    assert problems(good) == []
    assert any(message in problem for problem in problems(bad)), problems(bad)


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        pytest.param(
            [{"upstream": "docker.io"}, {"upstream": "b.c", "serviceNameSuffix": "docker-i"}],
            [{"upstream": "docker.io"}, {"upstream": "b.c", "serviceNameSuffix": "docker-io"}],
            f"caches[1].serviceNameSuffix: {GARDENER}[0] registry-docker-io; write another suffix",
            id="suffix-as-gardeners-name",
        ),
        pytest.param(
            [
                {"upstream": "docker.io", "serviceNameSuffix": "x"},
                {"upstream": "b.c", "serviceNameSuffix": "docker-io"},
            ],
            [{"upstream": "b.c", "serviceNameSuffix": "docker-io"}, {"upstream": "docker.io"}],
            f"caches[0].serviceNameSuffix: {GARDENER}[1] registry-docker-io; write another suffix",
            id="suffix-as-gardeners-name-of-a-later-one",
        ),
        pytest.param(
            [{"upstream": "a.b", "serviceNameSuffix": "x"}],
            [
                {"upstream": "a.b", "serviceNameSuffix": LONG_NAME},
                {"upstream": "my-very-long-registry.very-long-subdomain.io"},
            ],
            f"caches[0].serviceNameSuffix: {GARDENER}[1] registry-{LONG_NAME}; write another suffix",
            id="suffix-as-gardeners-long-name",
        ),
        pytest.param(
            [{"upstream": "a.b"}],
            [{"upstream": "a.b"}, {"upstream": "a.b"}, {"upstream": "c.d", "serviceNameSuffix": "a-b"}],
            f"caches[2].serviceNameSuffix: {GARDENER}[0] registry-a-b; write another suffix",
            id="beside-another-problem",
        ),
    ],
)
def test_suffix_that_gardener_refuses_is_refused_only_in_a_shoot(good: list[Any], bad: list[Any], reason: str) -> None:
    def shoot(entries: list[Any]) -> dict[str, Any]:
        extension = {"type": "registry-cache", "providerConfig": caches(*entries)}
        return {"kind": "Shoot", "spec": {"extensions": [extension]}}

    assert problems(shoot(good)) == []
    assert f"spec.extensions[0].providerConfig.{reason}" in problems(shoot(bad))
    assert not any("Gardener" in problem for problem in problems(caches(*bad)))


def test_every_problem_has_its_line() -> None:
    text = b"caches:\n  - upstream: Docker.io\n    volume:\n      size: 0\n  - remoteURL: x\n"
    assert [(problem.line, problem.path) for problem in find_problems(parse(text))] == [
        (2, "caches[0].upstream"),
        (4, "caches[0].volume.size"),
        (5, "caches[1]"),
        (5, "caches[1].remoteURL"),
    ]


@pytest.mark.parametrize(
    ("field", "written", "meant"),
    [
        ("upstream", "https://Docker.io/v2/", "docker.io"),
        ("upstream", "registry.example.com:5000/team", "registry.example.com:5000"),
        ("remoteURL", "registry.example.com", "https://registry.example.com"),
        ("remoteURL", "http://user:secret@registry.example.com/v2?x#y", "http://registry.example.com"),
        ("proxy.httpsProxy", "proxy:3128", "http://proxy:3128"),
        ("volume.size", "10 GiB", "10Gi"),
        ("garbageCollection.ttl", "7d", "168h"),
        ("garbageCollection.ttl", "1d12h", "24h12h"),
    ],
)
def test_most_likely_meaning_is_suggested(field: str, written: str, meant: str) -> None:
    assert problems(caches({"upstream": "docker.io", **nested(field, written)}))[0].endswith(f'write "{meant}"')


def test_credentials_in_a_url_are_not_repeated() -> None:
    (said,) = problems(one(proxy={"httpsProxy": "http://user:p@ss/word@proxy:3128"}))
    assert '"http://…@proxy:3128" is not a URL' in said
    assert "word" not in said


def test_problems_of_the_schema_and_of_the_rules_are_reported_together() -> None:
    document = caches({"upstream": "a.b"}, {"upstream": "a.b", "volume": {"size": 0}})
    assert [problem.partition(": ")[0] for problem in problems(document)] == [
        "caches[1].upstream",
        "caches[1].volume.size",
    ]
