"""`registry-cache plan` reports exactly the differences between the two renderings."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from registry_cache.plan import Change, Plan, plan
from registry_cache.values_file import load_values
from rendering import Object, by_kind, render_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Strategy = st.SearchStrategy[Any]


def some(**parts: Strategy) -> Strategy:
    return st.fixed_dictionaries({}, optional=parts)


CACHE = some(
    remoteURL=st.sampled_from(["https://mirror.example.com", "https://mirror.example.com/"]),
    volume=some(size=st.sampled_from(["10Gi", "10240Mi", "20Gi", 10 * 2**30, "1e9"]), storageClassName=st.just("fast")),
    garbageCollection=st.sampled_from([{"ttl": "168h"}, {"ttl": "0s"}]),
    secretReferenceName=st.just("login"),
    proxy=st.sampled_from(
        [{"httpsProxy": "http://proxy:2"}, {"httpProxy": "http://proxy:1", "httpsProxy": "http://p:2"}]
    ),
    http=st.just({"tls": False}),
    highAvailability=some(enabled=st.booleans()),
    serviceNameSuffix=st.just("suffix"),
)


def caches(entries: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """At most one cache has the suffix."""
    made = [{"upstream": upstream, **fields} for upstream, fields in entries.items()]
    for entry in [one for one in made if "serviceNameSuffix" in one][1:]:
        del entry["serviceNameSuffix"]
    return made


CACHES = st.dictionaries(st.sampled_from(["docker.io", "a.b:5000", "quay.io"]), CACHE, min_size=1).map(caches)
VALUES = st.fixed_dictionaries(
    {"caches": CACHES},
    optional={
        "fullnameOverride": st.just("other"),
        "nameOverride": st.sampled_from(["cache", "other"]),
        "commonLabels": st.just({"team": "platform"}),
        "imagePullSecrets": st.just([{"name": "login"}]),
        "images": some(nginx=st.just({"tag": "1.28.1-alpine"}), python=st.just({"tag": "3.14-alpine"})),
        "cachePods": some(
            replicas=st.sampled_from([1, 2, 3]),
            ownerPerZone=st.booleans(),
            tagCheckInterval=st.just("0s"),
            fetchAhead=st.just("Never"),
            highWaterMarkPercent=st.just(50),
            volumeClaims=st.just({"retentionPolicy": "Retain"}),
            nodeSelector=st.just({"pool": "x"}),
            podDisruptionBudget=st.just({"enabled": False}),
            serviceAccount=some(create=st.booleans(), name=st.just("mine")),
            noProxy=st.just([".example.org"]),
            resources=st.just({"gate": {"limits": {"memory": "1Gi"}}}),
            podAnnotations=st.just({"x": "y"}),
        ),
        "nodeProgram": some(
            enabled=st.booleans(),
            dialTimeout=st.just("1s"),
            updateStrategy=st.just({"type": "OnDelete"}),
        ),
        "monitoring": some(dashboard=st.just({"enabled": True}), podMonitor=st.just({"enabled": True})),
        "global": some(imageRegistry=st.sampled_from(["a.b", "a.b/"]), imagePullSecrets=st.just(["login"])),
        "namespaceOverride": st.just("elsewhere"),
    },
)


ONE = {"caches": [{"upstream": "docker.io"}]}
SETTINGS: list[dict[str, Any]] = [
    {"nameOverride": "other"},
    {"fullnameOverride": "other"},
    {"commonLabels": {"team": "platform"}},
    {"imagePullSecrets": [{"name": "login"}]},
    {"images": {"distribution": {"tag": "3.1.2"}}},
    {"images": {"nginx": {"tag": "1.28.1-alpine"}}},
    {"images": {"python": {"tag": "3.14-alpine"}}},
    {"cachePods": {"tagCheckInterval": "0s"}},
    {"cachePods": {"fetchAhead": "Never"}},
    {"cachePods": {"highWaterMarkPercent": 50}},
    {"cachePods": {"clientSecretName": "own"}},
    {"cachePods": {"replicas": 2}},
    {"cachePods": {"replicas": 3}},
    {"cachePods": {"ownerPerZone": True}},
    {"cachePods": {"volumeClaims": {"retentionPolicy": "Retain"}}},
    {"cachePods": {"noProxy": []}},
    {"cachePods": {"resources": {"gate": {"limits": {"memory": "1Gi"}}}}},
    {"nodeProgram": {"enabled": False}},
    {"nodeProgram": {"dialTimeout": "1s"}},
    {"nodeProgram": {"updateStrategy": {"type": "OnDelete"}}},
    {"monitoring": {"dashboard": {"enabled": True}}},
    {"monitoring": {"dashboard": {"enabled": True, "namespace": "grafana"}}},
    {"monitoring": {"podMonitor": {"enabled": True}}},
    {"monitoring": {"podMonitor": {"interval": "1m"}}},
    {"monitoring": {"serviceMonitor": {"enabled": True}}},
    {"certManager": {"enabled": True}},
    {"networkPolicies": {"enabled": True, "nodes": ["10.0.0.0/8"]}},
    {"networkPolicies": {"nodes": ["10.0.0.0/8"]}},
    {"namespaceOverride": "other"},
    {"global": {"imageRegistry": "registry.example.com/mirror/"}},
    {"global": {"imagePullSecrets": [{"name": "login"}]}},
    {"global": {"unknown": 1}},
    {"extraObjects": ["{apiVersion: v1, kind: ConfigMap, metadata: {name: extra, labels: {}}}"]},
    *(
        {"cachePods": setting}
        for setting in (
            {"volumeClaims": {"labels": {"a": "b"}, "annotations": {"a": "b"}}},
            {"volumeClaims": {"accessModes": ["ReadWriteOncePod"]}},
            {"service": {"annotations": {"a": "b"}, "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}},
            {"service": {"internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose"}},
            {"podDisruptionBudget": {"maxUnavailable": "50%"}},
            {"podDisruptionBudget": {"enabled": False}},
            {"readinessProbe": {"periodSeconds": 3}},
            {"livenessProbe": {"failureThreshold": 5}},
            {"nodeSelector": {"pool": "x"}},
            {"priorityClassName": "high"},
            {"topologySpreadConstraints": []},
            {"podLabels": {"a": "b"}},
            {"podSecurityContext": {"runAsUser": None}},
            {"containerSecurityContext": {"readOnlyRootFilesystem": None}},
            {"serviceAccount": {"create": True}},
            {"serviceAccount": {"name": "mine"}},
            {"serviceAccount": {"annotations": {"a": "b"}}},
            {"serviceAccount": {"create": True, "annotations": {"a": "b"}}},
            {"dnsConfig": {"nameservers": ["10.0.0.1"]}},
            {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}]},
            {"extraVolumes": [{"name": "a", "emptyDir": {}}]},
            {"extraVolumeMounts": [{"name": "front", "mountPath": "/a"}]},
            {"revisionHistoryLimit": 5},
        )
    ),
    *(
        {"nodeProgram": setting}
        for setting in (
            {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}},
            {"podLabels": {"a": "b"}},
            {"containerSecurityContext": {"seLinuxOptions": {"type": "spc_t"}}},
            {"serviceAccount": {"create": True}},
            {"serviceAccount": {"annotations": {"a": "b"}}},
            {"revisionHistoryLimit": 5},
        )
    ),
    {"monitoring": {"prometheusRule": {"enabled": True}}},
]
FIELDS: list[tuple[str, Any]] = [
    ("remoteURL", "https://mirror.example.com"),
    ("volume", {"size": "20Gi"}),
    ("volume", {"size": "10240Mi"}),
    ("volume", {"storageClassName": "fast"}),
    ("garbageCollection", {"ttl": "0s"}),
    ("secretReferenceName", "login"),
    ("proxy", {"httpsProxy": "http://proxy:2"}),
    ("http", {"tls": False}),
    ("highAvailability", {"enabled": True}),
    ("highAvailability", {"enabled": False}),
    ("serviceNameSuffix", "suffix"),
]
UPSTREAM_SETTINGS: list[dict[str, Any]] = [
    {"caConfigMapName": "authority"},
    {"caSecretName": "authority"},
    {"proxySecretName": "login"},
    {"allowedRepositories": ["library/*"]},
    {"access": "Anyone"},
    {"tokenServers": ["auth.example.com"]},
    {"allowedNetworks": ["10.0.0.0/8"]},
    {"clusterIP": "10.96.0.100"},
    {"tlsSecretName": "own"},
    {"nodesOnly": False},
    {"replicas": 2},
    {"replicas": 3},
    {"resources": {"gate": {"limits": {"memory": "1Gi"}}}},
    {"nodeSelector": {"pool": "x"}},
    {"nodeSelector": {"kubernetes.io/os": "linux"}},
    {"nodeSelector": {}},
    {"tolerations": [{"operator": "Exists"}]},
    {"priorityClassName": "high"},
    {},
]


@st.composite
def pairs(draw: Callable[[Strategy], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two values files, mostly with one difference, so that each kind of change appears by itself."""
    old = draw(VALUES)
    if draw(st.integers(0, 4)) == 0:
        return old, draw(VALUES)
    new = json.loads(json.dumps(old))
    kind = draw(st.integers(0, 5))
    if kind == 5:
        new["helmTest"] = {"images": {new["caches"][0]["upstream"]: "c"}}
    elif kind < 2:
        new |= draw(st.sampled_from(SETTINGS))
    elif kind == 2:
        cache = draw(st.sampled_from(new["caches"]))
        known = [one for one in UPSTREAM_SETTINGS if "proxy" in cache or "proxySecretName" not in one]
        new["upstreamSettings"] = {cache["upstream"]: draw(st.sampled_from(known))}
    else:
        index = draw(st.integers(0, len(new["caches"]) - 1))
        key, value = draw(st.sampled_from(FIELDS))
        if key != "serviceNameSuffix" or not any(key in one for one in new["caches"]):
            new["caches"][index][key] = value
    return old, new


