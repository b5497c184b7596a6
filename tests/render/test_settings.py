"""The effect of each setting that users of Helm charts expect, and its default."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from registry_cache.model.pods import Images
from rendering import Object, RenderingFailed, by_kind, names, pod_specs, render, render_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Chart = Callable[..., list[Object]]

TWO_REPLICAS = {"upstream": "docker.io", "highAvailability": {"enabled": True}}
TEAM = {"example.com/team": "platform"}
DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def chart(tmp_path: Path) -> Chart:
    """Render the chart for caches of Docker Hub and quay.io with some values."""

    def rendered(**values: Any) -> list[Object]:
        text = json.dumps({"caches": [{"upstream": "docker.io"}, {"upstream": "quay.io"}], **values})
        path = tmp_path / f"{sha256(text.encode()).hexdigest()}.yaml"
        path.write_text(text)
        return render(path)

    return rendered


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [one for one in by_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


def cache(objects: list[Object], upstream: str = "docker-io") -> Object:
    """The StatefulSet of a cache."""
    return named(objects, "StatefulSet", f"x-registry-cache-{upstream}")


def spec(workload: Object) -> Object:
    """The spec of a workload's pod."""
    found: Object = workload["spec"]["template"]["spec"]
    return found


def node(objects: list[Object]) -> Object:
    """The DaemonSet."""
    (found,) = by_kind(objects, "DaemonSet")
    return found


def container(workload: Object, name: str) -> Object:
    (found,) = [one for one in spec(workload)["containers"] if one["name"] == name]
    return found


def images(objects: list[Object]) -> set[str]:
    found = [one for _, pod in pod_specs(objects) for one in (*pod["containers"], *pod.get("initContainers", ()))]
    return {one["image"] for one in found}


@pytest.mark.parametrize("registry", ["registry.example.com:5000", "registry.example.com:5000/"])
def test_global_registry_wins_over_those_of_the_images(chart: Chart, registry: str) -> None:
    of_images = {"nginx": {"registry": "quay.io", "digest": DIGEST}}
    assert images(chart(images=of_images, **{"global": {"imageRegistry": registry}})) == {
        f"registry.example.com:5000/library/registry:{Images().distribution.tag}",
        f"registry.example.com:5000/library/nginx@{DIGEST}",
        f"registry.example.com:5000/library/python:{Images().python.tag}",
    }
    assert f"quay.io/library/nginx@{DIGEST}" in images(chart(images=of_images))


def test_global_registry_may_have_a_path(chart: Chart) -> None:
    rendered = images(chart(**{"global": {"imageRegistry": "a.b/mirror/hub"}}))
    assert f"a.b/mirror/hub/library/python:{Images().python.tag}" in rendered


def test_global_and_own_pull_secrets_are_merged_without_duplicates(chart: Chart) -> None:
    objects = chart(
        imagePullSecrets=["own", {"name": "both"}], **{"global": {"imagePullSecrets": [{"name": "all"}, "both"]}}
    )
    for _, pod in pod_specs(objects):
        assert pod["imagePullSecrets"] == [{"name": "all"}, {"name": "both"}, {"name": "own"}]
    assert not any("imagePullSecrets" in pod for _, pod in pod_specs(chart()))


def test_all_objects_are_in_the_namespace_that_overrides_the_releases(chart: Chart) -> None:
    objects = chart(namespaceOverride="elsewhere", monitoring={"podMonitor": {"enabled": True}})
    assert {one["metadata"]["namespace"] for one in objects} == {"elsewhere"}
    assert {one["metadata"]["namespace"] for one in chart()} == {"space"}
    (config,) = [json.loads(one["data"]["node.json"]) for one in objects if "node.json" in one.get("data", {})]
    assert config["owner"] == "elsewhere/x-registry-cache"
    assert ".elsewhere.svc" in json.dumps(config["caches"])


def test_common_labels_are_on_all_objects_and_pod_labels_on_pods(chart: Chart) -> None:
    labels = {"team": "platform", "app": "mine"}
    objects = chart(
        commonLabels=labels, cachePods={"podLabels": {"pod": "a", **labels}}, nodeProgram={"podLabels": labels}
    )
    assert {one["metadata"]["labels"]["team"] for one in objects} == {"platform"}
    for workload in (cache(objects), node(objects)):
        pod = workload["spec"]["template"]["metadata"]["labels"]
        assert pod["team"] == "platform"
        assert workload["spec"]["selector"]["matchLabels"].items() <= pod.items(), "the chart's own labels win"
    assert "team" not in cache(chart())["spec"]["template"]["metadata"]["labels"]


