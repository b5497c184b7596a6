"""The part of `make bench` that compares the chart's cache pod with distribution alone."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from cluster import images
from machine.usage import cpu_seconds, resident_mib
from upstreams import oci

from experiments.bench_clients import Connection, Herd, herd
from experiments.bench_contenders import Alone, ChartPod, probe_cache, seconds_to_ready
from experiments.pod_bench import UPSTREAM, pod_bench

if TYPE_CHECKING:
    from collections.abc import Mapping

    from experiments.bench_contenders import Contender
    from experiments.pod_bench import Bench

CLIENTS = 50
LAYERS = 10
LAYER_BYTES = 5_000_000
BANDWIDTH = 12_500_000
# distribution alone takes minutes for one herd, and the same time for each.
HERDS = {"pod": 3, "alone": 1}
ROUNDS = 7
COLD_BYTES = 100_000_000
# Sizes of blobs: how many blobs there are, and how often each is read in a round.
WARM = {100_000_000: (2, 10), 1_000_000: (20, 20)}
PROMISED_SHARE = 0.4
NODES = 100
SECONDS_BETWEEN = 8.0
IDLE_SECONDS = 60.0
STARTS = 5
SETTLING_SECONDS = 10.0


@dataclass
class Figures:
    """The figures of one contender; `multiples` are the bytes from the upstream divided by those of the image."""

    multiples: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    herds: list[Herd] = field(default_factory=list)
    herd_cpu: list[float] = field(default_factory=list)
    cold_cpu_per_gigabyte: list[float] = field(default_factory=list)
    # By size of the blobs, one figure for each round.
    cpu_per_gigabyte: dict[int, list[float]] = field(default_factory=dict)
    gigabytes_per_second: dict[int, list[float]] = field(default_factory=dict)
    memory_at_start: dict[str, float] = field(default_factory=dict)
    memory_after_herd: dict[str, float] = field(default_factory=dict)
    idle_millicores: float = 0.0
    starts: list[float] = field(default_factory=list)


def bench_caches() -> None:
    """Measure both, and print the tables."""
    with tempfile.TemporaryDirectory() as work, pod_bench(Path(work)) as bench:
        contenders: dict[str, Contender] = {"pod": ChartPod(bench, 1), "alone": Alone(bench, 2)}
        figures = {name: Figures() for name in contenders}
        for name, contender in contenders.items():
            contender.start()
            time.sleep(SETTLING_SECONDS)  # memory that a start needs only for a moment does not count
            figures[name].memory_at_start = memory(contender)
        _measure_herds(bench, contenders, figures)
        for name, contender in contenders.items():
            time.sleep(SETTLING_SECONDS)
            figures[name].memory_after_herd = memory(contender)
        _measure_cold(bench, contenders, figures)
        measure_warm(bench, contenders, figures)
        for name, contender in contenders.items():
            figures[name].idle_millicores = idle_millicores(contender)
        for _ in range(STARTS):
            for name, contender in contenders.items():
                contender.stop()
                figures[name].starts.append(seconds_to_ready(contender))
        for contender in contenders.values():
            contender.stop()
    print_figures(figures["alone"], figures["pod"])


def _measure_herds(bench: Bench, contenders: dict[str, Contender], figures: dict[str, Figures]) -> None:
    """Let one client pull a cold image, and then many clients another one at once, with a limited upstream."""
    bench.upstream.bandwidth(UPSTREAM, BANDWIDTH)
    try:
        for name, contender in contenders.items():
            for number in range(HERDS[name]):
                of_contender = figures[name]
                for clients in (1, CLIENTS):
                    repository = f"herd-{name}-{number}-{clients}"
                    image = bench.push(repository, LAYERS - 1, LAYER_BYTES)
                    mark, before = bench.upstream.mark(), cpu_seconds(contender.cgroup)
                    result = herd(contender.url, f"library/{repository}", image, clients)
                    if clients == 1:
                        assert not result.failed, result.failed
                        of_contender.alone += result.seconds
                        continue
                    of_contender.herd_cpu.append(cpu_seconds(contender.cgroup) - before)
                    of_contender.herds.append(result)
                    sent = sum(request.body_bytes for request in bench.upstream.requests(mark))
                    of_contender.multiples.append(sent / image.size)
    finally:
        bench.upstream.resume()


def _measure_cold(bench: Bench, contenders: dict[str, Contender], figures: dict[str, Figures]) -> None:
    """Let one client read a blob from both in turns that neither has, with an upstream that is not limited."""
    for number in range(ROUNDS):
        repository = f"cold-{number}"
        image = bench.push(repository, 1, COLD_BYTES)
        digest = max(image.blobs, key=lambda each: len(image.blobs[each]))
        for name, contender in contenders.items():
            before = cpu_seconds(contender.cgroup)
            with Connection(contender.url) as connection:
                gigabytes = connection.blob(f"library/{repository}", digest) / 1e9
            figures[name].cold_cpu_per_gigabyte.append((cpu_seconds(contender.cgroup) - before) / gigabytes)


def measure_warm(
    bench: Bench,
    contenders: Mapping[str, Contender],
    figures: dict[str, Figures],
    sizes: Mapping[int, tuple[int, int]] = MappingProxyType(WARM),
    rounds: int = ROUNDS,
) -> None:
    """Let one client read cached blobs from all in turns; `sizes` is as WARM."""
    for size, (count, repetitions) in sizes.items():
        repository = f"library/warm-{size}"
        image = images.busybox(*(oci.random_layer(f"warm {size} {number}", size) for number in range(count)))
        bench.upstream.push(f"{UPSTREAM}/{repository}:1", image)
        large = [digest for digest, blob in image.blobs.items() if len(blob) >= size]
        for contender in contenders.values():
            with Connection(contender.url, contender.tls) as connection:
                connection.manifest(repository, "1")
                for digest in 2 * large:
                    connection.blob(repository, digest)
        for _ in range(rounds):
            for name, contender in contenders.items():
                before, begun = cpu_seconds(contender.cgroup), time.monotonic()
                with Connection(contender.url, contender.tls) as connection:
                    gigabytes = sum(connection.blob(repository, each) for each in repetitions * large) / 1e9
                took, used = time.monotonic() - begun, cpu_seconds(contender.cgroup) - before
                figures[name].cpu_per_gigabyte.setdefault(size, []).append(used / gigabytes)
                figures[name].gigabytes_per_second.setdefault(size, []).append(gigabytes / took)


def memory(contender: Contender) -> dict[str, float]:
    """Return the resident memory of each container in MiB."""
    return {name: resident_mib(processes) for name, processes in contender.processes().items()}


def idle_millicores(contender: Contender) -> float:
    """Return the processor time that it needs while many nodes probe it every few seconds."""
    answers: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.wait(SECONDS_BETWEEN / NODES):
            answers.append(probe_cache(contender.url))

    asking = threading.Thread(target=ask)
    before, begun = cpu_seconds(contender.cgroup), time.monotonic()
    asking.start()
    time.sleep(IDLE_SECONDS)
    used, took = cpu_seconds(contender.cgroup) - before, time.monotonic() - begun
    ended.set()
    asking.join()
    assert set(answers) == {200}, set(answers)
    return used / took * 1000


def print_figures(alone: Figures, pod: Figures) -> None:
    """Print all figures, and the promises."""
    size = f"{(LAYERS - 1) * LAYER_BYTES / 1e6:.0f} MB"
    print(f"{CLIENTS} clients at once, a cold image of {LAYERS} layers and {size}, upstream {BANDWIDTH / 1e6:g} MB/s")
    print("clients on loopback")
    print(f"medians of {HERDS['pod']} herds, of {HERDS['alone']} with distribution alone\n")
    _row("", "distribution", "cache pod")
    for title, form, value in (
        ("from the upstream, times the image", "{:.2f}", lambda each: statistics.median(each.multiples)),
        ("one client alone", "{:.1f} s", lambda each: statistics.median(each.alone)),
        ("first client done", "{:.1f} s", lambda each: statistics.median(min(one.seconds) for one in each.herds)),
        ("last client done", "{:.1f} s", lambda each: statistics.median(max(one.seconds) for one in each.herds)),
        ("last client, times one alone", "{:.1f}", _last_to_alone),
        ("CPU", "{:.1f} s", lambda each: statistics.median(each.herd_cpu)),
        ("pulls that failed", "{}", lambda each: sum(len(one.failed) for one in each.herds)),
        ("wrong bodies", "{}", lambda each: sum(len(one.wrong) for one in each.herds)),
    ):
        _row(title, form.format(value(alone)), form.format(value(pod)))
    print(f"\nCold blobs on loopback, one client that checks digests, medians of {ROUNDS} rounds in turns\n")
    _row("", "distribution", "cache pod", "share")
    cold = [statistics.median(each.cold_cpu_per_gigabyte) for each in (alone, pod)]
    title = f"blobs of {COLD_BYTES / 1e6:.0f} MB, CPU for a gigabyte"
    _row(title, *(f"{each:.2f} s" for each in cold), f"{cold[1] / cold[0]:.2f}")
    print(f"\nWarm blobs on loopback, one client that checks digests, medians of {ROUNDS} rounds in turns")
    print(f"promised: at most {PROMISED_SHARE} of the CPU of distribution\n")
    _row("", "distribution", "cache pod", "share")
    for size_of_blob in WARM:
        title = f"blobs of {size_of_blob / 1e6:.0f} MB"
        used = [statistics.median(each.cpu_per_gigabyte[size_of_blob]) for each in (alone, pod)]
        speed = [statistics.median(each.gigabytes_per_second[size_of_blob]) for each in (alone, pod)]
        _row(f"{title}, CPU for a gigabyte", *(f"{each:.2f} s" for each in used), f"{used[1] / used[0]:.2f}")
        _row(f"{title}, throughput", *(f"{each:.2f} GB/s" for each in speed), f"{speed[1] / speed[0]:.2f}")
    print("\nResident memory (PSS)\n")
    _row("", "after its start", "after a herd")
    for each in (alone, pod):
        for name, mib in each.memory_at_start.items():
            title = "distribution alone" if each is alone else f"cache pod, {name}"
            _row(title, f"{mib:.1f} MiB", f"{each.memory_after_herd[name]:.1f} MiB")
    _row("cache pod, all", *(f"{sum(each.values()):.1f} MiB" for each in (pod.memory_at_start, pod.memory_after_herd)))
    print(
        f"\nIdle, but probed by {NODES} nodes every {SECONDS_BETWEEN:.0f} s on loopback; starts with content, medians "
        f"of {STARTS}\n"
    )
    _row("", "distribution", "cache pod")
    _row("CPU, millicores", f"{alone.idle_millicores:.1f}", f"{pod.idle_millicores:.1f}")
    _row("start to ready", *(f"{statistics.median(each.starts):.1f} s" for each in (alone, pod)))


def _last_to_alone(figures: Figures) -> float:
    last = statistics.median(max(one.seconds) for one in figures.herds)
    return last / statistics.median(figures.alone)


def _row(title: str, *cells: str) -> None:
    print(f"{title:<36}{''.join(f'{cell:>17}' for cell in cells)}")
