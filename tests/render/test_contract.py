"""The command and the chart take and refuse the same documents, in the same words."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, given, settings
from made_documents import VALUES
from registry_cache.document import parse
from registry_cache.model import RENAMED_VALUES
from registry_cache.validation import problems
from rendering import RenderingFailed, render_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[object], Path]

ANOTHER = "; write another suffix"
DOCKER_HUB = 'names of images of Docker Hub begin with docker.io; write "docker.io"'
LONG = "my-very-long-registry-very-long-subdo-2fae3"
# What the schema cannot see, so the chart looks for it itself.
COMBINATIONS = [
    pytest.param(
        [{"upstream": "docker.io"}, {"upstream": "docker.io"}],
        ["caches[1].upstream: docker.io is there already, at caches[0]; write each upstream once"],
        id="upstream-twice",
    ),
    pytest.param(
        [{"upstream": "a.b", "serviceNameSuffix": "x"}, {"upstream": "b.c", "serviceNameSuffix": "x"}],
        [
            "caches[1].serviceNameSuffix: the Service would be called registry-x, as that of caches[0]" + ANOTHER,
        ],
        id="suffix-twice",
    ),
    pytest.param(
        [{"upstream": "a.b", "serviceNameSuffix": "cache-b-c"}, {"upstream": "b.c"}],
        [
            "caches[1].serviceNameSuffix: the Service would be called registry-cache-b-c, as that of caches[0]"
            + ANOTHER,
        ],
        id="suffix-as-the-name-of-a-later-cache",
    ),
    pytest.param(
        [
            {"upstream": "b.c", "highAvailability": {"enabled": True}},
            {"upstream": "a.b", "serviceNameSuffix": "cache-b-c--peers"},
        ],
        [
            "caches[1].serviceNameSuffix: the Service would be called registry-cache-b-c--peers, as that of caches[0]"
            + ANOTHER,
        ],
        id="suffix-as-the-name-of-the-service-of-replicas",
    ),
    pytest.param(
        [{"upstream": "b.c", "serviceNameSuffix": "docker-io"}, {"upstream": "docker.io"}],
        [
            "caches[0].serviceNameSuffix: Gardener calls the Service of caches[1] registry-docker-io" + ANOTHER,
        ],
        id="suffix-as-gardeners-name",
    ),
    pytest.param(
        [
            {"upstream": "a.b", "serviceNameSuffix": LONG},
            {"upstream": "my-very-long-registry.very-long-subdomain.io"},
        ],
        [
            f"caches[0].serviceNameSuffix: Gardener calls the Service of caches[1] registry-{LONG}" + ANOTHER,
        ],
        id="suffix-as-gardeners-long-name",
    ),
    pytest.param(
        [{"upstream": "a.b"}, {"upstream": "a.b"}, {"upstream": "c.d", "serviceNameSuffix": "a-b"}],
        [
            "caches[1].upstream: a.b is there already, at caches[0]; write each upstream once",
            "caches[2].serviceNameSuffix: Gardener calls the Service of caches[0] registry-a-b; write another suffix",
        ],
        id="two-at-once",
    ),
    pytest.param(
        [{"upstream": "index.docker.io"}, {"upstream": "hub.docker.com"}, {"upstream": "registry-1.docker.io"}],
        [f"caches[{index}].upstream: {DOCKER_HUB}" for index in range(3)],
        id="docker-hub",
    ),
    pytest.param([{"upstream": "registry-1.docker.io"}, {"upstream": "docker.io"}], [], id="beside-docker-hub"),
    *(
        pytest.param(
            [{"upstream": "a.b", "volume": {"size": size}}], [f"caches[0].volume.size: {said}"], id=f"size-{size}"
        )
        for size, said in (
            (10, '10 is 10 bytes; write "10Gi"'),
            (1048575, '1048575 is 1048575 bytes; write at least "1Mi"'),
            (1000.0, '1000 is 1000 bytes; write "1000Gi"'),
            ("10", '"10" is 10 bytes; write "10Gi"'),
            ("100m", '"100m" is 0 bytes; write "100Mi"'),
            ("+1023.5Ki", '"+1023.5Ki" is 1048064 bytes; write at least "1Mi"'),
            ("1e6", '"1e6" is 1000000 bytes; write at least "1Mi"'),
        )
    ),
    pytest.param([{"upstream": "a.b", "volume": {"size": 67108864}}], [], id="size-in-digits"),
    pytest.param([{"upstream": "a.b", "volume": {"size": "1Mi"}}], [], id="least-size"),
    pytest.param(
        [
            {"upstream": "a.b", "proxy": {"httpProxy": "http://p"}},
            {"upstream": "b.c", "proxy": {"httpProxy": "http://p"}, "remoteURL": "HTTPS://b.c"},
            {"upstream": "c.d", "proxy": {"httpProxy": "http://p"}, "remoteURL": "http://c.d"},
            {"upstream": "d.e", "proxy": {"httpProxy": "http://p", "httpsProxy": "http://p"}},
        ],
        [
            f"caches[{index}].proxy.httpProxy: is not used, since the upstream is asked by https; write httpsProxy"
            for index in range(2)
        ],
        id="proxy-that-is-not-used",
    ),
]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(
            {"dokcer.io": {"caSecretName": "x"}, "quay": {}, "k8s.gcr.io": {}, "a": {}},
            [
                "upstreamSettings.a: is no upstream of caches; there is a.b:5000, docker.io, quay.io, registry.k8s.io",
                "upstreamSettings.quay: is no upstream of caches; did you mean quay.io?",
                'upstreamSettings["dokcer.io"]: is no upstream of caches; did you mean docker.io?',
                'upstreamSettings["k8s.gcr.io"]: is no upstream of caches; did you mean registry.k8s.io?',
            ],
            id="no-upstream",
        ),
        pytest.param(
            {"a.b:5000": {"caSecretName": "x", "caConfigMapName": "y"}},
            ['upstreamSettings["a.b:5000"].caSecretName: caConfigMapName is there already; write one of the two'],
            id="two-authorities",
        ),
        pytest.param(
            {"quay.io": {"proxySecretName": "x"}, "registry.k8s.io": {"proxySecretName": "x"}},
            [
                f'upstreamSettings["{upstream}"].proxySecretName: the cache of {upstream} has no proxy; write '
                f"caches[{index}].proxy.{proxy}, or leave this out"
                for index, upstream, proxy in ((0, "quay.io", "httpsProxy"), (2, "registry.k8s.io", "httpProxy"))
            ],
            id="login-for-no-proxy",
        ),
        pytest.param({"a.b:5000": {"caSecretName": "x", "proxySecretName": "x"}, "quay.io": {}}, [], id="good"),
    ],
)
def test_settings_of_an_upstream_are_checked_in_the_same_words(
    settings: dict[str, Any], said: list[str], write: Write
) -> None:
    upstreams = ["quay.io", "docker.io", "registry.k8s.io", "a.b:5000"]
    more = {
        "registry.k8s.io": {"remoteURL": "http://a.b", "proxy": {}},
        "a.b:5000": {"proxy": {"httpsProxy": "http://p:3128"}},
    }
    caches = [{"upstream": upstream, **more.get(upstream, {})} for upstream in upstreams]
    document = {"caches": caches, "upstreamSettings": settings}
    assert said_by_command(document) == said
    assert sorted(said_by_chart(write(document))) == said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        pytest.param(
            {"images": {"python": {"tag": ""}, "nginx": {"tag": "", "digest": f"sha256:{'0' * 64}"}}},
            ["images.python.tag: is empty, and there is no digest; write one of the two"],
            id="no-tag",
        ),
        pytest.param(
            {"helmTest": {"images": {"docker.iO": "x", "a.b": "x", "ghcr.io": "x", "docker.io": "x"}}},
            [
                'helmTest.images["a.b"]: is no upstream of caches; there is docker.io',
                'helmTest.images["docker.iO"]: is no upstream of caches; did you mean docker.io?',
                'helmTest.images["ghcr.io"]: is no upstream of caches; did you mean docker.io?',
            ],
            id="test-of-no-upstream",
        ),
        pytest.param(
            {"helmTest": {"images": {"quay": "x"}}},
            ["helmTest.images.quay: is no upstream of caches; there is docker.io"],
            id="test-of-no-upstream-that-is-near",
        ),
        pytest.param({"helmTest": {"images": {"docker.io": "x"}}}, [], id="test-of-an-upstream"),
    ],
)
def test_images_are_checked_in_the_same_words(more: dict[str, Any], said: list[str], write: Write) -> None:
    document = {"caches": [{"upstream": "docker.io"}], **more}
    assert said_by_command(document) == said
    assert sorted(said_by_chart(write(document))) == said


@pytest.mark.parametrize(
    "more",
    [
        {"cachePods": {"resources": {"gate": {"limits": {"memory": "1GB"}}}}},
        {"cachePods": {"resources": {"gate": {"foo": {}}}}},
        {"nodeProgram": {"resources": {"limits": {"cpu": None}}}},
        {"nodeProgram": {"tolerations": [{"operator": "In"}]}},
        {"cachePods": {"affinity": {"antiAffinity": {}}}},
        {"cachePods": {"noProxy": ["http://foo"]}},
        {"cachePods": {"noProxy": ["10.0.0.0/99"]}},
        {"commonLabels": {"a b": "c"}},
        {"commonLabels": {"a": "b c"}},
    ],
    ids=str,
)
def test_what_pods_and_objects_are_given_is_checked_by_the_schema_of_both(more: dict[str, Any], write: Write) -> None:
    document = {"caches": [{"upstream": "docker.io"}], **more}
    assert len(said_by_command(document)) == 1
    assert "don't meet the specifications of the schema" in (refusal(write(document)) or "")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write documents into files of their own."""
    count = Counter[None]()

    def written(document: object) -> Path:
        count[None] += 1
        path = tmp_path / f"{count[None]}.yaml"
        path.write_text(json.dumps(document))
        return path

    return written


