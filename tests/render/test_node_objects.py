"""The objects of the node program."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from machine.paths import CHART, REPOSITORY
from rendering import (
    THREE,
    by_kind,
    container_of,
    node_configuration,
    render,
    written,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_configuration_of_the_node_program_has_every_cache() -> None:
    node = node_configuration(render(THREE))
    assert node["owner"] == "space/x-registry-cache"
    assert [cache["identity"] for cache in node["caches"]] == ["docker.io", "quay.io", "registry.k8s.io"]
    assert [(cache["upstream"], cache["server"]) for cache in node["caches"]] == [
        ("docker.io", "https://registry-1.docker.io"),
        ("quay.io", "https://quay.io"),
        ("registry.k8s.io", "https://registry.k8s.io"),
    ]


def node_folders(pod: Any) -> dict[str, str]:
    """Return the directories of the node that a pod has as volumes."""
    return {volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}


@pytest.mark.parametrize("preset", sorted(yaml.safe_load((CHART / "files" / "presets.yaml").read_text())))
def test_preset_decides_where_containerds_files_are(preset: str, tmp_path: Path) -> None:
    places = yaml.safe_load((CHART / "files" / "presets.yaml").read_text())[preset]
    objects = render(written(tmp_path, {"caches": [{"upstream": "docker.io"}], "nodeProgram": {"preset": preset}}))
    node = node_configuration(objects)["containerd"]
    assert (node["registryDirectory"], node["configuration"]) == (
        places["registryDirectory"],
        places["containerdConfig"],
    )
    (daemon_set,) = by_kind(objects, "DaemonSet")
    folders = node_folders(daemon_set["spec"]["template"]["spec"])
    assert folders["registry-directory"] == places["registryDirectory"]
    assert places["containerdConfig"].startswith(folders["containerd"] + "/")
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(daemon_set, "node")["volumeMounts"]}
    assert node["mounts"] == {path: mounts[name] for name, path in folders.items() if name in mounts}
    assert {name for name in folders if name not in mounts} == ({"units-0"} if "units" in places else set())


def test_presets_are_those_of_the_contract_and_are_explained() -> None:
    presets = yaml.safe_load((CHART / "files" / "presets.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["nodeProgram"]["properties"]["preset"]["enum"] == list(presets)
    explained = (REPOSITORY / "docs" / "containerd.md").read_text()
    for places in presets.values():
        assert f"`{places['registryDirectory']}`" in explained


def test_annotations_announce_the_port_of_the_node_metrics(tmp_path: Path) -> None:
    for metrics, port in (({}, 9253), ({"port": 1234}, 1234), ({"enabled": False}, 0)):
        objects = render(
            written(tmp_path, {"caches": [{"upstream": "docker.io"}], "nodeProgram": {"metrics": metrics}})
        )
        assert node_configuration(objects)["metricsPort"] == port
        (daemon_set,) = by_kind(objects, "DaemonSet")
        annotations = daemon_set["spec"]["template"]["metadata"]["annotations"]
        assert annotations.get("prometheus.io/port") == (str(port) if port else None)


def test_container_that_changes_containerd_exists_only_if_it_is_enabled(tmp_path: Path) -> None:
    for enabled in (False, True):
        document = {"caches": [{"upstream": "docker.io"}], "nodeProgram": {"configureContainerd": {"enabled": enabled}}}
        objects = render(written(tmp_path, document))
        (daemon_set,) = by_kind(objects, "DaemonSet")
        pod = daemon_set["spec"]["template"]["spec"]
        assert ("hostPID" in pod) is (pod["initContainers"][0]["name"] == "configure-containerd") is enabled
        assert ("configure" in node_configuration(objects)) is enabled
    container = pod["initContainers"][0]
    assert container["securityContext"]["privileged"] is True
    assert node_configuration(objects)["configure"]["restartCommand"] == ["systemctl", "restart", "containerd"]


def node_pod(folder: Path, **settings: object) -> Any:
    """Return the spec of the node program's pod with these values of it."""
    objects = render(written(folder, {"caches": [{"upstream": "docker.io"}], "nodeProgram": settings}))
    (daemon_set,) = by_kind(objects, "DaemonSet")
    return daemon_set["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("settings", "units", "directories"),
    [
        pytest.param({}, ["containerd.service"], ["/etc/systemd/system"], id="kubeadm"),
        pytest.param(
            {"proxyCheck": {"directories": ["/etc/systemd/system", "/etc/default"]}},
            ["containerd.service"],
            ["/etc/systemd/system", "/etc/default"],
            id="more directories",
        ),
        pytest.param(
            {"preset": "k0s", "proxyCheck": {"units": ["k0scontroller.service"]}},
            ["k0scontroller.service"],
            ["/etc/systemd/system"],
            id="other units",
        ),
        pytest.param({"preset": "k3s"}, None, [], id="nothing to check"),
        pytest.param({"proxyCheck": {"enabled": False}}, None, [], id="disabled"),
    ],
)
def test_files_of_services_are_seen_only_by_a_container_that_ends(
    settings: dict[str, object], units: list[str] | None, directories: list[str], tmp_path: Path
) -> None:
    objects = render(written(tmp_path, {"caches": [{"upstream": "docker.io"}], "nodeProgram": settings}))
    (daemon_set,) = by_kind(objects, "DaemonSet")
    pod = daemon_set["spec"]["template"]["spec"]
    check = node_configuration(objects).get("proxyCheck", {})
    assert check.get("units") == units
    assert check.get("directories", []) == directories
    volumes = {name: path for name, path in node_folders(pod).items() if name.startswith("units-")}
    assert [*volumes.values()] == directories
    containers = pod.get("initContainers", [])
    assert [container["name"] for container in containers] == (["find-proxy"] if units else [])
    for container in containers:
        mounts = {mount["name"]: mount for mount in container["volumeMounts"] if mount["name"] in volumes}
        assert check["mounts"] == {volumes[name]: mount["mountPath"] for name, mount in mounts.items()}
        assert all(mount["readOnly"] for mount in mounts.values())
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not {"registry-directory", "containerd"} & {mount["name"] for mount in container["volumeMounts"]}
    (program,) = pod["containers"]
    assert not {*volumes} & {mount["name"] for mount in program["volumeMounts"]}


