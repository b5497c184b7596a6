"""What a repository for which the registry answers oddly costs its own pulls, and those of another repository.

The registry is as odd for the nodes as it is for the cache, so each pull is compared with one without a cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from machine import own_network, tools
from machine.processes import Place
from upstreams import oci

from experiments.attack_bed import HOSTILE_PORT, HOSTILE_URL, start_hostile_upstream
from experiments.cold_body_faults import Node, started_nodes
from experiments.pod_bench import UPSTREAM, Bench, pod_bench

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from upstreams.odd_repositories import OddAnswer

    from experiments.bare_node import Containerd, Pull

LAYERS = 2
LAYER_BYTES = 1 << 20


@dataclass(frozen=True)
class OddBed:
    """The registry, and the nodes, whose lines lead to it."""

    bench: Bench
    nodes: list[Node]

    @property
    def containerds(self) -> list[Containerd]:
        """The containerds of the nodes."""
        return [node.containerd for node in self.nodes]

    def push(self, repository: str) -> Image:
        """Push an image, as `<repository>:1`."""
        layers = tuple(oci.random_layer(f"{repository} {number}", LAYER_BYTES) for number in range(LAYERS))
        image = oci.Image(layers=layers)
        self.bench.upstream.push(f"{UPSTREAM}/{repository}:1", image)
        return Image(f"{UPSTREAM}/{repository}:1", image)

    def pull(self, *images: Image) -> list[dict[str, Pull]]:
        """Pull images with all nodes at the same moment, and return the pulls of each image by release."""
        with ThreadPoolExecutor(len(self.nodes) * len(images)) as pool:
            pulls = [
                {node.containerd.release: pool.submit(node.containerd.pull, image.reference) for node in self.nodes}
                for image in images
            ]
            done = [{release: pull.result() for release, pull in each.items()} for each in pulls]
        for image, each in zip(images, done, strict=True):
            for node in self.nodes:
                assert each[node.containerd.release].error or node.has(image.content), image.reference
        return done

    def remove(self, image: Image) -> None:
        """Remove an image from all nodes."""
        for node in self.nodes:
            node.containerd.remove(image.reference)


@dataclass(frozen=True)
class Image:
    """An image at the registry."""

    reference: str
    content: oci.Image


@dataclass(frozen=True)
class OddPulls:
    """The pulls of each release: of the odd repository, and of another one at the same moment."""

    direct: dict[str, Pull]
    through: dict[str, Pull]
    again: dict[str, Pull]
    """The next pull of the same image, by nodes that have nothing of it."""
    other_direct: dict[str, Pull]
    other: dict[str, Pull]
    damaged: list[str]
    """The blobs on the volume of the cache whose content does not have their digest."""


@contextmanager
def odd_bed(folder: Path, releases: Iterable[str]) -> Iterator[OddBed]:
    """Start the registry and the nodes, in a network of their own."""
    tools.ensure_native()
    tools.ensure_faults()
    with pod_bench(folder) as bench:
        place = Place(folder / "nodes", bench.cgroup)
        place.folder.mkdir()
        start_hostile_upstream(place)
        with started_nodes(place, releases, (own_network.ADDRESS, HOSTILE_PORT)) as nodes:
            yield OddBed(bench, nodes)


def measure_odd(bed: OddBed, answer: OddAnswer) -> OddPulls:
    """Pull images of an odd repository and of another one, without a cache and through a new one."""
    odd, other = bed.push(f"odd/{answer.name}/image"), bed.push(f"library/beside-{answer.name}")
    for node in bed.nodes:
        node.use()
    direct, other_direct = bed.pull(odd, other)
    bed.remove(odd)
    bed.remove(other)
    with bed.bench.pod({"upstream": UPSTREAM, "remoteURL": HOSTILE_URL}) as pod:
        for node in bed.nodes:
            node.use(pod.url)
        through, other_through = bed.pull(odd, other)
        bed.remove(odd)
        (again,) = bed.pull(odd)
    return OddPulls(direct, through, again, other_direct, other_through, oci.damaged_blobs(pod.volume_folder))
