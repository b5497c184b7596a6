"""The objects of the node program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

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
    assert [(cache["upstream"], cache["server"]) for cache in node["caches"]] == [
        ("docker.io", "https://registry-1.docker.io"),
        ("quay.io", "https://quay.io"),
        ("registry.k8s.io", "https://registry.k8s.io"),
    ]


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
    folders = {
        volume["name"]: volume["hostPath"]["path"]
        for volume in daemon_set["spec"]["template"]["spec"]["volumes"]
        if "hostPath" in volume
    }
    assert folders["registry-directory"] == places["registryDirectory"]
    assert places["containerdConfig"].startswith(folders["containerd"] + "/")
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(daemon_set, "node")["volumeMounts"]}
    assert node["mounts"] == {path: mounts[name] for name, path in folders.items()}


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
        assert ("hostPID" in pod) is ("initContainers" in pod) is enabled
        assert ("configure" in node_configuration(objects)) is enabled
    (container,) = pod["initContainers"]
    assert container["securityContext"]["privileged"] is True
    assert node_configuration(objects)["configure"]["restartCommand"] == ["systemctl", "restart", "containerd"]
