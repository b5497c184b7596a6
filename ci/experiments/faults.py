"""What can be wrong with a cache, put in and taken out again, each within the test cluster's own namespaces.

Each fault is a context manager: it is in place when the block begins, and undone at its end whatever happened in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import ask
from cluster.pulls import new_image
from machine import tools
from machine.paths import REPOSITORY
from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from cluster.native import NativeCluster, NativeNode
    from cluster.release import Release
    from machine.processes import Place

UPSTREAM = "docker.io"
# The test cluster's registry of UPSTREAM without nginx before it, and so without a line in the access log.
ORIGIN_PORT = 5001
FAULT_PORT = 5080
# The chart's own settings, but no growing patience: the same cache has one fault after the other.
VALUES = {
    "caches": [{"upstream": UPSTREAM, "volume": {"size": "1Gi"}}],
    "nodeProgram": {"probe": {"maxBackoff": "0s"}},
}
HEALTHY = "status 200, 2 of 2 bytes"
CONTENT = "/v2/library/content/manifests/1"
REGISTRY_DIRECTORY = "/etc/containerd/certs.d"
# Some more than what the kubelet allows a container to end, and to start again.
CHANGE_SECONDS = 120.0


@dataclass
class Scene:
    """A release with one cache, of UPSTREAM, and a node that pulls: never the one that the cache's pod is on."""

    cluster: NativeCluster
    release: Release
    node: NativeNode = field(init=False)
    cache_node: NativeNode = field(init=False)
    address: str = field(init=False)

    def __post_init__(self) -> None:
        """Find out where the cache is, and have something in it that can be asked for."""
        new_image(self.cluster, f"{UPSTREAM}/library/content:1", layers=0)
        self.look()

    def look(self) -> None:
        """Find out where the cache is; a fault may have led to another pod or another Service."""
        on = self.release.pod(UPSTREAM)["spec"]["nodeName"]
        self.cache_node, self.node = sorted(self.cluster.nodes, key=lambda node: node.name != on)
        self.address = self.release.service_address(UPSTREAM)

    def ask(self, path: str = "/v2/") -> str:
        """What the pulling node gets at the Service's address, in the words of ask.py."""
        return self.node.run(sys.executable, ask.__file__, self.address, "5000", path).strip()

    def in_use(self) -> bool:
        """Whether the pulling node's containerd is told to ask a cache, at whatever address."""
        return "[host." in self.node.run("cat", f"{REGISTRY_DIRECTORY}/{UPSTREAM}/hosts.toml", check=False)

    def cache_processes(self) -> list[int]:
        """The ids of the cache's processes."""
        return pod_processes(self.cache_node, self.release.pod(UPSTREAM))

    def node_pod(self) -> Any:
        selectors = ["--selector=app.kubernetes.io/component=node", f"--field-selector=spec.nodeName={self.node.name}"]
        (pod,) = self.release.get("pods", *selectors)["items"]
        return pod


@dataclass(frozen=True)
class Fault:
    """One fault, and what is known of it.

    `symptom` is what the pulling node then gets for /v2/ and `contents` what it gets for a manifest, as patterns; they
    prove that the fault is in place.
    """

    title: str
    begin: Callable[[Scene], AbstractContextManager[object]]
    symptom: str = re.escape(HEALTHY)
    contents: str | None = None
    # The node program can see it, and withdraws the cache.
    seen: bool = True
    # Nobody answers: containerd waits 30 s for the head of an answer (core/remotes/docker/registry.go).
    silent: bool = False
    # containerd asks the upstream by itself; where not, a pull fails or hangs until the cache is withdrawn or away.
    falls_back: bool = True
    # It comes while a layer is on its way.
    under_way: bool = False
    # A pull can be made while it is in place and the node still uses the cache.
    before: bool = True


def pod_processes(node: NativeNode, pod: Any) -> list[int]:
    """The ids of all processes of a pod's containers, each container's first before those that it began.

    Raises:
        LookupError: there is none.
    """
    statuses = pod["status"]["containerStatuses"]
    containers = {status["containerID"].removeprefix("containerd://") for status in statuses}
    found = []
    for line in node.run("ctr", "--namespace", "k8s.io", "tasks", "list").splitlines():
        name, process, status = line.split()
        if name in containers and status in ("RUNNING", "STOPPED"):
            children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
            found += [int(process), *map(int, children)]
    if not found:
        message = f"{pod['metadata']['name']} has no process on {node.name}"
        raise LookupError(message)
    return found


