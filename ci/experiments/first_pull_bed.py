"""The test bed of `first_pull`: a node gets the same image in three ways.

    direct         from the upstream, which has no cache
    cache          through the chart's cache on the other node
    distribution   through distribution alone on the other node, in that node's network

The three upstreams are behind the same nginx, and their files are hard links to the same content. `first_private_pull`
has a bed for private images.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from cluster import interface
from cluster.containerd_configuration import REGISTRY_DIRECTORY
from cluster.images import busybox_layer
from cluster.pulls import Pod
from cluster.release import Release
from machine import tools
from machine.processes import wait_for
from machine.usage import busy_seconds
from upstream.connections import USER_AGENT
from upstreams import oci, pki
from upstreams.sites import find_site

from experiments.bench_contenders import CONFIGURATION, probe_cache

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.native import NativeCluster
    from cluster.native_node import NativeNode

DIRECT, CACHE, DISTRIBUTION = "direct", "cache", "distribution"
# The upstream of each way.
WAYS = {DIRECT: "ghcr.io", CACHE: "docker.io", DISTRIBUTION: "quay.io"}
MEBIBYTE = 1 << 20
# Enough for a few images of 2 GiB. Older ones are evicted.
VOLUME_SIZE = "8Gi"
# If the volume is in memory, it belongs to the memory of the container that writes it.
RESOURCES = {name: {"limits": {"memory": "10Gi"}} for name in ("front", "gate", "distribution")}
PORT = 5100
PULL_SECONDS = 600.0
REMOVAL_SECONDS = 300.0
SAMPLE_SECONDS = 0.02
# The first and the last bytes are left out of a link's share: the link is not busy all the time then.
EDGE = 0.05
# A packet on the link, and what it carries (an Ethernet header of 14, 20 of IP, 32 of TCP with time stamps).
PACKET_BYTES, PAYLOAD_BYTES = 1514, 1448


@dataclass(frozen=True)
class Shape:
    """The number of an image's layers, and the size of each."""

    layers: int
    mebibytes: int

    def __str__(self) -> str:
        """Return it for a table."""
        size = f"{self.mebibytes // 1024} GiB" if self.mebibytes % 1024 == 0 else f"{self.mebibytes} MiB"
        return f"{self.layers} \N{MULTIPLICATION SIGN} {size}"

    def image(self) -> oci.Image:
        """Return a new image with random content that runs: its first layer has BusyBox too."""
        size = self.mebibytes * MEBIBYTE
        sizes = [size - len(busybox_layer()), *([size] * (self.layers - 1))]
        # The content repeats after 16 MiB, which makes no difference, since nothing compresses it.
        content = os.urandom(min(size, 16 * MEBIBYTE))
        layers = []
        for number, length in enumerate(sizes):
            own = number.to_bytes(4) + content
            files = {f"content/{number}": (own * (length // len(own) + 1))[:length]}
            layers.append(oci.layer_of_files(files))
        layers[0] = _joined(busybox_layer(), layers[0])
        # PID 1 ignores SIGTERM, and the kubelet would wait for it.
        return oci.Image(
            layers=tuple(layers), entrypoint=("/bin/busybox", "sleep", "2147483647"), stop_signal="SIGKILL"
        )


@dataclass(frozen=True)
class Measured:
    """One pull: the kubelet's seconds, what the upstream sent for it, and the share of the node's link in use.

    `processors` is the share of all processors in use while the bulk of the bytes came, by whatever program: all hosts
    of the test cluster share them.
    """

    seconds: float
    multiple: float
    requests: int
    link_share: float | None
    processors: float | None


class Sample(NamedTuple):
    """What a link had carried at a moment, and how long the processors had been busy."""

    seconds: float
    link_bytes: int
    busy_seconds: float = 0.0


@dataclass
class Bed:
    """A cluster with the chart's cache of one upstream, and distribution alone as the cache of another one."""

    # The upstream of each way, the folder of its repositories, and the pull secret of its pods.
    ways: ClassVar[Mapping[str, str]] = WAYS
    folder: ClassVar[str] = "library"
    secret: ClassVar[str | None] = None

    cluster: NativeCluster
    _stored: int = field(default=0)

    @cached_property
    def release(self) -> Release:
        return Release(self.cluster, name="first-pull", namespace="first-pull")

    @cached_property
    def near(self) -> NativeNode:
        """The node with the cache pod."""
        name = self.release.pod(self.ways[CACHE])["spec"]["nodeName"]
        return next(node for node in self.cluster.nodes if node.name == name)

    @cached_property
    def far(self) -> list[NativeNode]:
        """The nodes that pull: the first one what is new, and the second one what the first one has pulled."""
        return [node for node in self.cluster.nodes if node is not self.near]

    def puller(self, way: str, *, is_second: bool) -> NativeNode:  # noqa: ARG002 - a subclass has a node for each way
        """Return the node that pulls in one of the ways."""
        return self.far[is_second]

    def install(self) -> None:
        """Install the chart, and have the first far node ask distribution for the images of its upstream."""
        upstream = WAYS[CACHE]
        cache = {"upstream": upstream, "remoteURL": "https://registry-1.docker.io", "volume": {"size": VOLUME_SIZE}}
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "values.yaml"
            path.write_text(json.dumps({"caches": [cache], "cachePods": {"resources": RESOURCES}}))
            self.release.install("--values", str(path))
        self.release.wait_for_nodes(upstream, use=True)
        folder = f"{REGISTRY_DIRECTORY}/{WAYS[DISTRIBUTION]}"
        hosts = f'[host."http://{self.near.address}:{PORT}"]\n  capabilities = ["pull", "resolve"]\n'
        self.far[0].run("sh", "-euc", f"mkdir -p {folder}; cat > {folder}/hosts.toml <<'END'\n{hosts}END")

    def remove(self) -> None:
        """Remove both caches from the cluster."""
        self.far[0].run("rm", "-rf", f"{REGISTRY_DIRECTORY}/{WAYS[DISTRIBUTION]}")
        self.near.place.stop(DISTRIBUTION, 60)
        shutil.rmtree(self._distribution_volume, ignore_errors=True)
        self.release.uninstall()

    @property
    def _distribution_volume(self) -> Path:
        return self.near.folder / "distribution-volume"

    def prepare(self) -> None:
        """Start distribution with an empty volume."""
        place, volume = self.near.place, self._distribution_volume
        place.stop(DISTRIBUTION, 60)
        shutil.rmtree(volume, ignore_errors=True)
        volume.mkdir()
        configuration = {
            **CONFIGURATION,
            "storage": {**CONFIGURATION["storage"], "filesystem": {"rootdirectory": str(volume)}},
            "http": {**CONFIGURATION["http"], "addr": f":{PORT}", "debug": {"addr": f":{PORT + 1}"}},
            "proxy": {**CONFIGURATION["proxy"], "remoteurl": f"https://{WAYS[DISTRIBUTION]}"},
        }
        path = self.near.folder / "distribution.json"
        path.write_text(json.dumps(configuration))
        environment = {"OTEL_TRACES_EXPORTER": "none", "SSL_CERT_FILE": str(pki.authority_file())}
        place.start(DISTRIBUTION, [tools.go_binary("distribution", "registry"), "serve", path], environment)
        wait_for("distribution to answer", self._distribution_answers, 60)

    @contextmanager
    def stored(self, shape: Shape) -> Iterator[StoredImage]:
        """Put a new image into all upstreams, and remove it afterwards."""
        self._stored += 1
        repository, content = f"{self.folder}/first-pull-{self._stored}", shape.image()
        first, *others = dict.fromkeys(self.ways.values())
        root = self.cluster.upstream.folder / "storage"
        config = json.loads(content.manifest)["config"]["digest"]
        layers = frozenset(content.blobs) - {config}
        image = StoredImage(self.ways, repository, content.digest, config, layers, content.size)
        folders = [Path("docker/registry/v2/repositories") / repository]
        folders += [oci.blob_file(Path(), digest).parent for digest in (*content.blobs, content.digest)]
        self.cluster.upstream.push(image.reference(DIRECT), content)
        del content
        try:
            for upstream in others:
                for folder in folders:
                    shutil.copytree(root / first / folder, root / upstream / folder, copy_function=os.link)
            yield image
        finally:
            for upstream in (first, *others):
                for folder in folders:
                    shutil.rmtree(root / upstream / folder, ignore_errors=True)

    def pull(self, way: str, image: StoredImage, rate: int | None, *, is_second: bool = False) -> Measured:
        """Pull an image with a far node, whose link has this rate, and remove the image from the node.

        Raises:
            RuntimeError: The node had parts of the image already, or did not get all of it from the cache.
        """
        upstream, kubeconfig = self.cluster.upstream, self.cluster.kubeconfig
        mark, node = upstream.mark(), self.puller(way, is_second=is_second)
        pulling = Pod(kubeconfig, image.reference(way), node, secret=self.secret)
        with self._sampled(node) as samples, pulling as pod:
            seconds = pod.wait_until_pulled(PULL_SECONDS)
        if samples[-1].link_bytes - samples[0].link_bytes < image.size:
            message = f"{node.name} had parts of {image.reference(way)} before it pulled that"
            raise RuntimeError(message)
        interface.kubectl(kubeconfig, "wait", "pod", pod.name, "--for=delete", f"--timeout={REMOVAL_SECONDS:.0f}s")
        wait_for(f"{node.name} to lose the image", lambda: _lost(node, way, image), REMOVAL_SECONDS, 0.5)
        site = find_site(self.ways[way])
        requests = [request for request in upstream.requests(mark) if request.upstream in site.hosts()]
        # A node gets its tokens itself.
        agents = {request.agent for request in requests if request.upstream != site.tokens}
        if way == CACHE and (others := agents - {USER_AGENT}):
            message = f"not only the cache requested {image.reference(way)} from the upstream: {others}"
            raise RuntimeError(message)
        sent = sum(request.body_bytes for request in requests)
        return Measured(
            seconds, sent / image.size, len(requests), link_share(samples, rate), processors_in_use(samples)
        )

    @contextmanager
    def _sampled(self, node: NativeNode) -> Iterator[list[Sample]]:
        """Sample how many bytes the link has carried to a node while the block runs."""
        counter = Path(f"/sys/class/net/{self.cluster.network.link(node.address)}/statistics/tx_bytes")

        def take() -> Sample:
            return Sample(time.monotonic(), int(counter.read_text()), busy_seconds())

        samples, ended = [take()], threading.Event()

        def sample() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                samples.append(take())

        sampling = threading.Thread(target=sample)
        sampling.start()
        try:
            yield samples
        finally:
            ended.set()
            sampling.join()

    def _distribution_answers(self) -> bool:
        self.near.place.fail_if_dead(DISTRIBUTION)
        try:
            return probe_cache(f"http://{self.near.address}:{PORT}") == 200  # noqa: PLR2004 - the status OK
        except OSError:
            return False


@dataclass(frozen=True)
class StoredImage:
    """An image that all upstreams have, without its content."""

    ways: Mapping[str, str]
    repository: str
    digest: str
    config: str
    layers: frozenset[str]
    size: int

    def reference(self, way: str) -> str:
        """Return the reference by which a node pulls it in one of the ways."""
        return f"{self.ways[way]}/{self.repository}:1"

    def names(self, way: str) -> list[str]:
        """Return the names of the image on a node that has it (containerd, internal/cri/server/images)."""
        return [self.reference(way), f"{self.ways[way]}/{self.repository}@{self.digest}", self.config]


def link_share(samples: list[Sample], rate: int | None) -> float | None:
    """Return the share of a link's rate that was in use while the bulk of the bytes came.

    The counter has one header for each large packet. The link has one for each of its parts.
    """
    bulk = _bulk(samples)
    if rate is None or bulk is None:
        return None
    begin, end = bulk
    carried = end.link_bytes - begin.link_bytes
    return carried * PACKET_BYTES / PAYLOAD_BYTES * 8 / (end.seconds - begin.seconds) / rate


def processors_in_use(samples: list[Sample]) -> float | None:
    """Return the share of the machine's processors that were busy while the bulk of the bytes came."""
    bulk = _bulk(samples)
    if bulk is None:
        return None
    begin, end = bulk
    return (end.busy_seconds - begin.busy_seconds) / (end.seconds - begin.seconds) / (os.cpu_count() or 1)


def _bulk(samples: list[Sample]) -> tuple[Sample, Sample] | None:
    """Return where the bulk of the bytes begins and ends, if there are enough samples."""
    if not samples:
        return None
    first, last = samples[0].link_bytes, samples[-1].link_bytes
    bulk = [sample for sample in samples if EDGE <= (sample.link_bytes - first) / max(1, last - first) <= 1 - EDGE]
    if len(bulk) < 2 or bulk[-1].seconds == bulk[0].seconds:  # noqa: PLR2004 - a duration needs two samples
        return None
    return bulk[0], bulk[-1]


def _lost(node: NativeNode, way: str, image: StoredImage) -> bool:
    """Remove an image and its layers from a node, and return whether they are gone.

    containerd collects garbage when an image is removed, but a container that is not removed yet keeps the
    snapshots. The deletion of a lease makes it collect garbage again. The key of the snapshot of an image's first
    layer is that layer's digest, and no snapshot goes before those on top of it.
    """
    ctr = ("ctr", "--namespace", "k8s.io")
    node.run(*ctr, "images", "remove", "--sync", *image.names(way), check=False)
    node.run(*ctr, "leases", "create", "--id", "collect", check=False)
    node.run(*ctr, "leases", "delete", "--sync", "collect", check=False)
    stored = node.run(*ctr, "content", "ls", "--quiet") + node.run(*ctr, "snapshots", "ls")
    return not {image.config, *image.layers} & set(stored.split())


def _joined(first: bytes, second: bytes) -> bytes:
    """Return an archive with the members of both: without the blocks of zeros that end the first one (man 5 tar)."""
    return first.rstrip(b"\0").ljust((len(first.rstrip(b"\0")) + 511) // 512 * 512, b"\0") + second
