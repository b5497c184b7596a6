"""One installation of the chart: put in, changed and taken out with helm, and asked through the API server."""

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
    """A helm release; `name` is also what its objects' names begin with."""

    cluster: Cluster
    name: str = "registry-cache"
    namespace: str = "registry-cache"

    def install(self, *arguments: str, chart: Path = CHART, timeout: int = 240) -> None:
        """`helm install` and wait until everything is ready: the caches run and each node uses them."""
        self._helm("install", self.name, str(chart), "--create-namespace", *_wait(timeout), *arguments)

    def upgrade(self, *arguments: str, chart: Path = CHART, timeout: int = 240) -> None:
        """`helm upgrade`, and wait likewise."""
        self._helm("upgrade", self.name, str(chart), *_wait(timeout), *arguments)

    def uninstall(self) -> None:
        """`helm uninstall`, wait until every pod is gone, and delete the namespace with the volumes in it."""
        self._helm("uninstall", self.name, "--wait", "--timeout=120s", "--ignore-not-found")
        pods = f"{self._selector()},app.kubernetes.io/component!=test"
        wait_for("the release's pods to end", lambda: not self.get("pods", "--selector", pods)["items"], 120)
        interface.kubectl(
            self.cluster.kubeconfig, "delete", "namespace", self.namespace, "--ignore-not-found", "--timeout=120s"
        )

    def test(self) -> str:
        """`helm test` with the test pod's log, which is returned.

        Raises:
            RuntimeError: it failed; the message carries the log.
        """
        return self._helm("test", self.name, "--logs", "--timeout=120s")

    def secret(self, name: str, username: str, password: str) -> None:
        """Create the namespace and a Secret with credentials in it."""
        kubeconfig = self.cluster.kubeconfig
        space = interface.kubectl(
            kubeconfig, "create", "namespace", self.namespace, "--dry-run=client", "--output=yaml"
        )
        interface.kubectl(kubeconfig, "apply", "--filename", "-", text=space)
        literals = [f"--from-literal=username={username}", f"--from-literal=password={password}"]
        self.kubectl("create", "secret", "generic", name, *literals)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl in the release's namespace; `text` is what it reads as a file."""
        return interface.kubectl(self.cluster.kubeconfig, "--namespace", self.namespace, *arguments, text=text)

    def get(self, *arguments: str) -> Any:
        """`kubectl get` in the release's namespace, parsed."""
        return interface.get(self.cluster.kubeconfig, "--namespace", self.namespace, *arguments)

    def object_name(self, upstream: str) -> str:
        """The name of the cache's objects, found by label."""
        (stateful_set,) = self.get("statefulsets", "--selector", f"{self._selector()},upstream-host={upstream}")[
            "items"
        ]
        return str(stateful_set["metadata"]["name"])

    def pod(self, upstream: str) -> Any:
        """The cache's pod."""
        return self.get("pod", f"{self.object_name(upstream)}-0")

    def service_address(self, upstream: str) -> str:
        """The ClusterIP of the cache's Service; the one by which two replicas find each other has none."""
        services = self.get("services", "--selector", f"{self._selector()},upstream-host={upstream}")["items"]
        addresses = {service["spec"]["clusterIP"] for service in services} - {"None"}
        (address,) = addresses
        return str(address)

    def take_away(self, upstream: str) -> None:
        """Scale a cache to nothing, and wait until its pod is gone; the nodes notice a little later."""
        name = self.object_name(upstream)
        self.kubectl("scale", "statefulset", name, "--replicas=0")
        self.kubectl("wait", "--for=delete", f"pod/{name}-0", "--timeout=240s")

    def bring_back(self, upstream: str) -> None:
        """Bring a cache back, once every node has left it, and wait until every node uses it again."""
        self.wait_for_nodes(upstream, use=False)
        self.kubectl("scale", "statefulset", self.object_name(upstream), "--replicas=1")
        self.wait_for_nodes(upstream, use=True)

    def metrics(self, upstream: str) -> dict[str, float]:
        """The cache's own counters by name, blobs only: `registry_proxy_hits_total` and its like."""
        samples = SAMPLE.finditer(self.metrics_text(upstream))
        return {found["name"]: float(found["value"]) for found in samples if 'type="blob"' in found["labels"]}

    def metrics_text(self, upstream: str) -> str:
        """All that the cache tells Prometheus."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.object_name(upstream)}-0:5001/proxy/metrics"
        return interface.kubectl(self.cluster.kubeconfig, "get", "--raw", path)

    def uses_cache(self, node: Node, upstream: str) -> bool:
        """Whether the node's containerd is told to ask the cache first."""
        hosts = node.run("cat", f"/etc/containerd/certs.d/{upstream}/hosts.toml", check=False)
        return f"http://{self.service_address(upstream)}:5000" in hosts

    def wait_for_nodes(self, upstream: str, *, use: bool, timeout: float = 150) -> None:
        """Wait until every node uses, or none uses, the cache of an upstream.

        A pod can be ready before every node's kube-proxy leads to it, and gone before every node has left it.
        """
        nodes = self.cluster.nodes
        if use:
            what = f"every node to reach the cache of {upstream}"
            wait_for(what, lambda: all(self._reaches_cache(node, upstream) for node in nodes), timeout, 0.5)
        what = f"every node to {'use' if use else 'leave'} the cache of {upstream}"
        wait_for(what, lambda: all(self.uses_cache(node, upstream) is use for node in nodes), timeout)

    def _reaches_cache(self, node: Node, upstream: str) -> bool:
        # bash speaks TCP; nothing else that does is on every node.
        connect = f"exec 3<>/dev/tcp/{self.service_address(upstream)}/5000"
        ask = f"{connect}; printf 'GET /v2/ HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3"
        return " 200 " in node.run("timeout", "5", "bash", "-c", ask, check=False)

    def _selector(self) -> str:
        return f"app.kubernetes.io/instance={self.name}"

    def _helm(self, *arguments: str) -> str:
        return interface.helm(self.cluster.kubeconfig, *arguments, "--namespace", self.namespace)


def _wait(timeout: int) -> tuple[str, ...]:
    return ("--wait", f"--timeout={timeout}s")
