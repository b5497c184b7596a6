"""The manifests that the chart renders for a cache, and a check that a pod without Kubernetes can follow them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import yaml
from machine import environment, tools
from machine.paths import CHART

if TYPE_CHECKING:
    from pathlib import Path

Object = dict[str, Any]
NAMESPACE = "space"
# The fields that cache_pod follows, and those that make no difference without Kubernetes.
POD_FIELDS = {
    *("affinity", "automountServiceAccountToken", "containers", "enableServiceLinks", "imagePullSecrets"),
    *("nodeSelector", "priorityClassName", "securityContext", "terminationGracePeriodSeconds", "tolerations"),
    *("topologySpreadConstraints", "volumes"),
}
CONTAINER_FIELDS = {
    *("args", "command", "env", "image", "imagePullPolicy", "livenessProbe", "name", "ports", "readinessProbe"),
    *("resources", "securityContext", "volumeMounts"),
}
PROBE_FIELDS = {
    *("failureThreshold", "httpGet", "periodSeconds", "terminationGracePeriodSeconds", "timeoutSeconds"),
}


def render(values: Object, path: Path) -> list[Object]:
    """Write these values to `path`, and return the chart's objects for them.

    Raises:
        RuntimeError: Helm refused the values; the message is its output.
    """
    path.write_text(yaml.safe_dump(values))
    command = [tools.helm(), "template", "x", CHART, "--namespace", NAMESPACE, "--values", path]
    done = subprocess.run(
        [*map(str, command)], env=environment.for_programs(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def refuse_unknown_fields(spec: Object) -> None:
    """Check that a pod's spec has no field that would be ignored here.

    Raises:
        NotImplementedError: It has one; the message names it.
    """
    containers = spec["containers"]
    mounts = [mount for container in containers for mount in container["volumeMounts"]]
    probes = [one[kind] for one in containers for kind in ("livenessProbe", "readinessProbe") if kind in one]
    for objects, known in (
        ([spec], POD_FIELDS),
        (containers, CONTAINER_FIELDS),
        (spec["volumes"], {"name", "configMap", "emptyDir", "secret"}),
        (mounts, {"name", "mountPath", "readOnly"}),
        (probes, PROBE_FIELDS),
    ):
        for unknown in (one.keys() - known for one in objects):
            if unknown:
                message = f"the manifest has fields that cache_pod does not know: {', '.join(sorted(unknown))}"
                raise NotImplementedError(message)
