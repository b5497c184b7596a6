"""Faults in the middle of a layer that the cache does not have yet, while real containerds pull it through a cache pod.

All containerds pull the same image at the same moment, so the cache fetches its only layer once. The fault strikes when
a third of the layer has arrived at each of them. Each containerd has a line of its own to the upstream's registry,
which the faults of the cache's upstream do not concern, and which is as fast as the upstream is for the cache.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.pod_volumes import Tmpfs
from machine import own_network, tools
from machine.processes import Place, wait_for
from upstreams import oci, pki
from upstreams.fault_server import NO_FAULT, Fault, FaultServer
from upstreams.sites import find_site

from experiments.bare_node import OLDER_RELEASES, Containerd, Pull
from experiments.cache_client import blob_path, connect
from experiments.pod_bench import UPSTREAM, Bench, pod_bench

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from cluster.cache_pod import CachePod

BYTES_PER_SECOND = 2 << 20
LAYER_BYTES = 8 << 20
LINE = Fault(bytes_per_second=BYTES_PER_SECOND)
# A layer that the cache fetches on several connections, if each of them is as slow as that.
LONG_LAYER_BYTES = 64 << 20
STRIKE_SHARE = 1 / 3
# Only what hangs takes this long.
HANG_SECONDS = 100.0
# How long the kubelet waits after a pull that failed.
KUBELET_PAUSE_SECONDS = 10.0
RESTART_SECONDS = 1.0
FIRST_LINE_PORT = 6001
HTTPS_PORT = 443
VOLUME = "32m"
FILL_BYTES = 1 << 16


@dataclass(frozen=True)
class Node:
    """A containerd, and its line to the upstream's registry."""

    containerd: Containerd
    line: FaultServer

    def use(self, mirror: str = "") -> None:
        """Write hosts.toml with a mirror, or without one."""
        folder = self.containerd.certs / UPSTREAM
        folder.mkdir(parents=True, exist_ok=True)
        host, port = self.line.address
        upstream = f"http://{host}:{port}"
        # containerd 1.6 ignores `server` in a file without hosts.
        hosts = f'[host."{mirror or upstream}"]\n  capabilities = ["pull", "resolve"]\n'
        if mirror.startswith("https"):
            hosts += f'  ca = "{pki.authority_file()}"\n'
        (folder / "hosts.toml").write_text(f'server = "{upstream}"\n{hosts}')

    def has(self, image: oci.Image) -> bool:
        """Return whether it has all of an image, with the right content."""
        root = self.containerd.folder / "root/io.containerd.content.v1.content/blobs/sha256"
        files = {root / digest.partition(":")[2]: content for digest, content in image.blobs.items()}
        return all(file.exists() and file.read_bytes() == content for file, content in files.items())


@dataclass
class ColdBodyBed:
    """The upstream, and the containerds."""

    bench: Bench
    nodes: list[Node]

    @property
    def containerds(self) -> list[Containerd]:
        """The containerds of the nodes."""
        return [node.containerd for node in self.nodes]

    def wait_for_bytes(self, count: int) -> None:
        """Wait until each containerd has written this much of a layer, in parts of 1 MiB."""
        wait_for(
            f"{count} bytes at each containerd",
            lambda: min(containerd.partial_bytes() for containerd in self.containerds) >= count,
            HANG_SECONDS,
            0.02,
        )

    def push(self, name: str, layer_bytes: int = LAYER_BYTES) -> oci.Image:
        """Push an image with one layer."""
        image = oci.Image(layers=(oci.random_layer(name, layer_bytes),))
        self.bench.upstream.push(_reference(name), image)
        return image

    def pull_directly(self) -> dict[str, Pull]:
        """Pull an image without a cache, with one containerd after the other."""
        image = self.push("direct")
        pulls = {}
        for node in self.nodes:
            node.use()
            pulls[node.containerd.release] = node.containerd.pull(_reference("direct"))
        assert all(node.has(image) for node in self.nodes), pulls
        return pulls


@dataclass
class Scene:
    """A pull through a pod: where a fault strikes."""

    bed: ColdBodyBed
    pod: CachePod
    name: str
    layer: str
    client: http.client.HTTPConnection | None = None


@dataclass(frozen=True)
class ColdBodyFault:
    """A fault in the middle of a layer.

    The rest of the layer comes from the cache or, with `is_resumed_directly`, from the upstream; None where either may
    happen. With `is_content_wrong`, all of the layer comes, and its digest is wrong. The upstream sends at most
    `max_fetched` times the layer to the cache, if that sends the rest. It limits the rate of each connection with
    `is_each_connection_slow`, and otherwise the rate of all together. The pulls take `max_seconds` at most.
    """

    title: str
    strike: Callable[[Scene], None]
    is_resumed_directly: bool | None
    prepare: Callable[[Scene], None] = lambda _: None
    is_content_wrong: bool = False
    max_fetched: float = 1.05
    max_seconds: float = HANG_SECONDS
    layer_bytes: int = LAYER_BYTES
    is_each_connection_slow: bool = False
    volume: Tmpfs | None = None


