"""Puts faults of a cache in place in the test cluster, within the namespaces of its nodes.

Each fault is a context manager: it is in place when the block begins, and is undone at the end of the block.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import ask
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.native_network import run_ip
from cluster.pulls import new_image
from machine.paths import REPOSITORY
from machine.processes import wait_for
from upstreams.fault_server import Fault

from experiments.faults import HEALTHY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from cluster.native import NativeCluster
    from cluster.native_node import NativeNode
    from cluster.release import Release
    from machine.processes import Place

    from experiments.faults import CacheFault

UPSTREAM = "docker.io"
# The test cluster's registry for UPSTREAM without its nginx, so that requests are not in the access log.
ORIGIN_PORT = 5001
FAULT_PORT = 5080
# The chart's default settings, but without backoff, since the same cache has one fault after the other.
VALUES = {
    "caches": [{"upstream": UPSTREAM, "volume": {"size": "1Gi"}}],
    "nodeProgram": {"probe": {"maxBackoff": "0s"}},
}
CONTENT = "/v2/library/content/manifests/1"
# More than a container may take to end and to start again.
CHANGE_SECONDS = 120.0


@dataclass
class Scene:
    """A release with one cache, that of UPSTREAM, and a node that pulls, which is not the node of the cache pod."""

    cluster: NativeCluster
    release: Release
    node: NativeNode = field(init=False)
    cache_node: NativeNode = field(init=False)
    address: str = field(init=False)

    def __post_init__(self) -> None:
        """Find the cache, and push an image that can be requested from it."""
        new_image(self.cluster, f"{UPSTREAM}/library/content:1", layers=0)
        self.find_cache()

    def find_cache(self) -> None:
        """Find the cache; a fault may have led to another pod or another Service."""
        on = self.release.pod(UPSTREAM)["spec"]["nodeName"]
        self.cache_node, self.node = sorted(self.cluster.nodes, key=lambda node: node.name != on)
        self.address = self.release.service_address(UPSTREAM)

    def ask(self, path: str = "/v2/") -> str:
        """Return what the pulling node gets at the Service's address, as ask.py describes it."""
        return self.node.run(sys.executable, ask.__file__, self.address, "5000", path).strip()

    def is_in_use(self) -> bool:
        """Return whether hosts.toml on the pulling node names a cache, at any address."""
        return "[host." in self.node.run("cat", f"{REGISTRY_DIRECTORY}/{UPSTREAM}/hosts.toml", check=False)

    def cache_processes(self) -> list[int]:
        """Return the ids of the cache's processes."""
        return pod_processes(self.cache_node, self.release.pod(UPSTREAM))

    def node_pod(self) -> Any:
        selectors = ["--selector=app.kubernetes.io/component=node", f"--field-selector=spec.nodeName={self.node.name}"]
        (pod,) = self.release.get("pods", *selectors)["items"]
        return pod


def pod_processes(node: NativeNode, pod: Any) -> list[int]:
    """Return the ids of all processes of a pod's containers, each first process before its children.

    Raises:
        LookupError: The pod has no process.
    """
    statuses = pod["status"]["containerStatuses"]
    containers = {status["containerID"].removeprefix("containerd://") for status in statuses}
    processes = []
    for line in node.run("ctr", "--namespace", "k8s.io", "tasks", "list").splitlines():
        name, process, status = line.split()
        if name in containers and status in ("RUNNING", "STOPPED"):
            children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
            processes += [int(process), *map(int, children)]
    if not processes:
        message = f"{pod['metadata']['name']} has no process on {node.name}"
        raise LookupError(message)
    return processes


def send(process: int, number: signal.Signals) -> None:
    """Send a signal to a process that the kubelet or the fault itself may have ended in the meantime."""
    if Path(f"/proc/{process}").exists():
        os.kill(process, number)


