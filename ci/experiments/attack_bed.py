"""A cache under attack: one pod with the memory limits of the chart, and a real containerd that pulls from it.

The attackers have a network of their own, as a pod of somebody else has. The upstream is the test bed's registry, with
repositories that are hostile.
"""

from __future__ import annotations

import http.client
import json
import ssl
import statistics
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from machine import own_network, tools
from machine.paths import REPOSITORY
from machine.processes import Place, wait_for
from upstreams import oci
from upstreams.fault_server import FaultServer
from upstreams.push import push_image
from upstreams.sites import find_site

from experiments.bare_node import Containerd, Pull
from experiments.cold_body_faults import Node
from experiments.flood import Flood
from experiments.pod_bench import UPSTREAM, Bench, pod_bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.cache_pod import CachePod
    from cluster.container_limits import Limits
    from cluster.pod_volumes import Tmpfs

HOSTILE_PORT = 7000
HOSTILE_URL = f"http://{own_network.ADDRESS}:{HOSTILE_PORT}"
LINE_PORT = 6001
ATTACKER_NUMBER = 200
MIB = 1 << 20
LAYERS = 3
SAMPLE_SECONDS = 0.05
USUAL_PULLS = 5
MIN_PULLS = 3
MAX_PULL_SECONDS = 300.0
# How long a pull may take during an attack, in times of the usual, and how long the slowest of many pulls may take.
MAX_TIMES = 2.0
SLOWEST_SECONDS = 6.0
MARGIN_SECONDS = 0.3
START_SECONDS = 60.0
VOLUME_SIZE = "1Gi"
HONEST = "honest"
# The attackers run on the same machine as the cache, which real ones do not.
MEEK = ("nice", "-n", "19")


@dataclass
class Result:
    """What an attack did."""

    usual: float
    pulls: list[Pull] = field(default_factory=list)
    direct_requests: int = 0
    """How many requests the node sent to the upstream itself while it was to pull from the cache."""
    peak_mib: dict[str, float] = field(default_factory=dict)
    restarts: int = 0
    kills: int = 0
    evictions: int = 0
    broken: list[str] = field(default_factory=list)
    """What did not hold."""

    @property
    def median(self) -> float:
        return statistics.median([pull.seconds for pull in self.pulls]) if self.pulls else float("nan")


@dataclass
class Scene:
    """A pod under attack."""

    bed: AttackBed
    pod: CachePod
    broken: list[str] = field(default_factory=list)
    own_restarts: int = 0
    """How often the attack itself ended a container."""
    may_be_refused: bool = False
    """Whether the cache may refuse pulls meanwhile, which the node then sends to the upstream."""
    _floods: list[str] = field(default_factory=list)

    @property
    def limits(self) -> Limits:
        """The limits of the pod's containers."""
        assert self.pod.limits is not None
        return self.pod.limits

    def require(self, holds: object, otherwise: str) -> None:
        """Note what does not hold."""
        if not holds:
            self.broken.append(otherwise)

    def get(self, path: str, method: str = "GET", seconds: float = 60.0, **headers: str) -> Answer:
        """Send a request to the pod as a containerd does."""
        return ask(self.pod.url + path, method, seconds, headers)

    def flood(self, path: str, **changes: Any) -> str:
        """Begin a flood, and return its name."""
        parts = urlsplit(self.pod.url)
        assert parts.hostname is not None
        assert parts.port is not None
        flood = Flood(parts.hostname, parts.port, path, tls=parts.scheme == "https", **changes)
        name = self.bed.start_flood(flood)
        self._floods.append(name)
        return name

    def flood_to_end(self, path: str, seconds: float = 90.0, **changes: Any) -> dict[str, int]:
        """Run a flood until all of its requests were sent, and return how many responses had each status."""
        name = self.flood(path, **changes)
        with suppress(TimeoutError):
            wait_for("a flood to end", lambda: not self.bed.attackers.process_id(name), seconds)
        return self.end_flood(name)

    def end_flood(self, name: str) -> dict[str, int]:
        """End a flood, and return how many responses had each status."""
        self.bed.attackers.stop(name)
        if name in self._floods:
            self._floods.remove(name)
        lines = self.bed.attackers.log(name).read_text().splitlines()
        assert lines, f"{name} ended without a result"
        assert lines[-1].startswith("{"), lines[-1]
        return dict(json.loads(lines[-1]))

    def end_floods(self) -> None:
        for name in list(self._floods):
            self.end_flood(name)

    def evictions(self) -> int:
        """Return how many blobs were evicted."""
        return int(self.pod.metrics().get('registry_cache_removed_blobs_total{reason="evicted"}', 0))

    def links(self, repository: str = "") -> int:
        """Return how many links there are below the folder of a repository."""
        root = self.pod.volume_folder / "docker/registry/v2/repositories" / repository
        return sum(1 for _ in root.rglob("link"))

    def stored(self, image: oci.Image) -> int:
        """Return how many blobs of an image are on the volume."""
        return sum(oci.blob_file(self.pod.volume_folder, digest).exists() for digest in image.blobs)


