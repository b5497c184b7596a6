"""Measures what each fault of a cache costs pulls by bare containerds, and when the node program withdraws the cache.

The faults are there at the same time, each with a cache and an upstream of its own, so that their waits are one.
"""

from __future__ import annotations

import concurrent.futures
import statistics
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from experiments.bare_faults import Cache, cache_with
from experiments.bare_node import BareNode, Pull, Upstream, Watch
from experiments.faults import ALL_RELEASES, BARE, CacheFault

if TYPE_CHECKING:
    from pathlib import Path

FIRST_NUMBER = 10
# A pull that takes longer goes on beside those of the next faults.
ALONE_SECONDS = 2.0


@dataclass
class Costs:
    """The figures of a fault, in seconds since its beginning, or since its end for `freed` and `returned`."""

    before: dict[str, Pull] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    freed: dict[str, float] = field(default_factory=dict)
    withdrawn: float | None = None
    after: dict[str, Pull] = field(default_factory=dict)
    again: dict[str, Pull] = field(default_factory=dict)
    returned: float | None = None


@dataclass
class Measured:
    """The figures of all faults; `direct` is how long each release needs for such an image without a cache."""

    direct: dict[str, float]
    faults: dict[str, Costs]


def measure_all(node: BareNode) -> Measured:
    """Begin every fault, one after the other, and follow all of them to their ends."""
    caches = {
        fault: (Upstream(number), cache_with(fault, node, number)) for number, fault in enumerate(BARE, FIRST_NUMBER)
    }
    for upstream, _ in caches.values():
        for phase in ("before", "after"):
            node.image(f"{phase}-{upstream.number}")
    direct_pulls = [node.pull_all(Upstream(1), node.image(f"direct-{number}")) for number in range(3)]
    direct = {release: statistics.median(one[release].seconds for one in direct_pulls) for release in ALL_RELEASES}
    node.start_program({upstream: cache.address for upstream, cache in caches.values()})
    watch = Watch([node.hosts(upstream) for upstream, _ in caches.values()])
    measurement = _Measurement(node, caches, watch)
    try:
        for upstream, _ in caches.values():
            watch.wait(node.hosts(upstream), there=True)
        with ThreadPoolExecutor(max_workers=len(caches) * len(ALL_RELEASES)) as pool:
            measurement.begin_faults(pool)
            measurement.wait_for_withdrawals()
            measurement.collect_pulls()
            measurement.end_faults()
        measurement.pull_again()
    finally:
        watch.close()
        node.place.stop("program")
        for _, cache in caches.values():
            cache.close()
    return Measured(direct, {fault.title: costs for fault, costs in measurement.costs.items()})


class _Measurement:
    """The course of all faults, from the beginning of the first one to the end of the last one."""

    def __init__(self, node: BareNode, caches: dict[CacheFault, tuple[Upstream, Cache]], watch: Watch) -> None:
        """Begin with caches that are in use."""
        self.costs = {fault: Costs() for fault in caches}
        self._node = node
        self._caches = caches
        self._watch = watch
        self._pulls: dict[CacheFault, dict[str, Future[Pull]]] = {}
        self._begun: dict[CacheFault, float] = {}

    def begin_faults(self, pool: ThreadPoolExecutor) -> None:
        """Begin each fault, and a pull by each containerd at the same moment."""
        for fault, (upstream, cache) in self._caches.items():
            reference = f"{upstream.name}/{self._node.image(f'before-{upstream.number}')}"
            self._begun[fault] = time.monotonic()
            cache.spoil()
            self._pulls[fault] = {one.release: pool.submit(one.pull, reference) for one in self._node.containerds}
            concurrent.futures.wait(self._pulls[fault].values(), timeout=ALONE_SECONDS)

    def wait_for_withdrawals(self) -> None:
        """Wait until the node program has withdrawn the caches whose faults it notices, and pull then."""
        for fault in self._noticed():
            gone = self._watch.wait(self._hosts(fault), there=False)
            self.costs[fault].withdrawn = gone - self._begun[fault]
            self.costs[fault].after = self._pull_all(fault, "after")

    def collect_pulls(self) -> None:
        """Wait for the pulls that end while the fault is in place."""
        for fault, pulls in self._pulls.items():
            self.costs[fault].before = {release: pulls[release].result() for release in ALL_RELEASES - fault.held}
            self.costs[fault].held = {release for release in ALL_RELEASES if not pulls[release].done()}

    def end_faults(self) -> None:
        """End each fault with the connections that it holds, and wait for the consequences."""
        mended = {}
        for fault, (_, cache) in self._caches.items():
            mended[fault] = time.monotonic()
            cache.mend()
        for fault in self._noticed():
            back = self._watch.wait(self._hosts(fault), there=True)
            self.costs[fault].returned = max(0.0, back - mended[fault])
        for fault, pulls in self._pulls.items():
            for release in fault.held:
                pull = pulls[release].result()
                self.costs[fault].before[release] = pull
                self.costs[fault].freed[release] = self._begun[fault] + pull.seconds - mended[fault]

    def pull_again(self) -> None:
        """Pull once more the images whose fault the node program did not notice."""
        for fault in self._caches.keys() - self._noticed():
            assert self._watch.is_there(self._hosts(fault)), f"{fault.title}: the node program noticed it"
            self.costs[fault].again = self._pull_all(fault, "before")

    def _noticed(self) -> list[CacheFault]:
        return [fault for fault in self._caches if fault.noticed]

    def _hosts(self, fault: CacheFault) -> Path:
        return self._node.hosts(self._caches[fault][0])

    def _pull_all(self, fault: CacheFault, phase: str) -> dict[str, Pull]:
        upstream = self._caches[fault][0]
        return self._node.pull_all(upstream, self._node.image(f"{phase}-{upstream.number}"))