def said_by_command(document: object) -> list[str]:
    return [f"{problem.path}: {problem.text}" for problem in problems(parse(json.dumps(document).encode()))]


def refusal(path: Path) -> str | None:
    """Why the chart refuses a file, if it does; the release is called as the command takes it to be."""
    try:
        render_text(path, release="registry-cache")
    except RenderingFailed as refused:
        return str(refused)
    return None


def said_by_chart(path: Path) -> list[str]:
    """What the chart's own check says."""
    found = re.search(r"nothing was changed:\n((?:  .*\n)+)", refusal(path) or "")
    return [line.removeprefix("  ") for line in found[1].splitlines()] if found else []


@pytest.mark.parametrize(("caches", "said"), COMBINATIONS)
def test_combination_is_refused_in_the_same_words(caches: list[Any], said: list[str], write: Write) -> None:
    document = {"caches": caches}
    assert said_by_command(document) == said
    assert said_by_chart(write(document)) == said


@pytest.mark.parametrize(
    "path",
    [
        "cachePods",
        "images",
        "images.python.tag",
        "nodeProgram.probe.interval",
        "monitoring.dashboard",
        "upstreamSettings",
    ],
)
def test_default_that_null_takes_away_is_missed(path: str, write: Write) -> None:
    document: Any = None
    for part in reversed(path.split(".")):
        document = {part: document}
    document = {"caches": [{"upstream": "docker.io"}], **document}
    assert said_by_command(document) == [f"{path}: null is no value; leave the key out"]
    holder, _, name = f"/{path}".replace(".", "/").rpartition("/")
    assert f"at '{holder}': missing property '{name}'" in (refusal(write(document)) or "")


def test_old_names_of_values_are_answered_with_the_new_ones_in_the_same_words(write: Write) -> None:
    document: dict[str, Any] = {"caches": [{"upstream": "docker.io"}]}
    for path in sorted(RENAMED_VALUES, key=len):
        *holders, name = path.split(".")
        part = document
        for holder in holders:
            part = part.setdefault(holder, {})
        part[name] = {}
    expected = {f"{old}: this value has a new name; write {new}" for old, new in RENAMED_VALUES.items()}
    assert set(said_by_command(document)) == set(said_by_chart(write(document))) == expected


@pytest.mark.slow
def test_made_documents_are_taken_or_refused_alike(write: Write) -> None:
    taken: Counter[bool] = Counter()

    # a rendering takes a fifth of a second: a failure is shown as it is found, not made smaller for minutes
    @settings(max_examples=150, derandomize=True, phases=[Phase.generate])
    @given(VALUES)
    def check(document: dict[str, Any]) -> None:
        said = said_by_command(document)
        taken[not said] += 1
        refused = refusal(write(document))
        assert bool(said) == bool(refused), f"{document}\ncommand: {said}\nchart: {refused}"

    check()
    assert min(taken[True], taken[False]) > 20, "documents of both kinds"
