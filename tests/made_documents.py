"""Values files for property tests. Most of a document is valid, so that each mistake appears by itself."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from registry_cache.document import parse
from registry_cache.validation import find_problems

Strategy = st.SearchStrategy[Any]
LAST = 39  # about one value in forty is arbitrary

TEXTS = st.sampled_from(
    ["docker.io", "a.b:5000", "A", "", "a-", "https://a.b", "http://a:1/", "/etc/x", "Always", "0s", "7d", "fast", "0"]
) | st.from_regex(r"[a0.:-]{1,6}|[.0-9]{1,4}(Gi|e[-+]?[0-9]|m|h|ms|µs|d){0,2}|/?(\.?[a/]){1,3}", fullmatch=True)
ANYTHING: Strategy = TEXTS | st.integers(-1, 2) | st.booleans() | st.none() | st.just([]) | st.just({})

LABEL = st.from_regex("[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
HOST = st.lists(LABEL, min_size=1, max_size=3).map(".".join)
KNOWN = st.sampled_from(["docker.io", "ghcr.io", "registry.example.com:5000"])
UPSTREAM = KNOWN | HOST
URL = st.builds("{}://{}".format, st.sampled_from(["http", "https", "HTTPS"]), UPSTREAM)
# Some are too small for a volume, or not needed by their cache, which depends on the other values.
SIZE = st.integers(2**19, 10**12) | st.from_regex(
    "[1-9][0-9]{0,2}([.][0-9])?([MGT]i?|e[6-9])|[1-9]{2,4}(ki?|m|e3)?", fullmatch=True
)
DURATION = st.from_regex("([1-9][0-9]?h)?([1-9][0-9]?m)?[1-9][0-9]?(ms|s)", fullmatch=True)
TIME_TO_LIVE = DURATION | st.sampled_from(["0s", "0", "-0s", "168h"])


def mostly(right: Strategy) -> Strategy:
    """Return valid values, and now and then an arbitrary one."""
    return st.integers(0, LAST).flatmap(lambda dice: ANYTHING if dice == LAST else right)


def mapping(*, required: dict[str, Strategy] | None = None, **optional: Strategy) -> Strategy:
    """Return some of the keys with mostly valid values, and now and then an unknown key."""
    known = {key: mostly(value) for key, value in optional.items()}
    made = st.fixed_dictionaries({key: mostly(value) for key, value in (required or {}).items()}, optional=known)
    unknown = st.integers(0, LAST).map(lambda dice: {"other": 1} if dice == LAST else {})
    return mostly(st.builds(lambda one, two: {**one, **two}, made, unknown))


STRINGS = st.dictionaries(LABEL | st.sampled_from(["example.com/Team_1", "-", "/x", "a/b/c"]), LABEL, max_size=1)
AMOUNT = st.sampled_from(["100m", "1Gi", "0", 1, 0.5]) | st.from_regex(
    "[0-9]{1,3}([.][0-9])?([KMG]i?B?|m)?", fullmatch=True
)
RESOURCES = mapping(requests=mapping(cpu=AMOUNT), limits=mapping(cpu=AMOUNT, memory=AMOUNT))
TOLERATION = mapping(
    key=LABEL,
    operator=st.sampled_from(["Exists", "Equal"]),
    value=LABEL,
    effect=st.sampled_from(["NoSchedule", "PreferNoSchedule", "NoExecute"]),
    tolerationSeconds=st.integers(0, 60),
)
NO_PROXY = HOST | st.sampled_from(
    ["*", ".svc", "*.a", "A.b:80", "10.0.0.0/8", "10.0.0.0/99", "::1", "fd00::/8", "http://a"]
)
NO = st.just(False)  # noqa: FBT003 - the value of a field
CACHE = mapping(
    required={"upstream": UPSTREAM},
    remoteURL=URL,
    volume=mapping(size=SIZE, storageClassName=HOST),
    garbageCollection=mapping(required={"ttl": TIME_TO_LIVE}),
    secretReferenceName=HOST,
    proxy=mapping(httpsProxy=URL) | mapping(required={"httpsProxy": URL}, httpProxy=URL) | mapping(httpProxy=URL),
    http=mapping(tls=NO),
    highAvailability=mapping(enabled=st.booleans()),
    serviceNameSuffix=LABEL
    | st.sampled_from(["docker-io", "cache-docker-io", "cache-ghcr-io", "cache-ghcr-io--peers"]),
)
IMAGE = mapping(
    registry=HOST,
    repository=LABEL,
    tag=LABEL | st.just(""),
    digest=st.sampled_from(["", "sha256:" + "0" * 64]),
    pullPolicy=st.sampled_from(["Always", "IfNotPresent", "Never"]),
)
UPSTREAM_SETTINGS = (
    mapping(caConfigMapName=HOST, proxySecretName=HOST)
    | mapping(caSecretName=HOST)
    | mapping(
        allowedRepositories=st.lists(st.sampled_from(["library/*", "team/app", "*", "Team"]), max_size=2),
        access=st.sampled_from(["Anyone", "Puller", "puller"]),
        tokenServers=st.lists(st.sampled_from(["auth.example.com", "10.0.0.1", "fd00::1", "a/b"]), max_size=2),
        allowedNetworks=st.lists(st.sampled_from(["10.0.0.0/8", "fd00::/8", "10.0.0.1", "10.0.0.0/33"]), max_size=2),
        clusterIP=st.sampled_from(["10.0.0.1", "fd00::1", "None", "10.0.0.256"]),
        tlsSecretName=HOST,
        nodesOnly=st.booleans(),
        resources=mapping(gate=RESOURCES),
        nodeSelector=STRINGS,
        tolerations=st.lists(TOLERATION, max_size=1),
        priorityClassName=LABEL,
    )
)
MONITOR = mapping(
    enabled=st.booleans(),
    namespace=LABEL,
    interval=st.sampled_from(["30s", "1m", "1d"]),
    scrapeTimeout=st.sampled_from(["", "10s", "0s"]),
    relabelings=st.just([{"targetLabel": "a", "replacement": "b"}]),
)
VALUES = st.fixed_dictionaries(
    {"caches": mostly(st.lists(CACHE, min_size=1, max_size=3))},
    optional={
        "nameOverride": mostly(LABEL),
        "fullnameOverride": mostly(LABEL | st.just("registry")),
        "imagePullSecrets": mostly(st.lists(mostly(LABEL | st.fixed_dictionaries({"name": LABEL})), max_size=1)),
        "commonLabels": mostly(STRINGS),
        "namespaceOverride": mostly(LABEL | st.just("")),
        "global": mapping(
            imageRegistry=st.sampled_from(["", "registry.example.com:5000", "a.b/mirror/", "https://a.b"]),
            imagePullSecrets=st.lists(mostly(LABEL), max_size=1),
        ),
        "certManager": mapping(enabled=st.booleans(), duration=TIME_TO_LIVE),
        "networkPolicies": mapping(
            enabled=st.booleans(),
            nodes=st.lists(st.sampled_from(["10.0.0.0/8", "fd00::/8", "10.0.0.0", "10.0.0.0/33"]), max_size=2),
            dnsPorts=st.lists(st.integers(0, 60), max_size=1),
        ),
        "extraObjects": mostly(st.lists(st.just({"kind": "ConfigMap"}) | st.just("kind: Secret"), max_size=2)),
        "images": mapping(distribution=IMAGE, nginx=IMAGE, python=IMAGE),
        "upstreamSettings": mostly(st.dictionaries(KNOWN, mostly(UPSTREAM_SETTINGS), max_size=2)),
        "cachePods": mapping(
            tagCheckInterval=TIME_TO_LIVE,
            fetchAhead=st.sampled_from(["Never", "Adaptive", "Always"]),
            nodesOnly=st.sampled_from([False, False, True]),
            clientSecretName=LABEL | st.just(""),
            highWaterMarkPercent=st.integers(1, 100),
            volumeClaims=mapping(
                retentionPolicy=st.sampled_from(["Delete", "Retain"]),
                accessModes=st.lists(st.sampled_from(["ReadWriteOnce", "ReadWriteMany"]), max_size=1),
                labels=STRINGS,
            ),
            service=mapping(
                annotations=STRINGS,
                ipFamilyPolicy=st.sampled_from(["", "SingleStack"]),
                ipFamilies=st.lists(st.sampled_from(["IPv4", "IPv6"]), max_size=1),
            ),
            podDisruptionBudget=mapping(
                enabled=st.booleans(), maxUnavailable=st.sampled_from([0, 1, "50%", "101%", "1"])
            ),
            readinessProbe=mapping(periodSeconds=st.integers(0, 9)),
            podLabels=STRINGS,
            podSecurityContext=st.sampled_from([{"runAsUser": None}, {"fsGroup": 1}]),
            serviceAccount=mapping(create=st.booleans(), name=LABEL),
            topologySpreadConstraints=st.just([]),
            dnsConfig=st.just({"options": [{"name": "ndots", "value": "1"}]}),
            hostAliases=st.just([{"ip": "10.0.0.1", "hostnames": ["a"]}]),
            revisionHistoryLimit=st.integers(0, 9),
            noProxy=st.lists(mostly(NO_PROXY), max_size=2),
            resources=mapping(gate=RESOURCES),
            priorityClassName=LABEL,
            nodeSelector=STRINGS,
            podAnnotations=STRINGS,
            tolerations=st.lists(TOLERATION, max_size=2),
            affinity=mapping(podAffinity=st.just({}), nodeAffinity=st.just({})),
        ),
        "nodeProgram": mapping(
            enabled=st.booleans(),
            preset=st.sampled_from(["kubeadm", "k3s", "talos"]),
            registryDirectory=st.sampled_from(["", "/etc/containerd/certs.d", "/x/"]),
            containerdConfig=st.sampled_from(["", "/etc/containerd/config.toml"]),
            containerdVersion=st.sampled_from(["", "2.2.1", "v1.7.0"]),
            configureContainerd=mapping(enabled=st.booleans(), restartCommand=st.lists(LABEL, min_size=1, max_size=2)),
            metrics=mapping(enabled=st.booleans(), port=st.integers(1, 65535)),
            dialTimeout=DURATION,
            probe=mapping(
                interval=DURATION, timeout=DURATION, failureThreshold=st.integers(1, 9), maxBackoff=TIME_TO_LIVE
            ),
            resources=RESOURCES,
            updateStrategy=st.just({"type": "OnDelete"}),
            podLabels=STRINGS,
            containerSecurityContext=st.just({"seLinuxOptions": {"type": "spc_t"}}),
            serviceAccount=mapping(create=st.booleans()),
        ),
        "monitoring": mapping(
            dashboard=mapping(enabled=st.booleans(), labels=STRINGS, namespace=LABEL),
            podMonitor=MONITOR,
            serviceMonitor=MONITOR,
            prometheusRule=mapping(
                enabled=st.booleans(),
                disabledAlerts=st.lists(st.sampled_from(["RegistryCacheDown", "CacheDown"]), max_size=1),
            ),
        ),
        "helmTest": mapping(images=st.dictionaries(KNOWN, LABEL, max_size=2)),
    },
)


def problems(document: object) -> list[str]:
    """Return the problems of a document, without their lines."""
    return [f"{problem.path}: {problem.text}" for problem in find_problems(parse(json.dumps(document).encode()))]


def caches(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"caches": list(entries)}


def one(**fields: object) -> dict[str, Any]:
    return caches({"upstream": "docker.io", **fields})


def nested(path: str, value: object) -> dict[str, Any]:
    """Return a document with a value at a path."""
    for part in reversed(path.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value