# Labels of nodes as their documentation has them, and whether they have a containerd.
NODES = {
    "plain": ({"kubernetes.io/os": "linux"}, True),
    "EKS managed": ({"eks.amazonaws.com/compute-type": "ec2"}, True),
    "EKS Auto Mode": ({"eks.amazonaws.com/compute-type": "auto"}, True),
    "EKS Fargate": ({"eks.amazonaws.com/compute-type": "fargate"}, False),
    "AKS virtual node": ({"type": "virtual-kubelet", "kubernetes.io/role": "agent"}, False),
    "Liqo": ({"liqo.io/type": "virtual-node"}, False),
}


@pytest.mark.parametrize("node", NODES)
def test_node_program_stays_off_virtual_nodes(node: str, tmp_path: Path) -> None:
    labels, has_containerd = NODES[node]
    affinity = node_pod(tmp_path)["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {rule["operator"] for rule in term["matchExpressions"]} == {"NotIn"}
    assert all(labels.get(rule["key"]) not in rule["values"] for rule in term["matchExpressions"]) is has_containerd


def test_quota_allows_the_priority_classes_of_the_system_that_pods_have(tmp_path: Path) -> None:
    def classes(node: dict[str, object], cache: dict[str, object]) -> list[str]:
        document = {"caches": [{"upstream": "docker.io"}], "nodeProgram": node, "cachePods": cache}
        quotas = by_kind(render(written(tmp_path, document)), "ResourceQuota")
        # As the API server returns it, or Argo CD finds a difference for ever.
        assert all(one["spec"]["hard"] == {"pods": "1M"} for one in quotas)
        return [name for one in quotas for name in one["spec"]["scopeSelector"]["matchExpressions"][0]["values"]]

    critical = {"priorityClassName": "system-cluster-critical"}
    assert classes({}, {}) == ["system-node-critical"]
    assert classes({}, critical) == ["system-cluster-critical", "system-node-critical"]
    assert classes({"priorityClassName": "mine"}, critical) == ["system-cluster-critical"]
    assert classes({"priorityClassName": "mine"}, {}) == []
    assert classes({"priorityQuota": False}, critical) == []


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        pytest.param({}, None, id="kubeadm"),
        pytest.param({"preset": "rke2"}, {"type": "spc_t"}, id="preset"),
        pytest.param({"preset": "k3s", "seLinuxOptions": {"type": "mine_t"}}, {"type": "mine_t"}, id="own"),
    ],
)
def test_container_has_the_selinux_options_of_its_system(
    settings: dict[str, object], options: object, tmp_path: Path
) -> None:
    (container,) = node_pod(tmp_path, **settings)["containers"]
    assert container["securityContext"].get("seLinuxOptions") == options
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize("ready_when", ["CachesInUse", "Running"])
@pytest.mark.parametrize("state", ["", "ready", "not-ready"])
def test_pod_is_ready_when_the_values_say(ready_when: str, state: str, tmp_path: Path) -> None:
    """The probe's own command runs, in a directory of this test."""
    (container,) = node_pod(tmp_path, readyWhen=ready_when)["containers"]
    if state:
        (tmp_path / state).write_text("docker.io: the cache did not answer\n")
    command = container["readinessProbe"]["exec"]["command"]
    script = command[-1].replace("/run/registry-cache", str(tmp_path))
    done = subprocess.run([*command[:-1], script], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is (state == "ready" or (state == "not-ready" and ready_when == "Running"))
    reasons = {"": "it starts\n", "not-ready": "docker.io: the cache did not answer\n"}
    assert done.stdout == ("" if done.returncode == 0 else reasons[state])


def test_metrics_are_served_at_the_internal_address_of_the_node_unless_the_values_name_another(tmp_path: Path) -> None:
    def address(**metrics: object) -> Any:
        (container,) = node_pod(tmp_path, metrics=metrics)["containers"]
        (found,) = [one for one in container["env"] if one["name"] == "METRICS_ADDRESS"]
        return found

    assert address()["valueFrom"] == {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.hostIP"}}
    assert address(listenAddress="::")["value"] == "::"


def test_node_program_has_a_memory_limit(tmp_path: Path) -> None:
    (container,) = node_pod(tmp_path)["containers"]
    assert container["resources"]["limits"] == {"memory": "128Mi"}
