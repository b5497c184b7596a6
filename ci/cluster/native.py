"""A Kubernetes of real programs in network namespaces of this machine, where there is no container engine.

    this machine   etcd, API server, controller manager, scheduler       10.N.0.1  ─┐
    node-1, -2     containerd, kubelet, kube-proxy                       10.N.0.11… ├─ one bridge
    upstream       nginx and distribution (package upstreams)            10.N.0.10 ─┘

Each node has its own network, mounts and host name. It sees its own /etc, /opt, /run and /var over those of this
machine, so that a node never writes there.
"""

from __future__ import annotations

import base64
import fcntl
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from machine import own_network, tools
from machine.cgroups import Cgroup
from machine.paths import cluster_folder
from machine.processes import Place, wait_for
from upstreams import pki
from upstreams.upstream import Upstream

from cluster import images, interface
from cluster.native_links import set_links
from cluster.native_network import TCP_SETTINGS, Network, enter_network, node_settings, run_ip, write_settings
from cluster.native_node import NativeNode
from cluster.versions import Versions

if TYPE_CHECKING:
    from machine.links import Links

MANIFESTS = Path(__file__).parent / "manifests"
# As on GKE, pods have the priority classes of the system only where a quota allows it.
ADMISSION = Path(__file__).parent / "admission.yaml"
NETWORKS = 40


class CannotRun(Exception):
    """The native cluster cannot run on this machine; the message says why, and what to use instead."""


