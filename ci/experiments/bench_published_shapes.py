"""The part of `make bench` that pulls images of the shapes for which the authors of other caches published figures.

    Spegel        a DaemonSet is created on ten nodes and then updated on two nodes at a time, with six sizes of images
    zot           the images of kubeadm, which the cache has
    ociregistry   1,500 images of five tiny blobs, ten clients at once

Their programs do not run here. docs/benchmarks.md has their figures beside these ones.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from machine import own_network
from machine.processes import Place
from machine.usage import cpu_seconds
from upstreams import oci

from experiments.bench_clients import Connection, Herd, herd
from experiments.bench_contenders import Alone, ChartPod, Contender, print_markdown
from experiments.bench_nodes import Nodes, limit_link
from experiments.pod_bench import UPSTREAM, Bench, pod_bench

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECT, CACHE, DISTRIBUTION = "direct", "cache", "distribution"
CACHE_NUMBER, DISTRIBUTION_NUMBER, FIRST_NODE = 1, 2, 3
NODES, AT_ONCE = 10, 2
# The machine can carry the traffic of all nodes at this rate. Each cache has a faster link, as if on a larger machine.
NODE_RATE = 200_000_000
CACHE_RATE = 2_500_000_000
MEGABYTE = 1_000_000
# Total size and number of layers.
SIZES = ((10, 1), (10, 4), (100, 1), (100, 4), (1000, 1), (1000, 4))
# About the megabytes of the images of Kubernetes 1.33: API server, controller manager, proxy, scheduler, etcd, CoreDNS,
# pause. Each has three layers here.
KUBEADM = (30, 28, 32, 22, 59, 21, 0.3)
KUBEADM_LAYERS = 3
KUBEADM_ROUNDS = 5
KUBEADM_RATE = 1_000_000_000
TINY_IMAGES, TINY_LAYERS, TINY_BYTES, TINY_CLIENTS = 1500, 5, 1000, 10


@dataclass
class Rig:
    """The upstream, both caches, and the nodes."""

    bench: Bench
    caches: dict[str, Contender]
    nodes: Nodes

    @property
    def urls(self) -> dict[str, str]:
        """The URL of each way, by its name."""
        return {DIRECT: f"https://{own_network.ADDRESS}", **{name: each.url for name, each in self.caches.items()}}


@dataclass
class RollOut:
    """The pulls of a roll-out, and how many times the upstream sent the image."""

    herds: list[Herd] = field(default_factory=list)
    multiple: float = 0.0

    @property
    def cell(self) -> str:
        """The 50th and the 95th percentile, and the multiple."""
        problems = [problem for each in self.herds for problem in (*each.failed, *each.wrong)]
        if problems:
            return f"{len(problems)} failed: {problems[0]}"
        seconds = [one for each in self.herds for one in each.seconds]
        p95 = statistics.quantiles(seconds, n=20, method="inclusive")[-1]
        return f"{statistics.median(seconds):.2f} s, {p95:.2f} s, {self.multiple:.1f}"


def bench_published_shapes() -> None:
    """Measure and print the three tables."""
    with _rig(NODE_RATE) as rig:
        _bench_roll_outs(rig)
    with _rig(KUBEADM_RATE) as rig:
        _bench_warm(rig)
    with _rig(None) as rig:
        _bench_tiny(rig)


@contextmanager
def _rig(rate: int | None) -> Iterator[Rig]:
    """Start everything; nodes have links with this rate, and without one there are no nodes and no limits."""
    with tempfile.TemporaryDirectory() as work, pod_bench(Path(work)) as bench:
        caches: dict[str, Contender] = {
            CACHE: ChartPod(bench, CACHE_NUMBER),
            DISTRIBUTION: Alone(bench, DISTRIBUTION_NUMBER),
        }
        nodes = Nodes(Place(bench.folder / "nodes", bench.cgroup), FIRST_NODE, NODES if rate else 0, rate or 0)
        for number, cache in enumerate(caches.values(), CACHE_NUMBER):
            cache.start()
            if rate:
                limit_link(next(iter(cache.processes().values()))[0], number, CACHE_RATE)
        nodes.start()
        yield Rig(bench, caches, nodes)
        for cache in caches.values():
            cache.stop()


def _bench_roll_outs(rig: Rig) -> None:
    print(f"As Spegel: {NODES} nodes with links of {NODE_RATE / 1e6:g} Mbit/s; each image is pulled in the three ways.")
    print(f"Create: by all nodes at once; update: by {AT_ONCE} nodes at a time. A cell has the 50th and the 95th")
    print("percentile, and how many times the upstream sent the image.\n")
    rows = []
    for megabytes, layers in SIZES:
        for action, at_once in (("create", NODES), ("update", AT_ONCE)):
            name = f"{action}-{megabytes}mb-{layers}"
            image = rig.bench.push(name, layers, megabytes * MEGABYTE // layers)
            cells = [_roll_out(rig, url, name, image, at_once).cell for url in rig.urls.values()]
            rows.append([f"{megabytes} MB, {layers} layers".replace(" 1 layers", " 1 layer"), action, *cells])
            print(f"{name}: {cells}", flush=True)
    print()
    print_markdown(["image", "", *rig.urls], rows)
    print(flush=True)


def _roll_out(rig: Rig, url: str, name: str, image: oci.Image, at_once: int) -> RollOut:
    """Let all nodes pull an image, a few at a time."""
    result, upstream = RollOut(), rig.bench.upstream
    mark = upstream.mark()
    for first in range(0, NODES, at_once):
        enter = partial(_enter, rig.nodes, first)
        result.herds.append(herd(url, f"library/{name}", image, at_once, enter))
    sent = sum(request.body_bytes for request in upstream.requests(mark) if request.upstream == UPSTREAM)
    result.multiple = sent / image.size
    return result


def _enter(nodes: Nodes, first: int, number: int) -> None:
    nodes.enter(first + number)


def _bench_warm(rig: Rig) -> None:
    print(
        f"As zot: images of kubeadm, from {KUBEADM[-1]:g} to {max(KUBEADM)} MB, which the caches have, by a node with a"
    )
    print(f"link of {KUBEADM_RATE / 1e9:g} Gbit/s; medians of {KUBEADM_ROUNDS}\n")
    seconds: dict[str, list[list[float]]] = {name: [] for name in rig.urls}
    for number, megabytes in enumerate(KUBEADM):
        name = f"kubeadm-{number}"
        image = rig.bench.push(name, KUBEADM_LAYERS, int(megabytes * MEGABYTE / KUBEADM_LAYERS))
        for way, url in rig.urls.items():
            # Each pull is by another node; the first one fills the cache.
            herds = [
                herd(url, f"library/{name}", image, 1, partial(_enter, rig.nodes, node))
                for node in range(KUBEADM_ROUNDS + 1)
            ]
            seconds[way].append([one for each in herds[1:] for one in each.seconds])
            _fail_on_problems(herds)
    medians = {way: [statistics.median(pulls) for pulls in each] for way, each in seconds.items()}
    rows = [
        ["fastest image", *(f"{min(each):.2f} s" for each in medians.values())],
        ["slowest image", *(f"{max(each):.2f} s" for each in medians.values())],
        ["all images", *(f"{sum(each):.2f} s" for each in medians.values())],
    ]
    print_markdown(["", *rig.urls], rows)
    print(flush=True)


def _bench_tiny(rig: Rig) -> None:
    print(
        f"As ociregistry: {TINY_IMAGES} images of {TINY_LAYERS} layers of {TINY_BYTES} bytes, {TINY_CLIENTS} clients at"
    )
    print("once, on loopback. The CPU time is that of the cache.\n")
    manifests = _push_tiny(rig.bench)
    rows = [["direct", f"{_pull_tiny(rig.urls[DIRECT], manifests):.0f}", ""]]
    for way, cache in rig.caches.items():
        for state in ("cold", "warm"):
            before = cpu_seconds(cache.cgroup)
            rate = _pull_tiny(cache.url, manifests)
            cpu = (cpu_seconds(cache.cgroup) - before) / TINY_IMAGES
            rows.append([f"{way}, {state}", f"{rate:.0f}", f"{cpu * 1000:.1f} ms"])
    print_markdown(["", "images a second", "CPU time an image"], rows)
    print(flush=True)


def _push_tiny(bench: Bench) -> dict[str, dict[str, int]]:
    """Push the images, and return the blobs of each with their CRC-32, by its name."""

    def push(number: int) -> tuple[str, dict[str, int]]:
        name = f"tiny-{number}"
        layers = tuple(f"{name} {layer} ".encode().ljust(TINY_BYTES, b".") for layer in range(TINY_LAYERS))
        image = oci.Image(layers=layers)
        bench.upstream.push(f"{UPSTREAM}/library/{name}:1", image)
        return name, {digest: zlib.crc32(blob) for digest, blob in image.blobs.items()}

    with ThreadPoolExecutor(TINY_CLIENTS) as pool:
        return dict(pool.map(push, range(TINY_IMAGES)))


def _pull_tiny(url: str, manifests: dict[str, dict[str, int]]) -> float:
    """Let processes pull all images, each a share of them, and return the number of images a second."""
    names = list(manifests)
    shares = [{name: manifests[name] for name in names[number::TINY_CLIENTS]} for number in range(TINY_CLIENTS)]
    # A child process is in the network of the thread that starts it.
    with multiprocessing.get_context("fork").Pool(TINY_CLIENTS) as pool:
        begun = time.monotonic()
        pool.map(partial(_pull_share, url), shares, chunksize=1)
        return len(names) / (time.monotonic() - begun)


def _pull_share(url: str, share: dict[str, dict[str, int]]) -> None:
    with Connection(url) as connection:
        for name, blobs in share.items():
            connection.manifest(f"library/{name}", "1")
            for digest, code in blobs.items():
                connection.blob(f"library/{name}", digest, code)


def _fail_on_problems(herds: list[Herd]) -> None:
    for each in herds:
        for problem in (*each.failed, *each.wrong):
            message = f"a pull failed: {problem}"
            raise RuntimeError(message)
