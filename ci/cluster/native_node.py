"""One node of a native cluster: containerd, kubelet and kube-proxy in namespaces of their own."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import yaml
from machine.processes import Place, wait_for
from upstreams import pki

from cluster import images
from cluster.containerd_configuration import REGISTRY_DIRECTORY, containerd_configuration
from cluster.native_network import enter_network, node_settings

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.native import NativeCluster
    from cluster.versions import Versions

OVERLAID = ("etc", "opt", "var")
# What a container runtime or Kubernetes of this machine may have there. The node removes it from its own view alone.
NOT_OF_THE_MACHINE = ("/etc/cni", "/etc/containerd", "/etc/kubernetes", "/opt/cni", "/opt/containerd", "/var/lib/cni")


@dataclass(frozen=True)
class NativeNode:
    """A node: a set of namespaces, held open by a process that sleeps."""

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

    @property
    def versions(self) -> Versions:
        return self.cluster.versions

    @cached_property
    def outside(self) -> Place:
        """The node's network, with the files of this machine."""
        return Place(self.folder, self.cluster.cgroup(self.name, "system"), enter_network(self.namespace))

    @property
    def place(self) -> Place:
        """The place where the node's programs run."""
        holder = self.outside.process_id("holder")
        if holder is None:
            message = f"{self.name} is not up"
            raise RuntimeError(message)
        enter = ("nsenter", "--target", str(holder), "--mount", "--uts", "--net")
        return Place(self.folder, self.outside.cgroup, enter, (self.versions.containerd_folder,))

    def run(self, *command: str, check: bool = True) -> str:
        return self.place.run(command, check=check)

    def start(self, *references: str) -> None:
        """Start containerd, import these images, or all of them, and start kubelet and kube-proxy."""
        self.hold_namespaces()
        self.start_containerd()
        self.import_images(*references)
        self.start_kubernetes()

    def import_images(self, *references: str) -> None:
        """Import these images of the test bed, or all of them."""
        for archive in images.archives(references).values():
            self.run("ctr", "--namespace", "k8s.io", "images", "import", *self.versions.import_options, str(archive))

    def start_kubernetes(self) -> None:
        """Start kubelet and kube-proxy."""
        self._write_kubelet_configuration()
        kubelet = self.versions.kubernetes_program("kubelet")
        configured = [f"--config={self.folder}/kubelet.yaml", f"--kubeconfig={self.folder}/kubelet.conf"]
        self.place.start(
            "kubelet", [kubelet, *configured, f"--node-ip={self.address}", f"--hostname-override={self.name}", "--v=1"]
        )
        proxy = self.versions.kubernetes_program("kube-proxy")
        self.place.start("kube-proxy", [proxy, f"--config={self.folder}/kube-proxy.yaml", "--v=1"])

    def start_containerd(self, environment: dict[str, str] | None = None) -> None:
        """Start containerd and wait until it answers."""
        containerd = self.versions.containerd_folder / "containerd"
        # Go's x509 reads this file instead of the system's authorities. The test authority signed the upstreams' names.
        trust = {"SSL_CERT_FILE": str(pki.authority_file())}
        self.place.start("containerd", [containerd], {**trust, **(environment or {})})
        wait_for(f"containerd on {self.name}", self._containerd_answers, timeout=60)

    def _containerd_answers(self) -> bool:
        self.place.fail_if_dead("containerd")
        return "Server:" in self.run("ctr", "version", check=False)

    def hold_namespaces(self) -> None:
        """Create the node's mount namespace with its files; nothing runs in it yet."""
        files = self.folder / "files"
        for name in OVERLAID:
            (files / name).mkdir(parents=True)
            (files / f"{name}.work").mkdir()
        for name in ("containerd", "kubelet"):
            (files / name).mkdir()
        (self.folder / "prepare").write_text(self._prepare_script(files))
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.cluster.upstream.host_lines()}")
        (self.folder / "containerd.toml").write_text(containerd_configuration(self.versions))
        (self.folder / "pods.conflist").write_text(json.dumps(_pod_network(self.cluster.network.pods(self.number))))
        command = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", self.folder / "prepare"]
        self.outside.start("holder", command)

        def is_prepared() -> bool:
            self.outside.fail_if_dead("holder")
            return (self.folder / "prepared").exists()

        wait_for(f"the namespaces of {self.name}", is_prepared, timeout=30)

    def _prepare_script(self, files: Path) -> str:
        """Return the script that gives the node its mounts and files.

        Overlays cannot be mounted on an overlay, so the data of containerd and the kubelet is on the disk. As on any
        node, the resolver knows no names of the cluster; here it does not know any other names either.
        """
        folder = shlex.quote(str(self.folder))
        data = shlex.quote(str(files))
        return f"""set -eu
hostname {self.name}
for name in {" ".join(OVERLAID)}; do
    (cd {data} && mount -t overlay overlay -o "lowerdir=/$name,upperdir=$name,workdir=$name.work" "/$name")
done
rm -rf {" ".join(NOT_OF_THE_MACHINE)}
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock /var/lib/containerd /var/lib/kubelet /etc/cni/net.d {REGISTRY_DIRECTORY}
mount --bind {data}/containerd /var/lib/containerd
mount --bind {data}/kubelet /var/lib/kubelet
mount --make-rshared /
cp {folder}/hosts /etc/hosts
echo {self.name} > /etc/hostname
rm -f /etc/resolv.conf
echo 'nameserver {self.cluster.network.control_plane}' > /etc/resolv.conf
cp {folder}/containerd.toml /etc/containerd/config.toml
cp {folder}/pods.conflist /etc/cni/net.d/10-pods.conflist
touch {folder}/prepared
exec sleep 2147483647
"""

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
            # All images: a run pulls more than the 50 that a kubelet reports by default.
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


def _pod_network(subnet: str) -> dict[str, object]:
    """Return the configuration of CNI, with a point-to-point link for each pod.

    On a bridge, replies between two of its pods would not go through the address translation of Services.
    """
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "tuning", "sysctl": node_settings()},
        ],
    }