def test_extra_objects_are_templates(chart: Chart) -> None:
    metadata = {"name": "{{ .Release.Name }}-map", "namespace": '{{ include "registry-cache.namespace" . }}'}
    text = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Release.Name }}-text\n"
    objects = chart(extraObjects=[{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}, text])
    assert named(objects, "ConfigMap", "x-map")["metadata"]["namespace"] == "space"
    assert named(objects, "Secret", "x-text")
    assert names([one for one in objects if one["metadata"]["name"] not in ("x-map", "x-text")]) == names(chart())


@pytest.mark.parametrize("part", ["cachePods", "nodeProgram"])
def test_pods_are_scheduled_as_the_values_say(chart: Chart, part: str) -> None:
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    settings = {
        "priorityClassName": "high",
        "nodeSelector": {"pool": "x"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": affinity,
        "revisionHistoryLimit": 7,
        "podAnnotations": TEAM,
    }
    objects = chart(**{part: settings})
    workload = cache(objects) if part == "cachePods" else node(objects)
    pod = spec(workload)
    assert {key: pod[key] for key in ("priorityClassName", "tolerations")} == {
        "priorityClassName": "high",
        "tolerations": settings["tolerations"],
    }
    # Helm merges it over the default, which keeps the node program off virtual nodes.
    default = spec(node(chart()))["affinity"]["nodeAffinity"] if part == "nodeProgram" else {}
    assert pod["affinity"] == {"nodeAffinity": {**default, **affinity["nodeAffinity"]}}
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "x"}
    assert workload["spec"]["revisionHistoryLimit"] == 7
    assert TEAM.items() <= workload["spec"]["template"]["metadata"]["annotations"].items()
    assert "affinity" not in spec(cache(chart()))


def test_settings_of_one_upstream_replace_the_shared_ones(chart: Chart) -> None:
    shared = {
        "priorityClassName": "low",
        "nodeSelector": {"pool": "x"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
    }
    own = {
        "priorityClassName": "high",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [],
        "affinity": {"podAffinity": {}},
        "resources": {"gate": {"limits": {"memory": "1Gi"}}},
        "clusterIP": "10.96.0.100",
    }
    objects = chart(cachePods=shared, upstreamSettings={"quay.io": own})
    other = spec(cache(objects))
    assert other["nodeSelector"] == {"kubernetes.io/os": "linux", "pool": "x"}
    assert other["priorityClassName"] == "low"
    quay = spec(cache(objects, "quay-io"))
    assert (quay["nodeSelector"], quay["priorityClassName"]) == ({"disk": "ssd"}, "high")
    assert quay["affinity"] == {"podAffinity": {}}
    assert "tolerations" not in quay
    assert container(cache(objects, "quay-io"), "gate")["resources"] == {"limits": {"memory": "1Gi"}}
    front = [container(cache(objects, name), "front")["resources"] for name in ("quay-io", "docker-io")]
    assert front[0] == front[1], "only the resources of the named container are replaced"
    assert named(objects, "Service", "x-registry-cache-quay-io")["spec"]["clusterIP"] == "10.96.0.100"
    assert "clusterIP" not in named(objects, "Service", "x-registry-cache-docker-io")["spec"]


@pytest.mark.parametrize("part", ["cachePods", "nodeProgram"])
def test_security_contexts_are_merged_over_the_defaults_and_null_removes_a_key(chart: Chart, part: str) -> None:
    """On OpenShift, the namespace sets the user and the group; SELinux may need a type."""
    pods = {"runAsUser": None, "runAsGroup": None, "seLinuxOptions": {"level": "s0:c1,c2"}}
    if part == "cachePods":
        pods["fsGroup"] = None
    containers = {"readOnlyRootFilesystem": None, "seLinuxOptions": {"type": "spc_t"}}
    objects = chart(**{part: {"podSecurityContext": pods, "containerSecurityContext": containers}})
    workload = cache(objects) if part == "cachePods" else node(objects)
    context = spec(workload)["securityContext"]
    assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(context)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["seLinuxOptions"] == {"level": "s0:c1,c2"}
    for one in spec(workload)["containers"]:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seLinuxOptions": {"type": "spc_t"},
        }
    if part == "cachePods":
        (test,) = by_kind(objects, "Pod")
        assert test["spec"]["securityContext"] == context, "helm test runs where the caches do"


