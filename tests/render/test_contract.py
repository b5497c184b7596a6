"""The command and the chart accept and refuse the same documents, with the same paths and reasons."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import made_foreign
import pytest
from hypothesis import Phase, given, settings
from machine.paths import REPOSITORY
from made_documents import VALUES
from made_foreign import Foreign
from registry_cache.document import parse
from registry_cache.model.values import RENAMED_VALUES
from registry_cache.validation import find_problems
from rendering import RenderingFailed, render_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[object], Path]

BY_KEY = ("a registries.yaml", "a machine", "a Shoot", "an Extension", "a Cluster", "a RegistryCacheConfig", "a Helm")
# A part of a file with several documents is what Helm reads.
DOCUMENTS = [one for one in made_foreign.DOCUMENTS if one.title.startswith(BY_KEY) and "\n---" not in one.text]
OTHERS = [
    Foreign("shoot.yaml", (REPOSITORY / "examples" / "shoot.yaml").read_text(), "shoot", []),
    Foreign("old.yaml", (REPOSITORY / "examples" / "registry-config-v1alpha1.yaml").read_text(), "v1alpha1", []),
    Foreign("old.yaml", (REPOSITORY / "examples" / "registry-config-v1alpha2.yaml").read_text(), "v1alpha2", []),
]
TOO_FEW_REPLICAS = (
    'upstreamSettings["docker.io"].replicas: is too few, because caches[1].highAvailability.enabled is true; write at '
    "least 2, or leave this out"
)
ANOTHER = "; write another suffix"
DOCKER_HUB = 'image references name Docker Hub docker.io; write "docker.io"'
# Rules that the schema cannot express, so that the chart has its own.
COMBINATIONS = [
    pytest.param(
        [{"upstream": "docker.io"}, {"upstream": "docker.io"}],
        ["caches[1].upstream: docker.io has a cache already, at caches[0]; write each upstream once"],
        id="upstream-twice",
    ),
    pytest.param(
        [{"upstream": "a.b", "serviceNameSuffix": "x"}, {"upstream": "b.c", "serviceNameSuffix": "x"}],
        [
            "caches[1].serviceNameSuffix: the name registry-x belongs to the Service of caches[0]" + ANOTHER,
        ],
        id="suffix-twice",
    ),
    pytest.param(
        [{"upstream": "a.b", "serviceNameSuffix": "cache-b-c"}, {"upstream": "b.c"}],
        [
            "caches[1].serviceNameSuffix: the name registry-cache-b-c belongs to the Service of caches[0]" + ANOTHER,
        ],
        id="suffix-as-the-name-of-a-later-cache",
    ),
    pytest.param(
        [
            {"upstream": "b.c", "highAvailability": {"enabled": True}},
            {"upstream": "a.b", "serviceNameSuffix": "cache-b-c--peers"},
        ],
        [
            "caches[1].serviceNameSuffix: the name registry-cache-b-c--peers belongs to the Service of caches[0]"
            + ANOTHER,
        ],
        id="suffix-as-the-name-of-the-service-of-replicas",
    ),
    pytest.param(
        [{"upstream": "a.b"}, {"upstream": "a.b"}, {"upstream": "c.d", "serviceNameSuffix": "cache-a-b"}],
        [
            "caches[1].upstream: a.b has a cache already, at caches[0]; write each upstream once",
            "caches[2].serviceNameSuffix: the name registry-cache-a-b belongs to the Service of caches[0]" + ANOTHER,
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
            [{"upstream": "a.b", "volume": {"size": size}}],
            [f'caches[0].volume.size: a volume of {count} bytes is too small; write at least "1Mi"'],
            id=f"size-{size}",
        )
        for size, count in (
            (10, "10"),
            (1048575, "1048575"),
            (1000.0, "1000"),
            ("10", "10"),
            ("100m", "0"),
            ("+1023.5Ki", "1048064"),
            ("1e6", "1000000"),
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
            f"caches[{index}].proxy.httpProxy: is not used, because the cache speaks https to its upstream; write "
            "httpsProxy"
            for index in range(2)
        ],
        id="proxy-that-is-not-used",
    ),
]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(
            {"a.b:5000": {"replicas": 1}, "docker.io": {"replicas": 1}},
            [TOO_FEW_REPLICAS],
            id="too-few-replicas",
        ),
        pytest.param(
            {"dokcer.io": {"caSecretName": "x"}, "quay": {}, "k8s.gcr.io": {}, "a": {}},
            [
                "upstreamSettings.a: no cache has this upstream",
                "upstreamSettings.quay: no cache has this upstream",
                'upstreamSettings["dokcer.io"]: no cache has this upstream',
                'upstreamSettings["k8s.gcr.io"]: no cache has this upstream',
            ],
            id="no-upstream",
        ),
        pytest.param(
            {"a.b:5000": {"caSecretName": "x", "caConfigMapName": "y"}},
            ['upstreamSettings["a.b:5000"].caSecretName: caConfigMapName is set too; keep one of the two'],
            id="two-authorities",
        ),
        pytest.param(
            {"quay.io": {"proxySecretName": "x"}, "registry.k8s.io": {"proxySecretName": "x"}},
            [
                f'upstreamSettings["{upstream}"].proxySecretName: the cache has no proxy; write '
                f"caches[{index}].proxy.{proxy}, or leave this out"
                for index, upstream, proxy in ((0, "quay.io", "httpsProxy"), (2, "registry.k8s.io", "httpProxy"))
            ],
            id="login-for-no-proxy",
        ),
        pytest.param({"a.b:5000": {"caSecretName": "x", "proxySecretName": "x"}, "quay.io": {}}, [], id="good"),
    ],
)
def test_settings_of_an_upstream_are_refused_with_the_same_reasons(
    settings: dict[str, Any], said: list[str], write: Write
) -> None:
    upstreams = ["quay.io", "docker.io", "registry.k8s.io", "a.b:5000"]
    more = {
        "registry.k8s.io": {"remoteURL": "http://a.b", "proxy": {}},
        "a.b:5000": {"proxy": {"httpsProxy": "http://p:3128"}},
        "docker.io": {"highAvailability": {"enabled": True}},
    }
    caches = [{"upstream": upstream, **more.get(upstream, {})} for upstream in upstreams]
    document = {"caches": caches, "upstreamSettings": settings}
    assert command_problems(document) == said
    assert sorted(chart_problems(write(document))) == said


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
                'helmTest.images["a.b"]: no cache has this upstream',
                'helmTest.images["docker.iO"]: no cache has this upstream',
                'helmTest.images["ghcr.io"]: no cache has this upstream',
            ],
            id="test-of-no-upstream",
        ),
        pytest.param(
            {"helmTest": {"images": {"quay": "x"}}},
            ["helmTest.images.quay: no cache has this upstream"],
            id="test-of-no-upstream-that-is-near",
        ),
        pytest.param({"helmTest": {"images": {"docker.io": "x"}}}, [], id="test-of-an-upstream"),
    ],
)
def test_images_are_refused_with_the_same_reasons(more: dict[str, Any], said: list[str], write: Write) -> None:
    document = {"caches": [{"upstream": "docker.io"}], **more}
    assert command_problems(document) == said
    assert sorted(chart_problems(write(document))) == said


def two_with_tls(**settings: dict[str, Any]) -> dict[str, Any]:
    """Return the values of two caches with TLS and certificates of cert-manager, and one without TLS."""
    caches = [{"upstream": upstream, "http": {"tls": True}} for upstream in ("docker.io", "quay.io")]
    own = {f"{name}.io": {"clusterIP": "10.96.0.100", **more} for name, more in settings.items()}
    others = {name: {"clusterIP": "10.96.0.100"} for name in ("docker.io", "quay.io") if name not in own}
    return {
        "caches": [{"upstream": "ghcr.io"}, *caches],
        "upstreamSettings": {**own, **others},
        "certManager": {"enabled": True},
    }


def gets_two(name: str, holder: str) -> str:
    return f"tlsSecretName: the Secret {name} gets the certificate of {holder}; write another name, or leave this out"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param(
            two_with_tls(docker={"tlsSecretName": "x"}, quay={"tlsSecretName": "x"}),
            ['upstreamSettings["quay.io"].' + gets_two("x", "caches[1]")],
            id="two-caches",
        ),
        pytest.param(
            two_with_tls(docker={"tlsSecretName": "registry-cache-quay-io-tls"}),
            ['upstreamSettings["docker.io"].' + gets_two("registry-cache-quay-io-tls", "caches[2]")],
            id="default-of-another-cache",
        ),
        pytest.param(
            two_with_tls(docker={"tlsSecretName": "registry-cache-ca"}),
            ['upstreamSettings["docker.io"].' + gets_two("registry-cache-ca", "the release's own authority")],
            id="authority",
        ),
        pytest.param(
            two_with_tls(docker={"tlsSecretName": "registry-cache-client", "nodesOnly": True}),
            ['upstreamSettings["docker.io"].' + gets_two("registry-cache-client", "the nodes")],
            id="nodes",
        ),
        pytest.param(
            {
                **two_with_tls(docker={"nodesOnly": True}),
                "cachePods": {"clientSecretName": "registry-cache-docker-io-tls"},
            },
            [
                "cachePods."
                + gets_two("registry-cache-docker-io-tls", "caches[1]").replace("tlsSecretName", "clientSecretName")
            ],
            id="own-name-of-the-nodes",
        ),
        pytest.param(
            {
                **two_with_tls(docker={"tlsSecretName": "registry-cache-ca"}),
                "certManager": {"enabled": True, "issuerRef": {"name": "company"}},
            },
            [],
            id="no-authority",
        ),
        pytest.param(
            {
                **two_with_tls(docker={"tlsSecretName": "x"}, quay={"tlsSecretName": "x"}),
                "certManager": {"enabled": False},
            },
            [],
            id="certificate-of-ones-own",
        ),
        pytest.param(
            two_with_tls(docker={"tlsSecretName": "x"}, quay={"tlsSecretName": "y"}, ghcr={"tlsSecretName": "x"}),
            [],
            id="without-tls",
        ),
    ],
)
def test_secret_that_would_get_two_certificates_is_refused_with_the_same_reason(
    values: dict[str, Any], said: list[str], write: Write
) -> None:
    assert command_problems(values) == said
    assert chart_problems(write(values)) == said


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
def test_settings_of_pods_are_refused_by_the_schema_of_both(more: dict[str, Any], write: Write) -> None:
    document = {"caches": [{"upstream": "docker.io"}], **more}
    assert len(command_problems(document)) == 1
    assert "don't meet the specifications of the schema" in (refusal(write(document)) or "")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write each document into a file of its own."""
    count = Counter[None]()

    def written(document: object) -> Path:
        count[None] += 1
        path = tmp_path / f"{count[None]}.yaml"
        path.write_text(json.dumps(document))
        return path

    return written


