"""A Kubernetes of real programs in network namespaces of this machine, where there is no container engine.

    this machine   etcd, API server, controller manager, scheduler       10.N.0.1  ─┐
    node-1, -2     containerd, kubelet, kube-proxy                       10.N.0.11… ├─ one bridge
    upstream       nginx and distribution (module upstream)              10.N.0.10 ─┘

Each node has its own network, mounts and host name, and sees its own /etc, /opt, /run and /var over those of this
machine, so that nothing of a node is ever written here.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml
from machine import tools
from machine.cgroups import Cgroup
from machine.paths import cluster_folder
from machine.processes import Place, wait_for
from upstreams import pki
from upstreams.upstream import Upstream

from cluster import images, interface

MANIFESTS = Path(__file__).parent / "manifests"
NODE_COUNT = 2
NETWORKS = 40
REGISTRY_DIRECTORY = "/etc/containerd/certs.d"


class CannotRun(Exception):
    """The native cluster cannot run on this machine; the message says why and what else there is."""


@dataclass(frozen=True)
class Network:
    """The addresses of one cluster; `index` keeps several clusters apart."""

    index: int

    @property
    def bridge(self) -> str:
        return f"rcache{self.index}"

    @property
    def base(self) -> str:
        return f"10.{180 + self.index}"

    @property
    def control_plane(self) -> str:
        return f"{self.base}.0.1"

    @property
    def upstream(self) -> str:
        return f"{self.base}.0.10"

    def node(self, number: int) -> str:
        return f"{self.base}.0.{10 + number}"

    def pods(self, number: int) -> str:
        return f"{self.base}.{number}.0/24"

    def link(self, address: str) -> str:
        """The bridge's end of the link to an address."""
        return f"{self.bridge}-{address.rpartition('.')[2]}"

    @property
    def all_pods(self) -> str:
        return f"{self.base}.0.0/17"

    @property
    def services(self) -> str:
        return f"{self.base}.128.0/20"

    @property
    def api_service(self) -> str:
        return f"{self.base}.128.1"

    @property
    def dns(self) -> str:
        return f"{self.base}.128.10"


