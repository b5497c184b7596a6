"""The faults during a soak, one after the other at random moments, and the times in which pulls could not succeed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from machine.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from random import Random

    from cluster.release import Release
    from upstreams.upstream import Upstream

# The durations of faults and of the times between them, and how long a pod may take to come back.
FAULT_SECONDS = (3.0, 15.0)
CALM_SECONDS = (2.0, 8.0)
# Before about every second fault, the upstream is slow for a moment, so that requests are in flight when it begins.
NARROW_BYTES_PER_SECOND = 3_000_000
NARROW_SECONDS = (1.0, 4.0)
RETURN_SECONDS = 120.0

# With these, content that is not cached is not available.
OUTAGES: dict[str, Callable[[Upstream, str], None]] = {
    "stopped": lambda upstream, _: upstream.stop(),
    "hung": lambda upstream, _: upstream.hang(),
    "silent": lambda upstream, name: upstream.silent(name),
    "500": lambda upstream, name: upstream.fail(name, 500),
    "429": lambda upstream, name: upstream.too_many_requests(name, 2),
    "403": lambda upstream, name: upstream.deny(name),
    "certificate expired": lambda upstream, name: upstream.expire(name),
    "bodies stall": lambda upstream, name: upstream.stall(name, 300_000, ranges=False),
    "bodies break off": lambda upstream, name: upstream.break_off(name, 300_000, ranges=False),
    "bodies are wrong": lambda upstream, name: upstream.corrupt(name),
}
# With these, every pull must succeed.
HINDRANCES: dict[str, Callable[[Upstream, str], None]] = {
    "slow": lambda upstream, name: upstream.slow(name, 2_000_000),
    "low bandwidth": lambda upstream, name: upstream.bandwidth(name, NARROW_BYTES_PER_SECOND),
    "bodies without a length": lambda upstream, name: upstream.no_length(name),
    "bodies break off, ranges work": lambda upstream, name: upstream.break_off(name, 2_000_000),
}
KILL = "cache pod killed"


@dataclass
class Outages:
    """The times in which an upstream was unavailable, from just before each outage to just after it."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _past: list[tuple[str, float, float]] = field(default_factory=list)
    _now: dict[str, float] = field(default_factory=dict)

    def begin(self, name: str) -> None:
        with self._lock:
            self._now.setdefault(name, time.monotonic())

    def end(self, name: str) -> None:
        with self._lock:
            if name in self._now:
                self._past.append((name, self._now.pop(name), time.monotonic()))

    def is_on(self, name: str) -> bool:
        with self._lock:
            return name in self._now

    def since(self, name: str, begun: float) -> bool:
        """Return whether there was an outage at any time since `begun`."""
        with self._lock:
            return name in self._now or any(each == name and end >= begun for each, _, end in self._past)


@dataclass
class Disruption:
    """Puts one fault after the other in place until it is stopped, and ends each of them.

    `names` has for each upstream those under which it can have faults. Cached images must come from their cache while
    the upstream is unavailable, so no cache is killed then, and no outage begins before every node uses every cache.
    """

    upstream: Upstream
    release: Release
    names: Mapping[str, tuple[str, ...]]
    random: Random
    say: Callable[[str], None]
    folder: Path
    outages: Outages = field(default_factory=Outages)
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, stop: threading.Event) -> None:
        """Run until `stop` is set."""
        while not stop.wait(self.random.uniform(*CALM_SECONDS)):
            kind = self.random.choice((self._outage, self._hindrance, self._kill))
            kind(stop)

    def _outage(self, stop: threading.Event) -> None:
        name = self.random.choice(sorted(OUTAGES))
        cache, host = self._target()
        # These two concern all upstreams.
        caches = list(self.names) if name in ("stopped", "hung") else [cache]
        self._note(name, "all" if len(caches) > 1 else host)
        if self.random.random() < 1 / 2:
            self._narrow(cache, stop)
        for each in caches:
            self.outages.begin(each)
        try:
            OUTAGES[name](self.upstream, host)
            stop.wait(self.random.uniform(*FAULT_SECONDS))
        finally:
            self.upstream.resume()
            for each in caches:
                self.outages.end(each)

    def _hindrance(self, stop: threading.Event) -> None:
        name = self.random.choice(sorted(HINDRANCES))
        cache, host = self._target()
        self._note(name, host)
        HINDRANCES[name](self.upstream, host)
        try:
            if self.random.random() < 1 / 2:
                stop.wait(self.random.uniform(*NARROW_SECONDS))
                self._kill(stop)
            stop.wait(self.random.uniform(*FAULT_SECONDS))
        finally:
            # The upstream cuts the responses with the fault, and accepts no request for a moment.
            self.outages.begin(cache)
            self.upstream.resume()
            self.outages.end(cache)

    def _kill(self, _: threading.Event) -> None:
        cache = self.random.choice(sorted(self.names))
        self._note(KILL, cache)
        name = f"{self.release.object_name(cache)}-0"
        before = self.release.get("pod", name)["metadata"]["uid"]
        keep_log(self.release, name, self.folder)
        self.release.kubectl("delete", "pod", name, "--grace-period=0", "--force")
        wait_for(f"{name} to come back", lambda: self._is_back(cache, before), RETURN_SECONDS, 0.5)
        self.release.wait_for_nodes(cache, use=True)

    def _is_back(self, cache: str, before: str) -> bool:
        name = f"{self.release.object_name(cache)}-0"
        pods = self.release.get("pods", f"--field-selector=metadata.name={name}")["items"]
        return any(
            pod["metadata"]["uid"] != before and condition["type"] == "Ready" and condition["status"] == "True"
            for pod in pods
            for condition in pod["status"].get("conditions", ())
        )

    def _narrow(self, cache: str, stop: threading.Event) -> None:
        """Limit the bandwidth of the host that sends an upstream's blobs for a moment."""
        self.upstream.bandwidth(self.names[cache][-1], NARROW_BYTES_PER_SECOND)
        stop.wait(self.random.uniform(*NARROW_SECONDS))

    def _target(self) -> tuple[str, str]:
        cache = self.random.choice(sorted(self.names))
        return cache, self.random.choice(self.names[cache])

    def _note(self, name: str, target: str) -> None:
        self.counts[name] += 1
        self.say(f"{name}: {target}")


def keep_log(release: Release, pod: str, folder: Path) -> None:
    """Append the log of a pod to the file of its name, which successive pods of a StatefulSet share."""
    try:
        log = release.kubectl("logs", pod, "--all-containers", "--prefix")
    except RuntimeError as error:  # a pod that does not run yet has no log
        log = str(error)
    with (folder / f"{pod}.log").open("a") as file:
        file.write(f"{log}\n")