def send(process: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have been ended meanwhile, by the kubelet or by the fault itself."""
    if Path(f"/proc/{process}").exists():
        os.kill(process, number)


@contextmanager
def kept(scene: Scene) -> Iterator[Callable[[], None]]:
    """The pulling node keeps its hosts.toml, until the block ends or what it gets is called.

    The node program waits for the lock on the registry folder before it writes or withdraws anything.
    """
    holder = scene.node.outside.process_id("holder")
    folder = os.open(f"/proc/{holder}/root{REGISTRY_DIRECTORY}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield partial(fcntl.flock, folder, fcntl.LOCK_UN)
    finally:
        os.close(folder)


@contextmanager
def led_to(scene: Scene, port: int) -> Iterator[None]:
    """The cache's Service leads to a port beside the upstream registries instead of to the cache's pod."""
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
        # One after the other, so that no request meets both. A selector that nothing has: without any, the controllers
        # would leave the pod's address where it is.
        _patch(scene, "service", name, {"spec": {"selector": {"fault": "in-place"}}})
        wait_for("kube-proxy to leave the cache", lambda: scene.ask() == "connection refused", CHANGE_SECONDS)
        scene.release.kubectl("create", "--filename", "-", text=json.dumps(piece))
        wait_for("kube-proxy to lead to the fault", lambda: scene.ask() != "connection refused", CHANGE_SECONDS)
        yield
    finally:
        scene.release.kubectl("delete", "endpointslice", slice_name, "--ignore-not-found")
        _patch(scene, "service", name, {"spec": {"selector": {"fault": None}}})


@contextmanager
def served_by(scene: Scene, fault: str, *, contents_only: bool = False) -> Iterator[None]:
    """A server with a fault answers in the cache's place."""
    place, address = scene.cluster.upstream.place, scene.cluster.network.upstream
    command = [sys.executable, "-m", "upstreams.fault_server", address, FAULT_PORT, fault, f"{address}:{ORIGIN_PORT}"]
    path = {"PYTHONPATH": str(REPOSITORY / "ci")}
    place.start("fault", [*command, *(["contents"] if contents_only else [])], path)
    try:
        wait_for("the fault server", lambda: _listens(place, address), timeout=30)
        with led_to(scene, FAULT_PORT):
            yield
    finally:
        place.stop("fault")


@contextmanager
def refused(scene: Scene) -> Iterator[None]:
    """Nothing listens where the Service leads; somebody did, which proves that it leads there."""
    with served_by(scene, "503"):
        scene.cluster.upstream.place.stop("fault")
        yield


@contextmanager
def scaled_to_nothing(scene: Scene) -> Iterator[None]:
    """A Service without endpoints."""
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
    """No Service; the one that is made at the end has an address of its own."""
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
        scene.look()


@contextmanager
def packets_dropped(scene: Scene) -> Iterator[None]:
    """No packet comes into the cache's pod or out of it."""
    # Held open, since the process in it may be ended meanwhile.
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
    """The cache's processes stand still: the kernel takes connections for them, and nothing answers."""
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
    """The cache's pod is deleted without a moment to end; its StatefulSet makes another."""
    name = scene.release.object_name(UPSTREAM)
    scene.release.kubectl("delete", "pod", f"{name}-0", "--grace-period=0", "--force")
    try:
        yield
    finally:
        _wait_for_cache(scene)


@contextmanager
def node_lost(scene: Scene) -> Iterator[None]:
    """The link of the node that the cache's pod is on is down."""
    link = scene.cluster.network.link(scene.cache_node.address)
    _set_link(link, "down")
    try:
        yield
    finally:
        _set_link(link, "up")
        # A node that was away for more than 40 s takes a moment to be ready, and so do the pods on it.
        ready = ["wait", "--for=condition=Ready", f"node/{scene.cache_node.name}", f"--timeout={CHANGE_SECONDS:.0f}s"]
        scene.release.kubectl(*ready)


@contextmanager
def node_program_killed(scene: Scene) -> Iterator[None]:
    """The node program ends without a chance to withdraw anything; the kubelet starts it again."""
    pod = scene.node_pod()
    try:
        for process in pod_processes(scene.node, pod):
            send(process, signal.SIGKILL)
        yield
    finally:
        # A new pod: the kubelet waits longer with each restart of the same one.
        scene.release.kubectl("delete", "pod", pod["metadata"]["name"])
        scene.release.kubectl("rollout", "status", "daemonset", f"--timeout={CHANGE_SECONDS:.0f}s")


@contextmanager
def node_program_killed_with_cache(scene: Scene) -> Iterator[None]:
    """Both at once: hosts.toml stays until the program's successor finds that nobody answers."""
    # The program's new pod is waited for at the end of all: it is not ready before the cache answers.
    with ExitStack() as program, refused(scene):
        program.enter_context(node_program_killed(scene))
        yield


def _served(fault: str, *, contents_only: bool = False) -> Callable[[Scene], AbstractContextManager[object]]:
    return partial(served_by, fault=fault, contents_only=contents_only)


def _patch(scene: Scene, kind: str, name: str, patch: Any) -> None:
    scene.release.kubectl("patch", kind, name, "--type=merge", f"--patch={json.dumps(patch)}")


def _wait_for_cache(scene: Scene) -> None:
    name = scene.release.object_name(UPSTREAM)
    scene.release.kubectl("rollout", "status", f"statefulset/{name}", f"--timeout={CHANGE_SECONDS:.0f}s")
    scene.look()


def _listens(place: Place, address: str) -> bool:
    place.fail_if_dead("fault")
    try:
        socket.create_connection((address, FAULT_PORT), timeout=2).close()
    except ConnectionRefusedError:
        return False
    return True


def _set_link(link: str, state: str) -> None:
    subprocess.run(["ip", "link", "set", link, state], check=True, env=tools.program_environment())


STATUSES = (404, 429, 500, 503)
FAULTS = (
    Fault("nothing listens", refused, "connection refused"),
    Fault("scaled to nothing", scaled_to_nothing, "connection refused"),
    Fault("Service deleted", service_deleted, "no connection|.*unreachable|connection refused"),
    Fault("packets dropped", packets_dropped, "no connection"),
    Fault("node of the cache lost", node_lost, "no connection|no route to host"),
    Fault("processes stopped: connects, never answers", process_stopped, "0 bytes of a head", silent=True),
    Fault("one byte a second", _served("drip"), "[12] bytes of a head", silent=True),
    *(Fault(f"{status} for everything", _served(str(status)), f"status {status}.*") for status in STATUSES),
    Fault("every body cut off", _served("cut"), "status 200, 1 of 2 bytes", falls_back=False),
    Fault("every body empty", _served("empty"), "status 200, 0 of 0 bytes", falls_back=False),
    Fault("node program killed, nothing listens", node_program_killed_with_cache, "connection refused", before=False),
    Fault("node program killed", node_program_killed, seen=False),
    *(
        Fault(
            f"{status} for contents alone",
            _served(str(status), contents_only=True),
            contents=f"status {status}.*",
            seen=False,
        )
        for status in STATUSES
    ),
    Fault(
        "contents cut off",
        _served("cut", contents_only=True),
        contents=r"status 200, \d+ of \d+ bytes",
        seen=False,
        falls_back=False,
    ),
    Fault(
        "contents empty",
        _served("empty", contents_only=True),
        contents="status 200, 0 of 0 bytes",
        seen=False,
        falls_back=False,
    ),
    Fault(
        "contents one byte a second",
        _served("drip-body", contents_only=True),
        contents=r"status 200, [12] of \d+ bytes",
        seen=False,
        falls_back=False,
    ),
    Fault(
        "cache's pod killed, a layer under way",
        pod_killed,
        "connection refused|no connection|no route to host",
        seen=False,
        under_way=True,
    ),
    Fault("processes stopped, a layer under way", process_stopped, "0 bytes of a head", silent=True, under_way=True),
)