@pytest.mark.parametrize(("part", "component"), [("cachePods", "cache"), ("nodeProgram", "node")])
@pytest.mark.parametrize(
    ("account", "name", "created"),
    [
        pytest.param({}, None, False, id="default"),
        pytest.param({"create": True, "annotations": TEAM}, "x-registry-cache-{}", True, id="created"),
        pytest.param({"create": True, "name": "mine"}, "mine", True, id="created-with-a-name"),
        pytest.param({"name": "mine"}, "mine", False, id="existing"),
    ],
)
def test_service_account_of_pods(  # noqa: PLR0913 - a table
    chart: Chart, part: str, component: str, account: dict[str, Any], name: str | None, *, created: bool
) -> None:
    objects = chart(**{part: {"serviceAccount": account}})
    expected = name.format(component) if name else None
    pod = spec(cache(objects) if part == "cachePods" else node(objects))
    assert pod.get("serviceAccountName") == expected
    assert pod["automountServiceAccountToken"] is False
    accounts = by_kind(objects, "ServiceAccount")
    assert [one["metadata"]["name"] for one in accounts] == ([expected] if created else [])
    for one in accounts:
        assert one["automountServiceAccountToken"] is False
        assert one["metadata"].get("annotations") == account.get("annotations")


def test_service_account_of_a_disabled_node_program_is_not_created(chart: Chart) -> None:
    assert by_kind(chart(nodeProgram={"enabled": False, "serviceAccount": {"create": True}}), "ServiceAccount") == []


def test_caches_have_as_many_replicas_as_the_values_say(chart: Chart) -> None:
    caches = [{"upstream": upstream} for upstream in ("docker.io", "quay.io", "ghcr.io")]
    caches[2] |= {"highAvailability": {"enabled": True}}
    settings = {"quay.io": {"replicas": 4}}
    for shared, counts in ((1, [1, 4, 2]), (3, [3, 4, 3])):
        objects = chart(caches=caches, upstreamSettings=settings, cachePods={"replicas": shared})
        claims = [claim["metadata"]["name"] for claim in by_kind(objects, "PersistentVolumeClaim")]
        budgets = [budget["metadata"]["name"] for budget in by_kind(objects, "PodDisruptionBudget")]
        for upstream, count in zip(("docker-io", "quay-io", "ghcr-io"), counts, strict=True):
            name = f"x-registry-cache-{upstream}"
            assert cache(objects, upstream)["spec"]["replicas"] == count
            assert [f"cache-volume-{name}-{ordinal}" in claims for ordinal in range(count + 1)] == [True] * count + [
                False
            ]
            config = json.loads(named(objects, "ConfigMap", name)["data"]["cache.json"])
            hosts = [replica["host"] for replica in config["replicas"]]
            assert hosts == [f"{name}-{ordinal}.{name}--peers.space.svc" for ordinal in range(count) if count > 1]
            assert (name in budgets) == (count > 1)


def test_replicas_know_their_zone_if_each_zone_has_an_owner(chart: Chart) -> None:
    def zones(**values: Any) -> list[Any]:
        gate = container(cache(chart(**values)), "gate")
        return [one["valueFrom"] for one in gate["env"] if one["name"] == "REGISTRY_CACHE_ZONE"]

    label = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['topology.kubernetes.io/zone']"}}
    assert zones(cachePods={"ownerPerZone": True, "replicas": 2}) == [label]
    assert zones(cachePods={"ownerPerZone": True}) == []
    assert zones(cachePods={"replicas": 2}) == []


def test_replicas_are_spread_as_the_values_say(chart: Chart) -> None:
    zones = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    own = {**zones, "labelSelector": {"matchLabels": {"mine": "yes"}}}
    objects = chart(caches=[TWO_REPLICAS], cachePods={"topologySpreadConstraints": [zones, own]})
    selector = cache(objects)["spec"]["selector"]
    assert spec(cache(objects))["topologySpreadConstraints"] == [{**zones, "labelSelector": selector}, own]
    none = chart(caches=[TWO_REPLICAS], cachePods={"topologySpreadConstraints": []})
    assert "topologySpreadConstraints" not in spec(cache(none))


def test_disruption_budget_has_the_settings_of_the_values(chart: Chart) -> None:
    budget = {"maxUnavailable": "50%", "unhealthyPodEvictionPolicy": "IfHealthyBudget"}
    (found,) = by_kind(chart(caches=[TWO_REPLICAS], cachePods={"podDisruptionBudget": budget}), "PodDisruptionBudget")
    assert budget.items() <= found["spec"].items()
    off = {"podDisruptionBudget": {"enabled": False}}
    assert by_kind(chart(caches=[TWO_REPLICAS], cachePods=off), "PodDisruptionBudget") == []


