"""Measure what a blob and a request cost a replica, for the simulation of roll-outs.

Two cache pods run as processes. The one that owns a large blob fetches it from the upstream, and the other one fetches
it from there. The CPU time of the gate, which is one thread for one blob, says how fast one core can be.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fetching.replica_first import rank_replicas

from experiments.cache_client import blob_path, send_request
from experiments.pod_bench import pod_bench

if TYPE_CHECKING:
    from cluster.cache_pod import CachePod

BLOB_BYTES = 200_000_000
REQUESTS = 2000
TICKS_PER_SECOND = 100


def measure_cpu_seconds(pod: CachePod, container: str) -> float:
    """Return the CPU time that the processes of a container have used so far."""
    ticks = 0
    for process in pod.processes(container):
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, pod_bench(Path(folder)) as bench:
        image = bench.push("large", size=BLOB_BYTES)
        digest, content = max(image.blobs.items(), key=lambda item: len(item[1]))
        pods = [bench.new_pod(values={"cachePods": {"replicas": 2}}, ordinal=ordinal) for ordinal in range(2)]
        try:
            for pod in pods:
                pod.hosts += "".join(each.host_line for each in pods)
                pod.start()
            by_name = {pod.name: pod for pod in pods}
            owner, other = (by_name[name] for name in rank_replicas(by_name, f"blobs/{digest}"))
            for label, pod in (("from the upstream, by TLS", owner), ("from another replica", other)):
                before, started = measure_cpu_seconds(pod, "gate"), time.monotonic()
                assert send_request(pod, blob_path("large", digest)).body == content
                seconds = time.monotonic() - started
                used = measure_cpu_seconds(pod, "gate") - before
                rate, core = len(content) / 1e6 / seconds, len(content) / 1e6 / used
                print(f"{label:<28}{rate:>6.0f} MB/s{core:>6.0f} MB/s with a core of its own")
            before = sum(measure_cpu_seconds(owner, container) for container in ("front", "gate"))
            for _ in range(REQUESTS):
                send_request(owner, blob_path("large", digest), "HEAD")
            used = sum(measure_cpu_seconds(owner, container) for container in ("front", "gate")) - before
            print(f"{'a request for a stored blob':<28}{used / REQUESTS * 1000:>6.2f} ms of CPU time")
        finally:
            for pod in pods:
                pod.close()


if __name__ == "__main__":
    main()
