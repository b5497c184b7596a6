"""A soak: two nodes pull at random from caches on volumes that are much too small, while one fault follows another.

A pull has failed if the kubelet reports this for any of its tries. There is one excuse: its upstream was unavailable,
and the image was not complete on the volume of its cache when the pull began. Such a pull is counted separately, and
must succeed once the upstream is back. While an upstream is unavailable, only images that are complete on the volume
are pulled; their failure is excused if parts of the image were evicted before.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import shutil
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

from cluster import images, interface
from cluster.pulls import Pod, PullFailed
from upstreams import oci

from experiments.soak_faults import Disruption

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.interface import Node
    from cluster.native import NativeCluster
    from cluster.release import Release
    from cluster.small_volumes import SmallVolume

# The bytes of a layer, and how many layers an image has besides BusyBox.
LAYER_BYTES = (200_000, 12_000_000)
LAYERS = (1, 4)
# About every third layer is one that other images have too.
SHARED_LAYERS = 6
MEBIBYTE = 1 << 20
VOLUME_BYTES = {"docker.io": 128 * MEBIBYTE, "lscr.example.com": 64 * MEBIBYTE}
NAMES = {"docker.io": ("docker.io",), "lscr.example.com": ("lscr.example.com", "auth.example.org", "cdn.example.org")}
# The size of an upstream's images, as a multiple of its cache's volume.
TIMES_THE_VOLUME = 4
HIGH_WATER_MARK = 0.85
# On each node.
PULLS_AT_ONCE = 2
# How long a pull may take, including outages, and how long the caches may take to tidy up at the end.
PULL_SECONDS = 300.0
QUIET_SECONDS = 15.0


@dataclass(frozen=True)
class Stored:
    """An image of an upstream, without its content."""

    reference: str
    upstream: str
    digest: str
    config: str
    blobs: frozenset[str]
    size: int

    @property
    def repository(self) -> str:
        return self.reference.partition("/")[2].rpartition(":")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the image on a node that has it (containerd, internal/cri/server/images/image_pull.go)."""
        return self.reference, f"{self.upstream}/{self.repository}@{self.digest}", self.config


@dataclass(frozen=True)
class Outcome:
    """A pull: its seconds as the kubelet measured them, and the messages about tries that failed.

    `cached` says whether the image was complete on the volume before, `away` whether its upstream was unavailable at
    some time during the pull, and `excused` why it may have failed, if it may.
    """

    image: Stored
    node: str
    seconds: float
    served_by: str
    cached: bool
    away: bool
    failures: tuple[str, ...]
    excused: str