def test_pods_have_the_dns_settings_of_the_values(chart: Chart) -> None:
    settings = {
        "dnsConfig": {"nameservers": ["10.0.0.53"]},
        "hostAliases": [{"ip": "10.0.0.7", "hostnames": ["registry.example.com"]}],
    }
    pod = spec(cache(chart(cachePods=settings)))
    assert {key: pod[key] for key in settings} == settings
    assert not set(settings) & set(spec(cache(chart())))


def test_extra_volume_is_mounted_into_the_gate(chart: Chart) -> None:
    volume = {"name": "secrets", "csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": True}}
    mount = {"name": "secrets", "mountPath": "/mnt/secrets", "readOnly": True}
    workload = cache(chart(cachePods={"extraVolumes": [volume], "extraVolumeMounts": [mount]}))
    assert volume in spec(workload)["volumes"]
    assert mount in container(workload, "gate")["volumeMounts"]
    assert mount not in container(workload, "front")["volumeMounts"]


def test_probes_have_the_timings_of_the_values(chart: Chart) -> None:
    liveness = {"periodSeconds": 11, "timeoutSeconds": 12, "failureThreshold": 13}
    readiness = {"periodSeconds": 21, "timeoutSeconds": 22, "failureThreshold": 23}
    workload = cache(chart(cachePods={"livenessProbe": liveness, "readinessProbe": readiness}))
    for one in spec(workload)["containers"]:
        assert liveness.items() <= one["livenessProbe"].items()
        assert one["livenessProbe"]["terminationGracePeriodSeconds"] == 1
    assert readiness.items() <= container(workload, "front")["readinessProbe"].items()


def test_services_have_the_settings_of_the_values(chart: Chart) -> None:
    families = {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6", "IPv4"]}
    traffic = {"internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose"}
    service = {"annotations": {**TEAM, "upstream": "mine"}, **families, **traffic}
    objects = chart(caches=[TWO_REPLICAS], cachePods={"service": service})
    own = named(objects, "Service", "x-registry-cache-docker-io")
    assert {**families, **traffic}.items() <= own["spec"].items()
    assert own["metadata"]["annotations"] == {
        **TEAM,
        "upstream": "docker.io",
        "remote-url": "https://registry-1.docker.io",
    }
    peers = named(objects, "Service", "x-registry-cache-docker-io--peers")
    assert families.items() <= peers["spec"].items()
    assert not set(traffic) & set(peers["spec"])
    plain = named(chart(), "Service", "x-registry-cache-docker-io")
    assert not {*families, *traffic} & set(plain["spec"])


def test_claims_have_the_settings_of_the_values(chart: Chart) -> None:
    settings = {"accessModes": ["ReadWriteOncePod"], "labels": {"backup": "never", "app": "mine"}, "annotations": TEAM}
    objects = chart(cachePods={"volumeClaims": settings})
    for claim in by_kind(objects, "PersistentVolumeClaim"):
        assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
        assert claim["metadata"]["labels"]["backup"] == "never"
        assert claim["metadata"]["labels"]["app"] != "mine"
        assert claim["metadata"]["annotations"] == TEAM
    (template,) = cache(objects)["spec"]["volumeClaimTemplates"]
    assert template["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert "backup" not in template["metadata"]["labels"], "a StatefulSet's template can never change"


def test_helm_test_pulls_the_images_that_the_chart_knows_unless_the_values_name_others(chart: Chart) -> None:
    def pulled(**images: str) -> dict[str, str]:
        values = {"helmTest": {"images": {name.replace("_", "."): image for name, image in images.items()}}}
        (config,) = [one for one in by_kind(chart(**values), "ConfigMap") if "caches.json" in one["data"]]
        return {one["upstream"]: one["image"] for one in json.loads(config["data"]["caches.json"])["caches"]}

    known = {"docker.io": "library/busybox:latest", "quay.io": "prometheus/busybox:latest"}
    assert pulled() == known
    assert pulled(docker_io="library/alpine:3") == {**known, "docker.io": "library/alpine:3"}
    assert pulled(docker_io="") == {**known, "docker.io": ""}, "which only asks the cache for an answer"


def test_fixed_address_must_be_an_ip_address(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    settings = {"docker.io": {"clusterIP": "None"}}
    path.write_text(json.dumps({"caches": [{"upstream": "docker.io"}], "upstreamSettings": settings}))
    with pytest.raises(RenderingFailed, match="clusterIP"):
        render_text(path)