@contextmanager
def keep_hosts_file(scene: Scene) -> Iterator[Callable[[], None]]:
    """Keep hosts.toml on the pulling node until the block ends or the function that it gets is called.

    The node program waits for the lock of the registry directory before it changes anything.
    """
    holder = scene.node.outside.process_id("holder")
    folder = os.open(f"/proc/{holder}/root{REGISTRY_DIRECTORY}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield partial(fcntl.flock, folder, fcntl.LOCK_UN)
    finally:
        os.close(folder)


@contextmanager
def redirect_service(scene: Scene, port: int) -> Iterator[None]:
    """Point the cache's Service to a port beside the upstream registries instead of to the cache pod."""
    name = scene.release.object_name(UPSTREAM)
    slice_name = f"{name}-fault"
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": slice_name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [scene.cluster.network.upstream], "conditions": {"ready": True}}],
        "ports": [{"name": "registry-cache", "port": port, "protocol": "TCP"}],
    }
    try:
        # One after the other, so that no request finds both. The selector matches nothing: without a selector, the
        # controllers would leave the pod's address in place.
        _patch(scene, "service", name, {"spec": {"selector": {"fault": "in-place"}}})
        wait_for("kube-proxy to leave the cache", lambda: scene.ask() == "connection refused", CHANGE_SECONDS)
        scene.release.kubectl("create", "--filename", "-", text=json.dumps(piece))
        wait_for("kube-proxy to lead to the fault", lambda: scene.ask() != "connection refused", CHANGE_SECONDS)
        yield
    finally:
        scene.release.kubectl("delete", "endpointslice", slice_name, "--ignore-not-found")
        _patch(scene, "service", name, {"spec": {"selector": {"fault": None}}})


@contextmanager
def fault_server(scene: Scene, fault: Fault) -> Iterator[None]:
    """Let a server with a fault answer in the cache's place."""
    place, address = scene.cluster.upstream.place, scene.cluster.network.upstream
    command = [sys.executable, "-m", "upstreams.fault_server", address, FAULT_PORT, f"{address}:{ORIGIN_PORT}"]
    place.start("fault", command, {"PYTHONPATH": str(REPOSITORY / "ci"), "FAULT": fault.to_json()})
    try:
        wait_for("the fault server", lambda: _listens(place, address), timeout=30)
        with redirect_service(scene, FAULT_PORT):
            yield
    finally:
        place.stop("fault")


@contextmanager
def nothing_listens(scene: Scene) -> Iterator[None]:
    """Point the Service to a port on which nothing listens any more."""
    with fault_server(scene, Fault(status=503)):
        scene.cluster.upstream.place.stop("fault")
        yield


@contextmanager
def scaled_to_nothing(scene: Scene) -> Iterator[None]:
    """Leave the Service without endpoints."""
    name = scene.release.object_name(UPSTREAM)
    scene.release.kubectl("scale", "statefulset", name, "--replicas=0")
    try:
        wait_for("the cache to be away", lambda: scene.ask() != HEALTHY, CHANGE_SECONDS)
        yield
    finally:
        scene.release.kubectl("scale", "statefulset", name, "--replicas=1")
        _wait_for_cache(scene)


@contextmanager
def service_deleted(scene: Scene) -> Iterator[None]:
    """Delete the Service; the one that is created at the end has another address."""
    name = scene.release.object_name(UPSTREAM)
    service = scene.release.get("service", name)
    for key in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
        service["metadata"].pop(key, None)
    for key in ("clusterIP", "clusterIPs"):
        service["spec"].pop(key, None)
    scene.release.kubectl("delete", "service", name)
    try:
        wait_for("the Service to be away", lambda: scene.ask() != HEALTHY, CHANGE_SECONDS)
        yield
    finally:
        scene.release.kubectl("create", "--filename", "-", text=json.dumps(service))
        scene.find_cache()


@contextmanager
def packets_dropped(scene: Scene) -> Iterator[None]:
    """Drop all packets to and from the cache pod."""
    # The open file keeps the namespace, also when the process in it ends.
    with Path(f"/proc/{scene.cache_processes()[0]}/ns/net").open() as namespace:
        nft = partial(
            scene.cache_node.run, "nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace.fileno()}", "nft", "--"
        )
        nft("add table inet fault")
        try:
            for hook in ("input", "output"):
                nft(f"add chain inet fault {hook} {{ type filter hook {hook} priority -300; policy drop; }}")
            yield
        finally:
            nft("delete table inet fault")