def command_problems(document: object) -> list[str]:
    """Return the problems that the command finds, without its suggestions, which the chart does not have."""
    return [f"{problem.path}: {problem.reason}" for problem in find_problems(parse(json.dumps(document).encode()))]


def refusal(path: Path) -> str | None:
    """Return why the chart refuses a file, if it does; the release has the name that the command assumes."""
    try:
        render_text(path, release="registry-cache")
    except RenderingFailed as refused:
        return str(refused)
    return None


def chart_problems(path: Path) -> list[str]:
    """Return the problems that the chart's own rules find."""
    found = re.search(r"Nothing was changed.\n((?:  .*\n)+)", refusal(path) or "")
    return [line.removeprefix("  ") for line in found[1].splitlines()] if found else []


@pytest.mark.parametrize(("caches", "said"), COMBINATIONS)
def test_combination_is_refused_with_the_same_reason(caches: list[Any], said: list[str], write: Write) -> None:
    document = {"caches": caches}
    assert command_problems(document) == said
    assert chart_problems(write(document)) == said


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
def test_default_that_null_removes_is_refused(path: str, write: Write) -> None:
    document: Any = None
    for part in reversed(path.split(".")):
        document = {part: document}
    document = {"caches": [{"upstream": "docker.io"}], **document}
    assert command_problems(document) == [f"{path}: null is not allowed; leave the key out"]
    holder, _, name = f"/{path}".replace(".", "/").rpartition("/")
    assert f"at '{holder}': missing property '{name}'" in (refusal(write(document)) or "")


