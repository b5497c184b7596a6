"""Keeps one cache's hosts.toml in step with what the cache answers: a circuit breaker that never gives up."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from common.log import describe_oserror, log

from node_program.cache_probe import NoAnswer, ServiceAddress, probe
from node_program.hosts_toml import CannotMerge, Mirror
from node_program.registry_directory import InUse, RegistryDirectory

if TYPE_CHECKING:
    from common.endpoint import Endpoint

    from node_program.configuration import Cache, Configuration
    from node_program.metrics import Metrics
    from node_program.state import State

JITTER = 0.1
# Seconds after a bad answer until the next question, as long as the cache is still in use.
SECOND_QUESTION = 1.0
# A cache that is left again within these seconds flaps, and has to answer for so long before it is used again: at first
# these, then twice as long each time.
FLAPS_WITHIN = 600.0
FIRST_PATIENCE = 15.0


class Patience:
    """How long a cache that comes and goes has to answer before it is used again."""

    def __init__(self, longest: float) -> None:
        """`longest` is the most that is asked for, in seconds; 0 asks for none."""
        self._longest = longest
        self._left: deque[float] = deque()

    def left(self, now: float) -> None:
        """Note that the cache was left at this time."""
        self._left.append(now)

    def asked_for(self, now: float) -> float:
        """Seconds of good answers that are asked for; none after the first time."""
        while self._left and self._left[0] < now - FLAPS_WITHIN:
            self._left.popleft()
        again = len(self._left) - 2
        # The power is bounded, since a number of thousands would be none that a float can hold.
        return 0.0 if again < 0 else min(self._longest, FIRST_PATIENCE * 2 ** min(again, 20))


class Keeper:
    """Keeps one cache's hosts.toml in step with what the cache answers."""

    def __init__(
        self, cache: Cache, settings: Configuration, directory: RegistryDirectory, state: State, metrics: Metrics
    ) -> None:
        """Take note of it all; nothing is asked or written yet."""
        self._cache = cache
        self._settings = settings
        self._directory = directory
        self._state = state
        self._metrics = metrics
        self._address = ServiceAddress(cache.endpoint.host, cache.endpoint.port)
        self._patience = Patience(settings.probe.max_backoff)
        self._failures = 0
        self._answers_since: float | None = None
        self._in_use = False
        self._said = ""
        self._lock = threading.Lock()
        self._closed = False

    def run(self, stop: threading.Event) -> None:
        """Ask and act until the program is to end."""
        while not stop.is_set():
            begun = time.monotonic()
            try:
                self.step()
            except Exception as error:  # noqa: BLE001 - if this thread ended, nobody would withdraw a cache that hangs
                with suppress(Exception), self._lock:
                    self._leave(f"it cannot be looked after: {error!r}", "program_error")
            stop.wait(self._pause(begun))

    def _pause(self, begun: float) -> float:
        """Seconds until the next question after one that begun then, spread so that not all nodes ask at once."""
        if self._in_use and self._failures:
            return min(SECOND_QUESTION, self._settings.probe.interval)
        interval = self._settings.probe.interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - only spreads
        return max(0.0, begun + interval - time.monotonic())

    def step(self) -> None:
        """Ask once, and act on the answer."""
        begun = time.monotonic()
        deadline = begun + self._settings.probe.timeout
        try:
            # Half of the time at most is for DNS: the other half is the cache's, which may answer while DNS hangs.
            address = self._address.current(self._settings.probe.timeout / 2)
            endpoint = self._cache.endpoint._replace(host=address)
            probe(endpoint, deadline - time.monotonic())
        except NoAnswer as problem:
            self._metrics.count_probe(self._cache.upstream, problem.kind, time.monotonic() - begun)
            self._address.note_failed_probe()
            self._failures += 1
            self._answers_since = None
            # What an earlier run left behind has no good answers to its credit: one bad one is enough.
            if self._failures >= self._settings.probe.failure_threshold or not self._said:
                with self._lock:
                    self._leave(f"the cache does not answer: {problem}", problem.kind)
            return
        now = time.monotonic()
        self._metrics.count_probe(self._cache.upstream, "ok", now - begun)
        self._failures = 0
        self._answers_since = self._answers_since or now
        asked_for = self._patience.asked_for(now)
        with self._lock:
            if self._in_use or now - self._answers_since >= asked_for:
                self._use(endpoint)
            else:
                self._wait(f"it came and went; it is used again once it has answered for {asked_for:.0f} s")

    def close(self) -> None:
        """Withdraw the cache for good."""
        with self._lock:
            self._closed = True
            self._leave("the program ends", "program_ends")

    def _use(self, endpoint: Endpoint) -> None:
        if self._closed:
            return
        mirror = Mirror(self._cache.server, endpoint, self._settings.dial_timeout)
        try:
            self._directory.activate(self._cache.upstream, mirror)
        except CannotMerge as problem:
            self._leave(str(problem), "foreign_file")
        except InUse as problem:
            self._leave(str(problem), "other_release")
        except OSError as error:
            # The file may be an older one, with an address that nobody answers at any more; taking it out needs less.
            self._leave(f"hosts.toml cannot be written: {describe_oserror(error)}", "not_writable")
        else:
            self._in_use = True
            self._metrics.set_active(self._cache.upstream, active=True)
            self._report(f"in use at {endpoint.url}", None)

    def _wait(self, reason: str) -> None:
        if not self._closed:
            self._report(f"not used: {reason}", reason)

    def _leave(self, reason: str, kind: str) -> None:
        try:
            self._directory.withdraw(self._cache.upstream)
        except OSError as error:
            reason = f"hosts.toml cannot be withdrawn: {describe_oserror(error)}"
        if self._in_use:
            self._in_use = False
            self._patience.left(time.monotonic())
            self._metrics.count_withdrawal(self._cache.upstream, kind)
        self._metrics.set_active(self._cache.upstream, active=False)
        self._report(f"not used: {reason}", reason)

    def _report(self, line: str, reason: str | None) -> None:
        """Log a change, and only a change."""
        if line != self._said:
            self._said = line
            log(f"{self._cache.upstream}: {line}")
        self._state.set(self._cache.upstream, reason)
