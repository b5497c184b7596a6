"""A node that joins a native cluster while it runs, and leaves it again."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from machine.processes import wait_for

from cluster import images, interface
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.native_network import run_ip
from cluster.native_node import NativeNode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.native import NativeCluster

SECONDS = 120.0


@contextmanager
def joined(cluster: NativeCluster, number: int, mirrors: Mapping[str, str] | None = None) -> Iterator[NativeNode]:
    """Let a node join, and leave at the end; it has no image but that of the sandbox, as a new node of a cloud.

    `mirrors` are the hosts.toml files that are part of the node from its first moment, by the folders that they are in.
    """
    node = NativeNode(cluster, number)
    _remove(node)
    try:
        _start(node, mirrors or {})
        yield node
    finally:
        _remove(node)


def lose_power(node: NativeNode) -> None:
    """Kill every program and container on a node at once; its files stay."""
    holder = node.outside.process_id("holder")
    cgroup = node.cluster.cgroup(node.name)

    def all_ended() -> bool:
        processes = cgroup.processes() - {holder}
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not processes

    wait_for(f"the programs of {node.name} to end", all_ended, SECONDS)


def boot(node: NativeNode) -> None:
    """Start the programs of a node that has lost its power."""
    # What is in /run does not survive that; what is mounted there belongs to containers that have ended.
    node.run("sh", "-c", "grep ' /run/' /proc/mounts | cut -d' ' -f2 | sort -r | xargs -r umount -l; rm -rf /run/*")
    node.run("mkdir", "-p", "/run/netns", "/run/lock")
    node.start_containerd()
    node.start_kubernetes()


def _start(node: NativeNode, mirrors: Mapping[str, str]) -> None:
    cluster = node.cluster
    cluster.cgroup(node.name, "system").create()
    cluster.connect(node.namespace, node.address)
    hosts = [cluster.upstream_namespace, *(other.namespace for other in cluster.nodes)]
    cluster.route_pods(node, hosts)
    for other in cluster.nodes:
        run_ip("-netns", node.namespace, "route", "add", cluster.network.pods(other.number), "via", other.address)
    node.hold_namespaces()
    for folder, text in mirrors.items():
        path = f"{REGISTRY_DIRECTORY}/{folder}"
        node.run("sh", "-euc", f'mkdir "{path}"; printf %s "$0" > "{path}/hosts.toml"', text)
    node.start_containerd()
    node.import_images(images.PAUSE)
    node.start_kubernetes()
    wait_for(f"{node.name} to register", lambda: _is_registered(node), SECONDS)
    interface.kubectl(
        cluster.kubeconfig, "wait", f"--timeout={SECONDS:.0f}s", "--for=condition=Ready", f"node/{node.name}"
    )


def _remove(node: NativeNode) -> None:
    """End all that belongs to the node, and remove it from the cluster with its pods."""
    cluster, network = node.cluster, node.cluster.network
    cgroup = cluster.cgroup(node.name)
    cgroup.kill()
    cgroup.remove()
    if _is_registered(node):
        interface.kubectl(cluster.kubeconfig, "delete", "node", node.name, "--timeout=60s")
        pods = ["--all-namespaces", f"--field-selector=spec.nodeName={node.name}"]
        interface.kubectl(cluster.kubeconfig, "delete", "pods", *pods, "--force", "--grace-period=0")
    run_ip("netns", "delete", node.namespace, check=False)
    run_ip("link", "delete", network.link(node.address), check=False)
    for host in [cluster.upstream_namespace, *(other.namespace for other in cluster.nodes)]:
        run_ip("-netns", host, "route", "delete", network.pods(node.number), check=False)
    run_ip("route", "delete", network.pods(node.number), check=False)
    if node.folder.exists():
        shutil.rmtree(node.folder)


def _is_registered(node: NativeNode) -> bool:
    found = interface.get(node.cluster.kubeconfig, "nodes")["items"]
    return node.name in [each["metadata"]["name"] for each in found]
