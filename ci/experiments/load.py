"""The load of many nodes on one cache pod, whose memory is limited as in the chart."""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster.node_program import shipped_settings
from common.durations import parse_duration
from machine import own_network
from machine.paths import REPOSITORY
from machine.processes import Place, wait_for
from upstreams import oci

from experiments.attack_bed import MIB
from experiments.cache_client import blob_path, manifest_path, send_request
from experiments.load_clients import Load, Results
from experiments.pod_bench import UPSTREAM, Bench, pod_bench

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.cache_pod import CachePod

IMAGES = 10
LAYERS = 3
LAYER_BYTES = 100_000
NODES_NUMBER = 200
NODES_OF_A_NETWORK = 250
SAMPLE_SECONDS = 0.5
START_SECONDS = 60.0
# The memory after the first part of the time is compared with that at the end.
WARM_UP_SHARE = 0.2


@dataclass
class Memory:
    """The memory of the containers in MiB over time."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, pod: CachePod) -> None:
        assert pod.limits is not None
        for name, memory in pod.limits.memory.items():
            self.samples.setdefault(name, []).append(memory.sample() / MIB)

    def describe(self, name: str) -> str:
        values = self.samples[name]
        early = values[int(len(values) * WARM_UP_SHARE)]
        return (
            f"{early:.0f} MiB after a fifth of the time, {values[-1]:.0f} MiB at the end, {max(values):.0f} MiB at most"
        )


@dataclass
class Outcome:
    """What the nodes saw, and what it cost the pod."""

    results: Results
    memory: Memory
    restarts: int
    kills: int
    fetched: int
    """How many requests for blobs the upstream got meanwhile."""

    def describe(self) -> str:
        """Return the figures as text."""
        results = self.results
        pulls = statistics.median(results.pull_seconds)
        lines = [
            f"pulls                    {results.pulls}, median {pulls * 1000:.0f} ms",
            f"requests, probes         {results.requests}, {results.probes}",
            f"refused or failed        {dict(results.problems) or 'none'}",
            f"warm manifest            {_describe(results.manifest_seconds)}",
            f"late by itself           {_describe(results.late_seconds)}",
            f"started again, killed    {self.restarts}, {self.kills}",
            f"blobs from the upstream  {self.fetched}",
            *(f"memory of {name:<15}{self.memory.describe(name)}" for name in self.memory.samples),
        ]
        return "\n".join(lines)


def _describe(seconds: list[float]) -> str:
    quantiles = statistics.quantiles(seconds, n=100)
    return f"p50 {quantiles[49] * 1000:.1f} ms, p99 {quantiles[98] * 1000:.1f} ms"


@dataclass(frozen=True)
class LoadBed:
    """A pod, and the repositories of which it has the tag `1`."""

    bench: Bench
    pod: CachePod
    repositories: list[str]


@contextmanager
def load_bed(folder: Path) -> Iterator[LoadBed]:
    """Start a pod that has all images."""
    with pod_bench(folder) as bench, bench.pod(has_limits=True) as pod:
        names = [f"loaded-{number}" for number in range(IMAGES)]
        for name in names:
            layers = tuple(oci.random_layer(f"{name} {number}", LAYER_BYTES) for number in range(LAYERS))
            image = oci.Image(layers=layers)
            bench.upstream.push(f"{UPSTREAM}/library/{name}:1", image)
            for path in (manifest_path(name), *(blob_path(name, digest) for digest in image.blobs)):
                response = send_request(pod, path)
                assert response.whole, path
                assert not response.refused, path
        yield LoadBed(bench, pod, [f"library/{name}" for name in names])


def put_load(bed: LoadBed, nodes: int, seconds: float, period: float) -> Outcome:
    """Let this many nodes pull for some seconds, each an image in each period."""
    bench, pod = bed.bench, bed.pod
    place = Place(bench.folder / "nodes", bench.cgroup)
    holder = place.start("nodes", ["unshare", "--net", "sleep", "2147483647"])
    ours, network = Path("/proc/thread-self/ns/net").readlink(), Path(f"/proc/{holder}/ns/net")
    wait_for("the network of the nodes", lambda: network.readlink() != ours, START_SECONDS, 0.02)
    own_network.join(holder, NODES_NUMBER)
    addresses = [f"10.89.{number // NODES_OF_A_NETWORK}.{number % NODES_OF_A_NETWORK + 1}" for number in range(nodes)]
    commands = "\n".join(f"address add {address}/32 dev eth0" for address in addresses)
    place.run(["nsenter", f"--net={network}", "ip", "-batch", "-"], text=commands)
    own_network.run("ip", "route", "add", "10.89.0.0/16", "dev", f"pod-{NODES_NUMBER}")
    parts = urlsplit(pod.url)
    assert parts.hostname is not None
    assert parts.port is not None
    probe_period = parse_duration(shipped_settings()["probe"]["interval"])
    load = Load(parts.hostname, parts.port, UPSTREAM, addresses, bed.repositories, seconds, period, probe_period)
    mark = bench.upstream.mark()
    clients = Place(place.folder, bench.cgroup, ("nsenter", f"--net={network}"))
    command = [sys.executable, "-m", "experiments.load_clients", load.to_json()]
    clients.start("clients", command, {"PYTHONPATH": str(REPOSITORY / "ci")})
    memory = Memory()
    while clients.process_id("clients") is not None:
        memory.add(pod)
        time.sleep(SAMPLE_SECONDS)
    results = Results(**json.loads(clients.log("clients").read_text().splitlines()[-1]))
    assert pod.limits is not None
    return Outcome(
        results,
        memory,
        restarts=sum(pod.limits.restarts.values()),
        kills=sum(each.count_kills() for each in pod.limits.memory.values()),
        fetched=sum(request.is_blob for request in bench.upstream.requests(mark)),
    )