@dataclass
class NativeCluster:
    """A native cluster; several on one machine differ by `name`.

    With `files_in_memory`, no host waits for the disk that all of them share.
    """

    name: str
    node_count: int = 2
    files_in_memory: bool = False
    versions: Versions = field(default_factory=Versions)
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Set the folder."""
        self.folder = cluster_folder(self.name)

    @property
    def prefix(self) -> str:
        return f"rcache-{self.name}"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.conf"

    @cached_property
    def network(self) -> Network:
        state = self.folder / "network"
        self.folder.mkdir(parents=True, exist_ok=True)
        others = os.open(self.folder.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Several clusters may start at the same time.
            fcntl.flock(others, fcntl.LOCK_EX)
            if not state.exists():
                taken = {int(other.read_text()) for other in self.folder.parent.glob("*/network")}
                links = {index for index in range(NETWORKS) if Path(f"/sys/class/net/rcache{index}").exists()}
                state.write_text(str(next(index for index in range(NETWORKS) if index not in taken | links)))
        finally:
            os.close(others)
        return Network(int(state.read_text()))

    @cached_property
    def nodes(self) -> list[NativeNode]:
        return [NativeNode(self, number) for number in range(1, self.node_count + 1)]

    @property
    def upstream_namespace(self) -> str:
        return f"{self.prefix}-upstream"

    @cached_property
    def upstream(self) -> Upstream:
        place = Place(self.folder / "upstream", self.cgroup("upstream"), enter_network(self.upstream_namespace))
        return Upstream(place, self.network.upstream)

    @cached_property
    def control_plane(self) -> Place:
        return Place(self.folder / "control-plane", self.cgroup("control-plane"))

    def cgroup(self, *parts: str) -> Cgroup:
        return Cgroup("/".join((self.prefix, *parts)))

    def is_up(self) -> bool:
        return (self.folder / "complete").exists() and self._api_answers()

    def up(self) -> None:
        """Start the cluster if it does not run; remove what an incomplete start has left before."""
        if self.is_up():
            return
        if sys.platform != "linux" or os.geteuid() != 0:
            message = (
                "the native test cluster needs root on Linux; elsewhere install Docker and kind, or give a kubeconfig"
            )
            raise CannotRun(message)
        tools.ensure_client()
        tools.ensure_native()
        self.versions.ensure()
        self.down()
        try:
            self._up()
        except BaseException:
            self._print_logs()
            raise

    def _up(self) -> None:
        images.archives()
        if self.files_in_memory:
            self.folder.mkdir(parents=True)
            _run("mount", "-t", "tmpfs", "-o", "size=80%", self.prefix, str(self.folder))
        self._make_network()
        for part in ("control-plane", "upstream", *(f"{node.name}/system" for node in self.nodes)):
            self.cgroup(*part.split("/")).create()
        with ThreadPoolExecutor() as pool:
            upstream = pool.submit(self.upstream.start)
            self._start_control_plane()
            for started in [upstream, *(pool.submit(node.start) for node in self.nodes)]:
                started.result()
        for name in ("coredns", "volumes"):
            interface.kubectl(self.kubeconfig, "apply", "--filename", "-", text=self._manifest(name))
        self._wait_until_ready()
        (self.folder / "complete").touch()

    def set_links(self, links: Links) -> None:
        """Replace the rates and the delay of the running cluster's links."""
        set_links(self, links)

    def down(self) -> None:
        """End every process, and remove all control groups, namespaces, links and files that are left."""
        cgroup = self.cgroup()
        cgroup.kill()
        cgroup.remove()
        for namespace in [self.upstream_namespace, *self._namespaces_of_nodes()]:
            if Path(f"/run/netns/{namespace}").exists():
                run_ip("netns", "delete", namespace)
        _remove_empty_namespace_folder()
        if (self.folder / "network").exists():
            # The kernel removes a link with its namespace, but a while later: it may do so between these two lines.
            for link in Path("/sys/class/net").glob(f"{self.network.bridge}-*"):
                run_ip("link", "delete", link.name, check=False)
            if Path(f"/sys/class/net/{self.network.bridge}").exists():
                run_ip("link", "delete", self.network.bridge)
            del self.network
        if self.folder.is_mount():
            _run("umount", str(self.folder))
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def status(self) -> str:
        if not self.is_up():
            return f"{self.name}: down"
        lines = [f"{self.name}: up, KUBECONFIG={self.kubeconfig}"]
        lines += [f"  {node.name}: {node.address}" for node in self.nodes]
        lines.append(f"  upstream registries: {self.network.upstream}")
        return "\n".join(lines)

    def write_kubeconfig(self, folder: Path, name: str, user: str, group: str = "") -> Path:
        """Write `<name>.conf` for a client of the API server, and return its path."""
        certificate, key = pki.issue(folder, name, common_name=user, organization=group)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": self.name,
            "clusters": [
                {
                    "name": self.name,
                    "cluster": {"server": self._server, "certificate-authority-data": _data(pki.authority_file())},
                }
            ],
            "users": [
                {"name": user, "user": {"client-certificate-data": _data(certificate), "client-key-data": _data(key)}}
            ],
            "contexts": [{"name": self.name, "context": {"cluster": self.name, "user": user}}],
        }
        path = folder / f"{name}.conf"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(content))
        return path

    @property
    def _server(self) -> str:
        return f"https://{self.network.control_plane}:6443"

    def _make_network(self) -> None:
        network = self.network
        run_ip("link", "add", network.bridge, "type", "bridge")
        run_ip("address", "add", f"{network.control_plane}/24", "dev", network.bridge)
        run_ip("link", "set", network.bridge, "up")
        ends = {self.upstream_namespace: network.upstream, **{node.namespace: node.address for node in self.nodes}}
        for namespace, address in ends.items():
            self.connect(namespace, address)
        for node in self.nodes:
            self.route_pods(node, list(ends))

    def connect(self, namespace: str, address: str) -> None:
        """Create a network namespace with an address on the bridge."""
        network = self.network
        link = network.link(address)
        run_ip("netns", "add", namespace)
        run_ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run_ip("link", "set", link, "master", network.bridge, "up")
        run_ip("-netns", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        run_ip("-netns", namespace, "link", "set", "lo", "up")
        run_ip("-netns", namespace, "link", "set", "eth0", "up")
        run_ip("-netns", namespace, "route", "add", "default", "via", network.control_plane)
        own_network.run(*enter_network(namespace), "sh", "-euc", write_settings(TCP_SETTINGS))

    def route_pods(self, node: NativeNode, namespaces: list[str]) -> None:
        """Let this machine and the other hosts of the cluster reach the pods of a node."""
        route = ["route", "replace", self.network.pods(node.number), "via", node.address]
        run_ip(*route)
        for namespace in namespaces:
            if namespace != node.namespace:
                run_ip("-netns", namespace, *route)
        settings = node_settings() | {"net.ipv4.ip_forward": "1"}
        own_network.run(*enter_network(node.namespace), "sh", "-euc", write_settings(settings))

    def _namespaces_of_nodes(self) -> list[str]:
        """Return the network namespaces of all nodes, also of one that joined and that an ended test has left."""
        return sorted(path.name for path in Path("/run/netns").glob(f"{self.prefix}-node-*"))

    def _start_control_plane(self) -> None:
        place, network, folder = self.control_plane, self.network, self.control_plane.folder
        ca = pki.authority_file()
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        certificate, key = pki.issue(
            folder, "apiserver", network.control_plane, network.api_service, *names, common_name="kube-apiserver"
        )
        kubelet_certificate, kubelet_key = pki.issue(
            folder, "kubelet-client", common_name="kube-apiserver-kubelet-client", organization="system:masters"
        )
        signing_key = pki.signing_key(folder / "service-accounts.key")
        etcd = f"http://{network.control_plane}:2379"
        peer = f"http://{network.control_plane}:2380"
        place.start(
            "etcd",
            [
                tools.go_binary("etcd", "etcd"),
                f"--data-dir={folder}/etcd",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}",
                "--unsafe-no-fsync",
            ],
        )
        place.start(
            "kube-apiserver",
            [
                self.versions.kubernetes_program("kube-apiserver"),
                f"--admission-control-config-file={ADMISSION}",
                f"--advertise-address={network.control_plane}",
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                f"--bind-address={network.control_plane}",
                f"--client-ca-file={ca}",
                "--enable-admission-plugins=NodeRestriction",
                f"--etcd-servers={etcd}",
                f"--kubelet-client-certificate={kubelet_certificate}",
                f"--kubelet-client-key={kubelet_key}",
                "--kubelet-preferred-address-types=InternalIP",
                "--secure-port=6443",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={signing_key}",
                f"--service-account-signing-key-file={signing_key}",
                f"--service-cluster-ip-range={network.services}",
                f"--tls-cert-file={certificate}",
                f"--tls-private-key-file={key}",
            ],
        )
        self.write_kubeconfig(self.folder, "admin", "kubernetes-admin", "system:masters")
        manager = self.write_kubeconfig(folder, "controller-manager", "system:kube-controller-manager")
        scheduler = self.write_kubeconfig(folder, "scheduler", "system:kube-scheduler")
        wait_for("the API server", self._api_answers, timeout=120)
        place.start(
            "kube-controller-manager",
            [
                self.versions.kubernetes_program("kube-controller-manager"),
                f"--bind-address={network.control_plane}",
                f"--kubeconfig={manager}",
                "--leader-elect=false",
                f"--root-ca-file={ca}",
                f"--service-account-private-key-file={signing_key}",
                "--use-service-account-credentials=true",
            ],
        )
        place.start(
            "kube-scheduler",
            [
                self.versions.kubernetes_program("kube-scheduler"),
                f"--bind-address={network.control_plane}",
                f"--kubeconfig={scheduler}",
                "--leader-elect=false",
            ],
        )

    def _api_answers(self) -> bool:
        for program in ("etcd", "kube-apiserver"):
            if self.control_plane.process_id(program) is None:
                return False
        try:
            return interface.kubectl(self.kubeconfig, "get", "--raw", "/readyz") == "ok"
        except RuntimeError:
            return False

    def _manifest(self, name: str) -> str:
        text = (MANIFESTS / f"{name}.yaml").read_text()
        values = {
            "@BUSYBOX@": images.BUSYBOX,
            "@COREDNS@": images.COREDNS,
            "@LOCAL_PATH@": images.LOCAL_PATH,
            "@DNS@": self.network.dns,
            "@UPSTREAMS@": self.upstream.host_lines().replace("\n", "\\n"),
        }
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        return text

    def _wait_until_ready(self) -> None:
        nodes = [f"node/{node.name}" for node in self.nodes]
        wait_for(
            "the nodes to register", lambda: len(interface.get(self.kubeconfig, "nodes")["items"]) == len(nodes), 120
        )
        for arguments in (
            ["--for=condition=Ready", *nodes],
            ["--for=condition=Available", "--namespace=kube-system", "deployment/coredns"],
            ["--for=condition=Available", "--namespace=local-path-storage", "deployment/local-path-provisioner"],
        ):
            interface.kubectl(self.kubeconfig, "wait", "--timeout=180s", *arguments)

    def _print_logs(self) -> None:
        """Print the ends of all logs: a program that failed does not run long enough to be asked."""
        for log in sorted(self.folder.rglob("*.log")):
            tail = log.read_text(errors="replace").splitlines()[-5:]
            print(f"--- {log}", *tail, sep="\n", file=sys.stderr)


def _remove_empty_namespace_folder() -> None:
    """Undo a side effect of the first `ip netns add`, which mounts the folder of namespaces over itself."""
    folder = Path("/run/netns")
    if folder.is_dir() and not any(folder.iterdir()):
        while f" {folder} " in Path("/proc/self/mounts").read_text():
            _run("umount", str(folder))
        folder.rmdir()


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, env=tools.program_environment())