@contextmanager
def process_stopped(scene: Scene) -> Iterator[None]:
    """Stop the cache's processes: the kernel still accepts connections for them."""
    processes = scene.cache_processes()
    for process in processes:
        send(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            send(process, signal.SIGCONT)


@contextmanager
def pod_killed(scene: Scene) -> Iterator[None]:
    """Delete the cache pod without a grace period; its StatefulSet creates another one."""
    name = scene.release.object_name(UPSTREAM)
    scene.release.kubectl("delete", "pod", f"{name}-0", "--grace-period=0", "--force")
    try:
        yield
    finally:
        _wait_for_cache(scene)


@contextmanager
def node_lost(scene: Scene) -> Iterator[None]:
    """Take down the link of the cache pod's node."""
    link = scene.cluster.network.link(scene.cache_node.address)
    run_ip("link", "set", link, "down")
    try:
        yield
    finally:
        run_ip("link", "set", link, "up")
        # A node that was away for more than 40 s needs a moment to be ready, and so do its pods.
        ready = ["wait", "--for=condition=Ready", f"node/{scene.cache_node.name}", f"--timeout={CHANGE_SECONDS:.0f}s"]
        scene.release.kubectl(*ready)


@contextmanager
def node_program_killed(scene: Scene) -> Iterator[None]:
    """Kill the node program, so that it withdraws nothing; the kubelet starts it again."""
    pod = scene.node_pod()
    try:
        for process in pod_processes(scene.node, pod):
            send(process, signal.SIGKILL)
        yield
    finally:
        # A new pod, since the kubelet waits longer before each restart of the same one.
        scene.release.kubectl("delete", "pod", pod["metadata"]["name"])
        scene.release.kubectl("rollout", "status", "daemonset", f"--timeout={CHANGE_SECONDS:.0f}s")


@contextmanager
def node_program_killed_with_cache(scene: Scene) -> Iterator[None]:
    """Do both at once: hosts.toml stays until the new node program finds that the cache does not answer."""
    # The new pod is waited for at the very end, since it is not ready before the cache answers.
    with ExitStack() as program, nothing_listens(scene):
        program.enter_context(node_program_killed(scene))
        yield


BY_TITLE: dict[str, Callable[[Scene], AbstractContextManager[object]]] = {
    "nothing listens": nothing_listens,
    "scaled to zero": scaled_to_nothing,
    "Service deleted": service_deleted,
    "packets dropped": packets_dropped,
    "node of the cache lost": node_lost,
    "processes stopped: connections are accepted, requests are not answered": process_stopped,
    "node program killed, nothing listens": node_program_killed_with_cache,
    "node program killed": node_program_killed,
    "cache pod killed while a layer is sent": pod_killed,
    "processes stopped while a layer is sent": process_stopped,
}


def put_in_place(scene: Scene, fault: CacheFault) -> AbstractContextManager[object]:
    """Return the context manager of a fault."""
    return fault_server(scene, fault.answers) if fault.answers else BY_TITLE[fault.title](scene)


def _patch(scene: Scene, kind: str, name: str, patch: Any) -> None:
    scene.release.kubectl("patch", kind, name, "--type=merge", f"--patch={json.dumps(patch)}")


def _wait_for_cache(scene: Scene) -> None:
    name = scene.release.object_name(UPSTREAM)
    scene.release.kubectl("rollout", "status", f"statefulset/{name}", f"--timeout={CHANGE_SECONDS:.0f}s")
    scene.find_cache()


def _listens(place: Place, address: str) -> bool:
    place.fail_if_dead("fault")
    try:
        socket.create_connection((address, FAULT_PORT), timeout=2).close()
    except ConnectionRefusedError:
        return False
    return True