def without(found: Object | None, *labels: str) -> Object | None:
    """Return an object without some of its labels, on which no pull depends."""
    if found is None:
        return None
    kept = {key: value for key, value in found["metadata"]["labels"].items() if key not in labels}
    return {**found, "metadata": {**found["metadata"], "labels": kept}}


def of_upstream(objects: list[Object], upstream: str) -> dict[str, Object]:
    """Return a cache's objects by kind and name, without fields on which no pull depends.

    Network policies and certificates are parts of their own in a plan.
    """
    label = upstream.replace(":", "-")
    return {
        f"{one['kind']} {one['metadata']['name']}": {**one, "metadata": {**one["metadata"], "labels": {}}}
        for one in objects
        if one["metadata"]["labels"].get("upstream-host") == label
        and one["kind"] not in ("NetworkPolicy", "Certificate")
    }


def stateful(objects: dict[str, Object]) -> Object | None:
    return next((one for one in objects.values() if one["kind"] == "StatefulSet"), None)


def place(found: Object) -> tuple[str, str]:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def storage(claim: Object) -> tuple[int, tuple[str | None, list[str]]]:
    """Return the size in bytes, the class and the access modes, as the API server compares them."""
    spec = claim["spec"]
    sizes = {"10Gi": 10 * 2**30, "10240Mi": 10 * 2**30, "20Gi": 20 * 2**30, "1e9": 10**9}
    written = spec["resources"]["requests"]["storage"]
    return int(sizes.get(written) or float(written)), (spec.get("storageClassName"), spec["accessModes"])