@dataclass(frozen=True)
class NativeNode:
    """One node: a set of namespaces, held open by a process that sleeps."""

    cluster: NativeCluster
    number: int

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def address(self) -> str:
        return self.cluster.network.node(self.number)

    @property
    def folder(self) -> Path:
        return self.cluster.folder / self.name

    @property
    def namespace(self) -> str:
        return f"{self.cluster.prefix}-{self.name}"

    @cached_property
    def outside(self) -> Place:
        """The node's network alone."""
        return Place(self.folder, self.cluster.cgroup(self.name, "system"), _enter_network(self.namespace))

    @property
    def place(self) -> Place:
        """Where the node's programs run."""
        holder = self.outside.process_id("holder")
        if holder is None:
            message = f"{self.name} is not up"
            raise RuntimeError(message)
        enter = ("nsenter", "--target", str(holder), "--mount", "--uts", "--net")
        return Place(self.folder, self.outside.cgroup, enter)

    def run(self, *command: str, check: bool = True) -> str:
        return self.place.run(command, check=check)

    def start(self) -> None:
        """Start containerd, load the images, start kubelet and kube-proxy."""
        self._hold_namespaces()
        self.start_containerd()
        for archive in images.archives().values():
            self.run("ctr", "--namespace", "k8s.io", "images", "import", "--local", str(archive))
        self._write_kubelet_configuration()
        kubelet = tools.go_binary("kubernetes", "kubelet")
        configured = [f"--config={self.folder}/kubelet.yaml", f"--kubeconfig={self.folder}/kubelet.conf"]
        self.place.start(
            "kubelet", [kubelet, *configured, f"--node-ip={self.address}", f"--hostname-override={self.name}", "--v=1"]
        )
        proxy = tools.go_binary("kubernetes", "kube-proxy")
        self.place.start("kube-proxy", [proxy, f"--config={self.folder}/kube-proxy.yaml", "--v=1"])

    def start_containerd(self) -> None:
        """Start containerd and wait until it answers."""
        containerd = tools.go_binary("containerd", "containerd")
        # Go's x509 reads this instead of the system's authorities: the test authority signed the upstreams' names.
        self.place.start("containerd", [containerd], {"SSL_CERT_FILE": str(pki.authority_file())})
        wait_for(f"containerd on {self.name}", self._containerd_answers, timeout=60)

    def _containerd_answers(self) -> bool:
        self.place.fail_if_dead("containerd")
        return "Server:" in self.run("ctr", "version", check=False)

    def _hold_namespaces(self) -> None:
        files = self.folder / "files"
        for name in ("etc", "opt", "var"):
            (files / name).mkdir(parents=True)
            (files / f"{name}.work").mkdir()
        for name in ("containerd", "kubelet"):
            (files / name).mkdir()
        (self.folder / "prepare").write_text(
            f"""set -eu
hostname {self.name}
for name in etc opt var; do
    mount -t overlay overlay -o lowerdir=/$name,upperdir={files}/$name,workdir={files}/$name.work /$name
done
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock /var/lib/containerd /var/lib/kubelet /etc/cni/net.d {REGISTRY_DIRECTORY}
# Overlays cannot be stacked on an overlay, so these two come from the disk.
mount --bind {files}/containerd /var/lib/containerd
mount --bind {files}/kubelet /var/lib/kubelet
mount --make-rshared /
cp {self.folder}/hosts /etc/hosts
echo {self.name} > /etc/hostname
# As on any node, the resolver knows no cluster names; here it knows nothing at all.
rm -f /etc/resolv.conf
echo 'nameserver {self.cluster.network.control_plane}' > /etc/resolv.conf
cp {self.folder}/containerd.toml /etc/containerd/config.toml
cp {self.folder}/pods.conflist /etc/cni/net.d/10-pods.conflist
touch {self.folder}/prepared
exec sleep 2147483647
"""
        )
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.cluster.upstream.host_lines()}")
        (self.folder / "containerd.toml").write_text(_containerd_configuration())
        (self.folder / "pods.conflist").write_text(json.dumps(_pod_network(self.cluster.network.pods(self.number))))
        command = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", self.folder / "prepare"]
        self.outside.start("holder", command)

        def prepared() -> bool:
            self.outside.fail_if_dead("holder")
            return (self.folder / "prepared").exists()

        wait_for(f"the namespaces of {self.name}", prepared, timeout=30)

    def _write_kubelet_configuration(self) -> None:
        self.cluster.write_kubeconfig(self.folder, "kubelet", f"system:node:{self.name}", "system:nodes")
        self.cluster.write_kubeconfig(self.folder, "kube-proxy", "system:kube-proxy")
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "authentication": {"x509": {"clientCAFile": str(pki.authority_file())}},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cluster.cgroup(self.name).name}",
            "clusterDNS": [self.cluster.network.dns],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "50Mi"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "healthzPort": 0,
            "imageGCHighThresholdPercent": 100,
            "maxPods": 200,
            # All: a run pulls more than the 50 that a kubelet reports by itself.
            "nodeStatusMaxImages": -1,
            "serializeImagePulls": False,
            "volumeStatsAggPeriod": "5s",
        }
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{self.folder}/kube-proxy.conf"},
            "clusterCIDR": self.cluster.network.all_pods,
            "conntrack": {"maxPerCore": 0, "min": 0},
            "hostnameOverride": self.name,
            "mode": "nftables",
        }
        (self.folder / "kubelet.yaml").write_text(yaml.safe_dump(kubelet))
        (self.folder / "kube-proxy.yaml").write_text(yaml.safe_dump(proxy))


