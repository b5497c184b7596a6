"""The objects of each cache: volumes, replicas, configuration, credentials."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from gate.__main__ import STATUS_PORT
from machine.paths import CHART
from rendering import (
    PRIVATE,
    THREE,
    by_kind,
    configurations,
    configurations_of,
    container_of,
    render,
    render_text,
    scenarios,
    written,
)

if TYPE_CHECKING:
    from pathlib import Path


@scenarios
def test_each_replica_has_the_claim_that_its_statefulset_would_create(values: Path) -> None:
    """The StatefulSet adopts it by its name; its labels include those of the template."""
    objects = render(values)
    expected = {}
    for found in by_kind(objects, "StatefulSet"):
        (template,) = found["spec"]["volumeClaimTemplates"]
        for replica in range(found["spec"]["replicas"]):
            expected[f"{template['metadata']['name']}-{found['metadata']['name']}-{replica}"] = template
    claims = {found["metadata"]["name"]: found for found in by_kind(objects, "PersistentVolumeClaim")}
    assert sorted(claims) == sorted(expected)
    for name, claim in claims.items():
        template = expected[name]
        assert template["metadata"]["labels"].items() <= claim["metadata"]["labels"].items()
        assert template["spec"]["accessModes"] == claim["spec"]["accessModes"]


def test_volume_has_the_size_and_class_of_the_values() -> None:
    claims = {
        found["metadata"]["labels"]["upstream-host"]: found["spec"]
        for found in by_kind(render(THREE), "PersistentVolumeClaim")
    }
    assert claims["docker.io"]["resources"]["requests"]["storage"] == "20Gi"
    assert claims["quay.io"]["resources"]["requests"]["storage"] == "10Gi"
    assert claims["quay.io"]["storageClassName"] == "fast"
    assert "storageClassName" not in claims["docker.io"]


def test_statefulset_never_changes_with_the_volume(tmp_path: Path) -> None:
    """Kubernetes would refuse a change of its template of claims, and a change of the pod would be a restart."""
    found = []
    for volume in ({}, {"size": "1Mi"}, {"size": "1Ti", "storageClassName": "fast"}):
        document = {"caches": [{"upstream": "docker.io", "volume": volume}]}
        found += by_kind(render(written(tmp_path, document)), "StatefulSet")
    assert found[0] == found[1] == found[2]
    (template,) = found[0]["spec"]["volumeClaimTemplates"]
    assert template["spec"]["resources"] == {"requests": {"storage": "1"}}, "which is no more than any volume has"
    assert "storageClassName" not in template["spec"]


def test_volume_is_kept_only_with_the_retention_policy_retain(tmp_path: Path) -> None:
    kept = {
        "helm.sh/resource-policy": "keep",
        "argocd.argoproj.io/sync-options": "Delete=false,Prune=false",
    }
    for retention, expected in (("Delete", None), ("Retain", kept)):
        document = {
            "caches": [{"upstream": "docker.io"}],
            "cachePods": {"volumeClaims": {"retentionPolicy": retention}},
        }
        (claim,) = by_kind(render(written(tmp_path, document)), "PersistentVolumeClaim")
        assert claim["metadata"].get("annotations") == expected


def test_claim_records_the_storage_class_of_the_values() -> None:
    """The cluster fills in a default class, which must count as the same."""
    said = {
        found["metadata"]["labels"]["upstream-host"]: found["metadata"].get("annotations")
        for found in by_kind(render(THREE), "PersistentVolumeClaim")
    }
    assert said == {"docker.io": None, "registry.k8s.io": None, "quay.io": {"registry-cache/storage-class": "fast"}}


def test_two_replicas_find_each_other_and_are_spread_over_the_nodes(tmp_path: Path) -> None:
    caches = [{"upstream": "docker.io", "highAvailability": {"enabled": True}}, {"upstream": "quay.io"}]
    objects = render(written(tmp_path, {"caches": caches}))
    two, one = sorted(by_kind(objects, "StatefulSet"), key=lambda found: str(found["metadata"]["name"]))
    assert (two["spec"]["replicas"], one["spec"]["replicas"]) == (2, 1)
    (constraint,) = two["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert constraint["labelSelector"] == two["spec"]["selector"]
    assert constraint["topologyKey"] == "kubernetes.io/hostname"
    assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", "the only node of a cluster takes both"
    assert "topologySpreadConstraints" not in one["spec"]["template"]["spec"]
    (peers,) = [found for found in by_kind(objects, "Service") if found["spec"].get("clusterIP") == "None"]
    assert peers["metadata"]["name"] == two["spec"]["serviceName"] == "x-registry-cache-docker-io--peers"
    assert peers["spec"]["publishNotReadyAddresses"] is True
    assert peers["spec"]["selector"] == two["spec"]["selector"]["matchLabels"]


def test_drain_can_evict_one_of_two_replicas_and_always_a_single_one(tmp_path: Path) -> None:
    caches = [{"upstream": "docker.io", "highAvailability": {"enabled": True}}, {"upstream": "quay.io"}]
    objects = render(written(tmp_path, {"caches": caches}))
    (budget,) = by_kind(objects, "PodDisruptionBudget")
    (two,) = [found for found in by_kind(objects, "StatefulSet") if found["spec"]["replicas"] == 2]
    assert budget["spec"] == {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": two["spec"]["selector"],
    }


def test_second_replica_changes_no_immutable_field(tmp_path: Path) -> None:
    made = []
    for enabled in (False, True):
        document = {"caches": [{"upstream": "docker.io", "highAvailability": {"enabled": enabled}}]}
        (found,) = by_kind(render(written(tmp_path, document)), "StatefulSet")
        changeable = ("replicas", "template", "updateStrategy", "minReadySeconds", "revisionHistoryLimit")
        made.append({key: value for key, value in found["spec"].items() if key not in changeable})
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("quantity", "number"),
    [
        ("1", 1),
        ("+1.5E", 1500 * 10**15),
        ("1500e15", 1500 * 10**15),
        ("1E3", 1000),
        ("1E", 10**18),
        ("10Gi", 10 * 2**30),
        ("10240Mi", 10 * 2**30),
        ("1.5Ti", 1536 * 2**30),
        (".5Ki", 512),
        ("007.k", 7000),
        ("5000000000000000m", 5 * 10**12),
        ("123e-1", 12),
        ("8Ei", 8 * 2**60),
        (10737418240, 10 * 2**30),
        ("107374182400m", 107374182),
        ("0.1Gi", 107374182),
    ],
)
def test_chart_reads_quantities_as_kubernetes_does(quantity: object, number: int, tmp_path: Path) -> None:
    """The check of existing claims compares them; tests/cluster tests that check."""
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(json.dumps({"apiVersion": "v2", "name": "bytes", "version": "1.0.0"}))
    shutil.copy(CHART / "templates" / "_quantities.tpl", chart / "templates")
    (chart / "templates" / "made.yaml").write_text('made: {{ include "registry-cache.bytes" .Values.quantity }}')
    text = render_text(written(tmp_path, {"quantity": quantity}), chart=chart)
    assert yaml.safe_load(text) == {"made": number}


def test_configuration_of_the_caches() -> None:
    three = configurations(THREE)
    assert three["docker.io"]["remoteURL"] == "https://registry-1.docker.io"
    assert three["registry.k8s.io"]["remoteURL"] == "https://registry.k8s.io"
    assert {one["tagCheckInterval"] for one in three.values()} == {"5s"}
    assert {one["fetchAhead"] for one in three.values()} == {"Adaptive"}
    (private,) = configurations(PRIVATE).values()
    assert private["remoteURL"] == "http://registry.example.com:5000"
    assert private["httpProxy"] == private["httpsProxy"] == "http://proxy.example.com:3128"
    assert ".svc" in private["noProxy"]


def test_distribution_only_serves_stored_content() -> None:
    (program,) = [one["data"] for one in by_kind(render(THREE), "ConfigMap") if "distribution.yml" in one["data"]]
    config = yaml.safe_load(program["distribution.yml"])
    assert config["storage"]["maintenance"]["readonly"] == {"enabled": True}
    assert "cache" not in config["storage"], "with a cache of descriptors, a blob shared by two images can come empty"
    assert "proxy" not in config
    assert config["http"]["net"] == "unix"
    assert "debug" not in config["http"], "its port would be open to all pods, with profiles of the process"


def test_repositories_that_a_cache_serves_can_be_listed(tmp_path: Path) -> None:
    document = {
        "caches": [{"upstream": "docker.io"}, {"upstream": "quay.io"}],
        "upstreamSettings": {"docker.io": {"allowedRepositories": ["library/*", "team/app"]}},
    }
    allowed = {
        name: one["allowedRepositories"] for name, one in configurations_of(render(written(tmp_path, document))).items()
    }
    assert allowed == {"docker.io": ["library/*", "team/app"], "quay.io": []}


def test_pullers_of_one_cache_may_have_to_show_their_own_credentials(tmp_path: Path) -> None:
    document = {
        "caches": [{"upstream": "docker.io", "http": {"tls": True}}, {"upstream": "quay.io"}],
        "upstreamSettings": {"docker.io": {"access": "Puller", "clusterIP": "10.96.0.100"}},
        "cachePods": {"accessCheckInterval": "1m"},
    }
    objects = render(written(tmp_path, document))
    configured = {
        name: (one["access"], one["accessCheckInterval"], one["accessGracePeriod"])
        for name, one in configurations_of(objects).items()
    }
    assert configured == {"docker.io": ("Puller", "1m", "1h"), "quay.io": ("Anyone", "1m", "1h")}
    commands = [
        container["command"][-1]
        for one in by_kind(objects, "StatefulSet")
        for container in one["spec"]["template"]["spec"]["containers"]
        if container["name"] == "front"
    ]
    # While the gate is away, distribution answers for the second cache only.
    assert ["set $needs_gate yes;" in command for command in commands] == [True, False]


def test_cache_knows_whom_the_user_trusts_beside_the_upstream(tmp_path: Path) -> None:
    trusted = {"tokenServers": ["auth.example.org"], "allowedNetworks": ["10.0.0.0/8", "fd00::/8"]}
    document = {
        "caches": [{"upstream": "docker.io"}, {"upstream": "quay.io"}],
        "upstreamSettings": {"docker.io": trusted},
    }
    found = configurations_of(render(written(tmp_path, document)))
    assert {name: found["docker.io"][name] for name in trusted} == trusted
    assert {name: found["quay.io"][name] for name in trusted} == {name: [] for name in trusted}


def test_credentials_are_mounted_and_appear_nowhere_else() -> None:
    objects = render(PRIVATE)
    (stateful_set,) = by_kind(objects, "StatefulSet")
    volume = next(v for v in stateful_set["spec"]["template"]["spec"]["volumes"] if v["name"] == "credentials")
    assert volume["secret"] == {"secretName": "registry-example-com", "defaultMode": 0o440, "optional": True}
    assert not by_kind(objects, "Secret")
    for found in by_kind(objects, "ConfigMap"):
        assert "registry-example-com" not in re.sub(
            "the Secret registry-example-com|registry-example-com-[0-9a-f]{8}", "", json.dumps(found["data"])
        )


@pytest.mark.parametrize("kind", ["configMap", "secret"])
def test_authority_and_credentials_of_a_proxy_are_mounted_only_for_their_cache(kind: str, tmp_path: Path) -> None:
    settings = {"configMap": {"caConfigMapName": "authority"}, "secret": {"caSecretName": "authority"}}[kind]
    document = {
        "caches": [{"upstream": "docker.io"}, {"upstream": "a.b:5000", "proxy": {"httpsProxy": "http://proxy:1"}}],
        "upstreamSettings": {"a.b:5000": {**settings, "proxySecretName": "login"}},
    }
    objects = render(written(tmp_path, document))
    plain, own = sorted(by_kind(objects, "StatefulSet"), key=lambda one: "a-b" in one["metadata"]["name"])
    volumes = {volume["name"]: volume for volume in own["spec"]["template"]["spec"]["volumes"]}
    assert volumes["ca"][kind].get("name", volumes["ca"][kind].get("secretName")) == "authority"
    assert volumes["proxy-credentials"]["secret"]["secretName"] == "login"
    assert not {"ca", "proxy-credentials"} & {one["name"] for one in plain["spec"]["template"]["spec"]["volumes"]}
    told = {name: (one["caFile"], one["proxyCredentials"]) for name, one in configurations_of(objects).items()}
    mounts = {one["name"]: one["mountPath"] for one in container_of(own, "gate")["volumeMounts"]}
    assert told == {"docker.io": ("", ""), "a.b-5000": (f"{mounts['ca']}/ca.crt", mounts["proxy-credentials"])}


def test_another_cache_does_not_change_the_objects_of_the_others(tmp_path: Path) -> None:
    one = render(written(tmp_path, {"caches": [{"upstream": "docker.io"}]}))
    two = render(written(tmp_path, {"caches": [{"upstream": "quay.io"}, {"upstream": "docker.io"}]}))
    wanted = [found for found in one if found["metadata"]["labels"]["app.kubernetes.io/component"] == "cache"]
    kinds = ["ConfigMap", "ConfigMap", "PersistentVolumeClaim", "Service", "StatefulSet"]
    assert sorted(found["kind"] for found in wanted) == kinds
    for found in wanted:
        assert found in two


@pytest.mark.parametrize(
    ("change", "restarted"),
    [
        ({"remoteURL": "https://mirror.example.com"}, ["x-registry-cache-docker-io"]),
        ({"garbageCollection": {"ttl": "1h"}}, []),
        ({"volume": {"size": "20Gi"}}, []),
    ],
)
def test_change_restarts_only_that_cache_or_none(change: dict[str, Any], restarted: list[str], tmp_path: Path) -> None:
    def templates(change: dict[str, Any]) -> dict[str, Any]:
        caches = [{"upstream": "docker.io", **change}, {"upstream": "quay.io"}]
        return {
            found["metadata"]["name"]: found["spec"]["template"]
            for found in by_kind(render(written(tmp_path, {"caches": caches})), "StatefulSet")
        }

    before, after = templates({}), templates(change)
    assert [name for name in before if before[name] != after[name]] == restarted


def test_ports_of_the_programs_are_those_of_the_chart() -> None:
    """The chart has them in the record of a cache, and nginx and the gate in their own files."""
    objects = render(THREE)
    (service, *_) = by_kind(objects, "Service")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    (front, *_) = by_kind(objects, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"]
    assert f"listen {ports['registry-cache']} " in front["command"][-1]
    assert ports["debug"] == STATUS_PORT


@scenarios
def test_workers_of_the_front_may_together_use_less_memory_than_their_container(values: Path) -> None:
    """The kernel would end nginx if they used more; a worker that may use no more closes connections."""
    workers = int(
        re.findall(r"^worker_processes (\d+);$", (CHART / "files/front/nginx.conf").read_text(), re.MULTILINE)[0]
    )
    for found in by_kind(render(values), "StatefulSet"):
        front = container_of(found, "front")
        (limit,) = [one for one in front["env"] if one["name"] == "MEMORY_LIMIT_KIB"]
        reference = {"resource": "limits.memory", "divisor": "1Ki"}
        assert limit["valueFrom"] == {"resourceFieldRef": reference}
        (share,) = re.findall(r"ulimit -d \$\(\(MEMORY_LIMIT_KIB / (\d+)\)\)", front["command"][-1])
        assert int(share) > workers
