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
from registry_cache.validation import problems
from rendering import RenderingFailed, render_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[object], Path]

ANOTHER = "; write another suffix"
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
]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(
            {"dokcer.io": {"caSecretName": "x"}, "quay": {}, "k8s.gcr.io": {}, "a": {}},
            [
                "upstreams.a: is no upstream of caches; there is a.b:5000, docker.io, quay.io, registry.k8s.io",
                "upstreams.quay: is no upstream of caches; did you mean quay.io?",
                'upstreams["dokcer.io"]: is no upstream of caches; did you mean docker.io?',
                'upstreams["k8s.gcr.io"]: is no upstream of caches; did you mean registry.k8s.io?',
            ],
            id="no-upstream",
        ),
        pytest.param(
            {"a.b:5000": {"caSecretName": "x", "caConfigMapName": "y"}},
            ['upstreams["a.b:5000"].caSecretName: caConfigMapName is there already; write one of the two'],
            id="two-authorities",
        ),
        pytest.param({"a.b:5000": {"caSecretName": "x"}, "quay.io": {}}, [], id="good"),
    ],
)
def test_settings_of_an_upstream_are_checked_in_the_same_words(
    settings: dict[str, Any], said: list[str], write: Write
) -> None:
    upstreams = ["quay.io", "docker.io", "registry.k8s.io", "a.b:5000"]
    document = {"caches": [{"upstream": upstream} for upstream in upstreams], "upstreams": settings}
    assert said_by_command(document) == said
    assert sorted(said_by_chart(write(document))) == said


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
    "path", ["cache", "images", "images.python.tag", "node.probe.interval", "monitoring.dashboard", "upstreams"]
)
def test_default_that_null_takes_away_is_missed(path: str, write: Write) -> None:
    document: Any = None
    for part in reversed(path.split(".")):
        document = {part: document}
    document = {"caches": [{"upstream": "docker.io"}], **document}
    said = [f"{path}: null is no value; leave the key out"]
    assert said_by_command(document) == said
    assert said_by_chart(write(document)) == said


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
