"""`make bench`: measures the commands, the node program, the cache pod beside distribution alone, and first pulls.

docs/benchmarks.md has the results.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster.node_program import COMMAND, cache_entry, shipped_settings, write_configuration
from machine import environment, tools
from machine.cgroups import Cgroup
from machine.paths import CHART, REPOSITORY
from machine.processes import Place, wait_for
from upstreams.distribution import Distribution

from experiments.bench_caches import bench_caches
from experiments.bench_index import bench_index
from experiments.bench_nodes import bench_nodes
from experiments.bench_published_shapes import bench_published_shapes
from experiments.bench_tls import bench_tls
from experiments.first_pull import bench_first_pull, bench_private_pull

CACHES = 100
RUNS = 11
SECONDS = 120
PORT = 15900
SERVICE_TABLE = '[plugins."io.containerd.grpc.v1.cri".registry]'


def main(arguments: list[str]) -> int:
    """Measure, print the tables, and return the exit code."""
    parts = {
        "commands": bench_commands,
        "node": bench_node_program,
        "caches": bench_caches,
        "many-nodes": bench_nodes,
        "first-pull": bench_first_pull,
        "private-pull": bench_private_pull,
        "index": bench_index,
        "tls": bench_tls,
        "published-shapes": bench_published_shapes,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(parts)} (default: all)")
    chosen = parser.parse_args(arguments).parts or list(parts)
    for part in chosen:
        if part not in parts:
            parser.error(f"{part} is not a part; write one of {', '.join(parts)}")
    environment.clean_process()
    tools.ensure_client()
    tools.ensure_registry()
    print(f"{os.cpu_count()} cores")
    for part in chosen:
        print(flush=True)
        parts[part]()
    return 0


def bench_commands() -> None:
    """Print how long each command takes with many caches, including its start."""
    with tempfile.TemporaryDirectory() as work:
        document = Path(work) / "values.yaml"
        document.write_text("caches:\n" + "".join(f"  - upstream: r{n}.example.com\n" for n in range(CACHES)))
        command = [sys.executable, "-m", "registry_cache"]
        rows = {
            "registry-cache validate": [*command, "validate", document],
            "registry-cache generate": [*command, "generate", document, "--output", Path(work) / "chart"],
            "registry-cache plan": [*command, "plan", document, document],
            "helm template": [tools.helm(), "template", "x", CHART, "--values", document],
        }
        print(f"{CACHES} caches, {RUNS} runs each\n")
        print(f"{'command':<24}{'median':>9}{'slowest':>9}")
        for name, arguments in rows.items():
            times = [seconds([str(argument) for argument in arguments]) for _ in range(RUNS)]
            print(f"{name:<24}{statistics.median(times):>7.2f} s{max(times):>7.2f} s")


def bench_node_program() -> None:
    """Print the resources that the node program needs with ten caches and default settings."""
    place = Place(Path(tempfile.mkdtemp()), Cgroup(f"rcache-bench-{os.getpid()}"))
    place.cgroup.create()
    folder = place.folder
    (folder / "certs.d").mkdir()
    (folder / "config.toml").write_text(f"version = 2\n{SERVICE_TABLE}\nconfig_path = '{folder}/certs.d'\n")
    write_configuration(
        folder / "node.json",
        certs=folder / "certs.d",
        state=folder / "state",
        containerd=folder / "config.toml",
        metricsPort=PORT + 1,
        caches=[
            cache_entry(f"r{number}.example.com", "https://example.com", "127.0.0.1", PORT) for number in range(10)
        ],
    )
    try:
        Distribution(place, "registry", PORT).start()
        process = place.start("node", [*COMMAND, "--config", folder / "node.json"])
        wait_for("the program to use its caches", (folder / "state" / "ready").exists, 60)
        before, begun = cpu_seconds(process), time.monotonic()
        time.sleep(SECONDS)  # the resources in this time are measured
        used = (cpu_seconds(process) - before) / (time.monotonic() - begun)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        interval = shipped_settings()["probe"]["interval"]
        print(f"node program, 10 caches on loopback, {SECONDS} s, {interval} between two probes\n")
        print(f"CPU              {used * 1000:>6.2f} millicores")
        print(f"resident memory  {int(status['VmRSS'].split()[0]) / 1024:>6.1f} MiB")
    finally:
        place.cgroup.kill()
        place.cgroup.remove()
        shutil.rmtree(folder)


def cpu_seconds(process: int) -> float:
    """Return the processor time of all threads of a process (first number of schedstat in ns, Linux, sched-stats)."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def seconds(command: list[str]) -> float:
    """Return how long a command takes, including its start."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY / "generator")
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