@dataclass
class ColdBodyResult:
    """How the pulls went; `retries` are those of the containerds whose first pull failed."""

    pulls: dict[str, Pull] = field(default_factory=dict)
    retries: dict[str, Pull] = field(default_factory=dict)
    # The releases that requested something from the upstream themselves.
    direct: set[str] = field(default_factory=set)
    complete: set[str] = field(default_factory=set)
    fetched_bytes: int = 0
    """What the upstream sent of the layer to the cache."""
    is_stored: bool = False
    is_wrong_content_stored: bool = False


@contextmanager
def cold_body_bed(folder: Path, releases: Iterable[str]) -> Iterator[ColdBodyBed]:
    """Start the upstream and the containerds, in a network of their own."""
    names = list(releases)
    tools.ensure_native()
    tools.ensure_faults()
    if OLDER_RELEASES.keys() & set(names):
        tools.ensure_older_containerds()
    with ExitStack() as stack:
        bench = stack.enter_context(pod_bench(folder))
        own_network.run("nft", "add table ip faults; add chain ip faults out { type filter hook output priority 0; }")
        own_network.run("nft", "add chain ip faults in { type filter hook input priority 0; }")
        place = Place(folder / "nodes", bench.cgroup)
        place.folder.mkdir()
        registry = (own_network.ADDRESS, find_site(UPSTREAM).port)
        yield ColdBodyBed(bench, stack.enter_context(started_nodes(place, names, registry, LINE)))


@contextmanager
def started_nodes(
    place: Place, releases: Iterable[str], registry: tuple[str, int], fault: Fault = NO_FAULT
) -> Iterator[list[Node]]:
    """Start containerds, each with a line of its own to the registry at this address and port."""
    with ExitStack() as stack:
        nodes = []
        for number, release in enumerate(releases):
            line = FaultServer((own_network.ADDRESS, FIRST_LINE_PORT + number), registry, fault)
            line.start()
            stack.callback(line.stop)
            containerd = Containerd(release, place, place.folder / f"certs-{release}")
            stack.callback(containerd.close)
            containerd.start()
            nodes.append(Node(containerd, line))
        yield nodes


def measure_cold_body(bed: ColdBodyBed, fault: ColdBodyFault) -> ColdBodyResult:
    """Pull a new image with all containerds, let the fault strike, and return what came of it."""
    name = f"cold-{COLD_BODY_FAULTS.index(fault)}"
    image = bed.push(name, fault.layer_bytes)
    layer = oci.digest(image.layers[0])
    upstream, result = bed.bench.upstream, ColdBodyResult()
    with bed.bench.pod(volume=fault.volume) as pod, ThreadPoolExecutor(len(bed.nodes)) as pool:
        scene = Scene(bed, pod, name, layer)
        limit = upstream.slow if fault.is_each_connection_slow else upstream.bandwidth
        limit(UPSTREAM, BYTES_PER_SECOND)
        mark = upstream.mark()
        for node in bed.nodes:
            node.use(pod.url)
        requests_before = [node.line.request_count for node in bed.nodes]
        fault.prepare(scene)
        try:
            pulls = _pull(pool, bed.nodes, name)
            bed.wait_for_bytes(int(fault.layer_bytes * STRIKE_SHARE))
            fault.strike(scene)
            result.pulls = {release: pull() for release, pull in pulls.items()}
            failed = [node for node in bed.nodes if result.pulls[node.containerd.release].error]
            if failed:
                time.sleep(KUBELET_PAUSE_SECONDS)
                result.retries = {release: pull() for release, pull in _pull(pool, failed, name).items()}
        finally:
            _let_through()
        result.direct = {
            node.containerd.release
            for node, before in zip(bed.nodes, requests_before, strict=True)
            if node.line.request_count > before
        }
        result.complete = {node.containerd.release for node in bed.nodes if node.has(image)}
        upstream.resume()
        result.fetched_bytes = sum(each.body_bytes for each in upstream.requests(mark) if each.digest == layer)
        file = oci.blob_file(pod.volume_folder, layer)
        result.is_stored = file.exists()
        result.is_wrong_content_stored = result.is_stored and file.read_bytes() != image.blobs[layer]
    return result


def _pull(pool: ThreadPoolExecutor, nodes: list[Node], name: str) -> dict[str, Callable[[], Pull]]:
    """Begin to pull an image, and return functions that wait for the pulls."""
    return {node.containerd.release: pool.submit(node.containerd.pull, _reference(name)).result for node in nodes}