def possible(old: dict[str, Object], new: dict[str, Object]) -> bool:
    """Whether the upgrade can change each existing claim."""
    for name, claim in old.items():
        if claim["kind"] == "PersistentVolumeClaim" and name in new:
            (size, fixed), (new_size, new_fixed) = storage(claim), storage(new[name])
            if new_size < size or new_fixed != fixed:
                return False
    return True


def kept(objects: list[Object], upstream: str) -> bool:
    """Whether a volume outlives its cache."""
    return any(
        one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
        for one in of_upstream(objects, upstream).values()
    )


def check_cache(change: Change | None, old: list[Object], new: list[Object], upstream: str) -> None:
    was, will = (of_upstream(normal(objects), upstream) for objects in (old, new))
    before, after = stateful(was), stateful(will)
    if before is None or after is None:
        assert change is not None
        removed = ("removed", "left behind" if kept(old, upstream) else "lost")
        assert (change.action, change.data) == (("created", "none") if after else removed)
        return
    if place(before) != place(after):
        assert change is not None
        assert (change.action, change.restart, change.data) == ("changed", True, "lost")
        return
    assert (change is not None and change.action == "refused") != possible(was, will)
    if change is not None and change.action == "refused":
        return
    for immutable in ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"):
        assert before["spec"][immutable] == after["spec"][immutable]
    restarts = before["spec"]["template"] != after["spec"]["template"]
    assert (change is not None and change.restart) == restarts
    assert (change is not None) == (was != will)
    assert change is None or change.data == "kept"


def check_nodes(change: Change | None, old: list[Object], new: list[Object]) -> None:
    sets = [by_kind(objects, "DaemonSet") for objects in (old, new)]
    if not sets[0] or not sets[1]:
        assert (change.action if change else None) == (
            "created" if sets[1] and not sets[0] else "removed" if sets[0] else None
        )
        return
    before, after = (without(found[0], "team") for found in sets)
    assert before is not None
    assert after is not None
    restarts = place(before) != place(after) or before["spec"]["template"] != after["spec"]["template"]
    assert (change is not None and change.restart) == restarts
    assert (change is not None) == (before != after)