@dataclass(frozen=True)
class Answer:
    """A response; a body that breaks off is not `whole`. Status 0 means that there was no response."""

    status: int
    body: bytes
    whole: bool
    seconds: float
    headers: dict[str, str]


def ask(url: str, method: str = "GET", seconds: float = 60.0, headers: dict[str, str] | None = None) -> Answer:
    """Send a request as containerd does, and return the response, or one with status 0."""
    given = {"User-Agent": "containerd/v2.4.2", "Accept": f"{oci.MANIFEST}, {oci.INDEX}", **(headers or {})}
    request = urllib.request.Request(url, method=method, headers=given)  # noqa: S310 - the address of our own pod
    begun = time.monotonic()
    body, status, found, whole = b"", 0, {}, False
    try:
        with _OPENER.open(request, timeout=seconds) as response:
            status, found = response.status, dict(response.headers.items())
            body = response.read()
            whole = True
    except urllib.error.HTTPError as error:
        status, found = error.code, dict(error.headers.items())
        with suppress(OSError, http.client.HTTPException):
            body, whole = error.read(), True
    except http.client.IncompleteRead as error:
        body = error.partial
    except (OSError, http.client.HTTPException):
        pass  # no response, or one that broke off
    return Answer(status, body, whole, time.monotonic() - begun, found)


_UNCHECKED = ssl._create_unverified_context()  # noqa: S323, SLF001 - only containerd has to check the certificate
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_UNCHECKED))


@dataclass
class AttackBed:
    """The upstream, the node, and the attackers."""

    bench: Bench
    node: Node
    attackers: Place
    programs: Place
    image: oci.Image
    margin_seconds: float = MARGIN_SECONDS
    """What single measurements differ by."""
    _count: int = 0

    @property
    def registry(self) -> str:
        """Host and port of the registry behind the hostile upstream."""
        return f"{own_network.ADDRESS}:{find_site(UPSTREAM).port}"

    def push(self, name: str, layers: int, size: int) -> oci.Image:
        """Push an image with layers of random content."""
        image = oci.Image(layers=tuple(oci.random_layer(f"{name} {number}", size) for number in range(layers)))
        push_image(self.registry, f"library/{name}", "1", image)
        return image

    def sent_bytes(self, part: str) -> int:
        """Return how many bytes of bodies the upstream sent of repositories with this in their names."""
        sent: dict[str, int] = json.loads(ask(f"{HOSTILE_URL}/-/sent").body)
        return sum(count for repository, count in sent.items() if part in repository)

    def count_requests(self, behaviour: str) -> int:
        """Return how many requests the hostile upstream got for repositories with this behaviour."""
        asked: dict[str, int] = json.loads(ask(f"{HOSTILE_URL}/-/asked").body)
        return asked.get(behaviour, 0)

    def start_flood(self, flood: Flood) -> str:
        """Start a flood from the attackers' network."""
        self._count += 1
        name = f"flood-{self._count}"
        command = [sys.executable, "-m", "experiments.flood", flood.to_json()]
        self.attackers.start(name, command, {"PYTHONPATH": str(REPOSITORY / "ci")})
        return name

    def pull(self) -> Pull:
        """Pull the honest image, of which the node has nothing."""
        reference = f"{UPSTREAM}/library/{HONEST}:1"
        self.node.containerd.remove(reference)
        pull = self.node.containerd.pull(reference)
        if not pull.error and not self.node.has(self.image):
            return Pull(pull.seconds, "the content is wrong")
        return pull

    @contextmanager
    def scene(
        self, cache: dict[str, Any] | None = None, volume: Tmpfs | None = None, values: dict[str, Any] | None = None
    ) -> Iterator[Scene]:
        """Start a pod, let it cache the honest image, and point the node to it."""
        configuration = {
            "upstream": UPSTREAM,
            "remoteURL": HOSTILE_URL,
            "volume": {"size": VOLUME_SIZE},
            **(cache or {}),
        }
        with self.bench.pod(configuration, volume, has_limits=True, values=values or {}) as pod:
            self.node.use(pod.url)
            scene = Scene(self, pod)
            try:
                for _ in range(2):
                    assert not (pull := self.pull()).error, pull
                yield scene
            finally:
                scene.end_floods()

    def run(self, attack: Callable[[Scene], None], **options: Any) -> Result:
        """Attack a new pod while the node pulls from it, and return what that did."""
        with self.scene(**options) as scene:
            result = Result(statistics.median(self.pull().seconds for _ in range(USUAL_PULLS)))
            before = self.node.line.request_count
            with _Pulling(self, scene.limits, result):
                try:
                    attack(scene)
                except Exception as error:  # noqa: BLE001 - the table has a row for it
                    scene.broken.append(f"{type(error).__name__}: {error}")
                wait_for("the node's pulls", lambda: len(result.pulls) >= MIN_PULLS, MAX_PULL_SECONDS)
                scene.end_floods()
            result.direct_requests = self.node.line.request_count - before
            result.peak_mib = {name: memory.peak_bytes / MIB for name, memory in scene.limits.memory.items()}
            result.restarts = sum(scene.limits.restarts.values()) - scene.own_restarts
            result.kills = sum(memory.count_kills() for memory in scene.limits.memory.values())
            with suppress(OSError, AssertionError):
                wait_for("the gate", scene.pod.is_ready, START_SECONDS)
                result.evictions = scene.evictions()
            _require_usual_service(scene, result)
            result.broken = scene.broken
            return result