@dataclass
class NativeCluster:
    """The whole of it; `name` keeps several apart."""

    name: str
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Derive the folder, which the parts need."""
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
            # Several clusters may come up at the same time.
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
        return [NativeNode(self, number) for number in range(1, NODE_COUNT + 1)]

    @cached_property
    def upstream(self) -> Upstream:
        namespace = f"{self.prefix}-upstream"
        place = Place(self.folder / "upstream", self.cgroup("upstream"), _enter_network(namespace))
        return Upstream(place, self.network.upstream)

    @cached_property
    def control_plane(self) -> Place:
        return Place(self.folder / "control-plane", self.cgroup("control-plane"))

    def cgroup(self, *parts: str) -> Cgroup:
        return Cgroup("/".join((self.prefix, *parts)))

    def is_up(self) -> bool:
        return (self.folder / "complete").exists() and self._api_answers()

    def up(self) -> None:
        """Start everything that does not run; a cluster that is half up is taken down first."""
        if self.is_up():
            return
        if sys.platform != "linux" or os.geteuid() != 0:
            message = (
                "the native test cluster needs root on Linux; elsewhere install Docker and kind, or give a kubeconfig"
            )
            raise CannotRun(message)
        tools.ensure_client()
        tools.ensure_native()
        self.down()
        try:
            self._up()
        except BaseException:
            self._say_why()
            raise

    def _up(self) -> None:
        images.archives()
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

    def down(self) -> None:
        """End every process, then remove control groups, namespaces, links and files, whatever is left of them."""
        cgroup = self.cgroup()
        cgroup.kill()
        cgroup.remove()
        for namespace in [f"{self.prefix}-upstream", *(node.namespace for node in self.nodes)]:
            if Path(f"/run/netns/{namespace}").exists():
                _ip("netns", "delete", namespace)
        _remove_empty_namespace_folder()
        if (self.folder / "network").exists():
            # A link goes with its namespace, but only a while after that was deleted: it may be gone in between.
            for link in Path("/sys/class/net").glob(f"{self.network.bridge}-*"):
                _ip("link", "delete", link.name, check=False)
            if Path(f"/sys/class/net/{self.network.bridge}").exists():
                _ip("link", "delete", self.network.bridge)
            del self.network
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
        """Write `<name>.conf` for a client of the API server and return its path."""
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
        _ip("link", "add", network.bridge, "type", "bridge")
        _ip("address", "add", f"{network.control_plane}/24", "dev", network.bridge)
        _ip("link", "set", network.bridge, "up")
        ends = {f"{self.prefix}-upstream": network.upstream, **{node.namespace: node.address for node in self.nodes}}
        for namespace, address in ends.items():
            link = network.link(address)
            _ip("netns", "add", namespace)
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
            _ip("link", "set", link, "master", network.bridge, "up")
            _ip("-netns", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-netns", namespace, "link", "set", "lo", "up")
            _ip("-netns", namespace, "link", "set", "eth0", "up")
            _ip("-netns", namespace, "route", "add", "default", "via", network.control_plane)
        for node in self.nodes:
            route = ["route", "add", network.pods(node.number), "via", node.address]
            _ip(*route)
            for namespace in ends:
                if namespace != node.namespace:
                    _ip("-netns", namespace, *route)
            subprocess.run(
                [*_enter_network(node.namespace), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
                check=True,
                env=tools.program_environment(),
            )

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
                tools.go_binary("kubernetes", "kube-apiserver"),
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
                tools.go_binary("kubernetes", "kube-controller-manager"),
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
                tools.go_binary("kubernetes", "kube-scheduler"),
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

    def _say_why(self) -> None:
        """Print the ends of all logs: what failed is not up long enough to be asked."""
        for log in sorted(self.folder.rglob("*.log")):
            tail = log.read_text(errors="replace").splitlines()[-5:]
            print(f"--- {log}", *tail, sep="\n", file=sys.stderr)


def _enter_network(namespace: str) -> tuple[str, ...]:
    return ("nsenter", f"--net=/run/netns/{namespace}")


def _ip(*arguments: str, check: bool = True) -> None:
    done = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, check=False, env=tools.program_environment()
    )
    if check and done.returncode != 0:
        message = f"ip {' '.join(arguments)}: {done.stderr.strip()}"
        raise RuntimeError(message)


def _remove_empty_namespace_folder() -> None:
    """Undo what the first `ip netns add` did besides: it mounts the folder of namespaces over itself."""
    folder = Path("/run/netns")
    if folder.is_dir() and not any(folder.iterdir()):
        while f" {folder} " in Path("/proc/self/mounts").read_text():
            subprocess.run(["umount", str(folder)], check=True, env=tools.program_environment())
        folder.rmdir()


def _data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _containerd_configuration() -> str:
    return f"""version = 3

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{images.PAUSE}'

[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = '{REGISTRY_DIRECTORY}'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{tools.debian_root()}/usr/lib/cni']
  conf_dir = '/etc/cni/net.d'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
"""


def _pod_network(subnet: str) -> dict[str, object]:
    """Point-to-point links: on a bridge, answers between two of its pods would pass by the Service's translation."""
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]},
            }
        ],
    }