def _reference(name: str) -> str:
    return f"{UPSTREAM}/library/{name}:1"


def _do_nothing(_: Scene) -> None:
    pass


def _cut_connections(scene: Scene) -> None:
    scene.pod.hang("gate")  # so that it resumes only when the upstream is back
    scene.bed.bench.upstream.bandwidth(UPSTREAM, BYTES_PER_SECOND)
    scene.pod.resume("gate")


def _refuse_cache(scene: Scene) -> None:
    """Reset the connections of the cache pod to the upstream, and refuse new ones."""
    rule = f"ip saddr {scene.pod.address} tcp dport {HTTPS_PORT} reject with tcp reset"
    own_network.run("nft", f"add rule ip faults in {rule}")


def _refuse_cache_for_a_moment(scene: Scene) -> None:
    _refuse_cache(scene)
    time.sleep(RESTART_SECONDS)
    _let_through()


def _let_through() -> None:
    own_network.run("nft", "flush table ip faults")


def _silence_for_cache(scene: Scene) -> None:
    """Drop all packets from the upstream to the cache pod."""
    own_network.run("nft", f"add rule ip faults out ip daddr {scene.pod.address} tcp sport {HTTPS_PORT} drop")


def _spoil_for_cache(scene: Scene) -> None:
    """Cut the connection of the cache pod, and spoil the first byte of each further body."""
    scene.pod.hang("gate")  # so that it resumes only when the fault is in place
    scene.bed.bench.upstream.corrupt(UPSTREAM)
    scene.pod.resume("gate")


def _restart_upstream(scene: Scene) -> None:
    for node in scene.bed.nodes:
        node.line.stop()
    scene.bed.bench.upstream.restart(RESTART_SECONDS)
    for node in scene.bed.nodes:
        node.line.fault = LINE
        node.line.start()


def _kill_gate(scene: Scene) -> None:
    scene.pod.kill("gate")


def _hang_gate(scene: Scene) -> None:
    scene.pod.hang("gate")


def _kill_pod(scene: Scene) -> None:
    for container in scene.pod.containers:
        os.kill(scene.pod.process(container), signal.SIGKILL)


def _fill_volume(scene: Scene) -> None:
    with (scene.pod.volume_folder / "foreign").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(FILL_BYTES)):
                pass
        except OSError:
            return  # it is full


def _begin_client(scene: Scene) -> None:
    """Let a client request the layer first."""
    scene.client = connect(scene.pod)
    headers = {"User-Agent": "containerd/hangs-up"}
    scene.client.request("GET", f"{blob_path(scene.name, scene.layer)}?ns={UPSTREAM}", headers=headers)
    scene.client.getresponse().read(1)


def _hang_up(scene: Scene) -> None:
    assert scene.client is not None
    scene.client.close()


COLD_BODY_FAULTS = (
    ColdBodyFault("no fault", _do_nothing, is_resumed_directly=False),
    ColdBodyFault("the upstream breaks the body off, and sends the rest", _cut_connections, is_resumed_directly=False),
    ColdBodyFault(
        "the upstream resets the cache's connections, and refuses new ones for a second",
        _refuse_cache_for_a_moment,
        is_resumed_directly=False,
        max_fetched=1.5,  # the upstream does not notice the reset, and fills its socket's buffer
    ),
    ColdBodyFault(
        "the same, and the cache fetches a layer of 64 MiB on several connections",
        _refuse_cache_for_a_moment,
        is_resumed_directly=False,
        max_fetched=1.5,
        layer_bytes=LONG_LAYER_BYTES,
        is_each_connection_slow=True,
    ),
    ColdBodyFault(
        "the upstream resets the cache's connections, and refuses new ones", _refuse_cache, is_resumed_directly=True
    ),
    ColdBodyFault("the upstream is silent for the cache", _silence_for_cache, is_resumed_directly=True),
    ColdBodyFault("the upstream's nginx restarts", _restart_upstream, is_resumed_directly=None),
    ColdBodyFault(
        "the cache gets wrong content from the upstream",
        _spoil_for_cache,
        is_resumed_directly=True,
        is_content_wrong=True,
    ),
    ColdBodyFault("the gate is killed", _kill_gate, is_resumed_directly=True),
    ColdBodyFault(
        "the gate hangs, and no liveness probe ends it", _hang_gate, is_resumed_directly=True, max_seconds=45.0
    ),
    ColdBodyFault("the cache pod is killed", _kill_pod, is_resumed_directly=True),
    ColdBodyFault("other files fill the volume", _fill_volume, is_resumed_directly=False, volume=Tmpfs(VOLUME)),
    ColdBodyFault(
        "the client that requested the layer first hangs up",
        _hang_up,
        is_resumed_directly=False,
        prepare=_begin_client,
    ),
)