def _require_usual_service(scene: Scene, result: Result) -> None:
    """Note what must hold during each attack, and does not."""
    killed = [name for name, memory in scene.limits.memory.items() if memory.count_kills()]
    scene.require(not killed, f"out of memory: {', '.join(killed)}")
    restarted = [f"{name} ({count})" for name, count in scene.limits.restarts.items() if count]
    scene.require(result.restarts == 0, f"started again: {', '.join(restarted)}")
    failed = [pull.error for pull in result.pulls if pull.error]
    scene.require(not failed, f"{len(failed)} of {len(result.pulls)} pulls failed: {failed[:1]}")
    is_served = result.direct_requests == 0 or scene.own_restarts or scene.may_be_refused
    scene.require(is_served, f"the node sent {result.direct_requests} requests to the upstream")
    scene.require("Traceback" not in scene.pod.log("gate"), "the gate logged a traceback")
    limit = MAX_TIMES * result.usual + scene.bed.margin_seconds
    scene.require(result.median <= limit, f"a pull took {result.median:.2f} s instead of {result.usual:.2f} s")
    slowest = max(pull.seconds for pull in result.pulls)
    scene.require(slowest <= SLOWEST_SECONDS, f"one of {len(result.pulls)} pulls took {slowest:.1f} s")


class _Pulling:
    """Pulls again and again, and samples the memory of the pod, until the end of the block."""

    def __init__(self, bed: AttackBed, limits: Limits, result: Result) -> None:
        self._bed, self._limits, self._result = bed, limits, result
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._pull, self._sample)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _pull(self) -> None:
        while True:
            self._result.pulls.append(self._bed.pull())
            if self._stop.wait(0.2):
                return

    def _sample(self) -> None:
        while True:
            for memory in self._limits.memory.values():
                memory.sample()
            if self._stop.wait(SAMPLE_SECONDS):
                return


@contextmanager
def attack_bed(folder: Path, margin_seconds: float = MARGIN_SECONDS) -> Iterator[AttackBed]:
    """Start the upstream, the node and the attackers' network, with files in `folder`."""
    tools.ensure_native()
    with pod_bench(folder) as bench:
        programs = Place(folder / "programs", bench.cgroup)
        start_hostile_upstream(programs)
        line = FaultServer((own_network.ADDRESS, LINE_PORT), (own_network.ADDRESS, find_site(UPSTREAM).port))
        line.start()
        containerd = Containerd("2.x", programs, folder / "certs")
        holder = programs.start("attackers", ["unshare", "--net", "sleep", "2147483647"])
        ours = Path("/proc/thread-self/ns/net").readlink()
        network = Path(f"/proc/{holder}/ns/net")
        wait_for("the attackers' network", lambda: network.readlink() != ours, START_SECONDS, 0.02)
        own_network.join(holder, ATTACKER_NUMBER)
        attackers = Place(folder / "attackers", bench.cgroup, (*MEEK, "nsenter", f"--net={network}"))
        try:
            containerd.start()
            bed = AttackBed(bench, Node(containerd, line), attackers, programs, oci.Image(()), margin_seconds)
            bed.image = bed.push(HONEST, LAYERS, MIB)
            yield bed
        finally:
            containerd.close()
            line.stop()


def start_hostile_upstream(place: Place) -> None:
    """Start the hostile upstream in front of the registry, and wait until it answers."""
    port = find_site(UPSTREAM).port
    command = [*MEEK, sys.executable, "-m", "upstreams.hostile_upstream", own_network.ADDRESS, HOSTILE_PORT, port]
    place.start("hostile-upstream", command, {"PYTHONPATH": str(REPOSITORY / "ci")})
    wait_for("the hostile upstream", lambda: ask(f"{HOSTILE_URL}/-/sent").status, START_SECONDS)
