"""Enforces NetworkPolicies in a native cluster, whose own network enforces none.

kube-network-policies decides about the first packet of each connection. Its own rules send packets to it by a statement
of nftables that not every kernel has, so rules of iptables do that here.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from machine import tools
from machine.processes import wait_for
from upstreams import pki

from cluster import interface

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.native import NativeCluster
    from cluster.native_node import NativeNode

NAME = "network-policies"
NAMESPACE = "kube-system"
# Where a pod has its token (client-go, rest/config.go, InClusterConfig).
POD_FOLDER = "/run/secrets/kubernetes.io/serviceaccount"
QUEUE = "100"
# After the address of a Service became that of a pod, and before the sender's own address is replaced.
RULE = ("POSTROUTING", "!", "-o", "lo", "-m", "conntrack", "--ctstate", "NEW")
START_SECONDS = 60.0


@contextmanager
def enforced(cluster: NativeCluster) -> Iterator[None]:
    """Enforce all NetworkPolicies on all nodes meanwhile."""
    program = tools.kube_network_policies()
    kubectl = cluster.kubeconfig
    binding = f"--serviceaccount={NAMESPACE}:{NAME}"
    interface.kubectl(kubectl, "--namespace", NAMESPACE, "create", "serviceaccount", NAME)
    interface.kubectl(kubectl, "create", "clusterrolebinding", NAME, "--clusterrole=view", binding)
    try:
        token = interface.kubectl(kubectl, "--namespace", NAMESPACE, "create", "token", NAME, "--duration=2h")
        for node in cluster.nodes:
            _write(node, "token", token.strip())
            _write(node, "ca.crt", pki.authority_file().read_text())
            api = {"KUBERNETES_SERVICE_HOST": cluster.network.api_service, "KUBERNETES_SERVICE_PORT": "443"}
            options = [f"--hostname-override={node.name}", f"--nfqueue-id={QUEUE}", "--disable-nri"]
            node.place.start(NAME, [program, *options, "--metrics-bind-address=127.0.0.1:9080"], api)
        for node in cluster.nodes:
            wait_for(f"{NAME} on {node.name}", partial(_listens, node), START_SECONDS)
            _change_rules(node, "-A")
        yield
    finally:
        for node in cluster.nodes:
            _change_rules(node, "-D", check=False)
            node.place.stop(NAME)
        interface.kubectl(kubectl, "delete", "clusterrolebinding", NAME, "--ignore-not-found")
        interface.kubectl(kubectl, "--namespace", NAMESPACE, "delete", "serviceaccount", NAME, "--ignore-not-found")


def _write(node: NativeNode, name: str, content: str) -> None:
    node.place.run(["sh", "-c", f"mkdir -p {POD_FOLDER}; cat > {POD_FOLDER}/{name}"], text=content)


def _listens(node: NativeNode) -> bool:
    node.place.fail_if_dead(NAME)
    return any(
        line.split()[:1] == [QUEUE] for line in node.run("cat", "/proc/net/netfilter/nfnetlink_queue").splitlines()
    )


def _change_rules(node: NativeNode, change: str, *, check: bool = True) -> None:
    program = tools.iptables()
    libraries = program.parent.parent / "usr/lib/x86_64-linux-gnu/xtables"
    command = ["env", f"XTABLES_LIBDIR={libraries}", program, "-w", "-t", "mangle", change, *RULE]
    node.place.run([*command, "-j", "NFQUEUE", "--queue-num", QUEUE], check=check)
