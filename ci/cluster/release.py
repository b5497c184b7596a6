"""A release of the chart: installed, upgraded and uninstalled with helm, and inspected through the API server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from machine.paths import CHART
from machine.processes import wait_for

from cluster import interface

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.interface import Cluster, Node

SAMPLE = re.compile(r"^(?P<name>registry_proxy_\w+)\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)


@dataclass
class Release:
    """A helm release, whose name is also the beginning of its objects' names."""

    cluster: Cluster
    name: str = "registry-cache"
    namespace: str = "registry-cache"

    def install(self, *arguments: str, chart: Path = CHART, timeout: int = 240) -> None:
        """Run `helm install`, and wait until the caches run and every node uses them."""
        self._helm("install", self.name, str(chart), "--create-namespace", *_wait(timeout), *arguments)

    def upgrade(self, *arguments: str, chart: Path = CHART, timeout: int = 240) -> None:
        """Run `helm upgrade`, and wait for the same."""
        self._helm("upgrade", self.name, str(chart), *_wait(timeout), *arguments)

    def uninstall(self) -> None:
        """Run `helm uninstall`, wait until all pods are gone, and delete the namespace with its volumes."""
        self._helm("uninstall", self.name, "--wait", "--timeout=120s", "--ignore-not-found")
        pods = f"{self._selector()},app.kubernetes.io/component!=test"
        wait_for("the release's pods to end", lambda: not self.get("pods", "--selector", pods)["items"], 120)
        interface.kubectl(
            self.cluster.kubeconfig, "delete", "namespace", self.namespace, "--ignore-not-found", "--timeout=120s"
        )

    def test(self) -> str:
        """Run `helm test`, and return its output with the log of the test pod.

        Raises:
            RuntimeError: It failed; the message has the log.
        """
        return self._helm("test", self.name, "--logs", "--timeout=120s")

    def secret(self, name: str, username: str, password: str) -> None:
        """Create the namespace, and in it a Secret with credentials."""
        kubeconfig = self.cluster.kubeconfig
        space = interface.kubectl(
            kubeconfig, "create", "namespace", self.namespace, "--dry-run=client", "--output=yaml"
        )
        interface.kubectl(kubeconfig, "apply", "--filename", "-", text=space)
        literals = [f"--from-literal=username={username}", f"--from-literal=password={password}"]
        self.kubectl("create", "secret", "generic", name, *literals)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl in the release's namespace, with `text` as its standard input."""
        return interface.kubectl(self.cluster.kubeconfig, "--namespace", self.namespace, *arguments, text=text)

    def get(self, *arguments: str) -> Any:
        """Return the parsed output of `kubectl get` in the release's namespace."""
        return interface.get(self.cluster.kubeconfig, "--namespace", self.namespace, *arguments)

    def object_name(self, upstream: str) -> str:
        """Return the name of a cache's objects, which are found by label."""
        (stateful_set,) = self.get("statefulsets", "--selector", f"{self._selector()},upstream-host={upstream}")[
            "items"
        ]
        return str(stateful_set["metadata"]["name"])

    def pod(self, upstream: str) -> Any:
        """Return the first pod of a cache."""
        return self.get("pod", f"{self.object_name(upstream)}-0")

    def service_address(self, upstream: str) -> str:
        """Return the ClusterIP of a cache's Service; the Service by which replicas find each other has none."""
        services = self.get("services", "--selector", f"{self._selector()},upstream-host={upstream}")["items"]
        addresses = {service["spec"]["clusterIP"] for service in services} - {"None"}
        (address,) = addresses
        return str(address)

    def take_away(self, upstream: str) -> None:
        """Scale a cache to zero, and wait until its pod is gone; the nodes notice it a little later."""
        name = self.object_name(upstream)
        self.kubectl("scale", "statefulset", name, "--replicas=0")
        self.kubectl("wait", "--for=delete", f"pod/{name}-0", "--timeout=240s")

    def bring_back(self, upstream: str) -> None:
        """Scale a cache up once every node has withdrawn it, and wait until every node uses it again."""
        self.wait_for_nodes(upstream, use=False)
        self.kubectl("scale", "statefulset", self.object_name(upstream), "--replicas=1")
        self.wait_for_nodes(upstream, use=True)

    def metrics(self, upstream: str) -> dict[str, float]:
        """Return the cache's counters of blobs by name, for example `registry_proxy_hits_total`."""
        samples = SAMPLE.finditer(self.metrics_text(upstream))
        return {each["name"]: float(each["value"]) for each in samples if 'type="blob"' in each["labels"]}

    def metrics_text(self, upstream: str) -> str:
        """Return the metrics of a cache as Prometheus gets them."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.object_name(upstream)}-0:5001/proxy/metrics"
        return interface.kubectl(self.cluster.kubeconfig, "get", "--raw", path)

    def uses_cache(self, node: Node, upstream: str) -> bool:
        """Return whether hosts.toml on the node names the cache."""
        hosts = node.run("cat", f"/etc/containerd/certs.d/{upstream}/hosts.toml", check=False)
        return f"http://{self.service_address(upstream)}:5000" in hosts

    def wait_for_nodes(self, upstream: str, *, use: bool, timeout: float = 150) -> None:
        """Wait until all nodes use the cache of an upstream, or none does.

        A pod can be ready before every kube-proxy forwards to it, and be gone before every node has withdrawn it.
        """
        nodes = self.cluster.nodes
        if use:
            event = f"every node to reach the cache of {upstream}"
            wait_for(event, lambda: all(self._reaches_cache(node, upstream) for node in nodes), timeout, 0.5)
        event = f"every node to {'use' if use else 'withdraw'} the cache of {upstream}"
        wait_for(event, lambda: all(self.uses_cache(node, upstream) is use for node in nodes), timeout)

    def _reaches_cache(self, node: Node, upstream: str) -> bool:
        # bash can open TCP connections, and every node has it.
        connect = f"exec 3<>/dev/tcp/{self.service_address(upstream)}/5000"
        ask = f"{connect}; printf 'GET /v2/ HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3"
        return " 200 " in node.run("timeout", "5", "bash", "-c", ask, check=False)

    def _selector(self) -> str:
        return f"app.kubernetes.io/instance={self.name}"

    def _helm(self, *arguments: str) -> str:
        return interface.helm(self.cluster.kubeconfig, *arguments, "--namespace", self.namespace)


def _wait(timeout: int) -> tuple[str, ...]:
    return ("--wait", f"--timeout={timeout}s")
