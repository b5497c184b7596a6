"""The test bed of `first_pull --private`: two nodes pull the same private image with the same pull secret.

One node has no cache. The other one pulls through the chart's cache on a third node, with TLS and access: Puller. The
upstream has a token server, and redirects requests for blobs to another host.
"""

from __future__ import annotations

import ipaddress
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cluster import interface
from upstreams import pki

from experiments.first_pull_bed import CACHE, DIRECT, RESOURCES, VOLUME_SIZE, Bed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.native_node import NativeNode

UPSTREAM = "lscr.example.com"
SECRET, CERTIFICATE = "first-pull", "certificate"
USERNAME, PASSWORD = "puller", "password of a puller"
# Only a node with this label uses the cache.
LABEL = "first-pull"


class PrivateBed(Bed):
    """A cluster whose first node has the cache, and whose second node uses it."""

    ways: ClassVar[Mapping[str, str]] = {DIRECT: UPSTREAM, CACHE: UPSTREAM}
    folder: ClassVar[str] = "private/one"
    secret: ClassVar[str | None] = SECRET

    def puller(self, way: str, *, is_second: bool) -> NativeNode:  # noqa: ARG002 - only one node uses the cache
        """Return the node that pulls in one of the ways."""
        return self.cluster.nodes[1 if way == CACHE else 2]

    def install(self) -> None:
        """Install the chart with a cache that has no credentials, and create the pull secret."""
        cluster, kubeconfig = self.cluster, self.cluster.kubeconfig
        cluster.upstream.set_accounts({f"{USERNAME}:{PASSWORD}": f"{self.folder}/"})
        login = [f"--docker-username={USERNAME}", f"--docker-password={PASSWORD}"]
        secret = ["create", "secret", "docker-registry", SECRET, f"--docker-server={UPSTREAM}", *login]
        interface.kubectl(kubeconfig, "--namespace", "default", *secret)
        near, through = (node.name for node in cluster.nodes[:2])
        interface.kubectl(kubeconfig, "label", "node", through, f"{LABEL}=cache")
        services = interface.get(kubeconfig, "--namespace", "default", "service", "kubernetes")
        address = str(ipaddress.ip_address(services["spec"]["clusterIP"]) + 90)
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "values.yaml"
            path.write_text(json.dumps(_values(Path(work), address, near)))
            # With --wait, the node program is ready, which means that the node uses the cache.
            self.release.install("--values", str(path))

    def remove(self) -> None:
        """Remove the cache, the label, the pull secret and the account from the cluster."""
        kubeconfig = self.cluster.kubeconfig
        self.release.uninstall()
        interface.kubectl(kubeconfig, "label", "node", self.cluster.nodes[1].name, f"{LABEL}-")
        interface.kubectl(kubeconfig, "--namespace", "default", "delete", "secret", SECRET)
        self.cluster.upstream.set_accounts({})

    def prepare(self) -> None:
        """Do nothing: there is no distribution beside the cache."""


def _values(folder: Path, address: str, near: str) -> dict[str, object]:
    certificate, key = pki.issue(folder, "cache", address, common_name="cache")
    files = {"tls.crt": certificate, "tls.key": key, "ca.crt": pki.authority_file()}
    return {
        "caches": [{"upstream": UPSTREAM, "volume": {"size": VOLUME_SIZE}, "http": {"tls": True}}],
        "upstreamSettings": {UPSTREAM: {"access": "Puller", "clusterIP": address, "tlsSecretName": CERTIFICATE}},
        "cachePods": {"resources": RESOURCES, "nodeSelector": {"kubernetes.io/hostname": near}},
        "nodeProgram": {"nodeSelector": {LABEL: "cache"}},
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": CERTIFICATE},
                "stringData": {name: path.read_text() for name, path in files.items()},
            }
        ],
    }
