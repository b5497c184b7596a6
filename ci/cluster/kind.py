"""A kind cluster, for machines with a container engine; the upstream registries run beside it on this machine.

Images and upstreams are those of the native cluster: the nodes and the cluster's DNS resolve the upstreams' names, and
the nodes trust the test authority.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from machine import environment, tools
from machine.cgroups import Cgroup
from machine.paths import cluster_folder
from machine.processes import Place
from upstreams import pki
from upstreams.upstream import Upstream

from cluster import images, interface

# An engine on another machine that is away may not answer for minutes.
ENGINE_SECONDS = 20.0
CONFIGURATION = Path(__file__).parent / "manifests" / "kind.yaml"


def is_available() -> bool:
    """Return whether kind is installed and a container engine answers."""
    path = environment.search_path()
    if shutil.which("docker", path=path) is None or shutil.which("kind", path=path) is None:
        return False
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(
            asked, env=environment.for_container_engine(), capture_output=True, check=False, timeout=ENGINE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


@dataclass(frozen=True)
class KindNode:
    """A worker, which is a container."""

    name: str
    address: str

    def run(self, *command: str, check: bool = True) -> str:
        return _run("docker", "exec", self.name, *command, check=check)


@dataclass
class KindCluster:
    """A kind cluster named `rcache-<name>`."""

    name: str

    @property
    def kind_name(self) -> str:
        return f"rcache-{self.name}"

    @property
    def folder(self) -> Path:
        return cluster_folder(self.name)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.conf"

    @cached_property
    def nodes(self) -> list[KindNode]:
        names = [name for name in _run("kind", "get", "nodes", "--name", self.kind_name).split() if "worker" in name]
        template = "{{.NetworkSettings.Networks.kind.IPAddress}}"
        return [KindNode(name, _run("docker", "inspect", "--format", template, name).strip()) for name in sorted(names)]

    @cached_property
    def upstream(self) -> Upstream:
        networks = json.loads(_run("docker", "network", "inspect", "kind"))[0]["IPAM"]["Config"]
        gateway = next(network["Gateway"] for network in networks if "." in network.get("Gateway", ""))
        return Upstream(Place(self.folder / "upstream", Cgroup(f"{self.kind_name}/upstream")), gateway)

    def is_up(self) -> bool:
        return self.kubeconfig.exists() and self.kind_name in _run("kind", "get", "clusters").split()

    def up(self) -> None:
        """Create the cluster, start the upstreams, and have their names resolve."""
        if self.is_up():
            return
        tools.ensure_client()
        tools.ensure_registry()
        self.down()
        self.folder.mkdir(parents=True)
        options = ["--name", self.kind_name, "--config", str(CONFIGURATION), "--kubeconfig", str(self.kubeconfig)]
        _run("kind", "create", "cluster", "--wait", "180s", *options)
        self.upstream.place.cgroup.create()
        self.upstream.start()
        for archive in images.archives((images.BUSYBOX, images.REGISTRY, images.PYTHON, images.NGINX)).values():
            _run("kind", "load", "image-archive", str(archive), "--name", self.kind_name)
        for node in self.nodes:
            _run("docker", "cp", str(pki.authority_file()), f"{node.name}:/usr/local/share/ca-certificates/test.crt")
            hosts = self.upstream.host_lines()
            node.run("sh", "-c", f"update-ca-certificates && printf '%s' '{hosts}' >> /etc/hosts")
            node.run("systemctl", "restart", "containerd")
        self._configure_dns()

    def down(self) -> None:
        """Delete the cluster, end the upstreams' processes, and remove their files."""
        _run("kind", "delete", "cluster", "--name", self.kind_name)
        cgroup = Cgroup(self.kind_name)
        cgroup.kill()
        cgroup.remove()
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def status(self) -> str:
        state = f"up, KUBECONFIG={self.kubeconfig}" if self.is_up() else "down"
        return f"{self.name} (kind): {state}"

    def _configure_dns(self) -> None:
        """Add the upstreams' names to the configuration of CoreDNS, which forwards all others."""
        config = interface.get(self.kubeconfig, "configmap", "coredns", "--namespace", "kube-system")
        lines = "".join(f"            {line}\n" for line in self.upstream.host_lines().splitlines())
        hosts = f"hosts {{\n{lines}            fallthrough\n        }}\n        forward ."
        corefile = config["data"]["Corefile"].replace("forward .", hosts, 1)
        patch = json.dumps({"data": {"Corefile": corefile}})
        interface.kubectl(self.kubeconfig, "patch", "configmap/coredns", "--namespace=kube-system", "--patch", patch)
        restart = ["rollout", "restart", "deployment/coredns", "--namespace=kube-system"]
        interface.kubectl(self.kubeconfig, *restart)
        interface.kubectl(self.kubeconfig, "rollout", "status", *restart[2:])


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment.for_container_engine())
    if check and done.returncode != 0:
        message = f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        raise RuntimeError(message)
    return done.stdout