@dataclass
class Soak:
    """A soak with a release that is installed and whose caches are empty."""

    cluster: NativeCluster
    release: Release
    volumes: dict[str, SmallVolume]
    seed: int
    folder: Path
    images: list[Stored] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    evicted: int = 0
    errors: list[str] = field(default_factory=list)
    disruption: Disruption = field(init=False)

    def __post_init__(self) -> None:
        """Begin the log."""
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._on_nodes: set[tuple[str, str]] = set()
        self._went: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self._log = (self.folder / "soak.log").open("w", buffering=1)
        self.disruption = Disruption(
            self.cluster.upstream,
            self.release,
            NAMES,
            Random(f"{self.seed} faults"),  # noqa: S311
            self.say,
            self.folder,
        )

    def say(self, line: str) -> None:
        """Write a line with its time into the log."""
        self._log.write(f"{time.monotonic() - self._begun:7.1f} {line}\n")

    def fill(self) -> None:
        """Push images to the upstreams: several times what their caches can hold."""
        random = Random(f"{self.seed} images")  # noqa: S311 - content, not a secret
        for upstream, size in VOLUME_BYTES.items():
            total = 0
            while total < TIMES_THE_VOLUME * size:
                stored = self._push(random, upstream, len(self.images))
                self.images.append(stored)
                total += stored.size

    def run(self, seconds: float) -> None:
        """Pull on each node with one fault after the other; pulls that have begun are completed."""
        stop, calm = threading.Event(), threading.Event()
        threads = [
            threading.Thread(target=self._recorded, args=(self._pull_on, node, number, stop))
            for node in self.cluster.nodes
            for number in range(PULLS_AT_ONCE)
        ]
        threads.append(threading.Thread(target=self._recorded, args=(self._watch_evictions, stop)))
        disrupting = threading.Thread(target=self._recorded, args=(self.disruption.run, calm))
        for thread in (*threads, disrupting):
            thread.start()
        try:
            calm.wait(seconds)
        finally:
            calm.set()
            disrupting.join()
            stop.set()
            for thread in threads:
                thread.join()

    def check(self) -> dict[str, str]:
        """Request everything that each cache has, check its free room, and return a summary for each."""
        time.sleep(QUIET_SECONDS)
        return {upstream: self._check(upstream) for upstream in VOLUME_BYTES}

    def clean(self) -> None:
        """Remove the images from the nodes and the upstreams."""
        for node in self.cluster.nodes:
            names = [name for image in self.images for name in image.names]
            node.run("ctr", "--namespace", "k8s.io", "images", "remove", "--sync", *names, check=False)
        for image in self.images:
            root = self.cluster.upstream.folder / "storage" / image.upstream
            shutil.rmtree(root / "docker/registry/v2/repositories" / image.repository, ignore_errors=True)
            for digest in (*image.blobs, image.digest):
                shutil.rmtree(oci.blob_file(root, digest).parent, ignore_errors=True)

    def _push(self, random: Random, upstream: str, number: int) -> Stored:
        reference = f"{upstream}/library/soak-{number}:1"
        layers = []
        for _ in range(random.randint(*LAYERS)):
            shared = random.random() < 1 / 3
            name = f"shared {random.randrange(SHARED_LAYERS)}" if shared else f"{number} {random.random()}"
            size = Random(f"{self.seed} {name}").randint(*LAYER_BYTES)  # noqa: S311
            layers.append(oci.random_layer(f"{self.seed} {upstream} {name}", size))
        image = images.busybox(*layers, label=f"{self.seed} {reference}")
        self.cluster.upstream.push(reference, image)
        config = json.loads(image.manifest)["config"]["digest"]
        return Stored(reference, upstream, image.digest, config, frozenset(image.blobs), image.size)

    def _recorded(self, work: Any, *arguments: Any) -> None:
        """Call a function, and record an exception, with which the soak has failed."""
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001 - any exception fails the soak
            self.errors.append(f"{work.__name__}: {error!r}")
            self.say(f"error in {work.__name__}: {error!r}")

    def _pull_on(self, node: Node, number: int, stop: threading.Event) -> None:
        random = Random(f"{self.seed} {node.name} {number}")  # noqa: S311
        while not stop.is_set():
            image = self._choose(random, node)
            if image is None:
                stop.wait(0.5)
                continue
            outcome = self._pull(image, node)
            with self._lock:
                self._on_nodes.remove((node.name, image.reference))
                self.outcomes.append(outcome)
            self.say(f"{node.name} {image.reference} {outcome.seconds:.2f} s {outcome.served_by} {outcome.excused}")
            for failure in outcome.failures:
                self.say(f"{node.name} {image.reference} failed: {failure}")

    def _choose(self, random: Random, node: Node) -> Stored | None:
        """Return an image that the node is not pulling, and that is on the volume if its upstream is unavailable."""
        upstream = random.choice(sorted(VOLUME_BYTES))
        known = [image for image in self.images if image.upstream == upstream]
        if self.disruption.outages.is_on(upstream):
            known = [image for image in known if self._is_whole(image)]
        with self._lock:
            known = [image for image in known if (node.name, image.reference) not in self._on_nodes]
            if not known:
                return None
            # The first ones more often, so that some are pulled again while they are cached.
            chosen = known[min(random.randrange(len(known)), random.randrange(len(known)))]
            self._on_nodes.add((node.name, chosen.reference))
        return chosen

    def _pull(self, image: Stored, node: Node) -> Outcome:
        cached = self._is_whole(image)
        begun, began_at, mark = time.monotonic(), time.time(), self._log_size()
        seconds, failures, failed_at = 0.0, [], math.inf
        with _alone(self.cluster.kubeconfig, image, node) as pod:
            try:
                interface.kubectl(
                    self.cluster.kubeconfig,
                    "wait",
                    "pod",
                    pod.name,
                    "--for=condition=Ready",
                    f"--timeout={PULL_SECONDS}s",
                )
                seconds = pod.wait_until_pulled(60)
            except (RuntimeError, PullFailed) as error:
                failures.append(str(error))
            came = not failures
            failures += pod.failed_tries()
            failed_at = pod.first_failure()
        if failures:
            uses = self.release.uses_cache(node, image.upstream)
            failures.append(f"afterwards, {node.name} {'uses' if uses else 'does not use'} the cache")
        excused = ""
        away = self.disruption.outages.since(image.upstream, begun)
        if failures and came and away:
            if not cached:
                excused = "not cached, upstream away"
            elif self._lost_some(image, began_at, failed_at):
                excused = "evicted before it failed, upstream away"
        # With its content, so that the next pull fetches it again.
        node.run("ctr", "--namespace", "k8s.io", "images", "remove", "--sync", *image.names)
        return Outcome(
            image, node.name, seconds, self._served_by(image, node, mark), cached, away, tuple(failures), excused
        )

    def _served_by(self, image: Stored, node: Node, mark: int) -> str:
        """Return who sent the blobs; if both nodes pull the same image at once, the requests count for both."""
        with (self.cluster.upstream.folder / "access.log").open("rb") as log:
            log.seek(mark)
            asked = [json.loads(line) for line in log.read().splitlines()]
        clients = {
            entry["client"]
            for entry in asked
            if entry["method"] == "GET" and entry["uri"].partition("?")[0].rpartition("/")[2] in image.blobs
        }
        if node.address in clients:
            return "upstream"
        return "upstream through the cache" if clients - {each.address for each in self.cluster.nodes} else "cache"

    def _log_size(self) -> int:
        return (self.cluster.upstream.folder / "access.log").stat().st_size

    def _is_whole(self, image: Stored) -> bool:
        """Return whether the tag, the manifest and all blobs are on the volume."""
        root = self.volumes[image.upstream].files / "docker" / "registry" / "v2"
        tag = root / "repositories" / image.repository / "_manifests" / "tags" / "1" / "current" / "link"
        return tag.exists() and self.volumes[image.upstream].blobs >= {image.digest, *image.blobs}

    def _lost_some(self, image: Stored, begin: float, end: float) -> bool:
        """Return whether parts of an image were evicted between two times, in seconds since the epoch."""
        return any(
            begin <= at <= end
            for digest in (image.digest, *image.blobs)
            for at in self._went.get((image.upstream, digest), ())
        )

    def _watch_evictions(self, stop: threading.Event) -> None:
        """Record what disappears from the volumes, since a cache that is killed forgets it."""
        before: dict[str, set[str]] = {upstream: set() for upstream in VOLUME_BYTES}
        while not stop.wait(0.2):
            for upstream, volume in self.volumes.items():
                now = volume.blobs
                if gone := before[upstream] - now:
                    self.evicted += len(gone)
                    for digest in gone:
                        self._went[upstream, digest].append(time.time())
                    self.say(f"{upstream} evicted {' '.join(sorted(digest[7:15] for digest in gone))}")
                before[upstream] = now

    def _check(self, upstream: str) -> str:
        volume = self.volumes[upstream]
        address = self.release.pod(upstream)["status"]["podIP"]
        stored = volume.blobs
        count = 0
        known: set[str] = set()
        for image in self.images:
            if image.upstream != upstream:
                continue
            known |= {image.digest, *image.blobs}
            for kind, digests in (("manifests", {image.digest}), ("blobs", image.blobs)):
                for digest in sorted(digests & stored):
                    path = f"/v2/{image.repository}/{kind}/{digest}"
                    received = _digest_at(address, path)
                    count += 1
                    if received != digest:
                        self.errors.append(f"{upstream}{path} is {received}")
        self.errors += [f"{upstream}: {digest} on the volume is part of no image" for digest in sorted(stored - known)]
        if parts := [path.name for path in (volume.files / "parts").iterdir()]:
            self.errors.append(f"{upstream}: left in parts: {', '.join(sorted(parts))}")
        status = os.statvfs(volume.files)
        used = 1 - status.f_bavail / status.f_blocks
        if used > HIGH_WATER_MARK + _small_files(volume):
            self.errors.append(f"{upstream}: {used:.1%} of the volume is in use")
        return f"{len(stored)} blobs, all requested ({count} requests), {used:.0%} of the volume in use"


def _small_files(volume: SmallVolume) -> float:
    """Return the share of the volume that links take, a block each: the high-water mark counts only blobs."""
    status = os.statvfs(volume.files)
    links = sum("link" in files for _, _, files in os.walk(volume.files))
    return links / status.f_blocks


def _digest_at(address: str, path: str) -> str:
    """Return the digest of a response's body, or its status if that is an error."""
    connection = http.client.HTTPConnection(address, 5000, timeout=30)
    try:
        connection.request("GET", path, headers={"Accept": oci.MANIFEST})
        response = connection.getresponse()
        content = response.read()
        return oci.digest(content) if response.status == http.client.OK else f"status {response.status}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()


@contextmanager
def _alone(kubeconfig: Path, image: Stored, node: Node) -> Iterator[Pod]:
    """Create the image's pod on the node, and wait at the end until it is deleted."""
    pod = Pod(kubeconfig, image.reference, node)
    try:
        with pod:
            yield pod
    finally:
        interface.kubectl(kubeconfig, "wait", "pod", pod.name, "--for=delete", "--timeout=120s")