def test_chart_and_command_answer_old_names_of_values_with_the_new_ones(write: Write) -> None:
    document: dict[str, Any] = {"caches": [{"upstream": "docker.io"}]}
    for path in sorted(RENAMED_VALUES, key=len):
        *holders, name = path.split(".")
        part = document
        for holder in holders:
            part = part.setdefault(holder, {})
        part[name] = {}
    expected = {f"{old}: has a new name; write {new}" for old, new in RENAMED_VALUES.items()}
    assert set(command_problems(document)) == set(chart_problems(write(document))) == expected


@pytest.mark.parametrize("document", [*DOCUMENTS, *OTHERS], ids=str)
def test_document_of_another_kind_is_refused_with_the_command_that_converts_it(
    document: Foreign, tmp_path: Path
) -> None:
    """Those that Helm can read at all, and that the chart knows by a key."""
    path = tmp_path / "values.yaml"
    path.write_text(document.text)
    said = refusal(path) or ""
    assert "Run `registry-cache convert FILE > registry-config.yaml`" in said
    assert said.count("\n  ") < 10


def test_nothing_and_an_empty_garbage_collection_are_read_as_in_gardener(write: Write) -> None:
    entry = {"volume": None, "garbageCollection": {}, "proxy": {"httpProxy": None}, "secretReferenceName": None}
    fields = ("http", "highAvailability", "remoteURL", "serviceNameSuffix")
    document = {"caches": [{"upstream": "docker.io", **entry, **dict.fromkeys(fields)}]}
    same = {"caches": [{"upstream": "docker.io", "garbageCollection": {"ttl": "0s"}}]}
    assert command_problems(document) == []
    assert render_text(write(document)) == render_text(write(same))


@pytest.mark.slow
def test_chart_and_command_accept_and_refuse_the_same_documents(write: Write) -> None:
    taken: Counter[bool] = Counter()

    # no shrinking: a rendering takes a fifth of a second, so it would take minutes
    @settings(max_examples=150, derandomize=True, phases=[Phase.generate])
    @given(VALUES)
    def check(document: dict[str, Any]) -> None:
        said = command_problems(document)
        taken[not said] += 1
        refused = refusal(write(document))
        assert bool(said) == bool(refused), f"{document}\ncommand: {said}\nchart: {refused}"

    check()
    assert min(taken[True], taken[False]) > 20, "documents of both kinds"
