"""Cache pods and their upstream registries in a network of their own, without Kubernetes."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster import images
from cluster.cache_pod import CachePod
from machine import own_network, tools
from machine.cgroups import Cgroup
from machine.processes import Place
from upstreams import oci, pki
from upstreams.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.pod_volumes import Tmpfs

UPSTREAM = "docker.io"
CERTIFICATE = "certificate"


@dataclass
class Bench:
    """The upstream registries, and cache pods before them."""

    folder: Path
    cgroup: Cgroup
    upstream: Upstream
    _pods: int = field(default=0)

    def new_pod(self, cache: dict[str, Any] | None = None, volume: Path | Tmpfs | None = None, **more: Any) -> CachePod:
        """Return a pod, by default of a cache of docker.io, without starting it; `more` are fields of `CachePod`."""
        self._pods += 1
        return CachePod(
            Place(self.folder / "pods", self.cgroup),
            cache or {"upstream": UPSTREAM},
            volume or self.folder / f"volume-{self._pods}",
            **{"hosts": self.upstream.host_lines(), "number": self._pods, **more},
        )

    @contextmanager
    def pod(
        self, cache: dict[str, Any] | None = None, volume: Path | Tmpfs | None = None, **more: Any
    ) -> Iterator[CachePod]:
        """Start a pod, and afterwards print the ends of its logs and remove all of it but its volume.

        A pod with TLS must name CERTIFICATE as the Secret of its certificate.
        """
        pod = self.new_pod(cache, volume, **more)
        if pod.url.startswith("https"):
            issue_certificate(pod)
        try:
            pod.start()
            yield pod
        finally:
            for name in pod.containers:
                if pod.log_file(name).exists():
                    print(f"--- {name}", *pod.log(name).splitlines()[-20:], sep="\n")
            pod.close()

    def push(self, name: str, layers: int = 1, size: int = 300_000, site: str = UPSTREAM) -> oci.Image:
        """Push an image with unique content to an upstream, as `library/<name>:1`; BusyBox is one more layer."""
        image = images.busybox(*(oci.random_layer(f"{name} {number}", size) for number in range(layers)), label=name)
        self.upstream.push(f"{site}/library/{name}:1", image)
        return image


def issue_certificate(pod: CachePod) -> None:
    """Give the Secret CERTIFICATE a certificate for the pod, of the authority of the test bed."""
    names = pod.address, *pod.host_line.split()[1:]
    certificate, key = pki.issue(pod.folder / "tls", "server", *names, common_name="cache")
    files = {"tls.crt": certificate, "tls.key": key, "ca.crt": pki.authority_file()}
    pod.set_secret(CERTIFICATE, {name: path.read_text() for name, path in files.items()})


@contextmanager
def pod_bench(folder: Path) -> Iterator[Bench]:
    """Start the upstreams in a network that this thread, and the programs that it starts, are in for the time."""
    tools.ensure_client()
    tools.ensure_registry()
    cgroup = Cgroup(f"rcache-pods-{os.getpid()}")
    cgroup.create()
    try:
        with own_network.own_network():
            upstream = Upstream(Place(folder / "upstream", cgroup), own_network.ADDRESS)
            upstream.start()
            yield Bench(folder, cgroup, upstream)
    finally:
        cgroup.kill()
        cgroup.remove()
