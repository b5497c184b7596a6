"""Every object that the chart renders, for each shape of values that it supports."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from rendering import (
    EVERYTHING,
    by_kind,
    container_of,
    names,
    pod_specs,
    render,
    render_text,
    scenarios,
    written,
)

PROGRAMS = ("x-registry-cache-cache", "all-caches-cache")  # one ConfigMap for all caches
OF_ALL_CACHES = ("all-caches-ca", "certificate-of-nodes")  # certificates in the complete values file


INVENTORY = Path(__file__).with_name("inventory.yaml")


@scenarios
def test_inventory_is_exact(values: Path) -> None:
    assert names(render(values)) == yaml.safe_load(INVENTORY.read_text())[values.name.removesuffix("-values.yaml")]


@scenarios
def test_two_renderings_are_the_same_bytes(values: Path) -> None:
    first = render_text(values)
    render_text.cache_clear()
    assert render_text(values) == first


@scenarios
def test_every_object_has_the_labels(values: Path) -> None:
    for found in render(values):
        labels = found["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "registry-cache"
        assert labels["app.kubernetes.io/instance"] == "x"
        assert {"app.kubernetes.io/component", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"} <= set(
            labels
        )
        if (
            labels["app.kubernetes.io/component"] == "cache"
            and found["kind"] not in ("Issuer", "ServiceAccount")
            and found["metadata"]["name"] not in (PROGRAMS[values == EVERYTHING], *OF_ALL_CACHES)
        ):
            assert labels["upstream-host"]
        for text in (*labels.values(), found["metadata"]["name"]):
            assert len(text) <= (67 if found["kind"] == "PersistentVolumeClaim" else 63)


@scenarios
def test_pods_and_claims_have_no_version_label(values: Path) -> None:
    """Otherwise a new version of the chart would restart every pod and fail to change the claims."""
    for found in by_kind(render(values), "StatefulSet") + by_kind(render(values), "DaemonSet"):
        templates = [found["spec"]["template"], *found["spec"].get("volumeClaimTemplates", [])]
        for template in templates:
            assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(template["metadata"]["labels"])


@scenarios
def test_selectors_match_only_their_own_pods(values: Path) -> None:
    objects = render(values)
    pods = {
        found["metadata"]["name"]: found["spec"]["template"]["metadata"]["labels"]
        for found in by_kind(objects, "StatefulSet") + by_kind(objects, "DaemonSet")
    }
    for found in by_kind(objects, "StatefulSet") + by_kind(objects, "DaemonSet"):
        selector = found["spec"]["selector"]["matchLabels"]
        assert _selected(selector, pods) == [found["metadata"]["name"]]
    for found in by_kind(objects, "Service"):
        assert _selected(found["spec"]["selector"], pods) == [
            found["metadata"]["labels"].get("app", found["metadata"]["name"])
        ]
    for found in by_kind(objects, "PodDisruptionBudget"):
        assert _selected(found["spec"]["selector"]["matchLabels"], pods) == [found["metadata"]["name"]]


# A client-side `kubectl apply` writes each object into an annotation, and all of those may have 262,144 bytes
# (apimachinery, pkg/api/validation, TotalAnnotationSizeLimitB). Half of that leaves room for the next fields.
LARGEST_OBJECT = 131_072


@scenarios
def test_every_object_is_small_enough_for_a_client_side_apply(values: Path) -> None:
    sizes = {f"{one['kind']} {one['metadata']['name']}": len(json.dumps(one)) for one in render(values)}
    assert {name: size for name, size in sizes.items() if size > LARGEST_OBJECT} == {}


@scenarios
def test_pods_meet_the_pod_security_standards(values: Path) -> None:
    """Caches and tests meet "restricted"; the node program has no capability, no API token and one folder."""
    for name, pod in pod_specs(render(values)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        first = pod.get("initContainers", [])
        asked_for = ["configure-containerd"] if values == EVERYTHING else ["find-proxy"]
        assert [one["name"] for one in first] == (asked_for if name.endswith("-node") else [])
        for container in [*pod["containers"], *(one for one in first if one["name"] != "configure-containerd")]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert not {"privileged", "procMount", "runAsUser", "runAsNonRoot"} & set(container["securityContext"])
            assert not any("hostPort" in port for port in container.get("ports", []))
        shared = {"hostPID"} if values == EVERYTHING and name.endswith("-node") else set()
        assert {"hostPID", "hostIPC", "ephemeralContainers"} & set(pod) == shared
        kinds = sorted(key for volume in pod["volumes"] for key in volume if key != "name")
        if name.endswith("-node"):
            assert pod["hostNetwork"] is True
            # Of the units of systemd for the container that looks for a proxy, or of certificates for caches with TLS.
            last = ["projected", "secret"] if values == EVERYTHING else ["hostPath"]
            assert kinds == ["configMap", "configMap", "configMap", "emptyDir", "hostPath", "hostPath", *last]
            (mounts,) = [container["volumeMounts"] for container in pod["containers"]]
            writable = {mount["mountPath"] for mount in mounts if not mount.get("readOnly")}
            assert writable == {"/host/registry", "/run/registry-cache"}
        else:
            assert "hostNetwork" not in pod
            extra = {"csi"} if values == EVERYTHING else set()
            assert set(kinds) <= {"configMap", "secret", "emptyDir", "projected", *extra}
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] > 0


@scenarios
def test_names_in_a_list_are_unique(values: Path) -> None:
    """Server-side apply refuses it."""
    for _, pod in pod_specs(render(values)):
        for container in pod["containers"]:
            for key in ("env", "ports", "volumeMounts"):
                found = [entry.get("mountPath", entry.get("name")) for entry in container.get(key, [])]
                assert len(found) == len(set(found))


def test_labels_and_annotations_of_the_user_are_unique(tmp_path: Path) -> None:
    """The chart's own labels win, because selectors use them; users may change the annotations for Prometheus."""
    document = {
        "caches": [{"upstream": "docker.io"}],
        "commonLabels": {"app": "mine", "app.kubernetes.io/name": "mine", "grafana_dashboard": "0", "team": "platform"},
        "cachePods": {"podAnnotations": {"prometheus.io/scrape": "false", "checksum/config": "mine"}},
        "nodeProgram": {"podAnnotations": {"checksum/config": "mine"}},
        "monitoring": {"dashboard": {"enabled": True}},
    }
    objects = render(written(tmp_path, document))
    for found in objects:
        assert found["metadata"]["labels"]["app.kubernetes.io/name"] == "registry-cache"
        assert found["metadata"]["labels"]["team"] == "platform"
    (dashboard,) = [found for found in objects if found["metadata"]["name"].endswith("-dashboard")]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    (stateful_set,), (daemon_set,) = by_kind(objects, "StatefulSet"), by_kind(objects, "DaemonSet")
    assert stateful_set["metadata"]["labels"]["app"] == "x-registry-cache-docker-io"
    annotations = stateful_set["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "false"
    assert annotations["prometheus.io/port"] == "5001"
    for found in (stateful_set, daemon_set):
        assert len(found["spec"]["template"]["metadata"]["annotations"]["checksum/config"]) == 64


def test_null_removes_a_request_or_limit(tmp_path: Path) -> None:
    document = {
        "caches": [{"upstream": "docker.io"}],
        "cachePods": {"resources": {"gate": {"limits": {"memory": None}}, "front": {"limits": None}}},
        "nodeProgram": {"resources": {"requests": {"cpu": None}}},
    }
    objects = render(written(tmp_path, document))
    (cache,), (node,) = by_kind(objects, "StatefulSet"), by_kind(objects, "DaemonSet")
    assert not container_of(cache, "gate")["resources"].get("limits")
    assert "limits" not in container_of(cache, "front")["resources"]
    assert container_of(node, "node")["resources"]["requests"] == {"memory": "25Mi"}


def test_dashboard_has_its_labels() -> None:
    (found,) = [
        one for one in by_kind(render(EVERYTHING), "ConfigMap") if one["metadata"]["name"].endswith("-dashboard")
    ]
    assert found["metadata"]["labels"]["dashboards"] == "yes"
    assert json.loads(found["data"]["registry-caches.json"])["title"] == "Registry Caches"


def _selected(selector: dict[str, str], pods: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, labels in pods.items() if selector.items() <= labels.items()]
