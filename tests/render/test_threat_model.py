"""What docs/threat-model.md says is not defended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rendering import THREE, by_kind, render, written

if TYPE_CHECKING:
    from pathlib import Path


def test_programs_of_the_node_come_from_a_config_map_of_the_namespace() -> None:
    """So whoever may change these ConfigMaps decides what runs as root on each node."""
    objects = render(THREE)
    (daemon_set,) = by_kind(objects, "DaemonSet")
    pod = daemon_set["spec"]["template"]["spec"]
    mounted = {volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    programs = {one["metadata"]["name"] for one in by_kind(objects, "ConfigMap") if "keeper.py" in one["data"]}
    assert programs
    assert programs <= mounted
    assert pod["hostNetwork"] is True
    for container in pod["containers"]:
        # The image runs as root.
        assert not {"runAsUser", "runAsNonRoot"} & container["securityContext"].keys()


def test_process_ids_of_the_node_are_shared_by_the_whole_pod_if_enabled(tmp_path: Path) -> None:
    document = {"caches": [{"upstream": "docker.io"}], "nodeProgram": {"configureContainerd": {"enabled": True}}}
    (daemon_set,) = by_kind(render(written(tmp_path, document)), "DaemonSet")
    pod = daemon_set["spec"]["template"]["spec"]
    assert pod["hostPID"] is True
    assert len(pod["containers"]) + len(pod["initContainers"]) == 3