def compared(pair: tuple[dict[str, Any], dict[str, Any]], old: list[Object], new: list[Object]) -> Plan:
    """Return the plan from one values file to another, after comparing it with the two renderings."""
    made = plan(*map(load_values, pair))
    by_upstream = {change.upstream: change for change in made.changes if change.part == "cache"}
    for upstream in {cache["upstream"] for values in pair for cache in values["caches"]}:
        check_cache(by_upstream.get(upstream), old, new, upstream)
    parts = {change.part: change for change in made.changes if change.part != "cache"}
    check_nodes(parts.get("nodes"), old, new)
    dashboards = [
        [without(one, "team") for one in by_kind(objects, "ConfigMap") if "dashboard" in one["metadata"]["name"]]
        for objects in (old, new)
    ]
    assert ("dashboard" in parts) == (dashboards[0] != dashboards[1])
    scraped = [[without(one, "team") for one in by_kind(objects, "PodMonitor")] for objects in (old, new)]
    assert "monitoring" in parts or scraped[0] == scraped[1] or "nodes" in parts
    teams = [{one["metadata"]["labels"].get("team") for one in objects if is_own(one)} for objects in (old, new)]
    assert ("labels" in parts) == (teams[0] != teams[1])
    accounts = [[without(one, "team") for one in by_kind(objects, "ServiceAccount")] for objects in (old, new)]
    assert "service accounts" in parts or accounts[0] == accounts[1] or place_of_all(old) != place_of_all(new)
    assert bool({change.part for change in made.changes} - {"test"}) == (normal(old) != normal(new))
    return made


def is_own(found: Object) -> bool:
    """Whether an object is the chart's own and not one of extraObjects."""
    return "app.kubernetes.io/name" in found["metadata"]["labels"]


def place_of_all(objects: list[Object]) -> tuple[str, str]:
    """Return the namespace and the prefix of all objects, taken from one that always exists."""
    (test,) = by_kind(objects, "Pod")
    return place(test)


@pytest.fixture
def rendered(tmp_path: Path) -> Callable[[object], list[Object]]:
    """Render values files, as release registry-cache."""

    def objects(values: object) -> list[Object]:
        path = tmp_path / "values.yaml"
        path.write_text(json.dumps(values))
        text = render_text.__wrapped__(path, release="registry-cache")
        return [found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if found]

    return objects


@pytest.mark.slow
def test_plan_matches_the_differences_between_the_renderings(rendered: Callable[[object], list[Object]]) -> None:
    seen: Counter[str] = Counter()

    # no shrinking: a rendering takes a fifth of a second, so it would take minutes
    @settings(max_examples=160, derandomize=True, phases=[Phase.explicit, Phase.generate])
    @given(pairs())
    @example((ONE, {"caches": [{"upstream": "docker.io", "serviceNameSuffix": "suffix"}]}))
    @example((ONE, {**ONE, "nodeProgram": {"enabled": False}}))
    @example(({**ONE, "nodeProgram": {"enabled": False}}, ONE))
    @example((ONE, {**ONE, "nodeProgram": {"updateStrategy": {"type": "OnDelete"}}}))
    @example((ONE, {**ONE, "extraObjects": ["{apiVersion: v1, kind: Secret, metadata: {name: x, labels: {}}}"]}))
    def check(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
        made = compared(pair, *map(rendered, pair))
        seen.update(f"{one.part} {one.action} {one.restart} {one.data}" for one in made.changes)
        seen.update(["nothing"] if not made.changes else [])

    check()
    assert set(seen) == {
        "nothing",
        "cache created False none",
        "cache removed False left behind",
        "cache removed False lost",
        "cache changed True kept",
        "cache changed False kept",
        "cache changed True lost",
        "cache refused False kept",
        "nodes created False none",
        "nodes removed False none",
        "nodes changed True none",
        "nodes changed False none",
        "dashboard changed False none",
        "monitoring changed False none",
        "labels changed False none",
        "test changed False none",
        "service accounts changed False none",
        "extra objects changed False none",
    }, "every kind of change was made"


@pytest.mark.slow
def test_each_setting_alone_does_what_the_plan_says(rendered: Callable[[object], list[Object]]) -> None:
    """For a cache with one replica and one with two."""
    old = {"caches": [*ONE["caches"], {"upstream": "quay.io", "highAvailability": {"enabled": True}}]}
    before = rendered(old)
    of_upstream = [{"upstreamSettings": {"quay.io": one}} for one in UPSTREAM_SETTINGS if "proxySecretName" not in one]
    for setting in [*SETTINGS, *of_upstream]:
        new = {**old, **setting}
        try:
            compared((old, new), before, rendered(new))
        except AssertionError as error:
            error.add_note(f"{setting}")
            raise


def normal(objects: list[Object]) -> list[Object]:
    """Return all objects except those of the test, with the sizes of volumes as numbers of bytes."""
    plain = [one for one in json.loads(json.dumps(objects)) if "helm.sh/hook" not in str(one["metadata"])]
    for found in by_kind(plain, "PersistentVolumeClaim"):
        found["spec"]["resources"]["requests"]["storage"] = str(storage(found)[0])
    return sorted(plain, key=lambda one: (str(one["kind"]), str(one["metadata"]["name"])))
