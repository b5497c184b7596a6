"""The part of `make bench` in which many nodes pull a cold image at once, each over a link of its own."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from machine import own_network
from machine.links import set_rate
from machine.processes import Place, wait_for

from experiments.bench_clients import Herd, herd
from experiments.bench_contenders import ChartPod
from experiments.pod_bench import UPSTREAM, pod_bench

if TYPE_CHECKING:
    from experiments.pod_bench import Bench

NODES = 50
LAYERS = 10
LAYER_BYTES = 5_000_000
# The link of the cache's node must carry the traffic of all nodes, and the processors must be fast enough for it.
NODE_RATE = 40_000_000
CACHE_RATE = 2_500_000_000
ROUNDS = 3
CACHE_NUMBER = 1
FIRST_NODE = 2
NAMESPACE_SECONDS = 30.0


@dataclass
class Nodes:
    """Networks with one link each, which a sleeping process holds open; `first` is the number of the first network."""

    place: Place
    first: int = FIRST_NODE
    count: int = NODES
    rate: int = NODE_RATE
    _holders: list[int] = field(default_factory=list)

    def start(self) -> None:
        """Create the networks, and limit their links."""
        ours = Path("/proc/thread-self/ns/net").readlink()
        for number in range(self.first, self.first + self.count):
            holder = self.place.start(f"node-{number}", ["unshare", "--net", "sleep", "2147483647"])
            network = Path(f"/proc/{holder}/ns/net")
            wait_for("the network of a node", partial(_is_other, network, ours), NAMESPACE_SECONDS, 0.01)
            own_network.join(holder, number)
            limit_link(holder, number, self.rate)
            self._holders.append(holder)

    def enter(self, number: int) -> None:
        """Move this thread, and those that it starts, into the network of a node."""
        own_network.enter(self._holders[number])


def bench_nodes() -> None:
    """Measure one node alone, direct and through the cache, and all of them at once; print the table."""
    results: dict[str, list[Herd]] = {"direct": [], "alone": [], "herd": []}
    multiples = []
    with tempfile.TemporaryDirectory() as work, pod_bench(Path(work)) as bench:
        cache, nodes = ChartPod(bench, CACHE_NUMBER), Nodes(Place(bench.folder / "nodes", bench.cgroup))
        cache.start()
        process = next(iter(cache.processes().values()))[0]
        limit_link(process, CACHE_NUMBER, CACHE_RATE)
        nodes.start()
        for number in range(ROUNDS):
            results["direct"].append(_pull(bench, f"direct-{number}", f"https://{own_network.ADDRESS}", 1, nodes)[0])
            results["alone"].append(_pull(bench, f"alone-{number}", cache.url, 1, nodes)[0])
            at_once, multiple = _pull(bench, f"herd-{number}", cache.url, NODES, nodes)
            results["herd"].append(at_once)
            multiples.append(multiple)
        cache.stop()
    _print(results, multiples)


def limit_link(process: int, number: int, rate: int) -> None:
    """Limit the link between this network and that of a process in both directions."""
    set_rate(f"pod-{number}", rate)
    set_rate("eth0", rate, ("nsenter", "--target", str(process), "--net"))


def _is_other(network: Path, ours: Path) -> bool:
    return network.readlink() != ours


def _pull(bench: Bench, name: str, url: str, clients: int, nodes: Nodes) -> tuple[Herd, float]:
    """Let clients pull a new image; return the result, and the upstream's bytes divided by the image's size."""
    image = bench.push(name, LAYERS - 1, LAYER_BYTES)
    mark = bench.upstream.mark()
    result = herd(url, f"library/{name}", image, clients, nodes.enter)
    sent = sum(request.body_bytes for request in bench.upstream.requests(mark) if request.upstream == UPSTREAM)
    return result, sent / image.size


def _print(results: dict[str, list[Herd]], multiples: list[float]) -> None:
    size = (LAYERS - 1) * LAYER_BYTES / 1e6
    print(f"{NODES} nodes at once, a cold image of {LAYERS} layers and {size:.0f} MB, medians of {ROUNDS}")
    print(f"links: {NODE_RATE / 1e6:g} Mbit/s for each node, {CACHE_RATE / 1e9:g} Gbit/s for that of the cache\n")
    at_once = results["herd"]
    alone = statistics.median(one.seconds[0] for one in results["direct"])
    last = statistics.median(max(one.seconds, default=float("nan")) for one in at_once)
    herds = [one for each in results.values() for one in each]
    for title, value in (
        ("one node alone, direct", f"{alone:.2f} s"),
        ("one node alone, through the cache", f"{statistics.median(one.seconds[0] for one in results['alone']):.2f} s"),
        ("first node done", f"{statistics.median(min(one.seconds) for one in at_once):.2f} s"),
        ("last node done", f"{last:.2f} s"),
        ("last node, times one alone direct", f"{last / alone:.2f}"),
        ("from the upstream, times the image", f"{statistics.median(multiples):.2f}"),
        ("pulls that failed", f"{sum(len(one.failed) for one in herds)}"),
        ("wrong bodies", f"{sum(len(one.wrong) for one in herds)}"),
    ):
        print(f"{title:<36}{value:>9}")
